---@meta perilune

-- The API that services are written against: `local perilune = require "perilune"`.
-- It is native code, apart from what lualib/perilune.lua and lualib/perilune/*.lua add on first
-- use; this file is for the editor and for docs/api.md and is never loaded.
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
---@field group string? the service is light and shares a VM with others of this group
---@field memory_mb number? limit of its memory; default `lua.memory_mb` of config.lua
---@field mailbox integer? most messages that may wait for it; default 65536
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
---@field memory integer bytes of Lua memory, of a light service its own share
---@field cpu_ms number processor time so far
---@field jit boolean whether its VM has been given the compiler

-- Services ---------------------------------------------------------------------------------------

---Starts a service from `script` and returns when its on_start has. Raises the error of
---on_start, "exists" for a name in use, "not_found" for a script that isn't there; then the
---service never was.
---@async
---@param script string name of a file on the script path, without .lua: "counter", "game.room"
---@param options any? given to on_start
---@param spawn_options perilune.SpawnOptions?
---@return integer handle
function perilune.spawn(script, options, spawn_options) end

---The service named `name`, started from `script` if there is none. Callers that come while
---it starts wait for it and get the same service, or the same error.
---@async
---@param name string
---@param script string? default: the name
---@param options any?
---@param spawn_options perilune.SpawnOptions?
---@return integer handle
function perilune.unique(name, script, options, spawn_options) end

---Asks a service to end: its on_stop runs first. Returns when it is dead.
---@async
---@param to integer|string
---@param within_ms integer? default 10000; then it is killed
---@return boolean stopped false when it was dead already
function perilune.stop(to, within_ms) end

---Ends a service at once, without on_stop.
---@param to integer|string
---@return boolean killed false when it was dead already
function perilune.kill(to) end

---Ends the running service after the current dispatch, on_stop first.
---@param reason string? monitors are told; default "exit"
function perilune.exit(reason) end

---@return integer handle of the running service
function perilune.self() end

---@return integer handle who sent the message being handled; 0 for timers, sockets and the host
function perilune.sender() end

---Gives the running service a name. Raises "exists" when another has it.
---@param name string 1 to 128 bytes
function perilune.name(name) end

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

---Sends a request and waits for the reply, 5 s at most (`call_limit_ms` of config.lua). Raises a
---perilune.CallError. Other messages run meanwhile: check shared state again after it.
---@async
---@param to integer|string
---@param command string
---@param ... any
---@return any ... what the command returned
function perilune.call(to, command, ...) end

---The same with a limit of its own.
---@async
---@param ms integer limit in ms; 0: none
---@param to integer|string
---@param command string
---@param ... any
---@return any ... what the command returned
function perilune.call_within(ms, to, command, ...) end

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

---Has a command of this service called for each publish(topic, ...), with (topic, ...).
---@param topic string
---@param command string its name, so that a reload takes effect; often "on_..."
function perilune.subscribe(topic, command) end

---@param topic string
function perilune.unsubscribe(topic) end

-- Tasks and time -----------------------------------------------------------------------------------

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

---Calls something each `ms`.
---@param ms integer at least 1
---@param command string|fun(...: any)
---@param ... any
---@return integer timer for cancel
function perilune.every(ms, command, ...) end

---@param timer integer from timeout or every
---@return boolean cancelled false when it was gone already
function perilune.cancel(timer) end

---Cancels all timers of the running service.
---@return integer count
function perilune.cancel_all() end

---@return number ms monotonic, since an unspecified start, with fractions
function perilune.now() end

---@return number seconds since 1970-01-01 UTC, with fractions; may jump
function perilune.time() end

---A critical section: its function runs `body(...)` while no other task of this service is in
---it, in the order of coming, and returns what it returns. A task that is in it may enter again.
---@return fun(body: fun(...: any): ...: any, ...: any): ...: any enter
function perilune.queue() end

---Runs functions at the same time and waits for all of them.
---@async
---@param bodies (fun(): any)[]
---@return table results by index {true, value} or {false, error}
function perilune.wait_all(bodies) end

---Runs functions at the same time and returns when the first ends; the others go on, unheard.
---@async
---@param bodies (fun(): any)[]
---@return integer index of the first
---@return boolean ok
---@return any value or error
function perilune.race(bodies) end

-- Life and death -----------------------------------------------------------------------------------

---Has `on_down(handle, reason)` of this service called once when another dies.
---@param to integer|string
---@return boolean monitoring false when it is dead already
function perilune.monitor(to) end

---@param to integer|string
---@return boolean ended false when it wasn't monitored
function perilune.unmonitor(to) end

---Binds two services: when one dies other than by its own exit, the other is stopped.
---@param to integer|string
function perilune.link(to) end

---@class perilune.ChildSpec
---@field name string the name of the service, kept over restarts
---@field script string? default: the name
---@field options any?
---@field spawn_options perilune.SpawnOptions?
---@field restart ("permanent"|"transient"|"temporary")? default "permanent"; transient: only
---after an error; temporary: never
---@class perilune.SupervisorOptions
---@field strategy ("one_for_one"|"one_for_all"|"rest_for_one")? default "one_for_one"
---@field max_restarts integer? default 5
---@field within_ms integer? default 30000; more restarts than that in this time end the supervisor
---@field backoff_ms integer? default 100, doubled for each restart in a row, at most 5000

---Starts a service that starts `children`, in order, and starts them again when they die.
---@async
---@param children perilune.ChildSpec[]
---@param options perilune.SupervisorOptions?
---@return integer handle of the supervisor; stop it to stop its children, last first
function perilune.supervisor(children, options) end

---Loads the script of running services again and joins it to what runs: functions and constants
---are new, state stays. A script that doesn't parse, doesn't load or can't be joined changes
---nothing.
---@async
---@param name string? a service's name or the name of a script; nil: every script that changed
---@return integer count services that run the new script
---@return string[] problems one line for each service that keeps the old one, with the reason
function perilune.reload(name) end

-- Shared data, environment, log ----------------------------------------------------------------

---Data that all services of the node read and nobody changes; one copy a node, replaced as a
---whole. With a table it is set; with a string ending in .lua the file is run, in an empty
---environment, and what it returns is set. Reading is `data.key`, `#data`, `pairs(data)`.
---@param name string
---@param value table|string?
---@return table? data nil when nothing has that name
function perilune.shared(name, value) end

---A value of `env` in config.lua, or of the process's environment when it has none.
---@param name string
---@return any
function perilune.env(name) end

---@param to (integer|string)? default: the running service
---@async
---@return perilune.Stats
function perilune.stats(to) end

---@class perilune.NodeStats
---@field services integer
---@field counters table<string, integer> every counter of the node by name
---@field names table<string, integer> names and their handles

---@return perilune.NodeStats
function perilune.node() end

---@class perilune.log
perilune.log = {}

---Arguments are those of string.format; without further arguments the text is taken as it is.
---@param format string
---@param ... any
function perilune.log.debug(format, ...) end
---@param format string
---@param ... any
function perilune.log.info(format, ...) end
---@param format string
---@param ... any
function perilune.log.warn(format, ...) end
---@param format string
---@param ... any
function perilune.log.error(format, ...) end
---Sets what is logged of the running service: "trace", "debug", "info", "warn", "error", "off".
---@param level string
function perilune.log.level(level) end

return perilune
