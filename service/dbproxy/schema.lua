-- What may be in the database: tables with their columns and statements, declared by scripts
-- such as service/tables.lua. Names of tables, columns and statements that a caller sends are
-- looked up here and found or refused; all else that it sends is a parameter, checked against its
-- type. So no text of a caller is ever part of a statement.
--
--   return {
--     tables = {
--       hero = {
--         key = "uid", owner = "owner_epoch", updated = "updated_at",
--         columns = "uid u32, name text(32)?, bag json(65536)?, owner_epoch i64, updated_at i64",
--       },
--     },
--     statements = {
--       take_coins = {
--         "UPDATE purse SET coins = coins - :price WHERE uid = :uid AND coins >= :price",
--         parameters = "uid u32, price u32", touches = { purse = "uid" },
--       },
--     },
--   }
--
-- A column is "name type", with ? behind it where it may be NULL. Types: i8 i16 i32 i64 u8 u16 u32
-- u64 f64 bool; text(n) of n characters; bytes(n); json(n) and table(n), which are whole Lua tables
-- in n bytes, as JSON for others to read (numbers to 14 digits) or as perilune.codec packs them.
-- i64 and u64 beyond 2^53 are decimal strings; in SQLite a u64 is TEXT.
--
-- A table has a `key`, one column; `assigned = true` where the database gives new rows theirs;
-- `unique`, other columns that a row is found by; `owner`, a column that counts who has claimed the
-- row; `created` and `updated`, columns of seconds since 1970.
-- A statement is its text, or one for each dialect ({ sqlite = "...", mysql = "..." });
-- `parameters`; `touches`, the tables whose rows it writes, each with the parameter that is the
-- key; `rows`, the table whose columns it reads.
local codec = require "perilune.codec"
local crypto = require "perilune.crypto"
local json = require "cjson"
local packet = require "perilune.packet"

local schema = {}

local MAX_DEPTH = 60 -- of a table in a column: what messages carry, and a little less
local MAX_EXACT = 2 ^ 53
local NAME = "^[a-z][a-z0-9_]*$"
local MAX_NAME_BYTES = 64

---@class dbproxy.Column
---@field name string
---@field type string
---@field max integer? characters of text, bytes of others
---@field nullable boolean

---@class dbproxy.Table
---@field name string
---@field key string
---@field assigned boolean?
---@field unique table<string, boolean>
---@field owner string?
---@field created string?
---@field updated string?
---@field columns table<string, dbproxy.Column>
---@field order string[] their names
---@field shape string differs where columns do

---@class dbproxy.Statement
---@field name string
---@field sql string with ? for each value
---@field order string[] parameters as they come
---@field parameters table<string, dbproxy.Column>
---@field is_read boolean
---@field is_insert boolean
---@field touches table<string, string>
---@field rows dbproxy.Table?

-- ---- values ----

local INTEGERS = {
  i8 = { -128, 127 }, i16 = { -32768, 32767 }, i32 = { -2 ^ 31, 2 ^ 31 - 1 },
  u8 = { 0, 255 }, u16 = { 0, 65535 }, u32 = { 0, 2 ^ 32 - 1 },
  i64 = { -MAX_EXACT, MAX_EXACT }, u64 = { 0, MAX_EXACT },
}
local SIZED = { text = true, bytes = true, json = true, table = true }

-- Of a decimal string that has so many digits, without its sign and zeros in front.
local LARGEST = { i64 = "9223372036854775807", u64 = "18446744073709551615" }

