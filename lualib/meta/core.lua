---@meta perilune.core

-- What lualib builds upon: `require "perilune.core"`. For libraries of the engine; services use
-- what is built on it.

---@class perilune.core
local core = {}

---A token that one task waits on and another wakes, once.
---@return integer token
function core.token() end

---Waits until wake(token, ...) and returns what it was woken with. A wake that came before
---returns at once. Raises when the token was used before.
---@async
---@param token integer
---@param ms integer? limit; then it returns nil, "timeout"
---@return any ...
function core.wait(token, ms) end

---Wakes the task that waits on a token of this service, after the current dispatch.
---@param token integer
---@param ... any any values: they don't leave the VM
---@return boolean woken false when the token is unknown, used or timed out
function core.wake(token, ...) end

---The function that gets the running service's events of a native module.
---@param kind "socket" the module
---@param handler fun(id: integer, event: string, data: string?)
function core.on_event(kind, handler) end

---A lock of the running service; see perilune.queue.
---@return userdata lock
function core.lock() end

---Takes a lock, waiting in the order of coming. A task that is killed gives its locks back.
---@async
---@param lock userdata
function core.enter(lock) end

---@param lock userdata
function core.leave(lock) end

---Raises what `finish` is given when that is a failed call, and returns all of it otherwise.
---@param ... any
---@return any ...
function core.finish(...) end

return core
