-- The node of fairness_test.lua: everything on one worker.
return {
  services = {},
  workers = 1,
}
