---@meta perilune.native.dns

-- Look-ups by the system, for lualib/perilune/dns.lua, which is what services use. What this
-- returns goes through blocking.finish().

---@class perilune.native.dns
local native = {}

---Has a name looked up on a thread of the blocking pool, and waits.
---@async
---@param name string
---@param ms integer limit
---@return string code "" when it was found; "not_found", "unavailable", "overloaded", "invalid"
---@return string ... addresses, or why there is none
function native.resolve(name, ms) end

return native
