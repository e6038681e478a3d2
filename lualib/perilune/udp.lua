-- Plain datagrams, IPv4 and IPv6: `local udp = require "perilune.udp"`.
--
--   local server = assert(udp.open { port = 7000, on_data = function(socket, data, host, port)
--     socket:send(data, host, port)
--   end })
--
--   local client = assert(udp.connect("127.0.0.1", 7000))
--   client:send("hello")
--   local answer = assert(client:receive(1000))
--
-- Datagrams may be lost, doubled and reordered, and their sender's address may be a lie: answer a
-- stranger with no more bytes than it sent. perilune.enet is for connections. While half of the
-- service's mailbox is full, what arrives is dropped and counted (udp.stats().udp_dropped_full).
-- What can fail returns nil, message, code.

local callback = require "perilune.callback"
local core = require "perilune.core"
local dns = require "perilune.dns"
local network = require "perilune.native.udp"
local options = require "perilune.options"

local call, on_event = callback.call, core.on_event
local now = core.native "now"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"
local network_send = network.send

local MAX_DATAGRAM = 65507
-- Bytes of a socket without on_data that may wait to be received.
local MAX_UNREAD = 256 * 1024

---@class perilune.udp.Options
---@field host string? an address, "localhost", or "*" for all of both families; default "127.0.0.1"
---@field port integer? default 0: the system chooses
---@field max_datagram integer? bytes; larger ones that come are dropped; default 65507
---@field broadcast boolean? may send to broadcast addresses
---@field on_data perilune.Callback? (socket, data, host, port): each datagram

---@class perilune.udp
local udp = {}

local OPEN_OPTIONS = {
  host = { type = "string", default = "127.0.0.1", meaning = "where it receives" },
  port = { type = "integer", default = 0, min = 0, max = 65535, meaning = "0: the system chooses" },
  max_datagram = { type = "integer", default = MAX_DATAGRAM, min = 1, max = MAX_DATAGRAM,
    unit = "bytes", meaning = "the largest that is taken" },
  broadcast = { type = "boolean", default = false, meaning = "may send to broadcast addresses" },
  on_data = { type = "callback", meaning = "called with each datagram" },
}
local CONNECT_OPTIONS = {
  max_datagram = OPEN_OPTIONS.max_datagram, broadcast = OPEN_OPTIONS.broadcast,
  on_data = OPEN_OPTIONS.on_data,
}

-- The running service's part: this file is shared by the light services of a VM.
---@class perilune.udp.State
---@field sockets table<integer, perilune.udp.Socket>

---@class perilune.udp.Socket
---@field id integer names it in the whole node; never used again
---@field host string the address it has
---@field port integer the port it has, also when the system chose
---@field closed boolean? true after close()
---@field dropped integer datagrams dropped because nobody received them
---@field on_data perilune.Callback? may be changed
---@field private _state perilune.udp.State
local Socket = {}
Socket.__index = Socket

-- Events ----------------------------------------------------------------------------------------

-- Keeps a datagram for a task that will receive it.
local function keep(socket, data, host, port)
  local unread = socket._unread + #data
  if unread > MAX_UNREAD and socket._first <= socket._last then
    socket.dropped = socket.dropped + 1
    return
  end
  socket._unread = unread
  socket._last = socket._last + 1
  socket._waiting[socket._last] = { data, host, port }
  local receiver = socket._receiver
  if receiver then
    socket._receiver = nil
    wake(receiver)
  end
end

local function take(socket)
  local first = socket._first
  local entry = socket._waiting[first]
  if not entry then return nil end
  socket._waiting[first] = nil
  socket._first = first + 1
  socket._unread = socket._unread - #entry[1]
  return entry
end

---@return perilune.udp.State
local function state_of_service()
  local state = network.state()
  if state then return state end
  state = { sockets = {} }
  on_event("udp", function(id, _, data, host, port)
    local socket = state.sockets[id]
    if not socket then return end
    if not socket.on_data then return keep(socket, data, host, port) end
    return call(socket.on_data, socket, data, host, port)
  end)
  network.set_state(state)
  return state
