---@meta perilune.core

-- What lualib builds upon: `require "perilune.core"`. For libraries of the engine; services use
-- what is built on it.

---@class perilune.core
local core = {}

---A native function of the host by name: those of lualib/meta/perilune.lua under their own names,
---and the ones below, which only libraries use.
---  core_call(to, command, ...), core_call_within(ms, to, command, ...), core_spawn(script,
---    options, spawn_options), core_stop(to, reason), core_claim(name), core_reload(name),
---    core_inspect(to): wait; what they return goes through finish()
---  core_deliver(to, packet, key) -> true | false, why: what send(to, "deliver", packet, key) does
---  core_tie(to) -> boolean: `to` is stopped when the running service dies other than in good order
---  core_settle(name, handle, error): what became of a claim
---  core_shared(name, table), core_inspect_self()
---  core_data(script): what a script returns, run anew in an empty environment
---  core_texts(folder, ending) -> {name, text, name, text, ...}: the files of a folder beside
---    scripts, "migrations.mysql", whose names end so, by name
---  core_token() -> token; core_wait(token, ms) -> ... | nil, "timeout"; core_wake(token, ...) ->
---    boolean: one task waits, another wakes it, once, after the current dispatch; a wake that
---    came first is kept
---  core_watch(token, index): the token is woken with (index, false, why) should the running task
---    be killed, without index where that is nil
---  core_lock() -> lock; core_enter(lock); core_leave(lock): in the order of coming; a task that
---    is killed gives its locks back
---@param name string
---@return function? native
function core.native(name) end

---The function that gets the running service's events of a native module ("socket": id, event,
---data), or the messages whose command is "@" and this kind.
---@param kind string
---@param handler fun(...: any)
function core.on_event(kind, handler) end

---The host reads the packets of players for the running service, calls the functions of its
---second table and writes what they return; until its next reload. For perilune.client.
---@param commands perilune.Command[]
---@param gateways table<integer, integer> by uid: whom the player's packets came from
---@param forms table<integer, integer> by uid: protocol.BUF of those who use it
---@param refuse fun(packet: string, key: integer, code: string, message: string, id: integer?,
---by_udp: boolean) the packet can't be read, or nothing serves it; `id` is its request_id
---@param failed fun(stype: integer, ctype: integer, uid: integer, form: integer, key: integer,
---request_id: integer?, text: string) the command has raised
---@param gone fun(uid: integer) a gateway says that the player is gone
---@param moved fun(handler: fun(...), uid: integer, body: any, form: integer, key: integer): any
---the player had come through another gateway
function core.serve(commands, gateways, forms, refuse, failed, gone, moved) end

---What the packet was that the running task answers.
---@return integer? proto_type nil in a task that answers none
function core.form() end

---The commands of players.
---@return table? clients the running service's second table, the commands of players
function core.clients() end

---The commands of other services.
---@return table? commands the running service's first table
function core.commands() end

---Raises what it is given when that is a failed call, and returns all of it otherwise.
---@param ... any
---@return any ...
function core.finish(...) end

return core
