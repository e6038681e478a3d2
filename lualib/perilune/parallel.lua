-- Functions of perilune about several tasks: critical sections, waiting for all or the first.

local core = require "perilune.core"
local native = core.native
local fork = native "fork"
local token, wait, wake = native "core_token", native "core_wait", native "core_wake"
local watch = native "core_watch"
local new_lock, enter, leave = native "core_lock", native "core_enter", native "core_leave"

---@class perilune
local parallel = {}

local function leave_with(lock, ok, ...)
  leave(lock)
  if ok then return ... end
  error((...), 0)
end

---A critical section: its function runs `body(...)` while no other task of this service is in
---it, in the order of coming, and returns what it returns. A task that is in it may enter again.
---@return fun(body: (fun(...: any): ...: any), ...: any): ...: any enter
function parallel.queue()
  local lock = new_lock()
  return function(body, ...)
    enter(lock)
    return leave_with(lock, pcall(body, ...))
  end
end

local function check_bodies(bodies, name)
  if type(bodies) ~= "table" then error(name .. ": a list of functions expected", 3) end
  for index = 1, #bodies do
    if type(bodies[index]) ~= "function" then
      error(("%s: [%d] is a %s, a function expected"):format(name, index, type(bodies[index])), 3)
    end
  end
end

---Runs functions at the same time and waits for all of them.
---@async
---@param bodies (fun(): any)[]
---@return table results by index {true, value} or {false, error}
function parallel.wait_all(bodies)
  check_bodies(bodies, "perilune.wait_all")
  local tokens, results = {}, {}
  for index, body in ipairs(bodies) do
    local done = token()
    tokens[index] = done
    fork(function()
      watch(done)
      wake(done, pcall(body))
    end)
  end
  for index, done in ipairs(tokens) do results[index] = { wait(done) } end
  return results
end

---Runs functions at the same time and returns when the first ends; the others go on, unheard.
---@async
---@param bodies (fun(): any)[]
---@return integer index of the first
---@return boolean ok
---@return any value or error
function parallel.race(bodies)
  check_bodies(bodies, "perilune.race")
  if #bodies == 0 then error("perilune.race: there is nothing to wait for", 2) end
  local first = token()
  for index, body in ipairs(bodies) do
    fork(function()
      watch(first, index)
      wake(first, index, pcall(body))
    end)
  end
  return wait(first)
end

return parallel
