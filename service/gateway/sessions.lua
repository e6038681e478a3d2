-- Sessions: who they are, what is written to them, and how they end. What it takes to forward
-- packets is in the gate, under the session's key.
local perilune = require "perilune"
local gate = require "perilune.gate"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local counters = require "gateway.counters"
local crowd = require "gateway.crowd"
local keys = require "gateway.keys"
local settings = require "gateway.settings"
local tokens = require "gateway.tokens"
local udp = require "gateway.udp"
local game = require "protocol" ---@type perilune.Protocol

local sessions = {}

local JSON = protocol.JSON
local EMPTY_BODY = packet.wrap_json("null")

---@class gateway.Session
---@field connection perilune.socket.Connection closed while the session is kept
---@field address string as limits go by it: without the port
---@field key integer? nil when there is none left: it is closed at once
---@field uid integer? nil while not logged in
---@field epoch integer?
---@field pings integer sent since it was heard
---@field pinged number when it was heard last before them
---@field login_by number when it is closed if it hasn't logged in
---@field asked_at number? when a login was forwarded that isn't answered
---@field asked string? whom
---@field strikes integer packets refused since the last second of peace
---@field struck_at number? when the last one was
---@field is_pending boolean it counts as not logged in
---@field closing boolean? it is told to go
---@field token string? to resume it with
---@field has_ended boolean? its client, without a word
---@field kept_until number? its connection broke
---@field full string? why it may do nothing but resume another
---@field ticket gateway.Ticket? for UDP, not yet used
---@field udp gateway.UdpPeer?

local by_connection = {}
local by_key = {}

---@param connection perilune.socket.Connection
---@return gateway.Session?
function sessions.of(connection) return by_connection[connection] end

---@param key integer
---@return gateway.Session?
function sessions.by_key(key) return by_key[key] end

---@param uid integer
---@return gateway.Session?
function sessions.user(uid) return by_key[gate.key_of_user(uid)] end

---@return fun(...): perilune.socket.Connection, gateway.Session
---@return table
function sessions.each() return pairs(by_connection) end

---@param session gateway.Session
function sessions.add(session)
  by_connection[session.connection] = session
  crowd.count(session, 1)
  if not session.key then return end
  by_key[session.key] = session
  gate.add(session.key, session.connection.id,
    not crowd.is_exempt(session.address) and session.address or nil)
  if session.full then gate.only_resumes(session.key) end
end

---The session belongs to a player.
---@param session gateway.Session
---@param uid integer
---@param epoch integer
function sessions.enter(session, uid, epoch)
  gate.enter(session.key, uid)
  session.uid, session.epoch = uid, epoch
  crowd.set_pending(session, false)
  session.connection:set_max_frame(settings.frame)
end

-- ---- to clients ----

---Writes a packet that isn't numbered.
---@param session gateway.Session
---@param data string
function sessions.write_once(session, data)
  if session.key then return gate.write_once(session.key, data) end
  session.connection:write(data)
end

---Numbers a packet, if the session has a token, and writes it, if the session has a connection.
---One that is kept and misses what nobody has sent is lost.
---@param session gateway.Session
---@param data string
function sessions.write(session, data)
  if not session.key then return sessions.write_once(session, data) end
  if not gate.write(session.key, data) then sessions.expire(session) end
end

---A packet of the protocol, in the form that the client uses.
---@param session gateway.Session
---@param name string
---@param body any
---@param request_id integer?
function sessions.send(session, name, body, request_id)
  local itself = game.commands[name].stype == 0
  local form = (itself or not session.key) and JSON or gate.form(session.key)
  local data = game:encode_reply(name, form, body, request_id)
  if itself and name ~= "protocol.error" then return sessions.write_once(session, data) end
  sessions.write(session, data)
end

---@param session gateway.Session
---@param code string
---@param message string
---@param stype integer
---@param ctype integer
---@param request_id integer?
function sessions.send_error(session, code, message, stype, ctype, request_id)
  sessions.send(session, "protocol.error",
    { code = code, message = message, stype = stype, ctype = ctype }, request_id)
end

