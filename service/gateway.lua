-- gateway: where players' connections end.
--
-- DESIGN
-- A session is one connection. Its key (2^31 | a number) names it from the first byte to the
-- last; a player who has logged in adds a uid and the epoch of that login. Packets to services
-- carry the uid as utag, or before login the key; the key travels beside the packet too, and comes
-- back with the reply, so that a reply never reaches a later session of the same player.
--
-- What comes from a client is forwarded as it came, with another utag, or is of stype 0, the
-- protocol itself, and ends here (gateway/itself.lua). The gate forwards, and delivers replies, in
-- C++: no script runs for a packet unless it is unusual (gateway/requests.lua).
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
-- is broken: the token takes the session along from that one, too (gateway/tokens.lua).
--
-- A player may have UDP besides (gateway/udp.lua), as long as the connection lasts.
--
-- Kept sessions count as connections. Where that makes the server full, connections may still come
-- to resume one, and for nothing else.
--
-- One sweep a second, only while there are sessions, looks at deadlines: login, heartbeat, those
-- that are kept.
local perilune = require "perilune"
local gate = require "perilune.gate"
local limits = require "perilune.limits"
local counters = require "gateway.counters"
local crowd = require "gateway.crowd"
local keys = require "gateway.keys"
local listeners = require "gateway.listeners"
local reports = require "gateway.reports"
local requests = require "gateway.requests"
local sessions = require "gateway.sessions"
local settings = require "gateway.settings"
local tokens = require "gateway.tokens"
local udp = require "gateway.udp"
local game = require "protocol" ---@type perilune.Protocol

local gateway = {}

gateway.options = settings.DECLARED

local GOING_AWAY = 1001 -- RFC 6455: the page was left, and its token with it
-- Why a connection ended whose session is kept: nobody wanted it to.
local BREAKS = {
  ended = true, reset = true, stalled = true, idle = true, slow = true, tls = true,
  encryption = true,
}

local sweeper -- timer, only while there are sessions

-- ---- connections come and go ----

local function sweep_ms()
  local shortest = math.min(settings.login_ms, settings.ping_ms, settings.login_wait_ms)
  if settings.resume_ms > 0 then shortest = math.min(shortest, settings.resume_ms) end
  return math.min(1000, math.ceil(shortest / 4))
end

function gateway.on_open(connection, address)
  local now = perilune.now()
  address = limits.address(address)
  local key = keys.take(now)
  local full, may_resume = crowd.limit_reached(address, key ~= nil)
  local session = {
    connection = connection, address = address, key = key, pings = 0, pinged = 0,
    login_by = now + settings.login_ms - (connection:age() or 0), strikes = 0,
    is_pending = false, full = full,
  }
  sessions.add(session)
  counters.add "opened"
  if full and not may_resume then return sessions.refuse_full(session) end
  crowd.set_pending(session, true)
  sweeper = sweeper or perilune.every(sweep_ms(), "on_sweep")
end

function gateway.on_websocket(connection)
  local below = connection.socket
  below.on_data, below.on_end, below.on_close = "on_data", "on_end", "on_close"
  gateway.on_open(below, below.address)
end

-- Of a connection that has no session, or no longer: all other packets come to the gate.
function gateway.on_data() end

---A packet that the gate doesn't let pass.
function gateway.on_packet(key, why, data, by_udp)
  requests.handle(sessions.by_key(key), why, data, by_udp)
end

---A session that is kept misses what nobody has sent.
function gateway.on_lost(key)
  local session = sessions.by_key(key)
  if session then sessions.expire(session) end
end

-- The client of a WebSocket has ended without a close frame.
function gateway.on_end(connection)
  local session = sessions.of(connection)
  if session then session.has_ended = true end
  connection:close()
end

function gateway.on_close(connection, reason)
  local session = sessions.of(connection)
  if not session then return end
  if reason == "malformed" or reason == "too_large" then
    sessions.count_malformed(session,
      reason == "malformed" and "no packets" or "a packet is too large")
  end
  if session.kept_until then return end -- closed for its silence
  local is_break = session.has_ended or BREAKS[reason]
  if is_break and connection.close_code ~= GOING_AWAY and sessions.can_be_kept(session) then
    return sessions.keep(session)
  end
  counters.add "closed"
  sessions.drop(session)
end

function gateway.on_udp_open(peer, address) udp.on_open(peer, address) end

function gateway.on_udp_data(peer, data, channel) udp.on_data(peer, data, channel) end

function gateway.on_udp_close(peer) udp.on_close(peer) end

function gateway.on_udp_late(id) udp.on_late(id) end

-- ---- sweep ----

local function check_login(session, now)
  if session.asked_at then
    if now - session.asked_at < settings.login_wait_ms then return end
  elseif now < session.login_by then
    return
  end
  counters.add "login_timeouts"
  sessions.close(session, "login_timeout", "not logged in in time")
end

