-- Connections over UDP by ENet, IPv4: `local enet = require "perilune.enet"`.
--
--   local listener = assert(enet.listen { port = 7001, on_data = function(peer, data, channel)
--     peer:write(data, { channel = channel })
--   end })
--
--   local peer = assert(enet.connect("127.0.0.1", 7001, { on_data = function(peer, data)
--     peer:close()
--   end }))
--   peer:write("hello")
--   peer:write(position, { channel = 1, mode = "unreliable" })
--
-- Packets of a channel arrive in order; those of different channels don't wait for each other. An
-- address has proven that it can receive before it gets as far as on_open (docs/protocol.md), but
-- nothing is encrypted and nobody has logged in: let the first packet prove who it is, signed
-- with a key that was given over TLS (perilune.crypto.hmac_sha256), and abort() who can't.
-- What a turn writes leaves at its end. What can fail returns nil, message, code.

local callback = require "perilune.callback"
local connecting = require "perilune.connecting"
local core = require "perilune.core"
local dns = require "perilune.dns"
local network = require "perilune.native.enet"
local options = require "perilune.options"

local call, on_event = callback.call, core.on_event
local network_write = network.write

---Why a peer was closed.
---@alias perilune.enet.Reason
---| "closed" # close() here
---| "aborted" # abort() here
---| "ended" # the peer closed
---| "timeout" # the peer acknowledged nothing for timeout_ms
---| "slow" # over send_bytes or send_packets waited to be acknowledged
---| "stopping" # the node stops

---@class perilune.enet.Options
---@field on_open perilune.Callback? (peer, address, data): the u32 that it connected with
---@field on_data perilune.Callback? (peer, packet, channel)
---@field on_close perilune.Callback? (peer, reason, code), once; code: what the peer gave
---@field channels integer? how many; the smaller number of both ends; default 2
---@field max_packet integer? bytes, either way; default 65536, the most
---@field send_bytes integer? unacknowledged bytes of a peer; more: closed as "slow"; default 1 MB
---@field send_packets integer? the same in packets; default 4096
---@field timeout_ms integer? closed when nothing is acknowledged for so long; default 10000
---@field close_ms integer? how long close() tries to deliver; default 5000

---@class perilune.enet.ListenOptions : perilune.enet.Options
---@field host string? an IPv4 address, "localhost", or "*" for all; default "127.0.0.1"
---@field port integer? default 0: the system chooses
---@field max_peers integer? at a time, at most 4095; their memory is taken at once; default 1024
---@field max_per_address integer? of these from one address; default 32; 0: no limit

---@class perilune.enet.ConnectOptions : perilune.enet.Options
---@field data integer? u32 that the listener's on_open gets; default 0
---@field connect_ms integer? default 10000

---@class perilune.enet
local enet = {}

local COMMON_OPTIONS = {
  on_open = { type = "callback", meaning = "called with each new peer" },
  on_data = { type = "callback", meaning = "called with each packet" },
  on_close = { type = "callback", meaning = "called once for each peer" },
  channels = { type = "integer", default = 2, min = 1, max = 255, meaning = "channels of a peer" },
  max_packet = { type = "integer", default = 65536, min = 1, max = 65536, unit = "bytes",
    meaning = "the largest packet" },
  send_bytes = { type = "integer", default = 2 ^ 20, min = 1, max = 2 ^ 30, unit = "bytes",
    meaning = "unacknowledged bytes of a peer" },
  send_packets = { type = "integer", default = 4096, min = 1, max = 2 ^ 20,
    meaning = "unacknowledged packets of a peer" },
  timeout_ms = { type = "integer", default = 10000, min = 100, max = 3600000, unit = "ms",
    meaning = "without an acknowledgement" },
  close_ms = { type = "integer", default = 5000, min = 1, max = 3600000, unit = "ms",
    meaning = "for what close() delivers" },
}

local function with_common(declared)
  for name, option in pairs(COMMON_OPTIONS) do declared[name] = option end
  return declared
end

local LISTEN_OPTIONS = with_common {
  host = { type = "string", default = "127.0.0.1", meaning = "where it receives" },
  port = { type = "integer", default = 0, min = 0, max = 65535, meaning = "0: the system chooses" },
  max_peers = { type = "integer", default = 1024, min = 1, max = 4095,
    meaning = "peers at a time" },
  max_per_address = { type = "integer", default = 32, min = 0, max = 4095,
    meaning = "peers from one address, 0: no limit" },
}
local CONNECT_OPTIONS = with_common {
  data = { type = "integer", default = 0, min = 0, max = 2 ^ 32 - 1, meaning = "for on_open" },
  connect_ms = { type = "integer", default = 10000, min = 1, max = 3600000, unit = "ms",
    meaning = "for the exchange and the connection" },
}

-- The running service's part: this file is shared by the light services of a VM.
---@class perilune.enet.State
---@field peers table<integer, perilune.enet.Peer>
---@field listeners table<integer, table>

---@class perilune.enet.Peer
---@field id integer names it in the whole node; never used again
---@field address string of the other end, "127.0.0.1:5000"
---@field data integer the u32 that it connected with
---@field closed perilune.enet.Reason|"failed"|nil nil while it is open
---@field on_data perilune.Callback? may be changed
---@field on_close perilune.Callback? may be changed
local Peer = {}
Peer.__index = Peer

local function new_peer(state, id, address, data, callbacks)
  local peer = setmetatable({
    id = id, data = data, address = address,
    on_data = callbacks.on_data, on_close = callbacks.on_close,
  }, Peer)
  state.peers[id] = peer
  return peer
