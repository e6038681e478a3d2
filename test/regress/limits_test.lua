-- What services make the engine keep for them is bounded, counted, and gone when they are.

local perilune = require "perilune"
local test = require "perilune.test"
local native = require("perilune.core").native
local new_token, wait, wake = native "core_token", native "core_wait", native "core_wake"

local function counter(name)
  return test.ok(perilune.node().counters[name], name .. " isn't counted")
end

-- Has a service look at nothing until the function that is returned is called.
local latches = 0
local function hold(service)
  latches = latches + 1
  local name = "latch " .. latches
  local latch = perilune.spawn("services.bound", nil, { name = name })
  perilune.send(service, "hold", name)
  test.eventually(function() return perilune.find(name .. " holds " .. service) end)
  return function() perilune.kill(latch) end
end

for _, group in ipairs { false, "limits" } do
  local way = group and "light" or "isolated"
  local settings = { group = group or nil }
  local function spawn() return perilune.spawn("services.bound", nil, settings) end

  test(("a link is forgotten when either of the two has died (%s)"):format(way), function()
    local keeper, before = spawn(), counter "monitors"
    for _ = 1, 20 do
      local other = spawn()
      perilune.call(keeper, "link", other)
      perilune.stop(other)
    end
    test.eventually(function() return counter "monitors" == before end)
    for _ = 1, 20 do
      local other = spawn()
      perilune.call(other, "link", keeper)
      perilune.stop(other)
    end
    test.eventually(function() return counter "monitors" == before end)
    perilune.stop(keeper)
  end)

  test(("a link to a service that dies before it hears of it is forgotten (%s)"):format(way),
    function()
      local before = counter "monitors"
      local keeper, other = perilune.spawn "services.bound", spawn()
      local release = hold(other)
      perilune.call(keeper, "link", other)
      local stopped
      perilune.fork(function() stopped = perilune.stop(other) end)
      perilune.yield() -- to be stopped overtakes the link
      release()
      test.eventually(function() return stopped end)
      test.eventually(function() return counter "monitors" == before end)
      perilune.stop(keeper)
    end)
end

test("what has a limit has a counter", function()
  for _, name in ipairs { "timers_refused", "timers_retired", "mailbox_bytes", "shared_bytes",
    "lua_bytes", "lua_warm_bytes", "blocking_running", "blocking_waiting" } do counter(name) end
  local service = perilune.spawn "services.bound"
  local release, before = hold(service), counter "mailbox_bytes"
  local text = ("x"):rep(2 ^ 20)
  for _ = 1, 16 do perilune.send(service, "echo", text) end
  -- Workers keep small sums to themselves.
  test.ok(counter "mailbox_bytes" > before + 15 * 2 ^ 20)
  release()
  perilune.stop(service)
end)

local function rss_mb()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmRSS:%s+(%d+)"
    if kb then return kb / 1024 end
  end
end

test("what is published is there once, however many services subscribe", function()
  local services = {}
  for i = 1, 64 do
    services[i] = perilune.spawn("services.bound", nil, { group = "subscribers" })
    perilune.call(services[i], "subscribe", 1)
  end
  local release = hold(services[1]) -- and with it the others
  local text = ("x"):rep(2 ^ 20)
  local before = rss_mb()
  test.equal(perilune.publish("topic 1", text), 64)
  local more = rss_mb() - before
  release()
  for i = 1, 64 do perilune.stop(services[i]) end
  test.ok(more < 24, more)
end)

-- How many of what `add` adds, called with 1, 2, ..., a service may have; and what more raises.
local function fill(limit, add)
  for i = 1, limit do add(i) end
  return tostring(test.raises(function() add(limit + 1) end))
end

test("a service has 64 names at most", function()
  local service = perilune.spawn "services.bound"
  local refused = counter "names_refused"
  local text = fill(64, function(i) perilune.call(service, "name", "name " .. i) end)
  test.ok(text:find "64 names", text)
  test.equal(counter "names_refused", refused + 1)
  perilune.call(service, "name", "name 1") -- one that it has
  test.equal(perilune.find "name 65", nil)
  perilune.stop(service)
  test.equal(perilune.find "name 1", nil)
end)

