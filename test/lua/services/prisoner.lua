-- Looks for a way out of the sandbox. Each attempt returns true, and how, when it has found one.

local perilune = require "perilune"

local prisoner = {}

local attempts = {}

-- A value that gives more than it should: a function of a library that isn't allowed.
local function has(library, ...)
  for _, name in ipairs { ... } do
    if type(library) == "table" and library[name] ~= nil then return true, name end
  end
  return false
end

function attempts.globals()
  for _, name in ipairs { "io", "ffi", "jit", "package", "dofile", "loadfile", "newproxy", "module",
    "gcinfo", "arg" } do
    if _G[name] ~= nil or rawget(_G, name) ~= nil then return true, name end
  end
  return false
end
function attempts.os()
  return has(os, "execute", "exit", "remove", "rename", "tmpname", "getenv", "setlocale")
end
function attempts.debug()
  return has(debug, "sethook", "gethook", "getregistry", "getupvalue", "setupvalue", "upvalueid",
    "upvaluejoin", "getlocal", "setlocal", "getmetatable", "setmetatable", "getinfo", "getfenv",
    "setfenv", "debug", "getuservalue", "setuservalue")
end
function attempts.require()
  for _, name in ipairs { "ffi", "jit", "jit.opt", "jit.util", "jit.p", "jit.dump", "io", "package",
    "_G", "perilune.reload", "perilune.reload.bytecode", "perilune.reload.walk",
    "perilune.reload.survey", "perilune.reload.join", "table.new", "table.clear", "thread.exdata" } do
    local ok, found = pcall(require, name)
    if ok and name ~= "table.new" and name ~= "table.clear" then return true, name, found end
  end
  for _, name in ipairs { "os", "debug" } do
    local ok, library = pcall(require, name)
    if ok and has(library, "execute", "exit", "sethook", "getregistry", "setupvalue") then
      return true, name
    end
  end
  return false
end
function attempts.require_paths()
  for _, name in ipairs { "../../etc/passwd", "/etc/passwd", "..", ".", "services/../services/target",
    "services..target", "", ("x"):rep(1000), "\0", "services.target\0" } do
    if pcall(require, name) then return true, name end
  end
  return false
end

-- Bytecode isn't checked by LuaJIT: it could do anything.
function attempts.bytecode()
  local code = string.dump(function() return 5 end)
  for _, loader in ipairs { load, loadstring } do
    for _, mode in ipairs { false, "b", "bt", "t" } do
      if loader(code, "x", mode or nil) then return true, "text" end
      if loader(code, "x", mode or nil, {}) then return true, "with an environment" end
    end
  end
  local sent = false
  if load(function()
    if sent then return nil end
    sent = true
    return code
  end) then return true, "reader" end
  local position = 0
  if load(function()
    position = position + 1
    local byte = code:sub(position, position)
    return #byte > 0 and byte or nil
  end) then return true, "byte by byte" end
  return false
end
function attempts.load_environment()
  -- What is loaded sees what the service sees.
  local chunk = load "return io, ffi, jit, package, debug.sethook"
  for _, value in ipairs { chunk() } do
    if value ~= nil then return true, tostring(value) end
  end
  return load("return _G.io ~= nil")()
end

-- Functions of libraries keep their environments to themselves.
function attempts.function_environments()
  for _, target in ipairs { print, require, load, string.gsub, perilune.call, perilune.send,
    require("perilune.core").finish, 1, 2, 3, 4, 5 } do
    local ok, environment = pcall(getfenv, target)
    if ok and type(environment) == "table" and
      (rawget(environment, "io") or rawget(environment, "ffi") or environment.io) then
      return true, tostring(target)
    end
  end
  for _, level in ipairs { 0, -1 } do
    if pcall(getfenv, level) then return true, "level " .. level end
    if pcall(setfenv, level, {}) then return true, "level " .. level end
  end
  if pcall(setfenv, print, {}) then return true, "setfenv(print)" end
  if pcall(setfenv, require, {}) then return true, "setfenv(require)" end
  return false
