-- What the workloads share: parameters, clocks, results, and the table of W8.

local perilune = require "perilune"
local ffi = require "ffi"

ffi.cdef [[
  int getpid(void);
  int kill(int process, int signal);
]]

local SIGTERM = 15

local util = {
  PAYLOAD = "sixteen bytes...",
}

---@param name string of a variable of the environment
---@param default string|number
function util.env(name, default)
  local value = os.getenv(name)
  if value == nil or value == "" then return default end
  if type(default) ~= "number" then return value end
  return assert(tonumber(value), name .. ": a number expected")
end

util.light = util.env("BENCH_LIGHT", 0) == 1
-- How the services that are measured are spawned.
util.spawn_options = util.light and { group = "bench" } or nil
-- What their figures end in.
util.suffix = (util.light and "_light" or "") .. "_t" .. util.env("BENCH_THREADS", 1)

function util.result(name, value, unit)
  io.stdout:write(string.format("RESULT %s %.6g %s\n", name, value, unit))
  io.stdout:flush()
end

-- A wrong answer: the run is void.
function util.fail(text)
  io.stdout:write("FAIL ", tostring(text), "\n")
  io.stdout:flush()
end

function util.check(condition, text)
  if not condition then error(text, 2) end
end

-- Runs a workload in a task of its own, since it takes longer than an on_start may, and then
-- ends the node.
function util.main(body)
  perilune.fork(function()
    local ok, problem = xpcall(body, debug.traceback)
    if not ok then util.fail(problem) end
    ffi.C.kill(ffi.C.getpid(), SIGTERM)
  end)
end

-- Seconds on a clock, and of processor time of the whole process.
function util.now() return perilune.now() / 1000 end
util.cpu = os.clock

function util.rss_kib()
  local file = assert(io.open("/proc/self/status"))
  local text = file:read("*a")
  file:close()
  return tonumber(text:match("VmRSS:%s*(%d+)"))
end

-- What a command of the shell prints. It runs beside this node, which doesn't wait in a dispatch.
---@async
function util.output(command)
  local file = os.tmpname()
  os.execute(("(%s; echo done) >%s 2>&1 &"):format(command, file))
  local text
  repeat
    perilune.sleep(20)
    local handle = assert(io.open(file))
    text = handle:read "*a"
    handle:close()
  until text:find "done\n$"
  os.remove(file)
  return text
end

-- `body` for each of 1..count, all at the same time.
function util.each(count, body)
  local tasks = {}
  for i = 1, count do
    tasks[i] = function() return body(i) end
  end
  for i, result in ipairs(perilune.wait_all(tasks)) do
    if not result[1] then error("task " .. i .. ": " .. tostring(result[2]), 0) end
  end
end

-- The same numbers at each run: 0 to n - 1.
function util.lcg(seed)
  local state = seed
  return function(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return math.floor(state / 65536) % n
  end
end

---@param sorted number[]
---@param share number 0.5: the median
function util.percentile(sorted, share)
  return sorted[math.max(1, math.ceil(#sorted * share))]
end

return util
