-- Which gateways there are, maintenance, and what is said to all.
local http = require "perilune.http"
local packet = require "perilune.packet"
local perilune = require "perilune"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local world = require "world"
local game = require "protocol" ---@type perilune.Protocol

local STATUS = protocol.status

-- Runs body(url of /server_info) with a center.
local function with_center(options, body)
  options.port = options.port or 0
  local handle = perilune.spawn("center", options, { name = "center" })
  local url = ("http://127.0.0.1:%d/server_info"):format(perilune.call("center", "stats").port)
  local ok, message = xpcall(body, debug.traceback, url)
  http.close_idle()
  perilune.stop(handle)
  if not ok then error(message, 0) end
end

-- A gateway at that port that has `sessions` of `room` connections.
local function fake(port, sessions, room)
  local handle = perilune.spawn "report"
  perilune.call(handle, "report", {
    listeners = { { kind = "tcp", port = port, tls = false } }, sessions = sessions, room = room,
  })
  return handle
end

local function port_of(url) return assert(http.get(url)):json().listeners[1].port end

test("a client is sent to the gateway with the most room", function()
  with_center({}, function(url)
    local handles = { fake(1, 50, 100), fake(2, 300, 1000), fake(3, 40, 100) }
    test.equal(assert(http.get(url)):json(), { status = STATUS.ok, maintenance = "",
      listeners = { { kind = "tcp", host = "127.0.0.1", port = 2, tls = false,
        encrypt = false } } })
    local stats = perilune.call("center", "stats")
    test.equal({ stats.gateways, stats.sessions, stats.room, stats.given }, { 3, 390, 1200, 1 })
    for _, handle in ipairs(handles) do perilune.stop(handle) end
  end)
end)

test("a crowd between two reports is spread", function()
  with_center({}, function(url)
    local handles, sent = { fake(1, 0, 100), fake(2, 0, 100), fake(3, 10, 100) }, {}
    for _ = 1, 50 do
      local port = port_of(url)
      sent[port] = (sent[port] or 0) + 1
    end
    test.equal(sent, { 20, 20, 10 })
    for _, handle in ipairs(handles) do perilune.stop(handle) end
  end)
end)

test("full gateways get nobody, and a client is told so", function()
  with_center({}, function(url)
    local handle = fake(1, 9, 10)
    test.equal(port_of(url), 1)
    local answer = assert(http.get(url))
    test.equal(answer.status, 503)
    test.equal(answer:json().status, STATUS.busy)
    test.equal(perilune.call("center", "stats").full, 1)
    perilune.stop(handle)
  end)
end)

test("a gateway that has died is gone", function()
  with_center({}, function(url)
    local living, dead = fake(1, 1, 10), fake(2, 0, 1000)
    test.equal(port_of(url), 2)
    perilune.kill(dead)
    test.eventually(function() return port_of(url) == 1 end)
    local stats = perilune.call("center", "stats")
    test.equal({ stats.gateways, stats.lost }, { 1, 1 })
    perilune.stop(living)
  end)
end)

test("a gateway that doesn't report any more is gone, until it does", function()
  with_center({ lost_ms = 300 }, function(url)
    local report = { listeners = {}, sessions = 0, room = 1 }
    local silent, living = fake(1, 0, 10), perilune.spawn "report"
    test.eventually(function()
      perilune.call(living, "report", report)
      local stats = perilune.call("center", "stats")
      return stats.lost == 1 and stats.gateways == 1
    end)
    test.eventually(function() return http.get(url).status == 503 end)
    test.eventually(function()
      perilune.call(silent, "report", report)
      return http.get(url).status == 200
    end)
    perilune.stop(silent)
    perilune.stop(living)
  end)
end)

test("a report that can't be is refused", function()
  with_center({}, function()
    for _, report in ipairs { {}, { listeners = {}, sessions = -1, room = 1 },
      { listeners = {}, sessions = 0, room = 0 }, { sessions = 0, room = 1 } } do
      test.raises(function() perilune.call("center", "report", report) end, "option")
    end
    test.equal(perilune.call("center", "stats").gateways, 0)
  end)
end)

test("a gateway's own host goes before the one that was asked", function()
  with_center({}, function(url)
    local handle = perilune.spawn "report"
    perilune.call(handle, "report", { host = "game.example", sessions = 0, room = 1,
      listeners = { { kind = "websocket", port = 443, tls = true } } })
    test.equal(assert(http.get(url)):json().listeners,
      { { kind = "websocket", host = "game.example", port = 443, tls = true,
        encrypt = false } })
    perilune.stop(handle)
  end)
end)

