-- perilune examples/lines/config.lua

-- luacheck: read globals env
local certificate, key = env("CERTIFICATE", ""), env("KEY", "")

-- The scribe goes where it can be sure whom it talks to, if there is such a way.
local scribe = certificate == "" and { port = 7010 } or { port = 7011, ca = certificate }

return {
  paths = { "." },
  services = {
    { script = "lines", options = { port = 7010, tls_port = 7011, certificate = certificate,
      key = key } },
    { script = "scribe", options = scribe },
  },
}
