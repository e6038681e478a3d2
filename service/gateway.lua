-- gateway: where players' connections end.
--
-- DESIGN
-- A session is one connection. Its key (2^31 | a number) names it from the first byte to the
-- last; a player who has logged in adds a uid and the epoch of that login. Packets to services
-- carry the uid as utag, or before login the key; the key travels beside the packet too, and comes
-- back with the reply, so that a reply never reaches a later session of the same player.
--
-- What comes from a client passes, in this order: rate limits, the header, reserved numbers,
-- login, and is then forwarded as it came, with another utag. Nothing but the header is decoded.
-- Packets of stype 0, the protocol itself, end here.
--
-- The service that checks logins (auth) says who a session is, by the command `login`, before its
-- reply passes. A player who is here already is lost first: the old session is told, its services
-- get "disconnected" once, and it is closed. From then on it has no uid, so its end touches
-- nothing. Later a session's end is the same: `lose` compares before it clears.
--
-- A session outlives its connection when its client has said hello, which gave it a token. From
-- then on packets to the client are numbered, and the last of them stay in the session's ring. When
-- the connection breaks the session is kept, its packets go into the ring alone, and services
-- notice nothing. `resume` on another connection moves the session there, with its key and uid,
-- and sends from the ring what the client hasn't had; the session that the new connection began
-- with is forgotten. A client may be there again before the gateway knows that the old connection
-- is broken: the token takes the session along from that one, too. Tokens are found by their
-- digest, so that how long a look-up takes tells nothing of them.
--
-- Kept sessions count as connections. Where that makes the server full, connections may still come
-- to resume one, and for nothing else.
--
-- One sweep a second, only while there are sessions, looks at deadlines: login, heartbeat, those
-- that are kept.
local perilune = require "perilune"
local crypto = require "perilune.crypto"
local limits = require "perilune.limits"
local options = require "perilune.options"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local socket = require "perilune.socket"
local websocket = require "perilune.websocket"
local game = require "protocol" ---@type perilune.Protocol

local gateway = {}

gateway.options = {
  listen = { type = "table", default = { { port = 6080 } },
    meaning = "where clients connect, a table each: see LISTEN below" },
  max_connections = { type = "integer", default = 10000, min = 1, max = 1000000,
    meaning = "connections at a time" },
  max_per_address = { type = "integer", default = 200, min = 1, max = 1000000,
    meaning = "of these, from one address" },
  max_pending = { type = "integer", default = 32, min = 1, max = 1000000,
    meaning = "of these, not logged in" },
  pending_share = { type = "number", default = 0.25, min = 0.001, max = 1,
    meaning = "share of max_connections that may be not logged in" },
  exempt = { type = "table", default = { "127.0.0.1", "::1" },
    meaning = "addresses, such as a proxy's, without limits an address" },
  login_ms = { type = "integer", default = 10000, min = 10, max = 3600000, unit = "ms",
    meaning = "time to log in; waiting for auth doesn't count" },
  login_wait_ms = { type = "integer", default = 30000, min = 10, max = 3600000, unit = "ms",
    meaning = "how long one answer of auth may take" },
  ping_ms = { type = "integer", default = 60000, min = 10, max = 3600000, unit = "ms",
    meaning = "silence after which a client is pinged" },
  missed_pings = { type = "integer", default = 2, min = 1, max = 100,
    meaning = "pings without an answer, then it is closed" },
  rate = { type = "number", default = 50, min = 0.1, max = 100000,
    meaning = "packets a second of a session, on average" },
  burst = { type = "integer", default = 100, min = 1, max = 1000000,
    meaning = "packets of a session at once" },
  address_rate = { type = "number", default = 1000, min = 0.1, max = 1000000,
    meaning = "packets a second of an address, on average" },
  address_burst = { type = "integer", default = 2000, min = 1, max = 10000000,
    meaning = "packets of an address at once" },
  max_strikes = { type = "integer", default = 200, min = 1, max = 1000000,
    meaning = "packets over the rate, without a second of peace, then it is closed" },
  frame_before_login = { type = "integer", default = 4096, min = 64, max = 65533, unit = "bytes",
    meaning = "largest packet before login" },
  frame = { type = "integer", default = 65533, min = 64, max = 65533, unit = "bytes",
    meaning = "largest packet after login" },
  key_rest_ms = { type = "integer", default = 60000, min = 0, max = 3600000, unit = "ms",
    meaning = "how long the key of a dead session isn't used again" },
  keys = { type = "integer", default = 2 ^ 31, min = 2, max = 2 ^ 31,
    meaning = "how many keys there are" },
  resume_ms = { type = "integer", default = 30000, min = 0, max = 3600000, unit = "ms",
    meaning = "how long a session is kept whose connection broke; 0: not at all" },
  resume_packets = { type = "integer", default = 256, min = 1, max = 65536,
    meaning = "last packets of a session that are kept for a client to resume" },
  resume_bytes = { type = "integer", default = 65536, min = 64, max = 16777216, unit = "bytes",
    meaning = "of these, in bytes" },
  resume_total_bytes = { type = "integer", default = 67108864, min = 64, max = 2 ^ 40,
    unit = "bytes", meaning = "the same of all sessions together, each having an equal share" },
  routes = { type = "table", default = {},
    meaning = "who serves a service of the protocol: { scene = \"scene1\" }; default: its name" },
}

