---@class perilune.websocket
-- WebSocket (RFC 6455): `local websocket = require "perilune.websocket"`.
--
--   local server = assert(websocket.listen {
--     port = 8081, path = "/chat",
--     on_message = function(connection, data) connection:send_text("you said " .. data) end,
--   })
--
--   local connection = assert(websocket.connect "ws://127.0.0.1:8081/chat")
--   connection:send_text "hello"
--   print(connection:read())
--
-- websocket.accept(request) does it within a route of perilune.http, so that one port serves both.
-- With on_message each message calls a function, in a task of its own; without it messages wait
-- until a task reads them. The engine cuts frames, answers pings and closings, and checks UTF-8.
--
-- What can fail returns nil, message, code; options that can't be are raised.
local websocket = {}

local callback = require "perilune.callback"
local core = require "perilune.core"
local crypto = require "perilune.crypto"
local http = require "perilune.http"
local message = require "perilune.http.message"
local native = require "perilune.native.http"
local socket = require "perilune.socket"
local url = require "perilune.http.url"

local call, now = callback.call, core.native "now"

local VERSION = "13"
local MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" -- RFC 6455, 1.3
local MAX_MESSAGE = 64 * 1024
local ABNORMAL = 1006
-- The code of a connection that ended by itself, by the engine's reason.
local CODES = { malformed = 1002, too_large = 1009, stopping = 1001, closed = 1000 }

---@class perilune.websocket.Callbacks
---@field on_open perilune.Callback? (connection, request): a server's connection is open
---@field on_message perilune.Callback? (connection, data, is_text)
---@field on_close perilune.Callback? (connection, code, reason), once; 1006: without a
---close frame, 1005: with one that has no code

---@class perilune.websocket.AcceptOptions : perilune.websocket.Callbacks
---@field origins string[]|"*"|nil pages that may connect, "https://example.com"; default: those of
---this host; programs other than browsers send none and may always
---@field protocols string[]? subprotocols, the preferred first
---@field max_message integer? bytes, all fragments together; default 65536
---@field idle_ms integer? closed when nothing comes for so long; default 0: never

---@class perilune.websocket.ListenOptions : perilune.websocket.AcceptOptions
---@field path string? default: any
---@field host string? as of http.listen, like the ones below
---@field port integer?
---@field tls perilune.socket.TlsOptions?
---@field max_connections integer?
---@field max_per_address integer?
---@field max_handshakes integer? TLS and what comes before the upgrade count as one
---@field max_handshakes_per_address integer?
---@field exempt string[]?
---@field backlog integer?
---@field stall_ms integer?
---@field header_ms integer? limit for the handshake, TLS and refused requests included; default
---10000

---@class perilune.websocket.ConnectOptions : perilune.websocket.Callbacks
---@field headers table<string, string>? of the handshake
---@field origin string?
---@field protocols string[]? subprotocols, the preferred first
---@field max_message integer? default 65536
---@field idle_ms integer?
---@field connect_ms integer? limit for connecting and the handshake together; default 10000
---@field tls perilune.socket.TlsOptions? for wss://

-- Connections ----------------------------------------------------------------------------------

---@class perilune.websocket.Connection
---@field socket perilune.socket.Connection what is below: for groups, drain(), hand_over()
---@field address string of the peer
---@field protocol string? the subprotocol agreed on
---@field path string of the URL
---@field closed boolean
---@field on_message perilune.Callback? may be changed
---@field on_close perilune.Callback? may be changed
local Connection = {}
Connection.__index = Connection

-- Has the messages of a connection call on_message, from now on.
local function set_message(self, on_message)
  rawset(self, "_on_message", on_message)
  local below = self.socket
  if not on_message then
    below.on_data, below.on_text = nil, nil
    return
  end
  below.on_data = function(_, data) return call(self._on_message, self, data, false) end
  below.on_text = function(_, text) return call(self._on_message, self, text, true) end
end

Connection.__index = function(self, name)
  if name == "on_message" then return rawget(self, "_on_message") end
  if name == "closed" then return self.socket.closed ~= nil end
  return Connection[name]
end

