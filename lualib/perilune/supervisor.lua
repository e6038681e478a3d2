-- Supervision: a service that starts others and starts them again when they die.
--
-- The strategies and the limit of restarts are those of Erlang/OTP's supervisor. A supervisor is
-- itself a service (the script "perilune.supervised"), so that it outlives whoever made it.

local perilune = require "perilune"

---@class perilune
local supervisor = {}

---@class perilune.ChildSpec
---@field name string the name of the service, kept over restarts
---@field script string? default: the name
---@field options any?
---@field spawn_options perilune.SpawnOptions?
---@field restart ("permanent"|"transient"|"temporary")? default "permanent": always; transient:
---after anything but its own exit or a stop; temporary: never

---@class perilune.SupervisorOptions
---@field name string? of the supervisor
---@field strategy ("one_for_one"|"one_for_all"|"rest_for_one")? default "one_for_one"
---@field max_restarts integer? default 5
---@field within_ms integer? default 30000; more restarts than that in this time end the supervisor
---@field backoff_ms integer? default 100: the pause before a restart, doubled for each restart
---within that time, at most 5000

local STRATEGIES = { one_for_one = true, one_for_all = true, rest_for_one = true }
local RESTARTS = { permanent = true, transient = true, temporary = true }

local function check_child(child, index, seen)
  local where = ("perilune.supervisor: children[%d]"):format(index)
  if type(child) ~= "table" or type(child.name) ~= "string" then
    error(where .. " needs a `name`", 3)
  end
  if seen[child.name] then
    error(where .. (" has the name of another, %q"):format(child.name), 3)
  end
  if child.restart and not RESTARTS[child.restart] then
    error(where .. ": `restart` is permanent, transient or temporary", 3)
  end
  seen[child.name] = true
end

---Starts a service that starts `children`, in order, and starts them again when they die. When
---one of them does not start at first, those before it are stopped and the error is raised.
---@async
---@param children perilune.ChildSpec[]
---@param options perilune.SupervisorOptions?
---@return integer handle of the supervisor; stop it to stop its children, last first
function supervisor.supervisor(children, options)
  local settings = options or {}
  if settings.strategy and not STRATEGIES[settings.strategy] then
    error("perilune.supervisor: `strategy` is one_for_one, one_for_all or rest_for_one", 2)
  end
  if type(children) ~= "table" then
    error("perilune.supervisor: a list of children expected", 2)
  end
  local seen = {}
  for index, child in ipairs(children) do check_child(child, index, seen) end
  return perilune.spawn("perilune.supervised",
    { children = children, settings = settings }, { name = settings.name })
end

return supervisor
