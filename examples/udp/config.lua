-- perilune examples/udp/config.lua
return {
  paths = { "." },
  services = { { script = "udp", options = { port = 7001 } } },
}
