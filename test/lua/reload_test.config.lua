-- The node of reload_test.lua: small limits, the compiler at once.
return {
  services = {},
  watchdog = { interrupt_ms = 1000 },
  lua = { jit_after_ms = 1, memory_mb = 32 },
}
