-- Servers of Redis that die, stop, come back, are slow or say what no server should.

local helper = require "redis_helper"
local perilune = require "perilune"
local redis = require "perilune.redis"
local servers = require "servers"
local socket = require "perilune.socket"
local test = require "perilune.test"

local code = helper.code

local function url_of(server) return "redis://127.0.0.1:" .. server.port end

-- A server that dies ----------------------------------------------------------------------------

helper.test("a killed server: what was under way is unknown, what comes waits for the next one",
  function()
    local server = servers.start "redis"
    local db = assert(redis.connect(url_of(server), { timeout_ms = 60000 }))
    assert(db:set("kept", "a"))
    -- It is stopped first, so that requests are surely under way when it dies.
    server:tell "pause"
    local codes, count = {}, 50
    for index = 1, count do
      perilune.fork(function() table.insert(codes, code(db:incr("n" .. index))) end)
    end
    test.eventually(function() return db:stats().pending == count end)
    server:tell "kill"
    test.eventually(function() return #codes == count end)
    for _, name in ipairs(codes) do test.equal(name, "unknown") end
    test.equal(db:stats().unknown, count)
    local got
    perilune.fork(function() got = { db:get "kept" } end)
    server:tell "start"
    test.eventually(function() return got end, 60000)
    test.equal(got, { "a" })
    local stats = db:stats()
    test.equal({ stats.lost, stats.reconnects, stats.connected, stats.retried }, { 1, 1, 1, 0 })
    db:close()
    server:close()
  end)

helper.test("no reply reaches another request, however often the server dies", function()
  local server = servers.start "redis"
  local db = assert(redis.connect(url_of(server), { timeout_ms = 60000 }))
  local stop, wrong, replies, unknown, other = false, 0, 0, 0, nil
  local ended = 0
  for task = 1, 20 do
    perilune.fork(function()
      local number = 0
      while not stop do
        number = number + 1
        local text = ("%d/%d"):format(task, number)
        local reply, why, kind = db:echo(text)
        if kind == "unknown" then
          unknown = unknown + 1
        elseif kind then
          other = why
        else
          replies = replies + 1
          if reply ~= text then wrong = wrong + 1 end
        end
      end
      ended = ended + 1
    end)
  end
  for round = 1, helper.is_soak and 50 or 3 do
    local before = replies
    test.eventually(function() return replies > before + 1000 end, 60000)
    -- In the midst of requests, and of what a stopped server has not read.
    if round % 2 == 0 then
      server:tell "pause"
      perilune.sleep(20)
    end
    server:tell "kill"
    server:tell "start"
  end
  stop = true
  test.eventually(function() return ended == 20 end, 60000)
  test.equal({ wrong, other }, { 0, nil })
  test.ok(unknown > 0)
  db:close()
  server:close()
end)

helper.test("only reads are given again, and only where that is allowed", function()
  local server = servers.start "redis"
  local db = assert(redis.connect(url_of(server), { timeout_ms = 60000, retry_reads = true }))
  db:set("a", 1)
  local results = {}
  local function ask(name, view, method, ...)
    local arguments = { ... }
    perilune.fork(function() results[name] = { view[method](view, unpack(arguments)) } end)
  end
  server:tell "pause"
  ask("read", db, "get", "a")
  ask("write", db, "incr", "a")
  ask("not allowed", db:with { retry_reads = false }, "get", "a")
  test.eventually(function() return db:stats().pending == 3 end)
  server:tell "kill"
  server:tell "start"
  test.eventually(function() return results.read and results.write and results["not allowed"] end,
    60000)
  test.equal(results.read, { "1" })
  test.equal(results.write[3], "unknown")
  test.equal(results["not allowed"][3], "unknown")
  test.equal(db:stats().retried, 1)
  db:close()
  server:close()
end)

helper.test("a server that stops: requests end in their time, the silent connection is given up",
  function()
    local server = servers.start "redis"
    local db = assert(redis.connect(url_of(server), { timeout_ms = 200, silence_ms = 3000 }))
    assert(db:with({ timeout_ms = 60000 }):set("a", 1))
    server:tell "pause"
    local began = perilune.now()
    test.equal(code(db:get "a"), "timeout")
    test.ok(perilune.now() - began >= 200)
    test.equal(db:stats().connected, 1)
    test.eventually(function()
      db:get "a"
      return db:stats().silent == 1
    end, 60000)
    server:tell "continue"
    test.eventually(function() return db:with({ timeout_ms = 60000 }):get "a" == "1" end, 60000)
    db:close()
    server:close()
  end)

helper.test("an idle connection whose server has stopped is given up, too", function()
  local server = servers.start "redis"
  local db = assert(redis.connect(url_of(server), { ping_ms = 100, silence_ms = 3000 }))
  local subscription = assert(db:subscribe "news")
  perilune.sleep(500) -- pings are answered meanwhile
  test.equal(db:stats().lost, 0)
  server:tell "pause"
  test.eventually(function() return db:stats().silent >= 2 end, 60000)
  server:tell "continue"
  test.eventually(function() return subscription.gaps == 1 end, 60000)
  db:close()
  server:close()
end)

helper.test("no server at all: connect() says so; a lazy one waits, with its limits", function()
  local listener = assert(socket.listen {}) -- a port that nobody has, once it is closed
  local port = listener.port
  listener:close()
  local db, message, kind = redis.connect("redis://127.0.0.1:" .. port)
  test.equal({ db, kind }, { nil, "unavailable" })
  test.ok(message:find(tostring(port)), message)
  db = assert(redis.connect("redis://127.0.0.1:" .. port, { lazy = true, timeout_ms = 300,
    max_pending = 10 }))
  local codes = {}
  helper.at_once(12, function() table.insert(codes, code(db:get "a")) end)
  local count = { busy = 0, unavailable = 0 }
  for _, name in ipairs(codes) do count[name] = count[name] + 1 end
  test.equal(count, { busy = 2, unavailable = 10 })
  local stats = db:stats()
  test.equal({ stats.busy, stats.unavailable, stats.requests, stats.pending }, { 2, 10, 0, 0 })
  db:close()
end)

helper.test("what a service that dies has open is closed", function()
  local server = helper.server()
  for _, group in ipairs { false, "light" } do
    test.eventually(function() return socket.stats().open == 0 end)
    local handles = {}
    for index = 1, 5 do
      handles[index] = perilune.spawn("redis_user", { port = server.port }, { group = group or nil })
    end
    test.equal(socket.stats().open, 10)
    for index, handle in ipairs(handles) do
      if index % 2 == 0 then perilune.kill(handle) else perilune.stop(handle) end
    end
    test.eventually(function() return socket.stats().open == 0 end)
  end
end)

-- A server that says what it is told ------------------------------------------------------------

-- The replies of one connection, and what a client has to make of them.
local REPLIES = {
  { "+OK\r\n", { "OK" } },
  { "$5\r\na\r\nb\0\r\n", { "a\r\nb\0" } },
  { ":42\r\n", { 42 } },
  { "$-1\r\n", {} },
  { "*-1\r\n", {} },
  { "-WRONGTYPE no\r\n", { nil, "WRONGTYPE no", "WRONGTYPE" } },
  { "*3\r\n$1\r\na\r\n*2\r\n:9007199254740993\r\n$-1\r\n*0\r\n",
    { { "a", { "9007199254740993", redis.null }, {} } } },
}

test("replies that are cut in every place arrive whole", function()
  local all = {}
  for index, entry in ipairs(REPLIES) do all[index] = entry[1] end
  local text = table.concat(all)
  local count, cut = 0, 0
  helper.with_fake(function(command, connection)
    if command[1] ~= "ASK" then return nil end
    count = count + 1
    if count % #REPLIES ~= 0 then return "" end
    -- In two parts, whose second comes some turns later.
    local at = cut
    connection:write(text:sub(1, at))
    perilune.fork(function()
      for _ = 1, 3 do perilune.yield() end
      perilune.sleep(1)
      connection:write(text:sub(at + 1))
    end)
    return ""
  end, { name = "" }, function(db)
    for place = 0, #text do
      cut = place
      local results = helper.at_once(#REPLIES, function() return db:command "ASK" end)
      for index, entry in ipairs(REPLIES) do
        test.equal(results[index], entry[2], "cut at " .. place)
      end
    end
  end)
end)

test("replies that come byte by byte arrive whole", function()
  helper.with_fake(function(command, connection)
    if command[1] ~= "ASK" then return nil end
    local text = REPLIES[tonumber(command[2])][1]
    perilune.fork(function()
      for index = 1, #text do
        connection:write(text:sub(index, index))
        perilune.sleep(1)
      end
    end)
    return ""
  end, { name = "" }, function(db)
    for index, entry in ipairs(REPLIES) do
      test.equal({ db:command("ASK", index) }, entry[2])
    end
  end)
end)

test("a late reply is dropped, and the next one goes where it belongs", function()
  local held = {}
  helper.with_fake(function(command)
    if command[1] == "HOLD" then
      held[#held + 1] = command[2]
      return ""
    elseif command[1] == "RELEASE" then
      local replies = {}
      for index, text in ipairs(held) do replies[index] = "$" .. #text .. "\r\n" .. text .. "\r\n" end
      return table.concat(replies) .. "+RELEASED\r\n"
    end
  end, { name = "" }, function(db)
    local quick = db:with { timeout_ms = 50 }
    local codes = {}
    helper.at_once(3, function(index) codes[index] = code(quick:command("HOLD", "text " .. index)) end)
    test.equal(codes, { "timeout", "timeout", "timeout" })
    local partly = quick:pipeline { { "HOLD", "in a pipeline" }, { "HOLD", "too" } }
    test.equal({ partly[1].code, partly[2].code }, { "timeout", "timeout" })
    local patient
    perilune.fork(function() patient = db:command("HOLD", "patient") end)
    test.eventually(function() return #held == 6 end)
    test.equal(db:command "RELEASE", "RELEASED")
    test.equal(patient, "patient")
    local stats = db:stats()
    test.equal({ stats.timeouts, stats.late_replies, stats.lost }, { 5, 5, 0 })
  end)
end)

-- What a port may say instead of a reply, and the code of the oldest request.
local GARBAGE = {
  { "HTTP/1.1 400 Bad Request\r\n\r\n", "malformed" },
  { "\0\1\2\3", "malformed" },
  { "%1\r\n+a\r\n+b\r\n", "malformed" },
  { "$5\r\nabcdefgh\r\n", "malformed" },
  { "$2000\r\n", "too_large" },
  { "*1000000000\r\n", "too_many" },
  { ("*1\r\n"):rep(9), "too_deep" },
  { "+" .. ("x"):rep(70000), "too_large" },
}

for number, entry in ipairs(GARBAGE) do
  test(("garbage from the port ends the connection, not the service (%d: %s)"):format(number, entry[2]),
    function()
      local is_sane, asked = false, 0
      helper.with_fake(function(command)
        if command[1] ~= "ASK" then return nil end
        asked = asked + 1
        if is_sane then return "+sane\r\n" end
        return asked == 2 and "+fine\r\n" .. entry[1] or ""
      end, { name = "", max_reply = 1024, max_elements = 100 }, function(db)
        local results = helper.at_once(3, function() return db:command "ASK" end)
        test.equal(results[1], { "fine" })
        test.equal(results[2][3], entry[2])
        test.equal(results[3][3], "unknown")
        is_sane = true
        test.equal(db:command "ASK", "sane")
        local stats = db:stats()
        test.equal({ stats.refused_replies, stats.lost, stats.reconnects }, { 1, 1, 1 })
      end)
    end)
end

test("a reply to nothing ends the connection", function()
  local connection
  helper.with_fake(function(_, from) connection = from end, { name = "" }, function(db)
    connection:write "+surprise\r\n"
    test.eventually(function() return db:stats().lost == 1 end)
    test.equal(db:ping(), "PONG")
  end)
end)

test("a server that greets with garbage, or not at all, can't be connected to", function()
  for _, reply in ipairs { "garbage\r\n", "-ERR max number of clients reached\r\n", "" } do
    local listener, connections = helper.fake(function() return reply end)
    local began = perilune.now()
    local db, message, kind = redis.connect("redis://:secret@127.0.0.1:" .. listener.port,
      { connect_ms = 300 })
    test.equal(db, nil)
    test.ok(kind == "malformed" or kind == "ERR" or kind == "unavailable", message)
    test.ok(not message:find "secret")
    if reply == "" then test.ok(perilune.now() - began >= 299) end
    helper.close_fake(listener, connections)
  end
end)

test("an error of logging in that repeats its arguments doesn't reveal the password", function()
  local listener, connections = helper.fake(function(command)
    return "-ERR unknown command '" .. table.concat(command, "' '") .. "'\r\n"
  end)
  local db, message = redis.connect("redis://user:p.w%25(%5B@127.0.0.1:" .. listener.port)
  test.equal(db, nil)
  test.ok(message:find "AUTH", message)
  test.ok(not message:find("p.w", 1, true), message)
  helper.close_fake(listener, connections)
end)

test("the limits of requests are none of the service's timers", function()
  local timed_out
  helper.with_fake(function(command) return command[1] == "HOLD" and "" or nil end,
    { name = "", timeout_ms = 100 }, function(db)
      perilune.fork(function() timed_out = code(db:command "HOLD") end)
      perilune.yield()
      perilune.cancel_all()
      test.eventually(function() return timed_out end)
      test.equal(timed_out, "timeout")
      perilune.cancel_all()
      test.equal(code(db:command "HOLD"), "timeout")
    end)
end)

test("too many requests are busy, at once", function()
  helper.with_fake(function(command) return command[1] == "HOLD" and "" or nil end,
    { name = "", max_pending = 100, timeout_ms = 500 }, function(db)
      local busy = 0
      helper.at_once(150, function()
        local began = perilune.now()
        if code(db:command "HOLD") == "busy" then
          busy = busy + 1
          test.ok(perilune.now() - began < 500)
        end
      end)
      test.equal(busy, 50)
      test.equal(db:stats().busy, 50)
      test.equal(code(db:pipeline(function(p) for _ = 1, 101 do p:ping() end end)), "busy")
    end)
end)

test("a server that reads nothing is busy before it takes memory without limit", function()
  local listener, connections = helper.fake(function() end)
  local db = assert(redis.connect("redis://127.0.0.1:" .. listener.port,
    { name = "", timeout_ms = 60000, silence_ms = 3000 }))
  connections[1]._held = true
  require("perilune.native.socket").pause(connections[1].id)
  local text, busy, ended = ("x"):rep(2 ^ 20), 0, 0
  for _ = 1, 60 do
    perilune.fork(function()
      if code(db:set("k", text)) == "busy" then busy = busy + 1 end
      ended = ended + 1
    end)
  end
  test.eventually(function() return busy > 0 end)
  -- 16 MB, what the system takes, and what is asked for between two looks at it.
  test.ok(busy >= 25, busy .. " were busy")
  test.eventually(function() return ended == 60 end, 30000) -- it is given up as silent
  db:close()
  helper.close_fake(listener, connections)
end)

test("pauses before connecting again grow, up to a limit", function()
  local listener, connections = helper.fake(function() end)
  local db = assert(redis.connect("redis://127.0.0.1:" .. listener.port, { name = "" }))
  -- From here on each connection ends as soon as it has begun.
  local times = {}
  listener:close()
  connections[1]:abort()
  local again = test.eventually(function()
    return (socket.listen {
      port = listener.port,
      on_open = function(connection)
        times[#times + 1] = perilune.now()
        connection:abort()
      end,
    })
  end)
  test.eventually(function() return #times >= 4 end, 20000)
  for index = 2, #times do
    -- 0.2, 0.4, ... s, a quarter more or less; the machine may be late, but nothing is early.
    test.ok(times[index] - times[index - 1] >= 100 * 2 ^ (index - 1) * 0.75 - 1)
  end
  db:close()
  again:close()
end)

return test
