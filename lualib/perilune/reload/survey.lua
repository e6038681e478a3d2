-- What there is before a reload decides anything: the functions, variables and tables of the old
-- and of the new text.
--
-- A part of perilune.reload, which says who may load it.

local util = require "jit.util"

local bytecode = require "perilune.reload.bytecode"
local walks = require "perilune.reload.walk"

-- The old functions are looked for near the roots: state may be large, so that only so many
-- entries of it are looked at. The functions of a script are near: commands, what they capture,
-- classes.
local TABLE_LIMIT, LIMIT = 10000, 100000

local Survey = {}
Survey.__index = Survey

function Survey:analyse()
  self.unit = bytecode.analyse(self.new.main)
  self.unit.old = bytecode.analyse(self.old.main)
  self.new_units, self.old_units = { self.unit, env = self.new.env }, { self.unit.old }
  for name, module in pairs(self.new.modules) do
    local unit = bytecode.analyse(module.main)
    local old = self.old.modules[name]
    module.unit = unit
    self.new_units[#self.new_units + 1] = unit
    if old then
      unit.old = bytecode.analyse(old.main)
      self.old_units[#self.old_units + 1] = unit.old
    end
  end
  for _, unit in ipairs(self.old_units) do self.old_variables[unit.source] = {} end
end

local function mark(set, value)
  if type(value) == "table" or type(value) == "function" then set[value] = true end
end

-- Modules of other files, and of the game's those whose text wasn't run again.
function Survey:mark_loaded()
  for name, value in pairs(self.new.loaded) do
    local is_replaced = self.new.modules[name] and self.old.modules[name]
    if not is_replaced then
      mark(self.required, value)
      mark(self.loaded, value)
      if type(value) == "table" then
        for _, field in next, value do mark(self.loaded, field) end
      end
    end
  end
  for _, module in pairs(self.new.modules) do mark(self.required, module.value) end
end

-- What was there before the new text ran, as far as that text can see it.
function Survey:mark_existing()
  for object in pairs(self.loaded) do self.existing[object] = true end
  -- The environment, and what is below it.
  local env, depth = self.old.env, 0
  while type(env) == "table" and depth < 4 do
    self.existing[env] = true
    for _, value in next, env do mark(self.existing, value) end
    local meta = debug.getmetatable(env)
    env, depth = meta and rawget(meta, "__index"), depth + 1
  end
  mark(self.existing, self.old.commands)
  mark(self.existing, self.old.client)
  for name, module in pairs(self.old.modules) do
    if self.new.modules[name] then mark(self.existing, module.value) end
  end
  self.existing[self.new.env] = true
end

-- Notes the cells of a function of the new text.
function Survey:note_new(f, node, unit)
  if not util.funcinfo(f).proto then return end
  if rawequal(debug.getfenv(f), self.new.env) then self.moved[#self.moved + 1] = f end
  if not node then return end
  self.new_nodes[f] = node
  for i, variable in ipairs(node.upvalues) do
    local id = debug.upvalueid(f, i)
    local cell = self.cells[id]
    if not cell then
      local _, value = debug.getupvalue(f, i)
      cell = { variable = variable, unit = unit, value = value, uses = {} }
      self.cells[id] = cell
      self.cell_list[#self.cell_list + 1] = cell
      if type(value) == "table" and variable.single then self.named[value] = true end
    end
    cell.uses[#cell.uses + 1] = { f, i }
  end
end

-- All that the new text made: functions, their cells, tables.
function Survey:walk_new()
  local roots = { self.new.commands, self.new.client }
  for _, module in pairs(self.new.modules) do roots[#roots + 1] = module.value end
  for _, value in next, self.new.env do roots[#roots + 1] = value end
  walks.walk {
    roots = roots, units = self.new_units,
    enter = function(object)
      if self.existing[object] then return false end
      self.fresh[object] = true
      return true
    end,
    on_function = function(f, node, unit) self:note_new(f, node, unit) end,
  }
end

-- Notes by its name a variable of one cell that an old function captures.
function Survey:note_old_variable(f, index, variable, unit)
  local by_name = self.old_variables[unit.source]
  local found = by_name[variable.name] or {}
  by_name[variable.name] = found
  if not found[variable] then
    found[variable] = true
    found[#found + 1] = { f = f, index = index, variable = variable }
  end
  local _, value = debug.getupvalue(f, index)
  if type(value) == "table" then self.named_old[value] = true end
end

-- Notes the cells of a function of the old text.
function Survey:note_old(f, node, unit)
  if not node then return end
  self.old_nodes[f] = node
  for i, variable in ipairs(node.upvalues) do
    local id = debug.upvalueid(f, i)
    local uses = self.old_uses[id]
    if not uses then
      uses = {}
      self.old_uses[id] = uses
      if variable.single then self:note_old_variable(f, i, variable, unit) end
    end
    uses[#uses + 1] = { f, i }
  end
end

-- The old functions, as far as they are near.
function Survey:walk_old()
  local roots = { self.old.commands, self.old.client }
  for name in pairs(self.new.modules) do
    local module = self.old.modules[name]
    roots[#roots + 1] = module and module.value
  end
  for key in next, self.new.env do roots[#roots + 1] = rawget(self.old.env, key) end
  walks.walk {
    roots = roots, units = self.old_units, table_limit = TABLE_LIMIT, limit = LIMIT,
    enter = function(object)
      return not self.loaded[object] and not rawequal(object, self.old.env)
    end,
    on_function = function(f, node, unit) self:note_old(f, node, unit) end,
  }
end

---Looks at two texts; `old` and `new` are those of perilune.reload's plan.
---@param old table
---@param new table
---@return table what there is; the comments say what its fields are
local function survey(old, new)
  local self = setmetatable({
    old = { main = old.main, env = old.env, commands = old.commands, client = old.client,
      modules = old.modules or {} },
    new = { main = new.main, env = new.env, commands = new.commands, client = new.client,
      modules = {}, loaded = new.loaded or {} },
    existing = {},      -- tables that were there before the new text ran
    loaded = {},        -- those of other files: they are looked into by nobody
    required = {},      -- values that require gave
    fresh = {},         -- tables that the new text made
    moved = {},         -- functions that run in the new environment
    named = {},         -- new tables that are the value of a variable of one cell
    named_old = {},     -- the same for old ones
    cells = {},         -- id -> {variable, unit, value, uses = {{function, index}}}
    cell_list = {},
    new_nodes = {}, old_nodes = {},
    old_uses = {},      -- id of an old cell -> {{function, index}}
    old_variables = {}, -- source -> name -> {{f, index, variable}}
  }, Survey)
  for name, module in pairs(new.modules or {}) do
    self.new.modules[name] = { main = module.main, value = module.value }
  end
  self:analyse()
  self:mark_loaded()
  self:mark_existing()
  self:walk_new()
  self:walk_old()
  return self
end

return survey