test("what is said to all reaches every gateway in both forms", function()
  with_center({}, function()
    local handles = { fake(1, 0, 10), fake(2, 0, 10) }
    test.equal(perilune.call("center", "broadcast", "system.announcement", { text = "hi" }), 2)
    for _, handle in ipairs(handles) do
      local said = perilune.call(handle, "delivered")
      for form = protocol.JSON, protocol.BUF do
        local command, body = game:decode_reply(said[1][form])
        test.equal({ command.name, body }, { "system.announcement", { text = "hi" } })
      end
      perilune.stop(handle)
    end
    test.raises(function() perilune.call("center", "broadcast", "system.nothing", {}) end,
      "the protocol has no")
  end)
end)

test("during maintenance logins are refused with the reason, in either form", function()
  with_center({ maintenance = "back at 15:00" }, function(url)
    test.equal(assert(http.get(url)):json().maintenance, "back at 15:00")
    world.with({}, function(port)
      for form = protocol.JSON, protocol.BUF do
        local player = world.connect(port, form)
        test.equal(select(2, player:login()), STATUS.busy)
        test.equal({ player:next() }, { "system.announcement", { text = "back at 15:00" } })
        test.equal(player:request("auth.account_login", { uname = "ada", upwd = "secret" }).status,
          STATUS.busy)
        perilune.call("center", "maintain")
        test.ok(player:login(), "it is over")
        perilune.call("center", "maintain", "back at 15:00")
        test.ok(player:request("talkroom.exit"), "who is here may stay")
        player:close()
      end
      test.equal(perilune.call("auth", "stats").refused_for_maintenance, 4)
    end)
    perilune.call("center", "maintain", "")
  end)
end)

test("a gateway reports itself, and a client finds it by packet", function()
  with_center({}, function(url)
    local listen = { { port = 0 }, { port = 0, kind = "udp" }, { port = 0, encrypt = true } }
    local options = { report_ms = 20, max_connections = 400, listen = listen }
    world.with({ gateway = options }, function(port)
      local encrypted = world.stats().listeners[3].port
      local listeners = {
        { kind = "tcp", host = "127.0.0.1", port = port, tls = false, encrypt = false },
        { kind = "tcp", host = "127.0.0.1", port = encrypted, tls = false, encrypt = true },
      }
      test.eventually(function() return http.get(url).status == 200 end)
      test.equal(http.get(url):json().listeners, listeners)
      for form = protocol.JSON, protocol.BUF do
        local player = world.connect(port, form)
        local info = player:request "system.server_info"
        listeners[1].host, listeners[2].host = "", ""
        test.equal({ info.status, info.listeners, info.maintenance }, { STATUS.ok, listeners, "" })
        test.ok(player:login(), "on the same connection")
        test.equal(player:request("system.server_info").status, STATUS.invalid_operation)
        player:close()
      end
      local player = world.player(port)
      test.eventually(function()
        local stats = perilune.call("center", "stats")
        return stats.sessions == 1 and stats.room == 400
      end)
      player:close()
    end)
    test.eventually(function() return perilune.call("center", "stats").gateways == 0 end)
  end)
end)

test("all players who are logged in hear an announcement, also one who resumes", function()
  with_center({}, function()
    world.with({}, function(port)
      local players = { world.player(port, protocol.JSON), world.player(port, protocol.BUF) }
      local resuming, outside = world.connect(port), world.connect(port)
      resuming:request("protocol.hello", { version = 1 })
      test.ok(resuming:login())
      resuming.connection:abort()
      world.wait_for("kept_now", 1)
      local forms = {}
      for index, player in ipairs(players) do
        local came = player.connection.on_data
        player.connection.on_data = function(_, data)
          forms[index] = select(4, packet.header(data))
          return came(_, data)
        end
      end
      test.equal(perilune.call("center", "maintain", "in 5 minutes"), 1)
      for _, player in ipairs(players) do
        test.equal({ player:next() }, { "system.announcement", { text = "in 5 minutes" } })
      end
      test.equal(forms, { protocol.JSON, protocol.BUF }, "each in their own")
      test.ok(resuming:resume())
      test.equal({ resuming:next() }, { "system.announcement", { text = "in 5 minutes" } })
      test.ok(outside:send "protocol.ping")
      test.equal(outside:next(), "protocol.pong", "nothing else for who isn't logged in")
      for _, player in ipairs { players[1], players[2], resuming, outside } do player:close() end
      perilune.call("center", "maintain")
    end)
  end)
end)

test("maintenance outlives the service that began it", function()
  with_center({ maintenance = "later" }, function() end)
  with_center({}, function(url)
    test.equal(assert(http.get(url)):json().maintenance, "later")
    test.raises(function() perilune.call("center", "maintain", ("x"):rep(1001)) end, "1000 bytes")
    perilune.call("center", "maintain")
    test.equal(perilune.call("center", "stats").maintenance, "")
  end)
end)

return test
