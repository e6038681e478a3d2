-- The protocol itself: packets of stype 0, which end at the gateway.
local gate = require "perilune.gate"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local counters = require "gateway.counters"
local sessions = require "gateway.sessions"
local settings = require "gateway.settings"
local tokens = require "gateway.tokens"
local udp = require "gateway.udp"
local game = require "protocol" ---@type perilune.Protocol

local itself = {}

local PROTOCOL_VERSION = 1

-- Name of the command -> function(session, body, request_id). In upper case, so that a reload
-- takes the new ones.
local ANSWERS = {}

function ANSWERS.hello(session, body, request_id)
  if body.version > PROTOCOL_VERSION then
    return sessions.close(session, "version",
      ("this server speaks version %d"):format(PROTOCOL_VERSION))
  end
  if settings.resume_ms > 0 then tokens.give(session) end
  sessions.send(session, "protocol.hello", {
    version = PROTOCOL_VERSION, schema = game.hash, resume = session.token,
    limits = {
      frame_bytes = settings.frame, packets_per_second = math.floor(settings.rate),
      burst = settings.burst, login_ms = settings.login_ms, ping_ms = settings.ping_ms,
    },
  }, request_id)
end

function ANSWERS.ping(session, _, request_id)
  sessions.send(session, "protocol.pong", nil, request_id)
end

function ANSWERS.pong() end -- any packet is life

function ANSWERS.udp(session, _, request_id)
  sessions.send(session, "protocol.udp", udp.ticket(session), request_id)
end

-- The session of a token that has what its client hasn't received.
local function find(token, received)
  local session = tokens.find(token)
  if not session or not session.uid then return nil end
  local first, last = gate.numbers(session.key)
  if received <= last and received + 1 >= first then return session end
  sessions.expire(session)
end

function ANSWERS.resume(session, body, request_id)
  if session.uid or session.asked_at then
    counters.add "refused"
    return sessions.send(session, "protocol.resume",
      { status = protocol.status.invalid_operation }, request_id)
  end
  local old = find(body.token, body.received)
  if not old then
    counters.add "refused"
    sessions.send_error(session, "expired", "there is no session to resume", 0,
      game.commands["protocol.resume"].ctype, request_id)
    if session.full then sessions.refuse_full(session) end
    return
  end
  counters.add "resumed"
  sessions.move(old, session)
  sessions.send(old, "protocol.resume", { status = protocol.status.ok, token = old.token },
    request_id)
  gate.write_again(old.key, body.received + 1)
end

---@param session gateway.Session
---@param data string
---@param by_udp boolean?
function itself.handle(session, data, by_udp)
  local command, body, request_id, failed, failed_id = game:decode_request(data)
  if not command then
    if request_id == "malformed" then return sessions.malformed(session, body, by_udp) end
    local _, ctype = packet.header(data)
    return sessions.send_error(session, request_id, body, 0, failed and failed.ctype or ctype,
      failed_id)
  end
  local answer = ANSWERS[command.key]
  if not answer then
    return sessions.refuse(session, data, "unknown_command", "only servers send this")
  end
  answer(session, body, request_id)
end

return itself
