---@class perilune.redis.queue
-- Commands that are collected before they are sent: what db:pipeline() and db:transaction() give to
-- their functions.
local queue = {}

local commands = require "perilune.redis.commands"
local native = require "perilune.native.redis"

---A method for each command: `object:set(key, value)` is `object:command("SET", key, value)`.
---@param class table with a method command
---@return fun(object: table, key: any): any index for a metatable
function queue.methods(class)
  return function(self, key)
    local method = class[key]
    if method == nil and type(key) == "string" and key:find "^[%a][%w_]*$" then
      local name = key:upper()
      function method(object, ...) return object:command(name, ...) end
      rawset(self, key, method)
    end
    return method
  end
end

---A command as bytes, and the slot of its keys. Raises for one that can't be among others.
---@param has_slots boolean
---@param name string
---@param ... string|number|table
---@return string bytes
---@return integer? slot
function queue.encode(has_slots, name, ...)
  if type(name) ~= "string" then
    native.misuse("redis: the name of a command expected, got " .. type(name))
  end
  local upper = name:upper()
  local instead = commands.refused(upper)
  if instead then native.misuse(("redis: not %s: %s"):format(upper, instead)) end
  if commands.may_wait(upper) and commands.waits(upper, commands.list(...)) then
    native.misuse(("redis: %s would keep the others waiting"):format(upper))
  end
  local bytes, message = native.format(upper, ...)
  if not bytes then native.misuse("redis: " .. message) end
  if not has_slots then return bytes end
  local slot, problem, code = commands.slot(upper, commands.list(...))
  if code then native.misuse("redis: " .. problem) end
  return bytes, slot
end

return queue