Connection.__newindex = function(self, name, value)
  if name == "on_message" then return set_message(self, value) end
  rawset(self, name, value)
end

local function new_connection(below, options, path, protocol)
  local self = setmetatable({
    socket = below, address = below.address, path = path, protocol = protocol,
    on_close = options.on_close,
  }, Connection)
  set_message(self, options.on_message)
  -- Without a close frame: nothing more can come, and there is nobody to answer.
  below.on_end = function()
    self._code, self._reason = self._code or ABNORMAL, self._reason or "ended"
    if not below.closed then below:close() end
  end
  below.on_close = function(_, reason)
    if not self.on_close then return end
    local code = below.close_code or self._code or CODES[reason] or ABNORMAL
    return call(self.on_close, self, code, below.close_reason or self._reason or reason)
  end
  return self
end

-- The handshake is done: messages follow.
local function upgrade(below, options)
  local ok, why, code = below:upgrade("websocket",
    { max_frame = options.max_message or MAX_MESSAGE })
  if ok then below:set_idle(options.idle_ms or 0) end
  return ok, why, code
end

---Sends a binary message.
---@param data string
---@return true? ok
---@return string? message
---@return string? code "dead" (closed), "overloaded" (closed as "slow" now)
function Connection:send(data) return self.socket:write(data) end

---Sends a text message.
---@param text string UTF-8
---@return true? ok
---@return string? message
---@return string? code "dead", "overloaded", "invalid" (not UTF-8)
function Connection:send_text(text) return self.socket:write_text(text) end

---Waits for a message. What came before the peer closed can still be read.
---@async
---@param timeout_ms integer? default: as long as the connection lives
---@return string? data
---@return boolean|string is_text or a message
---@return string? code "timeout", or why it was closed
function Connection:read(timeout_ms)
  local data, is_text, code = self.socket:read("frame", timeout_ms)
  if not data then return nil, is_text or "closed", code end
  return data, is_text == true
end

---Closes it, after delivering what was sent.
---@param code integer? 1000 to 1014 or 3000 to 4999; default 1000, all is well
---@param reason string? UTF-8, at most 123 bytes
---@return true? ok
---@return string? message
---@return string? code "dead", "invalid" (the code, the reason)
function Connection:close(code, reason)
  local ok, text, kind = self.socket:close_websocket(code, reason)
  if ok then self._code, self._reason = code or 1000, reason or "" end
  return ok, text, kind
end

-- The handshake of a server --------------------------------------------------------------------

-- What answers a handshake key.
local function accept_of(key) return crypto.base64_encode(crypto.sha1(key .. MAGIC)) end

local function is_key(key)
  local bytes = key and #key == 24 and crypto.base64_decode(key)
  return bytes and #bytes == 16
end

-- Whether the page that asks may connect: other sites' pages would act for their visitor.
local function allows_origin(headers, origins)
  local origin = headers.origin
  if not origin or origins == "*" then return true end
  if not origins then
    local parts = url.parse(origin)
    return parts ~= nil and parts.authority == (headers.host or ""):lower()
  end
  for _, allowed in ipairs(origins) do
    if allowed:lower() == origin:lower() then return true end
  end
  return false
end

-- The first of ours that the client has offered. false when its list can't be one.
local function choose_protocol(offered, ours)
  if not offered then return nil end
  local known = {}
  for name in (offered .. ","):gmatch "([^,]*)," do
    name = name:match "^%s*(.-)%s*$"
    if not name:find "^[%w!#$%%&'*+%-.^_`|~]+$" or known[name] then return false end
    known[name] = true
  end
  for _, name in ipairs(ours or {}) do
    if known[name] then return name end
  end
end