-- What an entry of `listen` may have.
local LISTEN = {
  kind = { type = "string", default = "tcp", choices = { "tcp", "websocket" },
    meaning = "how packets come" },
  host = { type = "string", default = "127.0.0.1", meaning = "address; \"*\": all" },
  port = { type = "integer", required = true, min = 0, max = 65535,
    meaning = "port; 0: any free one" },
  tls = { type = "table", meaning = "{ certificate = file, key = file }: then TLS, or wss://" },
  path = { type = "string", meaning = "of a WebSocket's URL; default: any" },
  origins = { type = "table",
    meaning = "pages that may connect by WebSocket, { \"*\" }: all; default: those of this host" },
}

local JSON = protocol.JSON
local FIRST_KEY = protocol.FIRST_KEY
local DISCONNECTED = protocol.DISCONNECTED
local BROADCAST = protocol.BROADCAST
local PROTOCOL_VERSION = 1
local LOG_EVERY_MS = 1000
local EMPTY_BODY = packet.wrap_json("null")
local TOKEN_BYTES = 16
local GOING_AWAY = 1001 -- RFC 6455: the page was left, and its token with it
-- Why a connection ended whose session is kept: nobody wanted it to.
local BREAKS = { ended = true, reset = true, stalled = true, idle = true, slow = true }

-- The last packets to a client. Packet `number` is at number % settings.resume_packets.
---@class gateway.Ring
---@field sent integer number of the last packet
---@field first integer number of the oldest that is here; sent + 1 when none is
---@field bytes integer

---@class gateway.Session
---@field connection perilune.socket.Connection closed while the session is kept
---@field address string as limits go by it: without the port
---@field key integer? nil when there is none left: it is closed at once
---@field uid integer? nil while not logged in
---@field epoch integer?
---@field seen table<string, integer> services that have had a packet of the uid, and its stype
---@field form integer proto_type of the client's last packet
---@field heard_at number when the last packet came
---@field pings integer sent since then
---@field login_by number when it is closed if it hasn't logged in
---@field asked_at number? when a login was forwarded that isn't answered
---@field asked string? whom
---@field bucket perilune.Bucket
---@field strikes integer packets refused since the last second of peace
---@field struck_at number? when the last one was
---@field is_pending boolean it counts as not logged in
---@field closing boolean? it is told to go
---@field token string? to resume it with
---@field ring gateway.Ring? since the token was given
---@field has_ended boolean? its client, without a word
---@field kept_until number? its connection broke
---@field written integer? number of the last packet before that
---@field full string? why it may do nothing but resume another