end
function attempts.metatables()
  if getmetatable "" then return true, "string" end
  for _, value in ipairs { _G, perilune, print, 1, true, perilune.queue(),
    coroutine.create(function() end), perilune.shared("sandbox", { 1 }) } do
    local meta = getmetatable(value)
    if type(meta) == "table" and (rawget(meta, "__gc") or meta.__newindex) then
      return true, tostring(value)
    end
  end
  if pcall(setmetatable, _G, {}) and getmetatable(_G) == nil then return true, "_G" end
  return false
end
function attempts.collectgarbage()
  for _, mode in ipairs { "stop", "restart", "setpause", "setstepmul", "collect", "generational",
    "incremental", "isrunning" } do
    if pcall(collectgarbage, mode, 1) then return true, mode end
  end
  return type(collectgarbage "count") ~= "number" or type(collectgarbage "step") ~= "boolean"
end
function attempts.buffer()
  local buffer = require "string.buffer"
  local object = buffer.new()
  return has(object, "ref", "reserve", "commit", "set")
end
function attempts.buffer_metatable()
  local object = require("string.buffer").new()
  return type(getmetatable(object)) == "table", "the metatable of buffers"
end
function attempts.cjson()
  -- A pointer of another's choosing: only null is one.
  local json = require "cjson"
  return type(json.null) ~= "userdata" or tostring(json.null) ~= "userdata: NULL"
end
function attempts.native_core()
  -- What libraries use does nothing that the API doesn't.
  local core = require "perilune.core"
  for _, name in ipairs { "core_load", "io", "debug", "core_exec", "luaopen_io", "" } do
    if core.native(name) ~= nil then return true, name end
  end
  return false
end
function attempts.forged_failures()
  -- Marks and outcomes that no call has given.
  local core = require "perilune.core"
  local mark = core.native "core_call"(12345, "x")
  for _, outcome in ipairs { -1, 7, 8, 255, 256, 2 ^ 31, 1e300, 0 / 0 } do
    local ok, raised = pcall(core.finish, mark, outcome, "text")
    if ok or type(raised.code) ~= "string" then return true, tostring(outcome) end
  end
  return false
end
function attempts.other_tokens()
  local core = require "perilune.core"
  local wake = core.native "core_wake"
  for token = 0, 5000 do
    if wake(token) then return true, "token " .. token end
  end
  return false
end
function attempts.xpcall_and_error_values()
  -- What a handler sees of the host.
  local _, found = xpcall(error, function() return { getfenv(1), getfenv(2) } end)
  for _, environment in ipairs(found) do
    if environment.io or environment.ffi then return true, "handler" end
  end
  return false
end
function attempts.spawn_others()
  -- Not even through another script: only config.lua makes one trusted.
  local ok, raised = pcall(perilune.spawn, "services.prisoner", nil, { trusted = true })
  return ok or not tostring(raised):find "unknown option", "trusted"
end
function attempts.files()
  local file = require "perilune.file"
  for _, path in ipairs { "/etc/passwd", "../../../etc/passwd", "a/../../x", "/proc/self/mem", "" } do
    if file.read(path) or file.write(path, "x") then return true, path end
  end
  return false
end

