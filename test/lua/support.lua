-- What the tests of this folder share.

local perilune = require "perilune"
local test = require "perilune.test"

local support = {}

local build = tostring(perilune.env "PERILUNE_BUILD")

---"asan" or "tsan" where the engine was built so: everything takes long there.
support.sanitizer = build:match "asan" or build:match "tsan"

---True where `make soak` runs the tests: with the full numbers of the promises.
support.is_soak = perilune.env "PERILUNE_SOAK" ~= nil

---How many: `ci` usually, `soak` where there is time, a tenth of `ci` under a sanitizer.
---@param ci integer
---@param soak integer? default: ci
---@return integer count
function support.scale(ci, soak)
  if support.is_soak then return soak or ci end
  if support.sanitizer then return math.max(1, math.floor(ci / 10)) end
  return ci
end

---How long something may take, in ms; longer under a sanitizer.
---@param ms integer
---@return integer ms
function support.patience(ms)
  return support.sanitizer and ms * 10 or ms
end

---Fails where something took too long, but only in a soak, which has its machine for itself. Where
---others use the machine too, a time proves nothing: elsewhere tests compare counts and orders, and
---in_virtual_time.lua has the bounds of time.
---@param ms number
---@param limit_ms number
---@param what string?
function support.in_time(ms, limit_ms, what)
  if support.is_soak then test.ok(ms <= limit_ms, ("%s: %.1f ms"):format(what or "took", ms)) end
end

---Registers a test where a condition is met, and says elsewhere that it is skipped.
---@param condition any
---@param why string why it is skipped
---@return fun(name: string, body: fun(), limit_ms: integer?) test
function support.test_if(condition, why)
  if condition then return test.add end
  return function(name) test.skip(name, why) end
end

---Fails unless the function raises a perilune.CallError, and returns it.
---@param body fun()
---@param pattern string? as of test.raises
---@return perilune.CallError
function support.failure(body, pattern)
  local raised = test.raises(body, pattern)
  test.equal(type(raised), "table", tostring(raised))
  return raised
end

---Spawns a service and calls its command `warm` until its loops are compiled.
---@async
---@param script string
---@param spawn_options perilune.SpawnOptions?
---@return integer handle
function support.spawn_warm(script, spawn_options)
  local service = perilune.spawn(script, nil, spawn_options)
  for _ = 1, 100 do
    perilune.call(service, "warm")
    if support.sanitizer == "tsan" or perilune.stats(service).jit then return service end
  end
  error "the service was not given the compiler"
end

local latches = 0

---Holds a service up: it looks at no message until `release` is called. Its command `hold` has to
---be that of services/worker.lua. Kill it only after the release.
---@async
---@param service integer
---@return fun() release
function support.hold(service)
  latches = latches + 1
  local name = "latch " .. latches
  local latch = perilune.spawn("services.worker", nil, { name = name })
  perilune.send(service, "hold", name)
  test.eventually(function() return perilune.find(name .. " holds " .. service) end, 10000)
  return function() perilune.kill(latch) end
end

---@return table<string, integer> counters of the node
function support.counters()
  return perilune.node().counters
end

---The value below which a share of the numbers lie. Sorts them.
---@param numbers number[]
---@param share number 0.99
---@return number
function support.percentile(numbers, share)
  table.sort(numbers)
  return numbers[math.max(1, math.ceil(#numbers * share))]
end

---Resident memory of the process in MB.
---@return number
function support.rss_mb()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmRSS:%s+(%d+)"
    if kb then return kb / 1024 end
  end
end

---Registers the cases of a module once as an isolated and once as a light service: each case is
---run inside such a service, and finds in `support.group` what to spawn others with.
---@param module string a module that returns {name, body, limit_ms?}[]
function support.run_cases(module)
  for _, group in ipairs { false, "cases" } do
    for index, case in ipairs(require(module)) do
      local limit_ms = support.patience(case[3] or 20000)
      test(("%s (%s)"):format(case[1], group and "light" or "isolated"), function()
        local host = perilune.spawn("services.cases", { module = module, group = group or nil },
          group and { group = group } or nil)
        local ok, problem = pcall(perilune.call_within, limit_ms, host, "run", index)
        perilune.stop(host)
        if not ok then error(problem, 0) end
      end, limit_ms + 10000)
    end
  end
end

---Spawns what a case needs, light where the case runs in a light service.
---@async
---@param script string
---@param options any?
---@param spawn_options perilune.SpawnOptions?
---@return integer handle
function support.spawn(script, options, spawn_options)
  local settings = {}
  for key, value in pairs(spawn_options or {}) do settings[key] = value end
  settings.group = settings.group or support.group
  return perilune.spawn(script, options, settings)
end

return support
