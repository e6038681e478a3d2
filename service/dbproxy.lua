-- dbproxy: the one door to the data.
--
-- DESIGN
-- Services ask by perilune.dbproxy, and name tables, columns and statements that are declared
-- (dbproxy/schema.lua). Nothing that they send becomes part of a statement's text.
--
-- A load goes to the cache, then to the database (dbproxy/loads.lua). A transaction of steps goes
-- to the database at once (dbproxy/operations.lua). A save is acknowledged when it is in the
-- journal, which survives kill -9, and comes to the database a little later, with others, in order
-- (dbproxy/writes.lua). What is asked of a row sees what was saved of it before, always.
--
-- Each write ends in one of three ways: a result, and it is committed; nil, a message and a code,
-- and it wasn't applied; the code "unknown": the database went away before it said which.
local cache = require "dbproxy.cache"
local counters = require "dbproxy.counters"
local database = require "dbproxy.database"
local journal = require "dbproxy.journal"
local loads = require "dbproxy.loads"
local migrations = require "dbproxy.migrations"
local operations = require "dbproxy.operations"
local options = require "perilune.options"
local perilune = require "perilune"
local rows = require "dbproxy.rows"
local schema = require "dbproxy.schema"
local writes = require "dbproxy.writes"

local dbproxy = {}

dbproxy.options = {
  database = { type = "any", default = "sqlite:perilune.db",
    meaning = "URL of the database: sqlite:FILE below the data folder, sqlite::memory:, or "
      .. "mysql://USER:PASSWORD@HOST:PORT/NAME; or a list, whose next takes the place of one that "
      .. "doesn't answer" },
  replicas = { type = "table", default = {},
    meaning = "URLs of copies that are read where a caller allows it" },
  tables = { type = "table", default = { "tables" },
    meaning = "scripts that declare tables and statements" },
  limit_ms = { type = "integer", default = 4000, min = 10, max = 9000, unit = "ms",
    meaning = "how long a request may take; callers wait for 10 s" },
  max_requests = { type = "integer", default = 10000, min = 1, max = 1000000,
    meaning = "requests that the database does or that wait; one more is refused as busy" },
  operation_ms = { type = "integer", default = 3600000, min = 0, max = 2 ^ 31, unit = "ms",
    meaning = "how long an operation's id is remembered, at least; 0: for ever" },

  cache = { type = "string", default = "memory", meaning = "\"memory\", or the URL of a Redis" },
  cache_ttl_ms = { type = "integer", default = 600000, min = 1, max = 2 ^ 31, unit = "ms",
    meaning = "how long a row stays in the cache" },
  cache_rows = { type = "integer", default = 100000, min = 1, max = 10000000,
    meaning = "rows in memory" },
  cache_mb = { type = "integer", default = 32, min = 1, max = 65536, unit = "MB",
    meaning = "their size" },
  cache_prefix = { type = "string", default = "perilune:row:", meaning = "of their keys in Redis" },
  cache_limit_ms = { type = "integer", default = 500, min = 1, max = 60000, unit = "ms",
    meaning = "how long Redis may take" },

  journal = { type = "string",
    meaning = "URL of the journal's file; default: sqlite:journal.db below the data folder, or in "
      .. "memory where the database is" },
  journal_sync = { type = "boolean", default = true,
    meaning = "what was saved survives the end of the machine, too, not only of the node" },
  journal_writes = { type = "integer", default = 100000, min = 1, max = 100000000,
    meaning = "saves that may wait for the database; one more is refused as busy" },
  journal_mb = { type = "integer", default = 32, min = 1, max = 65536, unit = "MB",
    meaning = "their size; twice as much is needed in memory, besides the cache: see memory_mb" },
  flush_ms = { type = "integer", default = 1000, min = 1, max = 3600000, unit = "ms",
    meaning = "how long a save may wait for others before it goes to the database" },
}

local IN_MEMORY = "sqlite::memory:"
local STOP_MS = 8000 -- of the 10 s that on_stop has

local settings, declared, db, rows_cache, log
local rejected_before = 0

-- ---- what services ask ----

