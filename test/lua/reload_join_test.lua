-- Joining rules of reload: a script before, a script after, and what must hold.
--
-- Needs what no service has, jit.util and all of debug: so the project's runner has a plain
-- interpreter run it, as one can by hand: `build/3rd/bin/luajit test/lua/reload_join_test.lua`.
--
-- Each case runs in three ways. "kept": the host kept the function that the old text is; "loaded":
-- it loads both texts again, which gives other prototypes than the running functions have;
-- "shared": all instances of a text share their prototypes, as those of light services do.

local has_runner, runner = pcall(require, "perilune.test")
if has_runner then
  runner("reload joins old and new texts", function()
    local own = io.open "build/3rd/bin/luajit"
    if own then own:close() end
    local command = (own and "build/3rd/bin/luajit" or "luajit") .. " test/lua/reload_join_test.lua"
    local output = io.popen(command .. " 2>&1"):read "*a"
    runner.ok(output:find("\n?%d+ passed, 0 failed\n$"), output)
  end)
  return runner
end

package.path = "lualib/?.lua;" .. package.path
local failed, passed = 0, 0
local function test(name, body)
  local ok, message = xpcall(body, debug.traceback)
  if ok then passed = passed + 1 else failed = failed + 1 end
  if not ok then print("FAILED " .. name .. "\n" .. message) end
end

local util = require "jit.util"
local reload = require "perilune.reload"

-- A host in small -------------------------------------------------------------------------------

