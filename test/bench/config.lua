-- The node that a workload runs on: test/bench/launch starts it. BENCH_SCRIPT and BENCH_THREADS
-- come from there, all else that a workload reads is in the process's environment too.

-- luacheck: read globals env
return {
  name = "bench",
  services = { { script = env("BENCH_SCRIPT", "w1") } },
  -- They read /proc and print; what they measure is not trusted.
  trusted = {
    "w1", "w2", "w3", "w4", "w5", "w6", "w8", "w9_mysql", "w9_redis", "w9_sqlite", "w11",
  },
  data = "../../build/bench/data",
  paths = { "lua", "../data" },
  workers = env("BENCH_THREADS", 1),
  watchdog = { report_ms = 2000 }, -- other processes may keep a worker from running
  lua = { memory_mb = env("BENCH_MEMORY_MB", 1024) },
  log = { level = "warn" },
}
