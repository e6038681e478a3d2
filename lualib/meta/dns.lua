---@meta perilune.native.dns

-- Look-ups by the system, for lualib/perilune/dns.lua, which is what services use.

---@class perilune.native.dns
local native = {}

---Has a name looked up on a thread of the blocking pool, and waits. What it returns goes through
---core.finish(), which raises when the limit has passed.
---@async
---@param name string
---@param ms integer
---@return string code "" when it was found
---@return string ... addresses, or why there is none
function native.resolve(name, ms) end

return native
