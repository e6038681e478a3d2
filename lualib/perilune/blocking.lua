---@class perilune.blocking
-- What work on the blocking pool has come to: for libraries over native functions that answer with
-- a code ("" is success) and values. Look-ups of names and hashes of passwords are such work.
local blocking = {}

local finish = require("perilune.core").finish

local function settle(ok, code, ...)
  if not ok then
    if type(code) ~= "table" then error(code, 0) end
    return nil, code.message, code.code
  end
  if code == "" then return ... end
  return nil, code and (...) or "the node stops", code or "unavailable"
end

---Passes on what a native function has returned: `blocking.finish(native.resolve(name, ms))`.
---@param ... any what it returned
---@return any ... its values; nil when it failed
---@return string? message
---@return string? code of the native function, "timeout", "overloaded" (256 jobs wait already) or
---"unavailable" (the node stops)
function blocking.finish(...) return settle(pcall(finish, ...)) end

return blocking