function prisoner.attempts()
  local list = {}
  for name in pairs(attempts) do list[#list + 1] = name end
  table.sort(list)
  return list
end

function prisoner.try(name) return attempts[name]() end

-- ---- what light services of one VM could see of each other ----

a_global = nil -- luacheck: ignore
local state = require "services.prison_module"

local writes = {
  global = function() a_global = "secret" end, -- luacheck: ignore
  global_table = function() _G.leaked = "secret" end,
  raw_global = function() rawset(_G, "leaked_raw", "secret") end,
  environment = function() getfenv(1).leaked_env = "secret" end,
  module = function() state.secret = "secret" end,
  string = function() string.leak = "secret" end,
  raw_string = function() rawset(string, "leak", "secret") end,
  table_function = function() table.concat = function() return "secret" end end,
  math = function() math.leak = "secret" end,
  coroutine = function() coroutine.leak = "secret" end,
  os = function() os.leak = "secret" end,
  perilune = function() perilune.leak = "secret" end,
  raw_perilune = function() rawset(perilune, "leak_raw", "secret") end,
  perilune_function = function() perilune.now = function() return "secret" end end,
  log = function() perilune.log.leak = "secret" end,
  core = function() require("perilune.core").leak = "secret" end,
  required_string = function() require("string").leak = "secret" end,
  required_table = function() require("table").leak = "secret" end,
  required_math = function() require("math").leak = "secret" end,
  required_os = function() require("os").leak = "secret" end,
  required_bit = function() require("bit").leak = "secret" end,
  cjson = function() require("cjson").leak = "secret" end,
  cjson_config = function() require("cjson").encode_keep_buffer("off") end,
  cjson_numbers = function() require("cjson").encode_number_precision(3) end,
  buffer = function() require("string.buffer").leak = "secret" end,
  lpeg = function() require("lpeg").leak = "secret" end,
  library = function() require("perilune.limits").leak = "secret" end,
  file = function() require("perilune.file").leak = "secret" end,
  metatable = function() getmetatable(_G).leak = "secret" end,
  print = function() getfenv(print).leaked_print = "secret" end,
  call = function() getfenv(perilune.call).leaked_call = "secret" end,
  set_print = function() setfenv(print, { leaked_print = "secret" }) end,
  load = function() load("leaked_load = 'secret'")() end,
  unset = function() string.format = nil end,
  insert = function() table.insert(math, "secret") end,
  insert_before = function() table.insert(require "perilune.limits", 1, "secret") end,
  insert_core = function() require("table").insert(perilune, "secret") end,
  sort = function() table.sort(string, function() string[1] = "secret" end) end,
  move = function() table.move({ "secret" }, 1, 1, 1, math) end,
  remove = function() table.remove(math, 1) end,
}

local reads = {
  function() return a_global end, -- luacheck: ignore
  function() return _G.leaked or rawget(_G, "leaked") or leaked end, -- luacheck: ignore
  function() return _G.leaked_raw or leaked_raw end, -- luacheck: ignore
  function() return leaked_env or leaked_print or leaked_call or leaked_load end, -- luacheck: ignore
  function() return state.secret end,
  function() return string.leak or rawget(string, "leak") end,
  function() return table.concat({ "x" }) ~= "x" and "secret" end,
  function() return math.leak or coroutine.leak or os.leak end,
  function() return perilune.leak or rawget(perilune, "leak_raw") end,
  function() return type(perilune.now()) ~= "number" and "secret" end,
  function() return perilune.log.leak or require("perilune.core").leak end,
  function() return require("string").leak or require("table").leak or require("math").leak end,
  function() return require("os").leak or require("bit").leak end,
  function() return require("cjson").leak end,
  function() return require("cjson").encode(1 / 3) ~= "0.33333333333333" and "secret" end,
  function() return require("string.buffer").leak or require("lpeg").leak end,
  function() return require("perilune.limits").leak or require("perilune.file").leak end,
  function() return ("%d"):format(5) ~= "5" and "secret" end,
  function() return string.format == nil and "secret" end,
  function()
    local count = 0
    for name, value in pairs(string) do
      if string[name] == value and type(value) == "function" then count = count + 1 end
    end
    return count < 10 and "pairs(string) gave " .. count
  end,
  function() return math[1] or string[1] or perilune[1] or require("perilune.limits")[1] end,
  function() return require("string").gsub ~= string.gsub and "another string" end,
}

function prisoner.writes()
  local list = {}
  for name in pairs(writes) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- Leaves something where another may find it; refusing is fine.
function prisoner.write(name) return (pcall(writes[name])) end

-- The first place where something was found.
function prisoner.read()
  for i, read in ipairs(reads) do
    local ok, found = pcall(read)
    if not ok or (found ~= nil and found ~= false) then return i, tostring(found) end
  end
end

return prisoner
