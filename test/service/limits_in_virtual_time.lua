-- Limits of time of the gateway. In virtual time, where only they pass time, they hold to the
-- millisecond on every machine: run with a seed by seeded_test.lua.
local perilune = require "perilune"
local bot = require "perilune.bot"
local packet = require "perilune.packet"
local socket = require "perilune.socket"
local test = require "perilune.test"
local websocket = require "perilune.websocket"
local world = require "world"

local TLS = { certificate = "test/lua/tls/certificate.pem", key = "test/lua/tls/key.pem" }

test("who doesn't log in in time is closed", function()
  world.with({ gateway = { login_ms = 200 } }, function(port)
    local started = perilune.now()
    local silent, talking, player = world.connect(port), world.connect(port), world.player(port)
    for _ = 1, 5 do
      perilune.sleep(30)
      talking:send("protocol.ping")
    end
    test.equal(world.wait_closed(silent), "login_timeout")
    test.equal(world.wait_closed(talking), "login_timeout")
    local took = perilune.now() - started
    test.ok(took >= 200 and took < 300, took)
    test.ok(player:request("talkroom.exit"), "who is logged in stays")
    test.equal(world.stats().login_timeouts, 2)
    player:close()
  end)
end)

-- A connection that sends `bytes` one by one; returns how long it took until it was closed.
local function drip(port, bytes, pause_ms)
  local started, connection = perilune.now(), assert(socket.connect("127.0.0.1", port))
  for at = 1, #bytes do
    connection:write(bytes:sub(at, at))
    perilune.sleep(pause_ms)
    if connection.closed then break end
  end
  test.eventually(function() return connection.closed end, 5000, "closed")
  return perilune.now() - started
end

-- A port from which connections go on to `port`, `ms` late at first.
local function delaying(port, ms)
  return assert(socket.listen {
    paused = true,
    on_open = function(client)
      local server = assert(socket.connect("127.0.0.1", port, {
        on_data = function(_, data) client:write(data) end,
        on_close = function() client:close() end,
      }))
      client.on_data = function(_, data) server:write(data) end
      client.on_close = function() server:close() end
      perilune.sleep(ms)
      client:resume()
    end,
  })
end

test("handshake and login have login_ms together, however slowly something comes", function()
  local listen = {
    { port = 0 }, { port = 0, kind = "websocket", path = "/game" }, { port = 0, tls = TLS },
    { port = 0, kind = "websocket", tls = TLS }, { port = 0, encrypt = true },
  }
  world.with({ gateway = { login_ms = 1000, listen = listen } }, function()
    local ports = {}
    for index, listener in ipairs(world.stats().listeners) do ports[index] = listener.port end
    local tcp, ws, tls, wss, encrypted = unpack(ports)
    local url = ("ws://127.0.0.1:%d/game"):format(ws)
    local zeros, head = ("\0"):rep(300), "GET /game HTTP/1.1\r\nHost: a\r\nX: " .. ("x"):rep(300)
    local cases = {
      ["a frame, byte by byte"] = function() return drip(tcp, "\0\1" .. zeros, 50) end,
      ["a hello of TLS"] = function() return drip(tls, "\22\3\1\1\0" .. zeros, 50) end,
      ["a hello of TLS for a WebSocket"] = function()
        return drip(wss, "\22\3\1\1\0" .. zeros, 50)
      end,
      ["a hello of encryption"] = function() return drip(encrypted, "\38\0PLE\1" .. zeros, 30) end,
      ["a head of WebSocket"] = function() return drip(ws, head, 50) end,
      ["a head that begins late"] = function()
        return drip(ws, head:sub(1, 1) .. head:sub(2):rep(4), 400)
      end,
      ["other requests"] = function()
        local started, connection = perilune.now(), assert(socket.connect("127.0.0.1", ws))
        while not connection.closed do
          connection:write "GET /other HTTP/1.1\r\nHost: a\r\n\r\n"
          perilune.sleep(100)
        end
        return perilune.now() - started
      end,
      ["silence behind a late handshake of WebSocket"] = function()
        local started, through = perilune.now(), delaying(ws, 700)
        local connection = assert(websocket.connect((url:gsub(ws, through.port))))
        through:close()
        test.ok(perilune.now() - started >= 700)
        test.eventually(function() return connection.closed end, 5000)
        return perilune.now() - started
      end,
      ["silence behind a late handshake of TLS"] = function()
        local started, through = perilune.now(), delaying(tls, 700)
        local connection = assert(socket.connect("127.0.0.1", through.port,
          { tls = { verify = false } }))
        through:close()
        test.ok(perilune.now() - started >= 700)
        test.eventually(function() return connection.closed end, 5000)
        return perilune.now() - started
      end,
      ["silence behind a late hello"] = function()
        local started, through = perilune.now(), delaying(encrypted, 700)
        local connection = assert(socket.connect("127.0.0.1", through.port, { encrypt = true }))
        through:close()
        test.ok(perilune.now() - started >= 700)
        test.eventually(function() return connection.closed end, 5000)
        return perilune.now() - started
      end,
    }
    for name, case in pairs(cases) do
      local took = case()
      -- The gateway looks each 250 ms; a drop more shows the client that it is closed.
      test.ok(took >= 950 and took <= 1450, ("%s: %d ms"):format(name, took))
    end
    test.eventually(function() return socket.stats().open == 0 end)
    test.equal(socket.stats().handshakes, 0)
  end)
end)

