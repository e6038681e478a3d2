-- How long things take and in which order they happen: run by in_virtual_time.lua.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local cases = {}
local function case(name, body) cases[#cases + 1] = { name, body } end

-- How long a body takes.
local function measure(body, ...)
  local began = perilune.now()
  body(...)
  return perilune.now() - began
end

local function expect_between(value, low, high)
  test.ok(value >= low and value <= high, ("%.3f, not %g to %g"):format(value, low, high))
end

case("a sleep takes what it is told to and up to a millisecond more", function()
  for _, ms in ipairs { 1, 3, 7.5, 20, 12345 } do
    expect_between(measure(perilune.sleep, ms), ms, ms + 1)
  end
end)

case("sleeping tasks wake in the order of their times", function()
  local order = {}
  for i, ms in ipairs { 30, 10, 20, 10 } do
    perilune.fork(function()
      perilune.sleep(ms)
      order[#order + 1] = i
    end)
  end
  perilune.sleep(40)
  test.equal(order, { 2, 4, 3, 1 })
end)

case("ten thousand timers are called in order, at most two milliseconds late", function()
  local worst, last, count = 0, 0, 10000
  for _ = 1, count do
    local due = perilune.now() + math.random() * 2000
    perilune.timeout(due - perilune.now(), function()
      local late = perilune.now() - due
      test.ok(late >= 0, "early")
      worst = math.max(worst, late)
      test.ok(math.floor(due) >= math.floor(last) - 1, "out of order")
      last = due
      count = count - 1
    end)
  end
  perilune.sleep(2010)
  test.equal(count, 0)
  expect_between(worst, 0, 2)
end)

case("every repeats in its period", function()
  local count = 0
  local timer = perilune.every(10, function() count = count + 1 end)
  perilune.sleep(1005)
  test.equal(count, 100)
  perilune.cancel(timer)
end)

case("calls time out in the order of their limits, at most 10 ms late", function()
  local target = support.spawn("services.target")
  local order, tasks = {}, {}
  for i = 1, 50 do
    local limit = (i * 37 % 50) * 20 + 20
    tasks[i] = function()
      expect_between(measure(test.raises, function()
        perilune.call_within(limit, target, "sleep", 1e7)
      end), limit, limit + 11)
      order[#order + 1] = limit
    end
  end
  for _, result in ipairs(perilune.wait_all(tasks)) do test.ok(result[1], tostring(result[2])) end
  test.equal(#order, 50)
  for i = 2, #order do test.ok(order[i] > order[i - 1], "out of order") end
  perilune.kill(target)
end)

case("what fails at once takes no time", function()
  local target = support.spawn("services.target")
  perilune.kill(target)
  perilune.sleep(1)
  local function try() test.raises(function() perilune.call(target, "echo") end) end
  test.equal(measure(try), 0)
end)

return cases
