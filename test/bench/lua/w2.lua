-- W2: messages that nobody answers. BENCH_MODE:
--   1to1, 4to1  producers send BENCH_N messages of an integer and 16 bytes to a consumer, at most
--               4,096 each that it has not acknowledged
--   ring        BENCH_RING services pass as many tokens round, BENCH_N hops in all

local perilune = require "perilune"
local util = require "bench_util"
local w2 = {}

local function report(mode, count, unit, took, cpu)
  util.result("W2_" .. mode .. util.suffix, count / took, unit)
  util.result("W2_" .. mode .. "_cpu" .. util.suffix, cpu / count * 1e6, "cpu_us/msg")
end

local function stream(mode, count)
  local producers_count = mode == "4to1" and 4 or 1
  local consumer = perilune.spawn("w2_consumer", nil, util.spawn_options)
  local producers = {}
  for i = 1, producers_count do
    producers[i] = perilune.spawn("w2_producer", nil, util.spawn_options)
  end

  -- Returns seconds until the last one has come, and of processor time.
  local function run(per_producer)
    local total = per_producer * producers_count
    perilune.call(consumer, "expect", total, producers_count, util.PAYLOAD)
    local cpu, began = util.cpu(), perilune.now()
    for i, producer in ipairs(producers) do
      perilune.send(producer, "begin", consumer, per_producer, i - 1, producers_count, util.PAYLOAD)
    end
    local received, ended = perilune.call_within(0, consumer, "wait")
    util.check(received == total, "messages are missing")
    return (ended - began) / 1000, util.cpu() - cpu
  end

  local per_producer = math.ceil(count / producers_count)
  run(math.ceil(per_producer / 10))
  report(mode, per_producer * producers_count, "messages/s", run(per_producer))
end

local function ring(count)
  local size = util.env("BENCH_RING", 1000)
  local goal = perilune.spawn("w2_goal")
  local nodes = {}
  for i = 1, size do nodes[i] = perilune.spawn("w2_ring", nil, util.spawn_options) end
  for i = 1, size do perilune.call(nodes[i], "join", nodes[i % size + 1], goal, i) end

  local function run(hops)
    perilune.call(goal, "expect", size, hops)
    local cpu, began = util.cpu(), perilune.now()
    for i = 1, size do
      util.check(perilune.send(nodes[i], "pass", hops, i), "a token was not sent")
    end
    local ended = perilune.call_within(0, goal, "wait")
    return (ended - began) / 1000, util.cpu() - cpu
  end

  local hops = math.ceil(count / size)
  run(math.ceil(hops / 10))
  local mode = "ring" .. (size == 1000 and "" or "_" .. size)
  report(mode, (hops + 1) * size, "hops/s", run(hops))
end

function w2.on_start()
  util.main(function()
    local mode, count = util.env("BENCH_MODE", "1to1"), util.env("BENCH_N", 1000000)
    if mode == "ring" then ring(count) else stream(mode, count) end
  end)
end

return w2
