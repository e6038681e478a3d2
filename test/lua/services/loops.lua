-- Loops that never end, of every kind. luacheck: ignore 542 512 (empty and endless on purpose)

local perilune = require "perilune"

local loops = {}

local kinds = {}

function kinds.plain() while true do end end
function kinds.repeat_until() repeat local _ = 1 until false end
function kinds.jump()
  ::again::
  goto again
end
function kinds.numeric()
  local sum = 0
  for i = 1, math.huge do sum = sum + i % 7 end
  return sum
end
function kinds.tables()
  local list = {}
  while true do
    for i = 1, 100 do list[i] = i end
    for i, value in ipairs(list) do list[i] = value + 1 end
    for key in pairs(list) do list[key] = nil end
  end
end
function kinds.strings()
  while true do
    local text = ""
    for i = 1, 100 do text = text .. string.char(65 + i % 26) end
    text:byte(1, -1)
  end
end
local function tail(n) return tail(n + 1) end
function kinds.tail_calls() return tail(0) end
local ping
local function pong(n) return ping(n) end
function ping(n) return pong(n + 1) end
function kinds.mutual_tail_calls() return ping(0) end
function kinds.closures()
  while true do
    local n = 0
    local function add() n = n + 1 end
    add()
  end
end
function kinds.coroutine() coroutine.wrap(function() while true do end end)() end
function kinds.nested_coroutines()
  local function nest(depth)
    if depth == 0 then while true do end end
    coroutine.wrap(nest)(depth - 1)
  end
  nest(20)
end
function kinds.resumes()
  local co = coroutine.create(function() while true do coroutine.yield() end end)
  while true do coroutine.resume(co) end
end
function kinds.new_coroutines()
  while true do coroutine.wrap(function() coroutine.yield() end)() end
end
function kinds.pcall_loop() while true do pcall(error, "again") end end
function kinds.loop_in_pcall() while true do pcall(function() while true do end end) end end
function kinds.pcall_recursion()
  local function again() return pcall(again) and again() end
  while true do again() end
end
local function spin() while true do end end
function kinds.xpcall_loop() while true do xpcall(spin, spin) end end
function kinds.xpcall_error() while true do xpcall(error, spin) end end
function kinds.xpcall_in_coroutine()
  coroutine.wrap(function() while true do xpcall(spin, spin) end end)()
end
function kinds.traceback() while true do debug.traceback("x") end end
function kinds.sort() table.sort({ 3, 2, 1 }, spin) end
function kinds.sort_in_pcall() while true do pcall(table.sort, { 3, 2, 1 }, spin) end end
function kinds.sort_in_xpcall()
  while true do xpcall(function() table.sort({ 3, 2, 1 }, spin) end, spin) end
end
function kinds.gsub() string.gsub("text", ".", spin) end
function kinds.gsub_in_pcall() while true do pcall(string.gsub, "text", ".", spin) end end
function kinds.gsub_table()
  string.gsub("text", ".", setmetatable({}, { __index = spin }))
end
function kinds.index() return setmetatable({}, { __index = spin }).x end
function kinds.arithmetic() return setmetatable({}, { __add = spin }) + 1 end
function kinds.compare()
  local meta = { __lt = spin }
  return setmetatable({}, meta) < setmetatable({}, meta)
end
function kinds.concat() return setmetatable({}, { __concat = spin }) .. "" end
function kinds.tostring() return tostring(setmetatable({}, { __tostring = spin })) end
function kinds.format() return ("%s"):format(setmetatable({}, { __tostring = spin })) end
function kinds.iterator() for _ in spin do end end
function kinds.many_iterations() for _ in function() return 1 end do end end
function kinds.load_reader() load(spin) end
function kinds.loaded_text() load("while true do end")() end
function kinds.module() require "services.endless_module" end
function kinds.c_function() while true do ("x"):rep(1000) end end
function kinds.find() while true do (("a"):rep(1000)):find("(a*)b") end end
-- One call, which takes for ever in C.
local LONG, HARD = ("a"):rep(40), ("a*"):rep(25) .. "b"
function kinds.match_find() return LONG:find(HARD) end
function kinds.match_gsub() return (LONG:gsub(HARD, "")) end
function kinds.match_gmatch() for _ in LONG:gmatch(HARD) do end end
function kinds.match_in_pcall() while true do pcall(string.find, LONG, HARD) end end
function kinds.match_in_xpcall() while true do xpcall(string.find, spin, LONG, HARD) end end
function kinds.match_in_coroutine() return coroutine.wrap(string.find)(LONG, HARD) end
function kinds.match_in_sort()
  table.sort({ 3, 2, 1 }, function() return LONG:find(HARD) end)
end
function kinds.match_lazily() return (("a"):rep(20000)):find(("a-"):rep(9) .. "b") end
function kinds.match_brackets() return (("("):rep(1000000)):find "%b()" end
local function hard_grammar()
  local lpeg = require "lpeg"
  return lpeg.P { "a" * lpeg.V(1) * "x" + "a" * lpeg.V(1) * "y" + "" }
end
function kinds.match_lpeg() return hard_grammar():match(LONG) end
function kinds.match_lpeg_in_pcall()
  local grammar = hard_grammar()
  while true do pcall(grammar.match, grammar, LONG) end
end
function kinds.garbage() while true do collectgarbage "step" end end
function kinds.random() while true do math.random() end end
function kinds.buffer()
  local buffer = require("string.buffer").new()
  while true do buffer:put("text"):get() end
end
function kinds.json()
  local json = require "cjson"
  while true do json.decode(json.encode { 1, 2, { x = "y" } }) end
end
function kinds.send() while true do perilune.send(12345, "x", { 1, 2 }) end end
function kinds.send_self() while true do perilune.send(perilune.self(), "good", 1) end end
function kinds.fork() while true do perilune.fork(function() end) end end
function kinds.timers() while true do perilune.cancel(perilune.timeout(1000, "good")) end end
function kinds.log() while true do perilune.log.debug("x %d", 1) end end
function kinds.shared()
  local data = perilune.shared("loops", { 1, 2, x = { 3 } })
  while true do for _ in pairs(data) do end end
end
function kinds.queue() perilune.queue()(spin) end
function kinds.pure_recursion()
  local function again(n) return 1 + again(n + 1) end
  while true do pcall(again, 1) end
end

function loops.names()
  local list = {}
  for name in pairs(kinds) do list[#list + 1] = name end
  table.sort(list)
  return list
end

function loops.on_start(kind)
  if kind then kinds[kind]() end
end

-- Uses the processor until the service has been given the compiler, or long enough.
function loops.warm()
  local stop = os.clock() + 0.003
  local sum = 0
  while os.clock() < stop do sum = sum + 1 end
  return sum
end

-- Under a name, if one is given: whoever finds it knows that the loop has begun.
function loops.loop(kind, name)
  if name then perilune.name(name) end
  kinds[kind]()
end
function loops.good(value) return value end
function loops.on_tick() spin() end
function loops.on_down() spin() end
function loops.tick(ms, command) perilune.timeout(ms, command or "on_tick") end
function loops.tick_function(ms) perilune.timeout(ms, spin) end
function loops.fork() perilune.fork(spin) end
function loops.monitor(to) perilune.monitor(to) end

function loops.after_reply()
  local reply = perilune.defer()
  reply "answered"
  spin()
end

return loops
