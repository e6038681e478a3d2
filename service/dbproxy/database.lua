-- The databases behind dbproxy: one that is written, and perhaps replicas of it for reading.
--
-- Many may ask at a time, but AT_ONCE of them ask a database: the others wait here, in their
-- order. A request that fails ends in nil, message, code. Nothing was done, unless the code is
-- "unknown": the connection was lost before the database said how a transaction ended.
--
--   "exists"       a unique value is taken
--   "constraint"   the database forbids it otherwise, or a value doesn't fit
--   "conflict"     others held the rows
--   "busy"         too many requests wait
--   "unavailable"  there is no connection, or no answer in time
--   "invalid"      what is asked can't be: a statement or the rows of an answer
--   "unknown"
local database = {}

local core = require "perilune.core"
local counters = require "dbproxy.counters"
local perilune = require "perilune"

local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local AT_ONCE = 256
local TRIES_A_CONFLICT = 10
local CONNECT_MS = 10000 -- at the start
local MIGRATION_MS = 600000 -- of one statement that changes a table
-- What drivers say, in words of ours.
local CODES = {
  exists = "exists", constraint = "constraint", conflict = "conflict", overloaded = "busy",
  unavailable = "unavailable", timeout = "unavailable", denied = "unavailable",
  closed = "unavailable", invalid = "invalid", too_large = "invalid",
}
-- Numbers of MySQL that tell how the server is, and nothing of what was asked: no room or memory
-- left, read only (such as one that isn't the primary by now), a broken table, a request killed.
local SERVER_FAILS = {
  [3] = true, [1021] = true, [1030] = true, [1036] = true, [1037] = true, [1038] = true,
  [1041] = true, [1114] = true, [1135] = true, [1194] = true, [1195] = true, [1290] = true,
  [1317] = true, [1836] = true,
}

---@class dbproxy.Failure raised within a transaction, which it ends
---@field message string
---@field code string

-- What can be asked within a transaction.
---@class dbproxy.Transaction
local Transaction = {}
Transaction.__index = Transaction

---@class dbproxy.DatabaseSettings
---@field limit_ms integer how long a request may take
---@field max_requests integer that are under way or wait
---@field sync boolean? of SQLite: a commit survives the end of the machine

---@class dbproxy.Database
---@field dialect "sqlite"|"mysql"
local Database = {}
Database.__index = Database

-- ---- drivers ----

local function code_of(problem, dialect)
  if problem.outcome == "unknown" then return "unknown" end
  if dialect == "mysql" and SERVER_FAILS[problem.native] then return "unavailable" end
  return CODES[problem.code] or dialect == "mysql" and "invalid" or "unavailable"
end

-- In the database's own words, with its number.
local function text_of(problem)
  if not problem.native then return problem.message end
  return ("%s (%d)"):format(problem.message, problem.native)
end

-- What pcall gave: results, or nil, message, code. An error that isn't a database's is raised.
local function settle(self, ok, result, ...)
  if ok then return result, ... end
  if type(result) ~= "table" or not result.code then error(result, 0) end
  if result.ours then return nil, result.message, result.code end
  return nil, text_of(result), code_of(result, self.dialect)
end

-- What of a URL may be told: all but who asks, with which password.
local function place_of(url) return url:match("^[^?]*"):match "^.*@(.*)$" end

local function connect(url, settings)
  local path = type(url) == "string" and url:match "^sqlite:(.+)$"
  if path then
    local ok, db = pcall(require("perilune.sqlite").open, path,
      { timeout_ms = settings.limit_ms, sync = settings.sync })
    if not ok then
      local text = tostring(db)
      error(text:find(path, 1, true) and text or ("%s: %s"):format(path, text), 0)
    end
    return db, "sqlite"
  end
  if type(url) == "string" and (url:find "^mysql://" or url:find "^mariadb://") then
    local ok, db = pcall(require("perilune.mysql").connect, url, { timeout_ms = settings.limit_ms })
    if not ok then error(db, 0) end
    return db, "mysql"
  end
  error("the URL of a database is a text that begins with sqlite: or mysql://", 0)
end

local function connect_all(self, urls)
  local list = {}
  for i, url in ipairs(urls) do
    local dialect
    list[i], dialect = connect(url, self._settings)
    if self.dialect and dialect ~= self.dialect then
      error("all databases are of one kind", 0)
    end
    self.dialect = dialect
  end
  return list
end

---The databases of these addresses. Raises where that can't be, and says nothing of their
---passwords; a server is connected to when it is asked.
---@async
---@param primaries string[] URLs: the one that is written; others that take its place
---@param replicas string[] URLs that are read where a caller allows it
---@param settings dbproxy.DatabaseSettings
---@return dbproxy.Database
function database.open(primaries, replicas, settings)
  local self = setmetatable({
    _urls = primaries, _settings = settings, _primary = 1, _replica = 0, _running = 0,
    _waiting = {}, _first = 1, _last = 0, _waiters = 0,
  }, Database)
  if not primaries[1] then error("there is no URL of a database", 0) end
  self._primaries = connect_all(self, primaries)
  self._replicas = connect_all(self, replicas)
  return self
end

function Database:close()
  for _, list in ipairs { self._primaries, self._replicas } do
    for _, one in ipairs(list) do one:close() end
  end
end

-- ---- waiting for one's turn ----

-- Hands the turn that ends to whoever waits longest.
local function end_turn(self)
  while self._first <= self._last do
    local token = self._waiting[self._first]
    self._waiting[self._first] = nil
    self._first = self._first + 1
    if token then
      self._waiters = self._waiters - 1
      if wake(token, true) then return end
    end
  end
  self._running = self._running - 1
end

local function begin_turn(self)
  if self._running < math.min(AT_ONCE, self._settings.max_requests) then
    self._running = self._running + 1
    return true
  end
  if self._running + self._waiters >= self._settings.max_requests then return false end
  local token = new_token()
  self._last = self._last + 1
  local place = self._last
  self._waiting[place], self._waiters = token, self._waiters + 1
  if wait(token, self._settings.limit_ms) then return true end
  self._waiting[place], self._waiters = nil, self._waiters - 1
  return false
end

-- Runs body() in its turn, and returns what it returns.
local function in_turn(self, body)
  if not begin_turn(self) then
    counters.add "busy"
    return nil, "too many requests wait for the database", "busy"
  end
  local function done(...)
    end_turn(self)
    return settle(self, ...)
  end
  return done(pcall(body))
end

-- ---- statements ----

---Rows that a statement reads.
---@async
---@param sql string
---@param values table with `n`
---@return table[] rows by column
function Transaction:read(sql, values) return self._on:rows(sql, unpack(values, 1, values.n)) end

---@async
---@param sql string
---@param values table with `n`
---@return integer affected rows that it was about, changed or not
---@return integer? id that the database gave a row
function Transaction:write(sql, values)
  return self._on:execute(sql, unpack(values, 1, values.n))
end

---Ends the transaction: nothing was done.
---@param message string
---@param code string
function Transaction.fail(_, message, code)
  error({ message = message, code = code, ours = true }, 0)
end

-- The database that is written is gone: another takes its place, if there is one.
local function fail_over(self, from)
  if #self._primaries == 1 or self._primary ~= from then return end
  self._primary = from % #self._primaries + 1
  counters.add "failovers"
  perilune.log.warn("database %d doesn't answer: %d takes its place", from, self._primary)
end

local function transact_once(self, body)
  local primary = self._primary
  local result, message, code = in_turn(self, function()
    return self._primaries[primary]:transaction(function(on)
      return body(setmetatable({ _on = on }, Transaction))
    end)
  end)
  if code == "unavailable" or code == "unknown" then fail_over(self, primary) end
  return result, message, code
end

---Runs a function in a transaction, which is done as a whole or not at all. Where others hold
---the rows it runs again.
---@async
---@param body async fun(transaction: dbproxy.Transaction): any what it returns isn't nil
---@return any result of it
---@return string? message
---@return string? code
function Database:transact(body)
  local result, message, code
  for try = 1, TRIES_A_CONFLICT do
    result, message, code = transact_once(self, body)
    if code ~= "conflict" then break end
    counters.add "conflicts"
    perilune.sleep(math.random(1, 10 * try))
  end
  return result, message, code
end

---Runs a function on a connection that nobody else has, outside of transactions: for what changes
---tables in MySQL, which has none for that.
---@async
---@param body async fun(connection: dbproxy.Transaction): any what it returns isn't nil
---@return any result of it
---@return string? message
---@return string? code
function Database:alone(body)
  local url = self._urls[self._primary]
  local one = require("perilune.mysql").connect(url, { pool = 1, timeout_ms = MIGRATION_MS })
  local function done(...)
    one:close()
    local result, message, code = settle(self, ...)
    if result then return result end
    return nil, ("the database at %s: %s"):format(place_of(url), message), code
  end
  return done(pcall(function()
    one:with({ timeout_ms = CONNECT_MS }):ping()
    return body(setmetatable({ _on = one }, Transaction))
  end))
end

local function read_from(self, on, sql, values)
  return in_turn(self, function() return on:rows(sql, unpack(values, 1, values.n)) end)
end

-- From the next replica that answers; nil when none does.
local function read_from_replica(self, sql, values)
  local count = #self._replicas
  for _ = 1, count do
    self._replica = self._replica % count + 1
    local rows, message, code = read_from(self, self._replicas[self._replica], sql, values)
    if code ~= "unavailable" and code ~= "unknown" and code ~= "busy" then
      counters.add "replica_reads"
      return rows, message, code
    end
    counters.add "replica_failures"
  end
  return nil, nil, "unavailable"
end

---Rows that a statement reads, outside of a transaction.
---@async
---@param sql string
---@param values table with `n`
---@param may_be_old boolean? a replica may be asked
---@return table[]? rows by column
---@return string? message
---@return string? code
function Database:read(sql, values, may_be_old)
  if may_be_old then
    local rows, message, code = read_from_replica(self, sql, values)
    if code ~= "unavailable" then return rows, message, code end
  end
  local primary = self._primary
  local rows, message, code = read_from(self, self._primaries[primary], sql, values)
  if code == "unknown" then code = "unavailable" end -- reading again does no harm
  if code == "unavailable" then fail_over(self, primary) end
  return rows, message, code
end

---Returns when what was committed survives the end of the machine, too. Of a server that is its own
---business.
---@async
---@return boolean done
function Database:make_durable()
  if self.dialect ~= "sqlite" then return true end
  local found = self:read("PRAGMA wal_checkpoint(PASSIVE)", { n = 0 })
  return found ~= nil and found[1].log == found[1].checkpointed
end

return database
