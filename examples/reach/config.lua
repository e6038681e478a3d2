-- perilune examples/reach/config.lua
return {
  paths = { "." },
  services = {
    { script = "reach", options = { port = 8083, targets = {
      { host = "localhost", port = 8083 }, -- itself; it doesn't listen at ::1
      { host = "example.com", port = 443, tls = true },
      { host = "192.0.2.1", port = 80 }, -- nobody is there: an address for documentation
      { host = "nobody.invalid", port = 80 }, -- a name that nobody can have
    } } },
  },
}
