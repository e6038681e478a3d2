-- What the bytecode of a text says: which functions it has, which locals they capture and assign.
--
-- A part of perilune.reload, which says who may load it.

local util = require "jit.util"

local byte, find, sub, floor = string.byte, string.find, string.sub, math.floor

-- Instructions ---------------------------------------------------------------------------------

-- The numbers of the instructions that matter, from the bytecode of samples: name -> number.
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
  return {
    USETV = instruction(set_value, 1), USETS = instruction(set_string, 1),
    USETN = instruction(set_number, 1), USETP = instruction(set_primitive, 1),
    FNEW = instruction(make, 1), TSETS = instruction(set_field, 1),
    KSTR = instruction(get_string, 1), GSET = instruction(set_global, 2),
  }
end

-- The numbers of those that jump backward: the ends of loops.
local function find_loop_ends()
  local other
  local function loops(x)
    for _ = 1, x do other = 1 end
    for _ in x do other = 2 end
    while x do other = 3 end
    repeat other = 4 until x
    return other
  end
  local ends = {}
  for at = 1, math.huge do
    local word, mode = util.funcbc(loops, at)
    if not word then return ends end
    -- Mode 13 of operand D: a jump.
    if floor(mode / 128) % 16 == 13 and floor(word / 65536) % 65536 < 0x8000 then
      ends[word % 256] = true
    end
  end
end

local opcode, ends_loop = find_opcodes(), find_loop_ends()

-- Those that assign an upvalue.
local assigns_upvalue = {
  [opcode.USETV] = true, [opcode.USETS] = true, [opcode.USETN] = true, [opcode.USETP] = true,
}

---Whether code assigns an upvalue, itself. Of the functions in it nothing is known, so that any
---assignment there counts.
---@param prototype any a function or prototype
---@param index integer? from 0; default: any
---@return boolean
local function assigns(prototype, index)
  for at = 1, math.huge do
    local word = util.funcbc(prototype, at)
    if not word then break end
    if assigns_upvalue[word % 256] and (index == nil or floor(word / 256) % 256 == index) then
      return true
    end
  end
  for i = 1, math.huge do
    local constant = util.funck(prototype, -i)
    if constant == nil then return false end
    if type(constant) == "proto" and assigns(constant) then return true end
  end
end

---Whether two functions are closures of the same code, in Lua or in C.
---@param f function
---@param g function
---@return boolean
local function is_same_code(f, g)
  local one, other = util.funcinfo(f), util.funcinfo(g)
  return one.proto == other.proto and one.addr == other.addr and one.ffid == other.ffid
end

