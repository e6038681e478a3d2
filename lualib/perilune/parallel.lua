-- Functions of perilune about several tasks: critical sections, waiting for all or the first.

local core = require "perilune.core"
local native = core.native
local fork = native "fork"
local token, wait, wake = native "core_token", native "core_wait", native "core_wake"
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

---Runs functions at the same time and waits for all of them.
---@async
---@param bodies (fun(): any)[]
---@return table results by index {true, value} or {false, error}
function parallel.wait_all(bodies)
  local results, left = {}, #bodies
  if left == 0 then return results end
  local done = token()
  for index, body in ipairs(bodies) do
    fork(function()
      results[index] = { pcall(body) }
      left = left - 1
      if left == 0 then wake(done) end
    end)
  end
  wait(done)
  return results
end

---Runs functions at the same time and returns when the first ends; the others go on, unheard.
---@async
---@param bodies (fun(): any)[]
---@return integer index of the first
---@return boolean ok
---@return any value or error
function parallel.race(bodies)
  if #bodies == 0 then error("perilune.race: there is nothing to wait for", 2) end
  local first = token()
  for index, body in ipairs(bodies) do
    fork(function() wake(first, index, pcall(body)) end)
  end
  return wait(first)
end

return parallel
