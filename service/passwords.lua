-- What auth does with secrets: hashes of passwords and of guest keys. Salted and iterated
-- HMAC-SHA-256; argon2id takes its place together with the database, behind the same functions.
-- Hashing takes some ms of the worker that runs auth: meanwhile the others run everything else.
local crypto = require "perilune.crypto"

local passwords = {}

local ROUNDS = 2000
local SALT_BYTES = 16
local FORM = "hmac-sha256$%d$%s$%s"

local function stretch(password, salt, rounds)
  local block = crypto.hmac_sha256(password, salt)
  for _ = 2, rounds do block = crypto.hmac_sha256(password, block) end
  return crypto.hex(block)
end

---@param password string
---@return string hash with its salt
function passwords.hash(password)
  local salt = crypto.hex(crypto.random_bytes(SALT_BYTES))
  return FORM:format(ROUNDS, salt, stretch(password, salt, ROUNDS))
end

local UNKNOWN = FORM:format(ROUNDS, ("0"):rep(2 * SALT_BYTES), ("0"):rep(64))

---@param password string
---@param hash string? nil, for an account that isn't there, takes as long and is never right
---@return boolean right
function passwords.verify(password, hash)
  local rounds, salt, wanted = (hash or UNKNOWN):match("^hmac%-sha256%$(%d+)%$(%x+)%$(%x+)$")
  if not rounds then return false end
  return crypto.equal(stretch(password, salt, tonumber(rounds)), wanted) and hash ~= nil
end

---@return string secret for hash_key
function passwords.new_secret() return crypto.random_bytes(32) end

---What is kept of a guest's key.
---@param secret string of the node
---@param key string
---@return string hash
function passwords.hash_key(secret, key) return crypto.hex(crypto.hmac_sha256(secret, key)) end

return passwords
