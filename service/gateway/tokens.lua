-- Tokens to resume sessions with, and the packets that are kept for that: from its token on, what
-- goes to a client is numbered, and the last of it stays in the session's ring. Tokens are found
-- by their digest, so that how long a look-up takes tells nothing of them.
local crypto = require "perilune.crypto"
local settings = require "gateway.settings"

local tokens = {}

local TOKEN_BYTES = 16

-- The last packets to a client. Packet `number` is at number % settings.resume_packets.
---@class gateway.Ring
---@field sent integer number of the last packet
---@field first integer number of the oldest that is here; sent + 1 when none is
---@field bytes integer

local sessions = {} -- by the SHA-256 of their token
local rings, ring_bytes = 0, 0 -- how many, and what is in them

local function forget_oldest(ring)
  local place = ring.first % settings.resume_packets
  local size = #ring[place]
  ring[place] = nil
  ring.first, ring.bytes = ring.first + 1, ring.bytes - size
  ring_bytes = ring_bytes - size
end

---Forgets what is over the session's share, which gets smaller the more sessions there are.
---@param ring gateway.Ring
function tokens.trim(ring)
  local room = math.min(settings.resume_bytes, settings.resume_total_bytes / rings)
  while ring.bytes > room do forget_oldest(ring) end
end

---Numbers a packet and keeps it.
---@param ring gateway.Ring
---@param data string
function tokens.remember(ring, data)
  if ring.sent - ring.first + 1 >= settings.resume_packets then forget_oldest(ring) end
  ring.sent = ring.sent + 1
  ring[ring.sent % settings.resume_packets] = data
  ring.bytes, ring_bytes = ring.bytes + #data, ring_bytes + #data
  tokens.trim(ring)
end

---@param ring gateway.Ring
---@param number integer of a packet that is there
---@return string data
function tokens.packet(ring, number) return ring[number % settings.resume_packets] end

---The session can't be resumed any more.
---@param session gateway.Session
function tokens.forget(session)
  if not session.token then return end
  sessions[crypto.sha256(session.token)] = nil
  rings, ring_bytes = rings - 1, ring_bytes - session.ring.bytes
  session.token, session.ring = nil, nil
end

---Packets are numbered from here on.
---@param session gateway.Session
function tokens.give(session)
  tokens.forget(session)
  session.token = crypto.hex(crypto.random_bytes(TOKEN_BYTES))
  session.ring = { sent = 0, first = 1, bytes = 0 }
  rings = rings + 1
  sessions[crypto.sha256(session.token)] = session
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

---@return integer bytes in all rings
function tokens.bytes() return ring_bytes end

return tokens