---What tells the functions of a text apart: different loads of it have different prototypes.
---@param prototype any a function or prototype
---@return string
local function signature(prototype)
  local info = util.funcinfo(prototype)
  local parts = { info.linedefined, info.lastlinedefined, info.bytecodes, info.params }
  for i = 0, info.upvalues - 1 do parts[#parts + 1] = util.funcuvname(prototype, i) end
  return table.concat(parts, ":")
end

-- A dump, as string.dump writes it -------------------------------------------------------------

local function read_uleb128(dump, at)
  local value, unit = 0, 1
  while true do
    local part = byte(dump, at)
    at = at + 1
    value = value + part % 128 * unit
    if part < 128 then return value, at end
    unit = unit * 128
  end
end

-- Where the first prototype is.
local function skip_header(dump)
  local flags, at = read_uleb128(dump, 5)
  if sub(dump, 1, 4) ~= "\27LJ\2" or flags % 2 ~= 0 then error("unknown kind of bytecode") end
  if floor(flags / 2) % 2 == 1 then return at end -- without the name of the source
  local size
  size, at = read_uleb128(dump, at)
  return at + size
end

-- One prototype: where its instructions and variables are, what its upvalues are; and where the
-- next one is.
local function read_prototype(dump, at)
  local size
  size, at = read_uleb128(dump, at)
  local stop = at + size
  local upvalue_count = byte(dump, at + 3)
  local count, debug_size, line_count, _
  _, at = read_uleb128(dump, at + 4)
  _, at = read_uleb128(dump, at)
  count, at = read_uleb128(dump, at)
  debug_size, at = read_uleb128(dump, at)
  if debug_size == 0 then error("reload needs scripts with debug information") end
  local first_line
  first_line, at = read_uleb128(dump, at)
  line_count, at = read_uleb128(dump, at)
  local upvalues = {}
  for i = 1, upvalue_count do
    local low, high = byte(dump, at + count * 4 + i * 2 - 2, at + count * 4 + i * 2 - 1)
    upvalues[i] = low + high * 256
  end
  return {
    dump = dump, code = at, count = count, upvalues = upvalues, first_line = first_line,
    lines = stop - debug_size, line_size = line_count < 256 and 1 or line_count < 65536 and 2 or 4,
  }, stop
end

-- Instruction `at` (from 1): its number, A and D.
local function read_instruction(record, at)
  local code, a, low, high = byte(record.dump, record.code + at * 4 - 4, record.code + at * 4 - 1)
  return code, a, low + high * 256
end

local function line_at(record, at)
  if at < 1 then return record.first_line end
  local from = record.lines + (at - 1) * record.line_size
  local line, unit = 0, 1
  for i = from, from + record.line_size - 1 do
    line = line + byte(record.dump, i) * unit
    unit = unit * 256
  end
  return record.first_line + line
end

-- The local variables of a prototype in the order of declaration: {name, first, last} with the
-- instructions between which they live.
local function read_locals(record)
  local dump = record.dump
  local at = record.lines + record.count * record.line_size
  for _ = 1, #record.upvalues do at = find(dump, "\0", at, true) + 1 end
  local locals, start = {}, 0
  while byte(dump, at) ~= 0 do
    local name = "(for)"
    if byte(dump, at) >= 7 then
      local stop = find(dump, "\0", at, true)
      name = sub(dump, at, stop - 1)
      at = stop
    end
    local delta, length
    delta, at = read_uleb128(dump, at + 1)
    length, at = read_uleb128(dump, at)
    start = start + delta
    locals[#locals + 1] = { name = name, first = start, last = start + length }
  end
  return locals
end

-- The loops of a prototype: {first, last}, instructions.
local function read_loops(record)
  local loops = {}
  for at = 1, record.count do
    local code, _, d = read_instruction(record, at)
    if ends_loop[code] and d < 0x8000 then
      loops[#loops + 1] = { first = at + d - 0x7fff, last = at }
    end
  end
  return loops
end

-- What a text says ------------------------------------------------------------------------------

---@class perilune.reload.Unit
---@field source string the name of the text
---@field file string the same without the mark before it
---@field by_prototype table<any, perilune.reload.Node> its functions
---@field by_signature table<string, perilune.reload.Node>
---@field set_keys table<string, true> strings that it uses as keys
---@field own_keys table<string, true> those of them that the file uses, outside of its functions
---@field assigned_globals table<string, true> names of globals that functions assign
---@field old perilune.reload.Unit? of a new text: the old one

---@class perilune.reload.Node
---@field depth integer 0: the file, 1: a function in it, ...
---@field upvalues perilune.reload.Variable[] in the order of the function's

---A local that functions capture.
---@class perilune.reload.Variable
---@field name string
---@field line integer
---@field single boolean declared once while the file runs: it has one cell, and its name is known
---@field assigned boolean by a function
---@field constant boolean compiled code takes it for one

local function note_key(unit, node, key)
  unit.set_keys[key] = true
  if node.depth == 0 then unit.own_keys[key] = true end
end

-- The tree of functions below a prototype, and where the next one is in the dump. There children
-- come before their parent, in the order of the parent's constants.
local function read_tree(unit, prototype, depth, dump, at)
  local node = { prototype = prototype, depth = depth, children = {}, upvalues = {} }
  for i = 1, math.huge do
    local constant = util.funck(prototype, -i)
    local kind = type(constant)
    if kind == "nil" then break end
    if kind == "proto" then
      node.children[i], at = read_tree(unit, constant, depth + 1, dump, at)
    elseif kind == "table" then
      for key, value in next, constant do
        if type(key) == "string" then note_key(unit, node, key) end
        if type(value) == "string" then note_key(unit, node, value) end
      end
    end
  end
  node.record, at = read_prototype(dump, at)
  return node, at
end

-- The variable that a local is, once some function captures it.
local function capture(node, declared)
  if not declared.variable then
    local in_loop = false
    for _, loop in ipairs(node.loops) do
      in_loop = in_loop or loop.first <= declared.first and declared.first <= loop.last
    end
    declared.variable = {
      name = declared.name, line = line_at(node.record, declared.first - 1),
      single = node.depth == 0 and not in_loop, assigned = false, constant = true,
    }
  end
  return declared.variable
end

-- The variable that is in a register when instruction `at` runs, which makes a function in `own`. A
-- `local function` captures itself, but is declared behind that instruction.
local function variable_in(node, register, at, own)
  local declared_until = register == own and at + 1 or at
  for _, declared in ipairs(node.locals) do
    if declared.first > declared_until then break end
    if at < declared.last then
      if register == 0 then return capture(node, declared) end
      register = register - 1
    end
  end
  error("reload: a register without a name")
end

local resolve

-- What instructions say of the function that they are in: by their number, from their place, A, D.
local effects = {
  [opcode.GSET] = function(unit, node, _, _, d)
    if node.depth == 0 then return end
    unit.assigned_globals[util.funck(node.prototype, -d - 1)] = true
  end,
  [opcode.TSETS] = function(unit, node, _, _, d)
    note_key(unit, node, util.funck(node.prototype, -(d % 256) - 1))
  end,
  [opcode.KSTR] = function(unit, node, _, _, d)
    if d < 256 then return end -- else a key may be too far for TSETS
    note_key(unit, node, util.funck(node.prototype, -d - 1))
  end,
  [opcode.FNEW] = function(unit, node, at, own, d)
    local child = node.children[d + 1]
    for i, reference in ipairs(child.record.upvalues) do
      local is_local = reference >= 0x8000
      local variable = is_local and variable_in(node, reference % 256, at, own)
        or node.upvalues[reference + 1]
      if is_local and reference % 0x8000 < 0x4000 then variable.constant = false end
      child.upvalues[i] = variable
    end
    resolve(unit, child)
  end,
}
for code in next, assigns_upvalue do
  effects[code] = function(_, node, _, a)
    if node.depth > 0 then node.upvalues[a + 1].assigned = true end
  end
end

-- Finds what a function and those in it capture and assign.
function resolve(unit, node)
  local record = node.record
  node.locals, node.loops = read_locals(record), read_loops(record)
  for at = 1, record.count do
    local code, a, d = read_instruction(record, at)
    local effect = effects[code]
    if effect then effect(unit, node, at, a, d) end
  end
  node.record, node.locals, node.loops = nil, nil, nil
  unit.by_prototype[node.prototype] = node
  unit.by_signature[signature(node.prototype)] = node
end

---What a text says.
---@param main function that the text is, or that of any other load of it
---@return perilune.reload.Unit
local function analyse(main)
  local info = util.funcinfo(main)
  local unit = {
    source = info.source, file = string.gsub(info.source, "^[@=]", ""), by_prototype = {},
    by_signature = {}, set_keys = {}, own_keys = {}, assigned_globals = {},
  }
  local dump = string.dump(main)
  local root = read_tree(unit, info.proto, 0, dump, skip_header(dump))
  for i = 1, #root.record.upvalues do -- none, unless somebody wrapped the text
    root.upvalues[i] = { name = util.funcuvname(main, i - 1), line = 0, single = false }
  end
  resolve(unit, root)
  return unit
end

return { analyse = analyse, assigns = assigns, is_same_code = is_same_code, signature = signature }
