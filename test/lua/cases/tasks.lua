-- fork, sleep, timers, critical sections: run by api_test.lua in isolated and light services.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local cases = {}
local function case(name, body) cases[#cases + 1] = { name, body } end

case("fork runs after the current dispatch, in order, with its arguments", function()
  local order = {}
  for i = 1, 3 do
    perilune.fork(function(...)
      order[#order + 1] = { i, select("#", ...), ... }
    end, i, nil, "x", nil)
  end
  test.equal(order, {})
  perilune.yield()
  test.equal(order, { { 1, 4, 1, nil, "x" }, { 2, 4, 2, nil, "x" }, { 3, 4, 3, nil, "x" } })
end)

case("fork runs before the next message", function(service)
  local order = {}
  function service.first()
    perilune.fork(function() order[#order + 1] = "fork" end)
    order[#order + 1] = "first"
  end
  function service.second() order[#order + 1] = "second" end
  perilune.send(perilune.self(), "first")
  perilune.call(perilune.self(), "second")
  test.equal(order, { "first", "fork", "second" })
end)

case("an error in a fork is counted and ends that task alone", function()
  local before, ran = perilune.stats().errors, false
  perilune.fork(function() error "in a fork" end)
  perilune.fork(function() ran = true end)
  perilune.yield()
  test.ok(ran)
  test.equal(perilune.stats().errors, before + 1)
end)

case("fork takes a function and as many arguments as fit", function()
  test.raises(function() perilune.fork("name") end, "argument #1 to 'fork'")
  local values, count = {}, nil
  for i = 1, 7900 do values[i] = i end
  perilune.fork(function(...) count = select("#", ...) end, unpack(values))
  perilune.yield()
  test.equal(count, 7900)
  -- Over LuaJIT's 8000 slots of a function of C.
  for i = 7901, 7999 do values[i] = i end
  test.raises(function()
    perilune.fork(function() end, 1, 2, 3, 4, 5, 6, unpack(values, 1, 7996))
  end, "perilune.fork: too many arguments")
end)

case("sleep is never early and lets others run", function()
  local ran = 0
  perilune.fork(function() ran = ran + 1 end)
  for _, ms in ipairs { 1, 3, 7.5, 20 } do
    local began = perilune.now()
    perilune.sleep(ms)
    local took = perilune.now() - began
    test.ok(took >= ms, ("slept %f of %f ms"):format(took, ms))
    support.in_time(took, ms + 100, "sleep")
  end
  test.equal(ran, 1)
end)

case("yield and sleep(0) let others run and come back", function()
  local order = {}
  for i = 1, 2 do
    perilune.fork(function()
      for round = 1, 2 do
        order[#order + 1] = i * 10 + round
        if i == 1 then perilune.yield() else perilune.sleep(0) end
      end
    end)
  end
  test.eventually(function() return #order == 4 end)
  test.equal(order, { 11, 21, 12, 22 })
end)

case("sleep wants a number of milliseconds that can be", function()
  for _, ms in ipairs { -1, 0 / 0, 2 ^ 60, {}, "soon" } do
    test.raises(function() perilune.sleep(ms) end, "argument #1 to 'sleep'")
  end
end)

case("timeout calls a function once, with its arguments", function()
  local calls = {}
  local began = perilune.now()
  perilune.timeout(0, function() calls[#calls + 1] = "soon" end)
  perilune.timeout(15, function(...)
    calls[#calls + 1] = { perilune.now() - began, select("#", ...), ... }
  end, 1, nil)
  test.equal(calls, {})
  test.eventually(function() return #calls == 2 end)
  test.equal(calls[1], "soon")
  test.ok(calls[2][1] >= 15)
  test.equal({ calls[2][2], calls[2][3] }, { 2, 1 })
  perilune.sleep(30)
  test.equal(#calls, 2)
  test.equal(perilune.stats().timers, 0)
end)

case("a timer by name calls the command that has the name when it is due", function(service)
  local calls = {}
  function service.on_soon(...) calls[#calls + 1] = { "old", ... } end
  perilune.timeout(20, "on_soon", 1, "x")
  function service.on_soon(...) calls[#calls + 1] = { "new", ... } end
  test.eventually(function() return #calls == 1 end)
  test.equal(calls, { { "new", 1, "x" } })
end)

case("a timer whose command is missing counts an error, once or each time", function(service)
  local before = perilune.stats().errors
  perilune.timeout(1, "on_nothing")
  test.eventually(function() return perilune.stats().errors == before + 1 end)
  local timer = perilune.every(5, "on_nothing")
  test.eventually(function() return perilune.stats().errors >= before + 3 end)
  local called
  function service.on_nothing() called = true end
  test.eventually(function() return called end)
  test.ok(perilune.cancel(timer))
end)

case("every repeats until it is cancelled, also by itself", function()
  local count, began, timer = 0, perilune.now(), nil
  timer = perilune.every(10, function(word)
    test.equal(word, "tick")
    count = count + 1
    test.ok(perilune.now() - began >= count * 10, "early")
    if count == 4 then test.equal(perilune.cancel(timer), true) end
  end, "tick")
  test.eventually(function() return count == 4 end)
  perilune.sleep(40)
  test.equal(count, 4)
  test.equal(perilune.cancel(timer), false)
end)

case("every goes on after an error, and a waiting call doesn't hold it up", function()
  local count, waiting = 0, 0
  local timer = perilune.every(5, function()
    count = count + 1
    if count % 2 == 0 then error "on purpose" end
    waiting = waiting + 1
    perilune.sleep(30)
    waiting = waiting - 1
  end)
  test.eventually(function() return count >= 6 end)
  perilune.cancel(timer)
  test.eventually(function() return waiting == 0 end)
end)

case("cancel wins, once, and only over own timers", function()
  local called = false
  local timer = perilune.timeout(10, function() called = true end)
  test.equal(perilune.cancel(timer), true)
  test.equal(perilune.cancel(timer), false)
  local target = support.spawn("services.target")
  local theirs = perilune.call(target, "set_timer", 1e9, "note")
  test.equal(perilune.cancel(theirs), false)
  test.equal(perilune.stats(target).timers, 1)
  perilune.kill(target)
  perilune.sleep(30)
  test.equal(called, false)
  for _, id in ipairs { 0, -1, 1, 0.5, 2 ^ 52, 2 ^ 53, 0 / 0 } do
    test.equal(perilune.cancel(id), false)
  end
  test.raises(function() perilune.cancel() end, "argument #1 to 'cancel'")
end)

case("a timer that is cancelled when it is due already doesn't call", function()
  local called = false
  local timer = perilune.timeout(1, function() called = true end)
  local stop = perilune.now() + 20
  while perilune.now() < stop do end -- luacheck: ignore
  test.equal(perilune.cancel(timer), true)
  perilune.sleep(20)
  test.equal(called, false)
end)

case("cancel_all cancels the timers and leaves sleepers alone", function()
  local called, slept = 0, false
  perilune.fork(function()
    perilune.sleep(20)
    slept = true
  end)
  perilune.yield()
  -- From here on it doesn't wait, so nothing that is due is called.
  for i = 1, 5 do perilune.timeout(10 + i, function() called = called + 1 end) end
  perilune.every(5, function() called = called + 1 end)
  test.equal(perilune.stats().timers, 7)
  test.equal(perilune.cancel_all(), 6)
  test.equal(perilune.cancel_all(), 0)
  test.eventually(function() return slept end)
  perilune.sleep(20)
  test.equal(called, 0)
end)

case("timers check their arguments", function()
  local function nothing() end
  test.raises(function() perilune.timeout(-1, nothing) end, "argument #1 to 'timeout'")
  test.raises(function() perilune.timeout("x", nothing) end, "argument #1 to 'timeout'")
  test.raises(function() perilune.timeout(1) end, "argument #2 to 'timeout'")
  test.raises(function() perilune.every(0, nothing) end, "argument #1 to 'every'")
  test.raises(function() perilune.every(0.9, nothing) end, "at least 1 ms")
  test.raises(function() perilune.every(1, {}) end, "argument #2 to 'every'")
end)

case("timers of a dead service are gone with it", function()
  local target = support.spawn("services.target", { timer_ms = 1e7 })
  local waiting = support.counters().timers_waiting
  perilune.kill(target)
  test.eventually(function() return support.counters().timers_waiting < waiting end)
end)

case("now goes on steadily with fractions, time is that of the wall", function()
  local last = perilune.now()
  for _ = 1, 1000 do
    local now = perilune.now()
    test.ok(now >= last)
    last = now
  end
  test.ok(math.abs(perilune.time() - os.time()) <= 2)
  test.ok(perilune.time() > 1.7e9)
end)

-- ---- several tasks ----

case("queue lets tasks in one by one, in the order of coming", function()
  local enter, order, inside, done = perilune.queue(), {}, 0, 0
  for i = 1, 5 do
    perilune.fork(function()
      local a, b = enter(function(x, y)
        inside = inside + 1
        test.equal(inside, 1)
        order[#order + 1] = i
        perilune.sleep(i == 1 and 10 or 1)
        inside = inside - 1
        return x, y
      end, i, nil)
      test.equal({ a, b }, { i, nil })
      done = done + 1
    end)
  end
  test.eventually(function() return done == 5 end)
  test.equal(order, { 1, 2, 3, 4, 5 })
end)

case("a task may enter its queue again, and leaves it with the outermost", function()
  local enter, order = perilune.queue(), {}
  perilune.fork(function()
    perilune.yield()
    enter(function() order[#order + 1] = "other" end)
  end)
  enter(function()
    enter(function()
      perilune.sleep(5)
      order[#order + 1] = "inner"
    end)
    perilune.sleep(5)
    order[#order + 1] = "outer"
  end)
  test.eventually(function() return #order == 3 end)
  test.equal(order, { "inner", "outer", "other" })
end)

case("an error inside a queue passes through and lets the next in", function()
  local enter = perilune.queue()
  local problem = { "mine" }
  local ok, raised = pcall(enter, function() error(problem) end)
  test.ok(not ok and raised == problem)
  test.equal(enter(function() return "next" end), "next")
  test.raises(function() enter(5) end, "call a number")
  test.equal(enter(function() return "next" end), "next")
end)

case("a task that is ended inside a queue lets the next in", function()
  local enter, order = perilune.queue(), {}
  perilune.fork(function()
    enter(function() enter(function() while true do end end) end) -- luacheck: ignore
  end)
  perilune.fork(function()
    enter(function() order[#order + 1] = "second" end)
  end)
  test.eventually(function() return #order == 1 end, support.patience(3000))
end)

case("wait_all waits for all and keeps what each returned or raised", function()
  local results = perilune.wait_all {
    function()
      perilune.sleep(10)
      return 1, 2
    end,
    function() error("on purpose", 0) end,
    function() return nil end,
  }
  test.equal(results, { { true, 1, 2 }, { false, "on purpose" }, { true } })
  test.equal(perilune.wait_all {}, {})
end)

case("wait_all ends also when a body is ended", function()
  local results
  perilune.fork(function()
    results = perilune.wait_all {
      function() while true do end end, -- luacheck: ignore
      function() return "fine" end,
    }
  end)
  test.eventually(function() return results end, support.patience(3000))
  test.equal(results[2], { true, "fine" })
  test.equal(results[1][1], false)
end)

case("race returns the first, and the others go on", function()
  local released, slow
  local index, ok, value = perilune.race {
    function()
      test.eventually(function() return released end, 10000)
      slow = "done"
    end,
    function()
      perilune.sleep(5)
      return "fast"
    end,
  }
  test.equal({ index, ok, value }, { 2, true, "fast" })
  test.equal(slow, nil)
  released = true
  test.eventually(function() return slow end)
  test.equal({ perilune.race { function() error("first", 0) end, function() end } },
    { 1, false, "first" })
end)

case("race ends also when all bodies are ended", function()
  local outcome
  perilune.fork(function()
    outcome = { perilune.race { function() while true do end end } } -- luacheck: ignore
  end)
  test.eventually(function() return outcome end, support.patience(3000))
  test.equal({ outcome[1], outcome[2] }, { 1, false })
end)

case("wait_all and race want lists of functions", function()
  test.raises(function() perilune.race {} end, "perilune.race")
  test.raises(function() perilune.race() end, "perilune.race")
  test.raises(function() perilune.wait_all() end, "perilune.wait_all")
  test.raises(function() perilune.wait_all { 5 } end, "perilune.wait_all")
end)

return cases
