-- W1: calls, one after the other, of an integer and 16 bytes. BENCH_N calls in all, by
-- BENCH_PAIRS pairs of services at the same time (default 1; more for how cost grows).

local perilune = require "perilune"
local util = require "bench_util"
local w1 = {}

function w1.on_start()
  util.main(function()
    local count = util.env("BENCH_N", 200000)
    local pairs_count = util.env("BENCH_PAIRS", 1)
    local callers, echoes = {}, {}
    for i = 1, pairs_count do
      callers[i] = perilune.spawn("w1_peer", nil, util.spawn_options)
      echoes[i] = perilune.spawn("w1_peer", nil, util.spawn_options)
    end
    local per_pair = math.ceil(count / pairs_count)
    local function run(calls)
      util.each(pairs_count, function(i)
        local done = perilune.call_within(0, callers[i], "run", echoes[i], calls, util.PAYLOAD)
        util.check(done == calls, "calls are missing")
      end)
    end

    run(math.ceil(per_pair / 10))
    local cpu, began = util.cpu(), util.now()
    run(per_pair)
    local took = util.now() - began
    cpu = util.cpu() - cpu

    local calls = per_pair * pairs_count
    local name = "W1_call"
    if pairs_count > 1 then name = name .. "_" .. pairs_count * 2 end
    util.result(name .. util.suffix, calls / took, "calls/s")
    util.result(name .. "_cpu" .. util.suffix, cpu / calls * 1e6, "cpu_us/call")
  end)
end

return w1
