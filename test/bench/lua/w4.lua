-- W4: timers. BENCH_MODE:
--   timeouts  BENCH_N of 0 to 5,000 ms in steps of 10: how late each is, and none early
--   sleep     BENCH_N tasks that each sleep 10 ms, again and again, for BENCH_SECONDS
--   idle      nothing at all, for BENCH_SECONDS

local perilune = require "perilune"
local util = require "bench_util"
local w4 = {}

local SLICE = 500 -- armed at once; then what is due gets its turn

local function timeouts(count)
  local longest = util.env("BENCH_MAX_MS", 5000)
  local random = util.lcg(42)
  local now, timeout = perilune.now, perilune.timeout
  local late, fired = {}, 0

  local cpu, began = util.cpu(), now()
  for i = 1, count do
    local ms = random(longest / 10 + 1) * 10
    local due = now() + ms
    timeout(ms, function()
      fired = fired + 1
      late[fired] = now() - due
    end)
    if i % SLICE == 0 then perilune.yield() end
  end
  local armed = now() - began
  while fired < count do perilune.sleep(20) end
  cpu = util.cpu() - cpu

  table.sort(late)
  util.check(#late == count, "timers are missing")
  util.check(late[1] >= 0, "a timer was early")
  local suffix = util.suffix
  util.result("W4_cpu" .. suffix, cpu * 1e5 / count, "cpu_s/100k")
  util.result("W4_set_ms" .. suffix, armed, "ms")
  util.result("W4_late_min" .. suffix, late[1], "ms")
  util.result("W4_late_p50" .. suffix, util.percentile(late, 0.5), "ms")
  util.result("W4_late_p99" .. suffix, util.percentile(late, 0.99), "ms")
  util.result("W4_late_max" .. suffix, late[count], "ms")
end

local function sleepers(count)
  local stop, wakes = false, 0
  local cpu, began = util.cpu(), util.now()
  perilune.timeout(util.env("BENCH_SECONDS", 3) * 1000, function() stop = true end)
  util.each(count, function()
    while not stop do
      perilune.sleep(10)
      wakes = wakes + 1
    end
  end)
  local took = util.now() - began
  cpu = util.cpu() - cpu
  util.check(wakes >= count, "tasks are missing")
  util.result("W4_sleep_rate" .. util.suffix, wakes / took, "wakes/s")
  util.result("W4_sleep_cpu" .. util.suffix, cpu / wakes * 1e6, "cpu_us/wake")
end

local function idle()
  local seconds = util.env("BENCH_SECONDS", 5)
  local cpu = util.cpu()
  perilune.sleep(seconds * 1000)
  util.result("W4_idle_cpu" .. util.suffix, (util.cpu() - cpu) / seconds * 100, "%core")
end

function w4.on_start()
  util.main(function()
    local mode, count = util.env("BENCH_MODE", "timeouts"), util.env("BENCH_N", 100000)
    perilune.sleep(200)
    if mode == "timeouts" then
      timeouts(count)
    elseif mode == "sleep" then
      sleepers(count)
    else
      idle()
    end
  end)
end

return w4
