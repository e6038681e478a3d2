-- The node of sql_test.lua: endless loops end soon.
return {
  services = {},
  watchdog = { interrupt_ms = 2000 },
}