-- Why a request is no handshake that can be accepted: status, text, headers.
local function find_fault(request, options)
  local headers = request.headers
  if request.method ~= "GET" then
    return 405, "a handshake is a GET request", { allow = "GET" }
  elseif request.version ~= "1.1" then
    return 400, "a handshake needs HTTP/1.1"
  elseif not message.has_token(headers.upgrade, "websocket") then
    return 426, "a WebSocket is served here", { upgrade = "websocket" }
  elseif not message.has_token(headers.connection, "upgrade") then
    return 400, 'no "Upgrade" in the header Connection'
  elseif headers["sec-websocket-version"] ~= VERSION then
    return 426, "only version 13 is spoken here",
      { upgrade = "websocket", ["sec-websocket-version"] = VERSION }
  elseif not is_key(headers["sec-websocket-key"]) then
    return 400, "Sec-WebSocket-Key has to be one, of 16 bytes in base64"
  elseif request.body ~= "" or request.chunked then
    return 400, "a handshake has no body"
  elseif not allows_origin(headers, options.origins) then
    return 403, "pages of this origin may not connect"
  elseif choose_protocol(headers["sec-websocket-protocol"], options.protocols) == false then
    return 400, "Sec-WebSocket-Protocol is no list of names"
  end
end

---@async
local function refuse(request, status, text, headers)
  local response = request._response
  for name, value in pairs(headers or {}) do response:set(name, value) end
  if status ~= 405 and status ~= 426 then response:close_after() end
  response:send(text, status)
  return nil, text, "refused"
end

local function check_callbacks(options, what)
  for _, name in ipairs { "on_open", "on_message", "on_close" } do
    local given = options[name]
    if given ~= nil and not callback.is(given) then
      error(("%s: %s has to be a function, or the name of one, not a %s"):format(what, name,
        type(given)), 3)
    end
  end
  local most = options.max_message
  if most ~= nil and (type(most) ~= "number" or most < 1 or most > 2 ^ 32 - 1 or most % 1 ~= 0) then
    error(("%s: max_message can't be %s: bytes from 1 to 2^32 - 1 expected"):format(what,
      tostring(most)), 3)
  end
end

---Makes the connection of a request a WebSocket, in a handler of perilune.http. A request that
---is none, or may not be, has been answered when this returns nil.
---@async
---@param request perilune.http.Request
---@param options perilune.websocket.AcceptOptions?
---@return perilune.websocket.Connection? connection
---@return string? message why not
---@return string? code "refused", "dead" (the peer has gone)
function websocket.accept(request, options)
  options = options or {}
  check_callbacks(options, "websocket.accept")
  local status, text, headers = find_fault(request, options)
  if status then return refuse(request, status, text, headers) end
  if not request:_upgrade() then
    return refuse(request, 400, "nothing may come before the handshake is answered")
  end
  local protocol = choose_protocol(request.headers["sec-websocket-protocol"], options.protocols)
  local below = request.connection
  local connection = new_connection(below, options, request.path, protocol or nil)
  -- Before the answer, which a frame may follow at once.
  local ok, why, code = upgrade(below, options)
  if ok then
    ok, why, code = below:write_raw(table.concat {
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
      "Sec-WebSocket-Accept: ", accept_of(request.headers["sec-websocket-key"]), "\r\n",
      protocol and "Sec-WebSocket-Protocol: " .. protocol .. "\r\n" or "", "\r\n",
    })
  end
  if not ok then return nil, why, code end
  if options.on_open then call(options.on_open, connection, request) end
  return connection
end

local OF_HTTP = {
  "host", "port", "tls", "max_connections", "max_per_address", "max_handshakes",
  "max_handshakes_per_address", "exempt", "backlog", "stall_ms", "header_ms",
}
local OF_ACCEPT = {
  on_open = true, on_message = true, on_close = true, origins = true, protocols = true,
  max_message = true, idle_ms = true, path = true,
}

---Serves WebSockets alone on a port; other requests are refused. Raises for options that can't be.
---@param options perilune.websocket.ListenOptions
---@return perilune.http.Server? server
---@return string? message
---@return string? code "exists" (the port is in use), "invalid", "unavailable"
function websocket.listen(options)
  if type(options) ~= "table" then
    error("websocket.listen: a table of options expected, got " .. type(options), 2)
  end
  check_callbacks(options, "websocket.listen")
  local given = { max_body = 0 }
  for _, name in ipairs(OF_HTTP) do given[name] = options[name] end
  for name in pairs(options) do
    if not OF_ACCEPT[name] and given[name] == nil then
      error(("websocket.listen: there is no option %q"):format(tostring(name)), 2)
    end
  end
  given.until_upgrade, given.handshake_ms = true, given.header_ms
  function given.on_request(request)
    if options.path and request.path ~= options.path then return 404, "Not Found" end
    websocket.accept(request, options) -- answers what it refuses
  end
  return http.listen(given)
