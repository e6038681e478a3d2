-- The node of loops_test.lua: limits small enough to run into them often, and the compiler at once.
return {
  services = {},
  workers = 2,
  watchdog = { report_ms = 50, interrupt_ms = 200 },
  lua = { jit_after_ms = 1 },
}
