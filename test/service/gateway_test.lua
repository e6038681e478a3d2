-- What the gateway does by itself: logins, kicks, ends of sessions, the protocol's own packets.
local perilune = require "perilune"
local bot = require "perilune.bot"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local game = require "protocol"
local world = require "world"

local JSON = protocol.JSON
local STATUS = protocol.status

-- A JSON packet of any numbers, as a client sends it.
local function json_packet(stype, ctype, value, request_id)
  return packet.make(stype, ctype, 0, JSON, packet.wrap_json(value, request_id))
end

local function next_error(player)
  local name, body = player:next()
  test.equal(name, "protocol.error")
  return body.code, body
end

-- ---- logging in ----

test("before login only logins pass, and the connection is kept", function()
  world.with({}, function(port)
    local player = world.connect(port)
    for _, name in ipairs { "talkroom.exit", "auth.logout" } do
      local _, _, code = player:request(name)
      test.equal(code, "not_logged_in", name)
    end
    player.connection:write(json_packet(77, 5, "null"))
    local code, body = next_error(player)
    test.equal({ code, body.stype, body.ctype }, { "not_logged_in", 77, 5 })
    test.ok(player:login())
    player:close()
    world.wait_for("not_logged_in", 3)
  end)
end)

test("a second login on a connection is refused", function()
  world.with({}, function(port)
    local player = world.player(port)
    test.equal(player:request("auth.guest_login", bot.new_key()).status, STATUS.invalid_operation)
    test.equal(player:request("auth.account_login", { uname = "a", upwd = "b" }).status,
      STATUS.invalid_operation)
    test.equal(world.stats().users, 1)
    test.equal(player:request("talkroom.exit").status, STATUS.not_in_room, "still who it was")
    player:close()
    world.wait_for("users", 0)
  end)
end)