-- What lualib is to the scripts: `engine.lock()` gives functions of another file, with state.
local engine = assert(loadstring([[
  local engine = { log = { lines = {} } }
  function engine.lock()
    local depth = 0
    return function(body)
      depth = depth + 1
      return body and body(depth) or depth
    end
  end
  function engine.wrap(body) return function(...) return body(...) end end
  function engine.adder(n) return function(value) return value + n end end
  function engine.log.add(line) engine.log.lines[#engine.log.lines + 1] = line end
  return engine
]], "@lualib/engine.lua"))()

local Service = {}
Service.__index = Service

local way -- "kept", "loaded" or "shared"
local chunks = {}

local function load_text(text, name)
  local chunk = assert(loadstring("return function(...) " .. text .. "\nend", "@" .. name))
  if way ~= "shared" then return assert(loadstring(string.dump(chunk), "=script"))() end
  chunks[name .. text] = chunks[name .. text] or assert(loadstring(string.dump(chunk), "=script"))
  return chunks[name .. text]()
end

-- Runs a text in an environment: {main, env, commands, client, modules}.
function Service:run(text, env, module_texts)
  local run = { env = env, modules = {}, loaded = { engine = engine, bit = bit } }
  for name, module in pairs(self.modules or {}) do run.loaded[name] = module.value end
  self.require = function(name)
    if run.modules[name] then return run.modules[name].value end
    if module_texts[name] then
      local main = load_text(module_texts[name], "game/" .. name .. ".lua")
      run.modules[name] = { main = main }
      run.modules[name].value = setfenv(main, env)()
      return run.modules[name].value
    end
    return assert(run.loaded[name], name)
  end
  run.main = load_text(text, "service/x.lua")
  run.commands, run.client = setfenv(run.main, env)()
  return run
end

local function start(text, modules)
  local self = setmetatable({ texts = modules or {} }, Service)
  local env = { require = function(name) return self.require(name) end }
  self.env = setmetatable(env, { __index = _G })
  env._G = env
  local now = self:run(text, env, self.texts)
  self.commands, self.client, self.modules = now.commands, now.client, now.modules
  self.text, self.main = text, now.main
  return self
end

function Service:plan(text, modules)
  for name, module_text in pairs(modules or {}) do self.texts[name] = module_text end
  local old = { env = self.env, commands = self.commands, client = self.client, modules = {} }
  old.main = way == "kept" and self.main or load_text(self.text, "service/x.lua")
  for name, module in pairs(self.modules) do
    old.modules[name] = {
      main = way == "kept" and module.main or load_text(module.text or self.old_texts[name],
        "game/" .. name .. ".lua"),
      value = module.value,
    }
  end
  local new = self:run(text, reload.scratch(self.env), modules or {})
  if way == "loaded" then
    new.main = load_text(text, "service/x.lua")
    for name, module in pairs(new.modules) do
      module.main = load_text(self.texts[name], "game/" .. name .. ".lua")
    end
  end
  local plan, problems = reload.plan(old, new)
  return plan, problems, new
end

function Service:reload(text, modules)
  self.old_texts = {}
  for name, module_text in pairs(self.texts) do self.old_texts[name] = module_text end
  local plan, problems, new = self:plan(text, modules)
  if not plan then error("refused: " .. table.concat(problems, "; "), 2) end
  local now = reload.apply(plan)
  self.commands, self.client, self.text, self.main = now.commands, now.client, text, new.main
  for name, module in pairs(new.modules) do
    self.modules[name] = { main = module.main, value = now.modules[name] }
  end
  return plan
end

function Service:call(name, ...) return self.commands[name](...) end

-- Calls a command until it is compiled.
function Service:heat(name, ...)
  jit.flush()
  local f = self.commands[name]
  local result
  for _ = 1, 300 do result = f(...) end
  assert(util.traceinfo(1) or not jit.status(), "not compiled: " .. name)
  return result
end

local function expect(value, expected)
  if value ~= expected then
    error(("%s expected, got %s"):format(tostring(expected), tostring(value)), 2)
  end
end

local function case(name, body)
  for _, each in ipairs { "kept", "loaded", "shared" } do
    test(("reload: %s (%s)"):format(name, each), function()
      way = each
      body()
    end)
  end
end

-- `before` and `after` are texts, `checks` a list of {"call before", value} ...: most cases.
-- Every call is made hot before the reload.
local function swap(name, before, after, old_value, new_value)
  case(name, function()
    local service = start(before)
    expect(service:heat "get", old_value)
    service:reload(after)
    expect(service:call "get", new_value)
    expect(service:heat "get", new_value)
  end)
end

-- A loop, so that there is something to compile.
local LOOP = "local sum = 0; for i = 1, 100 do sum = sum + %s end; return sum"
local function looped(head, what)
  return "local c = {}\n" .. head .. "\nfunction c.get() " .. LOOP:format(what) .. " end\nreturn c"
end

-- Constants -------------------------------------------------------------------------------------

swap("an edited constant takes effect in compiled code",
  looped("local rate = 1", "rate"), looped("local rate = 2", "rate"), 100, 200)

swap("an edited string takes effect in compiled code",
  looped("local text = 'ab'", "#text"), looped("local text = 'abc'", "#text"), 200, 300)

swap("an edited boolean takes effect in compiled code",
  looped("local on = true", "(on and 1 or 0)"), looped("local on = false", "(on and 1 or 0)"),
  100, 0)

swap("a constant that only the file itself assigns takes its new value",
  looped("local rate = 1; if rate == 1 then rate = 5 end", "rate"),
  looped("local rate = 1; if rate == 1 then rate = 6 end", "rate"), 500, 600)

swap("an UPPER_CASE table is new",
  looped("local PRICES = { sword = 1 }", "PRICES.sword"),
  looped("local PRICES = { sword = 3 }", "PRICES.sword"), 100, 300)

swap("an UPPER_CASE local is new although a function assigns it",
  looped("local LIMIT = 1\nfunction c.set(v) LIMIT = v end", "LIMIT"),
  looped("local LIMIT = 4\nfunction c.set(v) LIMIT = v end", "LIMIT"), 100, 400)

swap("a constant may become a table",
  looped("local limit = 1", "limit"), looped("local limit = { soft = 2 }", "limit.soft"), 100, 200)

swap("a table may become a constant",
  looped("local limit = { soft = 2 }", "limit.soft"), looped("local limit = 7", "limit"), 200, 700)

swap("a local that was nil gets its table",
  looped("local cache", "(cache == nil and 1 or 0)"), looped("local cache = { 5 }", "cache[1]"),
  100, 500)

swap("a constant that gets a setter begins with its new value",
  looped("local rate = 1", "rate"),
  looped("local rate = 3\nfunction c.set(v) rate = v end", "rate"), 100, 300)

swap("a local function that calls itself is new",
  looped("local function down(n) return n == 0 and 1 or down(n - 1) end", "down(3)"),
  looped("local function down(n) return n == 0 and 2 or down(n - 1) end", "down(3)"), 100, 200)

case("a setter that is new takes effect in compiled code", function()
  local service = start(looped("local rate = 1", "rate"))
  service:heat "get"
  service:reload(looped("local rate = 3\nfunction c.set(v) rate = v end", "rate"))
  expect(service:heat "get", 300)
  for i = 1, 200 do service:call("set", i) end
  expect(service:call "get", 20000)
end)

case("state that loses its last assignment becomes a constant", function()
  local service = start("local c, on = {}, false\nfunction c.toggle() on = not on end\n"
    .. "function c.get() return on end\nreturn c")
  service:call "toggle"
  service:reload "local c, on = {}, false\nfunction c.get() return on end\nreturn c"
  expect(service:call "get", false)
end)

-- Functions -------------------------------------------------------------------------------------

swap("an edited local helper takes effect in compiled code",
  looped("local function helper(x) return x end", "helper(1)"),
  looped("local function helper(x) return x * 2 end", "helper(1)"), 100, 200)

swap("an edited helper of a helper takes effect",
  looped("local function a() return 1 end local function b() return a() end", "b()"),
  looped("local function a() return 9 end local function b() return a() end", "b()"), 100, 900)

swap("a command that calls a command gets the new one",
  looped("function c.one() return 1 end", "c.one()"),
  looped("function c.one() return 2 end", "c.one()"), 100, 200)

swap("a helper declared before its definition is new",
  looped("local helper\nfunction c.other() return helper() end\nfunction helper() return 1 end",
    "helper()"),
  looped("local helper\nfunction c.other() return helper() end\nfunction helper() return 2 end",
    "helper()"), 100, 200)

swap("another function of the library is new",
  looped("local round = math.floor", "round(1.5)"), looped("local round = math.ceil", "round(1.5)"),
  100, 200)

case("a deleted command disappears, a new one appears", function()
  local service = start "local c = {}\nfunction c.a() end\nfunction c.b() end\nreturn c"
  local old = service.commands
  service:reload "local c = {}\nfunction c.b() return 2 end\nfunction c.d() return 4 end\nreturn c"
  expect(service.commands, old)
  expect(service.commands.a, nil)
  expect(service:call "b", 2)
  expect(service:call "d", 4)
end)

case("a deleted local helper is not needed any more", function()
  local service = start(looped("local function helper() return 1 end", "helper()"))
  service:reload(looped("", "3"))
  expect(service:call "get", 300)
end)

case("the table of commands may change its name", function()
  local text = "local c = {}\nfunction c.a() return c.b() end\n"
    .. "function c.b() return STEP end\nreturn c"
  local service = start((text:gsub("STEP", "1")))
  service:reload((text:gsub("STEP", "2"):gsub("%f[%w]c%f[%W]", "d")))
  expect(service:call "a", 2)
end)

case("CMD, as in skynet, is the table of commands and no constant", function()
  local text = [[
    local CMD = {}
    CMD.count = 0
    function CMD.add() CMD.count = CMD.count + STEP return CMD.count end
    return CMD]]
  local service = start((text:gsub("STEP", "1")))
  local old = service.commands
  service:call "add"
  service:reload((text:gsub("STEP", "10")))
  expect(service.commands, old)
  expect(service:call "add", 11)
end)

case("a second table may appear and disappear", function()
  local with = "local c, p = {}, {}\nfunction c.a() end\nfunction p.hit() return c.a, 1 end\n"
    .. "return c, p"
  local service = start "local c = {}\nfunction c.a() end\nreturn c"
  service:reload(with)
  expect((service.client.hit()), service.commands.a)
  local client = service.client
  service:reload(with)
  expect(service.client, client)
  service:reload "local c = {}\nfunction c.a() end\nreturn c"
  expect(service.client, nil)
  expect(client.hit, nil)
end)

case("a timer by name finds the new function, an old function keeps its code and shares state",
  function()
    local text = [[
      local c, ticks = {}, 0
      function c.start() return function() ticks = ticks + STEP; return ticks end end
      function c.on_tick() ticks = ticks + STEP; return ticks end
      return c]]
    local service = start((text:gsub("STEP", "1")))
    local old_timer = service:call "start"
    old_timer()
    service:call "on_tick"
    service:reload((text:gsub("STEP", "100")))
    expect(service:call "on_tick", 102)
    expect(old_timer(), 103)
    expect(service:call "on_tick", 203)
  end)

case("a task that waits goes on in the old code and sees new state", function()
  local text = [[
    local c, total = {}, 0
    local function step() return STEP end
    function c.run()
      coroutine.yield()
      total = total + step()
      return total
    end
    function c.set(v) total = v end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  local task = coroutine.create(service.commands.run)
  coroutine.resume(task)
  service:reload((text:gsub("STEP", "100")))
  service:call("set", 1000)
  local _, total = coroutine.resume(task)
  expect(total, 1001)
end)

case("commands made in a loop each keep their own state and get the new code", function()
  local text = [[
    local c = {}
    for _, name in ipairs { "a", "b" } do
      local calls = 0
      c[name] = function() calls = calls + STEP; return name .. calls end
    end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:call "a"
  service:call "a"
  service:call "b"
  service:reload((text:gsub("STEP", "10"):gsub('"b"', '"b", "d"')))
  expect(service:call "a", "a12")
  expect(service:call "b", "b11")
  expect(service:call "d", "d10")
  service:reload((text:gsub("STEP", "10"):gsub(', "b"', "")))
  expect(service.commands.b, nil)
end)

case("closures of one factory keep their own state", function()
  local text = [[
    local c = {}
    local function counter()
      local n = 0
      return function() n = n + STEP; return n end
    end
    local first, second = counter(), counter()
    function c.first() return first() end
    function c.second() return second() end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:call "first"
  service:call "first"
  service:call "second"
  service:reload((text:gsub("STEP", "10")))
  expect(service:call "first", 12)
  expect(service:call "second", 11)
end)

case("a lock that the library gave is kept", function()
  local text = [[
    local engine = require "engine"
    local c, enter = {}, engine.lock()
    function c.enter() return enter() * STEP end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:call "enter"
  service:call "enter"
  service:reload((text:gsub("STEP", "10")))
  expect(service:call "enter", 30)
end)

case("what the library made of a constant is new", function()
  local text = [[
    local engine = require "engine"
    local c, add = {}, engine.adder(STEP)
    function c.get() return add(1) end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:reload((text:gsub("STEP", "10")))
  expect(service:call "get", 11)
end)

case("a function of the script that the library wrapped is new, its state is kept", function()
  local text = [[
    local engine = require "engine"
    local c, total = {}, 0
    local run = engine.wrap(function(n) total = total + n * STEP; return total end)
    c.run = engine.wrap(function(n) return run(n) end)
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:call("run", 5)
  service:reload((text:gsub("STEP", "10")))
  expect(service:call("run", 5), 55)
end)

-- State -----------------------------------------------------------------------------------------

case("numbers that functions assign are kept, in compiled code too", function()
  local text = [[
    local c, total = {}, 0
    function c.add(n) for i = 1, 100 do total = total + n end return total end
    return c]]
  local service = start(text)
  local total = service:heat("add", 1)
  service:reload((text:gsub("total %+ n", "total + 2 * n")))
  expect(service:call("add", 1), total + 200)
  service:heat("add", 1)
  service:reload(text)
  expect(service:call("add", 1), total + 200 + 300 * 200 + 100)
end)

case("state that several functions share stays shared", function()
  local text = [[
    local c, total = {}, 0
    function c.add(n) total = total + n end
    function c.get() return total end
    return c]]
  local service = start(text)
  service:call("add", 5)
  service:reload(text .. "\n")
  service:call("add", 6)
  expect(service:call "get", 11)
end)

case("tables are kept", function()
  local text = [[
    local c, players = {}, {}
    function c.join(name) players[#players + 1] = name; return players end
    return c]]
  local service = start(text)
  local players = service:call("join", "ann")
  service:reload((text:gsub("= name", "= name .. '!'")))
  expect(service:call("join", "bob"), players)
  expect(table.concat(players, ","), "ann,bob!")
end)

case("a new local begins with its new value", function()
  local service = start "local c, a = {}, 1\nfunction c.get() a = a + 1 return a end\nreturn c"
  service:call "get"
  service:reload [[
    local c, a, b = {}, 1, 50
    function c.get() a = a + 1 b = b + 1 return a + b end
    return c]]
  expect(service:call "get", 54)
  expect(service:call "get", 56)
end)

case("state stays when it is declared in another place and in another order", function()
  local service = start [[
    local a, b = 0, 0
    local c = {}
    function c.set(x, y) a, b = x, y end
    return c]]
  service:call("set", 1, 2)
  service:reload [[
    local c = {}
    local b = 0
    local function helper() b = b end
    local a = 0
    function c.set(x, y) a, b = x, y end
    function c.get() helper() return a * 10 + b end
    return c]]
  expect(service:call "get", 12)
end)

case("a table that was never assigned may be assigned by the new text", function()
  local before = looped("local list = { 1 }\nfunction c.list() return list end", "list[1]")
  local after = looped("local list = { 1 }\nfunction c.list() return list end\n"
    .. "function c.clear() for i = 1, 100 do list = { i } end end", "list[1]")
  local service = start(before)
  service:heat "get"
  local list = service:call "list"
  list[1] = 3
  local old_get = service.commands.get -- compiled, and in it `list` is a constant
  service:reload(after)
  expect(service:call "list", list)
  expect(old_get(), 300)
  service:call "clear"
  expect(old_get(), 10000)
  expect(service:heat "get", 10000)
  service:heat "clear"
  expect(service:call "get", 10000)
  service:reload(before)
  expect(service:heat "get", 10000)
  service:reload(after)
  service:heat "clear"
  expect(service:call "get", 10000)
end)

case("an old compiled loop sees what the new text assigns to its constant", function()
  local service = start(looped("local rate = 1", "rate"))
  service:heat "get"
  local old_get = service.commands.get
  service:reload(looped("local rate\nfunction c.set(v) rate = v end", "rate"))
  expect(service:call "get", 100)
  service:call("set", 5)
  expect(old_get(), 500)
end)

case("state survives ten reloads", function()
  local text = [[
    local c, n, list = {}, 0, {}
    function c.add() n = n + STEP; list[#list + 1] = n; return n, #list end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  for i = 2, 11 do
    service:call "add"
    service:reload((text:gsub("STEP", tostring(i))))
  end
  local n, count = service:call "add"
  expect(n, 66)
  expect(count, 11)
end)

case("a local that holds nil at the time is kept", function()
  local text = [[
    local c, current = {}, "nobody"
    function c.set(v) current = v end
    function c.get() return current end
    return c]]
  local service = start(text)
  service:call("set", nil)
  service:reload(text .. "\n")
  expect(service:call "get", nil)
end)

case("state that only a nested function assigns is kept", function()
  local text = [[
    local c, ticks = {}, 0
    function c.start() return function() ticks = ticks + 1 end end
    function c.get() return ticks end
    return c]]
  local service = start(text)
  service:call "start" ()
  service:reload(text .. "\n")
  expect(service:call "get", 1)
end)

-- Tables with functions -------------------------------------------------------------------------

local PLAYER = [[
  local c, players = {}, {}
  local Player = {}
  Player.__index = Player
  function Player.new(name) return setmetatable({ name = name, hp = 10 }, Player) end
  function Player:hit() self.hp = self.hp - STEP; return self.hp end
  function c.join(name) players[name] = Player.new(name) return players[name] end
  function c.hit(name) return players[name]:hit() end
  return c]]

case("methods of living objects are new, the class is the same", function()
  local service = start((PLAYER:gsub("STEP", "1")))
  local ann = service:call("join", "ann")
  local class = getmetatable(ann)
  service:call("hit", "ann")
  service:reload((PLAYER:gsub("STEP", "5")))
  expect(service:call("hit", "ann"), 4)
  local bob = service:call("join", "bob")
  expect(getmetatable(bob), class)
  expect(class.__index, class)
  expect(rawget(bob, "hp"), 10)
end)

case("methods of living objects are new in compiled code", function()
  local text = PLAYER:gsub("return c$", [[
    function c.get()
      local player, sum = players.ann, 0
      for i = 1, 100 do sum = sum + player:value() end
      return sum
    end
    function Player:value() return STEP end
    return c]])
  local service = start((text:gsub("STEP", "1")))
  service:call("join", "ann")
  expect(service:heat "get", 100)
  service:reload((text:gsub("STEP", "5")))
  expect(service:call "get", 500)
end)

case("a class gets new methods and loses deleted ones", function()
  local service = start((PLAYER:gsub("STEP", "1")))
  local ann = service:call("join", "ann")
  service:reload((PLAYER:gsub("STEP", "1"):gsub("Player:hit", "Player:strike")
    :gsub("players%[name%]:hit", "players[name]:strike")))
  expect(service:call("hit", "ann"), 9)
  expect(ann.hit, nil)
end)

case("a class that inherits has the new methods of both", function()
  local text = [[
    local c = {}
    local Base = {}
    Base.__index = Base
    function Base:name() return "base" .. STEP end
    local Derived = setmetatable({}, { __index = Base })
    Derived.__index = Derived
    function Derived:own() return "own" .. STEP end
    local object = setmetatable({}, Derived)
    function c.get() return object:name() .. object:own() end
    function c.object() return object end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  local object = service:call "object"
  service:reload((text:gsub("STEP", "2")))
  expect(service:call "get", "base2own2")
  expect(service:call "object", object)
  expect(object:name(), "base2")
end)

case("another parent class takes effect", function()
  local text = [[
    local c = {}
    local A = {}
    local B = {}
    function A.get() return "a" end
    function B.get() return "b" end
    local Derived = setmetatable({}, { __index = PARENT })
    function c.get() return Derived.get() end
    function c.unused() return A, B end
    return c]]
  local service = start((text:gsub("PARENT", "A")))
  service:reload((text:gsub("PARENT", "B")))
  expect(service:call "get", "b")
end)

case("classes that refer to each other in cycles are joined", function()
  local text = [[
    local c = {}
    local Room, Door = {}, {}
    Room.__index, Door.__index = Room, Door
    Room.door_class, Door.room_class = Door, Room
    Room.self = { room = Room, again = {} }
    Room.self.again.again = Room.self
    function Room:get() return STEP, Room, Door, self.door_class.room_class end
    local room = setmetatable({}, Room)
    function c.get() return room:get() end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  local _, room, door = service:call "get"
  service:reload((text:gsub("STEP", "2")))
  local step, new_room, new_door, again = service:call "get"
  expect(step, 2)
  expect(new_room, room)
  expect(new_door, door)
  expect(again, room)
end)

case("a table of handlers below state gets the new functions, its other entries stay", function()
  local text = [[
    local c = {}
    local game = { players = { first = 1 }, count = 0, on = { chat = function() return STEP end } }
    function c.chat() game.count = game.count + 1 return game.on.chat() * 100 + game.count end
    function c.game() return game end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  expect(service:call "chat", 101)
  local game = service:call "game"
  game.players.first, game.players.ann = nil, 2
  service:reload((text:gsub("STEP", "2")))
  expect(service:call "chat", 202)
  expect(service:call "game", game)
  expect(game.players.ann, 2)
  expect(game.players.first, nil)
end)

case("a field that is new in state is added, one that was used up is not", function()
  local service = start [[
    local c, stats = {}, { joins = 0, gift = true }
    function c.join() stats.joins = stats.joins + 1 stats.gift = nil end
    return c]]
  service:call "join"
  service:reload [[
    local c, stats = {}, { joins = 0, gift = true, leaves = 0 }
    function c.leave() stats.leaves = stats.leaves + 1 return stats end
    return c]]
  local stats = service:call "leave"
  expect(stats.leaves, 1)
  expect(stats.joins, 1)
  expect(stats.gift, nil)
end)

case("a callback that a function put into state stays", function()
  local text = [[
    local c, callbacks, total = {}, {}, 0
    function c.register() callbacks.tick = function() total = total + STEP return total end end
    function c.tick() return callbacks.tick() end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:call "register"
  service:call "tick"
  service:reload((text:gsub("STEP", "100")))
  expect(service:call "tick", 2)
  service:call "register"
  expect(service:call "tick", 102)
end)

case("a command that a function put there stays, with the new code if it has a name", function()
  local text = [[
    local c, total = {}, 0
    local function named() total = total + STEP return total end
    function c.setup(name)
      c[name] = named
      c[name .. "2"] = function() total = total + STEP return total end
    end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:call("setup", "dynamic")
  service:reload((text:gsub("STEP", "10")))
  expect(service:call "dynamic", 10)
  expect(service:call "dynamic2", 11)
end)

case("an UPPER_CASE class keeps its objects and takes all its new values", function()
  local text = [[
    local c, npcs = {}, {}
    local NPC = { speed = STEP }
    NPC.__index = NPC
    function NPC:get() return self.speed * STEP end
    function c.add() npcs[1] = setmetatable({}, NPC) return npcs[1] end
    function c.get() return npcs[1]:get() end
    return c]]
  local service = start((text:gsub("STEP", "2")))
  local npc = service:call "add"
  expect(service:call "get", 4)
  service:reload((text:gsub("STEP", "3")))
  expect(service:call "get", 9)
  expect(getmetatable(service:call "add"), getmetatable(npc))
end)

case("an UPPER_CASE field of a class is new", function()
  local text = [[
    local c, Player = {}, {}
    Player.MAX_HP, Player.count = STEP, 0
    function c.get() Player.count = Player.count + 1 return Player.MAX_HP + Player.count end
    return c]]
  local service = start((text:gsub("STEP", "10")))
  service:call "get"
  service:reload((text:gsub("STEP", "20")))
  expect(service:call "get", 22)
end)

case("an UPPER_CASE table may hold functions and classes of the script", function()
  local text = [[
    local c = {}
    local Player = {}
    function Player.get() return STEP end
    local function helper() return STEP end
    local TABLE = { { Player, helper } }
    function c.get() return TABLE[1][1].get() + TABLE[1][2](), TABLE[1][1] == Player end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:reload((text:gsub("STEP", "2")))
  local sum, is_same = service:call "get"
  expect(sum, 4)
  expect(is_same, true)
end)

case("a metatable of state gets the new metamethods", function()
  local text = [[
    local c = {}
    local state = setmetatable({}, { __index = function(_, key) return key .. STEP end })
    function c.get() return state.x end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:reload((text:gsub("STEP", "2")))
  expect(service:call "get", "x2")
  service:reload((text:gsub("STEP", "3"):gsub("__index", "__call")
    :gsub("state%.x", "state('y')")))
  expect(service:call "get", "y3")
end)

case("a mode that a function chose by metatable stays", function()
  local text = [[
    local c = {}
    local Idle, Busy = { name = "idle" }, { name = "busy" }
    Idle.__index, Busy.__index = Idle, Busy
    local state = setmetatable({}, Idle)
    function c.work() setmetatable(state, Busy) end
    function c.get() return state.name end
    return c]]
  local service = start(text)
  service:call "work"
  service:reload(text .. "\n")
  expect(service:call "get", "busy")
end)

case("a constant table that another table refers to is new there, too", function()
  local text = [[
    local c = {}
    local ITEMS = { price = STEP }
    local shop = { items = ITEMS, sold = 0 }
    function c.get() shop.sold = shop.sold + 1 return shop.items.price + shop.sold, ITEMS end
    return c]]
  local service = start((text:gsub("STEP", "10")))
  service:call "get"
  service:reload((text:gsub("STEP", "20")))
  expect((service:call "get"), 22)
end)

case("state behind a long chain of helpers and classes is found beside much other state",
  function()
    local parts = { [[
      local c, big = {}, {}
      for i = 1, 3000 do big[i] = { {}, {}, { i } } end
      local hidden = 0
      local A0 = {}
      function A0.get() hidden = hidden + STEP return hidden end]] }
    for i = 1, 20 do
      parts[#parts + 1] = ("local a%d = {} function a%d.get() return %s.get(), big end")
        :format(i, i, i == 1 and "A0" or "a" .. i - 1)
    end
    parts[#parts + 1] = "function c.get() return (a20.get()) end return c"
    local text = table.concat(parts, "\n")
    local service = start((text:gsub("STEP", "1")))
    expect(service:call "get", 1)
    service:reload((text:gsub("STEP", "10")))
    expect(service:call "get", 11)
  end)

-- Modules ---------------------------------------------------------------------------------------

case("a required module that is loaded again keeps its table and its state", function()
  local text = [[
    local c, tools = {}, require "util"
    function c.get() return tools.next() end
    return c]]
  local module = [[
    local util, n = {}, 0
    util.seen = {}
    function util.next() n = n + STEP util.seen[#util.seen + 1] = n return n end
    return util]]
  local service = start(text, { util = (module:gsub("STEP", "1")) })
  service:call "get"
  local table_of = service.modules.util.value
  local seen = table_of.seen
  service:reload(text, { util = (module:gsub("STEP", "10")) })
  expect(service:call "get", 11)
  expect(service.modules.util.value, table_of)
  expect(table_of.seen, seen)
  expect(#seen, 2)
end)

case("a module loses deleted functions and gets new ones", function()
  local text = [[
    local c, tools = {}, require "util"
    function c.get() return tools end
    return c]]
  local service = start(text, { util = "local u = {} function u.a() end return u" })
  service:reload(text, { util = "local u = {} function u.b() return u.b end return u" })
  local tools = service:call "get"
  expect(tools.a, nil)
  expect(tools.b(), tools.b)
end)

case("another module under the same name is new", function()
  local text = [[
    local c, backend = {}, require "NAME"
    function c.get() return backend.name() end
    return c]]
  local modules = {
    one = "local m = {} function m.name() return 'one' end return m",
    two = "local m = {} function m.name() return 'two' end return m",
  }
  local service = start((text:gsub("NAME", "one")), { one = modules.one })
  service:reload((text:gsub("NAME", "two")), { two = modules.two })
  expect(service:call "get", "two")
end)

case("a module that is not loaded again is left alone", function()
  local text = [[
    local c, tools = {}, require "util"
    function c.get() return tools.count() + STEP end
    return c]]
  local service = start((text:gsub("STEP", "0")),
    { util = "local u, n = {}, 0 function u.count() n = n + 1 return n end return u" })
  service:call "get"
  service:reload((text:gsub("STEP", "100")))
  expect(service:call "get", 102)
end)

case("classes of a module serve the objects of the script", function()
  local text = [[
    local c, Player = {}, require "player"
    local ann = Player.new()
    function c.get() return ann:get() end
    return c]]
  local module = [[
    local Player = {}
    Player.__index = Player
    function Player.new() return setmetatable({ hp = 1 }, Player) end
    function Player:get() self.hp = self.hp + STEP return self.hp end
    return Player]]
  local service = start(text, { player = (module:gsub("STEP", "1")) })
  expect(service:call "get", 2)
  service:reload(text, { player = (module:gsub("STEP", "10")) })
  expect(service:call "get", 12)
end)

case("a part of a library, and a library's table, are no state", function()
  local text = [[
    local engine = require "engine"
    local c, part, lib = {}, PART, LIB
    function c.get() return part, lib end
    return c]]
  local service = start((text:gsub("PART", "engine.log"):gsub("LIB", "string")))
  service:reload((text:gsub("PART", "table"):gsub("LIB", "engine.log")))
  local part, lib = service:call "get"
  expect(part, table)
  expect(lib, engine.log)
  expect(engine.log.concat, nil)
end)

-- Globals ---------------------------------------------------------------------------------------

case("globals: functions and constants are new, state stays, nothing shows before", function()
  local service = start [[
    local c = {}
    total, rate, players = 0, 1, {}
    function helper() return rate end
    function c.get() total = total + helper() players[total] = true return total, players end
    return c]]
  local _, players = service:call "get"
  local text = [[
    local c = {}
    total, rate, players, fresh = 0, 100, {}, 7
    function helper() return rate * 2 end
    function c.get() total = total + helper() return total, players, fresh end
    return c]]
  assert(service:plan(text))
  expect(service.env.rate, 1)
  expect(service.env.fresh, nil)
  expect((service:call "get"), 2)
  service:reload(text)
  local total, new_players, fresh = service:call "get"
  expect(total, 202)
  expect(new_players, players)
  expect(fresh, 7)
  expect(service.env.rate, 100)
  expect(getfenv(service.commands.get), service.env)
  expect(service.env._G, service.env)
end)

-- Refusals --------------------------------------------------------------------------------------

local function refused(name, before, after, ...)
  local patterns = { ... }
  case(name, function()
    local service = start(before)
    local old = {}
    for key, value in pairs(service.commands) do old[key] = value end
    local plan, problems = service:plan(after)
    expect(plan, nil)
    local text = table.concat(problems, "\n")
    for _, pattern in ipairs(patterns) do
      assert(text:find(pattern), text .. " does not match " .. pattern)
    end
    for key, value in pairs(service.commands) do expect(value, old[key]) end
    for key in pairs(old) do expect(service.commands[key], old[key]) end
  end)
end

local TWO = [[
local c = {}
do
  local n = 0
  function c.a() n = n + 1 return n end
end
do
  local n = 0
  function c.b() n = n + 1 return n end
end
return c]]

refused("two captured locals of one name are refused with both lines",
  "local c = {}\nfunction c.a() end\nreturn c", TWO, "^service/x%.lua:7: ", 'local "n"', "line 3")

refused("a local that shadows another is refused when functions use both",
  "local c = {}\nreturn c",
  "local c = {}\nlocal n = 1\nfunction c.a() return n end\nlocal n = 2\n"
    .. "function c.b() return n end\nreturn c", "^service/x%.lua:4: ", "line 2")

refused("state that was ambiguous in the running text is refused",
  TWO, "local c, n = {}, 0\nfunction c.a() n = n + 1 return n end\nreturn c",
  "running version", "x%.lua:7: ", "line 3")

refused("a script that returns no table is refused",
  "local c = {}\nreturn c", "return 5", "^service/x%.lua:1: .*number")

case("locals of one name are fine when functions use one of them only", function()
  local text = "local c = {}\nlocal n = 1\nn = n + STEP\nlocal n = n\nfunction c.a() return n end\n"
    .. "return c"
  local service = start((text:gsub("STEP", "1")))
  service:reload((text:gsub("STEP", "5")))
  expect(service:call "a", 6)
end)

case("locals of one name in functions are fine", function()
  local text = [[
    local c = {}
    function c.a() local n = 0 return function() n = n + 1 return n end end
    function c.b() local n = 0 return function() n = n + 2 return n end end
    for i = 1, 2 do c["x" .. i] = function() return i end end
    for i = 3, 4 do c["x" .. i] = function() return i end end
    return c]]
  local service = start(text)
  service:reload(text .. "\n")
  expect(service:call "b" (), 2)
  expect(service:call "x4", 4)
end)

case("a refused plan and an unused one leave everything as it was", function()
  local head = "local rate = STEP\nlocal n = 0\nfunction c.add() n = n + STEP return n end"
  local service = start(looped((head:gsub("STEP", "1")), "rate"))
  service:call "add"
  service:heat "get"
  assert(service:plan(looped((head:gsub("STEP", "5")), "rate")))
  expect(service:call "get", 100)
  expect(service:call "add", 2)
end)

-- Back ------------------------------------------------------------------------------------------

case("undo brings the old code back and keeps the state", function()
  local text = [[
    local c, n, list = {}, 0, {}
    local Class = { RATE = STEP }
    Class.__index = Class
    function Class.get() return STEP end
    function c.add() n = n + Class.get() list[#list + 1] = n return n, list end
    function c.only_STEP() end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:call "add"
  local plan = service:reload((text:gsub("STEP", "10")))
  expect((service:call "add"), 11)
  expect(service.commands.only_1, nil)
  local before = reload.undo(plan)
  expect(before.commands, service.commands)
  local n, list = service:call "add"
  expect(n, 12)
  expect(#list, 3)
  assert(service.commands.only_1 and not service.commands.only_10)
end)

case("code of the script is not called", function()
  local text = [[
    local c = {}
    local function trap() error "called" end
    local meta = { __eq = trap, __index = trap, __newindex = trap, __len = trap, __call = trap }
    local state = { a = setmetatable({}, meta), b = setmetatable({}, meta) }
    local other = setmetatable({}, meta)
    local PAIR = { setmetatable({}, meta), other }
    function c.get() return state, other, PAIR, STEP end
    return setmetatable(c, { __pairs = trap, __ipairs = trap, __metatable = "none" })]]
  local service = start((text:gsub("STEP", "1")))
  service:reload((text:gsub("STEP", "2")))
  local _, _, _, step = service:call "get"
  expect(step, 2)
end)

-- Size ------------------------------------------------------------------------------------------

case("a million entries of state make no difference", function()
  local text = [[
    local c, list = {}, {}
    for i = 1, 10 do list[i] = { i } end
    function c.fill() for i = 1, 300000 do list[i] = { value = { i } } end end
    function c.get() return #list * STEP end
    return c]]
  local service = start((text:gsub("STEP", "1")))
  service:call "fill"
  local began = os.clock()
  service:reload((text:gsub("STEP", "2")))
  local took = os.clock() - began
  expect(service:call "get", 600000)
  assert(took < 0.5, took)
end)

case("a text with more than 256 constants and nested functions is understood", function()
  local parts = { "local c, n = {}, 0" }
  for i = 1, 300 do
    parts[#parts + 1] = ("function c.f%d() local x = 'text %d' return function() n = n + STEP"
      .. " return n, x end end"):format(i, i)
  end
  parts[#parts + 1] = "return c"
  local text = table.concat(parts, "\n")
  local service = start((text:gsub("STEP", "1")))
  service:call "f7" ()
  service:reload((text:gsub("STEP", "10"):gsub("function c.f300.*$", "return c")))
  local n, x = service:call "f299" ()
  expect(n, 11)
  expect(x, "text 299")
  expect(service.commands.f300, nil)
end)

print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and 0 or 1)
