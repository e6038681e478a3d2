-- Sessions that outlive their connections.
local perilune = require "perilune"
local bot = require "perilune.bot"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local socket = require "perilune.socket"
local test = require "perilune.test"
local game = require "protocol"
local world = require "world"

local JSON, BUF = protocol.JSON, protocol.BUF
local STATUS = protocol.status
local FAST = { rate = 10000, burst = 10000 }

local function with_world(gateway, body)
  gateway.rate, gateway.burst = FAST.rate, FAST.burst
  gateway.listen = { { port = 0 }, { port = 0, kind = "websocket" } }
  world.with({ gateway = gateway, talkroom = FAST }, function()
    local listeners = world.stats().listeners
    body({ port = listeners[1].port },
      { url = ("ws://127.0.0.1:%d/"):format(listeners[2].port) })
  end)
end

-- A bot that is logged in and can resume.
local function player(where, form, key)
  local self = world.connect(where, form)
  local hello = test.ok(self:request("protocol.hello", { version = 1 }))
  test.ok(hello.resume:find("^" .. ("%x"):rep(32) .. "$"), hello.resume)
  test.ok(self:login(key))
  return self
end

local function talker(where, form, uname)
  local self = player(where, form)
  test.equal(self:request("talkroom.enter", { uname = uname, usex = 1 }).status, STATUS.ok)
  return self
end

-- Breaks the connection and waits until the gateway keeps the session.
local function lose_connection(self)
  local before = world.stats().kept
  self.connection:abort()
  world.wait_for("kept", before + 1)
end

local function expect_expired(self, where)
  local ok, _, code = self:resume(where)
  test.equal({ ok, code }, { nil, "expired" })
end

local function next_line(self)
  local name, line
  repeat
    name, line = self:next()
    test.ok(name, line)
  until name ~= "talkroom.user_arrived"
  test.equal(name, "talkroom.user_message")
  return line
end

local function say(self, text)
  test.equal(self:request("talkroom.send_message", text).status, STATUS.ok)
end

-- ---- what is resumed ----