local settings
local listeners = {} -- with `kind` and `tls` of their entry
local sessions = {} -- connection -> session
local by_key = {}
local users = {} -- uid -> session
local by_token = {} -- SHA-256 of the token -> session
local rings, ring_bytes = 0, 0 -- how many, and what is in them
local kept = 0 -- sessions
local resting = {} -- key -> when its session died
local resting_order = { first = 1, last = 0 } -- the same, oldest first
local next_key = 0
local routes = {} -- stype -> name of the service
local exempt = {} -- addresses
local open_by_address, pending_by_address = {}, {}
local open, pending = 0, 0
local address_buckets
local sweeper -- timer
local watched = {} -- handle -> name, of services that are asked for logins
local malformed_log = { at = -LOG_EVERY_MS, silent = 0 }
local full_log = { at = -LOG_EVERY_MS, silent = 0 }
local counters = {
  opened = 0, closed = 0, packets_in = 0, packets_out = 0, forwarded = 0, logins = 0,
  relogins = 0, malformed = 0, reserved = 0, too_fast = 0, not_logged_in = 0, refused = 0,
  unavailable = 0, undeliverable = 0, full = 0, login_timeouts = 0, idle = 0, flooding = 0,
  kept = 0, resumed = 0, resume_expired = 0,
}

local function count(name) counters[name] = counters[name] + 1 end

local function add(map, key, number)
  local sum = (map[key] or 0) + number
  map[key] = sum ~= 0 and sum or nil
end

-- ---- packets that clients may miss ----

local expire

local function forget_oldest(ring)
  local place = ring.first % settings.resume_packets
  local size = #ring[place]
  ring[place] = nil
  ring.first, ring.bytes = ring.first + 1, ring.bytes - size
  ring_bytes = ring_bytes - size
end

-- Forgets what is over the session's share, which gets smaller the more sessions there are. One
-- that is kept and misses what nobody has sent is lost.
local function trim(session)
  local ring = session.ring
  local room = math.min(settings.resume_bytes, settings.resume_total_bytes / rings)
  while ring.bytes > room do forget_oldest(ring) end
  if session.kept_until and ring.first > session.written + 1 then expire(session) end
end

-- Numbers a packet and keeps it.
local function remember(session, data)
  local ring = session.ring
  if ring.sent - ring.first + 1 >= settings.resume_packets then forget_oldest(ring) end
  ring.sent = ring.sent + 1
  ring[ring.sent % settings.resume_packets] = data
  ring.bytes, ring_bytes = ring.bytes + #data, ring_bytes + #data
  trim(session)
end

-- The session can't be resumed any more.
local function forget_token(session)
  if not session.token then return end
  by_token[crypto.sha256(session.token)] = nil
  rings, ring_bytes = rings - 1, ring_bytes - session.ring.bytes
  session.token, session.ring = nil, nil
end

-- Packets are numbered from here on.
local function give_token(session)
  forget_token(session)
  session.token = crypto.hex(crypto.random_bytes(TOKEN_BYTES))
  session.ring = { sent = 0, first = 1, bytes = 0 }
  rings = rings + 1
  by_token[crypto.sha256(session.token)] = session
end

local function find_token(token)
  local session = by_token[crypto.sha256(token)]
  return session and crypto.equal(session.token, token) and session or nil
end

-- ---- to clients ----

-- A packet that isn't numbered.
local function write_once(session, data)
  if session.connection:write(data) then count "packets_out" end
end

local function write(session, data)
  if session.ring then remember(session, data) end
  if not session.kept_until then write_once(session, data) end
end

local function send(session, name, body, request_id)
  local itself = game.commands[name].stype == 0
  local data = game:encode_reply(name, itself and JSON or session.form, body, request_id)
  if itself and name ~= "protocol.error" then return write_once(session, data) end
  write(session, data)
end

local function send_error(session, code, message, stype, ctype, request_id)
  send(session, "protocol.error",
    { code = code, message = message, stype = stype, ctype = ctype }, request_id)
end

-- A packet of a client is refused: why, with its request_id.
local function refuse(session, data, code, message)
  local stype, ctype = packet.header(data)
  count "refused"
  send_error(session, code, message, stype, ctype, protocol.request_id(data))
end

-- ---- how many there are ----

local function count_open(session, number)
  open = open + number
  add(open_by_address, session.address, number)
end

