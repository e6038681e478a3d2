-- Tokens to resume sessions with: found by their digest, so that how long a look-up takes tells
-- nothing of them. From its token on, what goes to a client is numbered and kept (perilune.gate).
local crypto = require "perilune.crypto"
local gate = require "perilune.gate"

local tokens = {}

local TOKEN_BYTES = 16

local sessions = {} -- by the SHA-256 of their token

---The session can't be resumed any more.
---@param session gateway.Session
function tokens.forget(session)
  if not session.token then return end
  sessions[crypto.sha256(session.token)] = nil
  gate.forget_packets(session.key)
  session.token = nil
end

---Packets are numbered from here on.
---@param session gateway.Session
function tokens.give(session)
  tokens.forget(session)
  session.token = crypto.hex(crypto.random_bytes(TOKEN_BYTES))
  sessions[crypto.sha256(session.token)] = session
  gate.number_packets(session.key)
end

---The session, which has a token, gets that of another, which loses it.
---@param session gateway.Session
---@param other gateway.Session
function tokens.take_over(session, other)
  if not other.token then tokens.give(other) end
  local token = other.token
  tokens.forget(other)
  sessions[crypto.sha256(session.token)] = nil
  sessions[crypto.sha256(token)] = session
  session.token = token
end

---@param token string
---@return gateway.Session?
function tokens.find(token)
  local session = sessions[crypto.sha256(token)]
  return session and crypto.equal(session.token, token) and session or nil
end

return tokens
