---@meta perilune

-- The API that services are written against: `local perilune = require "perilune"`.
-- Here is what is native; the rest is in lualib/perilune.lua and lualib/perilune/*.lua. This file
-- is for the editor and for docs/api.md and is never loaded.
--
-- Times are in milliseconds. A handle is an integer below 2^53. `to` is a handle or a name.

---@class perilune
local perilune = {}

---What a failed call raises. `tostring` of it is the message, with the traceback of the callee.
---@class perilune.CallError
---@field code "error"|"timeout"|"dead"|"overloaded"|"link_lost"|"cancelled" how the call ended
---@field message string what happened, in words
---@field traceback string? where the callee raised, with its own lines; only for "error"
---@field value any what the callee raised, if it can be sent; only for "error"

---@class perilune.SpawnOptions
---@field name string? registered before on_start runs; "exists" if it is taken
---@field group string? the service is light and shares a VM with others of this group; a minute
---after its last service the group's memory is free
---@field memory_mb integer? limit of its memory, 1 to 65536; default `lua.memory_mb` of config.lua
---@field mailbox integer? most messages that may wait for it, 1 to 1000000; default
---`mailbox.messages` of config.lua
---@field monitor boolean? the spawner's on_down is called when it dies

---@class perilune.Stats
---@field name string? its first name
---@field script string what it was spawned from
---@field group string? of a light service
---@field version integer 1, and one more for each reload
---@field messages integer handled so far
---@field errors integer raised so far
---@field tasks integer coroutines that run or wait now
---@field timers integer that wait now
---@field mailbox integer messages that wait now
---@field memory integer bytes of Lua memory; of a light service about its own share
---@field cpu_ms number processor time so far
---@field jit boolean whether its VM has been given the compiler

-- Services ---------------------------------------------------------------------------------------

---Ends a service at once, without on_stop.
---@param to integer|string
---@return boolean killed false when it was dead already
function perilune.kill(to) end

---Ends the running service after the current dispatch, on_stop first.
---@param reason string? monitors are told; default "exit"
function perilune.exit(reason) end

---Who runs.
---@return integer handle of the running service
function perilune.self() end

---Who asks.
---@return integer handle who sent the message being handled; 0 for timers, sockets
---and what a host program sends
function perilune.sender() end

---Gives the running service a name. Raises when another has it, and when this one has 64 names.
---@param name string 1 to 128 bytes
function perilune.name(name) end

---Looks a name up; what it finds may be dead the next moment.
---@param name string
---@return integer? handle nil when no service has the name
function perilune.find(name) end

-- Messages ---------------------------------------------------------------------------------------

---Sends a command that nobody waits for.
---@param to integer|string
---@param command string
---@param ... any nil, booleans, numbers, strings, tables of these, shared data
---@return boolean sent
---@return "dead"|"overloaded"? why nothing was sent
function perilune.send(to, command, ...) end

---Lets the running command answer later: what it returns is not the reply. The function that
---is returned gives it, once, from any task of this service. If it never does, the caller gets
---"error" as soon as the function is collected.
---@return fun(...: any) reply
function perilune.defer() end

---Hands the running request to another service, which answers the caller in its place.
---@param to integer|string
---@param command string
---@param ... any
---@return boolean sent
---@return "dead"|"overloaded"? why not; then the running command has to answer itself
function perilune.redirect(to, command, ...) end

---Tells all subscribers of a topic on this node.
---@param topic string
---@param ... any
---@return integer count services it was sent to
function perilune.publish(topic, ...) end

---Has a command of this service called for each publish(topic, ...), with (topic, ...). Raises
---when the service has subscribed to 10000 topics.
---@param topic string 1 to 128 bytes
---@param command string 1 to 128 bytes; its name, so that a reload takes effect; often "on_..."
function perilune.subscribe(topic, command) end

---Ends a subscription; a message of the topic may still be on its way.
---@param topic string
function perilune.unsubscribe(topic) end

-- Tasks and time --------------------------------------------------------------------------------

---Runs a function in a task of its own, after the current dispatch.
---@param body fun(...: any)
---@param ... any
function perilune.fork(body, ...) end

---Pauses the running task.
---@async
---@param ms integer
function perilune.sleep(ms) end

---Lets other messages run.
---@async
function perilune.yield() end

---Calls something once, `ms` from now, never earlier.
---@param ms integer
---@param command string|fun(...: any) the name of a function of the first table, looked up when
---it is due so that a reload takes effect; or a function
---@param ... any
---@return integer timer for cancel
function perilune.timeout(ms, command, ...) end

---Calls something each `ms`. What is due while the call before still waits for its turn is skipped.
---@param ms integer at least 1
---@param command string|fun(...: any)
---@param ... any
---@return integer timer for cancel
function perilune.every(ms, command, ...) end

---Stops a timer: it does not call any more, even if it is due.
---@param timer integer from timeout or every
---@return boolean cancelled false when it was gone already
function perilune.cancel(timer) end

---Cancels all timers of the running service.
---@return integer count
function perilune.cancel_all() end

---The time for measuring and waiting.
---@return number ms monotonic, since an unspecified start, with fractions
function perilune.now() end

---The time for people and records.
---@return number seconds since 1970-01-01 UTC, with fractions; may jump
function perilune.time() end

-- Life and death --------------------------------------------------------------------------------

---Has `on_down(handle, reason, orderly)` of this service called once when another dies; orderly is
---true when it ended by its own exit or was stopped. Raises when the service monitors 100000
---others, links among them.
---@param to integer|string
---@return boolean monitoring false when it is dead already
function perilune.monitor(to) end

---Ends a monitoring.
---@param to integer|string
---@return boolean ended false when it wasn't monitored
function perilune.unmonitor(to) end

---Binds two services: when one dies other than by its own exit, the other is stopped. Raises when
---the other is dead or its mailbox is full.
---@param to integer|string
function perilune.link(to) end

-- Shared data, environment, log ----------------------------------------------------------------

---A value of `env` in config.lua, or of the process's environment when it has none.
---@param name string
---@return any
function perilune.env(name) end

---@class perilune.NodeStats
---@field services integer
---@field counters table<string, integer> every counter of the node by name; those of connections
---begin with net_
---@field names table<string, integer> names and their handles

---What the node counts.
---@return perilune.NodeStats stats
function perilune.node() end

---@class perilune.log
perilune.log = {}

---Arguments are those of string.format; without further arguments the text is taken as it is.
---@param format string
---@param ... any
function perilune.log.debug(format, ...) end
---What an operator wants to see of a healthy node.
---@param format string
---@param ... any
function perilune.log.info(format, ...) end
---What somebody should look at soon.
---@param format string
---@param ... any
function perilune.log.warn(format, ...) end
---What went wrong.
---@param format string
---@param ... any
function perilune.log.error(format, ...) end
---Sets what is logged of the running service: "trace", "debug", "info", "warn", "error", "off".
---@param level string
function perilune.log.level(level) end

return perilune
