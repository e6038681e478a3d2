-- Transactions that callers ask for: steps that are done as a whole or not at all.
--
-- A caller that gives an operation's id may ask again as often as it likes: the id is written in
-- the same transaction, and whoever finds it there gets the results of the first time. So where the
-- connection is lost before the database has said how the transaction ended, it is simply tried
-- again. Without an id it isn't: the outcome is "unknown".
local codec = require "perilune.codec"
local counters = require "dbproxy.counters"
local loads = require "dbproxy.loads"
local perilune = require "perilune"
local steps = require "dbproxy.steps"
local writes = require "dbproxy.writes"

local operations = {}

local MAX_ID_BYTES = 64
local MAX_RESULT_BYTES = 1000000 -- of an operation with an id
local RETRY_MS = 100
local LATE_MS = 5000 -- after an unknown outcome, when it may have taken effect

local db, declared, settings

---@param given { db: dbproxy.Database, schema: dbproxy.Schema, settings: table }
function operations.start(given)
  db, declared, settings = given.db, given.schema, given.settings
  if settings.operation_ms > 0 then
    perilune.every(settings.operation_ms, "on_forget_operations")
  end
end

-- ---- ids ----

-- Ids that are older than one to two periods, by this process's clock: the wall clock may jump.
local forgettable

---@async
function operations.forget_old()
  local newest = db:read("SELECT MAX(number) AS number FROM operations", { n = 0 })
  if not newest then return end
  if forgettable then
    db:transact(function(transaction)
      transaction:write("DELETE FROM operations WHERE number <= ?", { n = 1, forgettable })
      return true
    end)
  end
  forgettable = newest[1].number
end

local function run_steps(transaction, compiled)
  local results = {}
  for i, step in ipairs(compiled) do results[i] = step.run(transaction) end
  return results
end

-- The same once for each id.
local function run_once(transaction, compiled, id, progress)
  local done = transaction:read("SELECT result FROM operations WHERE id = ?", { n = 1, id })[1]
  if done then
    counters.add "repeated"
    return codec.unpack(done.result)
  end
  progress.is_claiming = true
  transaction:write("INSERT INTO operations (id) VALUES (?)", { n = 1, id })
  progress.is_claiming = false
  local results = run_steps(transaction, compiled)
  local packed = codec.pack(results)
  if #packed > MAX_RESULT_BYTES then
    transaction:fail(("the results of an operation have at most %d bytes"):format(MAX_RESULT_BYTES),
      "invalid")
  end
  transaction:write("UPDATE operations SET result = ? WHERE id = ?", { n = 2, packed, id })
  return results
end

local function may_retry(code, progress, may_be_done)
  -- The same id is being written by another connection: its results are there the next time.
  if code == "exists" then return progress.is_claiming end
  return code == "unknown" or code == "unavailable" or code == "conflict"
    or code == "busy" and may_be_done
end

local function transact_once(compiled, id, deadline)
  local may_be_done = false -- by a try whose outcome is unknown
  while true do
    local progress = {}
    local results, message, code = db:transact(function(transaction)
      return run_once(transaction, compiled, id, progress)
    end)
    if results or not may_retry(code, progress, may_be_done) then return results, message, code end
    may_be_done = may_be_done or code == "unknown"
    if perilune.now() + RETRY_MS > deadline then
      return nil, message, may_be_done and "unknown" or "unavailable"
    end
    perilune.sleep(RETRY_MS)
  end
end

-- ---- transactions ----

local function check_id(id)
  if type(id) ~= "string" or #id == 0 or #id > MAX_ID_BYTES or id:find "[^%w_.:-]" then
    error(("an operation's id has 1 to %d letters, digits, _ . : and -"):format(MAX_ID_BYTES), 0)
  end
end

-- What was saved of the rows before comes first.
local function flush(compiled, deadline)
  for _, step in ipairs(compiled) do
    for _, row in ipairs(step.touched) do
      local ok, message, code = writes.flush(row.id, math.max(1, deadline - perilune.now()))
      -- What was refused of it isn't this transaction's failure.
      if not ok and code == "unavailable" then return nil, message, code end
    end
  end
  return true
end

local function forget(compiled)
  local ids = {}
  for _, step in ipairs(compiled) do
    for _, row in ipairs(step.touched) do ids[#ids + 1] = row.id end
  end
  loads.forget(ids)
end

local function count(results, code)
  if results then return counters.add "committed" end
  counters.add(code == "unknown" and code or "not_applied")
end

local function transact(compiled, id)
  local deadline = perilune.now() + settings.limit_ms
  local ok, message, code = flush(compiled, deadline)
  if not ok then return nil, message, code end
  local results
  if id then
    results, message, code = transact_once(compiled, id, deadline)
  else
    results, message, code = db:transact(function(transaction)
      return run_steps(transaction, compiled)
    end)
  end
  if results or code == "unknown" then forget(compiled) end
  if code == "unknown" then perilune.timeout(LATE_MS, forget, compiled) end
  return results, message, code
end

---Runs steps in a transaction.
---@async
---@param given table[] see dbproxy/steps.lua
---@param id string? of the operation
---@return table[]? results of each step
---@return string? message
---@return string? code
function operations.transact(given, id)
  if id ~= nil then check_id(id) end
  counters.add "writes"
  local results, message, code = transact(steps.compile(declared, given), id)
  count(results, code)
  return results, message, code
end

---Rows that a declared statement reads.
---@async
---@param name string
---@param parameters table<string, any>?
---@param options { replica: boolean? }
---@return table[]? rows
---@return string? message
---@return string? code
function operations.query(name, parameters, options)
  local statement = declared.statements[name]
  if not statement or not statement.is_read then
    error(("there is no statement %s that reads"):format(tostring(name)), 0)
  end
  counters.add "statements"
  local values = steps.bind(statement, parameters)
  local found, message, code = db:read(statement.sql, values, options.replica)
  if not found then return nil, message, code end
  return steps.decode(statement, found)
end

return operations
