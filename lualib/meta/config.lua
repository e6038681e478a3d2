---@meta

-- The table that config.lua returns. Every option may be left out; config.lua at the root of the
-- source tree says what each means and what its default is. Never loaded.

-- luacheck: ignore 111 (the two functions of config.lua are global there)

---@alias perilune.LogLevel "trace"|"debug"|"info"|"warn"|"error"|"off"

---@class (exact) perilune.Config
---@field name string? the node's name in logs and for other nodes; default "node"
---@field services perilune.ServiceConfig[]? what the node starts, in this order
---@field env table<string, any>? read by services with perilune.env(name)
---@field trusted string[]? scripts that get the whole of Lua instead of the allow-list
---@field paths string[]? folders searched for scripts, before service/ and lualib/
---@field data string? folder below which perilune.file may read and write; default "data"
---@field workers integer? threads that run services, 0 to 256; default 0: one a core
---@field spare_workers integer? more threads while all workers are stuck, 0 to 64; default 4
---@field watchdog perilune.WatchdogConfig?
---@field blocking perilune.BlockingConfig?
---@field call_limit_ms integer? how long perilune.call waits; 0: for ever; default 5000
---@field start_limit_ms integer? how long on_start may take; default 30000
---@field stop_limit_ms integer? how long stopping the node may take; default 30000
---@field mailbox perilune.MailboxConfig?
---@field lua perilune.LuaConfig?
---@field log perilune.LogConfig?

---@class (exact) perilune.ServiceConfig
---@field script string name of a file on the script path, without .lua
---@field name string? what others call it by; default: the script's name
---@field options any? given to its on_start
---@field group string? makes it light: it shares a VM with the others of this group
---@field memory_mb integer? limit of its Lua memory in MB; default lua.memory_mb
---@field mailbox integer? most messages that may wait for it; default mailbox.messages

---@class (exact) perilune.WatchdogConfig
---@field report_ms integer? a dispatch that takes longer is reported; default 100
---@field interrupt_ms integer? a request that takes longer is ended; default 5000
---@field signal integer? the real-time signal that interrupts; default 0: SIGRTMIN + 4

---@class (exact) perilune.BlockingConfig
---@field threads integer? for work that would block a worker; default 0: one a core, at most 4
---@field queue integer? pieces of work that may wait; default 256

---@class (exact) perilune.MailboxConfig
---@field messages integer? that may wait for one service; default 65536
---@field mb integer? and their size in MB; default 64
---@field node_mb integer? size of what waits in all mailboxes, in MB; default 1024

---@class (exact) perilune.LuaConfig
---@field memory_mb integer? of a service, or of a group of light ones; default 256
---@field jit boolean? services that work much are compiled; default true
---@field jit_after_ms integer? processor time after which a VM gets the compiler; default 50
---@field jit_vms integer? VMs that may have it at a time; default 256
---@field group_size integer? light services to a VM; default 512

---@class (exact) perilune.LogConfig
---@field level perilune.LogLevel? default "info"
---@field levels table<string, perilune.LogLevel>? of single services, by name
---@field format ("text"|"json")? default "text"
---@field stream ("stderr"|"stdout"|"none")? default "stderr"
---@field file string? a file besides the stream
---@field file_mb integer? a larger file is rotated; default 64
---@field files integer? old files kept; default 5
---@field queue integer? records that may wait to be written; default 8192

---A variable of the process's environment; only in config.lua. A default that is a number or a
---boolean makes it one, or an error of what can't be.
---@param name string
---@param default any
---@return any
function env(name, default) end

---What another file returns; only in config.lua.
---@param file string relative to the folder of config.lua
---@return any
function include(file) end
