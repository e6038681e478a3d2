---@meta perilune.native.password

-- argon2id on the blocking pool, for lualib/perilune/password.lua, which is what services use. What
-- these functions return goes through blocking.finish().

---@class perilune.native.password
local native = {}

---Hashes a password on a thread of the blocking pool, and waits.
---@async
---@param password string at most 1024 bytes
---@param ms integer limit
---@return string code "" when it is hashed; "overloaded", "unavailable"
---@return string hash encoded, or why there is none
function native.hash(password, ms) end

---Checks a password in the same way.
---@async
---@param password string at most 1024 bytes
---@param hash string encoded argon2id
---@param ms integer limit
---@return string code "" when it is known; "overloaded", "unavailable", "invalid" (not such a hash)
---@return string answer "right" or "wrong", or why it isn't known
function native.verify(password, hash, ms) end

return native
