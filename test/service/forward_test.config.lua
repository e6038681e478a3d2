-- The node of forward_test.lua: it holds services up for as long as it takes.
return {
  services = {},
  watchdog = { interrupt_ms = 60000 },
}
