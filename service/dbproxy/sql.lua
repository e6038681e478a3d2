-- The texts of statements about declared tables. Names in them are those of the declaration, in
-- backticks, which SQLite reads as MySQL does; values are ? alone.
local sql = {}

local function quote(name) return "`" .. name .. "`" end

local function list(names, form)
  local parts = {}
  for i, name in ipairs(names) do parts[i] = form:format(quote(name)) end
  return table.concat(parts, ", ")
end

---@param of dbproxy.Table
---@param column string that the row is found by
---@return string text
function sql.select(of, column)
  return ("SELECT %s FROM %s WHERE %s = ?"):format(list(of.order, "%s"), quote(of.name),
    quote(column))
end

---@param of dbproxy.Table
---@param names string[] columns that get a value
---@return string text
function sql.insert(of, names)
  return ("INSERT INTO %s (%s) VALUES (%s)"):format(quote(of.name), list(names, "%s"),
    ("?, "):rep(#names):sub(1, -3))
end

---@param of dbproxy.Table
---@param names string[] columns that get a value
---@param conditions string[] columns that have to have one, behind the key
---@return string text
function sql.update(of, names, conditions)
  local text = ("UPDATE %s SET %s WHERE %s = ?"):format(quote(of.name), list(names, "%s = ?"),
    quote(of.key))
  for _, name in ipairs(conditions) do text = text .. " AND " .. quote(name) .. " = ?" end
  return text
end

---@param of dbproxy.Table
---@param conditions string[]
---@return string text
function sql.delete(of, conditions)
  local text = ("DELETE FROM %s WHERE %s = ?"):format(quote(of.name), quote(of.key))
  for _, name in ipairs(conditions) do text = text .. " AND " .. quote(name) .. " = ?" end
  return text
end

---Counts one more owner of a row.
---@param of dbproxy.Table
---@return string text
function sql.claim(of)
  return ("UPDATE %s SET %s = %s + 1 WHERE %s = ?"):format(quote(of.name), quote(of.owner),
    quote(of.owner), quote(of.key))
end

return sql