end

-- The handshake of a client --------------------------------------------------------------------

local function make_handshake(parts, options, key)
  local headers = message.check_headers(options.headers, 3)
  headers.host = headers.host or parts.authority
  headers.upgrade, headers.connection = "websocket", "Upgrade"
  headers["sec-websocket-version"], headers["sec-websocket-key"] = VERSION, key
  if options.origin then headers.origin = options.origin end
  if options.protocols then
    headers["sec-websocket-protocol"] = table.concat(options.protocols, ", ")
  end
  local lines = { "GET ", parts.target, " HTTP/1.1\r\n" }
  message.add_headers(lines, message.check_headers(headers, 3))
  lines[#lines + 1] = "\r\n"
  return table.concat(lines)
end

-- What is wrong with the answer to a handshake; nothing when it is one.
local function judge(text, options, key)
  local event, _, head = native.parser("response", { header_bytes = 65536 }):feed(text)
  if event ~= "head" then return "the answer isn't HTTP" end
  local headers = head.headers
  if head.status ~= 101 then
    return ("the server answered %d %s"):format(head.status, head.reason)
  elseif not head.upgrade or not message.has_token(headers.upgrade, "websocket") then
    return "the server agreed to another protocol"
  elseif headers["sec-websocket-accept"] ~= accept_of(key) then
    return "the server's Sec-WebSocket-Accept is wrong"
  elseif headers["sec-websocket-extensions"] then
    return "the server uses an extension that wasn't offered"
  end
  local protocol = headers["sec-websocket-protocol"]
  if protocol and choose_protocol(protocol, options.protocols) ~= protocol then
    return "the server chose a subprotocol that wasn't offered"
  end
  return nil, protocol
end

---@async
local function shake_hands(below, parts, options, handshake, key, deadline)
  local ok, text, why, code
  ok, why, code = below:write(handshake)
  if not ok then return nil, why, code end
  text, why, code = below:read("frame", math.max(1, math.ceil(deadline - now())))
  if not text then return nil, parts.authority .. ": no handshake: " .. why, code end
  local fault, protocol = judge(text, options, key)
  if fault then return nil, parts.authority .. ": " .. fault, "refused" end
  local connection = new_connection(below, options, parts.path, protocol)
  ok, why, code = upgrade(below, options)
  if not ok then return nil, why, code end
  if options.on_open then call(options.on_open, connection) end
  return connection
end

---Connects and shakes hands.
---@async
---@param target string "wss://example.com/chat"
---@param options perilune.websocket.ConnectOptions?
---@return perilune.websocket.Connection? connection
---@return string? message
---@return string? code "invalid" (the URL), "unavailable" (no connection), "timeout", "refused"
---(the handshake), or why the connection was closed meanwhile
function websocket.connect(target, options)
  options = options or {}
  check_callbacks(options, "websocket.connect")
  local parts, why, code = url.parse(target)
  if not parts then return nil, why, code end
  if parts.scheme ~= "ws" and parts.scheme ~= "wss" then
    return nil, target:sub(1, 200) .. ": ws:// or wss:// expected", "invalid"
  end
  local key = crypto.base64_encode(crypto.random_bytes(16))
  local handshake = make_handshake(parts, options, key)
  local limit = options.connect_ms or 10000
  local deadline = now() + limit
  local below, connection
  below, why, code = socket.connect(parts.host, parts.port, {
    framing = "head", connect_ms = limit,
    tls = parts.scheme == "wss" and (options.tls or true) or nil,
  })
  if not below then return nil, why, code end
  connection, why, code = shake_hands(below, parts, options, handshake, key, deadline)
  if connection then return connection end
  if not below.closed then below:abort() end
  return nil, why, code
end

return websocket
