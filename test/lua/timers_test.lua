-- Promise 11: timers are never early, mostly in time, and cancel wins.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

-- What the library of tests waits for is one of this service's timers.
local OWN = 1

local COUNT = support.scale(100000, 1000000)

test(COUNT .. " timers spread over two seconds are never early", function()
  local early, lates, left = 0, {}, COUNT
  local began = perilune.now()
  local function due(at)
    local late = perilune.now() - at
    if late < 0 then early = early + 1 end
    lates[#lates + 1] = late
    left = left - 1
  end
  -- Adding them takes a while, so they begin later.
  local spread = support.is_soak and 20000 or 2000
  local first = support.is_soak and 3000 or 300
  for _ = 1, COUNT do
    local delay = first + math.random() * spread
    perilune.timeout(delay, due, perilune.now() + delay)
  end
  local took = perilune.now() - began
  -- None is called before this task waits.
  test.equal(perilune.stats().timers, OWN + COUNT)
  test.eventually(function() return left == 0 end, first + spread + support.patience(20000))
  test.equal({ early, #lates, perilune.stats().timers }, { 0, COUNT, OWN })
  support.in_time(took, first, "adding them")
  support.in_time(support.percentile(lates, 0.99), 20, "lateness, p99")
end, support.is_soak and 300000 or support.patience(60000))

test(COUNT .. " timers of one millisecond are all called, once, never early", function()
  local calls, early, seen = 0, 0, {}
  local at
  local function due(number)
    if perilune.now() < at then early = early + 1 end
    seen[number] = (seen[number] or 0) + 1
    calls = calls + 1
  end
  local ms = support.is_soak and 5000 or support.patience(600)
  local began = perilune.now()
  at = began + ms
  for number = 1, COUNT do
    -- All for the same moment, though it takes a while to add them.
    perilune.timeout(math.max(0, at - perilune.now()), due, number)
  end
  support.in_time(perilune.now() - began, ms, "adding them")
  test.eventually(function() return calls == COUNT end, support.patience(20000))
  test.equal({ early, perilune.stats().timers }, { 0, OWN })
  perilune.sleep(5)
  test.equal(calls, COUNT)
  for number = 1, COUNT do test.equal(seen[number], 1) end
end, support.is_soak and 300000 or support.patience(30000))

test("timers of the same delay are called in the order in which they were added", function()
  local last, inverted = 0, 0
  local count = support.scale(20000)
  for number = 1, count do
    perilune.timeout(30, function()
      if number ~= last + 1 then inverted = inverted + 1 end
      last = number
    end)
  end
  test.eventually(function() return last == count end, support.patience(20000))
  test.equal(inverted, 0)
end, support.patience(30000))

test(COUNT .. " timers that are cancelled never call, the others do", function()
  local wrong, right, timers = 0, 0, {}
  for i = 1, COUNT do
    timers[i] = perilune.timeout(10 + i % 500, i % 10 == 0 and function() right = right + 1 end
      or function() wrong = wrong + 1 end)
    -- Some at once, some when their time is near.
    if i % 10 ~= 0 and i % 3 == 0 then test.equal(perilune.cancel(timers[i]), true) end
    if i % 3000 == 0 then
      for j = i - 2999, i do
        if j % 10 ~= 0 and j % 3 ~= 0 then test.equal(perilune.cancel(timers[j]), true) end
      end
    end
  end
  for i = COUNT - COUNT % 3000 + 1, COUNT do
    if i % 10 ~= 0 and i % 3 ~= 0 then perilune.cancel(timers[i]) end
  end
  test.eventually(function() return right == math.floor(COUNT / 10) end, support.patience(20000))
  perilune.sleep(20)
  test.equal({ wrong, right }, { 0, math.floor(COUNT / 10) })
  for i = 1, COUNT, 97 do test.equal(perilune.cancel(timers[i]), false) end
  test.equal(perilune.stats().timers, OWN)
end, support.is_soak and 300000 or support.patience(30000))

test("timers of many services are never early", function()
  local tickers, early = {}, 0
  for i = 1, support.scale(200) do
    tickers[i] = perilune.spawn("services.ticker", i % 20 + 1, { group = i % 2 == 0 and "t" or nil })
  end
  perilune.sleep(500)
  local lates = {}
  for _, ticker in ipairs(tickers) do
    for _, late in ipairs(perilune.call(ticker, "take")) do
      if late < 0 then early = early + 1 end
      lates[#lates + 1] = late
    end
    perilune.kill(ticker)
  end
  test.equal(early, 0)
  test.ok(#lates > #tickers)
  support.in_time(support.percentile(lates, 0.99), 20, "lateness, p99")
end, support.patience(30000))

local test_soak = support.test_if(support.is_soak, "only in a soak")

test_soak("a service may have a million timers and sleepers, not more, and keeps working", function()
  local service = perilune.spawn("services.target", nil, { memory_mb = 1024 })
  for _ = 1, 1048575 do perilune.call(service, "set_timer", 1e9, "note") end
  local raised = test.raises(function() perilune.call(service, "set_timer", 1e9, "note") end)
  test.ok(raised.message:find "over a million", raised.message)
  test.equal(perilune.call(service, "echo", 1), 1)
  perilune.kill(service)
end, 600000)

return test
