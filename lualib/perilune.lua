-- The part of the API that is Lua, resident in every VM and therefore small. All else is native
-- (described in lualib/meta/perilune.lua) or in lualib/perilune/*.lua, and appears at its first
-- use.

local core = require "perilune.core"
local native = core.native
local finish = core.finish
local core_call, core_call_within = native "core_call", native "core_call_within"

---@class perilune
local perilune = {}

-- Where the functions are that are seldom used.
local elsewhere = {
  queue = "parallel", wait_all = "parallel", race = "parallel",
  spawn = "services", unique = "services", stop = "services", reload = "services",
  shared = "services", stats = "services", supervisor = "supervisor",
}

---Sends a request and waits for the reply, 5 s at most (`call_limit_ms` of config.lua). Raises a
---perilune.CallError. Other messages run meanwhile: check shared state again after it.
---@async
---@param to integer|string handle or registered name
---@param command string
---@param ... any
---@return any ... what the command returned
function perilune.call(to, command, ...)
  return finish(core_call(to, command, ...))
end

---The same with a limit of its own.
---@async
---@param ms integer limit in ms; 0: none
---@param to integer|string
---@param command string
---@param ... any
---@return any ... what the command returned
function perilune.call_within(ms, to, command, ...)
  return finish(core_call_within(ms, to, command, ...))
end

return setmetatable(perilune, {
  __index = function(self, name)
    local value = native(name)
    if value == nil and elsewhere[name] then
      value = require("perilune." .. elsewhere[name])[name]
    end
    if value ~= nil then rawset(self, name, value) end
    return value
  end,
})
