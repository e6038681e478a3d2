---@class perilune.sql
-- What a database of SQL can be asked, whichever it is: `perilune.mysql` and `perilune.sqlite` make
-- a perilune.sql.Database each.
--
--   local player = db:one("SELECT name, gold FROM player WHERE uid = ?", uid)
--   local affected = db:execute("UPDATE player SET gold = gold - ? WHERE uid = ?", price, uid)
--   db:transaction(function(tx)
--     tx:execute("INSERT INTO item (uid, kind) VALUES (?, ?)", uid, kind)
--     tx:execute("UPDATE player SET items = items + 1 WHERE uid = ?", uid)
--   end)
--
-- Values travel only as parameters, one for each `?`. nil is NULL. Of what is stored:
--
--   integers   numbers to 2^53, beyond that strings of digits, both ways
--   DECIMAL    a string of digits, as floating point would round it
--   dates      strings as the database writes them: "2024-02-29 12:34:56"
--   strings    of any bytes. As a parameter, what is UTF-8 is text, all else is bytes
--   JSON       a string; db.json(value) makes one, cjson.decode reads it
--   tables     refused, unless given as db.json(value) or db.binary(value), which
--              perilune.codec's unpack reads
--   true       1, and false 0, which is how they come back
--
-- What fails raises a perilune.sql.Error. Its `outcome` says what has become of a write:
-- "not_applied": it may be tried again. "unknown": the connection was lost, or the time was over,
-- while the answer was awaited: look before it is tried again.
--
-- All functions wait, so that other messages of the service run meanwhile.
local sql = {}

local codec = require "perilune.codec"
local core = require "perilune.core"

local native = core.native
local fork, now = native "fork", native "now"
local new_lock, enter, leave =
  native "core_lock", native "core_enter", native "core_leave"

local NONE, ARRAYS, MAPS = 0, 1, 2

---@alias perilune.sql.Code
---| "timeout" not done in time
---| "unavailable" there is no connection, or it was lost
---| "overloaded" too many requests wait
---| "exists" a unique key is taken
---| "constraint" another constraint forbids it
---| "conflict" others hold the rows: the whole transaction may be tried again
---| "denied" a wrong password, or no privilege
---| "invalid" the statement or a value can't be
---| "too_large" the answer has more rows or bytes than it may, or the statement has
---| "closed" the database was closed, or the transaction is over
---| "error" something else that the database says

---@class perilune.sql.Error
---@field code perilune.sql.Code
---@field message string the database's own words, where it has said something
---@field native integer? its own number for it
---@field sqlstate string? "23000", where there is one
---@field outcome "not_applied"|"unknown" what has become of a write
local Error = {}
Error.__index = Error
Error.__name = "perilune.sql.Error"
function Error:__tostring()
  if not self.native then return ("%s (%s)"):format(self.message, self.code) end
  return ("%s (%s, %d)"):format(self.message, self.code, self.native)
end

---An error of that class, for the libraries of single databases.
---@param code perilune.sql.Code
---@param message string
---@param outcome ("not_applied"|"unknown")? default "not_applied"
---@return perilune.sql.Error
function sql.error(code, message, outcome)
  return setmetatable({ code = code, message = message, outcome = outcome or "not_applied" }, Error)
end

-- What a native function has answered, where that isn't true, ...: false, code, message, number,
-- SQLSTATE, unknown, ...; or what stands for a wait that took too long.
local function problem_of(ms, ok, code, message, number, state, unknown)
  if ok ~= false then
    return sql.error("timeout", ("not done within %d ms"):format(ms), "unknown")
  end
  local problem = sql.error(code, message, unknown and "unknown" or nil)
  if number ~= 0 then problem.native = number end
  if state ~= "" then problem.sqlstate = state end
  return problem
end

---The same of a native answer that isn't true.
---@param ms integer how long it was waited for
---@param ... any the answer
---@return perilune.sql.Error
function sql.problem(ms, ...) return problem_of(ms, ...) end

-- ---- requests ----

-- What databases and transactions can be asked.
---@class perilune.sql.Requests
---@field protected _run fun(self, shape: integer, prepared: boolean, text: string, ...: any): ...
local Requests = {}

