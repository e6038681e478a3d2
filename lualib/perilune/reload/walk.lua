-- Goes to the functions of scripts, through the values that refer to them.
--
-- A part of perilune.reload, which says who may load it.

local util = require "jit.util"

local bytecode = require "perilune.reload.bytecode"

---The node and unit of a function of the scripts; nil for functions of other files.
---@param units perilune.reload.Unit[] with `env`, if only functions that run in it count
---@param f function
---@return perilune.reload.Node? node
---@return perilune.reload.Unit? unit
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
      local node = unit.by_signature[bytecode.signature(f)]
      if node then return node, unit end
    end
  end
end

-- Queues ---------------------------------------------------------------------------------------

local function new_queue() return { first = 1, last = 0 } end

local function put(queue, value)
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

-- Walks ----------------------------------------------------------------------------------------

---@class perilune.reload.Walk
---@field roots any[] where it begins
---@field units perilune.reload.Unit[] the scripts
---@field enter fun(object: table): boolean whether to look into a table
---@field on_function fun(f: function, node: perilune.reload.Node?, unit: perilune.reload.Unit?)
---@field table_limit integer? how many entries of one table are looked at; default: all
---@field limit integer? how many entries of tables in tables; default: all
local Walk = {}
Walk.__index = Walk

function Walk:_add(value, queue)
  local kind = type(value)
  if (kind ~= "table" and kind ~= "function") or self._seen[value] then return end
  if kind == "table" and not self.enter(value) then return end
  self._seen[value] = true
  put(kind == "function" and self._functions or queue, value)
end

function Walk:_visit_function(f)
  local node, unit = find_node(self.units, f)
  self.on_function(f, node, unit)
  for i = 1, math.huge do
    local name, value = debug.getupvalue(f, i)
    if not name then break end
    -- Another file's closure may carry functions of ours; its tables are its own affair.
    if node or type(value) == "function" then self:_add(value, self._captured) end
  end
end

-- Looks at no more than `most` entries. Returns at how many it looked.
function Walk:_visit_table(object, most)
  local count = 0
  for key, value in next, object do
    if count >= most then break end
    count = count + 1
    self:_add(key, self._nested)
    self:_add(value, self._nested)
  end
  self:_add(debug.getmetatable(object), self._captured)
  return count
end

---Goes from the roots to all functions: functions first, then tables that functions of the
---scripts capture, metatables and roots, then tables in tables, breadth first.
---@param options perilune.reload.Walk
local function walk(options)
  local self = setmetatable(options, Walk)
  self._seen = {}
  self._functions, self._captured, self._nested = new_queue(), new_queue(), new_queue()
  local table_limit, limit = options.table_limit or math.huge, options.limit or math.huge
  for _, root in ipairs(options.roots) do self:_add(root, self._captured) end
  while true do
    local value = take(self._functions) or take(self._captured)
    if type(value) == "function" then
      self:_visit_function(value)
    elseif value then
      self:_visit_table(value, table_limit)
    else
      value = take(self._nested)
      if not value then break end
      limit = limit - self:_visit_table(value, math.min(table_limit, limit))
    end
  end
end

return { walk = walk, find_node = find_node }
