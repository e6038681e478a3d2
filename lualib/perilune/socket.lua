-- TCP connections: `local socket = require "perilune.socket"`.
--
-- Two styles. With `on_data` each frame calls a function, in a task of its own. Without it frames
-- wait in the connection until a task reads them:
--
--   socket.listen { port = 6080, framing = "packet", on_data = function(connection, data)
--     connection:write(data)
--   end }
--
--   local connection = assert(socket.connect("127.0.0.1", 6080, { framing = "packet" }))
--   connection:write("hello")
--   local answer = assert(connection:read())
--
-- What one turn writes leaves in one system call at its end. A peer that doesn't read is closed
-- ("slow") when 1 MB or 4,096 packets wait for it, or ("stalled") after 10 s without progress.
-- What can fail returns nil, message, code.

local callback = require "perilune.callback"
local connecting = require "perilune.connecting"
local core = require "perilune.core"
local network = require "perilune.native.socket"

local call, on_event = callback.call, core.on_event
local now = core.native "now"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"
local network_write = network.write

-- Bytes that wait to be read before the connection's own reading pauses.
local MAX_UNREAD = 64 * 1024
local DEFAULT_MAX = 64 * 1024
local UNSUPPORTED = 1003 -- RFC 6455: data of a kind that isn't taken

---@alias perilune.socket.Framing
---| "packet" # u16 little-endian length that includes its own 2 bytes: the client protocol
---| "u16be" # u16 big-endian length of the body
---| "u32be" # u32 big-endian length of the body
---| "line" # ends with "\n" or "\r\n", which isn't part of it
---| "raw" # no frames: bytes as they come
---| "head" # one frame, a head of HTTP; then nothing is read before upgrade()
---| "websocket" # after upgrade(): messages

---Why a connection was closed.
---@alias perilune.socket.Reason
---| "closed" # close() here
---| "aborted" # abort() here
---| "ended" # the peer closed
---| "reset" # the peer or the network broke it
---| "slow" # too much waited to be sent
---| "stalled" # the peer took nothing for stall_ms, or not all of it in close_ms
---| "idle" # nothing came for idle_ms
---| "malformed" # the length of a frame is impossible
---| "too_large" # a frame is over max_frame
---| "tls" # TLS was not agreed on, or broken
---| "encryption" # encryption was not agreed on, or what came had been changed
---| "handshake" # the handshake took longer than handshake_ms
---| "lost" # its owner died with data of it unseen
---| "stopping" # the node stops

---@class perilune.socket.Callbacks
---@field on_open perilune.Callback? (connection, address)
---@field on_data perilune.Callback? (connection, data): one frame
---@field on_text perilune.Callback? (connection, text): one text message of a WebSocket;
---with on_data alone a text closes it (1003)
---@field on_end perilune.Callback? (connection), with half_open: the peer sends no more
---@field on_close perilune.Callback? (connection, reason), once

---@class perilune.socket.Options : perilune.socket.Callbacks
---@field framing perilune.socket.Framing? default "raw"
---@field max_frame integer? largest frame that is accepted, bytes without header; default 65536
---@field send_bytes integer? most bytes that may wait to be sent; default 1 MB; 0: no limit
---@field send_packets integer? the same in packets; default 4096; 0: no limit
---@field stall_ms integer? closed when the peer takes nothing for so long; default 10000; 0: never
---@field idle_ms integer? closed when the peer sends nothing for so long; default 0: never
---@field close_ms integer? how long close() tries to deliver; default 5000
---@field no_delay boolean? small packets leave at once; default true
---@field half_open boolean? the peer's end doesn't close it: on_end is called, writing goes on
---@field paused boolean? nothing is read before resume() or hand_over()

