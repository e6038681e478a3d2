-- perilune examples/counter/config.lua
return {
  paths = { "." },
  services = {
    { script = "counter", options = { first = 10 } },
    { script = "auth" },
    { script = "gateway", options = { listen = { { port = 6080 } } } },
  },
}
