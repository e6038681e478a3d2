-- What a node is and does. `perilune config.lua` runs it, `perilune check config.lua` looks for
-- mistakes without starting anything. Every option is here with its default: what is deleted
-- stays as it is. Relative paths start at the folder of this file.
--
-- The file runs in a Lua of its own: no io, no os, a second at most. Besides plain Lua it has
--   env("NAME", default)  a variable of the process's environment, of the type of the default
--   include("file.lua")   the table that another file returns

---@type perilune.Config
return {
  name = "node", -- in logs and for other nodes: letters, digits, - _ and .

  -- Started in this order, each after the on_start of the one before; stopped in reverse. When
  -- one doesn't start, the others are stopped and the node ends.
  --   script     name of a file on the script path, without .lua: "gateway", "game.room"
  --   name       what others call it by; default: the script's name
  --   options    a table given to its on_start
  --   group      makes it light: it shares a VM with the others of this group
  --   memory_mb  limit of its Lua memory in MB; default lua.memory_mb
  --   mailbox    most messages that may wait for it; default mailbox.messages
  services = {
    -- The data: accounts, what players own, tables of a game (docs/data.md). Here in a file of
    -- SQLite below the data folder; config.mysql.lua has the same node on MariaDB and Redis.
    { script = "dbproxy", options = {
      database = "sqlite:perilune.db", -- or mysql://USER:PASSWORD@HOST:PORT/NAME; a list: the next
      -- takes the place of one that doesn't answer
      replicas = {}, -- URLs of copies, for those who allow that what they read is a little old
      tables = { "tables" }, -- scripts that declare tables and statements
      cache = "memory", -- or redis://HOST:PORT/NUMBER
      cache_ttl_ms = 600000, -- how long a row stays in the cache
      flush_ms = 1000, -- how long a save may wait for others before it goes to the database
      journal_sync = true, -- saves survive the end of the machine, too, not only of the node
      -- all options, with their limits: service/dbproxy.lua
    } },
    { script = "auth" },
    { script = "talkroom" },
    -- What players own, while they play.
    { script = "player", options = { save_ms = 60000 } },
    -- Which gateways there are: GET http://127.0.0.1:6082/server_info
    { script = "center", options = { port = 6082 } },
    { script = "gateway", options = { listen = {
      { port = 6080 }, -- TCP
      { port = 6081, kind = "websocket" },
      -- { port = 6083, kind = "udp" }: for players who are logged in, besides
      -- Each may have TLS: tls = { certificate = "chain.pem", key = "key.pem" } (PEM files).
      -- TCP may have encryption instead, for clients without TLS: encrypt = { key = "server.key" },
      -- or true: then somebody in between isn't noticed (docs/protocol.md).
    } } },
  },

  env = {}, -- names and values that services read with perilune.env(name)

  -- Scripts that get the whole of Lua (io, os, debug, ffi, jit) instead of the allow-list. An error
  -- in one of these can end the process.
  trusted = {},

  -- Where things are -------------------------------------------------------------------------

  paths = {}, -- folders searched for scripts, before service/ and lualib/ beside this file
  data = "data", -- folder below which perilune.file may read and write; made when missing

  -- Threads ----------------------------------------------------------------------------------

  workers = 0, -- threads that run services, 0 to 256; 0: one a core
  spare_workers = 4, -- more threads while all workers are stuck, 0 to 64

  watchdog = {
    report_ms = 100, -- a dispatch that takes longer is reported with its traceback
    interrupt_ms = 5000, -- a request that takes longer is ended; its service lives on
    signal = 0, -- the real-time signal that interrupts, 35 to 64; 0: SIGRTMIN + 4
  },

  blocking = { -- work that would block a worker for long: looking host names up
    threads = 0, -- 0 to 256; 0: one a core, at most 4
    queue = 256, -- pieces of work that may wait; one more is refused as "busy"
  },

  -- Limits -----------------------------------------------------------------------------------

  call_limit_ms = 5000, -- how long perilune.call waits for a reply; 0: for ever
  start_limit_ms = 30000, -- how long on_start of a service may take
  stop_limit_ms = 30000, -- how long stopping the node may take; what still lives is killed

  mailbox = {
    messages = 65536, -- that may wait for one service, 16 to 1000000
    mb = 64, -- ... and their size in MB
    node_mb = 1024, -- size of what waits in all mailboxes together, in MB
  },

  lua = {
    memory_mb = 256, -- of a service, or of a group of light ones; over it the service ends
    jit = true, -- services that work much are compiled to machine code
    jit_after_ms = 50, -- processor time after which a VM gets the compiler
    jit_vms = 256, -- VMs that may have it at a time: more make every error slow
    group_size = 512, -- light services to a VM
  },

  -- Log --------------------------------------------------------------------------------------

  log = {
    level = "info", -- "trace", "debug", "info", "warn", "error" or "off"
    levels = {}, -- of single services, by name: { gateway = "debug" }
    format = "text", -- or "json"
    stream = "stderr", -- "stderr", "stdout" or "none"
    file = "", -- a file besides the stream; "" for none. Its folder must exist
    file_mb = 64, -- a larger file is rotated: MB, 1 to 65536
    files = 5, -- old files kept: name.1.log and so on, 0 to 1000
    queue = 8192, -- records that may wait to be written; then the oldest are dropped
  },
}
