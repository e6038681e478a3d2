-- W9: SET and GET of Redis, BENCH_N times by 100 tasks at once and a tenth of that by one; and
-- redis-benchmark on the same server: with one connection, with 100, and with 100 requests at a
-- time on one, as our tasks have.

local redis = require "perilune.redis"
local servers = require "servers"
local util = require "bench_util"

local w9 = {}

local VALUE = ("x"):rep(64)
local KEYS = 1000

local function key(number) return "key:" .. number % KEYS end

-- What `request(db, number)` does a second, by so many tasks.
local function measure(name, db, tasks, count, request)
  local each = math.ceil(count / tasks)
  local began, used = util.now(), util.cpu()
  util.each(tasks, function(task)
    for number = 1, each do request(db, task * each + number) end
  end)
  local seconds = util.now() - began
  util.result(("W9_redis_%s_%d"):format(name, tasks), each * tasks / seconds, "ops/s")
  util.result(("W9_redis_%s_%d_cpu"):format(name, tasks), (util.cpu() - used) / each / tasks * 1e6,
    "us")
end

local function set(db, number) util.check(db:set(key(number), VALUE) == "OK", "SET") end
local function get(db, number) util.check(db:get(key(number)) == VALUE, "GET") end

-- The same by redis-benchmark.
local function reference(name, port, count, options)
  local text = util.output(("redis-benchmark -p %d -t set,get -d %d -r %d -n %d --csv %s")
    :format(port, #VALUE, KEYS, count, options))
  for _, command in ipairs { "set", "get" } do
    local rate = text:match('"' .. command:upper() .. '","([%d.]+)"')
    util.check(rate, "redis-benchmark: " .. text)
    util.result(("redis_benchmark_%s_%s"):format(command, name), tonumber(rate), "ops/s")
  end
end

local function run()
  local count = util.env("BENCH_N", 400000)
  local server = servers.start("redis", { "appendonly no" })
  local db = assert(redis.connect("redis://127.0.0.1:" .. server.port))
  for number = 0, KEYS - 1 do set(db, number) end -- each GET finds something
  for _, tasks in ipairs { 1, 100 } do
    local times = tasks == 1 and math.ceil(count / 10) or count
    measure("set", db, tasks, times, set)
    measure("get", db, tasks, times, get)
  end
  reference("c1", server.port, math.ceil(count / 10), "-c 1")
  reference("c100", server.port, math.ceil(count / 4), "-c 100")
  reference("c1p100", server.port, count, "-c 1 -P 100")
  local stats = db:stats()
  util.check(stats.timeouts + stats.unknown + stats.lost == 0, "something went wrong")
  db:close()
  server:close()
end

function w9.on_start() util.main(run) end

return w9
