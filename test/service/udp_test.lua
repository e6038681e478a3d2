-- UDP of the gateway: no login, a ticket; a second way for packets that may be lost, and nothing
-- that happens to it touches the session.

local crypto = require "perilune.crypto"
local enet = require "perilune.enet"
local gateway = require "perilune.gateway"
local packet = require "perilune.packet"
local perilune = require "perilune"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local ticket = require "perilune.ticket"
local udp = require "perilune.udp"
local world = require "world"

local JSON, BUF = protocol.JSON, protocol.BUF
local STATUS = protocol.status

-- Runs body(port, stats): the port of TCP, and a function for one number of the gateway.
local function with_udp(options, body)
  local entry = options.udp or {}
  options.udp = nil
  entry.port, entry.kind = 0, "udp"
  options.listen = {
    { port = 0 }, entry, { port = 0, kind = "websocket" }, { port = 0, encrypt = true },
  }
  world.with({ gateway = options, talkroom = { rate = 1000, burst = 1000 } }, function(port)
    body(port, function(name) return world.stats()[name] end)
    test.eventually(function() return world.stats().udp_waiting == 0 end, 20000, "none waits")
  end)
end

local function joined(where, form)
  local player = world.talker(where, form, "u" .. math.random(1e9))
  test.equal({ player:join_udp() }, { true })
  return player
end

-- A ticket as bytes.
local function ticket_of(player)
  local given = player:request("protocol.udp")
  test.equal(given.status, STATUS.ok)
  return crypto.unhex(given.ticket), crypto.unhex(given.secret), given.port
end

-- A peer that is connected; `ended` gets why it was closed.
local function connect(port)
  local ended = {}
  local peer = assert(enet.connect("127.0.0.1", port, {
    on_data = function(_, data) ended.answer = data end,
    on_close = function(_, reason) ended.reason = reason end,
  }))
  return peer, ended
end

local function next_named(player, wanted)
  while true do
    local name, body = player:next()
    if not name then error(("no %s came: %s"):format(wanted, tostring(body)), 2) end
    if name == wanted then return body end
  end
end

local function line(text)
  return { id = 1, uid = 9, uname = "x", usex = 1, text = text, time = 1 }
end

-- Which way a line comes to a player. To be called before it is sent; returns who waits for it.
local function way_of_line(player, text)
  local way
  local function watch(of, name)
    local came = of.on_data
    of.on_data = function(source, data, channel)
      if data:find(text, 1, true) then
        way = way and "both" or name
        of.on_data = came
      end
      return came(source, data, channel)
    end
  end
  watch(player.connection, "connection")
  if player.udp then watch(player.udp, "udp") end
  return function()
    while next_named(player, "talkroom.user_message").text ~= text do end
    return way
  end
end

local function way_of(push, player, text)
  local way = way_of_line(player, text)
  push(player.profile.uid, "talkroom.user_message", line(text))
  return way()
end

