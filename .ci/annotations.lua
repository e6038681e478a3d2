-- Reads the LuaLS annotations of lualib/.
--   lua .ci/annotations.lua check   fails for a public function without its annotations
--   lua .ci/annotations.lua docs    prints docs/api.md, which is committed: lint compares
--
-- Public is a function of the table a file returns, or of a table under ---@class; in
-- lualib/meta, whose files are never loaded, every function. Names beginning with _ are not.
-- Runs with LuaJIT and Lua 5.1 to 5.4. Looks at lines, not at syntax: a public function
-- begins at the start of a line, and its body is indented by two spaces.

local function lua_files()
  local files = {}
  local list = io.popen("find lualib -name '*.lua' 2>/dev/null | sort")
  for path in list:lines() do files[#files + 1] = path end
  list:close()
  return files
end

-- lualib/perilune/socket.lua -> perilune.socket; lualib/meta/native.lua -> native
local function module_name(path)
  local name = path:gsub("^lualib/", ""):gsub("^meta/", ""):gsub("%.lua$", "")
  return (name:gsub("/init$", ""):gsub("/", "."))
end

local function read_lines(path)
  local lines = {}
  for line in io.lines(path) do lines[#lines + 1] = line end
  return lines
end

-- Tables whose functions are public: {name = true}.
local function public_tables(lines)
  local tables = {}
  for i, line in ipairs(lines) do
    local returned = line:match("^return ([%w_]+)%s*$") or line:match("^return ([%w_]+),")
    if returned then tables[returned] = true end
    local declared = line:match("^local ([%w_]+) = ")
    local above = i - 1
    while declared and above > 0 and lines[above]:find("^%-%-%-") do
      if lines[above]:find("^%-%-%-@class") then tables[declared] = true end
      above = above - 1
    end
  end
  return tables
end

-- The type that words begin with, and what follows it: `table<string, integer> by name`,
-- `fun(a: string): boolean? what it does`. Blanks belong to the type within brackets, beside a bar,
-- and behind the colon of a function's result.
local function split_type(words)
  local depth, at = 0, 1
  while at <= #words do
    local c = words:sub(at, at)
    if c:find "[%(<{%[]" then depth = depth + 1 end
    if c:find "[%)>}%]]" then depth = depth - 1 end
    if c:find "%s" and depth <= 0 then
      local before = words:sub(1, at - 1)
      local is_inside = before:find "|$" or words:find("^%s*|", at)
        or (before:find "^fun" and before:find ":$")
      if not is_inside then return before, words:sub(at):match "^%s*(.*)" end
    end
    at = at + 1
  end
  return words, ""
end

-- The comment in the lines first..last:
-- {text, params, returns, fields, class, async, deprecated}.
local function read_comment(lines, first, last)
  local comment = { text = {}, params = {}, returns = {}, fields = {}, by_name = {} }
  local item -- what a line without a tag goes on with
  for i = first, last do
    local line = lines[i]:sub(4)
    local tag, rest = line:match("^%s*@(%w+)%s*(.*)")
    if tag then item = nil end
    if tag == "param" or tag == "field" then
      local name, optional, about = rest:match("^([%w_%.]+)(%??)%s*(.*)")
      if name then
        item = { name = name, optional = optional, about = about }
        table.insert(tag == "param" and comment.params or comment.fields, item)
        if tag == "param" then comment.by_name[name] = true end
      end
    elseif tag == "return" then
      item = { about = rest }
      comment.returns[#comment.returns + 1] = item
    elseif tag == "vararg" then
      comment.by_name["..."] = true
    elseif tag == "class" then
      comment.class = rest:match("^[%w_%.]+") or true
    elseif tag == "async" or tag == "deprecated" then
      comment[tag] = true
    elseif not tag and not line:find("^|") then
      if item then
        item.about = item.about .. " " .. line:match("^%s*(.-)%s*$")
      else
        comment.text[#comment.text + 1] = (line:gsub("^ ", ""))
      end
    end
  end
  return comment
end

-- The comment above line `at`, or nil.
local function comment_above(lines, at)
  local first = at
  while first > 1 and lines[first - 1]:find("^%-%-%-") do first = first - 1 end
  if first < at then return read_comment(lines, first, at - 1) end
end

-- The classes of a file that have fields: what functions take and return. Those of the library
-- alone, whose names begin with `perilune.`
local function classes_of(lines)
  local found, first = {}, nil
  for i = 1, #lines + 1 do
    local is_comment = i <= #lines and lines[i]:find("^%-%-%-")
    if is_comment and not first then first = i end
    if first and not is_comment then
      local comment = read_comment(lines, first, i - 1)
      first = nil
      if #comment.fields > 0 and type(comment.class) == "string"
          and comment.class:find("^perilune%.") then
        found[#found + 1] = comment
      end
    end
  end
  return found
end

-- True when the function that begins at line `at` returns something itself.
local function returns_value(lines, at)
  if lines[at]:find("%f[%w_]end%s*$") then
    return lines[at]:find("%f[%w_]return%s+[^%se]") ~= nil
  end
  for i = at + 1, #lines do
    if lines[i]:find("^end") then return false end
    local value = lines[i]:match("^  return%s+(.*)")
    if value and not value:find("^%-%-") then return true end
  end
  return false
end

-- The functions of a file: {name, parameters, line, comment, returns, known}.
local function functions_of(path)
  local lines = read_lines(path)
  local tables = public_tables(lines)
  local is_meta = path:find("^lualib/meta/") ~= nil
  local found = {}
  for i, line in ipairs(lines) do
    local name, parameters = line:match("^function ([%w_%.:]+)%s*%((.-)%)")
    if not name then name, parameters = line:match("^([%w_%.]+) = function%s*%((.-)%)") end
    local assigned = not name and line:match("^([%w_]+%.[%w_%.]+) = ")
    local comment = comment_above(lines, i)
    if assigned and comment and (#comment.params > 0 or #comment.returns > 0) then
      name = assigned -- a native function under an annotation of ours
    end
    local owner, last = (name or ""):match("^([%w_%.]+)[%.:]([%w_]+)$")
    local is_public = owner and (is_meta or tables[owner:match("^[%w_]+")])
    if is_public and not last:find("^_") and not owner:find("%._") then
      found[#found + 1] = {
        name = name, parameters = parameters, line = i, comment = comment,
        returns = parameters and not is_meta and returns_value(lines, i),
      }
    end
  end
  return found, lines
end

local function check()
  local bad, count = 0, 0
  for _, path in ipairs(lua_files()) do
    for _, entry in ipairs((functions_of(path))) do
      local function complain(what)
        print(("%s:%d: %s: %s"):format(path, entry.line, entry.name, what))
        bad = bad + 1
      end
      count = count + 1
      local comment = entry.comment
      if not comment then
        complain("no annotation (--- above it)")
      else
        if #comment.text == 0 and not comment.deprecated then complain("says nothing") end
        for parameter in (entry.parameters or ""):gmatch("[%w_%.]+") do
          if not comment.by_name[parameter] and parameter ~= "_" then
            complain("no ---@param " .. parameter)
          end
        end
        if entry.returns and #comment.returns == 0 then complain("no ---@return") end
      end
    end
  end
  print(("%d public functions, %d complaints"):format(count, bad))
  return bad == 0
end

-- The comment a file begins with, without its tags.
local function about_file(lines)
  local text = {}
  for _, line in ipairs(lines) do
    local words = line:match("^%-%-%-?%s?(.*)")
    if not words then break end
    if not words:find("^@") then text[#text + 1] = words end
  end
  return table.concat(text, "\n")
end

local function signature(entry)
  local names = {}
  if entry.parameters then return entry.name .. "(" .. entry.parameters .. ")" end
  for i, param in ipairs(entry.comment.params) do names[i] = param.name end
  return entry.name .. "(" .. table.concat(names, ", ") .. ")"
end

-- `integer the rest` -> - `name`: `integer` the rest
local function print_value(label, words)
  local kind, about = split_type(words)
  if kind == "" then kind = "any" end
  print(("- %s `%s`%s"):format(label, kind, about == "" and "" or " " .. about))
end

local function print_values(comment)
  if #comment.params + #comment.returns + #comment.fields > 0 then print("") end
  for _, param in ipairs(comment.params) do
    print_value(("`%s%s`:"):format(param.name, param.optional), param.about)
  end
  for _, field in ipairs(comment.fields) do
    print_value(("`%s%s`:"):format(field.name, field.optional), field.about)
  end
  for _, returned in ipairs(comment.returns) do print_value("returns", returned.about) end
end

local function print_entry(entry)
  local comment = entry.comment
  if not comment then return end
  print("\n### `" .. signature(entry) .. "`" .. (comment.async and " *waits*" or "") .. "\n")
  print(table.concat(comment.text, "\n"))
  print_values(comment)
end

local function print_class(comment)
  print("\n### `" .. comment.class .. "`, a table")
  if #comment.text > 0 then print("\n" .. table.concat(comment.text, "\n")) end
  print_values(comment)
end

local function docs()
  print("# Lua API\n\nWritten by `make docs` from the annotations in lualib/. A function marked")
  print("*waits* lets other messages of the service run until it returns: check shared state")
  print("again after it.")
  for _, path in ipairs(lua_files()) do
    local entries, lines = functions_of(path)
    if #entries > 0 then
      print("\n## " .. module_name(path) .. "\n")
      print(about_file(lines))
      for _, class in ipairs(classes_of(lines)) do print_class(class) end
      for _, entry in ipairs(entries) do print_entry(entry) end
    end
  end
  return true
end

local command = ({ check = check, docs = docs })[... or ""]
if not command then
  io.stderr:write("usage: lua .ci/annotations.lua check|docs\n")
  os.exit(2)
end
os.exit(command() and 0 or 1)
