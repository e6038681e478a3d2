-- Promise 32 in its first form: perilune.reload from end to end. The rules of joining have tests of
-- their own, reload_join_test.lua.

local perilune = require "perilune"
local file = require "perilune.file"
local support = require "support"
local test = require "perilune.test"

local names = 0

-- A name that no script has had: texts are kept by name.
local function new_name()
  names = names + 1
  return "reloaded_" .. names
end

local function write(name, text) test.ok(file.write(name .. ".lua", text)) end

-- Reloads, which has to work for `count` services.
local function reload(name, count)
  local services, problems = perilune.reload(name)
  test.equal({ services, problems }, { count or 1, {} })
end

-- Runs a body with a service of a text, isolated and light: body(service, rewrite, name).
local function with_service(text, body)
  for _, group in ipairs { false, "reloads" } do
    local name = new_name()
    write(name, text)
    local service = perilune.spawn(name, nil, { group = group or nil })
    local function rewrite(new_text)
      write(name, new_text)
      reload(name)
    end
    local ok, problem = pcall(body, service, rewrite, name)
    perilune.kill(service)
    file.remove(name .. ".lua")
    if not ok then error(problem, 0) end
  end
end

local COUNTER = [[
local perilune = require "perilune"
local counter = {}
local STEP = 1
local greeting = "hello"
local total = 0
local log = {}

local function describe(value) return greeting .. " " .. value end

function counter.on_start() perilune.every(5, "on_tick") end
function counter.on_tick() log.ticks = (log.ticks or 0) + 1 end
function counter.add() total = total + STEP return total end
function counter.describe(value) return describe(value) end
function counter.ticks() return log.ticks, log.version end
function counter.old() return "old command" end
return counter
]]

local COUNTER_2 = [[
local perilune = require "perilune"
local counter = {}
local STEP = 10
local greeting = "good evening"
local total = 0
local log = {}

local function describe(value) return greeting .. ", " .. value .. "!" end

function counter.on_start() perilune.every(5, "on_tick") end
function counter.on_tick() log.ticks, log.version = 0, 2 end
function counter.add() total = total + STEP return total end
function counter.describe(value) return describe(value) end
function counter.ticks() return log.ticks, log.version end
function counter.new(value) return describe(value) .. total end
return counter
]]

test("constants, helpers, commands and timers are new, state stays", function()
  with_service(COUNTER, function(service, rewrite)
    for i = 1, 3 do test.equal(perilune.call(service, "add"), i) end
    test.eventually(function() return perilune.call(service, "ticks") end)
    test.equal(perilune.call(service, "describe", "you"), "hello you")
    rewrite(COUNTER_2)
    test.equal(perilune.call(service, "add"), 13)
    test.equal(perilune.call(service, "describe", "you"), "good evening, you!")
    test.equal(perilune.call(service, "new", "all"), "good evening, all!13")
    test.raises(function() perilune.call(service, "old") end, 'has no command "old"')
    test.eventually(function() return select(2, perilune.call(service, "ticks")) == 2 end)
    test.equal(perilune.stats(service).version, 2)
    test.equal(perilune.stats(service).errors, 1)
    test.equal(perilune.stats(service).timers, 1)
  end)
end)