end

-- Opening ---------------------------------------------------------------------------------------

local function new_socket(settings, id, host, port)
  local state = state_of_service()
  local socket = setmetatable({
    id = id, host = host, port = port, dropped = 0, on_data = settings.on_data, _state = state,
    _waiting = {}, _first = 1, _last = 0, _unread = 0,
  }, Socket)
  state.sockets[id] = socket
  return socket
end

---Opens a socket that anybody may send to.
---@param given perilune.udp.Options
---@return perilune.udp.Socket? socket
---@return string? message "127.0.0.1:7000 is in use"
---@return string? code "exists" (in use), "invalid" (address), "unavailable", "unsupported"
function udp.open(given)
  local settings = options.read_for("udp.open", OPEN_OPTIONS, given)
  state_of_service()
  local id, host, port =
    network.open(settings.host, settings.port, settings.max_datagram, settings.broadcast)
  if not id then return nil, host, port end
  return new_socket(settings, id, host, port)
end

---Opens a socket that sends to one address and receives from that alone. Nothing is sent yet.
---@async
---@param host string address or name
---@param port integer
---@param given {max_datagram: integer?, broadcast: boolean?, on_data: any}? as of udp.open
---@return perilune.udp.Socket? socket
---@return string? message
---@return string? code "unavailable", "unsupported" (a seeded node), those of dns.resolve
function udp.connect(host, port, given)
  local settings = options.read_for("udp.connect", CONNECT_OPTIONS, given)
  if host == "localhost" then host = "127.0.0.1" end -- as in every option "host"
  local addresses, message, code = dns.resolve(host)
  if not addresses then return nil, message, code end
  local id, own_host, own_port =
    network.connect(addresses[1], port, settings.max_datagram, settings.broadcast)
  if not id then return nil, own_host, own_port end
  return new_socket(settings, id, own_host, own_port)
end

---The node's counters of datagrams.
---@return table<string, integer> counters by name: udp_in, udp_out, udp_dropped_full, ...
function udp.stats() return network.stats() end

-- Sending and receiving -------------------------------------------------------------------------

---Sends one datagram. It leaves at the end of the turn, and nobody says whether it arrives.
---@param data string at most 65507 bytes; over about 1400 it travels in pieces, all or none
---@param host string? the receiver's address (no name); without one for a connected socket
---@param port integer?
---@return true? ok
---@return string? message
---@return string? code "dead" (closed), "too_large", "invalid" (no address, or IPv6 from IPv4)
function Socket:send(data, host, port) return network_send(self.id, data, host, port) end

---Waits for a datagram, where there is no on_data. Up to 256 KB wait here; more is dropped.
---@async
---@param timeout_ms integer? default: as long as the socket is open
---@return string? data
---@return string|nil host of the sender, or what went wrong: "timeout", "closed"
---@return integer|string|nil port of the sender, or a code: "timeout", "dead"
function Socket:receive(timeout_ms)
  if self.on_data then error("receive: the datagrams of this socket go to on_data", 2) end
  if self._receiver then error("receive: another task waits for this socket", 2) end
  local deadline = timeout_ms and now() + timeout_ms
  while true do
    local entry = take(self)
    if entry then return entry[1], entry[2], entry[3] end
    if self.closed then return nil, "closed", "dead" end
    local left = deadline and math.ceil(deadline - now())
    if left and left <= 0 then return nil, "timeout", "timeout" end
    local token = new_token()
    self._receiver = token
    wait(token, left)
    if self._receiver == token then self._receiver = nil end
  end
end

---Closes the socket. What was sent before still leaves; a task that receives gets nil, "closed".
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Socket:close()
  self.closed = true
  self._state.sockets[self.id] = nil
  local receiver = self._receiver
  self._receiver = nil
  if receiver then wake(receiver) end
  return network.close(self.id)
end

return udp