---TLS. A listener needs certificate and key; for a connection `true` will do. Relative paths start
---at the folder of config.lua.
---@class perilune.socket.TlsOptions
---@field certificate string? file in PEM form: the certificate, then those above it
---@field key string? file in PEM form
---@field ca string? file of those whom a connection trusts; default: whom the system trusts
---@field verify boolean? a connection refuses a server that can't be verified; default true
---@field server_name string? whom the certificate must name; default: the host connected to

---Encryption of our own instead of TLS (docs/protocol.md): no certificates. A server with a `key`
---is known by it to connections that have its `server_key`; without both somebody in between
---isn't noticed.
---@class perilune.socket.EncryptOptions
---@field key string? of a listener: file of its X25519 key in PEM form
---@field server_key string? of a connection: 64 hexadecimal digits; another server is refused

---@class perilune.socket.ListenOptions : perilune.socket.Options
---@field host string? an address, "localhost", or "*" for all of both families; default "127.0.0.1"
---@field port integer? default 0: the system chooses
---@field backlog integer? connections that may wait to be accepted; default 1024
---@field max_connections integer? open at a time, further ones are reset; default 10000
---@field max_per_address integer? the same from one IPv4 address or IPv6 /64; default 0: no limit
---@field tls perilune.socket.TlsOptions?
---@field encrypt boolean|perilune.socket.EncryptOptions|nil
---@field handshake_ms integer? limit for agreeing on TLS or encryption; default 10000; 0: none
---@field max_handshakes integer? under way at a time, over all listeners of this service; further
---ones are reset; default 2500; 0: no limit
---@field max_handshakes_per_address integer? the same from one address; default 0: no limit
---@field until_upgrade boolean? a handshake includes what comes before upgrade()
---@field exempt string[]? addresses without limits an address: "192.0.2.1", "2001:db8::/64"

---@class perilune.socket.ConnectOptions : perilune.socket.Options
---@field connect_ms integer? limit for the name, all its addresses and TLS together; default 10000
---@field tls boolean|perilune.socket.TlsOptions|nil
---@field encrypt boolean|perilune.socket.EncryptOptions|nil

---@class perilune.socket
local socket = {}

-- The running service's part: this file is shared by the light services of a VM.
---@class perilune.socket.State
---@field connections table<integer, perilune.socket.Connection>
---@field listeners table<integer, table>
---@field adopt table?

---@class perilune.socket.Connection
---@field id integer names it in the whole node; never used again
---@field address string of the peer, "127.0.0.1:5000" or "[::1]:5000"
---@field framing perilune.socket.Framing
---@field closed perilune.socket.Reason|"handed over"|"failed"|nil nil while it is open
---@field close_code integer? of a WebSocket that its peer has closed; 1005: the peer gave none
---@field close_reason string? the same
---@field on_data perilune.Callback? may be changed
---@field on_text perilune.Callback? may be changed
---@field on_close perilune.Callback? may be changed
---@field private _state perilune.socket.State
local Connection = {}
Connection.__index = Connection

local CALLBACKS = { on_open = true, on_data = true, on_text = true, on_end = true, on_close = true }

local function split_options(options, what)
  if type(options) ~= "table" then
    error(what .. ": a table of options expected, got " .. type(options), 3)
  end
  local native, callbacks = {}, {}
  for name, value in pairs(options) do
    if CALLBACKS[name] then
      if not callback.is(value) then
        error(what .. ': bad option "' .. name .. '" (function or name of one expected)', 3)
      end
      callbacks[name] = value
    else
      native[name] = value
    end
  end
  return native, callbacks
end

---@return perilune.socket.Connection
local function new_connection(state, id, address, framing, callbacks)
  local connection = setmetatable({
    id = id, address = address, framing = framing, _state = state,
    on_data = callbacks.on_data, on_text = callbacks.on_text, on_end = callbacks.on_end,
    on_close = callbacks.on_close,
  }, Connection)
  state.connections[id] = connection
  return connection
end

-- Events ----------------------------------------------------------------------------------------

