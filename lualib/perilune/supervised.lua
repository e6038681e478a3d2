-- The service behind perilune.supervisor.

local perilune = require "perilune"
local core = require "perilune.core"

local tie = core.native "core_tie"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local supervised = {}

local MAX_BACKOFF_MS = 5000

local children = {}      -- specs, in the order of starting
local settings = {}
local index_of = {}      -- handle -> index of the child
local handle_of = {}     -- index -> handle
local restarts = {}      -- times of the restarts within `within_ms`
local busy = false       -- a restart is under way: deaths that it causes are its own
local stopping = false   -- no child is started any more
local idle = nil         -- wakes on_stop when no restart is under way
local pending = {}       -- deaths that came meanwhile: {index, reason, orderly}

local function start(index)
  local spec = children[index]
  local spawn_options = { name = spec.name, monitor = true }
  for key, value in pairs(spec.spawn_options or {}) do spawn_options[key] = value end
  local handle = perilune.spawn(spec.script or spec.name, spec.options, spawn_options)
  index_of[handle], handle_of[index] = index, handle
  -- Whoever starts this supervisor again finds the children's names free.
  local tied, why = tie(handle)
  if not tied and why ~= "dead" then error(("%q is %s"):format(spec.name, why), 0) end
end

local function stop(index)
  local handle = handle_of[index]
  if not handle then return end
  perilune.unmonitor(handle)
  index_of[handle], handle_of[index] = nil, nil
  perilune.stop(handle)
end

local function stop_all()
  for index = #children, 1, -1 do stop(index) end
end

-- The pause before the next restart in ms, or nil when there were too many.
local function admit_restart()
  local now, within = perilune.now(), settings.within_ms or 30000
  while restarts[1] and now - restarts[1] > within do table.remove(restarts, 1) end
  if #restarts >= (settings.max_restarts or 5) then return nil end
  restarts[#restarts + 1] = now
  return math.min((settings.backoff_ms or 100) * 2 ^ (#restarts - 1), MAX_BACKOFF_MS)
end

local function wants_restart(spec, orderly)
  local restart = spec.restart or "permanent"
  if restart == "transient" then return not orderly end
  return restart == "permanent"
end

-- The children that a death takes with it, first to last.
local function affected(index)
  local strategy = settings.strategy or "one_for_one"
  if strategy == "one_for_one" then return index, index end
  if strategy == "one_for_all" then return 1, #children end
  return index, #children
end

-- Starts again what the death of a child took. Returns false when the supervisor gives up.
local function restart(index, reason, orderly)
  if not wants_restart(children[index], orderly) then return true end
  local first, last = affected(index)
  for other = last, first, -1 do stop(other) end
  while not stopping do
    local pause = admit_restart()
    if not pause then
      perilune.log.error("%q has died too often (%s): giving up", children[index].name, reason)
      return false
    end
    perilune.sleep(pause)
    local ok, problem = pcall(function()
      for other = first, last do
        local spec = children[other]
        local wanted = other == index or spec.restart ~= "temporary"
        if wanted and not handle_of[other] and not stopping then
          start(other)
        end
      end
    end)
    if ok then return true end
    perilune.log.warn("%q did not start again: %s", children[index].name, tostring(problem))
    for other = last, first, -1 do stop(other) end
  end
  return true
end

---Starts the children in order, or none of them.
---@param options {children: perilune.ChildSpec[], settings: perilune.SupervisorOptions}
function supervised.on_start(options)
  children, settings = options.children, options.settings
  for index = 1, #children do
    local ok, problem = pcall(start, index)
    if not ok then
      stop_all()
      error(problem, 0)
    end
  end
end

---A child has died.
---@param handle integer
---@param reason string
---@param orderly boolean it ended because it wanted to, or was asked to
function supervised.on_down(handle, reason, orderly)
  local index = index_of[handle]
  if not index then return end
  index_of[handle], handle_of[index] = nil, nil
  pending[#pending + 1] = { index, reason, orderly }
  if busy then return end
  busy = true
  while pending[1] do
    local death = table.remove(pending, 1)
    -- It may have been started again with others meanwhile.
    if not handle_of[death[1]] and not restart(unpack(death)) then
      stop_all()
      perilune.exit("too many restarts")
      break
    end
  end
  busy = false
  if idle then wake(idle) end
end

---Stops the children, last first. One that is being started is waited for, and stopped too.
function supervised.on_stop()
  stopping = true
  if busy then
    idle = new_token()
    wait(idle)
  end
  stop_all()
end

---Who lives.
---@return table<string, integer> handles of the children that live, by name
function supervised.children()
  local list = {}
  for index, handle in pairs(handle_of) do list[children[index].name] = handle end
  return list
end

return supervised
