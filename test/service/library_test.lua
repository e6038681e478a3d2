-- The small libraries under the services: perilune.limits, perilune.options, perilune.callback,
-- perilune.test.
local perilune = require "perilune"
local callback = require "perilune.callback"
local limits = require "perilune.limits"
local lru = require "perilune.lru"
local options = require "perilune.options"
local test = require "perilune.test"

test("a bucket allows its burst at once and its rate on average", function()
  local bucket, passed = limits.bucket(10, 5, 0), 0
  for now = 0, 999 do
    if bucket:take(now) then passed = passed + 1 end
  end
  test.equal(passed, 14) -- 5 at once, and the tenth second's isn't full yet
  test.ok(limits.bucket(0.5, 1, 0):take(0))
end)

test("buckets by key are apart, and forget", function()
  local buckets = limits.buckets(1, 2, 0)
  test.ok(buckets:take("a", 0) and buckets:take("a", 0) and not buckets:take("a", 0))
  test.ok(buckets:take("b", 0))
  test.ok(buckets:take("a", 1000) and not buckets:take("a", 1000))
  for i = 1, 50000 do buckets:take(i, 1500) end
  local kept = 0
  for _ in pairs(buckets._map._young) do kept = kept + 1 end
  for _ in pairs(buckets._map._old) do kept = kept + 1 end
  test.ok(kept <= 20000, kept)
end)

test("a lock-out begins, ends, and is forgotten after a success", function()
  local lockout = limits.lockout(3, 1000, 0)
  for _ = 1, 2 do lockout:fail("a", 0) end
  test.ok(not lockout:is_locked("a", 0))
  lockout:fail("a", 0)
  test.ok(lockout:is_locked("a", 0))
  lockout:forgive("a", 0) -- the last of them was none
  test.ok(not lockout:is_locked("a", 0))
  lockout:forget "a"
  for _ = 1, 2 do lockout:fail("a", 10) end
  test.ok(not lockout:is_locked("a", 10))
  lockout:fail("a", 20)
  test.ok(lockout:is_locked("a", 20) and lockout:is_locked("a", 1019))
  test.ok(not lockout:is_locked("a", 1020))
  test.ok(not lockout:is_locked("b", 20))
  for i = 1, 3 do lockout:fail("slow", i * 900) end
  test.ok(not lockout:is_locked("slow", 2700), "failures grow old")
end)

test("a map that is bounded forgets what hasn't been used for longest", function()
  local map = lru.new { entries = 3, bytes = 100, ttl_ms = 1000 }
  for i = 1, 3 do map:set(i, "v" .. i, 10, 0) end
  test.equal(map:get(1, 1), "v1") -- used now: 2 is the oldest
  map:set(4, "v4", 10, 2)
  test.equal({ map:get(1, 3), map:get(2, 3), map:get(3, 3), map:get(4, 3) },
    { "v1", nil, "v3", "v4" })
  test.equal({ map.count, map.bytes, map.evicted }, { 3, 30, 1 })
  map:set(5, "large", 85, 4) -- there is room for one more
  test.equal({ map.count, map.bytes, map:get(4, 5), map:get(5, 5) }, { 2, 95, "v4", "large" })
  map:set(6, "too large", 101, 6)
  test.equal(map:get(6, 6), nil)
  map:set(4, "again", 20, 6) -- in the place of v4, and 5 goes
  test.equal({ map:get(4, 7), map:get(5, 7), map.bytes }, { "again", nil, 20 })
  test.equal(map:get(4, 1006), nil, "too old")
  map:set(7, false, 0, 2000)
  test.equal(map:get(7, 2999), false)
  map:remove(7)
  map:remove(8)
  test.equal({ map:get(7, 2000), map.count, map.bytes }, { nil, 0, 0 })
end)

