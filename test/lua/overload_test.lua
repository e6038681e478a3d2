-- Promise 9: mailboxes are bounded; calls fail at once, sends are refused and counted, control
-- messages still arrive.

local perilune = require "perilune"
local file = require "perilune.file"
local support = require "support"
local test = require "perilune.test"

local LIMIT = 100

-- A service that doesn't look at its mailbox until `release` is called. Kill it only then.
local function spawn_held(group, options)
  local service = perilune.spawn((options or {}).script or "services.worker", nil,
    { mailbox = not (options or {}).usual and LIMIT or nil, group = group })
  return service, support.hold(service)
end

for _, group in ipairs { false, "flooded" } do
  local way = group and "light" or "isolated"
  group = group or nil

  test(("sends to a full mailbox are refused and counted (%s)"):format(way), function()
    local service, release = spawn_held(group)
    local before, sent = support.counters().refused_overloaded, 0
    for i = 1, 1000 do
      local ok, why = perilune.send(service, "echo", i)
      if ok then sent = sent + 1 else test.equal(why, "overloaded") end
    end
    test.equal(sent, LIMIT)
    test.equal(support.counters().refused_overloaded - before, 1000 - LIMIT)
    release()
    -- When it looks again, there is room again, and nothing was lost.
    test.eventually(function() return perilune.stats(service).mailbox == 0 end)
    test.equal(perilune.stats(service).messages, LIMIT + 1)
    test.equal(perilune.send(service, "echo", 1), true)
    perilune.kill(service)
  end)

  test(("calls to a full mailbox fail at once (%s)"):format(way), function()
    local service, release = spawn_held(group)
    while perilune.send(service, "echo", 1) do end -- luacheck: ignore
    -- At once: it will have no room until the release.
    local raised = test.raises(function() perilune.call_within(0, service, "echo", 1) end)
    test.equal(raised.code, "overloaded")
    test.ok(raised.message:find "full", raised.message)
    release()
    perilune.kill(service)
  end)

  test(("a full mailbox bounds bytes, too (%s)"):format(way), function()
    local service, release = spawn_held(group)
    -- mailbox.mb is 4 in overload_test.config.lua.
    local text, sent = ("x"):rep(2 ^ 20), 0
    while perilune.send(service, "echo", text) do sent = sent + 1 end
    test.equal(sent, 3)
    test.equal(perilune.send(service, "echo", "small"), true)
    release()
    perilune.kill(service)
  end)

  test(("kill reaches a service with a full mailbox before all that waits (%s)"):format(way),
    function()
      local service, release = spawn_held(group)
      local waiting = 0
      while perilune.send(service, "busy", 100) do waiting = waiting + 1 end
      local letters = support.counters().dead_letters
      test.equal(perilune.kill(service), true)
      release()
      test.eventually(function() return select(2, perilune.send(service, "echo")) == "dead" end)
      -- None of them was handled.
      test.eventually(function() return support.counters().dead_letters >= letters + waiting end)
    end)

  test(("stop, stats and reload reach it, too (%s)"):format(way), function()
    local script = "flooded_" .. way
    local text = [[
      local perilune = require "perilune"
      local service = {}
      local VERSION = %d
      function service.hold(latch)
        perilune.name(latch .. " holds " .. perilune.self())
        while perilune.find(latch) do end
      end
      function service.busy(ms)
        local stop = perilune.now() + ms
        while perilune.now() < stop do end
        return VERSION
      end
      return service]]
    test.ok(file.write(script .. ".lua", text:format(1)))
    local service, release = spawn_held(group, { script = script })
    local version
    for _ = 1, 60 do perilune.send(service, "busy", 20) end
    perilune.fork(function() version = perilune.call_within(0, service, "busy", 20) end)
    perilune.yield()
    while perilune.send(service, "busy", 100) do end -- luacheck: ignore
    test.ok(file.write(script .. ".lua", text:format(2)))
    release()
    test.equal({ perilune.reload(script) }, { 1, {} })
    local stats = perilune.stats(service)
    test.equal(stats.version, 2)
    test.ok(stats.mailbox > LIMIT - 60, stats.mailbox)
    -- What waited is handled by the new version.
    test.eventually(function() return version end, 10000)
    test.equal(version, 2)
    -- What is behind it would take seconds: the stop doesn't wait for it.
    local letters = support.counters().dead_letters
    test.equal(perilune.stop(service), true)
    test.eventually(function() return support.counters().dead_letters > letters end)
    file.remove(script .. ".lua")
  end)
end

