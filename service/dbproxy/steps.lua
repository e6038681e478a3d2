-- Steps of a transaction, as callers name them:
--
--   { "insert", table, row }
--   { "update", table, key, changes, { owner, where, clear } }
--   { "delete", table, key, { owner, where } }
--   { "claim", table, key, row }           one more owner; `row` is inserted where there is none
--   { "run", statement, parameters, { changed } }
--
-- owner: the epoch of who has claimed the row; where: what columns have to be; clear: the names
-- of columns that become NULL; changed: so many rows and no others; true: at least one.
--
-- A step is compiled before the transaction begins, so that what is wrong with it is known by then,
-- and run within. One that can't be done ends the transaction:
--
--   "missing"    there is no such row
--   "stale"      somebody else has claimed the row
--   "condition"  a column isn't what `where` says, or other than `changed` rows were changed
local perilune = require "perilune"
local rows = require "dbproxy.rows"
local sql = require "dbproxy.sql"

local steps = {}

local MAX_STEPS = 100

---@class dbproxy.Step
---@field touched { of: dbproxy.Table, key: any, id: string }[] rows that it may change
---@field run async fun(transaction: dbproxy.Transaction): any

local function find(list, name, what)
  local found = list[name]
  if not found then error(("there is no %s %s"):format(what, tostring(name)), 0) end
  return found
end

local function check_options(options, allowed)
  if options == nil then return {} end
  if type(options) ~= "table" then error("options are a table", 0) end
  for name in pairs(options) do
    if not allowed[name] then error("there is no option " .. tostring(name), 0) end
  end
  return options
end

local function seconds() return math.floor(perilune.time()) end

local function touch(of, key) return { { of = of, key = key, id = rows.id(of, key) } } end