test("a map that is bounded is so after any number of steps", function()
  local map, wanted = lru.new { entries = 50 }, {}
  for step = 1, 20000 do
    local key = math.random(200)
    if math.random(3) == 1 then
      map:remove(key)
      for i, other in ipairs(wanted) do
        if other == key then table.remove(wanted, i) end
      end
    else
      local is_new = map:get(key, 0) == nil
      for i, other in ipairs(wanted) do
        if other == key then table.remove(wanted, i) end
      end
      wanted[#wanted + 1] = key
      if is_new then map:set(key, key, 0, 0) end
      if #wanted > 50 then table.remove(wanted, 1) end
    end
    if step % 500 == 0 then
      test.equal(map.count, #wanted)
      for _, key_there in ipairs(wanted) do test.equal(map:get(key_there, 0), key_there) end
    end
  end
end)

test("limits go by address, in IPv6 by network", function()
  for address, wanted in pairs {
    ["192.0.2.1:5000"] = "192.0.2.1", ["192.0.2.1"] = "192.0.2.1", ["[::1]:5000"] = "::1",
    ["[2001:db8:1:2:3:4:5:6]:80"] = "2001:db8:1:2::/64", ["2001:db8::1"] = "2001:db8:0:0::/64",
    ["[2001:db8:1:2::9]:1"] = "2001:db8:1:2::/64", ["[fe80::1:2:3:4:5]:1"] = "fe80:0:0:1::/64",
    ["[::ffff:192.0.2.1]:80"] = "192.0.2.1",
  } do
    test.equal(limits.address(address), wanted, address)
  end
end)

function test.join(...) return table.concat({ ... }, " ") end

test("a callback is a function, or the name of one of the service", function()
  test.equal(callback.call(math.max, 1, 3), 3)
  test.equal(callback.call("join", "a", "b"), "a b")
  test.raises(function() callback.call "vanished" end, '^there is no function "vanished"$')
  for _, value in ipairs { print, "join" } do test.ok(callback.is(value)) end
  for _, value in ipairs { 1, {}, true } do test.ok(not callback.is(value)) end
  test.ok(not callback.is(nil))
end)

test("options of a function are refused with its name, at the line that called it", function()
  local declared = { on_data = { type = "callback", meaning = "called with each frame" } }
  local function open(given) return (options.read_for("socket.open", declared, given)) end
  test.equal(open { on_data = "on_frame" }, { on_data = "on_frame" })
  test.raises(function() open { on_data = 7 } end, "library_test%.lua:%d+: socket%.open: option " ..
    "on_data has to be a function or the name of one, but is 7 %(called with each frame%)$")
  test.raises(function() open(7) end, "socket%.open: options are a table")
end)

test("each table of a list has options of its own, and defaults", function()
  local declared = {
    listen = { type = "table", default = { {} }, items = {
      kind = { type = "string", default = "tcp" },
      port = { type = "integer", default = 1, min = 0 },
    } },
  }
  test.equal(options.read(declared), { listen = { { kind = "tcp", port = 1 } } })
  test.equal(options.read(declared, { listen = { { port = 5 }, { kind = "udp" } } }),
    { listen = { { kind = "tcp", port = 5 }, { kind = "udp", port = 1 } } })
  for pattern, listen in pairs {
    ["^listen%[2%]: there is no option prt$"] = { {}, { prt = 1 } },
    ["^listen%[1%]: option port has to be from 0"] = { { port = -1 } },
    ["^listen%[1%]: options are a table$"] = { 5 },
    ["^option listen has to be a list$"] = { port = 1 },
  } do
    test.raises(function() options.read(declared, { listen = listen }) end, pattern)
  end
  test.equal(declared.listen.default, { {} })
end)

test("options have defaults and limits", function()
  local declared = {
    port = { type = "integer", default = 6080, min = 0, max = 65535, meaning = "TCP port" },
    mode = { type = "string", choices = { "fast", "slow" }, meaning = "how" },
    name = { type = "string", required = true, meaning = "whose" },
  }
  test.equal(options.read(declared, { name = "x" }), { port = 6080, name = "x" })
  test.equal(options.read(declared, { name = "x", mode = "slow", port = 0 }).port, 0)
  local function refuses(given, pattern)
    test.raises(function() options.read(declared, given) end, pattern)
  end
  refuses({}, "option name is missing %(whose%)")
  refuses({ name = "x", port = 1.5 }, "option port has to be of type integer")
  refuses({ name = "x", port = -1 }, "has to be from 0 to 65535")
  refuses({ name = "x", mode = "odd" }, "option mode can't be odd")
  refuses({ name = "x", prot = 1 }, "there is no option prot")
end)

test("what a test leaves behind fails it", function()
  local handle = perilune.spawn("leftover_tests")
  local results = perilune.call_within(60000, handle, "run", { settle_ms = 200 })
  perilune.stop(handle)
  local texts = {}
  for i, result in ipairs(results) do
    texts[i] = result.name .. ": " .. (result.ok and "ok" or result.message:match("[^\n]*"))
  end
  test.equal(texts, {
    "service: left behind: 1 services", "timer: left behind: 1 timers",
    "listener: left behind: 1 listeners", "database: left behind: 1 SQLite databases", "clean: ok",
    "slow: took longer than 50 ms",
  })
end)

return test