-- Pending: not logged in, and not told to go.
local function set_pending(session, is_pending)
  if session.is_pending == is_pending then return end
  session.is_pending = is_pending
  pending = pending + (is_pending and 1 or -1)
  add(pending_by_address, session.address, is_pending and 1 or -1)
end

-- ---- ends of sessions ----

-- Its player isn't here any more, by this session. Services hear it once.
local function lose(session)
  local uid = session.uid
  if not uid then return end
  session.uid, session.epoch = nil, nil
  if users[uid] == session then users[uid] = nil end
  for service, stype in pairs(session.seen) do
    perilune.send(service, "@packet", packet.make(stype, DISCONNECTED, uid, JSON, EMPTY_BODY),
      session.key)
  end
  session.seen = {}
end

local function rest_key(key)
  by_key[key] = nil
  resting[key] = perilune.now()
  resting_order.last = resting_order.last + 1
  resting_order[resting_order.last] = key
end

-- Its connection is closed, and it isn't kept.
local function drop(session)
  if sessions[session.connection] ~= session then return end
  set_pending(session, false)
  lose(session)
  forget_token(session)
  if session.kept_until then kept = kept - 1 end
  session.closing = true
  sessions[session.connection] = nil
  if session.key then rest_key(session.key) end
  count_open(session, -1)
  if open == 0 and sweeper then
    perilune.cancel(sweeper)
    sweeper = nil
  end
end

local function can_be_kept(session)
  return session.uid and session.token and not session.closing and not session.kept_until
end

-- The connection of a session that can be kept is broken, or closed just now.
local function keep(session)
  session.kept_until = perilune.now() + settings.resume_ms
  session.written = session.ring.sent
  kept = kept + 1
  count "kept"
  count "closed"
end

-- It was kept in vain, or what its client asks for isn't there.
function expire(session)
  count "resume_expired"
  if not session.kept_until then
    session.connection:abort()
    count "closed"
  end
  drop(session)
end

-- Tells the client why and closes; what was written before is delivered.
local function close(session, reason, text)
  if session.closing then return end
  if session.kept_until then return drop(session) end
  lose(session)
  forget_token(session)
  set_pending(session, false)
  session.closing = true
  send(session, "protocol.closing", { reason = reason, text = text })
  session.connection:close()
end

-- A line a second of each kind: a flood of clients must not be one of the log.
local function warn_rarely(log, format, ...)
  local now = perilune.now()
  if now - log.at < LOG_EVERY_MS then
    log.silent = log.silent + 1
    return
  end
  perilune.log.warn("%s (%d more since the last line)", format:format(...), log.silent)
  log.at, log.silent = now, 0
end

local function count_malformed(session, message)
  count "malformed"
  warn_rarely(malformed_log, "malformed packet from %s: %s", session.address, message)
end

local function malformed(session, message)
  count_malformed(session, message)
  close(session, "malformed", message)
end

-- ---- keys ----

local function free_rested(now)
  while resting_order.first <= resting_order.last do
    local key = resting_order[resting_order.first]
    if now - resting[key] < settings.key_rest_ms then return end
    resting[key], resting_order[resting_order.first] = nil, nil
    resting_order.first = resting_order.first + 1
  end
end

-- Nil when all keys are in use or rest.
local function take_key(now)
  free_rested(now)
  for _ = 1, settings.keys do
    local key = FIRST_KEY + next_key
    next_key = (next_key + 1) % settings.keys
    if not by_key[key] and not resting[key] then return key end
  end
end

-- ---- sweep ----

local function check_login(session, now)
  if session.asked_at then
    if now - session.asked_at < settings.login_wait_ms then return end
  elseif now < session.login_by then
    return
  end
  count "login_timeouts"
  close(session, "login_timeout", "not logged in in time")
end

local function check_life(session, now)
  if now - session.heard_at < settings.ping_ms * (session.pings + 1) then return end
  if session.pings >= settings.missed_pings then
    count "idle"
    if not can_be_kept(session) then return close(session, "idle", "nothing heard for too long") end
    send(session, "protocol.closing", { reason = "idle", text = "nothing heard for too long" })
    session.connection:close()
    return keep(session)
  end
  session.pings = session.pings + 1
  send(session, "protocol.ping")