local function wake_reader(connection)
  local reader = connection._reader
  if reader then
    connection._reader = nil
    wake(reader)
  end
end

local function wake_drainers(connection)
  local drainers = connection._drainers
  connection._drainers = nil
  for _, token in ipairs(drainers or {}) do wake(token) end
end

-- Keeps a frame for a task that will read it. `_frames` is nil while none waits; `_texts` has
-- the numbers of those that are texts.
local function keep(connection, data, is_text)
  local frames = connection._frames
  if frames then
    local last = connection._last + 1
    connection._last = last
    frames[last] = data
    connection._unread = connection._unread + #data
  else
    connection._frames, connection._first, connection._last = { data }, 1, 1
    connection._unread = #data
  end
  if is_text then
    connection._texts = connection._texts or {}
    connection._texts[connection._last] = true
  end
  if connection._unread > MAX_UNREAD and not connection._held then
    connection._held = true
    network.pause(connection.id)
  end
  -- A reader that wants more than may wait here takes it in parts.
  if connection._reader and (connection._unread >= connection._wanted or connection._held) then
    wake_reader(connection)
  end
end

local events = {}

function events.data(state, id, data)
  local connection = state.connections[id]
  if not connection then return end
  if connection.on_data then return call(connection.on_data, connection, data) end
  keep(connection, data)
end

function events.text(state, id, text)
  local connection = state.connections[id]
  if not connection then return end
  if connection.on_text then return call(connection.on_text, connection, text) end
  if not connection.on_data then return keep(connection, text, true) end
  connection:close_websocket(UNSUPPORTED, "only binary messages are taken")
end

function events.peer_closes(state, id, payload)
  local connection = state.connections[id]
  if not connection then return end
  local high, low = payload:byte(1, 2)
  connection.close_code, connection.close_reason = high * 256 + low, payload:sub(3)
end

function events.opened(state, id, address, listener)
  local callbacks = state.listeners[listener] or state.adopt
  if not callbacks then
    network.abort(id) -- handed over to a service that wants none
    return
  end
  local framing = callbacks.framing or network.framing(id) or "raw"
  local connection = new_connection(state, id, address, framing, callbacks)
  if callbacks.on_open then return call(callbacks.on_open, connection, address) end
end

function events.closed(state, id, reason)
  local connection = state.connections[id]
  if not connection then return end
  state.connections[id] = nil
  connection.closed = reason
  wake_reader(connection)
  wake_drainers(connection)
  if connection.on_close then return call(connection.on_close, connection, reason) end
end

function events.ended(state, id)
  local connection = state.connections[id]
  if not connection then return end
  connection._ended = true
  wake_reader(connection)
  if connection.on_end then return call(connection.on_end, connection) end
end

function events.drained(state, id)
  local connection = state.connections[id]
  if connection then wake_drainers(connection) end
end

function events.connected(state, id, address)
  connecting.connected(state.connections, id, address)
end

function events.failed(state, id, text) connecting.failed(state.connections, id, text) end

---@return perilune.socket.State
local function state_of_service()
  local state = network.state()
  if state then return state end
  state = { connections = {}, listeners = {} }
  local connections = state.connections
  local data_event = events.data
  on_event("socket", function(id, event, data, listener)
    if event == "data" then
      local connection = connections[id]
      local on_data = connection and connection.on_data
      if type(on_data) == "function" then return on_data(connection, data) end
      return data_event(state, id, data)
    end
    return events[event](state, id, data, listener)
  end)
  network.set_state(state)
  return state
end

-- Listening and connecting ----------------------------------------------------------------------

---@class perilune.socket.Listener
---@field id integer
---@field host string the address it has
---@field port integer the port it has, also when the system chose
---@field server_key string? by which connections know it, where it encrypts with a key of its own
local Listener = {}
Listener.__index = Listener

---Accepts no more; its connections stay.
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Listener:close()
  state_of_service().listeners[self.id] = nil
  return network.close_listener(self.id)
