-- The node of memory_test.lua: the compiler at once.
return {
  services = {},
  lua = { jit_after_ms = 1, memory_mb = 64 },
  watchdog = { interrupt_ms = 5000 },
}