test("of two logins at once on a connection one is refused", function()
  world.with({}, function(port)
    local player, statuses = world.connect(port), {}
    local function login()
      local status = player:request("auth.guest_login", bot.new_key()).status
      statuses[#statuses + 1] = status
    end
    perilune.wait_all { login, login, login }
    table.sort(statuses)
    test.equal(statuses, { STATUS.invalid_operation, STATUS.invalid_operation, STATUS.ok })
    test.equal(world.stats().users, 1)
    player:close()
  end)
end)

test("a duplicate login kicks the first, whose end leaves the second alone", function()
  world.with({}, function(port)
    local first = world.player(port)
    first:request("talkroom.enter", { uname = "first", usex = 0 })
    local witness = world.talker(port, JSON, "witness")
    local second = world.player(port, JSON, first.key)
    test.equal(second.profile.uid, first.profile.uid)
    test.equal(world.wait_closed(first), "relogin")
    local name = first:next()
    while name ~= "auth.relogin" do name = test.ok(first:next()) end
    local left, body = witness:next()
    test.equal({ left, body.uname }, { "talkroom.user_left", "first" })
    world.wait_for("sessions", 2)
    test.equal(second:request("talkroom.enter", { uname = "second", usex = 0 }).status, STATUS.ok)
    witness:request("talkroom.send_message", "to you")
    name, body = second:next()
    test.equal({ name, body.text }, { "talkroom.user_message", "to you" })
    left, body = witness:next()
    test.equal({ left, body.uname }, { "talkroom.user_arrived", "second" })
    test.equal(world.stats().relogins, 1)
    second:close()
    left, body = witness:next()
    test.equal({ left, body.uname }, { "talkroom.user_left", "second" })
    witness:close()
  end)
end)

test("many logins of one player leave the last", function()
  world.with({}, function(port)
    local key, players = bot.new_key(), {}
    local bodies = {}
    for i = 1, 10 do
      bodies[i] = function()
        local player = world.connect(port)
        players[i] = player
        player:login(key)
      end
    end
    perilune.wait_all(bodies)
    world.wait_for("sessions", 1)
    local alive = 0
    for _, player in ipairs(players) do
      if not player.closed then
        alive = alive + 1
        test.equal(player:request("talkroom.exit").status, STATUS.not_in_room)
        player:close()
      end
    end
    test.equal(alive, 1)
    test.equal(perilune.call("auth", "stats").accounts, 1)
  end)
end)

test("an older login than the player has is refused", function()
  local keys = {}
  local function on_packet(_, key) keys[#keys + 1] = key end
  world.with_gateway({}, on_packet, function(port)
    local players = {}
    for i = 1, 2 do
      players[i] = world.connect(port)
      players[i]:send("auth.guest_login", bot.new_key())
      test.eventually(function() return keys[i] end)
    end
    test.equal(perilune.call("gateway", "login", keys[1], 9, 5), true)
    test.equal(perilune.call("gateway", "login", keys[2], 9, 4), false)
    test.equal(world.wait_closed(players[2]), "relogin")
    test.equal(world.stats().users, 1)
    test.equal(perilune.call("gateway", "login", keys[2], 9, 6), false, "it is gone")
    players[1]:close()
  end)
end)

test("logging out makes room for another login on the same connection", function()
  world.with({}, function(port)
    local player, witness = world.talker(port, JSON, "Ada"), world.talker(port, JSON, "witness")
    local uid = player.profile.uid
    test.equal(player:request("auth.logout").status, STATUS.ok)
    test.equal(witness:next(), "talkroom.user_left")
    test.equal(select(3, player:request("talkroom.exit")), "not_logged_in")
    test.ok(player:login(bot.new_key()))
    test.ok(player.profile.uid ~= uid)
    test.equal(player:request("talkroom.exit").status, STATUS.not_in_room)
    player:close()
    witness:close()
  end)
end)

test("a reply never reaches a later session of the same player", function()
  local held
  local function on_packet(data, key)
    local stype, ctype = packet.header(data)
    if stype == 2 then
      perilune.send("gateway", "login", key, 7, held and 2 or 1)
    elseif ctype ~= protocol.DISCONNECTED then
      held = { data, key }
    end
  end
  world.with_gateway({}, on_packet, function(port)
    local first, second = world.connect(port), world.connect(port)
    first:send("auth.guest_login", bot.new_key())
    world.wait_for("users", 1)
    first:send("talkroom.exit", nil, 1)
    test.eventually(function() return held end)
    second:send("auth.guest_login", bot.new_key())
    world.wait_closed(first)
    local reply = game:encode_reply("talkroom.exit", JSON, { status = 1 }, nil, 7)
    perilune.send("gateway", "deliver", reply, held[2])
    world.wait_for("undeliverable", 1)
    test.equal(second:next(50), nil)
    -- What is pushed, without a key, reaches the player.
    perilune.send("gateway", "deliver", reply)
    test.equal(second:next(), "talkroom.exit")
    second:close()
  end)
end)

-- ---- services ----

test("commands of a service that is down answer service_unavailable", function()
  world.with({}, function(port)
    local player = world.player(port)
    perilune.stop("talkroom")
    local _, _, code = player:request("talkroom.exit")
    test.equal(code, "service_unavailable")
    player.connection:write(json_packet(5, 1, "null", 12))
    local name, body = player:next()
    test.equal({ name, body.code }, { "protocol.error", "unknown_service" })
    perilune.spawn("talkroom", nil, { name = "talkroom" })
    test.equal(player:request("talkroom.exit").status, STATUS.not_in_room)
    player:close()
    perilune.stop("talkroom")
  end)
end)

test("a login that auth can't take may be tried again", function()
  world.with({}, function(port)
    perilune.stop("auth")
    local player = world.connect(port)
    for _ = 1, 2 do
      test.equal(select(3, player:request("auth.guest_login", bot.new_key())),
        "service_unavailable")
    end
    perilune.spawn("auth", nil, { name = "auth" })
    test.ok(player:login())
    player:close()
    perilune.stop("auth")
  end)
end)

test("a login that auth dies over may be tried again", function()
  world.with({}, function(port)
    perilune.stop "auth"
    local deaf = perilune.spawn("deaf", nil, { name = "auth" })
    local player = world.connect(port)
    player:send("auth.guest_login", bot.new_key())
    world.wait_for("forwarded", 1)
    perilune.kill(deaf)
    test.equal(next_error(player), "service_unavailable")
    local auth = perilune.spawn("auth", nil, { name = "auth" })
    test.ok(player:login())
    player:close()
    perilune.stop(auth)
  end)
end)

test("players of a gateway that died are gone, and may come back", function()
  world.with({}, function(port)
    local lost, back = world.talker(port, JSON, "lost"), world.talker(port, JSON, "back")
    perilune.kill "gateway"
    test.eventually(function() return lost.closed and back.closed end)
    local gateway = perilune.spawn("gateway", { listen = { { port = 0 } } }, { name = "gateway" })
    local again = world.player(world.stats().listeners[1].port, JSON, back.key)
    -- Entering tells the others, and that finds the dead gateway.
    test.equal(again:request("talkroom.enter", { uname = "again", usex = 0 }).status, STATUS.ok)
    test.eventually(function() return perilune.call("talkroom", "stats").members == 1 end)
    again:close()
    perilune.stop(gateway)
  end)
end)

test("each service hears once, in order, that a player is gone", function()
  local seen = {}
  local function on_packet(data, key)
    local stype, ctype, utag = packet.header(data)
    if ctype == 1 and stype == 2 then perilune.send("gateway", "login", key, 7, 1) end
    if utag == 7 then seen[#seen + 1] = ctype end
  end
  world.with_gateway({}, on_packet, function(port)
    local player = world.connect(port)
    player:send("auth.guest_login", bot.new_key())
    world.wait_for("users", 1)
    for _ = 1, 3 do player:send("talkroom.exit") end
    player:send("auth.logout")
    player:close()
    world.wait_for("sessions", 0)
    test.eventually(function() return #seen == 5 end)
    perilune.sleep(30)
    test.equal(seen, { 2, 2, 2, 5, protocol.DISCONNECTED })
  end)
end)

-- ---- the protocol itself ----

test("hello tells version, schema and limits", function()
  world.with({}, function(port)
    local player = world.connect(port)
    local body = player:request("protocol.hello", { version = 1 })
    test.equal(body.version, 1)
    test.equal(#body.schema, 8)
    test.equal(body.limits, { frame_bytes = 65533, packets_per_second = 50, burst = 100,
      login_ms = 10000, ping_ms = 60000 })
    test.ok(player:login(), "the others still work")
    player:close()

    local future = world.connect(port)
    future:send("protocol.hello", { version = 2 })
    test.equal(world.wait_closed(future), "version")
  end)
end)

test("ping is answered by pong, resume by expired", function()
  world.with({}, function(port)
    local player = world.connect(port)
    player:send("protocol.ping", nil, 5)
    test.equal(player:next(), "protocol.pong")
    test.equal(select(3, player:request("protocol.resume", { token = "x" })), "expired")
    for _, ctype in ipairs { 5, 6, 8, 0, -1 } do
      player.connection:write(json_packet(0, ctype, "null", 3))
      local code, body = next_error(player)
      test.equal({ code, body.ctype }, { "unknown_command", ctype })
    end
    player.connection:write(json_packet(0, 1, '{"version":"one"}'))
    test.equal(next_error(player), "invalid_params")
    player:close()
  end)
end)

test("a server that stops says so", function()
  local player
  world.with({}, function(port) player = world.player(port) end)
  test.equal(world.wait_closed(player), "shutdown")
end)

-- ---- faults that servers have had ----

test("reserved numbers from a client are refused and counted", function()
  world.with({}, function(port)
    local player = world.player(port)
    local numbers = { { 10001, 10001 }, { 10001, 1 }, { 1, 10000 }, { 1, 10001 }, { -1, 1 },
      { 1, -5 }, { -32768, -32768 }, { 10000, 1 } }
    for i, pair in ipairs(numbers) do
      player.connection:write(json_packet(pair[1], pair[2], "null"))
      test.equal(next_error(player), "reserved", i)
    end
    test.equal(world.stats().reserved, #numbers)
    player:close()
  end)
end)

test("a frame of length 0 or 1 closes that connection alone", function()
  world.with({}, function(port)
    local other = world.player(port)
    for _, bytes in ipairs { "\0\0", "\1\0" } do
      local client = world.raw(port)
      client:write(bytes)
      test.equal({ client:read(1, 3000) }, { nil, "closed", client.closed })
    end
    world.wait_for("malformed", 2)
    test.ok(other:request("talkroom.exit"))
    other:close()
  end)
end)

test("a packet shorter than its header closes that connection alone", function()
  world.with({}, function(port)
    local other = world.player(port)
    for size = 0, 9 do
      local client = world.connect(port)
      client.connection:write(("\1"):rep(size))
      test.equal(world.wait_closed(client), "malformed")
    end
    test.ok(other:request("talkroom.exit"))
    other:close()
    world.wait_for("malformed", 10)
  end)
end)

test("players get their own messages when others come and go", function()
  local fast = { rate = 10000, burst = 10000 }
  world.with({ talkroom = fast, gateway = fast }, function(port)
    local speaker = world.talker(port, JSON, "speaker")
    local listeners = {}
    for round = 1, 10 do
      while #listeners < 5 do listeners[#listeners + 1] = world.talker(port, JSON, "x") end
      for i = 1, 10 do
        test.equal(speaker:request("talkroom.send_message", ("%d.%d"):format(round, i)).status, 1)
        -- In the middle of it two go.
        if i == 5 then
          table.remove(listeners, 2):close()
          table.remove(listeners, 3):close()
        end
      end
      for _, listener in ipairs(listeners) do
        for i = 1, 10 do
          local name, line
          repeat
            name, line = listener:next()
            test.ok(name, "a message is missing")
          until name == "talkroom.user_message"
          test.equal(line.text, ("%d.%d"):format(round, i))
        end
      end
    end
    speaker:close()
    for _, listener in ipairs(listeners) do listener:close() end
  end)
end)

test("keys in use and those of the dead are skipped", function()
  local keys = {}
  local function on_packet(_, key) keys[#keys + 1] = key - 2 ^ 31 end
  world.with_gateway({ keys = 4, key_rest_ms = 3600000 }, on_packet, function(port)
    local function open()
      local player, count = world.connect(port), #keys
      player:send("auth.guest_login", bot.new_key())
      test.eventually(function() return #keys > count end)
      return player, keys[#keys]
    end
    local first, second, third = open(), open(), open()
    test.equal({ keys[2], keys[3] }, { (keys[1] + 1) % 4, (keys[1] + 2) % 4 })
    second:close()
    world.wait_for("sessions", 2)
    local fourth, fourth_key = open()
    test.equal(fourth_key, (keys[1] + 3) % 4)
    local fifth = world.connect(port)
    test.equal(world.wait_closed(fifth), "full", "all are in use or rest")
    for _, player in ipairs { first, third, fourth } do player:close() end
  end)
end)

test("the key of one that has gone is used again when it has rested", function()
  local keys = {}
  local function on_packet(_, key) keys[#keys + 1] = key end
  world.with_gateway({ keys = 2, key_rest_ms = 50 }, on_packet, function(port)
    local players = {}
    -- Until there is a key for it.
    local function open()
      local count, player = #keys, nil
      test.eventually(function()
        player = world.connect(port)
        player:send("auth.guest_login", bot.new_key())
        test.eventually(function() return player.closed or #keys > count end)
        return #keys > count
      end, 10000)
      players[#players + 1] = player
    end
    open()
    open()
    players[1]:close()
    open()
    test.equal(keys[3], keys[1])
    players[2]:close()
    players[3]:close()
  end)
end)

return test
