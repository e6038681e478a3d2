-- Functions of perilune that start, stop, change and describe services.

local core = require "perilune.core"
local finish, native = core.finish, core.native
local core_spawn, core_stop = native "core_spawn", native "core_stop"
local core_claim, core_settle = native "core_claim", native "core_settle"
local core_inspect, core_inspect_self = native "core_inspect", native "core_inspect_self"
local core_reload = native "core_reload"
local core_shared, core_data = native "core_shared", native "core_data"

---@class perilune
local services = {}

---Starts a service from `script` and returns when its on_start has. Raises the error of
---on_start, and one that says so for a name in use or a script that isn't there; then the
---service never was.
---@async
---@param script string name of a file on the script path, without .lua: "counter", "game.room"
---@param options any? given to on_start
---@param spawn_options perilune.SpawnOptions?
---@return integer handle
function services.spawn(script, options, spawn_options)
  return finish(core_spawn(script, options, spawn_options))
end

---The service named `name`, started from `script` if there is none. Callers that come while
---it starts wait for it and get the same service, or the same error.
---@async
---@param name string
---@param script string? default: the name
---@param options any?
---@param spawn_options perilune.SpawnOptions?
---@return integer handle
function services.unique(name, script, options, spawn_options)
  local existing = finish(core_claim(name))
  if existing then return existing end
  local settings = {}
  for key, value in pairs(spawn_options or {}) do settings[key] = value end
  settings.name = name
  local ok, result = pcall(services.spawn, script or name, options, settings)
  core_settle(name, ok and result or nil, not ok and tostring(result) or nil)
  if not ok then error(result, 0) end
  return result
end

---Asks a service to end: its on_stop runs first, for 10 s at most, or `stop_limit_ms` of config.lua
---where that is less. Returns when it is dead.
---@async
---@param to integer|string
---@return boolean stopped false when it was dead already
function services.stop(to)
  local ok, result = pcall(function() return finish(core_stop(to)) end)
  if ok then return result end
  -- It was killed while it was stopping.
  if type(result) == "table" and result.code == "dead" then return true end
  error(result, 0)
end

---Loads the scripts of running services again and joins them to what runs: functions and
---constants are new, state stays. A script that doesn't parse, doesn't load or can't be joined
---changes nothing.
---@async
---@param name string? a service's name or the name of a script; nil: every script that changed
---@return integer count services that run the new script
---@return string[] problems one text for each that keeps the old one, with the reason
function services.reload(name)
  return finish(core_reload(name))
end

---Data that all services of the node read and nobody changes; one copy a node, replaced as a
---whole. Reading is `data.key`, `#data`, `pairs(data)`. A node shares data under 4096 names and
---1024 MB of it at most; more raises.
---@param name string 1 to 128 bytes
---@param value table|string? what it is from now on; or the name of a script that returns it, run
---anew in an empty environment: tables of a designer's, read again while players are online
---@return table? data nil when nothing has that name
function services.shared(name, value)
  if value == nil then return core_shared(name) end
  if type(value) == "string" then value = core_data(value) end
  if type(value) ~= "table" then
    error("perilune.shared: a table, or the name of a script that returns one", 2)
  end
  return core_shared(name, value)
end

---What is known of a service: what it does, what it uses.
---@async
---@param to (integer|string)? default: the running service
---@return perilune.Stats
function services.stats(to)
  if to == nil then return core_inspect_self() end
  return finish(core_inspect(to))
end

return services