local function is_decimal(text, kind)
  local sign, digits = text:match "^(%-?)(%d+)$"
  if not digits or (sign == "-" and kind == "u64") then return false end
  local largest = sign == "-" and "9223372036854775808" or LARGEST[kind]
  return digits:find "^[1-9]" and #digits <= #largest
    and (#digits < #largest or digits <= largest) or text == "0"
end

local function refuse(path, ...) error(path .. ": " .. string.format(...), 0) end

local encoders, decoders = {}, {}

for kind, range in pairs(INTEGERS) do
  encoders[kind] = function(column, value, path)
    if type(value) == "string" and LARGEST[kind] and is_decimal(value, kind) then return value end
    if type(value) ~= "number" or value % 1 ~= 0 or value < range[1] or value > range[2] then
      refuse(path, "an integer from %.0f to %.0f expected, got %s", range[1], range[2],
        tostring(value))
    end
    return value
  end
end

function encoders.f64(_, value, path)
  if type(value) ~= "number" or value ~= value or value == math.huge or value == -math.huge then
    refuse(path, "a finite number expected, got %s", tostring(value))
  end
  return value
end

function encoders.bool(_, value, path)
  if type(value) ~= "boolean" then refuse(path, "a boolean expected, got %s", type(value)) end
  return value and 1 or 0
end

local function check_string(value, path)
  if type(value) ~= "string" then refuse(path, "a string expected, got %s", type(value)) end
end

local function check_size(column, value, path)
  if #value > column.max then
    refuse(path, "%d bytes, and %d is the most", #value, column.max)
  end
  return value
end

function encoders.text(column, value, path)
  check_string(value, path)
  if not packet.is_utf8(value) then refuse(path, "is not UTF-8") end
  if #value > column.max then
    local _, characters = value:gsub("[^\128-\191]", "")
    if characters > column.max then
      refuse(path, "%d characters, and %d is the most", characters, column.max)
    end
  end
  return value
end

function encoders.bytes(column, value, path)
  check_string(value, path)
  return check_size(column, value, path)
end

-- Raises for what JSON can't give back as it was.
local function check_json(value, path, depth)
  local kind = type(value)
  if kind == "string" then
    if not packet.is_utf8(value) then refuse(path, "is not UTF-8") end
  elseif kind == "number" then
    encoders.f64(nil, value, path)
  elseif kind == "table" then
    if depth > MAX_DEPTH then refuse(path, "tables are more than %d deep", MAX_DEPTH) end
    local count, length = 0, #value
    for key, item in pairs(value) do
      if type(key) ~= (length > 0 and "number" or "string") then
        refuse(path, "JSON has lists without gaps, and tables whose keys are strings")
      end
      count = count + 1
      check_json(item, path .. "." .. tostring(key), depth + 1)
    end
    if length > 0 and count ~= length then refuse(path, "a list has a gap") end
  elseif kind ~= "boolean" then
    refuse(path, "JSON has no %s", kind)
  end
end

local function check_table(value, path)
  if type(value) ~= "table" then refuse(path, "a table expected, got %s", type(value)) end
end

function encoders.json(column, value, path)
  check_table(value, path)
  check_json(value, path, 1)
  return check_size(column, json.encode(value), path)
end

function encoders.table(column, value, path)
  check_table(value, path)
  local ok, packed = pcall(codec.pack, value)
  if not ok then refuse(path, "%s", packed) end
  return check_size(column, packed, path)
end

-- As a number where that is exact, whatever the database keeps it as.
local function decode_large(value)
  local number = tonumber(value)
  return math.abs(number) <= MAX_EXACT and number or value
end

decoders.i64, decoders.u64 = decode_large, decode_large

function decoders.bool(value) return value ~= 0 end

local function without_nulls(value)
  if type(value) ~= "table" then return value end
  for key, item in pairs(value) do
    if item == json.null then value[key] = nil else without_nulls(item) end
  end
  return value
end

function decoders.json(value) return without_nulls(json.decode(value)) end

function decoders.table(value) return (codec.unpack(value)) end

---A value as the database gets it. Raises for one that doesn't fit.
---@param column dbproxy.Column
---@param value any
---@param path string for messages
---@return any encoded a number or a string
function schema.encode(column, value, path) return encoders[column.type](column, value, path) end

---The value of what the database has. Raises for what nobody can have written here.
---@param column dbproxy.Column
---@param encoded any
---@return any value
function schema.decode(column, encoded)
  local decode = decoders[column.type]
  if encoded == nil or not decode then return encoded end
  return decode(encoded)
end

-- ---- declarations ----

local function check_name(name, path)
  if type(name) ~= "string" or not name:find(NAME) or #name > MAX_NAME_BYTES then
    refuse(path, "a name has small letters, digits and _, got %s", tostring(name))
  end
end

-- "uid u32, name text(32)?" -> columns by name, and their names in order
local function parse_columns(text, path)
  if type(text) ~= "string" then refuse(path, "columns are a string") end
  local columns, order = {}, {}
  if text:match "^%s*$" then return columns, order end
  for part in (text .. ","):gmatch "%s*(.-)%s*," do
    local name, kind, max, optional = part:match "^([%w_]+)%s+(%w+)%(?(%d*)%)?(%??)$"
    if not name then refuse(path, "%q isn't \"name type\"", part) end
    check_name(name, path)
    if columns[name] then refuse(path, "there are two %s", name) end
    if not INTEGERS[kind] and kind ~= "f64" and kind ~= "bool" and not SIZED[kind] then
      refuse(path, "%s: unknown type %q", name, kind)
    end
    if (max ~= "") ~= (SIZED[kind] == true) then
      refuse(path, "%s: text, bytes, json and table have a size: %s(100)", name, kind)
    end
    columns[name] = { name = name, type = kind, max = tonumber(max), nullable = optional == "?" }
    order[#order + 1] = name
  end
  return columns, order
end

local function check_keys(declared, allowed, path)
  if type(declared) ~= "table" then refuse(path, "a table expected") end
  for key in pairs(declared) do
    if not allowed[key] then refuse(path, "unknown key %s", tostring(key)) end
  end
end

local TABLE_KEYS = {
  key = true, columns = true, assigned = true, unique = true, owner = true, created = true,
  updated = true,
}

local function compile_table(name, declared)
  check_name(name, "a table")
  local path = "table " .. name
  check_keys(declared, TABLE_KEYS, path)
  local columns, order = parse_columns(declared.columns, path)
  for _, role in ipairs { "key", "owner", "created", "updated" } do
    local column = declared[role]
    if (role == "key" or column) and not columns[column] then
      refuse(path, "%s: there is no column %s", role, tostring(column))
    end
    if column and role ~= "key" and not INTEGERS[columns[column].type] then
      refuse(path, "%s is an integer", role)
    end
  end
  if columns[declared.key].nullable then refuse(path, "the key can't be NULL") end
  local unique = {}
  for _, column in ipairs(declared.unique or {}) do
    if not columns[column] then refuse(path, "unique: there is no column %s", tostring(column)) end
    unique[column] = true
  end
  return {
    name = name, key = declared.key, assigned = declared.assigned, unique = unique,
    owner = declared.owner, created = declared.created, updated = declared.updated,
    columns = columns, order = order, shape = crypto.sha256(declared.columns),
  }
end

-- The text with ? for each :name, and the names in their order.
local function compile_sql(text, parameters, path)
  local parts, order, at = {}, {}, 1
  while at <= #text do
    local last
    local quote, name = text:match("^[\"'`]", at), text:match("^:([%a_][%w_]*)", at)
    if quote then
      last = text:find(quote, at + 1, true)
      if not last then refuse(path, "a %s isn't closed", quote) end
      if text:sub(at, last):find("\\", 1, true) then
        refuse(path, "\\ within quotes is read differently by databases")
      end
      parts[#parts + 1] = text:sub(at, last)
    elseif name then
      if not parameters[name] then refuse(path, "there is no parameter %s", name) end
      last = at + #name
      parts[#parts + 1] = "?"
      order[#order + 1] = name
    else
      local plain = text:match("^[^\"'`:?;#%-/]+", at) or text:sub(at, at)
      last = at + #plain - 1
      if plain == "?" or plain == ";" or plain == "#" or text:find("^%-%-", at)
          or text:find("^/%*", at) then
        refuse(path, "%s: values are :names, and there are no comments and no second statement",
          text:sub(at, at + 1))
      end
      parts[#parts + 1] = plain
    end
    at = last + 1
  end
  return table.concat(parts), order
end

local STATEMENT_KEYS = {
  [1] = true, sqlite = true, mysql = true, parameters = true, touches = true, rows = true,
}

local function compile_statement(self, name, declared, dialect)
  check_name(name, "a statement")
  local path = "statement " .. name
  check_keys(declared, STATEMENT_KEYS, path)
  local text = declared[dialect] or declared[1]
  if type(text) ~= "string" then refuse(path, "it has no text for %s", dialect) end
  local parameters = parse_columns(declared.parameters or "", path)
  local sql, order = compile_sql(text, parameters, path)
  local verb = (sql:match "^%s*(%a*)"):upper()
  local is_read = verb == "SELECT"
  if not is_read and not declared.touches then
    refuse(path, "touches: which tables it writes, and by which parameter as their key; {} for none"
      .. " that is loaded")
  end
  for touched, parameter in pairs(declared.touches or {}) do
    if not self.tables[touched] or not parameters[parameter] then
      refuse(path, "touches: there is no table %s or no parameter %s", touched,
        tostring(parameter))
    end
  end
  if declared.rows and not self.tables[declared.rows] then
    refuse(path, "rows: there is no table %s", tostring(declared.rows))
  end
  return {
    name = name, sql = sql, order = order, parameters = parameters, is_read = is_read,
    is_insert = verb == "INSERT",
    touches = declared.touches or {}, rows = self.tables[declared.rows],
  }
end

-- The declarations of all scripts, each of which says what others don't.
local function gather(scripts, part)
  local all, from = {}, {}
  for script, declaration in pairs(scripts) do
    for name, declared in pairs(declaration[part] or {}) do
      if all[name] then refuse(part, "%s is in %s and in %s", name, from[name], script) end
      all[name], from[name] = declared, script
    end
  end
  return all
end

---@class dbproxy.Schema
---@field tables table<string, dbproxy.Table>
---@field statements table<string, dbproxy.Statement>

---Compiles declarations. Raises for one that is wrong, saying where.
---@param scripts table<string, table> declarations by the name of the script
---@param dialect "sqlite"|"mysql"
---@return dbproxy.Schema
function schema.compile(scripts, dialect)
  local self = { tables = {}, statements = {} }
  for script, declaration in pairs(scripts) do
    check_keys(declaration, { tables = true, statements = true }, script)
  end
  for name, declared in pairs(gather(scripts, "tables")) do
    self.tables[name] = compile_table(name, declared)
  end
  for name, declared in pairs(gather(scripts, "statements")) do
    self.statements[name] = compile_statement(self, name, declared, dialect)
  end
  return self
end

return schema