---The rows of an answer, each as a list of its values. NULL leaves a hole.
---@async
---@param text string SQL, with a ? for each value
---@param ... any values
---@return any[][] rows
---@return string[] columns their names
function Requests:query(text, ...)
  local rows, columns = self:_run(ARRAYS, false, text, ...)
  return rows or {}, columns or {}
end

---The rows of an answer, each as a table by the names of its columns. NULL is nil.
---@async
---@param text string SQL, with a ? for each value
---@param ... any values
---@return table<string, any>[] rows
function Requests:rows(text, ...)
  return (self:_run(MAPS, false, text, ...)) or {}
end

---The first row of an answer by the names of its columns.
---@async
---@param text string SQL, with a ? for each value
---@param ... any values
---@return table<string, any>? row nil when there is none
function Requests:one(text, ...)
  local rows = self:_run(MAPS, false, text, ...)
  return rows and rows[1]
end

---Runs a statement whose rows, if any, nobody wants.
---@async
---@param text string SQL, with a ? for each value
---@param ... any values
---@return integer affected rows that it was about, changed or not
---@return integer|string|nil insert_id the key that the last row was given, if one was
function Requests:execute(text, ...)
  local _, _, affected, insert_id = self:_run(NONE, false, text, ...)
  return affected, insert_id ~= 0 and insert_id or nil
end

---A statement for many times. It is parsed by the database at its first use on each connection,
---and kept there while it is among those that were used last.
---@param text string SQL, with a ? for each value
---@return perilune.sql.Statement
function Requests:prepare(text)
  return sql._new_statement(self, text)
end

---A value as the text of JSON, for a parameter.
---@param value any
---@return string text
function Requests.json(value)
  return (require "cjson".encode(value))
end

---Any values that a message may carry as bytes, for a parameter; perilune.codec.unpack reads them.
---@param ... any
---@return string bytes
function Requests.binary(...)
  return codec.pack(...)
end

sql.json, sql.binary = Requests.json, Requests.binary

-- A class that has all that.
local function new_class(name)
  local class = { __name = name }
  for key, method in pairs(Requests) do class[key] = method end
  class.__index = class
  return class
end

---@class perilune.sql.Statement
local Statement = {}
Statement.__index = Statement

function sql._new_statement(on, text)
  return setmetatable({ _on = on, _text = text }, Statement)
end

---See Requests.query.
---@async
---@param ... any values
---@return any[][] rows
---@return string[] columns
function Statement:query(...)
  local rows, columns = self._on:_run(ARRAYS, true, self._text, ...)
  return rows or {}, columns or {}
end

---See Requests.rows.
---@async
---@param ... any values
---@return table<string, any>[] rows
function Statement:rows(...)
  return (self._on:_run(MAPS, true, self._text, ...)) or {}
end

---See Requests.one.
---@async
---@param ... any values
---@return table<string, any>? row
function Statement:one(...)
  local rows = self._on:_run(MAPS, true, self._text, ...)
  return rows and rows[1]
end

---See Requests.execute.
---@async
---@param ... any values
---@return integer affected
---@return integer|string|nil insert_id
function Statement:execute(...)
  local _, _, affected, insert_id = self._on:_run(NONE, true, self._text, ...)
  return affected, insert_id ~= 0 and insert_id or nil
end

-- ---- transactions ----

---@class perilune.sql.Transaction: perilune.sql.Requests
---@field private _connection any
---@field private _limits perilune.sql.Limits
---@field private _problem perilune.sql.Error? why it is over before its end
---@field private _lost boolean? of its connection nothing is known any more
---@field private _busy boolean? a statement is under way
---@field private _settled boolean? committed, rolled back or given up
local Transaction = new_class "perilune.sql.Transaction"

