-- Reload: joins the new text of a script to what runs.
--
-- For the host alone, which hands in what services must not have:
--
--   local reload = require "perilune.reload" {
--     debug = debug, util = jit.util, flush = jit.flush, dump = string.dump,
--   }
--   local scratch = reload.scratch(environment)
--   ... runs the new text in `scratch` ...
--   local plan, problems = reload.plan(old, new)  -- changes nothing
--   if plan then local now = reload.apply(plan) end -- can't fail
--   reload.undo(plan) -- the old functions again, the state as it is
--
-- plan and apply belong together at one message boundary: no Lua code of the service runs
-- between or during them, no hook interrupts them.
--
-- What is what. A *variable* is a local that a function captures. One that is declared once while
-- the file runs (not in a loop) has one cell and is joined by its name. Others (locals of loops,
-- of functions called while the file runs) have many cells of a name: they are joined function by
-- function, where the old and the new function are found in the same place.
--
-- A variable takes its new value when
--   * its name is UPPER_CASE (two characters at least);
--   * its new value is a function; but what a factory of another file gave, as perilune.queue does,
--     is kept when the same factory made both and it holds state (a table or userdata, a number
--     that it changes), unless it carries a function of this script;
--   * its new value is what a require gave;
--   * its new value is a number, a string or a boolean and no function of the new text assigns it;
--   * no function of the old text assigned it and its old value is none of table, userdata and
--     coroutine: it can't have changed since the file ran;
--   * no function of either text assigns it and its new value is a table that was there before,
--     such as `string` or a field of a module.
-- All others are state: the new functions get the old cell. What the file itself assigns, outside
-- of functions, is no assignment here: it is how a value begins.
--
-- A table that is state keeps its identity and its entries, and gets what is code in the new one:
--   * functions: an entry that is a function in the new table is new, unless a function of some
--     other file stands there now; one that the old file put there and the new doesn't goes;
--   * entries named UPPER_CASE, and metamethods (`__index` ...) are new;
--   * a string key that the old text never set is added with its new value;
--   * tables in both below one key, and their metatables, are joined likewise, unless they have
--     a variable of their own.
-- The tables of commands and of modules, and what the script put into its environment, too; from
-- the tables of commands and modules all deleted functions go, and a function that a variable
-- holds is replaced there wherever it was put. An UPPER_CASE table that has functions keeps its
-- identity (it may be a class) and gets exactly its new entries; one without is another table.
--
-- Functions of the old text that still live (running tasks, timers by function, callbacks in
-- tables of state) go on with the old code and share the state.

-- Values of scripts are compared by rawequal: == could call their code.

local debug, util, flush, dump -- handed in; see the end of the file
local opcode -- name -> number, see find_opcodes

local reload = {}

local METAMETHODS = {}
for name in ([[index newindex call tostring len eq lt le add sub mul div mod pow unm concat mode gc
  metatable name pairs ipairs]]):gmatch("%a+") do
  METAMETHODS["__" .. name] = true
end

local function is_upper_case(name)
  return type(name) == "string" and name:find("^[A-Z][A-Z0-9_]+$") ~= nil
end

local function is_scalar(value)
  local kind = type(value)
  return kind == "number" or kind == "string" or kind == "boolean"
end

-- Bytecode -------------------------------------------------------------------------------------

-- The numbers of the instructions that matter, from the bytecode of samples.
local function find_opcodes()
  local up, other = 0, 0
  local function instruction(sample, at) return util.funcbc(sample, at) % 256 end
  local function set_value(value) up = value end
  local function set_string() up = "text" end
  local function set_number() up = 1 end
  local function set_primitive() up = nil end
  local function make() return function() return up, other end end
  local function set_field(object) object.field = object end
  local function get_string() return "text" end
  local function set_global() a_global = 1 end -- luacheck: ignore
  local function loops(x)
    for _ = 1, x do other = 1 end
    for _ in x do other = 2 end
    while x do other = 3 end
    repeat other = 4 until x
  end
  local codes = {
    USETV = instruction(set_value, 1), USETS = instruction(set_string, 1),
    USETN = instruction(set_number, 1), USETP = instruction(set_primitive, 1),
    FNEW = instruction(make, 1), TSETS = instruction(set_field, 1),
    KSTR = instruction(get_string, 1), GSET = instruction(set_global, 2),
    jumps = {}, -- what jumps backward: the ends of loops
  }
  for at = 1, 1000 do
    local word, mode = util.funcbc(loops, at)
    if not word then break end
    -- Mode 13 of operand D: a jump.
    if math.floor(mode / 128) % 16 == 13 and math.floor(word / 65536) % 65536 < 0x8000 then
      codes.jumps[word % 256] = true
    end
  end
  return codes