end

function gateway.on_sweep()
  local now = perilune.now()
  for _, session in pairs(sessions) do
    if session.ring then trim(session) end
    if session.kept_until then
      if now >= session.kept_until and not session.closing then expire(session) end
    else
      if not session.closing and not session.uid then check_login(session, now) end
      if not session.closing then check_life(session, now) end
    end
  end
  free_rested(now)
end

local function sweep_ms()
  local shortest = math.min(settings.login_ms, settings.ping_ms, settings.login_wait_ms)
  if settings.resume_ms > 0 then shortest = math.min(shortest, settings.resume_ms) end
  return math.min(1000, math.ceil(shortest / 4))
end

-- ---- connections come and go ----

-- Why a connection may not come, and true when it may come for one that is kept.
local function limit_reached(address, key)
  if not key or pending >= math.max(1, settings.max_connections * settings.pending_share) then
    return "the server is full"
  end
  local crowd = "too many connections from your address"
  local exempted = exempt[address]
  if not exempted and (pending_by_address[address] or 0) >= settings.max_pending then
    return crowd
  end
  if open >= settings.max_connections then return "the server is full", kept > 0 end
  if not exempted and (open_by_address[address] or 0) >= settings.max_per_address then
    return crowd, kept > 0
  end
end

local function refuse_full(session)
  count "full"
  warn_rarely(full_log, "refused %s: %s; connections %d of %d, %d of them not logged in",
    session.address, session.full, open - 1, settings.max_connections, pending)
  close(session, "full", session.full)
end

function gateway.on_open(connection, address)
  local now = perilune.now()
  address = limits.address(address)
  local key = take_key(now)
  local full, may_resume = limit_reached(address, key)
  local session = {
    connection = connection, address = address, key = key, seen = {}, form = JSON,
    heard_at = now, pings = 0, login_by = now + settings.login_ms,
    bucket = limits.bucket(settings.rate, settings.burst, now), strikes = 0, is_pending = false,
    full = full,
  }
  sessions[connection] = session
  if key then by_key[key] = session end
  count "opened"
  count_open(session, 1)
  if full and not may_resume then return refuse_full(session) end
  set_pending(session, true)
  sweeper = sweeper or perilune.every(sweep_ms(), "on_sweep")
end

function gateway.on_websocket(connection)
  local below = connection.socket
  below.on_data, below.on_end, below.on_close = "on_data", "on_end", "on_close"
  gateway.on_open(below, below.address)
end

-- The client of a WebSocket has ended without a close frame.
function gateway.on_end(connection)
  local session = sessions[connection]
  if session then session.has_ended = true end
  connection:close()
end

function gateway.on_close(connection, reason)
  local session = sessions[connection]
  if not session then return end
  if reason == "malformed" or reason == "too_large" then
    count_malformed(session, reason == "malformed" and "no packets" or "a packet is too large")
  end
  if session.kept_until then return end -- closed for its silence
  local is_break = session.has_ended or BREAKS[reason]
  if is_break and connection.close_code ~= GOING_AWAY and can_be_kept(session) then
    return keep(session)
  end
  count "closed"
  drop(session)
end

-- ---- the protocol itself ----

-- Name of the command -> function(session, body, request_id). In upper case, so that a reload
-- takes the new ones.
local ANSWERS = {}

function ANSWERS.hello(session, body, request_id)
  if body.version > PROTOCOL_VERSION then
    return close(session, "version", ("this server speaks version %d"):format(PROTOCOL_VERSION))
  end
  if settings.resume_ms > 0 then give_token(session) end
  send(session, "protocol.hello", {
    version = PROTOCOL_VERSION, schema = game.hash, resume = session.token,
    limits = {
      frame_bytes = settings.frame, packets_per_second = math.floor(settings.rate),
      burst = settings.burst, login_ms = settings.login_ms, ping_ms = settings.ping_ms,
    },
  }, request_id)
end

function ANSWERS.ping(session, _, request_id) send(session, "protocol.pong", nil, request_id) end

function ANSWERS.pong() end -- any packet is life

