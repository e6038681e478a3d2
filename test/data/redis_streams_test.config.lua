-- The node of redis_streams_test.lua: endless loops end soon.
return {
  services = {},
  watchdog = { interrupt_ms = 2000 },
}
