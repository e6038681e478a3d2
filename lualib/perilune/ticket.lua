---@class perilune.ticket
-- Tickets for UDP: the first packet of a player's client, and what it is answered. A ticket is an
-- id and a secret that came over TCP or WebSocket; what is signed with the secret is good for one
-- connection of ENet, by its cookie. docs/protocol.md has the bytes.
local ticket = {}

local crypto = require "perilune.crypto"

ticket.ID_BYTES = 16
ticket.SECRET_BYTES = 32
ticket.CHANNEL = 0 -- of both packets

local MAGIC = "PLT\1"
local SIGNATURE_BYTES = 32
local COOKIE_BYTES = 20
local PERIOD_BYTES = 4 -- the cookie's first
local SHOWN_BYTES = #MAGIC + ticket.ID_BYTES + PERIOD_BYTES + SIGNATURE_BYTES

---A new one.
---@return string id 16 bytes
---@return string secret 32 bytes
function ticket.new()
  return crypto.random_bytes(ticket.ID_BYTES), crypto.random_bytes(ticket.SECRET_BYTES)
end

local function sign(secret, who, id, cookie)
  return crypto.hmac_sha256(secret, "perilune udp " .. who .. id .. cookie)
end

---The client's first packet.
---@param id string
---@param secret string
---@param cookie string of the connection: Peer:cookie()
---@return string data
function ticket.show(id, secret, cookie)
  return MAGIC .. id .. cookie:sub(1, PERIOD_BYTES) .. sign(secret, "client", id, cookie)
end

---Reads a first packet.
---@param data string
---@return string? id nil when it is none
---@return integer? period of the cookie that is signed
---@return string? signature
function ticket.read(data)
  if #data ~= SHOWN_BYTES or data:sub(1, #MAGIC) ~= MAGIC then return nil end
  local at = #MAGIC + ticket.ID_BYTES + 1
  local a, b, c, d = data:byte(at, at + PERIOD_BYTES - 1)
  local period = a + 256 * (b + 256 * (c + 256 * d))
  return data:sub(#MAGIC + 1, at - 1), period, data:sub(at + PERIOD_BYTES)
end

---Whether a first packet was signed by who has the ticket, for this connection.
---@param id string
---@param secret string
---@param cookie string
---@param signature string
---@return boolean
function ticket.is_signed(id, secret, cookie, signature)
  return #cookie == COOKIE_BYTES and crypto.equal(sign(secret, "client", id, cookie), signature)
end

---What the server answers: it knows the secret, too.
---@param id string
---@param secret string
---@param cookie string
---@return string data
function ticket.answer(id, secret, cookie) return MAGIC .. sign(secret, "server", id, cookie) end

return ticket