end

local function read_uleb128(text, at)
  local value, unit = 0, 1
  while true do
    local byte = text:byte(at)
    at = at + 1
    value = value + byte % 128 * unit
    if byte < 128 then return value, at end
    unit = unit * 128
  end
end

-- One prototype of a dump: where its instructions and variables are, what its upvalues are.
local function read_prototype(text, at)
  local size
  size, at = read_uleb128(text, at)
  local stop = at + size
  local upvalue_count = text:byte(at + 3)
  local count, debug_size, line_count, _
  _, at = read_uleb128(text, at + 4)
  _, at = read_uleb128(text, at)
  count, at = read_uleb128(text, at)
  debug_size, at = read_uleb128(text, at)
  if debug_size == 0 then error("reload needs scripts with debug information") end
  local first_line
  first_line, at = read_uleb128(text, at)
  line_count, at = read_uleb128(text, at)
  local upvalues = {}
  for i = 1, upvalue_count do
    local low, high = text:byte(at + count * 4 + i * 2 - 2, at + count * 4 + i * 2 - 1)
    upvalues[i] = low + high * 256
  end
  return {
    text = text, code = at, count = count, upvalues = upvalues, first_line = first_line,
    lines = stop - debug_size, line_size = line_count < 256 and 1 or line_count < 65536 and 2 or 4,
  }, stop
end

-- Instruction `at` (from 1): its number, A, C and B.
local function read_instruction(record, at)
  return record.text:byte(record.code + at * 4 - 4, record.code + at * 4 - 1)
end

local function line_at(record, at)
  if at < 1 then return record.first_line end
  local from = record.lines + (at - 1) * record.line_size
  local line, unit = 0, 1
  for i = from, from + record.line_size - 1 do
    line = line + record.text:byte(i) * unit
    unit = unit * 256
  end
  return record.first_line + line
end

