-- The node of api_test.lua.
return {
  services = {},
  call_limit_ms = 400,
  start_limit_ms = 1000,
  stop_limit_ms = 1000,
  watchdog = { interrupt_ms = 300 },
  env = { text = "from config.lua", number = 5, table = { list = { 1, 2 } } },
}
