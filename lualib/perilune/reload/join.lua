-- Joins the new text of a script to the old: decides which values stay, and lists the steps that
-- make one program of both. Changes nothing that runs.
--
-- A part of perilune.reload, which has the rules and says who may load it.

local util = require "jit.util"

local bytecode = require "perilune.reload.bytecode"
local survey = require "perilune.reload.survey"
local walks = require "perilune.reload.walk"

local METAMETHODS = {}
for name in string.gmatch([[index newindex call tostring len eq lt le add sub mul div mod pow unm
  concat mode gc metatable name pairs ipairs]], "%a+") do
  METAMETHODS["__" .. name] = true
end

local function is_upper_case(name)
  return type(name) == "string" and string.find(name, "^[A-Z][A-Z0-9_]+$") ~= nil
end

local function is_scalar(value)
  local kind = type(value)
  return kind == "number" or kind == "string" or kind == "boolean"
end

-- Whether a table has functions: a class, or a table of handlers.
local function has_code(object)
  for key, value in next, object do
    if type(value) == "function" or METAMETHODS[key] then return true end
  end
  return false
end

-- Whether a factory of another file made both functions, and what it made holds state: a table
-- or userdata of its own, or a number that it changes.
local function is_kept_product(f, old)
  if f == old or not bytecode.is_same_code(f, old) then return false end
  local is_native = util.funcinfo(f).proto == nil
  for i = 1, math.huge do
    local name, value = debug.getupvalue(f, i)
    if not name then return false end
    local _, old_value = debug.getupvalue(old, i)
    if is_scalar(value) or value == nil then
      if is_native or bytecode.assigns(f, i - 1) then return true end
    elseif type(value) ~= "function" and not rawequal(value, old_value) then
      return true
    end
  end
end

local Join = {}
Join.__index = Join

---Begins a join of two texts; `old` and `new` are those of perilune.reload's plan.
---@param old table
---@param new table
---@return table join problem(), run() and now() are what a plan needs of it
local function new_join(old, new)
  local join = setmetatable(survey(old, new), Join) -- has what there is; and besides
  join.paired_old = {}  -- old tables that get new entries
  join.canonical = {}   -- new table -> the old one that takes its place
  join.replaced = {}    -- old table -> the new one that a variable holds instead
  join.counterpart = {} -- old function -> the new one, by the variable that holds it
  join.done = {}        -- what was paired already
  join.queue = {}       -- of tables to be merged
  join.steps = {}       -- what apply does
  join.problems = {}
  return join
end

