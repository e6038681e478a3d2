-- The node of seeded_test.lua: it waits for programs, which is one long dispatch.
return {
  services = {},
  watchdog = { interrupt_ms = 120000 },
}
