-- One set of sessions over TCP, WebSocket, both with TLS, and TCP with encryption.

local perilune = require "perilune"
local protocol = require "perilune.protocol"
local socket = require "perilune.socket"
local test = require "perilune.test"
local websocket = require "perilune.websocket"
local world = require "world"

local JSON, BUF = protocol.JSON, protocol.BUF
local TLS = { certificate = "test/lua/tls/certificate.pem", key = "test/lua/tls/key.pem" }
local TRUST = { ca = TLS.certificate }
local KEY = "test/lua/tls/x25519.pem"

-- Runs body(places) with a gateway that listens in all ways; a place is what world.connect takes.
local function with_all(gateway_options, body)
  gateway_options.listen = {
    { port = 0 },
    { port = 0, kind = "websocket", path = "/game" },
    { port = 0, tls = TLS },
    { port = 0, kind = "websocket", tls = TLS },
    { port = 0, encrypt = { key = KEY } },
  }
  world.with({ gateway = gateway_options, talkroom = { rate = 1000, burst = 1000 } }, function()
    local listeners, ports = world.stats().listeners, {}
    for index, listener in ipairs(listeners) do ports[index] = listener.port end
    body {
      tcp = { port = ports[1] },
      websocket = { url = ("ws://127.0.0.1:%d/game"):format(ports[2]) },
      tls = { port = ports[3], tls = TRUST },
      wss = { url = ("wss://localhost:%d/"):format(ports[4]), tls = TRUST },
      encrypted = { url = "tcp+encrypted://127.0.0.1:" .. ports[5],
        encrypt = { server_key = listeners[5].server_key } },
    }
  end)
end

-- The next line that a player hears; who comes and goes is of no interest.
local function next_line(player)
  while true do
    local name, body = player:next()
    if name ~= "talkroom.user_arrived" then
      test.equal(name, "talkroom.user_message")
      return body
    end
  end
end

test("players on every transport chat with each other, in JSON and BUF", function()
  with_all({}, function(places)
    local players = {}
    for name, place in pairs(places) do
      for _, form in ipairs { JSON, BUF } do
        players[#players + 1] = world.talker(place, form, name .. form)
      end
    end
    for number, player in ipairs(players) do
      local text = ("%d 안녕 😀"):format(number)
      test.equal(player:request("talkroom.send_message", text).status, protocol.status.ok)
      for other_number, other in ipairs(players) do
        if other_number ~= number then
          test.equal(next_line(other).text, text)
        end
      end
    end
    test.equal(world.stats().users, #players)
    for _, player in ipairs(players) do player:close() end
    world.wait_for("sessions", 0)
  end)
end, 60000)

test("a login by one transport ends the session that the player had by another", function()
  with_all({}, function(places)
    local first = world.player(places.tcp, JSON)
    for _, name in ipairs { "websocket", "tls", "wss", "encrypted", "tcp" } do
      local second = world.player(places[name], BUF, first.key)
      test.equal(second.profile.uid, first.profile.uid)
      test.eventually(function() return first.closed end)
      test.equal(first.closing.reason, "relogin")
      first, second.key = second, first.key
    end
    test.equal(world.stats().users, 1)
    first:close()
  end)
end)

test("limits are the same: frames before the login, time to log in, silence", function()
  with_all({ login_ms = 300, frame_before_login = 200 }, function(places)
    for name, place in pairs(places) do
      local large = world.connect(place, JSON)
      large.connection:write(("x"):rep(201))
      test.eventually(function() return large.closed end, 5000, name)
      local slow = world.connect(place, JSON)
      test.eventually(function() return slow.closed end, 5000, name)
      test.equal(slow.closing.reason, "login_timeout", name)
    end
    test.equal(world.stats().malformed, 5)
    test.equal(world.stats().login_timeouts, 5)
    world.wait_for("sessions", 0)
  end)
end, 60000)

test("a text message closes a WebSocket with 1003", function()
  with_all({}, function(places)
    local connection = assert(websocket.connect(places.websocket.url))
    connection:send_text "{}"
    test.equal({ connection:read(5000) }, { nil, "closed", "ended" })
    test.equal(connection.socket.close_code, 1003)
    local _, why, code = websocket.connect((places.websocket.url:gsub("/game", "/other")))
    test.equal(code, "refused")
    test.ok(why:find "404", why)
    world.wait_for("sessions", 0)
  end)
end)

test("an encrypted session is resumed by other transports and back, and kicked", function()
  with_all({}, function(places)
    local witness, player = world.talker(places.tcp, JSON, "witness"),
      world.connect(places.encrypted, BUF)
    test.ok(player:request("protocol.hello", { version = 1 }).resume)
    test.ok(player:login())
    test.equal(player:request("talkroom.enter", { uname = "Ada", usex = 1 }).status, 1)
    for index, name in ipairs { "encrypted", "tls", "encrypted", "websocket", "encrypted" } do
      player.connection:abort()
      test.equal(witness:request("talkroom.send_message", "line " .. index).status, 1)
      test.ok(player:resume(places[name]), name)
      test.equal(next_line(player).text, "line " .. index)
      test.equal(player:request("talkroom.send_message", "heard").status, 1)
      test.equal(next_line(witness).text, "heard")
    end
    test.equal(perilune.call("gateway", "kick", player.profile.uid, "frozen"), true)
    test.equal(world.wait_closed(player), "frozen")
    witness:close()
  end)
end)

test("a session is kept whose encryption somebody has broken", function()
  with_all({}, function(places)
    local port = tonumber(places.encrypted.url:match "%d+$")
    local broken = false
    local middle = assert(socket.listen {
      paused = true,
      on_open = function(client)
        local server = assert(socket.connect("127.0.0.1", port, {
          on_data = function(_, data) client:write(data) end,
          on_close = function() client:close() end,
        }))
        client.on_data = function(_, data)
          server:write(broken and ("x"):rep(#data) or data)
        end
        client.on_close = function() server:close() end
        client:resume()
      end,
    })
    local player = world.connect { url = "tcp+encrypted://127.0.0.1:" .. middle.port,
      encrypt = places.encrypted.encrypt }
    player:request("protocol.hello", { version = 1 })
    test.ok(player:login())
    broken = true
    player:send("protocol.ping")
    test.eventually(function() return player.closed end)
    world.wait_for("kept_now", 1)
    test.equal(world.stats().malformed, 0)
    test.ok(player:resume(places.encrypted))
    player:close()
    middle:close()
  end)
end)

test("what is neither WebSocket nor TLS on their ports harms nobody else", function()
  with_all({}, function(places)
    local player = world.player(places.wss, JSON)
    local listeners = world.stats().listeners
    for index = 2, 5 do
      for _, bytes in ipairs { "\0\0", ("\255"):rep(300), "GET / HTTP/1.1\r\nHost: x\r\n\r\n" } do
        local client = assert(socket.connect("127.0.0.1", listeners[index].port))
        client:write(bytes)
        client:close()
      end
    end
    test.ok(player:request("protocol.ping"))
    player:close()
    test.eventually(function() return socket.stats().open == 0 end, 20000)
  end)
end, 60000)

return test