test("a service subscribes to 10000 topics at most", function()
  local service = perilune.spawn "services.bound"
  local before, refused = counter "subscriptions", counter "subscriptions_refused"
  local text = tostring(test.raises(function() perilune.call(service, "subscribe", 10001) end))
  test.ok(text:find "10000 topics", text)
  test.equal(counter "subscriptions", before + 10000)
  test.equal(counter "subscriptions_refused", refused + 1)
  perilune.call(service, "unsubscribe", 7)
  test.equal(counter "subscriptions", before + 9999)
  test.equal(perilune.publish "topic 8", 1)
  perilune.stop(service)
  test.eventually(function() return counter "subscriptions" == before end)
  for _, name in ipairs { "", ("x"):rep(129) } do
    test.raises(function() perilune.subscribe(name, "echo") end, "1 to 128 bytes")
    test.raises(function() perilune.subscribe("topic", name) end, "1 to 128 bytes")
  end
end)

test("a service has 16384 groups of connections at most", function()
  local service = perilune.spawn "services.bound"
  local before, refused = counter "net_groups", counter "net_groups_refused"
  local text = tostring(test.raises(function() perilune.call(service, "groups", 16385) end))
  test.ok(text:find "16384 groups", text)
  test.equal(counter "net_groups", before + 16384)
  test.equal(counter "net_groups_refused", refused + 1)
  perilune.stop(service)
  test.equal(counter "net_groups", before)
end)

test("links count in the mailbox of those that they come to", function()
  local service = perilune.spawn("services.bound", nil, { mailbox = 8 })
  local release = hold(service)
  for _ = 1, 8 do
    local other = perilune.spawn "services.bound"
    perilune.call(other, "link", service)
    perilune.call(other, "link", service) -- changes nothing
  end
  local before = counter "monitors"
  local late = perilune.spawn "services.bound"
  test.raises(function() perilune.call(late, "link", service) end, "overloaded")
  test.equal(counter "monitors", before)
  perilune.stop(late)
  perilune.kill(service) -- and those that are linked to it
  release()
  test.eventually(function() return counter "monitors" == before - 16 end)
end)

test("what is shared by a node is counted, and its names have 128 bytes at most", function()
  local names, bytes = counter "shared_names", counter "shared_bytes"
  perilune.shared("limits", { text = ("x"):rep(100000) })
  test.equal(counter "shared_names", names + 1)
  test.ok(counter "shared_bytes" >= bytes + 100000)
  perilune.shared("limits", {})
  test.ok(counter "shared_bytes" < bytes + 10000)
  test.raises(function() perilune.shared(("x"):rep(129), {}) end, "1 to 128 bytes")
end)

test("who monitors a light service hears of its death after the end of its calls", function()
  local service = perilune.spawn("services.bound", nil, { group = "order" })
  local watcher = perilune.spawn "services.bound"
  local release = hold(service)
  perilune.send(watcher, "watch", service)
  test.eventually(function() return perilune.call(watcher, "calls") == 1 end)
  perilune.kill(service)
  release()
  test.eventually(function() return #perilune.call(watcher, "seen") == 2 end)
  test.equal(perilune.call(watcher, "seen"), { "dead", "down" })
  perilune.stop(watcher)
end)

test("the log forgets what level a service without a name has set", function()
  local before = counter "log_levels"
  for i = 1, 3 do
    local service = perilune.spawn("services.bound", nil, { group = i > 1 and "levels" or nil })
    perilune.call(service, "level", "error")
    test.equal(counter "log_levels", before + 1)
    if i == 3 then perilune.call(service, "name", "named meanwhile") end
    perilune.stop(service)
    test.equal(counter "log_levels", before)
  end
end)

test("a wait that is woken while its timer is due leaves no timer behind", function()
  local before = perilune.stats().timers
  for _ = 1, 20 do
    local token = new_token()
    perilune.fork(function() wait(token, 1) end)
    perilune.yield()
    local stop = perilune.now() + 4
    while perilune.now() < stop do end -- luacheck: ignore
    wake(token)
    perilune.yield()
  end
  test.equal(perilune.stats().timers, before)
end)

return test