-- The end of a statement within a transaction.
local function finish_within(tx, ms, called, ok, a, b, c, d, e, f, g)
  tx._busy = false
  if not called then
    tx._lost, tx._problem = true, ok
    error(ok, 0)
  end
  if ok == true then
    if e then return a, b, c, d end
    tx._problem = sql.error("invalid",
      "the statement has ended the transaction: COMMIT, ROLLBACK " ..
      "and, in MySQL, what changes tables don't belong into one", "unknown")
    error(tx._problem, 0)
  end
  local problem = problem_of(ms, ok, a, b, c, d, e)
  problem.outcome = "not_applied" -- all of it is rolled back, also by a server that lost us
  tx._lost = ok ~= false or f
  if tx._lost or not g then tx._problem = problem end
  error(problem, 0)
end

---@async
function Transaction:_run(shape, prepared, text, ...)
  if self._settled then error(sql.error("closed", "the transaction is over"), 0) end
  if self._problem then error(self._problem, 0) end
  if self._busy then
    error("a transaction does one statement at a time, and another task's is under way", 3)
  end
  local driver, limits = self._driver, self._limits
  driver.check(text, ...)
  self._busy = true
  local ms = limits.timeout_ms
  return finish_within(self, ms,
    pcall(driver.execute, driver, self._connection, ms, limits, shape, prepared, text, ...))
end

-- A statement of the library's own. true, or false and why; then the connection may be lost.
local function say(tx, text)
  local limits = tx._limits
  local ms = limits.timeout_ms
  local function read(ok, a, b, c, d, e, f, g)
    if ok == true then return true end
    tx._lost = tx._lost or ok ~= false or f
    tx._open = g
    return false, problem_of(ms, ok, a, b, c, d, e)
  end
  return read(tx._driver:execute(tx._connection, ms, limits, NONE, false, text))
end

-- Whatever it has done is undone, and its connection given back, or dropped.
local function roll_back(tx)
  if tx._settled then return end
  tx._settled = true
  if tx._lost or tx._busy or not say(tx, "ROLLBACK") then
    tx._driver:drop(tx._connection, true)
  else
    tx._driver:give(tx._connection, true)
  end
end

-- A lock that the running task holds until the transaction is settled. Should it be killed, who
-- waits for the lock settles it.
local function guard(tx)
  local lock = new_lock()
  enter(lock)
  fork(function()
    enter(lock)
    leave(lock)
    roll_back(tx)
  end)
  return lock
end

local function commit(tx)
  local ok, problem = say(tx, "COMMIT")
  if ok then
    tx._settled = true
    tx._driver:give(tx._connection, true)
    return
  end
  if not tx._open and not tx._lost then
    -- It is over: the database has undone it.
    tx._settled = true
    tx._driver:give(tx._connection, true)
  end
  roll_back(tx)
  error(problem, 0)
end

-- What the function of a transaction has returned or raised.
local function conclude(tx, lock, ok, ...)
  local good, problem = ok, ...
  if good and tx._problem then good, problem = false, tx._problem end -- nobody heard of it
  if good then
    good, problem = pcall(commit, tx)
  else
    roll_back(tx)
  end
  leave(lock)
  if not good then error(problem, 0) end
  return ...
end

-- ---- databases ----

---@class perilune.sql.Limits
---@field timeout_ms integer? of a statement, waiting for a connection included; default 5000
---@field max_rows integer? of an answer; default 100000
---@field max_bytes integer? of an answer; default 16 MB

-- What is behind it: a pool of connections, or a single database.
---@class perilune.sql.Driver
---@field begin string the statement that begins a transaction
---@field begin_reading string ... that only reads
---@field check fun(text: string, ...: any) raises where a value can't be sent, or nothing can wait
---@field take async fun(self, deadline: number, alone: boolean?): any connection; raises an Error
---@field give fun(self, connection: any, alone: boolean?) it is clean
---@field drop fun(self, connection: any, alone: boolean?) it may be anything
---@field execute async fun(self, connection: any, ms: number, limits: perilune.sql.Limits, ...)
---@field close fun(self)
---@field stats fun(self): perilune.sql.Stats

---@class perilune.sql.Database: perilune.sql.Requests
---@field private _driver perilune.sql.Driver
---@field private _limits perilune.sql.Limits
local Database = new_class "perilune.sql.Database"