test("a text without any command is refused, and the old one goes on", function()
  with_service(COUNTER, function(service, _, name)
    perilune.call(service, "add")
    write(name, "return {}")
    local count, problems = perilune.reload(name)
    test.equal({ count, #problems }, { 0, 1 })
    for _, problem in ipairs(problems) do
      test.ok(problem:find "no commands any more, and had add, describe, old", problem)
    end
    write(name, COUNTER)
    perilune.reload(name)
    test.equal(perilune.call(service, "add"), 2)
  end)
end)

test("a reload of a text that hasn't changed does nothing", function()
  with_service(COUNTER, function(service, _, name)
    perilune.call(service, "add")
    reload(name, 0)
    test.equal(perilune.stats(service).version, 1)
    test.equal(perilune.call(service, "add"), 2)
  end)
end)

test("a reload by the service's name, by the script's and of all that has changed", function()
  local name = new_name()
  write(name, COUNTER)
  local first = perilune.spawn(name, nil, { name = "named service" })
  local second = perilune.spawn(name)
  local light = perilune.spawn(name, nil, { group = "reloads" })
  write(name, COUNTER_2)
  reload("named service", 1)
  test.equal(perilune.call(first, "add"), 10)
  test.equal(perilune.call(second, "add"), 1)
  reload(name, 2)
  test.equal({ perilune.call(second, "add"), perilune.call(light, "add") }, { 11, 10 })
  write(name, COUNTER)
  reload(nil, 3)
  for i, service in ipairs { first, second, light } do
    test.equal(perilune.call(service, "add"), ({ 11, 12, 11 })[i])
    test.equal(perilune.stats(service).version, 3)
    perilune.kill(service)
  end
end)

test("a reload of what nobody knows says so", function()
  local services, problems = perilune.reload "no_such_script"
  test.equal(services, 0)
  test.equal(#problems, 1)
  test.ok(problems[1]:find "no_such_script", problems[1])
end)

test("services that start after a reload run the new text", function()
  with_service(COUNTER, function(_, rewrite, name)
    rewrite(COUNTER_2)
    local second = perilune.spawn(name)
    test.equal(perilune.call(second, "add"), 10)
    perilune.kill(second)
  end)
end)

test("compiled loops see the new values", function()
  local text = [[
    local hot = {}
    local FACTOR = %d
    local function scale(x) return x * FACTOR end
    function hot.run(n)
      local sum = 0
      for i = 1, n do sum = sum + scale(1) end
      return sum
    end
    return hot]]
  with_service(text:format(2), function(service, rewrite)
    for _ = 1, 200 do
      perilune.call(service, "run", 20000)
      if perilune.stats(service).jit then break end
    end
    if support.sanitizer ~= "tsan" then test.ok(perilune.stats(service).jit) end
    for _ = 1, 5 do test.equal(perilune.call(service, "run", 100000), 200000) end
    rewrite(text:format(3))
    for _ = 1, 5 do test.equal(perilune.call(service, "run", 100000), 300000) end
    rewrite(text:format(5))
    for _ = 1, 5 do test.equal(perilune.call(service, "run", 100000), 500000) end
  end)
end, support.patience(30000))

test("a module that has changed is new in the services that required it", function()
  local module = new_name()
  write(module, "local M = {} M.RATE = 1 function M.price(x) return x * M.RATE end return M")
  with_service(([[
    local prices = require "%s"
    local shop = {}
    local sold = 0
    function shop.sell(x) sold = sold + prices.price(x) return sold end
    return shop]]):format(module), function(service)
    test.equal(perilune.call(service, "sell", 10), 10)
    write(module, "local M = {} M.RATE = 3 function M.price(x) return x * M.RATE + 1 end return M")
    reload(module)
    test.equal(perilune.call(service, "sell", 10), 41)
    write(module, "local M = {} M.RATE = 1 function M.price(x) return x * M.RATE end return M")
    reload(module)
    test.equal(perilune.call(service, "sell", 10), 51)
  end)
  file.remove(module .. ".lua")
end)

-- ---- texts that can't be ----

local BROKEN = {
  { "local x = = 5", ":1: unexpected symbol near '='" },
  { "\n\nerror 'while loading'", ":3: while loading" },
  { "return nil + 1", ":1: attempt to perform arithmetic" },
  { "return 5", "table" },
  { "", "table" },
  { "require 'no_such_module' return {}", "no_such_module" },
  { "while true do end", "without a pause" },
  { "local t = {} while true do t[#t + 1] = {} end", "memory" },
  { "require('perilune').sleep(5) return {}", "perilune.sleep" },
  { "return io.open('x')", "io" },
}

-- Puts a spy in the place of each function that it can reach, and lists the calls that they see.
local SPY = [[
local spy, calls = {}, {}
local STEP = 1
local next, pcall, type = next, pcall, type

local function watch(library)
  local found = {}
  for name, f in next, library do
    if type(f) == "function" then found[name] = f end
  end
  for name, f in next, found do
    pcall(function()
      library[name] = function(...)
        calls[#calls + 1] = name
        return f(...)
      end
    end)
  end
end

function spy.plant()
  for _, library in next, { string, table, math, bit, os, debug, coroutine } do watch(library) end
  watch(_G)
end
function spy.calls()
  local list = calls
  calls = {}
  return STEP, list
end
function spy.shout(text) return text:upper() end
return spy
]]

test("what a script has put into the libraries isn't called by its reload", function()
  with_service(SPY, function(service, rewrite)
    perilune.call(service, "plant")
    rewrite((SPY:gsub("STEP = 1", "STEP = 2")))
    test.equal({ perilune.call(service, "calls") }, { 2, {} })
    test.equal(perilune.call(service, "shout", "x"), "X")
    -- Strings have the methods of the script's library still.
    local isolated = not perilune.stats(service).group
    test.equal({ perilune.call(service, "calls") }, { 2, isolated and { "upper" } or {} })
  end)
end)

test("a text that doesn't parse, load or join changes nothing and says why", function()
  for _, entry in ipairs(BROKEN) do
    local text, pattern = entry[1], entry[2]
    with_service(COUNTER, function(service, _, name)
      for i = 1, 3 do test.equal(perilune.call(service, "add"), i) end
      write(name, text)
      local before = support.counters().reload_refusals
      local services, problems = perilune.reload(name)
      test.equal(services, 0, text)
      test.equal(#problems, 1, text)
      test.ok(problems[1]:find(pattern), problems[1])
      test.ok(problems[1]:find(name), problems[1])
      test.equal(support.counters().reload_refusals, before + 1)
      -- It goes on as it was, its timers too.
      test.equal(perilune.call(service, "add"), 4)
      test.equal(perilune.call(service, "old"), "old command")
      test.equal(perilune.stats(service).version, 1)
      local ticks = perilune.call(service, "ticks") or 0
      test.eventually(function() return (perilune.call(service, "ticks") or 0) > ticks end)
      -- And takes a good text after it.
      write(name, COUNTER_2)
      reload(name)
      test.equal(perilune.call(service, "add"), 14)
    end)
  end
end, support.patience(60000))

test("one text for two captured variables of a name is refused, naming both lines", function()
  with_service(COUNTER, function(service, _, name)
    write(name, [[
      local counter = {}
      local total = 0
      function counter.add() total = total + 1 return total end
      local total = 5
      function counter.other() total = total + 1 return total end
      return counter]])
    local services, problems = perilune.reload(name)
    test.equal(services, 0)
    test.ok(problems[1]:find "total" and problems[1]:find "2" and problems[1]:find "4", problems[1])
    test.equal(perilune.call(service, "add"), 1)
  end)
end)

test("what a text that is refused has done to globals and modules is undone", function()
  local module = new_name()
  write(module, "return { loads = 0 }")
  with_service([[
    setting = "first"
    local service = {}
    function service.setting() return setting end
    return service]], function(service, _, name)
    write(name, ("setting = 'second' require '%s'.loads = 1 error 'after all'"):format(module))
    local services = perilune.reload(name)
    test.equal(services, 0)
    test.equal(perilune.call(service, "setting"), "first")
  end)
  file.remove(module .. ".lua")
end)

-- ---- while it works ----

test("requests flow through reloads: none is lost, each is answered by one version", function()
  local text = [[
    local perilune = require "perilune"
    local service = {}
    local VERSION = %d
    local handled = 0
    local function finish(first)
      handled = handled + 1
      return first, VERSION, handled
    end
    function service.quick() return finish(VERSION) end
    function service.slow()
      local first = VERSION
      perilune.sleep(3)
      return finish(first)
    end
    function service.handled() return handled end
    return service]]
  with_service(text:format(1), function(service, rewrite)
    local total, answered, seen, done = support.scale(1000, 20000), 0, {}, false
    local version, versions, tasks = 1, 0, {}
    for caller = 1, 20 do
      tasks[caller] = function()
        local last = 0
        local i = 0
        -- They go on until two versions have answered, too.
        while i < total / 20 or versions < 2 do
          i = i + 1
          local first, second = perilune.call(service, i % 2 == 0 and "quick" or "slow")
          -- What was running when the text changed finishes on the old one.
          test.equal(first, second)
          test.ok(first <= version)
          if i % 2 == 0 then
            test.ok(first >= last, "an older version answered after a newer one")
            last = first
          end
          if not seen[first] then
            seen[first], versions = true, versions + 1
          end
          answered = answered + 1
        end
      end
    end
    perilune.fork(function()
      while not done do
        version = version + 1
        rewrite(text:format(version))
        perilune.sleep(5)
      end
      done = "stopped"
    end)
    local results = perilune.wait_all(tasks)
    done = true
    test.eventually(function() return done == "stopped" end)
    for _, result in ipairs(results) do test.ok(result[1], tostring(result[2])) end
    test.ok(answered >= total)
    test.equal(perilune.call(service, "handled"), answered)
  end)
end, support.patience(60000))

test("a task that waits across a reload goes on with its old code and the new state", function()
  local text = [[
    local perilune = require "perilune"
    local service = {}
    local VERSION = %d
    local state = { value = 0 }
    function service.wait(latch)
      if latch then perilune.name(latch .. " of " .. perilune.self()) end
      while latch and perilune.find(latch) do perilune.sleep(1) end
      state.value = state.value + 1
      return VERSION, state.value
    end
    function service.value() return state.value end
    return service]]
  with_service(text:format(1), function(service, rewrite)
    local answer
    local latch = perilune.spawn("services.worker", nil, { name = "latch" })
    perilune.fork(function() answer = { perilune.call(service, "wait", "latch") } end)
    -- A reload overtakes what waits in the mailbox.
    test.eventually(function() return perilune.find("latch of " .. service) end, 10000)
    rewrite(text:format(2))
    test.equal({ perilune.call(service, "wait") }, { 2, 1 })
    perilune.stop(latch)
    test.eventually(function() return answer end, 10000)
    test.equal(answer, { 1, 2 })
    test.equal(perilune.call(service, "value"), 2)
  end)
end)

test("a reload waits for the message that is being handled", function()
  local text = [[
    local perilune = require "perilune"
    local service = {}
    local VERSION = %d
    function service.busy(latch)
      local first = VERSION
      if latch then perilune.name(latch .. " holds") end
      while latch and perilune.find(latch) do end
      return first == VERSION and VERSION
    end
    return service]]
  with_service(text:format(1), function(service, rewrite)
    local answer, reloaded
    -- The service of the round before is perhaps still being killed.
    test.eventually(function() return not perilune.find "latch holds" end, 10000)
    local latch = perilune.spawn("services.worker", nil, { name = "latch" })
    perilune.fork(function() answer = perilune.call(service, "busy", "latch") end)
    test.eventually(function() return perilune.find "latch holds" end, 10000)
    perilune.fork(function()
      rewrite(text:format(2))
      reloaded = true
    end)
    perilune.sleep(20)
    test.equal({ reloaded, answer }, {})
    perilune.stop(latch)
    test.eventually(function() return answer and reloaded end, 10000)
    test.equal(answer, 1)
    test.equal(perilune.call(service, "busy"), 2)
  end)
end)

test("a hundred reloads leave no more memory behind than one", function()
  with_service(COUNTER, function(service, rewrite)
    local function settle()
      for _ = 1, 3 do perilune.call(service, "add") end
      return perilune.stats(service).memory
    end
    for i = 1, 20 do rewrite(COUNTER:gsub("hello", "hello " .. i)) end
    local before = settle()
    for i = 1, support.scale(100, 2000) do rewrite(COUNTER:gsub("hello", "good day " .. i)) end
    -- It is collected now and then; what it is bounded by is a few texts.
    test.ok(settle() < before + 1000000, settle() - before)
    test.equal(perilune.call(service, "describe", "x"):sub(1, 8), "good day")
  end)
end, support.is_soak and 600000 or support.patience(30000))

test("texts that no service runs any more are not kept", function()
  local functions = {}
  for i = 1, 2000 do functions[i] = ("function service.f%d(x) return x + %d end"):format(i, i) end
  local text = "local service = {}\nlocal VERSION = %d\n" .. table.concat(functions, "\n") .. [[
    function service.version() return VERSION end
    function service.kb()
      for _ = 1, 2 do while not collectgarbage("step", 1000) do end end -- luacheck: ignore
      return collectgarbage "count"
    end
    return service]]
  with_service(text:format(0), function(service, rewrite)
    for i = 1, 3 do rewrite(text:format(i)) end
    local before = perilune.call(service, "kb")
    for i = 4, 13 do rewrite(text:format(i)) end
    local more = perilune.call(service, "kb") - before
    test.ok(more < 2000, more) -- one takes 330
    test.equal(perilune.call(service, "version"), 13)
  end)
end, support.patience(30000))

test("two reloads at a time: the second says that one is under way", function()
  with_service(COUNTER, function(service, _, name)
    write(name, COUNTER_2)
    local results = perilune.wait_all {
      function() return perilune.reload(name) end,
      function() return perilune.reload(name) end,
    }
    local worked = 0
    for _, result in ipairs(results) do
      if result[1] then
        worked = worked + 1
      else
        test.ok(tostring(result[2]):find "under way", tostring(result[2]))
      end
    end
    test.ok(worked >= 1)
    test.equal(perilune.call(service, "add"), 10)
  end)
end)

return test