test("a session goes on by another connection, of either transport", function()
  with_world({}, function(tcp, websocket)
    local witness = talker(tcp, JSON, "witness")
    for _, from in ipairs { tcp, websocket } do
      for _, to in ipairs { tcp, websocket } do
        for _, form in ipairs { JSON, BUF } do
          local ada = talker(from, form, "Ada")
          test.equal(witness:next(), "talkroom.user_arrived")
          local token = ada.token
          lose_connection(ada)
          say(witness, "one")
          say(witness, "two 😀")
          test.ok(ada:resume(to))
          test.ok(ada.token ~= token and #ada.token == 32)
          test.equal(next_line(ada).text, "one")
          test.equal(next_line(ada).text, "two 😀")
          say(ada, "still here")
          test.equal(next_line(witness).text, "still here", "and nobody has left or arrived")
          test.equal(ada:request("talkroom.exit").status, STATUS.ok)
          test.equal(witness:next(), "talkroom.user_left")
          test.equal(ada:request("auth.logout").status, STATUS.ok)
          world.wait_for("users", 1)
          ada:close()
        end
      end
    end
    witness:request "auth.logout"
    world.wait_for("users", 0)
    witness:close()
    world.wait_for("sessions", 0)
    local stats = world.stats()
    test.equal({ stats.kept, stats.resumed, stats.resume_expired, stats.kept_now,
      stats.resume_bytes, stats.pending }, { 8, 8, 0, 0, 0, 0 })
    test.equal(stats.opened, stats.closed)
  end)
end, 60000)

test("nothing is lost or doubled while lines keep coming", function()
  with_world({ resume_packets = 4096, resume_bytes = 2 ^ 20 }, function(tcp, websocket)
    local LINES, BREAKS = 600, 12
    local speaker, listener = world.talker(tcp.port, JSON, "speaker"), talker(tcp, BUF, "listener")
    local heard, last = 0, 0
    local function on_push(_, name, line)
      if name ~= "talkroom.user_message" then return end
      test.equal(line.text, tostring(heard + 1))
      heard, last = heard + 1, line.id
    end
    listener.on_push = on_push
    perilune.wait_all {
      function()
        for i = 1, LINES do say(speaker, tostring(i)) end
      end,
      function()
        for i = 1, BREAKS do
          local until_line = heard + 20
          test.eventually(function() return heard >= until_line or heard == LINES end, 20000)
          -- Broken, ended, or not even that when it is resumed.
          if i % 3 == 0 then listener.connection:abort() end
          if i % 3 == 1 then listener.connection:close() end
          test.ok(listener:resume(i % 2 == 0 and tcp or websocket))
        end
      end,
    }
    test.eventually(function() return heard == LINES end, 20000)
    test.ok(last > 0)
    test.equal(listener:request("talkroom.exit").status, STATUS.ok)
    test.equal(heard, LINES)
    test.equal(world.stats().resumed, BREAKS)
    speaker:close()
    listener:close()
  end)
end, 60000)

test("a session is resumed that the gateway doesn't know to be broken", function()
  with_world({}, function(tcp)
    local ada, witness = talker(tcp, JSON, "Ada"), world.talker(tcp.port, JSON, "witness")
    local silent = ada.connection
    silent.on_data, silent.on_close = function() end, nil
    say(witness, "into the void")
    perilune.call("gateway", "stats") -- it has been written by now
    -- A bot that knows what Ada knows, and has no connection to close.
    local again = world.connect(tcp)
    again.token, again._received = ada.token, ada._received
    test.ok(again:resume())
    test.equal(next_line(again).text, "into the void")
    test.eventually(function() return silent.closed end)
    test.equal(world.stats().kept, 0)
    test.equal(witness:next(50), nil, "nobody has left")
    again:close()
    witness:close()
  end)
end)

test("a reply that comes while the session is kept is sent when it is resumed", function()
  local asked
  local function on_packet(data, key)
    local stype, ctype = packet.header(data)
    if stype == 2 then perilune.send("gateway", "login", key, 7, 1) end
    if stype == 1 and ctype == 2 then asked = key end
  end
  world.with_gateway({}, on_packet, function(port)
    local ada = world.connect(port)
    ada:request("protocol.hello", { version = 1 })
    ada:send("auth.guest_login", bot.new_key())
    world.wait_for("users", 1)
    ada:send("talkroom.exit", nil, 9)
    test.eventually(function() return asked end)
    lose_connection(ada)
    local reply = game:encode_reply("talkroom.exit", JSON, { status = 1 }, 9, 7)
    perilune.send("gateway", "deliver", reply, asked)
    perilune.send("gateway", "refuse", asked, "system_error", "oops", 10, 1, 2)
    test.ok(ada:resume())
    test.equal(ada:next(), "talkroom.exit")
    local name, body = ada:next()
    test.equal({ name, body.code }, { "protocol.error", "system_error" }, "errors are numbered")
    ada:close()
  end)
end)

test("a session is resumed again and again, as a client with a hello each time does it", function()
  with_world({}, function(tcp)
    local ada, witness = talker(tcp, JSON, "Ada"), world.talker(tcp.port, JSON, "witness")
    for i = 1, 5 do
      lose_connection(ada)
      say(witness, tostring(i))
      local again = world.connect(tcp)
      local hello = again:request("protocol.hello", { version = 1 })
      again._resumed_at = ada._received
      local reply = again:request("protocol.resume",
        { token = ada.token, received = ada._received })
      test.equal(reply, { status = STATUS.ok, token = hello.resume }, "one token a connection")
      test.equal(next_line(again).text, tostring(i))
      ada = again
    end
    ada:close()
    witness:close()
  end)
end)

test("a client that falls silent is kept", function()
  with_world({ ping_ms = 100 }, function(tcp)
    local ada = talker(tcp, JSON, "Ada")
    ada.connection.on_data = function() end
    world.wait_for("kept", 1)
    test.ok(ada:resume())
    test.equal(ada:request("talkroom.exit").status, STATUS.ok)
    test.ok(world.stats().idle >= 1)
    ada:close()
  end)
end)

test("a WebSocket that ends without a close frame is kept", function()
  with_world({}, function(_, websocket)
    local ada = talker(websocket, JSON, "Ada")
    local relay
    local server = assert(socket.listen { paused = true, on_open = function(below)
      local above = assert(socket.connect("127.0.0.1", tonumber(websocket.url:match ":(%d+)")))
      relay = above
      below.on_data = function(_, data) above:write(data) end
      above.on_data = function(_, data) below:write(data) end
      below:resume()
    end })
    lose_connection(ada)
    test.ok(ada:resume { url = ("ws://127.0.0.1:%d/"):format(server.port) })
    relay:close()
    world.wait_for("kept", 2)
    test.ok(ada:resume(websocket))
    test.equal(ada:request("talkroom.exit").status, STATUS.ok)
    ada:close()
    server:close()
  end)
end)

-- ---- what isn't ----

test("after resume_ms services hear once that the player is gone", function()
  with_world({ resume_ms = 100 }, function(tcp)
    local witness = world.talker(tcp.port, JSON, "witness")
    local ada = talker(tcp, JSON, "Ada")
    test.equal(witness:next(), "talkroom.user_arrived")
    ada.connection:abort()
    test.equal(witness:next(), "talkroom.user_left")
    world.wait_for("sessions", 1)
    expect_expired(ada)
    test.ok(ada:login(), "it may log in instead")
    test.equal(ada:request("talkroom.exit").status, STATUS.not_in_room)
    test.equal(witness:next(50), nil, "once")
    local stats = world.stats()
    test.equal({ stats.kept, stats.resumed, stats.resume_expired, stats.kept_now },
      { 1, 0, 1, 0 })
    ada:close()
    witness:close()
  end)
end)

test("wrong tokens and used ones are refused, and harm no session", function()
  with_world({}, function(tcp)
    local ada = talker(tcp, JSON, "Ada")
    local used = ada.token
    lose_connection(ada)
    local thief = world.connect(tcp)
    for _, token in ipairs { "", "x", used:upper() .. "0", ("0"):rep(32), ("x"):rep(1000) } do
      test.equal(select(3, thief:request("protocol.resume", { token = token, received = 0 })),
        "expired", token)
    end
    test.equal(select(3, thief:request("protocol.resume")), "expired")
    test.ok(ada:resume())
    test.equal(select(3, thief:request("protocol.resume", { token = used, received = 0 })),
      "expired", "it is good for once")
    -- A token of one who hasn't logged in.
    local stranger = world.connect(tcp)
    stranger:request("protocol.hello", { version = 1 })
    test.equal(select(3, thief:request("protocol.resume", { token = stranger.token })), "expired")
    test.ok(stranger:login())
    test.equal(ada:request("talkroom.exit").status, STATUS.ok)
    for _, each in ipairs { ada, thief, stranger } do each:close() end
  end)
end)

test("who is logged in can't resume another session", function()
  with_world({}, function(tcp)
    local ada, eve = talker(tcp, JSON, "Ada"), player(tcp)
    lose_connection(ada)
    test.equal(eve:request("protocol.resume", { token = ada.token }).status,
      STATUS.invalid_operation)
    test.ok(ada:resume(), "which is still there")
    ada:close()
    eve:close()
  end)
end)

test("who has missed more than the ring holds has lost the session", function()
  with_world({ resume_packets = 5 }, function(tcp)
    local witness = world.talker(tcp.port, JSON, "witness")
    local ada = talker(tcp, JSON, "Ada")
    lose_connection(ada)
    for i = 1, 5 do say(witness, tostring(i)) end
    test.ok(ada:resume(), "five are no more than it holds")
    for i = 1, 5 do test.equal(next_line(ada).text, tostring(i)) end
    lose_connection(ada)
    for i = 1, 6 do say(witness, tostring(i)) end
    world.wait_for("resume_expired", 1)
    expect_expired(ada)
    test.equal(witness:next(), "talkroom.user_arrived")
    test.equal(witness:next(), "talkroom.user_left")
    ada:close()
    witness:close()
  end)
end)

test("what was sent and not received counts, too", function()
  with_world({ resume_packets = 5 }, function(tcp)
    local witness, ada = world.talker(tcp.port, JSON, "witness"), talker(tcp, JSON, "Ada")
    local received = ada._received
    for i = 1, 6 do say(witness, tostring(i)) end
    for _ = 1, 6 do next_line(ada) end
    ada._received = received + 1
    test.ok(ada:resume())
    for i = 2, 6 do test.equal(next_line(ada).text, tostring(i)) end
    for _, wrong in ipairs { 0, 1000 } do
      ada._received = wrong
      expect_expired(ada)
      test.ok(player(tcp, JSON, ada.key)):close()
      ada = talker(tcp, JSON, "Ada")
    end
    ada:close()
    witness:close()
  end)
end)

test("the ring is limited in bytes, of a session and of all", function()
  for _, name in ipairs { "resume_bytes", "resume_total_bytes" } do
    with_world({ [name] = 3000 }, function(tcp)
      local witness = world.talker(tcp.port, JSON, "witness")
      local ada = talker(tcp, JSON, "Ada")
      lose_connection(ada)
      for _ = 1, 2 do say(witness, ("x"):rep(1000)) end
      test.ok(world.stats().resume_bytes <= 3000)
      test.ok(ada:resume(), name)
      for _ = 1, 2 do test.equal(#next_line(ada).text, 1000) end
      lose_connection(ada)
      local other = name == "resume_total_bytes" and player(tcp)
      for _ = 1, other and 2 or 3 do say(witness, ("x"):rep(1000)) end
      world.wait_for("resume_expired", 1)
      expect_expired(ada)
      if other then other:close() end
      ada:close()
      witness:close()
    end)
  end
end)

test("a login elsewhere ends a session that is kept", function()
  with_world({}, function(tcp, websocket)
    local witness, ada = world.talker(tcp.port, JSON, "witness"), talker(tcp, JSON, "Ada")
    test.equal(witness:next(), "talkroom.user_arrived")
    lose_connection(ada)
    local other = player(websocket, JSON, ada.key)
    test.equal(witness:next(), "talkroom.user_left")
    expect_expired(ada)
    test.equal(other:request("talkroom.exit").status, STATUS.not_in_room)
    local stats = world.stats()
    test.equal({ stats.relogins, stats.users, stats.kept_now }, { 1, 2, 0 })
    -- And one that isn't kept has no token any more, either.
    local token, third = other.token, world.player(tcp.port, JSON, ada.key)
    world.wait_closed(other)
    test.equal(select(3, ada:request("protocol.resume", { token = token })), "expired")
    for _, each in ipairs { witness, ada, third } do each:close() end
  end)
end)

test("logging out, a kick and a shutdown leave nothing to resume", function()
  with_world({}, function(tcp)
    local ada = player(tcp)
    test.equal(ada:request("auth.logout").status, STATUS.ok)
    ada.connection:abort()
    world.wait_for("sessions", 0)
    expect_expired(ada)
    ada:close()

    local eve = player(tcp)
    test.equal(perilune.call("gateway", "kick", eve.profile.uid, "frozen"), true)
    test.equal(world.wait_closed(eve), "frozen")
    expect_expired(eve)
    eve:close()

    -- The same while they are kept.
    local bob = player(tcp)
    lose_connection(bob)
    test.equal(perilune.call("gateway", "kick", bob.profile.uid, "frozen"), true)
    expect_expired(bob)
    bob:close()
    local kim = player(tcp)
    lose_connection(kim)
    world.wait_for("sessions", 1)
    perilune.send("gateway", "logout", kim.profile.uid, 1)
    world.wait_for("sessions", 0)
    expect_expired(kim)
    kim:close()

    local witness = world.talker(tcp.port, JSON, "witness")
    lose_connection(talker(tcp, JSON, "Joe"))
    perilune.stop "gateway"
    test.equal(world.wait_closed(witness), "shutdown")
    test.eventually(function() return perilune.call("talkroom", "stats").members == 0 end)
  end)
end)

test("one that sends what is malformed isn't kept, nor who hasn't said hello", function()
  with_world({}, function(tcp)
    local ada = player(tcp)
    ada.connection:write "short"
    test.equal(world.wait_closed(ada), "malformed")
    expect_expired(ada)
    ada:close()
    local plain = world.player(tcp.port)
    plain.connection:abort()
    local early = world.connect(tcp)
    early:request("protocol.hello", { version = 1 })
    early.connection:abort()
    world.wait_for("sessions", 0)
    test.equal(world.stats().kept, 0)
  end)
end)

test("a page that is left isn't kept", function()
  with_world({}, function(_, websocket)
    for _, code in ipairs { 1001, 1000 } do
      local ada = player(websocket)
      ada.connection:close_websocket(code, "")
      world.wait_for("closed", code == 1001 and 1 or 2)
      test.equal(world.stats().kept, code == 1001 and 0 or 1)
    end
  end)
end)

test("with resume_ms = 0 there are no tokens", function()
  with_world({ resume_ms = 0 }, function(tcp)
    local ada = world.connect(tcp)
    test.equal(ada:request("protocol.hello", { version = 1 }).resume, "")
    test.ok(ada:login())
    ada.connection:abort()
    world.wait_for("sessions", 0)
    test.equal(world.stats().kept, 0)
  end)
end)

-- ---- limits ----

test("kept sessions count as connections, and can be resumed when the server is full", function()
  for _, limits in ipairs { { max_connections = 2, pending_share = 1 },
    { max_per_address = 2, exempt = {} } } do
    with_world(limits, function(tcp)
      local ada, eve = player(tcp), player(tcp)
      lose_connection(ada)
      test.equal(world.stats().sessions, 2)
      local other = world.connect(tcp)
      other:send("auth.guest_login", bot.new_key())
      test.equal(world.wait_closed(other), "full")
      local thief = world.connect(tcp)
      thief:send("protocol.resume", { token = "x", received = 0 })
      test.equal(world.wait_closed(thief), "full")
      test.ok(ada:resume())
      world.wait_for("sessions", 2)
      -- Nobody is kept: it is told at once.
      test.equal(world.wait_closed(world.connect(tcp)), "full")
      test.equal(ada:request("talkroom.exit").status, STATUS.not_in_room)
      ada:request "auth.logout"
      eve:request "auth.logout"
      ada:close()
      eve:close()
      world.wait_for("sessions", 0)
      test.equal(world.stats().pending, 0)
      test.ok(player(tcp)):close()
    end)
  end
end)

return test