end

-- Events ----------------------------------------------------------------------------------------

local events = {}

function events.opened(state, id, address, listener, data)
  local callbacks = state.listeners[listener]
  if not callbacks then
    network.abort(id)
    return
  end
  local peer = new_peer(state, id, address, data, callbacks)
  if callbacks.on_open then return call(callbacks.on_open, peer, address, data) end
end

function events.data(state, id, packet, channel)
  local peer = state.peers[id]
  if peer and peer.on_data then return call(peer.on_data, peer, packet, channel) end
end

function events.closed(state, id, reason, code)
  local peer = state.peers[id]
  if not peer then return end
  state.peers[id] = nil
  peer.closed = reason
  if peer.on_close then return call(peer.on_close, peer, reason, code) end
end

function events.connected(state, id, address)
  connecting.connected(state.peers, id, address)
end

function events.failed(state, id, text) connecting.failed(state.peers, id, text) end

---@return perilune.enet.State
local function state_of_service()
  local state = network.state()
  if state then return state end
  state = { peers = {}, listeners = {} }
  on_event("enet", function(id, event, ...) return events[event](state, id, ...) end)
  network.set_state(state)
  return state
end

-- Listening and connecting ----------------------------------------------------------------------

---@class perilune.enet.Listener
---@field id integer
---@field host string the address it has
---@field port integer the port it has, also when the system chose
local Listener = {}
Listener.__index = Listener

---Accepts no more; its peers stay.
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Listener:close()
  state_of_service().listeners[self.id] = nil
  return network.close_listener(self.id)
end

---Accepts peers for this service.
---@param given perilune.enet.ListenOptions
---@return perilune.enet.Listener? listener
---@return string? message "127.0.0.1:7001 is in use"
---@return string? code "exists" (in use), "invalid" (address), "unavailable", "unsupported"
function enet.listen(given)
  local settings = options.read_for("enet.listen", LISTEN_OPTIONS, given)
  settings.connect_ms = CONNECT_OPTIONS.connect_ms.default -- the native module wants all of them
  local state = state_of_service()
  local id, host, port = network.listen(settings.host, settings.port, settings)
  if not id then return nil, host, port end
  state.listeners[id] = settings
  return setmetatable({ id = id, host = host, port = port }, Listener)
end

local function ipv4_of(addresses)
  for _, address in ipairs(addresses) do
    if not address:find(":", 1, true) then return address end
  end
  return addresses[1]
end

---Connects and returns when that is done.
---@async
---@param host string address or name
---@param port integer
---@param given perilune.enet.ConnectOptions?
---@return perilune.enet.Peer? peer
---@return string? message why not: "timeout", "connection refused", ...
---@return string? code "unavailable", "unsupported" (a seeded node), those of dns.resolve
function enet.connect(host, port, given)
  local settings = options.read_for("enet.connect", CONNECT_OPTIONS, given)
  settings.max_peers, settings.max_per_address = 1, 0
  local state = state_of_service()
  if host == "localhost" then host = "127.0.0.1" end -- as in every option "host"
  local addresses, message, code = dns.resolve(host)
  if not addresses then return nil, message, code end
  local id
  id, message, code = network.connect(ipv4_of(addresses), port, settings, settings.data)
  if not id then return nil, message, code end
  local peer = new_peer(state, id, host, settings.data, settings)
  local connected, why, kind = connecting.wait(peer)
  if not connected then return nil, why, kind end
  if settings.on_open then call(settings.on_open, peer, peer.address, settings.data) end
  return peer
end

---The node's counters of ENet and of the exchange of cookies.
---@return table<string, integer> counters by name: enet_peers, enet_closed_slow, cookie_forged, ...
function enet.stats() return network.stats() end

-- Peers -----------------------------------------------------------------------------------------

---@class perilune.enet.WriteOptions
---@field channel integer? default 0
---@field mode "reliable"|"unreliable"|"unsequenced"|nil
--- "reliable" (default): arrives, in the order of its channel;
--- "unreliable": may be lost, and what comes late is dropped;
--- "unsequenced": may be lost and come in any order

---Sends a packet. It leaves at the end of the turn. When too much waits ("overloaded"), a reliable
---one closes the peer as "slow", and another is dropped.
---@param data string
---@param how perilune.enet.WriteOptions?
---@return true? ok
---@return string? message
---@return string? code "dead" (closed), "too_large", "invalid" (channel), "overloaded"
function Peer:write(data, how)
  if not how then return network_write(self.id, data) end
  return network_write(self.id, data, how.channel, how.mode)
end

---Delivers what was written (up to close_ms), then closes. on_close follows.
---@param code integer? u32 that the peer's on_close gets; default 0
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Peer:close(code) return network.close(self.id, code) end

---Closes at once; what waits is dropped. on_close follows.
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Peer:abort() return network.abort(self.id) end

---The cookie of the exchange before this connection, which only the two ends have seen: what a
---signature over it proves is good for this address and port alone.
---@param period integer? of a listener's peer: its first four bytes, as the other end says them
---@return string? cookie 20 bytes, those of a proof in docs/protocol.md
---@return string? message
---@return string? code "dead", "not_found" (a minute and more ago)
function Peer:cookie(period) return network.cookie(self.id, period) end

---How far the peer is behind.
---@return integer bytes that are unsent or unacknowledged
function Peer:unsent() return network.unsent(self.id) end

---How long a packet and its acknowledgement take.
---@return integer? ms
---@return string? message
---@return string? code "dead"
function Peer:round_trip() return network.round_trip(self.id) end

return enet