local function check_life(session, now)
  local heard = gate.heard_at(session.key)
  if heard ~= session.pinged then session.pinged, session.pings = heard, 0 end
  if now - heard < settings.ping_ms * (session.pings + 1) then return end
  if session.pings >= settings.missed_pings then
    counters.add "idle"
    if not sessions.can_be_kept(session) then
      return sessions.close(session, "idle", "nothing heard for too long")
    end
    sessions.send(session, "protocol.closing",
      { reason = "idle", text = "nothing heard for too long" })
    session.connection:close()
    return sessions.keep(session)
  end
  session.pings = session.pings + 1
  sessions.send(session, "protocol.ping")
end

function gateway.on_sweep()
  local now = perilune.now()
  for _, key in ipairs(gate.trim()) do gateway.on_lost(key) end
  for _, session in sessions.each() do
    if session.kept_until then
      if now >= session.kept_until and not session.closing then sessions.expire(session) end
    else
      if not session.closing and not session.uid then check_login(session, now) end
      if not session.closing then check_life(session, now) end
    end
  end
  keys.wake(now)
  if crowd.size() == 0 then
    perilune.cancel(sweeper)
    sweeper = nil
  end
end

-- ---- commands of services ----

---Brings a packet to the player that its utag names, or to all that a broadcast names.
---@param data string
---@param key integer? of a reply: the session that asked, and no other, gets it
function gateway.deliver(data, key)
  for _, unusual in ipairs(gate.deliver(data, key) or {}) do
    local of, why, restamped = unpack(unusual)
    if why then gateway.on_packet(of, why, restamped) else gateway.on_lost(of) end
  end
end

---A service couldn't handle a packet. Who sent one that is malformed loses the connection, but not
---by UDP.
---@param key integer
---@param code string
---@param message string
---@param request_id integer?
---@param stype integer?
---@param ctype integer?
---@param by_udp boolean?
function gateway.refuse(key, code, message, request_id, stype, ctype, by_udp)
  local session = sessions.by_key(key)
  if not session or session.closing then return end
  if code == "malformed" and by_udp then return sessions.malformed(session, message, by_udp) end
  requests.end_asking(session)
  if code == "malformed" then return sessions.malformed(session, message) end
  counters.add "refused"
  sessions.send_error(session, code, message, stype or 0, ctype or 0, request_id)
end

---A session belongs to a player from now on. One that the player had before is told and closed.
---@param key integer
---@param uid integer
---@param epoch integer of the login; an older one than the player has is refused
---@return boolean entered
function gateway.login(key, uid, epoch)
  local session, old = sessions.by_key(key), sessions.user(uid)
  if not session or session.closing or session.uid then return false end
  requests.end_asking(session)
  if old and old.epoch >= epoch then
    sessions.close(session, "relogin", "logged in elsewhere")
    return false
  end
  if old then
    counters.add "relogins"
    if game.commands["auth.relogin"] then sessions.send(old, "auth.relogin") end
    sessions.close(old, "relogin", "logged in elsewhere")
  end
  counters.add "logins"
  sessions.enter(session, uid, epoch)
  return true
end

---A player has logged out and may log in again on the same connection.
---@param uid integer
---@param epoch integer of the login that ends
function gateway.logout(uid, epoch)
  local session = sessions.user(uid)
  if not session or session.epoch ~= epoch then return end
  if session.kept_until then return sessions.drop(session) end
  sessions.lose(session)
  tokens.forget(session)
  crowd.set_pending(session, true)
  session.login_by = perilune.now() + settings.login_ms
  session.connection:set_max_frame(settings.frame_before_login)
end

---Ends the connection of a player.
---@param uid integer
---@param reason string one word
---@param text string?
---@return boolean kicked false when the player isn't here
function gateway.kick(uid, reason, text)
  local session = sessions.user(uid)
  if not session then return false end
  sessions.close(session, reason, text or reason)
  return true
end

---Sends a packet to all players who are logged in.
---@param json string for those who use JSON
---@param buf string for those who use BUF
function gateway.deliver_to_all(json, buf) reports.deliver_to_all(json, buf) end

function gateway.on_report() reports.send() end

---What an operator wants to know.
---@return table numbers counters by name; sessions (those that are kept, too), kept_now, users and
---pending as they are now; listeners: kind, port, whether it has TLS or encrypts, and by which
---key, of each in the order of the option
function gateway.stats()
  local numbers = { listeners = listeners.list() }
  crowd.copy(numbers)
  udp.copy(numbers)
  counters.copy(numbers)
  return numbers
end

-- ---- life ----

function gateway.on_down(handle) requests.on_down(handle) end

function gateway.on_start(given)
  settings.read(given)
  crowd.start()
  keys.start()
  requests.start()
  listeners.start()
  reports.start()
end

function gateway.on_stop()
  listeners.close()
  for _, session in sessions.each() do sessions.close(session, "shutdown", "the server stops") end
end

return gateway
