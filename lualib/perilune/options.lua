---@class perilune.options
-- The options of a service, declared once as a table in its first table, read by on_start and by
-- `perilune check`:
--
--   gateway.options = {
--     port = { type = "integer", default = 6080, min = 0, max = 65535, meaning = "TCP port" },
--   }
--   function gateway.on_start(given) settings = options.read(gateway.options, given) end
local options = {}

local callback = require "perilune.callback"

---@class perilune.Option
---@field type "boolean"|"integer"|"number"|"string"|"table"|"function"|"callback"|"any"
---@field default any
---@field min number?
---@field max number?
---@field choices any[]?
---@field items table<string, perilune.Option>? of a list of tables: what each of them may have
---@field required boolean?
---@field unit string?
---@field meaning string? what it is, for errors

local WANTED = { callback = "a function or the name of one" }

local function has_type(value, wanted)
  if wanted == "any" then return true end
  if wanted == "integer" then return type(value) == "number" and value % 1 == 0 end
  if wanted == "callback" then return callback.is(value) end
  return type(value) == wanted
end

local function is_choice(value, choices)
  for _, choice in ipairs(choices) do
    if value == choice then return true end
  end
  return false
end

local function refuse(name, option, text)
  local about = option.meaning and " (" .. option.meaning .. ")" or ""
  error(("option %s %s%s"):format(name, text, about), 0)
end

local function check(name, option, value)
  if not has_type(value, option.type) then
    refuse(name, option, ("has to be %s, but is %s"):format(WANTED[option.type] or
      "of type " .. option.type, tostring(value)))
  end
  if (option.min and value < option.min) or (option.max and value > option.max) then
    refuse(name, option, ("has to be from %s to %s%s, but is %s"):format(option.min or "any",
      option.max or "any", option.unit and " " .. option.unit or "", value))
  end
  if option.choices and not is_choice(value, option.choices) then
    local texts = {}
    for i, choice in ipairs(option.choices) do texts[i] = tostring(choice) end
    refuse(name, option,
      ("can't be %s: it is one of %s"):format(tostring(value), table.concat(texts, ", ")))
  end
end

-- A list of tables, each read by what its items may have.
local function read_items(name, option, list)
  local items = {}
  for index, item in pairs(list) do
    if type(index) ~= "number" then refuse(name, option, "has to be a list") end
    local ok, settings = pcall(options.read, option.items, item)
    if not ok then error(("%s[%d]: %s"):format(name, index, settings), 0) end
    items[index] = settings
  end
  return items
end

---All options: the given ones, checked, and the defaults of the others. Raises for an unknown
---name, a wrong type and a value out of range.
---@param declared table<string, perilune.Option>
---@param given table?
---@return table settings by name
function options.read(declared, given)
  if given ~= nil and type(given) ~= "table" then error("options are a table", 0) end
  local settings = {}
  for name, value in pairs(given or {}) do
    local option = declared[name]
    if not option then error(("there is no option %s"):format(tostring(name)), 0) end
    check(name, option, value)
    settings[name] = value
  end
  for name, option in pairs(declared) do
    if settings[name] == nil then
      if option.required then refuse(name, option, "is missing") end
      settings[name] = option.default
    end
    if option.items and settings[name] then
      settings[name] = read_items(name, option, settings[name])
    end
  end
  return settings
end

---The same for a function of a library: what it raises names the function and the line that called
---it.
---@param name string of the function: "udp.open"
---@param declared table<string, perilune.Option>
---@param given table?
---@return table settings by name
function options.read_for(name, declared, given)
  local ok, settings = pcall(options.read, declared, given)
  if not ok then error(name .. ": " .. settings, 3) end
  return settings
end

return options
