-- What tests of the standard services share: a gateway with its services, and ways to talk to it.
local perilune = require "perilune"
local bot = require "perilune.bot"
local core = require "perilune.core"
local socket = require "perilune.socket"
local test = require "perilune.test"

local world = {}

local ORDER = { "dbproxy", "auth", "talkroom", "player", "gateway" }
local ALWAYS = { dbproxy = true, auth = true, talkroom = true, gateway = true }

-- Starts dbproxy with a database in memory, auth, talkroom and a gateway at a free port, and player
-- where it is given, with the given options of each, runs body(port) and stops them.
function world.with(given, body)
  local started = {}
  for _, script in ipairs(ORDER) do
    local options = given[script] or ALWAYS[script] and {}
    if script == "gateway" then options.listen = options.listen or { { port = 0 } } end
    if script == "dbproxy" then options.database = options.database or "sqlite::memory:" end
    if options then
      table.insert(started, 1, perilune.spawn(script, options, { name = script }))
    end
  end
  local ok, message = xpcall(body, debug.traceback, world.stats().listeners[1].port)
  for _, handle in ipairs(started) do perilune.stop(handle) end
  if not ok then error(message, 0) end
end

-- The same without auth and talkroom: packets for them come to `on_packet(data, key, address)`
-- here, from which the test answers.
function world.with_gateway(options, on_packet, body)
  options.listen = options.listen or { { port = 0 } }
  options.routes = { auth = "world", talkroom = "world" }
  if perilune.find "world" ~= perilune.self() then perilune.name "world" end
  core.on_event("packet", on_packet)
  local handle = perilune.spawn("gateway", options, { name = "gateway" })
  local ok, message = xpcall(body, debug.traceback, world.stats().listeners[1].port)
  perilune.stop(handle)
  if not ok then error(message, 0) end
end

function world.stats() return perilune.call("gateway", "stats") end

-- Waits until a number of the gateway is what it should be.
function world.wait_for(name, value)
  test.eventually(function() return world.stats()[name] == value end, nil,
    ("%s = %s"):format(name, value))
end

-- A bot, not logged in. `where`: a port, or what bot.connect takes.
function world.connect(where, form)
  local options = type(where) == "table" and where or { port = where }
  return (assert(bot.connect { port = options.port, url = options.url, tls = options.tls,
    encrypt = options.encrypt, form = form }))
end

-- A bot that is logged in.
function world.player(port, form, key)
  local player = world.connect(port, form)
  local profile, why = player:login(key)
  test.ok(profile, "login: " .. tostring(why))
  return player
end

-- A bot that is in the talkroom.
function world.talker(port, form, uname)
  local player = world.player(port, form)
  test.equal(player:request("talkroom.enter", { uname = uname, usex = 1 }).status, 1)
  return player
end

-- Bytes, not frames.
function world.raw(port)
  return (assert(socket.connect("127.0.0.1", port, { framing = "raw" })))
end

-- One frame of a raw connection, with its length.
function world.read_frame(connection, ms)
  local head, message, code = connection:read(2, ms or 3000)
  if not head then return nil, message, code end
  local size = head:byte(1) + 256 * head:byte(2)
  return head .. assert(connection:read(size - 2, 3000))
end

-- Waits until a bot's connection is closed; returns what the server said before.
function world.wait_closed(player)
  test.eventually(function() return player.closed end, nil, "closed")
  return player.closing and player.closing.reason
end

function world.unhex(text)
  return (text:gsub("%s", ""):gsub("%x%x", function(pair)
    return string.char(tonumber(pair, 16))
  end))
end

function world.hex(bytes)
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

return world
