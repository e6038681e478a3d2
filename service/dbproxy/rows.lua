-- Rows as services see them, and as the database has them: by the declared columns.
local schema = require "dbproxy.schema"

local rows = {}

local function column_of(of, name)
  local column = of.columns[name]
  if not column then error(("table %s has no column %s"):format(of.name, tostring(name)), 0) end
  return column
end

---A value as the database gets it. Raises for one that doesn't fit.
---@param of dbproxy.Table
---@param name string of the column
---@param value any nil: NULL
---@return any encoded
function rows.encode(of, name, value)
  local column = column_of(of, name)
  local path = of.name .. "." .. name
  if value == nil then
    if not column.nullable then error(path .. " can't be NULL", 0) end
    return nil
  end
  return schema.encode(column, value, path)
end

---The key of a row as the database gets it.
---@param of dbproxy.Table
---@param key any
---@return number|string encoded
function rows.key(of, key)
  return schema.encode(column_of(of, of.key), key, of.name .. "." .. of.key)
end

---What names a row among those of all tables.
---@param of dbproxy.Table
---@param key number|string encoded
---@return string id
function rows.id(of, key)
  return of.name .. ":" .. (type(key) == "number" and ("%.0f"):format(key) or key)
end

---Changes of a row as the database gets them, in a fixed order. Raises for what doesn't fit, for
---none, and for what isn't a caller's to change: key and owner.
---@param of dbproxy.Table
---@param changes table<string, any> by column
---@param clear string[]? columns that become NULL
---@return { [1]: string, [2]: any }[] encoded name and value of each
function rows.changes(of, changes, clear)
  local encoded, seen = {}, {}
  local function add(name, value)
    if name == of.key or name == of.owner then
      error(("%s.%s isn't changed this way"):format(of.name, name), 0)
    end
    if seen[name] then error(("%s.%s is changed twice"):format(of.name, name), 0) end
    seen[name] = true
    encoded[#encoded + 1] = { name, rows.encode(of, name, value) }
  end
  for name, value in pairs(changes) do add(name, value) end
  for _, name in ipairs(clear or {}) do add(name, nil) end
  if #encoded == 0 then error(of.name .. ": no changes", 0) end
  table.sort(encoded, function(a, b) return a[1] < b[1] end)
  return encoded
end

---A row as services see it. Raises for what nobody can have written here.
---@param of dbproxy.Table
---@param encoded table<string, any> by column
---@return table<string, any> row
function rows.decode(of, encoded)
  local row = {}
  for name, value in pairs(encoded) do
    local column = of.columns[name]
    if column then value = schema.decode(column, value) end
    row[name] = value
  end
  return row
end

return rows
