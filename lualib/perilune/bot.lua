---@class perilune.bot
-- A player without a screen: connects to a gateway, logs in, sends requests. For load tests and
-- for tests of services.
--
--   local player = assert(bot.connect { port = 6080 })
--   player:login()
--   player:request("talkroom.enter", { uname = "Ada", usex = 1 })
--   local name, body = player:next()
--
-- After `player:request("protocol.hello", { version = 1 })` and a login, resume() goes on where a
-- broken connection ended. Pings are answered. What can fail returns nil, message, code.
local bot = {}

local perilune = require "perilune"
local core = require "perilune.core"
local crypto = require "perilune.crypto"
local enet = require "perilune.enet"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local socket = require "perilune.socket"
local ticket = require "perilune.ticket"
local websocket = require "perilune.websocket"

local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local DEFAULT_MS = 5000
local KEY_BYTES = 32
local MAX_PACKET = 65533
local LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

---@class perilune.Bot
---@field profile table? what the login gave: uid, unick, ...
---@field key string? of the guest
---@field token string? to resume with: of hello, or of the last resume
---@field form integer protocol.JSON or protocol.BUF: how it sends
---@field closing table? {reason, text} when the server said why it closes
---@field closed string? why the connection is closed
---@field on_push fun(self: perilune.Bot, name: string, body: any)? else pushes wait for next()
---@field udp perilune.enet.Peer? since join_udp(), as long as it lasts
---@field by_udp boolean? what it sends goes by UDP while it can; replies come by the connection
local Bot = {}
Bot.__index = Bot

---@class perilune.BotOptions
---@field host string? default "127.0.0.1"
---@field port integer?
---@field url string? instead of host and port: ws:// or wss:// of the gateway's WebSocket, or
---tcp://host:port, tcp+tls://host:port, tcp+encrypted://host:port
---@field tls (boolean|perilune.socket.TlsOptions)? default: as the URL says
---@field encrypt (boolean|perilune.socket.EncryptOptions)? default: as the URL says
---@field form integer? default protocol.JSON
---@field on_push fun(self: perilune.Bot, name: string, body: any)?

local function game() return require "protocol" end ---@return perilune.Protocol

-- ---- what comes in ----

-- The request that a packet answers: by its request_id, or, where there is none, the oldest of
-- the command.
local function take_waiting(self, request_id, name)
  for i, waiting in ipairs(self._waiting) do
    if waiting.request_id == request_id and (request_id or waiting.name == name) then
      table.remove(self._waiting, i)
      return waiting
    end
  end
end

local function name_of(stype, ctype)
  local command = game():by_number(stype, ctype)
  return command and command.name
end

