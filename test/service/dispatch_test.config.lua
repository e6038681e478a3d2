-- The node of dispatch_test.lua: one of its commands never ends by itself.
return {
  services = {},
  watchdog = { interrupt_ms = 1000 },
}
