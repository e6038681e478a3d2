-- send, call, defer, redirect, sender, topics: run by api_test.lua in isolated and light services.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local cases = {}
local function case(name, body) cases[#cases + 1] = { name, body } end

-- A target that lives as long as the body runs.
local function with_target(body, options)
  local target = support.spawn("services.target", options)
  local ok, problem = pcall(body, target)
  perilune.kill(target)
  if not ok then error(problem, 0) end
end

local failure = support.failure
local DEAD = 12345

case("send returns true and its command gets the arguments", function()
  with_target(function(target)
    test.equal({ perilune.send(target, "note", { 1, "two", { three = true } }) }, { true })
    test.equal({ perilune.send(target, "note", "\0\255") }, { true })
    test.equal(perilune.call(target, "received"), { { 1, "two", { three = true } }, "\0\255" })
  end)
end)

case("send to what is dead or never was returns false and dead", function()
  with_target(function(target)
    perilune.kill(target)
    test.eventually(function() return not perilune.send(target, "note", 1) end)
    for _, to in ipairs { target, DEAD, 0, 2 ^ 53 - 1, "no such name" } do
      local before = support.counters().refused_dead
      test.equal({ perilune.send(to, "note", 1) }, { false, "dead" }, to)
      test.ok(support.counters().refused_dead > before)
    end
  end)
end)

case("a send of a command that is missing counts an error and kills nobody", function()
  with_target(function(target)
    test.equal(perilune.send(target, "missing"), true)
    test.eventually(function() return perilune.stats(target).errors == 1 end)
    test.equal(perilune.call(target, "echo", 1), 1)
  end)
end)

case("a number is no name of a service or a topic", function()
  for _, name in ipairs { "name", "find", "publish", "unsubscribe", "env" } do
    test.raises(function() perilune[name](7) end, "string expected")
  end
  test.raises(function() perilune.subscribe(7, "note") end, "string expected")
  test.raises(function() perilune.subscribe("topic", 7) end, "string expected")
end)

case("a call that fails as dead says who", function()
  local text = failure(function() perilune.call("no such name", "x") end).message
  test.ok(text:find 'no service named "no such name"', text)
  text = failure(function() perilune.call(DEAD, "x") end).message
  test.ok(text:find "handle 12345 is dead or never was", text)
  with_target(function(target)
    local outcome
    perilune.fork(function() outcome = { pcall(perilune.call, target, "sleep", 60000) } end)
    test.eventually(function() return perilune.stats(target).tasks > 0 end)
    perilune.kill(target)
    test.eventually(function() return outcome end)
    test.equal(outcome[1], false)
    test.equal(outcome[2].code, "dead")
    test.ok(outcome[2].message:find "target.* died %(kill%) before it answered",
      outcome[2].message)
  end)
end)

case("send and call name the argument that is wrong", function()
  for _, to in ipairs { {}, true, -1, 2 ^ 53, 0 / 0, 1.5, perilune.self() + 0.5, print } do
    test.raises(function() perilune.send(to, "x") end, "argument #1 to 'send' %(a handle")
    test.raises(function() perilune.call(to, "x") end, "argument #1 to 'perilune.call' %(a handle")
  end
  local self = perilune.self()
  test.raises(function() perilune.send() end, "argument #1")
  test.raises(function() perilune.send(self) end, "argument #2 to 'send' %(the name of a command")
  test.raises(function() perilune.call(self, 5) end, "argument #2 to 'perilune.call'")
  test.raises(function() perilune.call_within("1s", self, "x") end,
    "argument #1 to 'perilune.call_within'")
  test.raises(function() perilune.call_within(-1, self, "x") end,
    "argument #1 to 'perilune.call_within'")
  test.raises(function() perilune.call_within(1, nil, "x") end,
    "argument #2 to 'perilune.call_within'")
  test.raises(function() perilune.call_within(1, self, nil) end,
    "argument #3 to 'perilune.call_within'")
end)

case("misuse is reported with the line of the script", function()
  local function here() perilune.call(nil, "x") end
  test.ok(tostring(test.raises(here)):find("cases/messages.lua:%d+: "))
  test.ok(tostring(test.raises(function() perilune.spawn() end)):find("cases/messages.lua:%d+: "))
  test.ok(tostring(test.raises(function() perilune.send(1, "x", print) end)):find(
    "cases/messages.lua:%d+: "))
end)

case("call returns all values, nils too", function()
  with_target(function(target)
    local function check(...)
      test.equal(select("#", ...), 5)
      test.equal({ ... }, { nil, false, nil, "x" })
    end
    check(perilune.call(target, "echo", nil, false, nil, "x", nil))
    test.equal(perilune.call(target, "count", nil, nil), 2)
    test.equal(select("#", perilune.call(target, "echo")), 0)
    test.equal(perilune.call(target, "self"), target)
  end)
end)

case("call takes and returns thousands of values", function()
  with_target(function(target)
    for _, value in ipairs { 7, ("x"):rep(30) } do
      local values = {}
      for i = 1, 7900 do values[i] = value end
      test.equal(select("#", perilune.call(target, "echo", unpack(values))), 7900)
      test.equal((select(7900, perilune.call(target, "echo", unpack(values)))), value)
    end
  end)
end)

case("call finds a service by its name", function()
  with_target(function(target)
    test.equal(perilune.call("the target", "self"), target)
  end, { name = "the target" })
end)

case("a service may call itself", function(service)
  function service.ping(value) return value + 1 end
  test.equal(perilune.call(perilune.self(), "ping", 1), 2)
end)

case("a call whose callee raises text gets error with text, value and traceback", function()
  with_target(function(target)
    local raised = failure(function() perilune.call(target, "raise_text") end)
    test.equal(raised.code, "error")
    test.ok(raised.message:find("services/target.lua:%d+: raised on purpose$"), raised.message)
    test.equal(raised.value, raised.message)
    test.ok(raised.traceback:find("services/target.lua:%d+: in"), raised.traceback)
    test.equal(tostring(raised), raised.message .. "\n" .. raised.traceback)
    test.equal(perilune.stats(target).errors, 1)
  end)
end)

case("a call whose callee raises a table gets it as value", function()
  with_target(function(target)
    local raised = failure(function()
      perilune.call(target, "fail", { message = "no money", code = 7, list = { 1, 2 } })
    end)
    test.equal(raised.code, "error")
    test.equal(raised.message, "no money")
    test.equal(raised.value, { message = "no money", code = 7, list = { 1, 2 } })
  end)
end)

case("a call of a missing command, or of one for the service itself, gets error", function()
  with_target(function(target)
    local raised = failure(function() perilune.call(target, "missing", 1) end)
    test.equal(raised.code, "error")
    test.ok(raised.message:find 'has no command "missing"', raised.message)
    raised = failure(function() perilune.call(target, "on_start") end)
    test.equal(raised.code, "error")
    test.ok(raised.message:find "names with on_ are its own", raised.message)
    test.equal(perilune.call(target, "received"), {})
  end)
end)

case("a call that takes too long gets timeout, and its reply is dropped and counted", function()
  with_target(function(target)
    local late, began = support.counters().late_replies, perilune.now()
    local raised = failure(function() perilune.call_within(40, target, "sleep", 1000) end)
    local took = perilune.now() - began
    test.equal(raised.code, "timeout")
    test.ok(raised.message:find "40 ms", raised.message)
    test.ok(raised.traceback == nil and raised.value == nil)
    test.ok(took >= 40, took)
    support.in_time(took, 140, "the call")
    test.eventually(function() return support.counters().late_replies > late end, 10000)
  end)
end)

case("perilune.call waits for call_limit_ms, call_within(0) for ever", function()
  with_target(function(target)
    -- call_limit_ms is 400 in api_test.config.lua.
    test.equal(failure(function() perilune.call(target, "sleep", 1e7) end).code, "timeout")
    test.equal(perilune.call_within(0, target, "sleep", 600, "done"), "done")
  end)
end)

case("a call to what is dead gets dead at once", function()
  with_target(function(target)
    perilune.kill(target)
    test.eventually(function() return not perilune.send(target, "note") end)
    for _, to in ipairs { target, DEAD, 0, "no such name" } do
      local began = perilune.now()
      local raised = failure(function() perilune.call_within(0, to, "echo") end)
      test.equal(raised.code, "dead")
      support.in_time(perilune.now() - began, 100, "the call")
    end
    test.ok(failure(function() perilune.call("no such name", "echo") end).message:find
      '"no such name"')
  end)
end)

case("calls of a service that dies get dead, those that wait and those that are handled", function()
  with_target(function(target)
    local outcomes = {}
    perilune.timeout(30, function() perilune.kill(target) end)
    local results = perilune.wait_all {
      function() perilune.call_within(0, target, "sleep", 1e6) end,
      function() perilune.call_within(0, target, "later", 1e6, 1) end,
      function() perilune.call_within(0, target, "sleep", 1e6) end,
    }
    for i, result in ipairs(results) do outcomes[i] = result[2].code end
    test.equal(outcomes, { "dead", "dead", "dead" })
  end)
end)

case("a call in a coroutine of the script says what to use instead", function()
  test.raises(coroutine.wrap(function() perilune.call(perilune.self(), "x") end), "perilune.fork")
  test.raises(coroutine.wrap(function() perilune.sleep(1) end), "perilune.fork")
  test.raises(coroutine.wrap(function() perilune.spawn("services.silent") end), "perilune.fork")
end)

case("defer lets a command answer later, once", function()
  with_target(function(target)
    local began = perilune.now()
    local function check(...)
      test.equal(select("#", ...), 3)
      test.equal({ ... }, { "answer", nil, 7 })
    end
    check(perilune.call(target, "later", 30, 1, "answer", nil, 7))
    test.ok(perilune.now() - began >= 30)
    test.equal(perilune.stats(target).errors, 0)
    test.equal(perilune.call(target, "later", 0, 2, "twice"), "twice")
    test.eventually(function() return perilune.stats(target).errors == 1 end)
  end)
end)

case("defer of a command that was sent gives a function that does nothing", function()
  with_target(function(target)
    perilune.send(target, "later", 0, 2, "nobody hears it")
    test.equal(perilune.call(target, "later", 5, 1, "heard"), "heard")
    test.equal(perilune.stats(target).errors, 0)
  end)
end)

case("a deferred answer that is forgotten becomes an error", function()
  with_target(function(target)
    local raised
    perilune.fork(function()
      raised = failure(function() perilune.call_within(0, target, "forget") end)
    end)
    test.eventually(function()
      perilune.send(target, "collect")
      return raised
    end)
    test.equal(raised.code, "error")
    test.ok(raised.message:find "forgot to answer", raised.message)
  end)
end)

case("redirect has another service answer, who sees the first sender", function()
  with_target(function(first)
    with_target(function(second)
      test.equal({ perilune.call(first, "redirect", second, "echo", 1, nil, "x") }, { 1, nil, "x" })
      test.equal(perilune.call(first, "redirect", second, "sender"), perilune.self())
      local function redirect() perilune.call(first, "redirect", second, "raise_text") end
      test.equal(failure(redirect).code,
        "error")
      perilune.send(first, "redirect", second, "note", "sent on")
      test.equal(perilune.call(first, "redirect", second, "received"), { "sent on" })
    end)
  end)
end)

case("redirect to what is dead leaves the answer to the command", function()
  with_target(function(first)
    test.equal({ perilune.call(first, "redirect", DEAD, "echo") }, { "redirected", false, "dead" })
    test.equal({ perilune.call(first, "redirect", "nobody", "echo") },
      { "redirected", false, "dead" })
  end)
end)

case("a request that is redirected in a circle ends as an error", function()
  with_target(function(target)
    local raised = failure(function() perilune.call_within(0, target, "circle") end)
    test.equal(raised.code, "error")
    test.ok(raised.message:find "redirected 16 times", raised.message)
  end)
end)

case("redirect names the argument that is wrong", function(service)
  function service.wrong() perilune.redirect({}, "x") end
  function service.unsendable() perilune.redirect(1, "x", print) end
  local self = perilune.self()
  test.ok(failure(function() perilune.call(self, "wrong") end).message:find "argument #1")
  test.ok(failure(function() perilune.call(self, "unsendable") end).message:find "argument 1 is a")
end)

case("sender is the caller in commands and forks, and 0 in timers", function(service)
  with_target(function(target)
    test.equal(perilune.call(target, "sender"), perilune.self())
    local seen = {}
    function service.look()
      seen.command = perilune.sender()
      perilune.fork(function() seen.fork = perilune.sender() end)
      perilune.timeout(0, function() seen.timer = perilune.sender() end)
    end
    perilune.call(target, "redirect", perilune.self(), "look")
    perilune.call(perilune.self(), "look")
    test.eventually(function() return seen.timer end)
    test.equal(seen, { command = perilune.self(), fork = perilune.self(), timer = 0 })
  end)
end)

case("publish reaches all subscribers and returns how many", function()
  with_target(function(first)
    with_target(function(second)
      test.equal(perilune.publish("news", 1), 0)
      perilune.call(first, "subscribe", "news", "on_topic")
      perilune.call(second, "subscribe", "news", "on_topic")
      perilune.call(second, "subscribe", "other", "on_topic")
      test.equal(perilune.publish("news", 1, nil, { 2 }), 2)
      test.equal(perilune.publish("other", 3), 1)
      test.equal(perilune.call(first, "received"), { { "news", 1, nil, { 2 } } })
      test.equal(perilune.call(second, "received"), { { "news", 1, nil, { 2 } }, { "other", 3 } })
      perilune.call(first, "unsubscribe", "news")
      perilune.call(first, "unsubscribe", "never subscribed")
      test.equal(perilune.publish("news", 4), 1)
      perilune.kill(second)
      test.eventually(function() return perilune.publish("news", 5) == 0 end)
      test.equal(#perilune.call(first, "received"), 1)
    end)
  end)
end)

case("subscribing again changes the command, not the count", function()
  with_target(function(target)
    perilune.call(target, "subscribe", "topic", "missing")
    perilune.call(target, "subscribe", "topic", "on_topic")
    test.equal(perilune.publish("topic", 1), 1)
    test.equal(perilune.call(target, "received"), { { "topic", 1 } })
  end)
end)

case("topics and their arguments are checked", function()
  test.raises(function() perilune.publish() end, "argument #1 to 'perilune.publish'")
  test.raises(function() perilune.publish("topic", 1, { print }) end, "argument 3: %[1%] is a func")
  test.raises(function() perilune.subscribe("topic") end, "argument #2 to 'perilune.subscribe'")
  test.raises(function() perilune.unsubscribe() end, "argument #1 to 'perilune.unsubscribe'")
end)

return cases
