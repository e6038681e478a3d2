---@class perilune.password
-- Hashes of passwords by argon2id (RFC 9106), which is slow and large on purpose: 19 MiB and tens
-- of milliseconds each.
--
--   local password = require "perilune.password"
--   account.hash = assert(password.hash(text)) -- keep this, and never the text
--   if password.verify(text, account.hash) then ... end
--
-- The work runs on threads of the blocking pool, so that no worker waits.
local password = {}

local blocking = require "perilune.blocking"
local native = require "perilune.native.password"

-- A full pool of one thread has 256 before this one.
local LIMIT_MS = 30000

---Hashes a password with a salt of its own.
---@async
---@param text string at most 1024 bytes
---@param timeout_ms integer? default 30000
---@return string? hash to be kept, "$argon2id$...": 96 characters with its salt and its costs
---@return string? message
---@return string? code "overloaded" (256 jobs wait already), "timeout", "unavailable" (no memory)
function password.hash(text, timeout_ms)
  return blocking.finish(native.hash(text, timeout_ms or LIMIT_MS))
end

---Whether a password is the one of a hash. It takes as long whether it is or not.
---@async
---@param text string at most 1024 bytes
---@param hash string what hash() gave, or any other encoded argon2id of at most 256 MiB, 16 passes
---and 8 lanes
---@param timeout_ms integer? default 30000
---@return boolean? right nil: it isn't known
---@return string? message
---@return string? code "overloaded", "timeout", "unavailable", "invalid" (not such a hash)
function password.verify(text, hash, timeout_ms)
  local answer, message, code =
    blocking.finish(native.verify(text, hash, timeout_ms or LIMIT_MS))
  if not answer then return nil, message, code end
  return answer == "right"
end

return password