-- Notes why there can be no plan.
function Join:problem(unit, line, format, ...)
  self.problems[#self.problems + 1] =
    string.format("%s:%d: %s", unit.file, line, string.format(format, ...))
end

function Join:add(step) self.steps[#self.steps + 1] = step end

function Join:set(object, key, value)
  self:add { "set", object, key, value }
end

-- Deciding -------------------------------------------------------------------------------------

-- Whether a function of some other file contains one of the new text.
function Join:carries_code(f, seen)
  if self.new_nodes[f] then return true end
  seen = seen or {}
  if seen[f] then return false end
  seen[f] = true
  for i = 1, math.huge do
    local name, value = debug.getupvalue(f, i)
    if not name then return false end
    if type(value) == "function" and self:carries_code(value, seen) then return true end
  end
end

-- Whether a require gave the value.
function Join:is_required(value)
  return (type(value) == "table" or type(value) == "function") and self.required[value] == true
end

-- Whether a variable or global takes its new value. `assigned`, `was_assigned`: by functions.
function Join:takes_new(name, value, assigned, old_value, was_assigned)
  if is_upper_case(name) then return true end
  if type(value) == "function" then
    return type(old_value) ~= "function" or self:carries_code(value)
      or not is_kept_product(value, old_value)
  end
  if self:is_required(value) then return true end
  if is_scalar(value) and not assigned then return true end
  if value == nil or was_assigned then return false end
  if is_scalar(old_value) or old_value == nil or type(old_value) == "function" then return true end
  return not assigned and type(value) == "table" and self.existing[value] == true
end

-- What follows when a place held `old_value` in the old text and holds `value` in the new.
function Join:pair_values(name, value, old_value, is_new, unit)
  if type(value) == "function" and type(old_value) == "function" then
    self:pair_functions(old_value, value)
  elseif type(value) == "table" and type(old_value) == "table" then
    if not is_new then
      self:pair_tables(old_value, value, "state", unit)
    elseif is_upper_case(name) and has_code(value) and not self.paired_old[old_value] then
      self:pair_tables(old_value, value, "constant", unit)
    else
      self.replaced[old_value] = value
    end
  end
end

-- Decides which value a cell has from now on; `found`: the old variable.
function Join:decide(cell, found)
  local variable = cell.variable
  local _, old_value = debug.getupvalue(found.f, found.index)
  local is_new = self:takes_new(variable.name, cell.value, variable.assigned, old_value,
    found.variable.assigned)
  cell.decided = true
  if not is_new then cell.old = found end
  self:pair_values(variable.name, cell.value, old_value, is_new, cell.unit)
end

-- Pairing --------------------------------------------------------------------------------------

-- The new variables of one cell: a list of cells. Two of one name are a problem.
function Join:list_single_cells()
  local list, by_name = {}, {} -- unit -> name -> cell
  for _, cell in ipairs(self.cell_list) do
    local variable, unit = cell.variable, cell.unit
    if variable.single then
      by_name[unit] = by_name[unit] or {}
      local other = by_name[unit][variable.name]
      if other then
        local first, second = other.variable.line, variable.line
        if first > second then first, second = second, first end
        self:problem(unit, second, "functions use this local %q and another one of that name, " ..
          "of line %d: a reload can't tell them apart, rename one", variable.name, first)
      else
        by_name[unit][variable.name] = cell
        list[#list + 1] = cell
      end
    end
  end
  return list
end

-- The old variables that a new one may be; several are a problem, unless it takes its new value.
function Join:find_old_variables(cell)
  local variable, unit = cell.variable, cell.unit
  local by_name = self.old_variables[unit.source]
  local found = by_name and by_name[variable.name]
  if not found then return nil end
  if #found > 1 then
    table.sort(found, function(a, b) return a.variable.line < b.variable.line end)
    if not self:takes_new(variable.name, cell.value, variable.assigned, {}, true) then
      self:problem(unit, found[2].variable.line, "in the running version of this file " ..
        "functions use this local %q and another one of that name, of line %d: the new one " ..
        "can't be joined", variable.name, found[1].variable.line)
      return nil
    end
  end
  return found
end

-- Joins the variables of one cell, by name. Constants come last: a table that another variable
-- keeps as state is none.
function Join:join_names()
  local constants = {}
  for _, cell in ipairs(self:list_single_cells()) do
    local found = self:find_old_variables(cell)
    if found and is_upper_case(cell.variable.name) then
      constants[#constants + 1] = { cell, found[1] }
    elseif found then
      self:decide(cell, found[1])
      local _, old_value = debug.getupvalue(found[1].f, found[1].index)
      if type(cell.value) == "function" and type(old_value) == "function" then
        self.counterpart[old_value] = cell.value
      end
    end
    if not found or #found == 1 then cell.decided = true end
  end
  for _, entry in ipairs(constants) do self:decide(entry[1], entry[2]) end
end

-- Joins the variables of many cells that two functions of one place capture.
function Join:join_captured(old, new, old_node, new_node)
  for i, variable in ipairs(new_node.upvalues) do
    local cell = self.cells[debug.upvalueid(new, i)]
    for j, old_variable in ipairs(old_node.upvalues) do
      if not cell.decided and variable.name == old_variable.name then
        self:decide(cell, { f = old, index = j, variable = old_variable })
      end
    end
  end
end

-- Pairs a function of one place with the one that was there, and what is wrapped in both.
function Join:pair_functions(old, new)
  if old == new or self.done[new] then return end
  self.done[new] = true
  local old_node, new_node = self:old_node(old), self.new_nodes[new]
  if old_node and new_node then
    self:join_captured(old, new, old_node, new_node)
  elseif not new_node and bytecode.is_same_code(old, new) then
    for i = 1, math.huge do
      local name, value = debug.getupvalue(new, i)
      if not name then break end
      local _, old_value = debug.getupvalue(old, i)
      if type(value) == "function" and type(old_value) == "function" then
        self:pair_functions(old_value, value)
      end
    end
  end
end

-- Has `new` merged into `old`, which takes its place everywhere. `mode`:
--   "commands", "module"  functions are exactly the new ones
--   "constant"            all entries are exactly the new ones
--   "state"               as perilune.reload says
function Join:pair_tables(old, new, mode, unit)
  if rawequal(old, new) or not self.fresh[new] or self.loaded[old] then return end
  local done = self.done[new] or {}
  self.done[new] = done
  if done[old] then return end
  done[old] = true
  self.canonical[new] = self.canonical[new] or old
  self.paired_old[old] = true
  self.queue[#self.queue + 1] = { old, new, mode, unit.old and unit or self.unit }
end

-- The tables and functions that a text and its modules are.
function Join:pair_roots()
  local function pair(old, new, mode, unit)
    self.named[new], self.named_old[old] = true, true
    self:pair_tables(old, new, mode, unit)
  end
  pair(self.old.commands, self.new.commands, "commands", self.unit)
  if self.old.client then
    local client = self.new.client or {}
    self.fresh[client] = true
    pair(self.old.client, client, "commands", self.unit)
  end
  for name, module in pairs(self.new.modules) do
    local before = self.old.modules[name]
    local old_value, value = before and before.value, module.value
    if type(old_value) == "table" and type(value) == "table" then
      pair(old_value, value, "module", module.unit)
    elseif type(old_value) == "function" and type(value) == "function" then
      self:pair_functions(old_value, value)
    end
  end
end

-- Merging tables -------------------------------------------------------------------------------

-- Whether two tables in the same place of two joined ones are to be joined themselves.
function Join:nests(old, new)
  return type(old) == "table" and type(new) == "table" and self.fresh[new]
    and not self.named[new] and not self.named_old[old] and not self.loaded[old]
end

-- The node of a function of the old text; nil of others.
function Join:old_node(f) return self.old_nodes[f] or (walks.find_node(self.old_units, f)) end

-- Whether the old file itself, not a function of it, made this function.
function Join:is_static(f)
  local node = type(f) == "function" and self:old_node(f)
  return node and node.depth == 1
end

function Join:merge_entry(old, key, value, mode, unit)
  local old_value = rawget(old, key)
  if rawequal(old_value, value) then return end
  if mode == "constant" or is_upper_case(key) then
    if self:nests(old_value, value) and has_code(value) then
      self:pair_tables(old_value, value, "constant", unit)
    else
      self:set(old, key, value)
    end
  elseif type(value) == "function" then
    local is_foreign = type(old_value) == "function"
      and util.funcinfo(old_value).source ~= unit.source
    if mode ~= "state" or not is_foreign then self:set(old, key, value) end
    if type(old_value) == "function" then self:pair_functions(old_value, value) end
  elseif self:nests(old_value, value) then
    self:pair_tables(old_value, value, "state", unit)
  elseif METAMETHODS[key] then
    self:set(old, key, value)
  elseif type(value) == "table" and type(old_value) == "table" then
    if (self.existing[value] and self.existing[old_value])
      or rawequal(self.replaced[old_value], value) then
      self:set(old, key, value)
    end
  elseif old_value == nil then
    if type(key) == "string" and not unit.old.set_keys[key] then self:set(old, key, value) end
  elseif self:is_static(old_value) then
    self:set(old, key, value)
  end
end

-- Entries that `old` has and `new` doesn't.
function Join:merge_deleted(old, new, mode, unit)
  if mode == "state" then
    for key in pairs(unit.old.own_keys) do
      if rawget(new, key) == nil and self:is_static(rawget(old, key)) then
        self:set(old, key, nil)
      end
    end
    return
  end
  for key, value in next, old do
    if rawget(new, key) == nil then
      if mode == "constant" then
        self:set(old, key, nil)
      elseif type(value) == "function" then
        if self.counterpart[value] and not unit.old.own_keys[key] then
          self:set(old, key, self.counterpart[value])
        elseif self:is_static(value) or unit.old.own_keys[key] then
          self:set(old, key, nil)
        end
      end
    end
  end
end

function Join:merge_tables()
  local at = 1
  while self.queue[at] do
    local old, new, mode, unit = unpack(self.queue[at], 1, 4)
    at = at + 1
    for key, value in next, new do self:merge_entry(old, key, value, mode, unit) end
    self:merge_deleted(old, new, mode, unit)
    local old_meta, meta = debug.getmetatable(old), debug.getmetatable(new)
    if meta and self:nests(old_meta, meta) then
      self:pair_tables(old_meta, meta, "state", unit)
    elseif meta and not old_meta then
      self:add { "meta", old, meta }
    end
  end
end

local function assigned_globals(units)
  local names = {}
  for _, unit in ipairs(units) do
    for name in pairs(unit.assigned_globals) do names[name] = true end
  end
  return names
end

-- What the new text wrote into its environment.
function Join:join_globals()
  local env = self.old.env
  local assigned, was_assigned = assigned_globals(self.new_units), assigned_globals(self.old_units)
  for name, value in next, self.new.env do
    local old_value = rawget(env, name)
    if old_value == nil then
      if not was_assigned[name] then self:set(env, name, value) end
    elseif not rawequal(value, self.new.env) then -- its _G
      local is_new = self:takes_new(name, value, assigned[name], old_value, was_assigned[name])
      if is_new then self:set(env, name, value) end
      self:pair_values(name, value, old_value, is_new, self.unit)
    end
  end
end

-- Steps ----------------------------------------------------------------------------------------

-- Steps that put variables into the new functions' upvalues.
function Join:add_cells()
  for _, cell in ipairs(self.cell_list) do
    local old = cell.old
    if old and old.variable.constant and not cell.variable.constant then
      -- Compiled code takes an old cell that was never assigned for a constant, and drops
      -- assignments to it: everybody moves to the new cell.
      local f, index = unpack(cell.uses[1])
      self:add { "copy", f, index, old.f, old.index }
      for _, use in ipairs(self.old_uses[debug.upvalueid(old.f, old.index)] or {}) do
        self:add { "join", use[1], use[2], f, index }
      end
    elseif old then
      for _, use in ipairs(cell.uses) do
        self:add { "join", use[1], use[2], old.f, old.index }
      end
    elseif type(cell.value) == "table" and self.canonical[cell.value] then
      self:add { "value", cell.uses[1][1], cell.uses[1][2], self.canonical[cell.value] }
    end
  end
end

-- What stands for a value of the new text from now on: the old table that it was merged into, if
-- there is one.
function Join:now(value)
  if type(value) ~= "table" then return value end
  return self.canonical[value] or value
end

-- Steps that have what stays of the new tables refer to the old ones that new ones became.
function Join:add_references()
  for _, step in ipairs(self.steps) do
    if step[1] == "set" then step[4] = self:now(step[4]) end
    if step[1] == "meta" then step[3] = self:now(step[3]) end
  end
  for object in pairs(self.fresh) do
    if not self.canonical[object] then
      for key, value in next, object do
        if not rawequal(self:now(key), key) then
          self:set(object, key, nil)
          self:set(object, self:now(key), self:now(value))
        elseif not rawequal(self:now(value), value) then
          self:set(object, key, self:now(value))
        end
      end
      local meta = debug.getmetatable(object)
      if meta and not rawequal(self:now(meta), meta) then
        self:add { "meta", object, self:now(meta) }
      end
    end
  end
end

-- Fills `steps`, or else `problems`.
function Join:run()
  for _, f in ipairs(self.moved) do self:add { "env", f, self.old.env } end
  self:pair_roots()
  self:join_names()
  if #self.problems > 0 then return end
  self:join_globals()
  self:merge_tables()
  self:add_cells()
  self:add_references()
end

return { new = new_join }