test("a light service that is flooded leaves room for its neighbours", function()
  local neighbour = perilune.spawn("services.worker", nil, { group = "neighbours" })
  local flooded, release = spawn_held "neighbours"
  while perilune.send(flooded, "echo", 1) do end -- luacheck: ignore
  test.equal(perilune.send(neighbour, "echo", 1), true)
  release()
  test.equal(perilune.call(neighbour, "echo", 2), 2)
  perilune.kill(flooded)
  perilune.kill(neighbour)
end)

test("a light service that is flooded up to the usual limit leaves room for its neighbours", function()
  local neighbour = perilune.spawn("services.worker", nil, { group = "unlimited" })
  local flooded, release = spawn_held("unlimited", { usual = true })
  local sent = 0
  while perilune.send(flooded, "echo", 1) do sent = sent + 1 end
  test.equal(sent, 1000)
  test.equal(perilune.send(neighbour, "echo", 1), true)
  release()
  test.equal(perilune.call(neighbour, "echo", 2), 2)
  perilune.kill(flooded)
  perilune.kill(neighbour)
end)

test("a mailbox is as large as config.lua says where nothing else is said", function()
  -- mailbox.messages is 1000 in overload_test.config.lua.
  local service, release = spawn_held(nil, { usual = true })
  local sent = 0
  while perilune.send(service, "echo", 1) do sent = sent + 1 end
  -- What a turn has handled gives its room back when the turn ends: 64 messages at most.
  test.ok(sent <= 1000 and sent > 1000 - 64, sent)
  release()
  perilune.kill(service)
end)

test("replies and timers reach a service whose mailbox is full", function()
  -- This service: its own mailbox is full of calls that it doesn't look at.
  local self, worker = perilune.self(), perilune.spawn "services.worker"
  local ticked = false
  perilune.timeout(10, function() ticked = true end)
  local reply
  perilune.fork(function() reply = perilune.call(worker, "wait", 10, "reply") end)
  perilune.yield()
  local stop = perilune.now() + 60
  while perilune.send(self, "ignored") do end -- luacheck: ignore
  while perilune.now() < stop do end -- luacheck: ignore
  test.eventually(function() return ticked and reply == "reply" end)
  perilune.kill(worker)
end)

function test.ignored() end

-- A producer that is 100 times faster than its consumer.
local test_flood = support.test_if(support.sanitizer ~= "tsan",
  "a sender is slower there than the service that it should overload")

test_flood("a flood is refused for as long as it lasts, and the node stays small", function()
  local seconds = support.is_soak and 60 or 1
  local consumer = perilune.spawn("services.worker", nil, { mailbox = 1000 })
  local sent, refused, stop = 0, 0, perilune.now() + seconds * 1000
  local rss = support.rss_mb()
  local worst = 0
  while perilune.now() < stop do
    for _ = 1, 100 do
      if perilune.send(consumer, "busy", 1) then sent = sent + 1 else refused = refused + 1 end
    end
    local began = perilune.now()
    perilune.sleep(1)
    worst = math.max(worst, perilune.now() - began)
  end
  test.ok(refused > sent, refused)
  support.in_time(worst, 150, "a sleep of 1 ms")
  if not support.sanitizer then test.ok(support.rss_mb() - rss < 20) end
  local began = perilune.now()
  perilune.kill(consumer)
  test.eventually(function() return select(2, perilune.send(consumer, "echo")) == "dead" end)
  support.in_time(perilune.now() - began, 200, "the kill")
end, support.is_soak and 120000 or 30000)

test("what waits for a service that starts is bounded, and one too much is no harm", function()
  for _, group in ipairs { false, "late" } do
    local latch = perilune.spawn("services.worker", nil, { name = "not yet" })
    perilune.fork(perilune.spawn, "services.late", "not yet",
      { name = "late", mailbox = 10, group = group or nil })
    test.eventually(function() return perilune.find "late" end)
    local function taken() return perilune.stats("late").mailbox == 0 end
    local text = ("x"):rep(3 * 2 ^ 20) -- mailbox.mb is 4 in overload_test.config.lua
    test.equal(perilune.send("late", "echo", text), true)
    test.eventually(taken, 20000)
    test.equal(test.raises(function() perilune.call("late", "echo", text) end).code, "overloaded")
    local answers = 0
    for i = 1, 9 do
      perilune.fork(function()
        local answer = perilune.call_within(0, "late", "echo", i)
        answers = answers + answer
      end)
      perilune.yield()
      test.eventually(taken, 20000)
    end
    test.equal(test.raises(function() perilune.call("late", "echo", 10) end).code, "overloaded")
    perilune.kill(latch)
    test.eventually(function() return answers == 45 end, 20000)
    perilune.stop "late"
  end
end)

return test
