-- Each limit of the gateway, hit with small numbers.
local perilune = require "perilune"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local socket = require "perilune.socket"
local test = require "perilune.test"
local world = require "world"

local JSON = protocol.JSON

local function enter_fully(port)
  local player = world.player(port)
  test.ok(player:request("talkroom.exit"))
  return player
end

test("a session over its rate is refused, then closed; others are not", function()
  -- It gets no more here: how a bucket fills is a test of the limits, library_test.lua.
  local limits = { rate = 0.1, burst = 5, max_strikes = 20 }
  world.with({ gateway = limits }, function(port)
    local fast, other = enter_fully(port), enter_fully(port)
    local began = perilune.now()
    for i = 1, 4 do fast:send("protocol.ping", nil, i) end
    local codes = {}
    for _ = 1, 4 do
      local name, body = fast:next()
      codes[#codes + 1] = body and type(body) == "table" and body.code or name
    end
    test.equal(codes, { "protocol.pong", "protocol.pong", "protocol.pong", "too_fast" })
    for _ = 1, 40 do fast:send("protocol.ping") end
    test.equal(world.wait_closed(fast), "flooding")
    local errors = 0
    for _, push in ipairs(fast._pushes) do
      if push[1] == "protocol.error" then errors = errors + 1 end
    end
    test.ok(errors <= (perilune.now() - began) / 1000, "told once a second")
    test.ok(other:request("talkroom.exit"))
    other:close()
    world.wait_for("flooding", 1)
  end)
end)

test("the rate of an address holds for all its connections together", function()
  local limits = { address_rate = 0.1, address_burst = 10, exempt = {} }
  world.with({ gateway = limits, auth = { exempt = {} } }, function(port)
    local players = {}
    for i = 1, 3 do players[i] = world.player(port) end -- 3 of 10
    for i = 1, 10 do players[i % 3 + 1]:send("protocol.ping", nil, i) end
    test.eventually(function() return world.stats().too_fast >= 3 end)
    for _, player in ipairs(players) do player:close() end
  end)
end)

test("an address may have so many connections, and so many not logged in", function()
  local limits = { max_per_address = 5, max_pending = 3, exempt = {} }
  world.with({ gateway = limits }, function(port)
    local pending = {}
    for i = 1, 3 do pending[i] = world.connect(port) end
    local over = world.connect(port)
    test.equal(world.wait_closed(over), "full")
    test.equal(over.closing.text, "too many connections from your address")
    for i = 1, 3 do test.ok(pending[i]:login()) end
    local more = { world.player(port), world.player(port) }
    test.equal(world.wait_closed(world.connect(port)), "full")
    more[1]:close()
    world.wait_for("sessions", 4)
    more[1] = world.player(port)
    for _, player in ipairs(pending) do player:close() end
    for _, player in ipairs(more) do player:close() end
    world.wait_for("sessions", 0)
    test.equal(world.stats().full, 2)
    test.equal(world.stats().pending, 0)
  end)
end)

test("a quarter of the places is for those not logged in", function()
  world.with({ gateway = { max_connections = 8 } }, function(port)
    local pending = { world.connect(port), world.connect(port) }
    test.equal(world.wait_closed(world.connect(port)), "full")
    local players = {}
    for i, player in ipairs(pending) do
      test.ok(player:login())
      players[i] = player
    end
    for i = 3, 8 do players[i] = world.player(port) end
    test.equal(world.wait_closed(world.connect(port)), "full")
    for _, player in ipairs(players) do player:close() end
  end)
end)

test("handshakes are limited as those who aren't logged in, of an address and in all", function()
  local tls = { certificate = "test/lua/tls/certificate.pem", key = "test/lua/tls/key.pem" }
  local function crowd(options)
    options.listen = {
      { port = 0, tls = tls }, { port = 0, kind = "websocket" }, { port = 0, encrypt = true },
    }
    world.with({ gateway = options }, function()
      local ports, before = {}, socket.stats()
      for index, listener in ipairs(world.stats().listeners) do ports[index] = listener.port end
      local silent = {}
      for index, port in ipairs(ports) do
        silent[index] = world.raw(port)
        test.eventually(function() return socket.stats().handshakes == index end)
      end
      for index, port in ipairs(ports) do
        local refused = socket.connect("127.0.0.1", port)
        if refused then test.equal(refused:read(nil, 20000), nil) end
        test.equal(socket.stats().refused_handshakes - before.refused_handshakes, index)
      end
      silent[2]:close()
      test.eventually(function() return socket.stats().handshakes == 2 end)
      local player = world.player { url = "ws://127.0.0.1:" .. ports[2] }
      test.equal(socket.stats().handshakes, 2, "who has shaken hands isn't counted")
      test.equal(world.stats().pending, 0)
      player:close()
      silent[1]:close()
      silent[3]:close()
      test.eventually(function() return socket.stats().handshakes == 0 end)
    end)
  end
  crowd { max_pending = 3, exempt = { "192.0.2.1", "2001:db8:1:2::/64" } }
  crowd { max_connections = 12, exempt = { "127.0.0.1", "::1" } } -- exempt of the first alone
end)

test("frames are small before login and large after", function()
  world.with({}, function(port)
    local body = packet.wrap_json(('"%s"'):format(("x"):rep(4096)))
    local large = packet.make(1, 5, 0, JSON, body)
    local stranger = world.connect(port)
    stranger.connection:write(large)
    test.eventually(function() return stranger.closed end)
    world.wait_for("malformed", 1)

    local player = world.player(port)
    player.connection:write(large)
    test.equal({ player:next() }, { "talkroom.send_message",
      { status = protocol.status.not_in_room, id = 0 } })
    player.connection:write(packet.make(1, 5, 0, JSON, ("x"):rep(65523)))
    test.equal(world.wait_closed(player), "malformed", "65,533 bytes are read")
  end)
end)

test("announcing much and sending none costs nothing", function()
  world.with({ gateway = { max_connections = 1000 } }, function(port)
    local before = perilune.stats("gateway").memory
    local clients = {}
    for i = 1, 100 do
      clients[i] = world.raw(port)
      clients[i]:write("\0\16") -- 4,096
    end
    world.wait_for("sessions", 100)
    test.ok(perilune.stats("gateway").memory - before < 1e6)
    test.equal(world.stats().packets_in, 0)
    for _, client in ipairs(clients) do client:close() end
  end)
end)

test("options that are wrong don't start it", function()
  local function start(options) return function() perilune.spawn("gateway", options) end end
  local function listen(entry) return start { listen = { { port = 0 }, entry } } end
  test.raises(listen { port = 70000 }, "option port has to be from 0 to 65535, but is 70000")
  test.raises(listen { port = "6080" }, "option port has to be of type integer")
  test.raises(listen {}, "option port is missing")
  test.raises(listen { port = 0, kind = "udb" }, "option kind can't be udb")
  test.raises(listen { port = 0, tls = {} }, "needs \"certificate\" and \"key\"")
  test.raises(listen { port = 0, encrypt = true, tls = {} }, "encrypt is for TCP without TLS")
  test.raises(listen { port = 0, encrypt = true, kind = "websocket" }, "is for TCP without TLS")
  test.raises(listen { port = 0, encrypt = { key = "/nowhere" } }, "\"/nowhere\" is no X25519 key")
  test.raises(start { exempt = { "somewhere" } }, "exempt")
  test.raises(start { lisen = {} }, "there is no option lisen")
  test.raises(start(5), "options are a table")
  world.with({}, function(port)
    test.raises(start { listen = { { port = port } } }, "in use")
  end)
end)

return test