-- `session` goes on with the connection of `fresh`, which is forgotten.
local function move(session, fresh)
  sessions[session.connection] = nil
  if session.kept_until then
    kept, session.kept_until = kept - 1, nil
  else
    session.connection:abort()
    count "closed"
  end
  if not fresh.token then give_token(fresh) end
  local token = fresh.token
  forget_token(fresh)
  set_pending(fresh, false)
  rest_key(fresh.key)
  fresh.closing = true
  by_token[crypto.sha256(session.token)] = nil
  by_token[crypto.sha256(token)] = session
  session.token = token
  count_open(session, -1) -- fresh was counted, too
  session.connection, session.address = fresh.connection, fresh.address
  sessions[session.connection] = session
  session.heard_at, session.pings, session.has_ended = fresh.heard_at, 0, nil
  session.connection:set_max_frame(settings.frame)
end

function ANSWERS.resume(session, body, request_id)
  if session.uid or session.asked_at then
    count "refused"
    return send(session, "protocol.resume", { status = protocol.status.invalid_operation },
      request_id)
  end
  local old = find_token(body.token)
  local ring = old and old.uid and old.ring
  if ring and (body.received > ring.sent or body.received + 1 < ring.first) then
    expire(old)
    ring = nil
  end
  if not ring then
    count "refused"
    send_error(session, "expired", "there is no session to resume", 0,
      game.commands["protocol.resume"].ctype, request_id)
    if session.full then refuse_full(session) end
    return
  end
  count "resumed"
  move(old, session)
  send(old, "protocol.resume", { status = protocol.status.ok, token = old.token }, request_id)
  for number = body.received + 1, ring.sent do
    write_once(old, ring[number % settings.resume_packets])
  end
end

local function on_system_packet(session, data)
  local command, body, request_id, failed, failed_id = game:decode_request(data)
  if not command then
    if request_id == "malformed" then return malformed(session, body) end
    local _, ctype = packet.header(data)
    return send_error(session, request_id, body, 0, failed and failed.ctype or ctype, failed_id)
  end
  local answer = ANSWERS[command.key]
  if not answer then return refuse(session, data, "unknown_command", "only servers send this") end
  answer(session, body, request_id)
end

-- ---- packets of players ----

-- True when a packet is over a limit; it is dropped then, which its sender is told once a second.
local function is_too_fast(session, data, now)
  if session.bucket:take(now)
      and (exempt[session.address] or address_buckets:take(session.address, now)) then
    return false
  end
  count "too_fast"
  local rested = not session.struck_at or now - session.struck_at >= 1000
  session.strikes = rested and 1 or session.strikes + 1
  session.struck_at = now
  if session.strikes > settings.max_strikes then
    count "flooding"
    close(session, "flooding", "too many packets")
  elseif rested or now - session.told_at >= 1000 then
    session.told_at = now
    local stype, ctype = packet.header(data)
    if stype then
      send_error(session, "too_fast", "too many packets", stype, ctype, protocol.request_id(data))
    end
  end
  return true
end

-- True when a packet may pass as far as logging in goes.
local function passes_login(session, data, command, now)
  local is_login = command and command.login
  if not session.uid and not is_login then
    count "not_logged_in"
    refuse(session, data, "not_logged_in", "log in first")
    return false
  end
  if not is_login then return true end
  if session.uid or session.asked_at then
    count "refused"
    write(session, game:encode_reply(command.name, session.form,
      { status = protocol.status.invalid_operation }, protocol.request_id(data)))
    return false
  end
  session.asked_at = now
  return true
end

-- A login was answered, or not even asked: the time to log in goes on.
local function end_asking(session)
  if not session.asked_at then return end
  session.login_by = session.login_by + perilune.now() - session.asked_at
  session.asked_at, session.asked = nil, nil
end

-- Who waits for a service's answer to a login hears when it dies.
local function watch(session, service)
  session.asked = service
  local handle = perilune.find(service)
  if handle and not watched[handle] and perilune.monitor(handle) then watched[handle] = service end
end