local LIMITS = {
  timeout_ms = { type = "integer", default = 5000, min = 1, max = 2147483647, unit = "ms",
    meaning = "limit of a statement" },
  max_rows = { type = "integer", default = 100000, min = 1, max = 2 ^ 31,
    meaning = "limit of an answer" },
  max_bytes = { type = "integer", default = 16 * 2 ^ 20, min = 1, max = 64 * 2 ^ 20, unit = "bytes",
    meaning = "limit of an answer" },
}
sql.limit_options = LIMITS

---A database over a driver, for the libraries of single databases.
---@param driver perilune.sql.Driver
---@param settings table limits among others
---@return perilune.sql.Database
function sql.new(driver, settings)
  local limits = {}
  for name in pairs(LIMITS) do limits[name] = settings[name] end
  return setmetatable({ _driver = driver, _limits = limits }, Database)
end

-- The end of a statement that is alone. `called`: false where it raised, since the stack is full.
local function finish(driver, connection, ms, called, ok, a, b, c, d, e, f, g)
  if not called then
    driver:drop(connection)
    error(ok, 0)
  end
  if ok == true then
    if e then
      driver:drop(connection)
      error(sql.error("invalid", "the statement has begun a transaction, which was rolled back: " ..
        "db:transaction is for that"), 0)
    end
    driver:give(connection)
    return a, b, c, d
  end
  if ok ~= false or f or g then driver:drop(connection) else driver:give(connection) end
  error(problem_of(ms, ok, a, b, c, d, e), 0)
end

---@async
function Database:_run(shape, prepared, text, ...)
  local driver, limits = self._driver, self._limits
  driver.check(text, ...)
  local deadline = now() + limits.timeout_ms
  local connection = driver:take(deadline)
  local ms = math.max(math.ceil(deadline - now()), 1)
  return finish(driver, connection, ms,
    pcall(driver.execute, driver, connection, ms, limits, shape, prepared, text, ...))
end

---Runs `body(tx)` within a transaction, on a connection of its own, and commits it when the
---function returns. When it raises, when its task is ended, or the service, or the connection is
---lost, all of it is rolled back. What the function raised is raised again. One whose COMMIT may
---have been lost raises an error with the outcome "unknown".
---
---A statement that fails need not end it: catch its error by pcall, and go on. Where the database
---itself has undone everything (code "conflict") all that follows fails, and so does the
---transaction.
---@async
---@param body async fun(tx: perilune.sql.Transaction): any ...
---@param options {read_only: boolean?}? read_only: it changes nothing
---@return any ... what the function returned
function Database:transaction(body, options)
  if type(body) ~= "function" then error("transaction: a function expected", 2) end
  local driver, limits = self._driver, self._limits
  driver.check(driver.begin)
  local connection = driver:take(now() + limits.timeout_ms, true)
  local tx = setmetatable({ _driver = driver, _limits = limits, _connection = connection },
    Transaction)
  local lock = guard(tx)
  local read_only = options and options.read_only
  local begun, problem = say(tx, read_only and driver.begin_reading or driver.begin)
  if not begun then
    problem.outcome = "not_applied"
    roll_back(tx)
    leave(lock)
    error(problem, 0)
  end
  return conclude(tx, lock, pcall(body, tx))
end

---The same database with other limits.
---@param given perilune.sql.Limits
---@return perilune.sql.Database
function Database:with(given)
  local settings = require "perilune.options".read(LIMITS, given)
  for name in pairs(LIMITS) do
    if given[name] == nil then settings[name] = self._limits[name] end
  end
  return sql.new(self._driver, settings)
end

---Asks the database for nothing: raises unless it answers.
---@async
function Database:ping()
  self:_run(NONE, false, "SELECT 1")
end

---Closes the connections, those in use when they are done. What waits for one fails as "closed".
function Database:close() self._driver:close() end

---@class perilune.sql.Stats
---@field open integer connections, those that are being made among them
---@field idle integer of these, unused
---@field waiting integer requests that wait for one; 1,024 at most
---@field refused integer requests, since the start, that were more than may wait ("overloaded")
---@field late integer requests, since the start, that got none in their time

---How many connections there are, and who waits.
---@return perilune.sql.Stats stats
function Database:stats() return self._driver:stats() end

return sql