test("a player of any transport sends by UDP, and hears by it what may be lost", function()
  with_udp({}, function(port, stats)
    local listeners = world.stats().listeners
    test.equal(listeners[2].kind, "udp")
    local places = {
      { port = port }, { url = "ws://127.0.0.1:" .. listeners[3].port },
      { url = "tcp+encrypted://127.0.0.1:" .. listeners[4].port },
    }
    local players = {}
    for index, place in ipairs(places) do
      for _, form in ipairs { JSON, BUF } do
        players[#players + 1] = joined(place, form)
        test.equal(stats "udp_peers", #players, "place " .. index)
      end
    end
    for index, player in ipairs(players) do
      player.by_udp = true
      local before = stats "udp_packets_in"
      test.equal(player:request("talkroom.send_message", "line " .. index).status, STATUS.ok)
      test.equal(stats "udp_packets_in", before + 1)
      for _, other in ipairs(players) do
        if other ~= player then
          test.equal(next_named(other, "talkroom.user_message").text, "line " .. index)
        end
      end
    end
    for _, player in ipairs(players) do
      test.equal(way_of(gateway.push_unreliable, player, "moves"), "udp")
      test.equal(way_of(gateway.push, player, "arrives"), "connection")
      test.equal(way_of(gateway.push_unreliable, player, ("x"):rep(1300)), "connection")
    end
    test.equal(stats "udp_fallbacks", #players)
    for _, player in ipairs(players) do player:close() end
    test.eventually(function() return stats "udp_peers" == 0 end, 10000)
    test.equal(stats "udp_ended", #players)
  end)
end, 60000)

test("what may be lost goes to many at once, each by the way they have", function()
  with_udp({}, function(port)
    local players, uids = {}, {}
    for index = 1, 4 do
      players[index] = index % 2 == 0 and joined({ port = port }, index > 2 and BUF or JSON)
        or world.talker({ port = port }, index > 2 and BUF or JSON, "t" .. index)
      uids[index] = players[index].profile.uid
    end
    local ways = {}
    for index = 1, 3 do ways[index] = way_of_line(players[index], "all") end
    gateway.broadcast_unreliable(uids, "talkroom.user_message", line "all", uids[4])
    for index = 1, 3 do test.equal(ways[index](), index == 2 and "udp" or "connection") end
    gateway.broadcast_unreliable(uids, "talkroom.user_message", line "four")
    test.equal(next_named(players[4], "talkroom.user_message").text, "four")
    for _, player in ipairs(players) do player:close() end
  end)
end)

test("the gateway says who a packet is from, whatever its utag", function()
  local seen = {}
  local function on_packet(data, key)
    seen[#seen + 1] = { packet.header(data) }
    if #seen == 1 then perilune.call("gateway", "login", key, 7, 1) end
  end
  world.with_gateway({ listen = { { port = 0 }, { port = 0, kind = "udp" } } }, on_packet,
    function(port)
      local player = world.connect(port)
      player:send("auth.guest_login", ("a"):rep(32))
      world.wait_for("users", 1)
      test.ok(player:join_udp())
      player.udp:write(packet.make(1, 5, 12345, JSON, packet.wrap_json '"hi"'))
      test.eventually(function() return seen[2] end, 10000)
      test.equal(seen[2], { 1, 5, 7, JSON })
      player.udp:write(packet.make(1, 5, 2 ^ 31 + 1, JSON, packet.wrap_json '"hi"'),
        { channel = 1, mode = "unreliable" })
      test.eventually(function() return seen[3] end, 10000)
      test.equal(seen[3][3], 7)
      player:close()
    end)
end)

test("who isn't logged in gets no ticket, nor anybody where there is no UDP", function()
  with_udp({}, function(port, stats)
    local stranger = world.connect(port)
    test.equal(stranger:request("protocol.udp").status, STATUS.invalid_operation)
    stranger:close()
    test.equal(stats "udp_tickets", 0)
  end)
  with_udp({ udp = { public_port = 1234 } }, function(port)
    local player = world.player(port)
    test.equal(select(3, ticket_of(player)), 1234, "what is outside of a router")
    player:close()
  end)
  world.with({}, function(port)
    local player = world.player(port)
    test.equal(player:request("protocol.udp").status, STATUS.invalid_operation)
    gateway.push_unreliable(player.profile.uid, "talkroom.user_message", line "by TCP")
    test.equal(next_named(player, "talkroom.user_message").text, "by TCP")
    player:close()
  end)
end)

test("the first packets have the bytes of docs/protocol.md", function()
  local file = assert(io.open("docs/protocol.md"))
  local documented = file:read("*a"):gsub("%s", "")
  file:close()
  local function counting(first, count)
    local bytes = {}
    for index = 1, count do bytes[index] = string.char(first + index - 1) end
    return table.concat(bytes)
  end
  local id, secret = counting(0, 16), counting(0x20, 32)
  local cookie = "\10\11\12\13" .. ("\238"):rep(16)
  -- By another implementation of HMAC.
  local shown = "504c5401000102030405060708090a0b0c0d0e0f0a0b0c0d"
    .. "bb795f4130dbd9b963adfa3efd9a107cdb4e1b86b0e3970fe795ca5c5b34f772"
  local answer = "504c5401bb8e742eb67fdc71c1af3131c8cfd02a2a20e73e231b616cec625691dcb0b5cd"
  test.equal(crypto.hex(ticket.show(id, secret, cookie)), shown)
  test.equal(crypto.hex(ticket.answer(id, secret, cookie)), answer)
  test.ok(documented:find(shown, 1, true) and documented:find(answer, 1, true))
  test.equal({ ticket.read(ticket.show(id, secret, cookie)) },
    { id, 0x0d0c0b0a, crypto.unhex(shown:sub(-64)) })
end)

test("there is no login over UDP", function()
  with_udp({}, function(port, stats)
    local _, _, udp_port = ticket_of(world.player(port))
    local peer, ended = connect(udp_port)
    local game = require "protocol"
    peer:write(game:encode_request("auth.guest_login", JSON, ("a"):rep(32)))
    test.eventually(function() return ended.reason end, 10000)
    test.equal(stats "udp_no_ticket", 1)
    test.equal(stats "users", 1)
    -- And none for who is logged in.
    local player = joined { port = port }
    player.by_udp = true
    test.equal(player:request("auth.guest_login", ("b"):rep(32)).status, STATUS.invalid_operation)
    player:close()
  end)
end)

test("any other first packet ends that peer, is counted, and harms nobody", function()
  with_udp({}, function(port, stats)
    local bystander = joined { port = port }
    local id, secret, udp_port = ticket_of(bystander)
    local function refused(counter, what, channel)
      local before = stats(counter)
      local peer, ended = connect(udp_port)
      peer:write(type(what) == "function" and what(peer:cookie()) or what,
        { channel = channel or ticket.CHANNEL })
      test.eventually(function() return ended.reason end, 10000, counter)
      test.equal(ended.answer, nil)
      test.equal(stats(counter), before + 1)
      test.ok(bystander.udp)
    end
    local function shown(cookie) return ticket.show(id, secret, cookie) end
    refused("udp_no_ticket", "")
    refused("udp_no_ticket", crypto.random_bytes(56))
    refused("udp_no_ticket", ("\255"):rep(60000))
    refused("udp_no_ticket", function(cookie) return shown(cookie):sub(1, -2) end)
    refused("udp_no_ticket", function(cookie) return shown(cookie) .. "x" end)
    refused("udp_no_ticket", shown, 1)
    refused("udp_bad_ticket", function(cookie)
      return ticket.show(crypto.random_bytes(16), secret, cookie)
    end)
    refused("udp_bad_signature", function(cookie)
      return ticket.show(id, crypto.random_bytes(32), cookie)
    end)
    local other = world.player(port)
    local _, secret_of_other = ticket_of(other)
    refused("udp_bad_signature", function(cookie)
      return ticket.show(id, secret_of_other, cookie)
    end)
    -- What the server would say, said by the client.
    refused("udp_bad_signature", function(cookie)
      local answer = ticket.answer(id, secret, cookie):sub(-32)
      return shown(cookie):sub(1, -33) .. answer
    end)
    for at = 1, 56 do
      local counter = at <= 4 and "udp_no_ticket" or at <= 20 and "udp_bad_ticket"
        or "udp_bad_signature"
      if at % 5 == 1 or at >= 52 then
        refused(counter, function(cookie)
          local data = shown(cookie)
          return data:sub(1, at - 1) .. string.char((data:byte(at) + 1) % 256) .. data:sub(at + 1)
        end)
      end
    end
    -- The ticket is good still, for who can sign.
    local peer, ended = connect(udp_port)
    peer:write(shown(peer:cookie()))
    test.eventually(function() return ended.answer end, 10000)
    test.equal(ended.answer, ticket.answer(id, secret, peer:cookie()))
    test.equal(stats "udp_replaced", 1)
    peer:abort()
    other:close()
    bystander:close()
  end)
end, 60000)

test("a first packet that somebody has overheard is of no use elsewhere, nor twice", function()
  with_udp({}, function(port, stats)
    local player = world.player(port)
    local id, secret, udp_port = ticket_of(player)
    local first, second = connect(udp_port), connect(udp_port)
    local thief, caught = connect(udp_port)
    local overheard = ticket.show(id, secret, first:cookie())
    thief:write(overheard)
    test.eventually(function() return caught.reason end, 10000)
    test.equal(stats "udp_bad_signature", 1)
    first:write(overheard)
    test.eventually(function() return stats "udp_joined" == 1 end, 10000)
    second:write(ticket.show(id, secret, second:cookie()))
    test.eventually(function() return stats "udp_bad_ticket" == 1 end, 10000)
    test.equal(stats "udp_peers", 1)
    first:abort()
    player:close()
  end)
end)

test("a ticket is good for its time, until the next, and while its player is here", function()
  with_udp({ udp_ticket_ms = 300 }, function(port, stats)
    local player = world.player(port)
    local function show(id, secret, udp_port)
      local peer, ended = connect(udp_port)
      peer:write(ticket.show(id, secret, peer:cookie()))
      test.eventually(function() return ended.reason or ended.answer end, 10000)
      peer:abort()
      return ended.answer ~= nil
    end
    local id, secret, udp_port = ticket_of(player)
    perilune.sleep(400)
    test.equal(show(id, secret, udp_port), false, "too late")
    id, secret = ticket_of(player)
    ticket_of(player)
    test.equal(show(id, secret, udp_port), false, "there is a newer one")
    id, secret = ticket_of(player)
    player:request("auth.logout")
    test.equal(show(id, secret, udp_port), false, "logged out")
    test.equal(stats "udp_bad_ticket", 3)
    player:close()
  end)
end)

test("who shows no ticket in time is dropped", function()
  with_udp({ udp_first_ms = 200 }, function(port, stats)
    local _, _, udp_port = ticket_of(world.player(port))
    local _, ended = connect(udp_port)
    test.equal(stats "udp_waiting", 1)
    test.eventually(function() return ended.reason end, 10000)
    test.equal(stats "udp_late", 1)
    test.equal(stats "udp_waiting", 0)
    local gone = connect(udp_port)
    gone:abort()
    test.eventually(function() return stats "udp_no_ticket" == 1 end, 10000)
    -- In time, but it has joined: nothing is late.
    local player = joined { port = port }
    perilune.sleep(400)
    test.ok(player.udp)
    player:close()
  end)
end)

test("where UDP is blocked the session does without", function()
  with_udp({}, function(port)
    local player = world.talker({ port = port }, JSON, "alone")
    local closed = assert(udp.open {}) -- nobody answers there
    local ok, _, code = player:join_udp { port = closed.port, connect_ms = 300 }
    test.equal({ ok, code }, { nil, "unavailable" })
    test.equal(way_of(gateway.push_unreliable, player, "by TCP"), "connection")
    test.equal(player:request("talkroom.send_message", "here").status, STATUS.ok)
    closed:close()
    player:close()
  end)
end)

-- A port whose datagrams go on to another, until `wire.cut`; the peer's address is another then.
local function relay(port)
  local wire, client = {}, nil
  local outside
  local inside = assert(udp.open {
    on_data = function(_, data) if client and not wire.cut then
      outside:send(data, client[1], client[2])
    end end,
  })
  outside = assert(udp.open {
    on_data = function(_, data, host, from)
      client = { host, from }
      if not wire.cut then inside:send(data, "127.0.0.1", port) end
    end,
  })
  function wire.close()
    inside:close()
    outside:close()
  end
  wire.port = outside.port
  return wire
end

test("UDP that dies takes nothing with it, and may be joined again", function()
  with_udp({ udp = { timeout_ms = 1000 } }, function(port, stats)
    local player = world.talker({ port = port }, JSON, "mobile")
    local _, _, udp_port = ticket_of(player)
    local wire = relay(udp_port)
    test.equal({ player:join_udp { port = wire.port } }, { true }) -- through another address
    test.equal(way_of(gateway.push_unreliable, player, "one"), "udp")
    wire.cut = true
    test.eventually(function()
      gateway.push_unreliable(player.profile.uid, "talkroom.user_message", line "lost")
      perilune.sleep(20)
      return stats "udp_peers" == 0
    end, 30000, "given up")
    test.equal(way_of(gateway.push_unreliable, player, "by TCP"), "connection")
    test.equal(player:request("talkroom.send_message", "here").status, STATUS.ok)
    test.equal(player:join_udp(), true)
    test.equal(way_of(gateway.push_unreliable, player, "again"), "udp")
    wire.close()
    player:close()
  end)
end, 60000)

test("a peer ends with its player, and a second replaces the first", function()
  with_udp({}, function(port, stats)
    local function ends_with(what, action)
      local player = joined { port = port }
      local before, peer = stats "udp_ended", player.udp
      action(player)
      test.eventually(function() return peer.closed end, 10000, what)
      test.eventually(function() return stats "udp_peers" == 0 end, 10000, what)
      test.equal(stats "udp_ended", before + 1, what)
      player:close()
    end
    ends_with("close", function(player) player.connection:close() end)
    ends_with("break", function(player) player.connection:abort() end)
    ends_with("kick", function(player)
      perilune.call("gateway", "kick", player.profile.uid, "test")
    end)
    ends_with("logout", function(player) player:request("auth.logout") end)
    ends_with("relogin", function(player) world.player(port, JSON, player.key):close() end)
    ends_with("abort of its own", function(player) player.udp:abort() end)
    local player = joined { port = port }
    local first = player.udp
    test.equal({ player:join_udp() }, { true })
    test.eventually(function() return first.closed end, 10000)
    test.equal(stats "udp_peers", 1)
    test.equal(way_of(gateway.push_unreliable, player, "second"), "udp")
    player:close()
  end)
end, 60000)

test("a session that is resumed has no UDP until it asks again, and has missed nothing", function()
  with_udp({}, function(port, stats)
    local player = world.connect { port = port }
    player:request("protocol.hello", { version = 1 })
    player:login()
    player:request("talkroom.enter", { uname = "Ada", usex = 1 })
    test.ok(player:join_udp())
    local uid = player.profile.uid
    gateway.push(uid, "talkroom.user_message", line "1")
    gateway.push_unreliable(uid, "talkroom.user_message", line "by UDP, and not counted")
    next_named(player, "talkroom.user_message")
    next_named(player, "talkroom.user_message")
    player.connection:abort()
    world.wait_for("kept_now", 1)
    test.equal(stats "udp_peers", 0)
    gateway.push_unreliable(uid, "talkroom.user_message", line "while away: lost")
    gateway.push(uid, "talkroom.user_message", line "2")
    test.ok(player:resume())
    test.equal(next_named(player, "talkroom.user_message").text, "2")
    test.equal(player.udp, nil)
    test.ok(player:join_udp())
    test.equal(way_of(gateway.push_unreliable, player, "3"), "udp")
    -- From a connection that the gateway doesn't know to be broken.
    local peer = player.udp
    local second = world.connect { port = port }
    second.token, second._received = player.token, player._received
    player.connection.on_data = function() end
    test.ok(second:resume())
    test.eventually(function() return peer.closed end, 10000)
    test.equal(stats "udp_peers", 0)
    second:close()
  end)
end, 60000)

test("a flood by UDP ends the peer, rubbish costs that packet, and neither the session", function()
  -- The bucket doesn't fill here: how it does is a test of the limits.
  local limits = { rate = 0.1, burst = 30, max_strikes = 20 }
  with_udp(limits, function(port, stats)
    local player = joined { port = port }
    player.by_udp = true
    for _ = 1, 200 do player:send("protocol.ping") end
    test.eventually(function() return stats "udp_flooding" == 1 end, 20000)
    test.ok(stats "too_fast" > 20)
    test.eventually(function() return player.udp == nil end, 10000)
    test.equal(player.closed, nil)
    test.equal(stats "flooding", 0)
    -- The rate is one for both ways.
    player.by_udp = false
    player:send("protocol.ping")
    test.equal(next_named(player, "protocol.error").code, "too_fast")
    player:close()
  end)
  with_udp({}, function(port, stats)
    local player = joined { port = port }
    for index, bytes in ipairs {
      "", "x", packet.make(1, 5, 0, 3, ""), packet.make(0, 1, 0, JSON, "rubbish"),
      -- The header is as it should be: the service finds out.
      packet.make(1, 5, 0, JSON, "rubbish"), packet.make(1, 5, 0, BUF, "\255\255"),
      packet.make(1, 5, 0, JSON, "\3\0{{{"),
    } do
      player.udp:write(bytes)
      test.eventually(function() return stats "udp_malformed" == index end, 10000)
      player.by_udp = index % 2 == 0
      test.equal(player:request("talkroom.send_message", "here").status, STATUS.ok)
    end
    test.equal(stats "malformed", 0)
    test.equal(stats "udp_peers", 1)
    test.equal(player.closed, nil)
    player:close()
  end)
end, 60000)

test("peers are limited: without a ticket, of an address, and in all", function()
  local function peers(port, count)
    local all = {}
    for index = 1, count do
      all[index] = assert(enet.connect("127.0.0.1", port, { connect_ms = 10000 }))
    end
    return all
  end
  local function open_of(all, count)
    local open = 0
    for index = 1, count do
      if not all[index].closed then open = open + 1 end
    end
    return open
  end
  with_udp({ exempt = {}, max_pending = 3 }, function(port, stats)
    local player = world.player(port)
    local _, _, udp_port = ticket_of(player)
    local all = peers(udp_port, 5)
    test.eventually(function() return open_of(all, 5) == 3 end, 10000)
    test.equal(stats "udp_full", 2)
    test.equal(stats "udp_waiting", 3)
    for index = 1, 5 do all[index]:abort() end
    test.eventually(function() return stats "udp_waiting" == 0 end, 10000)
    test.ok(player:join_udp(), "there is room again")
    player:close()
  end)
  with_udp({ udp = { max_peers = 2 } }, function(port, stats)
    local player = world.player(port)
    local _, _, udp_port = ticket_of(player)
    local all = peers(udp_port, 2)
    test.eventually(function() return stats "udp_waiting" == 2 end, 10000)
    test.equal(player:request("protocol.udp").status, STATUS.busy)
    local before = enet.stats().enet_refused_full
    test.equal(enet.connect("127.0.0.1", udp_port, { connect_ms = 700 }), nil)
    test.ok(enet.stats().enet_refused_full > before)
    for index = 1, 2 do all[index]:abort() end
    player:close()
  end)
end, 60000)

test("options that are wrong don't start it", function()
  local function start(listen)
    return function() perilune.spawn("gateway", { listen = listen }) end
  end
  local entry = { port = 0, kind = "udp" }
  test.raises(start { entry, entry }, "listener of UDP already")
  test.raises(start { { port = 0, kind = "udp", max_peers = 5000 } }, "max_peers")
  test.raises(start { { port = 0, kind = "udp", tls = {} } }, "UDP has no TLS")
  test.raises(start { { port = 0, kind = "udp", host = "::1" } }, "no IPv6")
end)

return test