end

---Reads the certificate and the key, or the key of encryption, again, for connections that come
---from now on.
---@return true? ok
---@return string? message
---@return string? code "invalid" (a file can't be used: the old ones stay), "dead" (closed)
function Listener:reload_certificate() return network.reload_certificate(self.id) end

---Accepts connections for this service. Without on_data they are read by tasks, which on_open
---may be the first of.
---@param options perilune.socket.ListenOptions
---@return perilune.socket.Listener? listener
---@return string? message "127.0.0.1:6080 is in use"
---@return string? code "exists" (in use), "invalid" (the address), "unavailable"
function socket.listen(options)
  local native, callbacks = split_options(options, "socket.listen")
  local state = state_of_service()
  local id, host, port, server_key = network.listen(native)
  if not id then return nil, host, port end
  callbacks.framing = native.framing or "raw"
  state.listeners[id] = callbacks
  return setmetatable({ id = id, host = host, port = port, server_key = server_key }, Listener)
end

---Connects and returns when that is done. A name's addresses are tried one after the other.
---@async
---@param host string address or name
---@param port integer
---@param options perilune.socket.ConnectOptions?
---@return perilune.socket.Connection? connection
---@return string? message why not
---@return string? code "unavailable" (refused, unreachable, no such name, too late), "overloaded"
function socket.connect(host, port, options)
  local native, callbacks = split_options(options or {}, "socket.connect")
  local state = state_of_service()
  local id, message, code = network.connect(host, port, native)
  if not id then return nil, message, code end
  local connection = new_connection(state, id, host, native.framing or "raw", callbacks)
  local connected, why, kind = connecting.wait(connection)
  if not connected then return nil, why, kind end
  if callbacks.on_open then call(callbacks.on_open, connection, connection.address) end
  return connection
end

---What happens with connections that other services hand over to this one. on_open is called
---for each; the options of the connection stay what they are.
---@param callbacks perilune.socket.Callbacks
function socket.adopt(callbacks)
  local native, own = split_options(callbacks, "socket.adopt")
  local unknown = next(native)
  if unknown then error('socket.adopt: bad option "' .. tostring(unknown) .. '"', 2) end
  state_of_service().adopt = own
end

---For libraries on top of this one, whose files are shared by the light services of a VM.
---@return table state of the running service, for fields of their own
function socket.state() return state_of_service() end

---The node's counters of connections.
---@return table<string, integer> counters by name: open, accepted, bytes_in, closed_slow, ...
function socket.stats() return network.stats() end

-- Writing ---------------------------------------------------------------------------------------

---Sends one frame. It leaves at the end of the turn, with all else that the turn writes here.
---@param data string
---@return true? ok
---@return string? message
---@return string? code "dead" (closed), "too_large" (for the framing), "overloaded" ("slow" now)
function Connection:write(data) return network_write(self.id, data) end

---Sends one text message of a WebSocket; write() sends a binary one.
---@param text string UTF-8
---@return true? ok
---@return string? message
---@return string? code "dead", "overloaded", "invalid" (no WebSocket, or not UTF-8)
function Connection:write_text(text) return network.write_text(self.id, text) end

---Sends bytes as they are, whatever the framing.
---@param data string
---@return true? ok
---@return string? message
---@return string? code "dead", "overloaded"
function Connection:write_raw(data) return network.write_raw(self.id, data) end

---How far the peer is behind.
---@return integer bytes that wait to be sent
function Connection:unsent() return network.unsent(self.id) end

---Waits until everything written has left: for sending much without being closed as "slow".
---@async
---@param timeout_ms integer? default: as long as the connection lives
---@return true? ok
---@return string? message "timeout" or "closed"
---@return string? code "timeout", or why it was closed
function Connection:drain(timeout_ms)
  if self.closed then return nil, "closed", self.closed end
  local ok, message, code = network.notify_drained(self.id)
  if not ok then return nil, message, code end
  local token = new_token()
  self._drainers = self._drainers or {}
  table.insert(self._drainers, token)
  local _, late = wait(token, timeout_ms)
  if late == "timeout" then
    for index, other in ipairs(self._drainers or {}) do
      if other == token then table.remove(self._drainers, index) end
    end
    return nil, "timeout", "timeout"
  end
  if self.closed then return nil, "closed", self.closed end
  return true
end

-- Reading ---------------------------------------------------------------------------------------

-- Waits for data. `wanted` bytes at least are worth waking up for.
---@async
local function await(self, wanted, deadline)
  if self.closed then return nil, "closed", self.closed end
  if self._ended then return nil, "closed", "ended" end
  if self.on_data then
    error("read: the data of this connection goes to on_data", 3)
  end
  if self._reader then error("read: another task is reading this connection", 3) end
  local left = deadline and deadline - now()
  if left and left <= 0 then return nil, "timeout", "timeout" end
  local token = new_token()
  self._reader, self._wanted = token, wanted
  wait(token, left and math.ceil(left) or nil)
  if self._reader == token then
    self._reader = nil
    return nil, "timeout", "timeout"
  end
  return true
end

-- Bytes were taken out of `_frames`.
local function make_room(self)
  if self._held and self._unread <= MAX_UNREAD / 2 then
    self._held = nil
    network.resume(self.id)
  end
end

-- The oldest frame, or nil.
local function next_frame(self)
  local frames, first = self._frames, self._first
  if not frames then return nil end
  local data = frames[first]
  frames[first] = nil
  local is_text = self._texts and self._texts[first]
  if is_text then self._texts[first] = nil end
  self._first = first + 1
  self._unread = self._unread - #data
  if first == self._last then self._frames = nil end
  make_room(self)
  return data, is_text
end

-- Moves all frames behind `_text`, of which `_at` is the first unread byte.
local function gather(self)
  local parts = {}
  if self._text then parts[1] = self._text:sub(self._at) end
  for index = self._first, self._last do parts[#parts + 1] = self._frames[index] end
  self._text, self._at = table.concat(parts), 1
  self._frames, self._unread = nil, 0
  make_room(self)
end

local function text_left(self) return self._text and #self._text - self._at + 1 or 0 end

local function take_text(self, count)
  local from = self._at
  local data = self._text:sub(from, from + count - 1)
  self._at = from + count
  if self._at > #self._text then self._text = nil end
  return data
end

---@async
local function read_count(self, count, deadline)
  if count == 0 then return "" end
  while text_left(self) < count do
    if self._frames then
      gather(self)
    else
      local ok, message, code = await(self, count - text_left(self), deadline)
      if not ok then return nil, message, code end
    end
  end
  return take_text(self, count)
end

---@async
local function read_to(self, separator, max, deadline)
  local searched = 0
  while true do
    if self._text then
      local from = math.max(self._at, self._at + searched - #separator + 1)
      local first, last = self._text:find(separator, from, true)
      if first then
        if first - self._at > max then return nil, "too_large", "too_large" end
        local data = take_text(self, first - self._at)
        if self._text then
          self._at = self._at + last - first + 1
          if self._at > #self._text then self._text = nil end
        end
        return data
      end
      searched = text_left(self)
      if searched > max + #separator then return nil, "too_large", "too_large" end
    end
    if self._frames then
      gather(self)
    else
      local ok, message, code = await(self, 1, deadline)
      if not ok then return nil, message, code end
    end
  end
end

---Waits for data and returns it. What came before the peer closed can still be read. Of a raw
---connection: so many bytes, a line without its end, or "any", whatever has come. Otherwise, and by
---default: the next frame.
---@async
---@param what integer|"frame"|"line"|"any"|nil
---@param timeout_ms integer? default: as long as the connection lives
---@return string? data
---@return string|true|nil message "closed", "timeout" or "too_large" (a line over 64 KB); with data
---of a WebSocket: true when it is a text
---@return string? code "timeout", "too_large", or why it was closed: "ended", "reset", ...
function Connection:read(what, timeout_ms)
  local deadline = timeout_ms and now() + timeout_ms
  what = what or "frame"
  if self.framing ~= "raw" then
    if what ~= "frame" and not (what == "line" and self.framing == "line") and what ~= "any" then
      error('read: a "' .. self.framing .. '" connection gives frames, not ' .. tostring(what), 2)
    end
  elseif type(what) == "number" then
    if what < 0 or what % 1 ~= 0 then error("read: a number of bytes expected", 2) end
    return read_count(self, what, deadline)
  elseif what == "line" then
    local line, message, code = read_to(self, "\n", DEFAULT_MAX, deadline)
    if line and line:byte(-1) == 13 then line = line:sub(1, -2) end
    return line, message, code
  elseif what ~= "frame" and what ~= "any" then
    error('read: a number, "frame", "line" or "any" expected, got ' .. tostring(what), 2)
  end
  if self._text then return take_text(self, text_left(self)) end
  while true do
    local data, is_text = next_frame(self)
    if data then return data, is_text end
    local ok, message, code = await(self, 0, deadline)
    if not ok then return nil, message, code end
  end
end

---Reads up to a separator of a "raw" connection, which is taken but not returned.
---@async
---@param separator string not empty
---@param max integer? most bytes before it; default 65536
---@param timeout_ms integer? default: as long as the connection lives
---@return string? data
---@return string? message "closed", "timeout" or "too_large"
---@return string? code as of read()
function Connection:read_until(separator, max, timeout_ms)
  if type(separator) ~= "string" or separator == "" then
    error("read_until: a separator expected", 2)
  end
  if self.framing ~= "raw" then error("read_until: only a raw connection has bytes", 2) end
  return read_to(self, separator, max or DEFAULT_MAX, timeout_ms and now() + timeout_ms)
end

---`for data in connection:each() do`: frames (or lines, if `what` says so) until it is closed.
---@async
---@param what "frame"|"line"|"any"|nil
---@return async fun(): string?
function Connection:each(what)
  return function() return (self:read(what)) end
end

-- Ending and changing ---------------------------------------------------------------------------

local function end_locally(self, reason)
  if self.closed then return end
  self.closed = reason
  wake_reader(self)
  wake_drainers(self)
end

---Delivers what was written (up to close_ms), then closes. on_close follows. A task that waits
---for data gets nil, "closed".
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Connection:close()
  end_locally(self, "closed")
  return network.close(self.id)
end

---A WebSocket's close(), with a code and a reason for the peer.
---@param code integer? 1000 to 1014 or 3000 to 4999; default 1000, all is well
---@param reason string? UTF-8, at most 123 bytes
---@return true? ok
---@return string? message
---@return string? code "dead", "invalid" (no WebSocket, the code, the reason)
function Connection:close_websocket(code, reason)
  local ok, message, kind = network.close_websocket(self.id, code or 1000, reason or "")
  if ok then end_locally(self, "closed") end
  return ok, message, kind
end

---The handshake is done: from now on the connection carries messages of WebSocket. A server calls
---it on a "raw" connection and then sends its answer to the handshake by write_raw(); a client
---calls it on a "head" one when that answer has come. See perilune.websocket, which does both.
---@param framing "websocket"
---@param options { max_frame: integer? }? largest message, all fragments together; default 65536
---@return true? ok
---@return string? message
---@return string? code "dead", "invalid" (of another framing; data waits here to be read)
function Connection:upgrade(framing, options)
  if framing ~= "websocket" then
    error('upgrade: "websocket" expected, got ' .. tostring(framing), 2)
  end
  if self._text or self._frames then
    return nil, "data of this connection waits to be read", "invalid"
  end
  local ok, message, code = network.upgrade(self.id, options and options.max_frame or DEFAULT_MAX)
  if ok then self.framing = "websocket" end
  return ok, message, code
end

---Closes at once; the peer sees a reset. on_close follows.
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Connection:abort()
  end_locally(self, "aborted")
  return network.abort(self.id)
end

---Gives the connection to another service, whose socket.adopt() says what becomes of it there.
---This object is of no more use. Nothing that the peer has sent is lost or out of order.
---@param to integer|string handle or name
---@return true? ok
---@return string? message
---@return string? code "dead" (either), "invalid" (data waits here to be read)
function Connection:hand_over(to)
  if self._text or self._frames then
    return nil, "data of this connection waits to be read", "invalid"
  end
  local ok, message, code = network.hand_over(self.id, to)
  if not ok then return nil, message, code end
  self._state.connections[self.id] = nil
  end_locally(self, "handed over")
  return true
end

---Reading stops soon; what is on its way still comes.
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Connection:pause() return network.pause(self.id) end

---Reads again after pause().
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Connection:resume()
  self._held = nil
  return network.resume(self.id)
end

---The largest frame from now on: small before a login, larger after it.
---@param bytes integer
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Connection:set_max_frame(bytes) return network.set_max_frame(self.id, bytes) end

---Closed as "idle" when nothing comes for so long, from now on.
---@param ms integer 0: never
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Connection:set_idle(ms) return network.set_idle(self.id, ms) end

---How long ago it was accepted, or was to connect: a handshake counts.
---@return integer? ms
---@return string? message
---@return string? code "dead"
function Connection:age() return network.age(self.id) end

---The address of the other end.
---@return string? host of the peer
---@return integer|string port
function Connection:peer() return network.peer(self.id) end

---The address of this end.
---@return string? host of this end
---@return integer|string port
function Connection:local_address() return network.local_address(self.id) end

-- Many at once ----------------------------------------------------------------------------------

local function id_of(connection)
  return type(connection) == "table" and connection.id or connection
end

---Sends one frame to each; it is encoded once.
---@param connections (perilune.socket.Connection|integer)[] connections or their ids
---@param data string
---@return integer count how many took it
function socket.broadcast(connections, data)
  local ids = {}
  for index, connection in ipairs(connections) do ids[index] = id_of(connection) end
  return network.write_many(ids, data)
end

---A set of connections that are written to together. Closed ones drop out by themselves.
---@class perilune.socket.Group
---@field id integer
local Group = {}
Group.__index = Group

---A new group, which lives as long as this service or until close(). Raises when the service has
---16384 of them.
---@return perilune.socket.Group
function socket.group() return setmetatable({ id = network.group_create() }, Group) end

---Puts a connection into the group; it leaves by itself when it closes.
---@param connection perilune.socket.Connection|integer
---@return true? ok
---@return string? message
---@return string? code "dead" (the connection), "not_found" (the group)
function Group:add(connection) return network.group_add(self.id, id_of(connection)) end

---Takes a connection out of the group.
---@param connection perilune.socket.Connection|integer
---@return boolean? was_member
---@return string? message
---@return string? code "not_found": the group is closed
function Group:remove(connection) return network.group_remove(self.id, id_of(connection)) end

---Sends one frame to each member; it is encoded once.
---@param data string
---@param except (perilune.socket.Connection|integer)? a member that doesn't get it
---@return integer? count how many took it
---@return string? message
---@return string? code "not_found", "too_large"
function Group:write(data, except)
  return network.group_write(self.id, data, except and id_of(except))
end

---How many belong to the group.
---@return integer? count of members, also of those that have been closed since the last write
---@return string? message
---@return string? code "not_found": the group is closed
function Group:size() return network.group_size(self.id) end

---Frees the group; its members stay open.
---@return true? ok
---@return string? message
---@return string? code "not_found": the group is closed
function Group:close() return network.group_close(self.id) end

return socket
