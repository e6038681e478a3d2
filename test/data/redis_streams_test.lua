-- Subscriptions and streams of Redis, on a real server.

local helper = require "redis_helper"
local perilune = require "perilune"
local redis = require "perilune.redis"
local servers = require "servers"
local socket = require "perilune.socket"
local test = require "perilune.test"

local code, with_db = helper.code, helper.with_db

-- Subscriptions ---------------------------------------------------------------------------------

helper.test("what is published comes to a callback, in order", function()
  with_db(nil, function(db)
    local got, count = {}, helper.scale(2000)
    local subscription = assert(db:subscribe({ "a", "b", "a" }, function(message, channel)
      if #got % 100 == 0 then perilune.sleep(1) end -- the others wait for it
      table.insert(got, channel .. message)
    end))
    test.equal(subscription.names, { "a", "b" })
    for index = 1, count, 100 do
      db:pipeline(function(p)
        for number = index, index + 99 do p:publish(number % 2 == 0 and "a" or "b", number) end
      end)
    end
    local sent = math.ceil(count / 100) * 100
    test.eventually(function() return #got == sent end)
    for number = 1, sent do
      test.equal(got[number], (number % 2 == 0 and "a" or "b") .. number)
    end
    subscription:close()
    test.equal(db:publish("a", "nobody hears it"), 0)
    test.equal(subscription.dropped, 0)
  end)
end)

helper.test("a subscription without a callback is read by a task", function()
  with_db(nil, function(db)
    local subscription = assert(db:psubscribe "room.*")
    test.equal({ subscription:next(20) }, { nil, "timeout", "timeout" })
    db:publish("room.1", "hello")
    db:publish("other", "no")
    db:publish("room.2", "")
    test.equal({ subscription:next() }, { "hello", "room.1" })
    test.equal({ subscription:next() }, { "", "room.2" })
    local got = {}
    perilune.fork(function()
      for message in subscription:each() do table.insert(got, message) end
      table.insert(got, "end")
    end)
    db:publish("room.3", "last")
    test.eventually(function() return #got == 1 end)
    subscription:close()
    test.eventually(function() return #got == 2 end)
    test.equal(got, { "last", "end" })
  end)
end)

helper.test("subscriptions share one connection, which ends with the last of them", function()
  with_db(nil, function(db)
    test.eventually(function() return socket.stats().open == 1 end)
    local subscriptions = {}
    for index = 1, 50 do subscriptions[index] = assert(db:subscribe("channel " .. index % 10)) end
    test.equal(socket.stats().open, 2)
    test.equal(db:publish("channel 3", "x"), 1)
    for index, subscription in ipairs(subscriptions) do
      test.equal(subscription:next(index % 10 == 3 and 10000 or 1), index % 10 == 3 and "x" or nil)
    end
    for index = 1, 49 do subscriptions[index]:close() end
    test.equal(db:publish("channel 0", "for the last one"), 1)
    test.eventually(function() return db:publish("channel 3", "x") == 0 end)
    test.equal(subscriptions[50]:next(10000), "for the last one")
    subscriptions[50]:close()
    test.eventually(function() return socket.stats().open == 1 end)
    -- And again.
    local again = assert(db:subscribe "channel 1")
    test.equal(db:publish("channel 1", "x"), 1)
    test.equal(again:next(10000), "x")
  end)
end)

helper.test("after the server has died everything is subscribed to again, and on_gap is told", function()
  local server = servers.start "redis"
  local db = assert(redis.connect("redis://127.0.0.1:" .. server.port, { timeout_ms = 60000 }))
  local gaps, got = 0, {}
  local subscription = assert(db:subscribe({ "a", "b" }, function(message)
    table.insert(got, message)
  end, function() gaps = gaps + 1 end))
  local patterns = assert(db:psubscribe "p*")
  db:publish("a", "before")
  test.eventually(function() return #got == 1 end)
  server:tell "kill"
  server:tell "start"
  test.eventually(function() return gaps == 1 and patterns.gaps == 1 end, 60000)
  test.equal(subscription.gaps, 1)
  test.equal(db:publish("a", "after"), 1)
  test.equal(db:publish("b", "after"), 1)
  test.equal(db:publish("pattern", "after"), 1)
  test.eventually(function() return #got == 3 end)
  test.equal(got, { "before", "after", "after" })
  test.equal({ patterns:next(10000) }, { "after", "pattern" })
  db:close()
  server:close()
end)

helper.test("what nobody takes is dropped and counted, not kept without limit", function()
  with_db(nil, function(db)
    local slow = assert(db:subscribe "flood")
    local count = 0
    local quick = assert(db:subscribe("flood", function() count = count + 1 end))
    local sent = 12000
    for _ = 1, sent, 1000 do
      local before = count
      db:pipeline(function(p) for _ = 1, 1000 do p:publish("flood", "x") end end)
      test.eventually(function() return count == before + 1000 end)
    end
    test.equal({ slow.dropped, quick.dropped, db:stats().dropped }, { 2000, 0, 2000 })
    for _ = 1, 10000 do test.equal(slow:next(1000), "x") end
    test.equal(slow:next(10), nil)
    -- By their bytes, too.
    local large = ("x"):rep(2 ^ 20)
    for _ = 1, 20 do db:publish("flood", large) end
    test.eventually(function() return slow.dropped == 2005 end)
  end)
end)

helper.test("a callback that raises, or never ends, doesn't end its subscription", function()
  with_db(nil, function(db)
    local got = {}
    assert(db:subscribe("a", function(message)
      if message == "raise" then error "no" end
      if message == "loop" then while true do end end
      table.insert(got, message)
    end))
    for _, message in ipairs { "1", "raise", "2", "loop", "3" } do db:publish("a", message) end
    test.eventually(function() return #got == 3 end, 60000)
    test.equal(got, { "1", "2", "3" })
  end)
end)

helper.test("what may not be subscribed to is told so", function()
  local server = servers.start("redis", { "user player on >secret +@all ~* resetchannels &open" })
  local db = assert(redis.connect("redis://player:secret@127.0.0.1:" .. server.port))
  test.equal(code(db:subscribe "closed"), "NOPERM")
  local subscription = assert(db:subscribe "open")
  test.equal(code(db:subscribe { "open", "closed" }), "NOPERM")
  db:publish("open", "x")
  test.equal(subscription:next(10000), "x")
  test.raises(function() db:subscribe {} end, "redis_streams_test.lua:%d+")
  test.raises(function() db:subscribe("a", 5) end, "a function or the name of one")
  db:close()
  server:close()
end)

-- Streams ----------------------------------------------------------------------------------------

helper.test("a task waits for a stream while others go on", function()
  with_db(nil, function(db)
    local got
    perilune.fork(function() got = db:xread("BLOCK", 0, "STREAMS", "s", "$") end)
    test.eventually(function() return db:info("clients"):find "blocked_clients:1" end)
    local id = db:xadd("s", "*", "name", "value")
    test.eventually(function() return got end)
    test.equal(got, { { "s", { { id, { "name", "value" } } } } })
    test.equal(db:xread("BLOCK", 10, "STREAMS", "s", "$"), nil)
    test.equal(db:xread("COUNT", 1, "STREAMS", "s", 0), got) -- doesn't wait
  end)
end)

helper.test("consumers of a group share the entries, each of which is handled once", function()
  with_db(nil, function(db)
    local count, seen, total = helper.scale(1000), {}, 0
    local consumers = {}
    for index = 1, 3 do
      local consumer = db:consumer { stream = "s", group = "g", name = "c" .. index, from = "0",
        count = 10, block_ms = 50 }
      consumers[index] = consumer
      perilune.fork(function()
        for id, fields in consumer:each() do
          test.ok(not seen[fields.number])
          seen[fields.number], total = index, total + 1
          test.equal(consumer:ack(id), 1)
          if total % 10 == 0 then perilune.sleep(1) end
        end
      end)
    end
    for number = 1, count do db:xadd("s", "*", "number", number) end
    test.eventually(function() return total == count end, 60000)
    for _, consumer in ipairs(consumers) do consumer:close() end
    test.equal(db:xpending("s", "g")[1], 0)
  end)
end)

helper.test("what a consumer hasn't acknowledged comes again, after a restart and after a lost connection",
  function()
    local server = servers.start "redis"
    local db = assert(redis.connect("redis://127.0.0.1:" .. server.port, { timeout_ms = 60000 }))
    local options = { stream = "s", group = "g", name = "me", from = "0", count = 2, block_ms = 100 }
    for number = 1, 5 do db:xadd("s", number .. "-1", "n", number) end
    local first = db:consumer(options)
    test.equal({ first:next() }, { "1-1", { n = "1" } })
    test.equal({ first:next() }, { "2-1", { n = "2" } })
    test.equal(first:ack "1-1", 1)
    test.equal((first:next()), "3-1") -- and has been given 4
    first:close()
    test.equal({ first:next() }, { nil, "closed", "closed" })
    db:xdel("s", "3-1")
    local second = db:consumer(options) -- a restart
    local ids = {}
    for _ = 1, 3 do
      local id = second:next()
      table.insert(ids, id)
      second:ack(id)
    end
    test.equal(ids, { "2-1", "4-1", "5-1" })
    -- What it has handed out and not acknowledged is still being worked on: not a second time.
    db:xadd("s", "6-1", "n", 6)
    test.equal((second:next()), "6-1")
    server:tell "kill"
    server:tell "start"
    perilune.fork(function() db:xadd("s", "7-1", "n", 7) end)
    test.equal((second:next()), "7-1")
    test.equal(second:ack("6-1", "7-1"), 2)
    test.equal(db:xpending("s", "g")[1], 0)
    db:set("text", 1)
    local wrong = db:consumer { stream = "text", group = "g", name = "me" }
    test.equal(code(wrong:next()), "WRONGTYPE")
    test.raises(function() db:consumer { stream = "s" } end, "redis_streams_test.lua:%d+.*group")
    db:close()
    server:close()
  end)

return test
