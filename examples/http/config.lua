-- perilune examples/http/config.lua
return {
  paths = { "." },
  services = { { script = "notes", options = { port = 8080 } } },
}
