-- perilune examples/websocket/config.lua
return {
  paths = { "." },
  services = { { script = "room", options = { port = 8081 } } },
}
