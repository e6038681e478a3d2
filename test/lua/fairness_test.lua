-- Promise 10: a flooded service doesn't starve the others on its worker.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local MS = support.is_soak and 30000 or 1500
local MOST_MS = 50
local LEAST = 10 -- calls, and timers, while it lasts

-- Measures calls to a quiet service, and timers, while a body runs.
local function check_quiet(body, group)
  local quiet = perilune.spawn("services.worker", nil, { group = group })
  local ticker = perilune.spawn("services.ticker", 5)
  local stop, latencies, result = false, {}, nil
  perilune.fork(function()
    local ok, problem = pcall(body)
    stop, result = true, ok or tostring(problem)
  end)
  while not stop do
    local began = perilune.now()
    perilune.call(quiet, "echo", 1)
    latencies[#latencies + 1] = perilune.now() - began
    perilune.sleep(5)
  end
  local lates = perilune.call(ticker, "take")
  perilune.kill(quiet)
  perilune.kill(ticker)
  test.ok(result == true, result)
  -- Who had to wait for what floods the worker would get one or two through: a full mailbox of
  -- the flooded services is two seconds of work.
  for what, list in pairs { calls = latencies, timers = lates } do
    test.ok(#list >= LEAST, ("%s: %d"):format(what, #list))
    support.in_time(support.percentile(list, 0.99), MOST_MS, what .. ", p99")
  end
end

-- Floods `count` services and ends them.
local function flood(count, command, ...)
  local source = perilune.spawn "services.flood"
  local targets = {}
  for i = 1, count do targets[i] = perilune.spawn("services.worker", nil, { mailbox = 20000 }) end
  local sent, refused = perilune.call_within(0, source, "run", targets, MS, command, ...)
  for _, target in ipairs(targets) do perilune.kill(target) end
  perilune.kill(source)
  return sent, refused
end

test("a service that gets far more than it can do leaves the others quick", function()
  check_quiet(function()
    local sent, refused = flood(1, "busy", 0.1)
    test.ok(sent > 100 and refused > 0, sent)
  end)
end, MS + 30000)

test("so do ten of them", function()
  check_quiet(function() flood(10, "busy", 0.1) end)
end, MS + 30000)

test("a service with a million quick messages leaves the others quick", function()
  check_quiet(function()
    local sent = flood(1, "echo", 1)
    if not support.sanitizer then test.ok(sent > 100000, sent) end
  end)
end, MS + 30000)

test("light services in another group are quick, too", function()
  check_quiet(function() flood(1, "busy", 0.1) end, "quiet")
end, MS + 30000)

test("services that never pause, but yield, leave the others quick", function()
  check_quiet(function()
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = function()
        local service = perilune.spawn("services.flood")
        perilune.call_within(0, service, "spin", MS)
        perilune.kill(service)
      end
    end
    perilune.wait_all(tasks)
  end)
end, MS + 30000)

test("two services that call each other all the time leave the others quick", function()
  check_quiet(function()
    local echo = perilune.spawn "services.worker"
    local stop = perilune.now() + MS
    local count = 0
    while perilune.now() < stop do
      perilune.call(echo, "echo", count)
      count = count + 1
    end
    perilune.kill(echo)
  end)
end, MS + 30000)

return test