test("waiting for auth doesn't count as time to log in", function()
  local waiting
  local function on_packet(data, key)
    if packet.header(data) == 2 then waiting = key end
  end
  world.with_gateway({ login_ms = 150, login_wait_ms = 5000 }, on_packet, function(port)
    local player = world.connect(port)
    player:send("auth.guest_login", bot.new_key())
    perilune.sleep(400)
    test.ok(not player.closed)
    test.equal(perilune.call("gateway", "login", waiting, 7, 1), true)
    perilune.sleep(200)
    test.ok(not player.closed)
    player:close()
  end)
end)

test("an auth that never answers costs the connection in the end", function()
  world.with_gateway({ login_ms = 100, login_wait_ms = 300 }, function() end, function(port)
    local player, started = world.connect(port), perilune.now()
    player:send("auth.guest_login", bot.new_key())
    test.equal(world.wait_closed(player), "login_timeout")
    local took = perilune.now() - started
    test.ok(took >= 300 and took < 400, took)
  end)
end)

test("a silent client is pinged, and closed when it doesn't answer", function()
  world.with({ gateway = { ping_ms = 100 } }, function(port)
    local answering, dead = world.player(port), world.player(port)
    local pings = 0
    dead.connection.on_data = function(_, data)
      local stype, ctype = packet.header(data)
      if stype == 0 and ctype == 2 then pings = pings + 1 end
    end
    test.eventually(function() return dead.closed end)
    test.equal(pings, 2)
    perilune.sleep(300)
    test.ok(not answering.closed, "pong is life")
    test.ok(answering:request("talkroom.exit"))
    test.equal(world.stats().idle, 1)
    answering:close()
  end)
end)

test("a session whose connection broke is kept for resume_ms", function()
  world.with({ gateway = { resume_ms = 1000 } }, function(port)
    local witness, player = world.talker(port, nil, "witness"), world.connect(port)
    player:request("protocol.hello", { version = 1 })
    player:login()
    player:request("talkroom.enter", { uname = "Ada", usex = 1 })
    test.equal(witness:next(), "talkroom.user_arrived")
    player.connection:abort()
    perilune.sleep(950)
    test.ok(player:resume())
    player.connection:abort()
    local broken = perilune.now()
    test.equal(witness:next(), "talkroom.user_left")
    local took = perilune.now() - broken
    test.ok(took >= 1000 and took <= 1300, took)
    witness:close()
  end)
end)

test("a session over its rate goes on when time has passed", function()
  world.with({ gateway = { rate = 10, burst = 5, max_strikes = 20 } }, function(port)
    local player = world.player(port)
    local function answers(count)
      local names = {}
      for i = 1, count do
        player:send("protocol.ping")
        names[i] = player:next()
      end
      return names
    end
    perilune.sleep(1000)
    test.equal(answers(6), { "protocol.pong", "protocol.pong", "protocol.pong", "protocol.pong",
      "protocol.pong", "protocol.error" })
    perilune.sleep(199)
    player:send("protocol.ping")
    test.equal(player:next(), "protocol.pong", "one a tenth of a second")
    player:close()
  end)
end)

test("an account that is locked out is let in again in time", function()
  world.with({ auth = { account_failures = 1, account_lock_ms = 60000 } }, function(port)
    local player = world.player(port)
    test.equal(player:request("auth.register", { uname = "ada", upwd = "secret1" }).status, 1)
    player:close()
    world.wait_for("sessions", 0)
    player = world.connect(port)
    local function try(upwd)
      return player:request("auth.account_login", { uname = "ada", upwd = upwd }).status
    end
    test.ok(try "wrong" ~= 1)
    player:close()
    perilune.sleep(59000)
    player = world.connect(port)
    test.ok(try "secret1" ~= 1)
    perilune.sleep(1000)
    test.equal(try "secret1", 1)
    player:close()
  end)
end, 120000)

return test