local function find_table(name)
  local of = declared.tables[name]
  if not of then error("there is no table " .. tostring(name), 0) end
  return of
end

---Loads a row.
---@async
---@param name string of the table
---@param key integer|string
---@param given { fresh: boolean?, replica: boolean? }?
---@return table<string, any>? row nil when there is none
---@return string? message
---@return string? code
function dbproxy.load(name, key, given)
  local of = find_table(name)
  return loads.by_key(of, rows.key(of, key), given or {})
end

---Loads a row by a column that is declared as unique.
---@async
---@param name string of the table
---@param column string
---@param value integer|string
---@return table<string, any>? row nil when there is none
---@return string? message
---@return string? code
function dbproxy.find(name, column, value)
  local of = find_table(name)
  if not of.unique[column] then
    error(("%s.%s isn't declared as unique"):format(name, tostring(column)), 0)
  end
  if value == nil then error(("%s.%s: a value expected"):format(name, column), 0) end
  return loads.by_column(of, column, rows.encode(of, column, value))
end

---Rows that a declared statement reads.
---@async
---@param name string
---@param parameters table<string, any>?
---@param given { replica: boolean? }?
---@return table[]? rows
---@return string? message
---@return string? code
function dbproxy.query(name, parameters, given)
  return operations.query(name, parameters, given or {})
end

---Runs steps in a transaction.
---@async
---@param steps table[]
---@param id string? of the operation
---@return table[]? results of each step
---@return string? message
---@return string? code
function dbproxy.transact(steps, id) return operations.transact(steps, id) end

---Acknowledges changes of a row that come to the database later.
---@async
---@param name string of the table
---@param key integer|string
---@param changes table<string, any>
---@param given { owner: integer?, clear: string[]? }?
---@return true? acknowledged
---@return string? message
---@return string? code
function dbproxy.save(name, key, changes, given)
  local of, more = find_table(name), given or {}
  local owner
  if more.owner ~= nil then
    if not of.owner then error(("table %s has no owner"):format(name), 0) end
    owner = rows.encode(of, of.owner, more.owner)
  end
  counters.add "saves"
  return writes.save(of, rows.key(of, key), rows.changes(of, changes, more.clear), owner)
end

---Returns when what was saved of a row is in the database.
---@async
---@param name string of the table
---@param key integer|string
---@return true? done
---@return string? message
---@return string? code
function dbproxy.flush(name, key)
  local of = find_table(name)
  return writes.flush(rows.id(of, rows.key(of, key)), settings.limit_ms)
end

---What an operator wants to know.
---@return table numbers counters by name; what is in cache and journal now
function dbproxy.stats()
  local numbers = { dialect = db.dialect, rejected_before = rejected_before }
  counters.copy(numbers)
  rows_cache:copy(numbers)
  writes.copy(numbers)
  return numbers
end

-- ---- life ----

function dbproxy.on_forget_operations() operations.forget_old() end

function dbproxy.on_start(given)
  settings = options.read(dbproxy.options, given)
  local urls = settings.database
  db = database.open(type(urls) == "table" and urls or { urls }, settings.replicas, settings)
  local scripts = {}
  for _, script in ipairs(settings.tables) do scripts[script] = require(script) end
  declared = schema.compile(scripts, db.dialect)
  local applied = migrations.apply(db)
  if applied > 0 then perilune.log.info("migrations applied: %d", applied) end
  rows_cache = cache.open(settings)
  log = journal.open(settings.journal or urls == IN_MEMORY and IN_MEMORY or "sqlite:journal.db",
    settings.journal_sync)
  loads.start { db = db, cache = rows_cache, limit_ms = settings.limit_ms }
  writes.start {
    db = db, schema = declared, journal = log, settings = settings, on_applied = loads.forget,
  }
  operations.start { db = db, schema = declared, settings = settings }
  rejected_before = log:count_rejected()
  if rejected_before > 0 then
    perilune.log.warn("%d writes that were refused are in the journal", rejected_before)
  end
end

function dbproxy.on_stop()
  writes.stop(STOP_MS)
  log:close()
  rows_cache:close()
  db:close()
end

return dbproxy
