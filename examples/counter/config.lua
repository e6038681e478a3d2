-- perilune examples/counter/config.lua
return {
  paths = { "." },
  services = {
    { script = "counter", options = { first = 10 } },
    { script = "dbproxy", options = { database = "sqlite::memory:" } }, -- accounts don't stay
    { script = "auth" },
    { script = "gateway", options = { listen = { { port = 6080 } } } },
  },
}
