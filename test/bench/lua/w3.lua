-- W3: services. BENCH_MODE, with BENCH_N of them:
--   cycle  each is created, called and ends before the next
--   batch  16 tasks create all of them, then all are killed
--   mem    all of them, idle

local perilune = require "perilune"
local util = require "bench_util"
local w3 = {}

local TASKS = 16

local function services() return perilune.node().services end

local function settle(count)
  while services() > count do perilune.sleep(1) end
  util.check(services() == count, "a service too few")
end

-- The VM of a group may count too.
local function check_there(count)
  util.check(services() >= count, "services are missing")
end

local function spawn() return perilune.spawn("w3_idle", nil, util.spawn_options) end

local function create(count)
  local list = {}
  util.each(math.min(TASKS, count), function(task)
    for i = task, count, TASKS do list[i] = spawn() end
  end)
  return list
end

local function end_all(list)
  for i, handle in ipairs(list) do
    util.check(perilune.kill(handle), "a service had died")
    if i % 1000 == 0 then perilune.yield() end
  end
end

local function cycle(count, base)
  local cpu, began = util.cpu(), util.now()
  for _ = 1, count do
    util.check(perilune.call(spawn(), "leave") == "bye", "a wrong reply")
  end
  settle(base)
  local took = util.now() - began
  cpu = util.cpu() - cpu
  util.result("W3_cycle" .. util.suffix, count / took, "services/s")
  util.result("W3_cycle_cpu" .. util.suffix, cpu / count * 1e6, "cpu_us/service")
end

local function batch(count, base)
  local cpu, began = util.cpu(), util.now()
  local list = create(count)
  local created, cpu_created = util.now(), util.cpu()
  check_there(base + count)
  end_all(list)
  settle(base)
  local ended, cpu_ended = util.now(), util.cpu()
  local name = count .. util.suffix
  util.result("W3_create_" .. name, count / (created - began), "services/s")
  util.result("W3_create_cpu_" .. name, (cpu_created - cpu) / count * 1e6, "cpu_us/service")
  util.result("W3_kill_" .. name, count / (ended - created), "services/s")
  util.result("W3_kill_cpu_" .. name, (cpu_ended - cpu_created) / count * 1e6, "cpu_us/service")
end

local function memory(count, base)
  local before = util.rss_kib()
  local list = create(count)
  perilune.sleep(util.env("BENCH_SETTLE_MS", 1000))
  local after = util.rss_kib()
  check_there(base + count)
  util.check(perilune.call(list[count], "hello") == "hello", "a wrong reply")
  local name = count .. (util.light and "_light" or "")
  util.result("W3_mem_" .. name, (after - before) / count, "KiB/service")
  util.result("W3_rss_" .. name, after / 1024, "MiB")
  end_all(list)
  settle(base)
end

function w3.on_start()
  util.main(function()
    local mode, count = util.env("BENCH_MODE", "cycle"), util.env("BENCH_N", 2000)
    -- A group's VM is made with its first service and ends with its last.
    if util.light then spawn() end
    local base = services()
    for _ = 1, math.min(50, count) do perilune.call(spawn(), "leave") end
    settle(base)
    perilune.sleep(100)
    if mode == "cycle" then
      cycle(count, base)
    elseif mode == "batch" then
      batch(count, base)
    else
      memory(count, base)
    end
  end)
end

return w3