function gateway.on_down(handle)
  local service = watched[handle]
  watched[handle] = nil
  for _, session in pairs(sessions) do
    if session.asked and session.asked == service and not session.closing then
      end_asking(session)
      count "unavailable"
      send_error(session, "service_unavailable", ("service %s is dead"):format(service), 0, 0)
    end
  end
end

local function forward(session, data, stype, service)
  local address = not session.uid and session.address or nil
  local sent, why = perilune.send(service, "@packet",
    packet.restamp(data, session.uid or session.key), session.key, address)
  if sent then
    count "forwarded"
    if session.uid then session.seen[service] = stype end
    if session.asked_at then watch(session, service) end
    return
  end
  end_asking(session)
  count "unavailable"
  refuse(session, data, why == "overloaded" and "busy" or "service_unavailable",
    ("service %s is %s"):format(service, why))
end

local function is_reserved(stype, ctype)
  return stype < 0 or ctype < 0 or stype == BROADCAST or ctype == DISCONNECTED
    or ctype == BROADCAST or stype == DISCONNECTED
end

function gateway.on_data(connection, data)
  local session = sessions[connection]
  if not session or session.closing or session.kept_until then return end
  local now = perilune.now()
  session.heard_at, session.pings = now, 0
  count "packets_in"
  if is_too_fast(session, data, now) then return end
  local stype, ctype, _, form = packet.header(data)
  if not stype then return malformed(session, ctype) end
  if form ~= JSON and form ~= protocol.BUF then
    return malformed(session, ("proto_type %d is neither JSON nor BUF"):format(form))
  end
  session.form = form
  if stype == 0 then return on_system_packet(session, data) end
  if session.full then return refuse_full(session) end
  if is_reserved(stype, ctype) then
    count "reserved"
    return refuse(session, data, "reserved", "this number isn't for clients")
  end
  if not passes_login(session, data, game:by_number(stype, ctype), now) then return end
  local service = routes[stype]
  if not service then
    return refuse(session, data, "unknown_service", ("there is no service %d"):format(stype))
  end
  forward(session, data, stype, service)
end

-- ---- commands of services ----

