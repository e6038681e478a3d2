-- The node of kill_test.lua: it waits for programs, which is one long dispatch.
return {
  services = {},
  watchdog = { interrupt_ms = 600000 },
}
