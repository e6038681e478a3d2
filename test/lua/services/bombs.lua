-- Uses up memory in every way. luacheck: ignore 542 (empty and endless on purpose)

local perilune = require "perilune"

local bombs = {}

local kinds = {}
local kept = {}

function kinds.array()
  local list = {}
  while true do list[#list + 1] = #list end
end
function kinds.hash()
  local map, n = {}, 0
  while true do
    n = n + 1
    map["key " .. n] = n
  end
end
function kinds.doubling()
  local text = "x"
  while true do text = text .. text end
end
function kinds.strings()
  local list = {}
  while true do list[#list + 1] = ("x"):rep(1000) .. #list end
end
function kinds.closures()
  local list = {}
  while true do
    local n = #list
    list[n + 1] = function() return n end
  end
end
function kinds.coroutines()
  local list = {}
  while true do
    local co = coroutine.create(function() coroutine.yield() end)
    coroutine.resume(co)
    list[#list + 1] = co
  end
end
function kinds.nested_tables()
  local tree = {}
  while true do tree = { tree } end
end
function kinds.buffer()
  local buffer = require("string.buffer").new()
  while true do buffer:put("some more text of some length, ") end
end
function kinds.buffers()
  local list = {}
  while true do list[#list + 1] = require("string.buffer").new(1000):put("x") end
end
function kinds.concat()
  local list = {}
  for i = 1, 1000 do list[i] = ("x"):rep(1000) end
  while true do
    list[#list + 1] = table.concat(list)
    if #list > 1e6 then list = {} end
  end
end
function kinds.rep()
  local list = {}
  while true do list[#list + 1] = ("x"):rep(500000 + #list) end
end
function kinds.huge_rep() return #("x"):rep(1e9) end
function kinds.gsub()
  local text = ("x"):rep(1000)
  while true do text = text:gsub("x", "xxxx") end
end
function kinds.format()
  local text = "x"
  while true do text = ("%s%s%s"):format(text, text, text) end
end
function kinds.json()
  local json, value = require "cjson", "x"
  while true do value = json.encode { value, value } end
end
function kinds.unpack()
  local lists = {}
  while true do lists[#lists + 1] = { unpack({}, 1, 7000) } end
end
function kinds.load()
  local list = {}
  while true do list[#list + 1] = load("return function() return " .. #list .. " end") end
end
function kinds.timers()
  while true do perilune.timeout(1e6, "good", ("x"):rep(100)) end
end
function kinds.forks()
  while true do perilune.fork(function() perilune.sleep(1e6) end) end
end
function kinds.sleepers()
  while true do
    for _ = 1, 50 do perilune.fork(function() perilune.sleep(1e6) end) end
    perilune.yield()
  end
end
function kinds.globals()
  local n = 0
  while true do
    n = n + 1
    _G["global" .. n] = { n }
  end
end
function kinds.module_state()
  while true do kept[#kept + 1] = {} end
end
function kinds.sort()
  local list = { 3, 2, 1 }
  table.sort(list, function() kinds.array() end)
end
function kinds.metamethod()
  return setmetatable({}, { __index = function() kinds.hash() end }).x
end

-- The same again and again, whatever becomes of it.
local function in_pcall(kind)
  while true do pcall(kinds[kind]) end
end
local function in_xpcall(kind)
  while true do xpcall(kinds[kind], kinds[kind]) end
end
for _, kind in ipairs { "array", "doubling", "strings", "buffer", "rep", "huge_rep" } do
  kinds[kind .. "_in_pcall"] = function() in_pcall(kind) end
end
for _, kind in ipairs { "hash", "doubling", "closures", "coroutines", "concat", "json" } do
  kinds[kind .. "_in_xpcall"] = function() in_xpcall(kind) end
end

function bombs.names()
  local list = {}
  for name in pairs(kinds) do list[#list + 1] = name end
  table.sort(list)
  return list
end

function bombs.on_start(options)
  if options and options.bomb then kinds[options.bomb]() end
  if options and options.keep_mb then
    for i = 1, options.keep_mb do kept[i] = ("%7d"):format(i):rep(2 ^ 20 / 7) end
  end
end

-- Uses the processor until the service has the compiler.
function bombs.warm()
  local stop, sum = os.clock() + 0.003, 0
  while os.clock() < stop do sum = sum + 1 end
  return sum
end

function bombs.explode(kind) kinds[kind]() end
function bombs.good(value) return value end
function bombs.kept() return #kept end

-- Deep rather than large.
local deep = {}

function deep.recursion(n)
  local function add(i) return i == 0 and 0 or 1 + add(i - 1) end
  return add(n)
end
function deep.endless_recursion()
  local function add(i) return 1 + add(i) end
  return add(1)
end
function deep.gsub()
  local function again(text) return (text:gsub(".", again)) end
  return again "x"
end
function deep.gsub_in_coroutines()
  local function again(text)
    return coroutine.wrap(function() return (text:gsub(".", again)) end)()
  end
  return again "x"
end
function deep.sort()
  local function again()
    table.sort({ 1, 2, 3 }, again)
    return true
  end
  return again()
end
function deep.load_readers()
  local function reader() return load(reader) end
  return load(reader)
end
function deep.pcalls()
  local function again(n)
    local ok, value = pcall(again, n + 1)
    return ok and value or n
  end
  return again(1)
end
function deep.xpcalls()
  local function again() return xpcall(again, again) end
  return again()
end
function deep.handlers()
  local function fail() error "again" end
  return xpcall(fail, function() return xpcall(fail, fail) end)
end
function deep.index()
  local object = setmetatable({}, {})
  getmetatable(object).__index = function(_, key) return object[key + 1] end
  return object[1]
end
function deep.index_chain()
  local object = {}
  for _ = 1, 100000 do object = setmetatable({}, { __index = object }) end
  return object.x
end
function deep.tostring()
  local object = setmetatable({}, {})
  getmetatable(object).__tostring = function() return ("%s"):format(object) end
  return tostring(object)
end
function deep.print()
  local object = setmetatable({}, {})
  getmetatable(object).__tostring = function() print(object) return "x" end
  print(object)
end
function deep.concat()
  local object = setmetatable({}, {})
  getmetatable(object).__concat = function() return object .. "x" end
  return object .. "x"
end
-- Coroutines that resume one another: n deep.
function deep.coroutines(n)
  local function nest(depth)
    if depth < n then return coroutine.wrap(nest)(depth + 1) end
    return depth
  end
  return nest(1)
end
function deep.coroutine_chain(n)
  local list = {}
  for i = 1, n do
    list[i] = coroutine.create(function()
      if i < n then return select(2, coroutine.resume(list[i + 1])) end
      return i
    end)
  end
  return select(2, coroutine.resume(list[1]))
end
function deep.syntax(opening, n)
  local chunk, problem = load("return " .. opening:rep(n))
  return chunk ~= nil, problem and problem:sub(-200)
end
function deep.json(n)
  local json = require "cjson"
  local value = {}
  for _ = 1, n do value = { value } end
  return (pcall(json.encode, value)), (pcall(json.decode, ("["):rep(n)))
end
function deep.buffer(n)
  local value = {}
  for _ = 1, n do value = { value } end
  return pcall(require("string.buffer").encode, value)
end
function deep.lpeg()
  local lpeg = require "lpeg"
  local function again() return lpeg.match(lpeg.Cmt(1, again), "x") end
  return again()
end
function deep.lpeg_grammar(n)
  local lpeg = require "lpeg"
  return pcall(lpeg.match, lpeg.P { "(" * lpeg.V(1) * ")" + "x" }, ("("):rep(n))
end
function deep.pattern(n)
  return pcall(string.find, ("a"):rep(n), (".-"):rep(n) .. "b")
end

function bombs.deep(kind, ...) return deep[kind](...) end

return bombs
