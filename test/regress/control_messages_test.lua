-- Control messages (stop, kill, inspect, reload) overtake others and aren't counted in mailboxes.

local perilune = require "perilune"
local test = require "perilune.test"

test("a service with a mailbox limit still takes messages after many control messages", function()
  for _, settings in ipairs { { group = "control" }, { mailbox = 16 } } do
    local handle = perilune.spawn("services.echo", nil, settings)
    for _ = 1, 50 do test.equal(perilune.stats(handle).mailbox, 0) end
    perilune.reload("services.echo")
    test.equal(perilune.send(handle, "echo"), true)
    test.equal(perilune.call(handle, "echo", 7), 7)
    -- When the turn has ended that has handled them.
    test.eventually(function() return perilune.stats(handle).mailbox == 0 end)
    perilune.stop(handle)
  end
end)

test("a service that is killed before it has begun never begins", function()
  for _, how in ipairs { "kill", "stop" } do
    local busy = perilune.spawn("services.echo", nil, { group = "busy" })
    local latch = perilune.spawn("services.echo", nil, { name = "latch" })
    perilune.send(busy, "hold", "latch")
    test.eventually(function() return perilune.find "latch holds" end, 10000)
    local outcome
    perilune.fork(function()
      outcome = { pcall(perilune.spawn, "services.echo", nil, { group = "busy", name = "early" }) }
    end)
    perilune.yield()
    test.ok(perilune.find "early")
    local ended
    perilune.fork(function() ended = perilune[how]("early") end)
    perilune.yield()
    perilune.stop(latch)
    test.eventually(function() return outcome and ended end, 10000)
    test.equal(perilune.find "early", nil)
    test.equal(outcome[1], false)
    test.equal(outcome[2].code, "dead")
    perilune.stop(busy)
  end
end)

test("a spawn under a name that is taken leaves nothing behind", function()
  for _, group in ipairs { false, "taken" } do
    local first = perilune.spawn("services.echo", nil, { name = "taken", group = group or nil })
    local before = perilune.node().services
    for _ = 1, 3 do
      test.raises(function()
        perilune.spawn("services.echo", nil, { name = "taken", group = group or nil })
      end, "taken")
    end
    test.eventually(function() return perilune.node().services == before end)
    perilune.stop(first)
  end
end)

test("a reload ends when services die or begin meanwhile", function()
  local stop = false
  perilune.fork(function()
    while not stop do
      local handles = {}
      for i = 1, 10 do handles[i] = perilune.spawn("services.echo") end
      for i = 1, 10 do perilune.kill(handles[i]) end
    end
  end)
  for _ = 1, 100 do
    local count, problems = perilune.reload()
    test.equal(count, 0)
    test.equal(problems, {})
    perilune.sleep(1)
  end
  stop = true
end)

test("nobody has the handle 0", function()
  test.equal(perilune.monitor(0), false)
  test.equal(perilune.monitor("no such name"), false)
  test.equal(perilune.unmonitor("no such name"), false)
  test.raises(function() perilune.link("no such name") end, "dead")
end)

return test