---A packet of a client is refused: why, with its request_id.
---@param session gateway.Session
---@param data string
---@param code string
---@param message string
function sessions.refuse(session, data, code, message)
  local stype, ctype = packet.header(data)
  counters.add "refused"
  sessions.send_error(session, code, message, stype, ctype, packet.request_id(data))
end

-- ---- ends ----

---Its player isn't here any more, by this session. Services hear it once.
---@param session gateway.Session
function sessions.lose(session)
  local uid = session.uid
  if not uid then return end
  udp.leave(session)
  session.uid, session.epoch = nil, nil
  local told = {}
  for stype, service in pairs(gate.leave(session.key)) do
    if not told[service] then
      told[service] = true
      perilune.send(service, "@packet",
        packet.make(stype, protocol.DISCONNECTED, uid, JSON, EMPTY_BODY), session.key)
    end
  end
end

---Its connection is closed, and it isn't kept.
---@param session gateway.Session
function sessions.drop(session)
  if by_connection[session.connection] ~= session then return end
  crowd.set_pending(session, false)
  sessions.lose(session)
  tokens.forget(session)
  if session.kept_until then crowd.count_kept(-1) end
  session.closing = true
  by_connection[session.connection] = nil
  crowd.count(session, -1)
  if not session.key then return end
  gate.remove(session.key)
  by_key[session.key] = nil
  keys.rest(session.key)
end

---Tells the client why and closes; what was written before is delivered.
---@param session gateway.Session
---@param reason string one word
---@param text string for people
function sessions.close(session, reason, text)
  if session.closing then return end
  if session.kept_until then return sessions.drop(session) end
  sessions.lose(session)
  tokens.forget(session)
  crowd.set_pending(session, false)
  session.closing = true
  sessions.send(session, "protocol.closing", { reason = reason, text = text })
  if session.key then gate.close(session.key) end
  session.connection:close()
end

---Counts what no client of ours sends.
---@param session gateway.Session
---@param message string
function sessions.count_malformed(session, message)
  counters.warn("malformed", "malformed packet from %s: %s", session.address, message)
end

---Ends who sent it. What came by UDP costs nobody more than that packet and a part of the rate: it
---might be anybody's datagram.
---@param session gateway.Session
---@param message string
---@param by_udp boolean?
function sessions.malformed(session, message, by_udp)
  if by_udp then return counters.add "udp_malformed" end
  sessions.count_malformed(session, message)
  sessions.close(session, "malformed", message)
end

---It came when there was no room.
---@param session gateway.Session
function sessions.refuse_full(session)
  counters.warn("full", "refused %s: %s; connections %d of %d, %d of them not logged in",
    session.address, session.full, crowd.size() - 1, settings.max_connections, crowd.pending())
  sessions.close(session, "full", session.full)
end

-- ---- without a connection ----

---@param session gateway.Session
---@return boolean?
function sessions.can_be_kept(session)
  return session.uid and session.token and not session.closing and not session.kept_until
end

---The connection of a session that can be kept is broken, or closed just now.
---@param session gateway.Session
function sessions.keep(session)
  udp.leave(session)
  session.kept_until = perilune.now() + settings.resume_ms
  gate.keep(session.key)
  crowd.count_kept(1)
  counters.add "kept"
  counters.add "closed"
end

---It was kept in vain, or what its client asks for isn't there.
---@param session gateway.Session
function sessions.expire(session)
  counters.add "resume_expired"
  if not session.kept_until then
    session.connection:abort()
    counters.add "closed"
  end
  sessions.drop(session)
end

---The session goes on with the connection of another, which is forgotten.
---@param session gateway.Session
---@param other gateway.Session
function sessions.move(session, other)
  udp.leave(session)
  by_connection[session.connection] = nil
  if session.kept_until then
    crowd.count_kept(-1)
    session.kept_until = nil
  else
    session.connection:abort()
    counters.add "closed"
  end
  tokens.take_over(session, other)
  crowd.set_pending(other, false)
  other.closing = true
  crowd.count(session, -1) -- the other was counted, too
  gate.move(session.key, other.key)
  by_key[other.key] = nil
  keys.rest(other.key)
  session.connection, session.address = other.connection, other.address
  by_connection[session.connection] = session
  session.pings, session.has_ended = 0, nil
  session.connection:set_max_frame(settings.frame)
end

return sessions
