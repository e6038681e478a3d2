---@class perilune.callback
-- Callbacks of libraries: a function, or the name of one of the service's first table. By name a
-- reload takes effect, since it is looked up at each call.
local callback = {}

local commands = require("perilune.core").commands

---@alias perilune.Callback fun(...: any)|string

---Whether a value can be a callback.
---@param value any
---@return boolean
function callback.is(value)
  local kind = type(value)
  return kind == "function" or kind == "string"
end

---Calls a callback. Raises when the service has no function of that name, and what it raises.
---@param given perilune.Callback
---@param ... any its arguments
---@return any ... what it returns
function callback.call(given, ...)
  if type(given) ~= "string" then return given(...) end
  local known = commands()
  local found = known and known[given]
  if not found then error(("there is no function %q"):format(given), 0) end
  return found(...)
end

return callback