-- What a row has to be like besides its key: names and encoded values.
local function conditions(of, options)
  local names, values = {}, {}
  if options.owner ~= nil then
    if not of.owner then error(("table %s has no owner"):format(of.name), 0) end
    names[1], values[1] = of.owner, rows.encode(of, of.owner, options.owner)
  end
  for name, value in pairs(options.where or {}) do
    names[#names + 1], values[#values + 1] = name, rows.encode(of, name, value)
  end
  return names, values
end

-- A write of no row: why?
local function explain(transaction, of, key, options)
  local row = transaction:read(sql.select(of, of.key), { n = 1, key })[1]
  if not row then transaction:fail(("%s has no row %s"):format(of.name, key), "missing") end
  if options.owner ~= nil and tostring(row[of.owner]) ~= tostring(options.owner) then
    transaction:fail(("%s %s belongs to owner %s, not %s"):format(of.name, key,
      tostring(row[of.owner]), tostring(options.owner)), "stale")
  end
  transaction:fail(("%s %s isn't as demanded"):format(of.name, key), "condition")
end

local function append(values, more)
  for _, value in ipairs(more) do
    values.n = values.n + 1
    values[values.n] = value
  end
end

-- ---- kinds of steps ----

-- Functions of (the schema, what the step has behind its kind), by kind. In upper case, so that a
-- reload takes the new ones.
local COMPILERS = {}

-- Names and values of a row that is inserted.
local function insertion(of, row)
  if type(row) ~= "table" then error("a row is a table", 0) end
  local names, values = {}, { n = 0 }
  local function add(name, value)
    values.n = values.n + 1
    names[values.n], values[values.n] = name, value
  end
  for name, value in pairs(row) do add(name, rows.encode(of, name, value)) end
  local now = seconds()
  for _, name in ipairs { of.created or false, of.updated or false } do
    if name and row[name] == nil then add(name, now) end
  end
  return names, values
end

function COMPILERS.insert(declared, name, row)
  local of = find(declared.tables, name, "table")
  local names, values = insertion(of, row)
  local key = row[of.key]
  if key == nil and not of.assigned then
    error(("%s.%s is missing"):format(of.name, of.key), 0)
  end
  local text = sql.insert(of, names)
  return {
    touched = key ~= nil and touch(of, rows.key(of, key)) or {},
    run = function(transaction)
      local _, id = transaction:write(text, values)
      return { key = key == nil and id or key }
    end,
  }
end

-- Names and values of the columns that an update sets.
local function assignment(of, encoded)
  local names, values = {}, { n = #encoded }
  local is_updated = not of.updated
  for i, change in ipairs(encoded) do
    names[i], values[i] = change[1], change[2]
    is_updated = is_updated or change[1] == of.updated
  end
  if not is_updated then
    names[#names + 1], values.n = of.updated, values.n + 1
    values[values.n] = seconds()
  end
  return names, values
end

-- A statement about the row of a key, which isn't done where the row isn't as the options want it.
local function change_of(of, key, options, text, values)
  return {
    touched = touch(of, key),
    run = function(transaction)
      if transaction:write(text, values) == 0 then explain(transaction, of, key, options) end
      return { changed = 1 }
    end,
  }
end

local UPDATE_OPTIONS = { owner = true, where = true, clear = true }

function COMPILERS.update(declared, name, given_key, changes, given)
  local of = find(declared.tables, name, "table")
  local options, key = check_options(given, UPDATE_OPTIONS), rows.key(of, given_key)
  local names, values = assignment(of, rows.changes(of, changes, options.clear))
  local others, wanted = conditions(of, options)
  local text = sql.update(of, names, others)
  append(values, { key })
  append(values, wanted)
  return change_of(of, key, options, text, values)
end

local DELETE_OPTIONS = { owner = true, where = true }

COMPILERS["delete"] = function(declared, name, given_key, given)
  local of = find(declared.tables, name, "table")
  local options, key = check_options(given, DELETE_OPTIONS), rows.key(of, given_key)
  local others, wanted = conditions(of, options)
  local text, values = sql.delete(of, others), { n = 1, key }
  append(values, wanted)
  return change_of(of, key, options, text, values)
end

function COMPILERS.claim(declared, name, given_key, row)
  local of, defaults = find(declared.tables, name, "table"), {}
  if not of.owner then error(("table %s has no owner"):format(of.name), 0) end
  local key = rows.key(of, given_key)
  for column, value in pairs(row or {}) do defaults[column] = value end
  defaults[of.key], defaults[of.owner] = given_key, 1
  local names, values = insertion(of, defaults)
  local text = sql.select(of, of.key)
  -- First without a lock: in MySQL one on a row that isn't there holds up all who insert near it.
  local was_taken
  local function insert(transaction)
    if not row then transaction:fail(("%s has no row %s"):format(of.name, key), "missing") end
    local ok, problem = pcall(transaction.write, transaction, sql.insert(of, names), values)
    if ok then return end
    if was_taken or type(problem) ~= "table" or problem.code ~= "exists" then error(problem, 0) end
    was_taken = true -- by another claim, or it is another unique value: the next try sees which
    transaction:fail(("%s %s was made meanwhile"):format(of.name, key), "conflict")
  end
  return {
    touched = touch(of, key),
    run = function(transaction)
      if not transaction:read(text, { n = 1, key })[1] then
        insert(transaction)
      elseif transaction:write(sql.claim(of), { n = 1, key }) == 0 then
        transaction:fail(("%s %s went meanwhile"):format(of.name, key), "conflict")
      end
      return rows.decode(of, transaction:read(text, { n = 1, key })[1])
    end,
  }
end

---The values of a statement, in the order of its text. Raises for parameters that don't fit.
---@param statement dbproxy.Statement
---@param parameters table<string, any>?
---@return table values with `n`
---@return table<string, any> encoded by name
function steps.bind(statement, parameters)
  parameters = parameters or {}
  local encoded, values = {}, { n = #statement.order }
  for name, value in pairs(parameters) do
    if not statement.parameters[name] then
      error(("statement %s has no parameter %s"):format(statement.name, tostring(name)), 0)
    end
    encoded[name] = rows.encode({ name = statement.name, columns = statement.parameters }, name,
      value)
  end
  for name, parameter in pairs(statement.parameters) do
    if encoded[name] == nil and not parameter.nullable then
      error(("%s.%s is missing"):format(statement.name, name), 0)
    end
  end
  for i, name in ipairs(statement.order) do values[i] = encoded[name] end
  return values, encoded
end

---Rows of a statement as services see them.
---@param statement dbproxy.Statement
---@param found table[]
---@return table[] rows
function steps.decode(statement, found)
  local of = statement.rows
  if not of then return found end
  local decoded = {}
  for i, row in ipairs(found) do decoded[i] = rows.decode(of, row) end
  return decoded
end

local RUN_OPTIONS = { changed = true }

function COMPILERS.run(declared, name, parameters, given)
  local statement = find(declared.statements, name, "statement")
  local options = check_options(given, RUN_OPTIONS)
  local values, encoded = steps.bind(statement, parameters)
  local touched = {}
  for table_name, parameter in pairs(statement.touches) do
    local of = declared.tables[table_name]
    touched[#touched + 1] = touch(of, rows.key(of, encoded[parameter]))[1]
  end
  return {
    touched = touched,
    run = function(transaction)
      if statement.is_read then
        return steps.decode(statement, transaction:read(statement.sql, values))
      end
      local changed, id = transaction:write(statement.sql, values)
      local wanted = options.changed
      if wanted and changed ~= wanted and (wanted ~= true or changed == 0) then
        transaction:fail(("%s changed %d rows"):format(name, changed), "condition")
      end
      return { changed = changed, id = statement.is_insert and id or nil }
    end,
  }
end

---Compiles steps. Raises for one that is wrong, with its number.
---@param declared dbproxy.Schema
---@param given table[]
---@return dbproxy.Step[] compiled
function steps.compile(declared, given)
  if type(given) ~= "table" or #given == 0 or #given > MAX_STEPS then
    error(("a transaction has 1 to %d steps"):format(MAX_STEPS), 0)
  end
  local compiled = {}
  for i, step in ipairs(given) do
    local compile = type(step) == "table" and COMPILERS[step[1]]
    if not compile then error(("step %d: it has no kind that there is"):format(i), 0) end
    local ok, result = pcall(compile, declared, unpack(step, 2, 5))
    if not ok then error(("step %d: %s"):format(i, tostring(result)), 0) end
    compiled[i] = result
  end
  return compiled
end

return steps