local function push(self, name, body)
  if self.on_push then return self:on_push(name, body) end
  self._pushes[#self._pushes + 1] = { name, body }
  if self._reader then wake(self._reader) end
end

-- Packets that the server numbers, which never come by UDP, are counted for resume(), and its
-- tokens are kept.
local function follow(self, data, command, body)
  local name = command and command.name
  if packet.header(data) ~= 0 or name == "protocol.error" then
    self._received = self._received + 1
  elseif name == "protocol.hello" and body.resume ~= "" then
    self.token, self._received = body.resume, 0
  elseif name == "protocol.resume" and body.status == protocol.status.ok then
    self.token, self._received = body.token, self._resumed_at
  end
end

local function on_packet(self, data, by_udp)
  local command, body, request_id = game():decode_reply(data)
  if not by_udp then follow(self, data, command, body) end
  if not command then return push(self, "malformed", body) end
  if command.name == "protocol.ping" then return self:send("protocol.pong") end
  if command.name == "protocol.closing" then self.closing = body end
  if command.name == "protocol.error" then
    local waiting = take_waiting(self, request_id, name_of(body.stype, body.ctype))
    if waiting then return wake(waiting.token, nil, body.message, body.code) end
  end
  local waiting = not command.is_push and take_waiting(self, request_id, command.name)
  if waiting then return wake(waiting.token, body == nil and true or body) end
  push(self, command.name, body)
end

local function on_close(self, reason)
  self.closed = reason
  if self.udp then self.udp:abort() end
  for _, waiting in ipairs(self._waiting) do
    wake(waiting.token, nil, "the connection is closed", reason)
  end
  self._waiting = {}
  if self._reader then wake(self._reader) end
end

-- ---- what goes out ----

-- Where a bot connects by TCP, and how that is private. Nil, message, code for no such URL.
local function place_of(options)
  if not options.url then
    return options.host or "127.0.0.1", options.port, options.tls, options.encrypt
  end
  local how, host, port = options.url:match "^tcp%+?(%a*)://%[?([^/%[%]]+)%]?:(%d+)$"
  port = tonumber(port)
  if not port or port < 1 or port > 65535
      or (how ~= "" and how ~= "tls" and how ~= "encrypted") then
    return nil, ("%s is no URL of a gateway"):format(options.url), "invalid"
  end
  return host, port, options.tls or how == "tls", options.encrypt or how == "encrypted"
end

-- Connects; what still comes from a connection before this one is dropped.
---@async
local function dial(self)
  local options, line = self._options, {}
  self._line = line
  local function data_came(_, data)
    if self._line == line then on_packet(self, data) end
  end
  local function was_closed(_, reason)
    if self._line == line then on_close(self, reason) end
  end
  local connection, message, code
  if options.url and not options.url:find "^tcp" then
    connection, message, code =
      websocket.connect(options.url, { tls = options.tls, max_message = MAX_PACKET })
    if connection then
      connection = connection.socket
      connection.on_data, connection.on_close = data_came, was_closed
    end
  else
    local host, port, tls, encrypt = place_of(options)
    if not host then return nil, port, tls end
    connection, message, code = socket.connect(host, port, {
      framing = "packet", tls = tls, encrypt = encrypt, on_data = data_came, on_close = was_closed,
    })
  end
  if not connection then return nil, message, code end
  self.connection = connection
  self._host = options.url and options.url:match "://([^/:%[]+)" or options.host or "127.0.0.1"
  return self
end

---Connects to a gateway; doesn't log in.
---@async
---@param options perilune.BotOptions
---@return perilune.Bot? player nil when it can't connect
---@return string? message
---@return string? code as of socket.connect, or of websocket.connect
function bot.connect(options)
  return dial(setmetatable({
    form = options.form or protocol.JSON, on_push = options.on_push,
    _options = options, _waiting = {}, _pushes = {}, _next_id = 0, _received = 0,
  }, Bot))
end

---A key of a new guest.
---@return string key 32 letters and digits
function bot.new_key()
  local letters = {}
  for i = 1, KEY_BYTES do
    local at = math.random(#LETTERS)
    letters[i] = LETTERS:sub(at, at)
  end
  return table.concat(letters)
end

---Sends a packet that nothing is waited for.
---@param name string "talkroom.exit"
---@param body any
---@param request_id integer?
---@return true? ok
---@return string? message
function Bot:send(name, body, request_id)
  local way = self.by_udp and self.udp or self.connection
  return way:write(game():encode_request(name, self.form, body, request_id))
end

---Sends a request and waits for its reply.
---@async
---@param name string
---@param body any
---@param ms integer? default 5000
---@return any body of the reply, true where it has none; nil when there is none
---@return string? message
---@return string? code of the error, why it was closed, or "timeout"
function Bot:request(name, body, ms)
  if self.closed then return nil, "the connection is closed", self.closed end
  local waiting = { name = name, token = new_token() }
  if self.form == protocol.JSON then
    self._next_id = self._next_id + 1
    waiting.request_id = self._next_id
  end
  table.insert(self._waiting, waiting)
  self:send(name, body, waiting.request_id)
  local reply, message, code = wait(waiting.token, ms or DEFAULT_MS)
  if reply == nil and message == "timeout" then return nil, "timeout", "timeout" end
  return reply, message, code
end

---Logs in as a guest.
---@async
---@param key string? default: that of a new guest
---@return table? profile nil when it was refused
---@return string|integer|nil message or status
function Bot:login(key)
  self.key = key or self.key or bot.new_key()
  local profile, message = self:request("auth.guest_login", self.key)
  if not profile then return nil, message end
  if profile.status ~= protocol.status.ok then return nil, profile.status end
  self.profile = profile
  return profile
end

-- Shows a ticket; returns when the server has shown that it knows the secret.
---@async
local function show_ticket(self, peer, given, limit_ms)
  local id, secret = crypto.unhex(given.ticket), crypto.unhex(given.secret)
  local cookie = peer:cookie()
  local token, expected = new_token(), ticket.answer(id, secret, cookie)
  peer.on_data = function(_, data)
    peer.on_data = function(_, packet_data) on_packet(self, packet_data, true) end
    wake(token, crypto.equal(data, expected))
  end
  local waits = true
  peer.on_close = function()
    if self.udp == peer then self.udp = nil end
    if waits then wake(token, false) end
  end
  peer:write(ticket.show(id, secret, cookie), { channel = ticket.CHANNEL })
  local is_known = wait(token, limit_ms)
  waits = false
  return is_known == true
end

---Gets a ticket and connects by UDP besides. Packets that come by it are pushes like others; with
---`by_udp` requests go by it.
---@async
---@param options { host: string?, port: integer?, connect_ms: integer? }? where; default: the host
---of the connection, the port that the server says, 5000 ms
---@return true? joined
---@return string? message
---@return string|integer|nil code a status, "unavailable", "refused", those of request()
function Bot:join_udp(options)
  options = options or {}
  local given, message, code = self:request("protocol.udp")
  if not given then return nil, message, code end
  if given.status ~= protocol.status.ok then return nil, "there is no ticket", given.status end
  local limit_ms = options.connect_ms or DEFAULT_MS
  local peer, why, kind = enet.connect(options.host or self._host, options.port or given.port,
    { connect_ms = limit_ms })
  if not peer then return nil, why, kind end
  if self.udp then self.udp:abort() end
  if not show_ticket(self, peer, given, limit_ms) then
    peer:abort()
    return nil, "the ticket was refused", "refused"
  end
  self.udp = peer
  return true
end

---Connects again and goes on with the session that the connection before had, which is closed if
---it isn't yet. What it missed follows as pushes: replies, too, since their requests have failed.
---Refused, it is connected and not logged in.
---@async
---@param options perilune.BotOptions? where; default: as before
---@return true? resumed
---@return string? message
---@return string|integer|nil code "expired", why it can't connect, "timeout", or a status
function Bot:resume(options)
  local token = self.token
  if not token then error("resume: there is no token; send protocol.hello before", 2) end
  self._resumed_at = self._received
  self._line = nil
  if not self.closed then
    self.connection:abort()
    on_close(self, "aborted")
  end
  self._options = options or self._options
  self.closed, self.closing = nil, nil
  local connected, message, code = dial(self)
  if not connected then
    self.closed = code
    return nil, message, code
  end
  self.token = nil
  local reply
  reply, message, code = self:request("protocol.resume",
    { token = token, received = self._resumed_at })
  if not reply then return nil, message, code end
  if reply.status ~= protocol.status.ok then return nil, "refused", reply.status end
  return true
end

---The next packet that was pushed, in their order.
---@async
---@param ms integer? default 5000
---@return string? name nil when none came, or the connection was closed
---@return any body or why not
function Bot:next(ms)
  local limit = perilune.now() + (ms or DEFAULT_MS)
  while not self._pushes[1] do
    if self.closed then return nil, self.closed end
    local left = math.ceil(limit - perilune.now())
    if left <= 0 then return nil, "timeout" end
    self._reader = new_token()
    wait(self._reader, left)
    self._reader = nil
  end
  local entry = table.remove(self._pushes, 1)
  return entry[1], entry[2]
end

---Closes the connection, and UDP.
function Bot:close()
  if self.udp then self.udp:abort() end
  self.connection:close()
end

return bot