-- The local variables of a prototype in the order of declaration: {name, first, last} with the
-- instructions between which they live.
local function read_locals(record)
  local text = record.text
  local at = record.lines + record.count * record.line_size
  for _ = 1, #record.upvalues do at = text:find("\0", at, true) + 1 end
  local locals, start = {}, 0
  while text:byte(at) ~= 0 do
    local name = "(for)"
    if text:byte(at) >= 7 then
      local stop = text:find("\0", at, true)
      name = text:sub(at, stop - 1)
      at = stop
    end
    local delta, length
    delta, at = read_uleb128(text, at + 1)
    length, at = read_uleb128(text, at)
    start = start + delta
    locals[#locals + 1] = { name = name, first = start, last = start + length }
  end
  return locals
end

-- Prototypes of different loads of a text are different objects: this tells them apart.
local function signature(prototype)
  local info = util.funcinfo(prototype)
  local parts = { info.linedefined, info.lastlinedefined, info.bytecodes, info.params }
  for i = 0, info.upvalues - 1 do parts[#parts + 1] = util.funcuvname(prototype, i) end
  return table.concat(parts, ":")
end

-- What the text of a script says: its prototypes, which of its locals each captures, and which
-- of those functions assign.
--   by_prototype, by_signature -> {depth, upvalues = {variable}}
--   variable: {name, line, level (depth of its function), in_loop, assigned, constant}
--   set_keys, own_keys: strings that the text, or the file outside of its functions, uses as keys
--   assigned_globals: names of globals that functions assign
local function analyse(main)
  local text = dump(main)
  local flags, at = read_uleb128(text, 5)
  if text:sub(1, 4) ~= "\27LJ\2" or flags % 2 ~= 0 then error("unknown kind of bytecode") end
  if math.floor(flags / 2) % 2 == 0 then
    local size
    size, at = read_uleb128(text, at)
    at = at + size
  end
  local source = util.funcinfo(main).source
  local unit = {
    source = source, file = source:gsub("^[@=]", ""), by_prototype = {}, by_signature = {},
    set_keys = {}, own_keys = {}, assigned_globals = {},
  }

  local function note_key(node, key)
    unit.set_keys[key] = true
    if node.depth == 0 then unit.own_keys[key] = true end
  end

  -- Children come before their parent in a dump, in the order of the parent's constants.
  local function read_tree(prototype, depth)
    local node = { prototype = prototype, depth = depth, children = {}, upvalues = {} }
    for i = 1, math.huge do
      local constant = util.funck(prototype, -i)
      local kind = type(constant)
      if kind == "nil" then break end
      if kind == "proto" then node.children[i] = read_tree(constant, depth + 1) end
      if kind == "table" then
        for key, value in next, constant do
          if type(key) == "string" then note_key(node, key) end
          if type(value) == "string" then note_key(node, value) end
        end
      end
    end
    node.record, at = read_prototype(text, at)
    return node
  end

  local function declare(node, declared)
    if not declared.variable then
      local in_loop = false
      for _, loop in ipairs(node.loops) do
        in_loop = in_loop or loop.first <= declared.first and declared.first <= loop.last
      end
      declared.variable = {
        name = declared.name, level = node.depth, in_loop = in_loop, assigned = false,
        line = line_at(node.record, declared.first - 1), constant = true,
      }
    end
    return declared.variable
  end

  -- Finds which local is in a register when instruction `where` runs.
  local function local_at(node, where, slot)
    for _, declared in ipairs(node.locals) do
      if declared.first > where then break end
      if where < declared.last then
        if slot == 0 then return declare(node, declared) end
        slot = slot - 1
      end
    end
    error("reload: a register without a name")
  end

  local function resolve(node)
    local record = node.record
    node.locals, node.loops = read_locals(record), {}
    local is_set = { [opcode.USETV] = true, [opcode.USETS] = true, [opcode.USETN] = true,
      [opcode.USETP] = true }
    for i = 1, record.count do
      local code, _, low, high = read_instruction(record, i)
      if opcode.jumps[code] and high < 128 then
        node.loops[#node.loops + 1] = { first = i + low + high * 256 - 0x7fff, last = i }
      end
    end
    for i = 1, record.count do
      local code, a, low, high = read_instruction(record, i)
      if is_set[code] then
        if node.depth > 0 then node.upvalues[a + 1].assigned = true end
      elseif code == opcode.GSET then
        if node.depth > 0 then
          unit.assigned_globals[util.funck(node.prototype, -(low + high * 256) - 1)] = true
        end
      elseif code == opcode.TSETS then
        note_key(node, util.funck(node.prototype, -low - 1))
      elseif code == opcode.KSTR and high > 0 then -- too far for TSETS
        note_key(node, util.funck(node.prototype, -(low + high * 256) - 1))
      elseif code == opcode.FNEW then
        local child = node.children[low + high * 256 + 1]
        for j, reference in ipairs(child.record.upvalues) do
          local is_local = reference >= 0x8000
          local variable = is_local and local_at(node, i, reference % 256)
            or node.upvalues[reference + 1]
          if is_local and reference % 0x8000 < 0x4000 then variable.constant = false end
          child.upvalues[j] = variable
        end
        resolve(child)
      end
    end
    node.record, node.locals, node.loops = nil, nil, nil
    unit.by_prototype[node.prototype] = node
    unit.by_signature[signature(node.prototype)] = node
  end

  local root = read_tree(util.funcinfo(main).proto, 0)
  for i = 1, #root.record.upvalues do -- none, unless somebody wrapped the text
    root.upvalues[i] = { name = util.funcuvname(main, i - 1), level = -1, line = 0 }
  end
  resolve(root)
  return unit
end

-- Walks ----------------------------------------------------------------------------------------

local Join = {} -- what one plan knows
Join.__index = Join

-- The node and unit of a function of the scripts; nil for functions of other files.
local function find_node(units, f)
  local info = util.funcinfo(f)
  if not info.proto then return nil end
  for _, unit in ipairs(units) do
    local node = unit.by_prototype[info.proto]
    if node then return node, unit end
  end
  -- Functions of the new text run in its environment, those of other loads of a text don't.
  if units.env and not rawequal(debug.getfenv(f), units.env) then return nil end
  for _, unit in ipairs(units) do
    if unit.source == info.source then
      local node = unit.by_signature[signature(f)]
      if node then return node, unit end
    end
  end
end

-- Goes from roots to all functions of the scripts in `units`: functions first, then tables that
-- functions capture, metatables and roots, then tables in tables, breadth first. `enter(table)`
-- says whether to look into a table; `on_function(f, node, unit)` is told of each function.
-- Looks at no more than `table_limit` entries of one table, and `limit` of tables in tables.
local function walk(roots, units, enter, on_function, table_limit, limit)
  local seen = {}
  local functions, captured, nested = { first = 1 }, { first = 1 }, { first = 1 }
  for _, queue in ipairs { functions, captured, nested } do queue.last = 0 end

  local function add(value, queue)
    local kind = type(value)
    if (kind ~= "table" and kind ~= "function") or seen[value] then return end
    if kind == "table" and not enter(value) then return end
    seen[value] = true
    if kind == "function" then queue = functions end
    queue.last = queue.last + 1
    queue[queue.last] = value
  end
  local function take(queue)
    if queue.first > queue.last then return nil end
    local value = queue[queue.first]
    queue[queue.first] = nil
    queue.first = queue.first + 1
    return value
  end

  local function visit_function(f)
    local node, unit = find_node(units, f)
    on_function(f, node, unit)
    for i = 1, math.huge do
      local name, value = debug.getupvalue(f, i)
      if not name then break end
      -- Another file's closure may carry functions of ours; its tables are its own affair.
      if node or type(value) == "function" then add(value, captured) end
    end
  end
  local function visit_table(object, most)
    local count = 0
    for key, value in next, object do
      if count >= most then break end
      count = count + 1
      add(key, nested)
      add(value, nested)
    end
    add(debug.getmetatable(object), captured)
    return count
  end

  for _, root in ipairs(roots) do add(root, captured) end
  while true do
    local value = take(functions) or take(captured)
    if type(value) == "function" then
      visit_function(value)
    elseif value then
      visit_table(value, table_limit)
    else
      value = take(nested)
      if not value then break end
      limit = limit - visit_table(value, math.min(table_limit, limit))
    end
  end
end

-- All that the new text made: functions, their cells, tables.
function Join:walk_new()
  local roots = { self.new.commands, self.new.client }
  for _, module in pairs(self.new.modules) do roots[#roots + 1] = module.value end
  for _, value in next, self.new.env do roots[#roots + 1] = value end
  local function enter(object)
    if self.existing[object] then return false end
    self.fresh[object] = true
    return true
  end
  walk(roots, self.new_units, enter, function(f, node, unit)
    if not util.funcinfo(f).proto then return end
    if rawequal(debug.getfenv(f), self.new.env) then self:add { "env", f, self.old.env } end
    if not node then return end
    self.new_nodes[f] = node
    self.new_functions[#self.new_functions + 1] = f
    for i, variable in ipairs(node.upvalues) do
      local id = debug.upvalueid(f, i)
      local cell = self.cells[id]
      if not cell then
        local _, value = debug.getupvalue(f, i)
        cell = { variable = variable, unit = unit, value = value, uses = {} }
        self.cells[id] = cell
        self.cell_list[#self.cell_list + 1] = cell
        if type(value) == "table" and self:is_single(variable) then self.named[value] = true end
      end
      cell.uses[#cell.uses + 1] = { f, i }
    end
  end, math.huge, math.huge)
end

-- The old functions, as far as they are near: state may be large, so that only so many entries
-- are looked at. The functions of a script are near: commands, what they capture, classes.
local TABLE_LIMIT, LIMIT = 10000, 100000

function Join:walk_old()
  local roots = { self.old.commands, self.old.client }
  for name in pairs(self.new.modules) do
    local module = self.old.modules[name]
    roots[#roots + 1] = module and module.value
  end
  for key in next, self.new.env do roots[#roots + 1] = rawget(self.old.env, key) end
  local function enter(object)
    return not self.loaded[object] and not rawequal(object, self.old.env)
  end
  walk(roots, self.old_units, enter, function(f, node, unit)
    if not node then return end
    self.old_nodes[f] = node
    for i, variable in ipairs(node.upvalues) do
      local id = debug.upvalueid(f, i)
      local uses = self.old_uses[id]
      if not uses then
        uses = {}
        self.old_uses[id] = uses
        if self:is_single(variable) then
          local by_name = self.old_variables[unit.source]
          by_name[variable.name] = by_name[variable.name] or {}
          local found = by_name[variable.name]
          if not found[variable] then
            found[variable] = true
            found[#found + 1] = { f = f, index = i, variable = variable }
          end
          local _, value = debug.getupvalue(f, i)
          if type(value) == "table" then self.named_old[value] = true end
        end
      end
      uses[#uses + 1] = { f, i }
    end
  end, TABLE_LIMIT, LIMIT)
end

-- Whether a variable has one cell, and is known by its name.
function Join:is_single(variable) return variable.level == 0 and not variable.in_loop end

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

local function same_code(f, g)
  local one, other = util.funcinfo(f), util.funcinfo(g)
  return one.proto == other.proto and one.addr == other.addr and one.ffid == other.ffid
end

-- Whether code assigns upvalue `index` (from 0) of a function or prototype, itself. Of what it
-- contains nothing is known, so that any assignment there counts.
local function assigns(prototype, index)
  for at = 1, math.huge do
    local word = util.funcbc(prototype, at)
    if not word then break end
    local code = word % 256
    if (index == nil or math.floor(word / 256) % 256 == index) and (code == opcode.USETV
      or code == opcode.USETS or code == opcode.USETN or code == opcode.USETP) then
      return true
    end
  end
  for i = 1, math.huge do
    local constant = util.funck(prototype, -i)
    if constant == nil then return false end
    if type(constant) == "proto" and assigns(constant) then return true end
  end
end

-- Whether a factory of another file made both functions, and what it made holds state: a table
-- or userdata of its own, or a number that it changes.
local function is_kept_product(f, old)
  if f == old or not same_code(f, old) then return false end
  local is_native = util.funcinfo(f).proto == nil
  for i = 1, math.huge do
    local name, value = debug.getupvalue(f, i)
    if not name then return false end
    local _, old_value = debug.getupvalue(old, i)
    if is_scalar(value) or value == nil then
      if is_native or assigns(f, i - 1) then return true end
    elseif type(value) ~= "function" and not rawequal(value, old_value) then
      return true
    end
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

-- Whether a table has functions: a class, or a table of handlers.
local function has_code(object)
  for key, value in next, object do
    if type(value) == "function" or METAMETHODS[key] then return true end
  end
  return false
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

function Join:decide(cell, found)
  local variable = cell.variable
  local _, old_value = debug.getupvalue(found.f, found.index)
  local is_new = self:takes_new(variable.name, cell.value, variable.assigned, old_value,
    found.variable.assigned)
  cell.decided = true
  if not is_new then cell.old = found end
  self:pair_values(variable.name, cell.value, old_value, is_new, cell.unit)
end

function Join:problem(unit, line, ...)
  local what = (...):format(select(2, ...))
  self.problems[#self.problems + 1] = ("%s:%d: %s"):format(unit.file, line, what)
end

-- Variables of one cell, by name.
function Join:join_names()
  local by_name = {} -- unit -> name -> cell
  local late = {}
  for _, cell in ipairs(self.cell_list) do
    local variable, unit = cell.variable, cell.unit
    if self:is_single(variable) then
      by_name[unit] = by_name[unit] or {}
      local other = by_name[unit][variable.name]
      if other then
        local first, second = other.variable.line, variable.line
        if first > second then first, second = second, first end
        self:problem(unit, second, "functions use this local %q and another one of that name, " ..
          "of line %d: a reload can't tell them apart, rename one", variable.name, first)
      else
        by_name[unit][variable.name] = cell
        local old = self.old_variables[unit.source]
        local found = old and old[variable.name]
        if found and #found > 1 then
          table.sort(found, function(a, b) return a.variable.line < b.variable.line end)
        end
        if found and #found > 1 and not self:takes_new(variable.name, cell.value, variable.assigned,
          {}, true) then
          self:problem(unit, found[2].variable.line, "in the running version of this file " ..
            "functions use this local %q and another one of that name, of line %d: the new one " ..
            "can't be joined", variable.name, found[1].variable.line)
        elseif found and is_upper_case(variable.name) then
          late[#late + 1] = { cell, found[1] }
        elseif found then
          self:decide(cell, found[1])
          local _, old_value = debug.getupvalue(found[1].f, found[1].index)
          if type(cell.value) == "function" and type(old_value) == "function" then
            self.counterpart[old_value] = cell.value
          end
        end
        if not found or #found == 1 then cell.decided = true end
      end
    end
  end
  for _, entry in ipairs(late) do self:decide(entry[1], entry[2]) end
end

-- Joins the variables of many cells that two functions of one place capture.
function Join:pair_functions(old, new)
  if old == new or self.done[new] then return end
  self.done[new] = true
  local old_node, new_node = self:old_node(old), self.new_nodes[new]
  if old_node and new_node then
    for i, variable in ipairs(new_node.upvalues) do
      local cell = self.cells[debug.upvalueid(new, i)]
      for j, old_variable in ipairs(old_node.upvalues) do
        if not cell.decided and variable.name == old_variable.name then
          self:decide(cell, { f = old, index = j, variable = old_variable })
        end
      end
    end
  elseif not new_node and same_code(old, new) then -- what may be wrapped around ours
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
--   "state"               see above
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

-- Whether two tables in the same place of two joined ones are to be joined themselves.
function Join:nests(old, new)
  return type(old) == "table" and type(new) == "table" and self.fresh[new]
    and not self.named[new] and not self.named_old[old] and not self.loaded[old]
end

-- The node of a function of the old text; nil of others.
function Join:old_node(f) return self.old_nodes[f] or (find_node(self.old_units, f)) end

-- Whether the old file itself, not a function of it, made this function.
function Join:is_static(f)
  local node = type(f) == "function" and self:old_node(f)
  return node and node.depth == 1
end

function Join:set(object, key, value)
  self:add { "set", object, key, value }
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

-- What the new text wrote into its environment.
function Join:join_globals(unit)
  local env, assigned, was_assigned = self.old.env, {}, {}
  for _, each in ipairs(self.new_units) do
    for name in pairs(each.assigned_globals) do assigned[name] = true end
  end
  for _, each in ipairs(self.old_units) do
    for name in pairs(each.assigned_globals) do was_assigned[name] = true end
  end
  for name, value in next, self.new.env do
    local old_value = rawget(env, name)
    if old_value == nil then
      if not was_assigned[name] then self:set(env, name, value) end
    elseif not rawequal(value, self.new.env) then -- its _G
      local is_new = self:takes_new(name, value, assigned[name], old_value, was_assigned[name])
      if is_new then self:set(env, name, value) end
      self:pair_values(name, value, old_value, is_new, unit)
    end
  end
end

-- Planning -------------------------------------------------------------------------------------

function Join:add(step) self.steps[#self.steps + 1] = step end

function Join:mark_existing()
  local function mark(set, value)
    if type(value) == "table" or type(value) == "function" then set[value] = true end
  end
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
  for _, module in pairs(self.new.modules) do
    mark(self.required, module.value)
  end
end

function Join:analyse()
  self.unit = analyse(self.new.main)
  self.unit.old = analyse(self.old.main)
  self.new_units, self.old_units = { self.unit, env = self.new.env }, { self.unit.old }
  for name, module in pairs(self.new.modules) do
    local unit = analyse(module.main)
    local old = self.old.modules[name]
    module.unit = unit
    self.new_units[#self.new_units + 1] = unit
    if old then
      unit.old = analyse(old.main)
      self.old_units[#self.old_units + 1] = unit.old
    end
  end
  for _, unit in ipairs(self.old_units) do self.old_variables[unit.source] = {} end
end

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

-- Steps that have what stays of the new tables refer to the old ones that new ones became.
function Join:add_references()
  local function now(value)
    if type(value) ~= "table" then return value end
    return self.canonical[value] or value
  end
  for _, step in ipairs(self.steps) do
    if step[1] == "set" then step[4] = now(step[4]) end
    if step[1] == "meta" then step[3] = now(step[3]) end
  end
  for object in pairs(self.fresh) do
    if not self.canonical[object] then
      for key, value in next, object do
        if not rawequal(now(key), key) then
          self:set(object, key, nil)
          self:set(object, now(key), now(value))
        elseif not rawequal(now(value), value) then
          self:set(object, key, now(value))
        end
      end
      local meta = debug.getmetatable(object)
      if meta and not rawequal(now(meta), meta) then self:add { "meta", object, now(meta) } end
    end
  end
end

-- An environment for running the new text of a script whose environment is `env`: it reads
-- through to `env`, and what is written stays in it.
---@param env table
---@return table scratch
function reload.scratch(env)
  local meta = debug.getmetatable(env)
  local guard = meta and rawget(meta, "__newindex")
  local scratch = setmetatable({}, {
    __index = env,
    __newindex = type(guard) == "function" and guard or nil,
  })
  if rawequal(rawget(env, "_G"), env) then rawset(scratch, "_G", scratch) end
  return scratch
end

-- The names of the functions of a table of commands, in order.
local function command_names(commands, prefix)
  local names = {}
  for name, value in next, commands do
    if type(name) == "string" and type(value) == "function" then
      names[#names + 1] = prefix .. name
    end
  end
  table.sort(names)
  return names
end

-- Those of the old names that the new ones don't have.
local function missing_of(old, new)
  local there, missing = {}, {}
  for _, name in ipairs(new) do there[name] = true end
  for _, name in ipairs(old) do
    if not there[name] then missing[#missing + 1] = name end
  end
  return missing
end

-- Checks whether the new text can be joined to the old. Changes nothing that runs. Both are
--   main      the function that the text is, or that of any other load of it
--   env       its environment; of the new one what scratch() gave
--   commands  the table that it returned
--   client    the second one, or nil
--   modules   nil, or name -> {main, value} of the game's modules; in the new one those alone
--             whose text was run again
-- and the new one has besides
--   loaded    nil, or name -> value of everything that require can give, the engine's too
---@param old table
---@param new table
---@return table? plan
---@return string[]? problems "file:line: what", when there is no plan
function reload.plan(old, new)
  local join = setmetatable({
    old = { main = old.main, env = old.env, commands = old.commands, client = old.client,
      modules = old.modules or {} },
    new = { main = new.main, env = new.env, commands = new.commands, client = new.client,
      modules = {}, loaded = new.loaded or {} },
    existing = {},      -- tables that were there before the new text ran
    loaded = {},        -- those of other files: they are looked into by nobody
    required = {},      -- values that require gave
    fresh = {},         -- tables that the new text made
    named = {},         -- new tables that are the value of a variable of one cell
    named_old = {},     -- the same for old ones
    paired_old = {},    -- old tables that get new entries
    canonical = {},     -- new table -> the old one that takes its place
    replaced = {},      -- old table -> the new one that a variable holds instead
    counterpart = {},   -- old function -> the new one, by the variable that holds it
    cells = {},         -- id -> {variable, unit, value, uses, decided, old}
    cell_list = {},
    new_functions = {}, new_nodes = {}, old_nodes = {},
    old_uses = {},      -- id of an old cell -> {{function, index}}
    old_variables = {}, -- source -> name -> {{f, index, variable}}
    done = {},          -- what was paired already
    queue = {},         -- of tables to be merged
    steps = {},         -- what apply does
    problems = {},
  }, Join)
  for name, module in pairs(new.modules or {}) do
    join.new.modules[name] = { main = module.main, value = module.value }
  end

  opcode = find_opcodes()
  join:analyse()
  local function check(value, which)
    if type(value) ~= "table" then
      join:problem(join.unit, 1, "the script returns %s as its table of %s", type(value), which)
    end
  end
  check(new.commands, "commands")
  if new.client ~= nil then check(new.client, "client commands") end
  if #join.problems > 0 then return nil, join.problems end
  -- A file that is half saved, or the wrong one: nobody means to make a running service deaf.
  local had, has = command_names(old.commands, ""), command_names(new.commands, "")
  if #had > 0 and #has == 0 then
    join:problem(join.unit, 1, "the script has no commands any more, and had %s",
      table.concat(had, ", "))
    return nil, join.problems
  end
  local vanished = missing_of(had, has)
  for _, name in ipairs(missing_of(command_names(old.client or {}, "client "),
    command_names(new.client or {}, "client "))) do
    vanished[#vanished + 1] = name
  end

  join:mark_existing()
  join:walk_new()
  join:walk_old()
  join.named[new.commands], join.named_old[old.commands] = true, true
  join:pair_tables(old.commands, new.commands, "commands", join.unit)
  if old.client then
    local client = new.client or {}
    join.fresh[client], join.named[client], join.named_old[old.client] = true, true, true
    join:pair_tables(old.client, client, "commands", join.unit)
  end
  for name, module in pairs(join.new.modules) do
    local before = join.old.modules[name]
    if before and type(before.value) == "table" and type(module.value) == "table" then
      join.named[module.value], join.named_old[before.value] = true, true
      join:pair_tables(before.value, module.value, "module", module.unit)
    elseif before and type(before.value) == "function" and type(module.value) == "function" then
      join:pair_functions(before.value, module.value)
    end
  end
  join:join_names()
  if #join.problems > 0 then return nil, join.problems end
  join:join_globals(join.unit)
  join:merge_tables()
  join:add_cells()
  join:add_references()

  local result = { commands = join.canonical[new.commands] or new.commands, modules = {} }
  result.client = new.client and (join.canonical[new.client] or new.client)
  if #vanished > 0 then result.vanished = table.concat(vanished, ", ") end
  for name, module in pairs(join.new.modules) do
    local value = module.value
    result.modules[name] = type(value) == "table" and join.canonical[value] or value
  end
  return {
    steps = join.steps, undo = {}, scratch = new.env, env = old.env, result = result,
    before = { commands = old.commands, client = old.client },
  }
end

-- Applying -------------------------------------------------------------------------------------

local apply_step = {
  env = function(_, f, env) debug.setfenv(f, env) end,
  join = function(_, f, index, other, other_index)
    debug.upvaluejoin(f, index, other, other_index)
  end,
  value = function(_, f, index, value) debug.setupvalue(f, index, value) end,
  copy = function(_, f, index, other, other_index)
    local _, value = debug.getupvalue(other, other_index)
    debug.setupvalue(f, index, value)
  end,
  set = function(plan, object, key, value)
    plan.undo[#plan.undo + 1] = { "set", object, key, rawget(object, key), value }
    rawset(object, key, value)
  end,
  meta = function(plan, object, meta)
    plan.undo[#plan.undo + 1] = { "meta", object, debug.getmetatable(object), meta }
    debug.setmetatable(object, meta)
  end,
}

-- Carries a plan out.
---@param plan table
---@return table now the tables that count from now on: {commands, client, modules = {name = value},
---vanished = names of commands that there were and aren't, or nil}
function reload.apply(plan)
  for _, step in ipairs(plan.steps) do apply_step[step[1]](plan, unpack(step, 2, 5)) end
  -- A function that was not found, in a coroutine for example, sees the real environment.
  for key in next, plan.scratch do rawset(plan.scratch, key, nil) end
  debug.setmetatable(plan.scratch, { __index = plan.env, __newindex = plan.env })
  flush()
  return plan.result
end

-- Takes an applied plan back: the functions, constants and metatables of the old text are in
-- their places again, except where something else has been put since. State stays as it is.
---@param plan table
---@return table before {commands, client} as before the plan
function reload.undo(plan)
  for i = #plan.undo, 1, -1 do
    local kind, object = plan.undo[i][1], plan.undo[i][2]
    if kind == "set" then
      local _, _, key, before, after = unpack(plan.undo[i], 1, 5)
      if rawequal(rawget(object, key), after) then rawset(object, key, before) end
    elseif rawequal(debug.getmetatable(object), plan.undo[i][4]) then
      debug.setmetatable(object, plan.undo[i][3])
    end
  end
  plan.undo = {}
  flush()
  return plan.before
end

-- Ends a call with privileges: passes on what came of it.
local function leave(ok, ...)
  debug, util, flush, dump = nil, nil, nil, nil
  if not ok then error((...), 0) end
  return ...
end

-- What the host calls. The privileges are there during its calls only, since every service may
-- require this file: it gets functions that can do what it can do itself.
---@param privileged table {debug, util = jit.util, flush = jit.flush, dump = string.dump}
---@return table reload
return function(privileged)
  local api = {}
  for name, f in pairs(reload) do
    api[name] = function(...)
      debug, util = privileged.debug, privileged.util
      flush, dump = privileged.flush, privileged.dump
      return leave(pcall(f, ...))
    end
  end
  return api
end
