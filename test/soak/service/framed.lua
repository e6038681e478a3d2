-- framed: connections of every framing, for those who attack them: it sends back what comes.
-- "close" is answered with much and a close, "abort" with an abort. It counts opens and closes.
local enet = require "perilune.enet"
local socket = require "perilune.socket"
local websocket = require "perilune.websocket"

local framed = {}

local MAX_FRAME = 65536
local MUCH = ("m"):rep(100000)

local ports = {} -- by name
local open = {} -- connections
local counters = { opened = 0, closed = 0, wrong = 0, frames = 0 }

local function count(name) counters[name] = counters[name] + 1 end

function framed.on_open(connection)
  count "opened"
  if open[connection] then count "wrong" end
  open[connection] = true
end

function framed.on_close(connection)
  count "closed"
  if not open[connection] then count "wrong" end
  open[connection] = nil
end

local function answer(connection, data, send)
  count "frames"
  if not open[connection] then count "wrong" end
  if data == "abort" then return (connection.socket or connection):abort() end
  if data ~= "close" then return send(connection, data) end
  for first = 1, #MUCH, 50000 do send(connection, MUCH:sub(first, first + 49999)) end
  connection:close()
end

function framed.on_data(connection, data) answer(connection, data, connection.write) end

function framed.on_message(connection, data) answer(connection, data, connection.send) end

---@return table numbers counters, those that are open now, and the ports by name
function framed.stats()
  local now_open = 0
  for _ in pairs(open) do now_open = now_open + 1 end
  local numbers = { open = now_open }
  for name, value in pairs(counters) do numbers[name] = value end
  for name, port in pairs(ports) do numbers[name] = port end
  return numbers
end

local function listen(name, framing, tls)
  ports[name] = assert(socket.listen {
    framing = framing, max_frame = MAX_FRAME, tls = tls,
    on_open = "on_open", on_data = "on_data", on_close = "on_close",
  }).port
end

---@param options {certificate: string, key: string}
function framed.on_start(options)
  for _, framing in ipairs { "packet", "u16be", "u32be", "line", "raw" } do
    listen(framing, framing)
  end
  listen("tls", "packet", options)
  ports.websocket = assert(websocket.listen {
    max_message = MAX_FRAME,
    on_open = "on_open", on_message = "on_message", on_close = "on_close",
  }).port
  ports.enet = assert(enet.listen { on_data = function(peer, data) peer:write(data) end }).port
end

return framed