local function deliver_broadcast(data)
  local inner, uids = packet.unwrap_broadcast(packet.body(data))
  if not inner then return perilune.log.error("broadcast: %s", uids) end
  inner = packet.restamp(inner, 0)
  local connections = {}
  for _, uid in ipairs(uids) do
    local session = users[uid]
    if not session then count "undeliverable" end
    if session and session.ring then remember(session, inner) end
    if session and not session.kept_until then
      connections[#connections + 1] = session.connection
    end
  end
  counters.packets_out = counters.packets_out + socket.broadcast(connections, inner)
end

---Brings a packet to the player that its utag names, or to all that a broadcast names.
---@param data string
---@param key integer? of a reply: the session that asked, and no other, gets it
function gateway.deliver(data, key)
  local stype, ctype, utag = packet.header(data)
  if stype == BROADCAST and ctype == BROADCAST then return deliver_broadcast(data) end
  local session = utag >= FIRST_KEY and by_key[utag] or users[utag]
  -- A login's reply has the key as utag, also when the player is logged in by now.
  if not session or session.closing or (key and session.key ~= key) then
    return count "undeliverable"
  end
  local command = utag >= FIRST_KEY and game:by_number(stype, ctype)
  if command and command.login then end_asking(session) end
  write(session, packet.restamp(data, 0))
end

---A service couldn't handle a packet. Who sent one that is malformed loses the connection.
---@param key integer
---@param code string
---@param message string
---@param request_id integer?
---@param stype integer?
---@param ctype integer?
function gateway.refuse(key, code, message, request_id, stype, ctype)
  local session = by_key[key]
  if not session or session.closing then return end
  end_asking(session)
  if code == "malformed" then return malformed(session, message) end
  count "refused"
  send_error(session, code, message, stype or 0, ctype or 0, request_id)
end

local function enter(session, uid, epoch)
  users[uid] = session
  session.uid, session.epoch = uid, epoch
  set_pending(session, false)
  session.connection:set_max_frame(settings.frame)
end

---A session belongs to a player from now on. One that the player had before is told and closed.
---@param key integer
---@param uid integer
---@param epoch integer of the login; an older one than the player has is refused
---@return boolean entered
function gateway.login(key, uid, epoch)
  local session, old = by_key[key], users[uid]
  if not session or session.closing or session.uid then return false end
  end_asking(session)
  if old and old.epoch >= epoch then
    close(session, "relogin", "logged in elsewhere")
    return false
  end
  if old then
    count "relogins"
    if game.commands["auth.relogin"] then send(old, "auth.relogin") end
    close(old, "relogin", "logged in elsewhere")
  end
  count "logins"
  enter(session, uid, epoch)
  return true
end

---A player has logged out and may log in again on the same connection.
---@param uid integer
---@param epoch integer of the login that ends
function gateway.logout(uid, epoch)
  local session = users[uid]
  if not session or session.epoch ~= epoch then return end
  if session.kept_until then return drop(session) end
  lose(session)
  forget_token(session)
  set_pending(session, true)
  session.login_by = perilune.now() + settings.login_ms
  session.connection:set_max_frame(settings.frame_before_login)
end

---Ends the connection of a player.
---@param uid integer
---@param reason string one word
---@param text string?
---@return boolean kicked false when the player isn't here
function gateway.kick(uid, reason, text)
  local session = users[uid]
  if not session then return false end
  close(session, reason, text or reason)
  return true
end

---What an operator wants to know.
---@return table numbers counters by name; sessions (those that are kept, too), kept_now, users and
---pending as they are now; listeners: kind, port and whether it has TLS of each, in the order of
---the option
function gateway.stats()
  local numbers = {
    sessions = open, kept_now = kept, pending = pending, users = 0, resume_bytes = ring_bytes,
    listeners = {},
  }
  for index, entry in ipairs(listeners) do
    numbers.listeners[index] = { kind = entry.kind, port = entry.server.port, tls = entry.tls }
  end
  for _ in pairs(users) do numbers.users = numbers.users + 1 end
  for name, value in pairs(counters) do numbers[name] = value end
  return numbers
end

-- ---- life ----

local function read_routes()
  for stype, service in pairs(game.services) do
    if stype ~= 0 then routes[stype] = settings.routes[service.name] or service.service end
  end
end

-- Listens as entry `index` of the option says. Raises where that can't be.
local function serve(index)
  local read, entry = pcall(options.read, LISTEN, settings.listen[index])
  if not read then error(("listen[%d]: %s"):format(index, entry), 0) end
  local room = settings.max_connections + 100 -- those over max_connections are told why
  local server, message
  if entry.kind == "websocket" then
    local origins = entry.origins
    if origins and origins[1] == "*" then origins = "*" end
    server, message = websocket.listen {
      host = entry.host, port = entry.port, tls = entry.tls, path = entry.path,
      origins = origins, max_message = settings.frame_before_login, max_connections = room,
      header_ms = settings.login_ms, on_open = "on_websocket",
    }
  else
    server, message = socket.listen {
      host = entry.host, port = entry.port, tls = entry.tls, framing = "packet",
      max_frame = settings.frame_before_login, max_connections = room,
      handshake_ms = settings.login_ms,
      on_open = "on_open", on_data = "on_data", on_close = "on_close",
    }
  end
  if not server then error(("listen[%d]: %s"):format(index, message), 0) end
  listeners[index] = { server = server, kind = entry.kind, tls = entry.tls ~= nil }
  perilune.log.info("%s%s at %s:%d", entry.kind, entry.tls and " with TLS" or "", entry.host,
    server.port)
end

function gateway.on_start(given)
  settings = options.read(gateway.options, given)
  for _, address in ipairs(settings.exempt) do exempt[address] = true end
  next_key = math.random(0, settings.keys - 1)
  read_routes()
  address_buckets = limits.buckets(settings.address_rate, settings.address_burst, perilune.now())
  for index in ipairs(settings.listen) do serve(index) end
end

function gateway.on_stop()
  for _, entry in ipairs(listeners) do entry.server:close() end
  for _, session in pairs(sessions) do close(session, "shutdown", "the server stops") end
end

return gateway
