-- perilune examples/hello/config.lua
return {
  paths = { "." },
  services = { { script = "hello", options = { name = "Ada" } } },
}
