---@class perilune.dbproxy
-- What services ask of the data: rows of declared tables, through the service dbproxy.
--
--   local db = require("perilune.dbproxy").at "dbproxy"
--   local hero = db:load("hero", uid)
--   db:save("hero", uid, { level = hero.level + 1 })      -- soon in the database
--   local result, message, code = db:transact({           -- there when this returns
--     { "run", "take_coins", { uid = uid, price = 5 }, { changed = 1 } },
--     { "insert", "sword", { uid = uid, kind = 3 } },
--   }, dbproxy.operation())
--
-- What is wrong with a request (a table that isn't declared, a value that doesn't fit) raises. What
-- can fail returns nil, message, code:
--
--   "unknown"      it may have been applied, or not; with an operation's id, ask again
--   "busy"         too much waits already                          nothing was applied
--   "unavailable"  the database or dbproxy doesn't answer          nothing was applied
--   "exists"       a unique value is taken                         nothing was applied
--   "missing"      there is no such row                            nothing was applied
--   "condition"    `where` or `changed` isn't so                   nothing was applied
--   "stale"        somebody else has claimed the row               nothing was applied
--   "constraint", "conflict", "invalid"    the database refuses it; nothing was applied
local dbproxy = {}

local crypto = require "perilune.crypto"
local perilune = require "perilune"

-- More than dbproxy takes by itself (its option limit_ms), so that it is dbproxy that says why.
local LIMIT_MS = 10000

---The data that a service dbproxy keeps.
---@class perilune.Dbproxy
local Dbproxy = {}
Dbproxy.__index = Dbproxy

---The data behind a service dbproxy.
---@param name string of the service
---@return perilune.Dbproxy db
function dbproxy.at(name) return setmetatable({ _name = name }, Dbproxy) end

---An id for a transaction, so that it may be asked for again.
---@return string id
function dbproxy.operation() return crypto.hex(crypto.random_bytes(16)) end

-- What a call gave: its results, or nil, message, code.
local function settle(is_write, ok, ...)
  if ok then return ... end
  local failure = ...
  if type(failure) ~= "table" then error(failure, 0) end -- what can't be sent
  if failure.code == "error" then error(failure.message, 0) end
  if failure.code == "overloaded" then return nil, failure.message, "busy" end
  return nil, failure.message, is_write and "unknown" or "unavailable"
end

local function call(self, is_write, ...)
  -- One that isn't there was asked nothing; one that dies meanwhile may have done it.
  if not perilune.find(self._name) then
    return nil, ("there is no service %s"):format(self._name), "unavailable"
  end
  return settle(is_write, pcall(perilune.call_within, LIMIT_MS, self._name, ...))
end

-- ---- reading ----

---@class perilune.dbproxy.LoadOptions
---@field fresh boolean? not from the cache
---@field replica boolean? from a copy of the database, which may be behind

---Loads a row. It has the columns that aren't NULL.
---@async
---@param name string of the table
---@param key integer|string
---@param options perilune.dbproxy.LoadOptions?
---@return table<string, any>? row nil when there is none
---@return string? message
---@return string? code
function Dbproxy:load(name, key, options) return call(self, false, "load", name, key, options) end

---Loads a row by another column that is declared as unique.
---@async
---@param name string of the table
---@param column string
---@param value integer|string
---@return table<string, any>? row nil when there is none
---@return string? message
---@return string? code
function Dbproxy:find(name, column, value) return call(self, false, "find", name, column, value) end

---Rows that a declared statement reads.
---@async
---@param name string of the statement
---@param parameters table<string, any>?
---@param options { replica: boolean? }?
---@return table[]? rows
---@return string? message
---@return string? code
function Dbproxy:query(name, parameters, options)
  return call(self, false, "query", name, parameters, options)
end

-- ---- writing soon ----

---@class perilune.dbproxy.SaveOptions
---@field owner integer? the epoch by which the row was claimed: without it nothing is written
---@field clear string[]? columns that become NULL

---Changes a row that there is. Returns when that survives a crash; the database has it within a
---second or so, and whoever loads it at once. A row that isn't there is counted as rejected.
---@async
---@param name string of the table
---@param key integer|string
---@param changes table<string, any> by column
---@param options perilune.dbproxy.SaveOptions?
---@return true? saved
---@return string? message
---@return string? code "busy", "stale", "unavailable", "unknown"
function Dbproxy:save(name, key, changes, options)
  return call(self, true, "save", name, key, changes, options)
end

---Returns when all that was saved of a row is in the database.
---@async
---@param name string of the table
---@param key integer|string
---@return true? done
---@return string? message
---@return string? code "stale", "missing", "rejected": some of it never will be; "unavailable": not
---yet
function Dbproxy:flush(name, key) return call(self, false, "flush", name, key) end

-- ---- writing now ----

---Runs steps in a transaction: all of them or none. A step is one of
---  { "insert", table, row }                 its result: { key }
---  { "update", table, key, changes, { owner, where, clear } }
---  { "delete", table, key, { owner, where } }
---  { "claim", table, key, row }             its result: the row; see claim()
---  { "run", statement, parameters, { changed } }      { changed, id }, or rows
---`where` is what columns have to be, by name; `changed` how many rows have to be; true: some.
---@async
---@param steps table[] 1 to 100
---@param operation string? an id, from dbproxy.operation(): asked for again, it isn't done again
---@return table[]? results of each step
---@return string? message
---@return string? code
function Dbproxy:transact(steps, operation)
  return call(self, true, "transact", steps, operation)
end

local function transact_one(self, step, operation)
  local results, message, code = self:transact({ step }, operation)
  if results then return results[1] end
  return nil, message, code
end

---Inserts a row.
---@async
---@param name string of the table
---@param row table<string, any>
---@param operation string?
---@return integer|string|nil key of the row
---@return string? message
---@return string? code
function Dbproxy:insert(name, row, operation)
  local result, message, code = transact_one(self, { "insert", name, row }, operation)
  if result then return result.key end
  return nil, message, code
end

---@class perilune.dbproxy.UpdateOptions : perilune.dbproxy.SaveOptions
---@field where table<string, any>? what columns have to be
---@field operation string?

---Changes a row.
---@async
---@param name string of the table
---@param key integer|string
---@param changes table<string, any>
---@param options perilune.dbproxy.UpdateOptions?
---@return true? done
---@return string? message
---@return string? code
function Dbproxy:update(name, key, changes, options)
  options = options or {}
  local result, message, code = transact_one(self, { "update", name, key, changes,
    { owner = options.owner, where = options.where, clear = options.clear } }, options.operation)
  if result then return true end
  return nil, message, code
end

---Runs a declared statement that writes.
---@async
---@param name string of the statement
---@param parameters table<string, any>?
---@param operation string?
---@return { changed: integer, id: integer? }? result rows that it was about; id of a new row
---@return string? message
---@return string? code
function Dbproxy:run(name, parameters, operation)
  return transact_one(self, { "run", name, parameters }, operation)
end

---Makes the caller the owner of a row: from now on no earlier owner's writes are applied.
---@async
---@param name string of a table with an owner
---@param key integer|string
---@param row table<string, any>? inserted where there is none
---@return table<string, any>? row with the epoch in its owner's column
---@return string? message
---@return string? code
function Dbproxy:claim(name, key, row)
  return transact_one(self, { "claim", name, key, row })
end

return dbproxy
