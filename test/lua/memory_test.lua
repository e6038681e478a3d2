-- Promises 3 and 4: a memory bomb ends its service alone; what is nested deep gives errors.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local LIMIT_MB = 16
local WITHIN_MS = 2000
local INTERRUPT_MS = 5000 -- memory_test.config.lua

-- The largest resident size since the last call, in MB.
local function peak_rss_mb()
  local peak
  for line in io.lines "/proc/self/status" do
    peak = peak or line:match "^VmHWM:%s+(%d+)"
  end
  local reset = io.open("/proc/self/clear_refs", "w")
  if not reset then return support.rss_mb() end -- it can't be reset here
  reset:write "5"
  reset:close()
  return tonumber(peak) / 1024
end

-- All kinds; those that need the whole time of the watchdog only where there is time.
local function kinds()
  local service = perilune.spawn "services.bombs"
  local names, list = perilune.call(service, "names"), {}
  perilune.kill(service)
  for _, name in ipairs(names) do
    local is_loop = name:find "_in_x?pcall$" and not name:find "^closures" and
      not name:find "^coroutines" and not name:find "^strings" and not name:find "^hash"
    if support.is_soak or not is_loop or name == "doubling_in_xpcall" then
      list[#list + 1] = name
    end
  end
  return list
end

local function spawn_warm(settings) return support.spawn_warm("services.bombs", settings) end

local downs = {}
function test.on_down(handle, reason) downs[handle] = reason end

-- Dead for its memory, or an error that says so; true when it died.
local function explode(service, kind)
  perilune.monitor(service)
  local began = perilune.now()
  local ok, raised = pcall(perilune.call_within, support.patience(20000), service, "explode", kind)
  local took = perilune.now() - began
  test.equal(ok, false, kind)
  -- What isn't ended by its memory alone is a loop, for the watchdog.
  local is_loop = kind:find "_in_x?pcall$"
  support.in_time(took, is_loop and INTERRUPT_MS + WITHIN_MS or WITHIN_MS, kind)
  test.equal(raised.code, "error", kind .. ": " .. tostring(raised))
  test.ok(raised.message:find "memory" or raised.message:find "string length overflow" or
    raised.message:find "table overflow" or raised.message:find "over a million" or
    -- Each large request fails, pcall catches it, and what is left is a loop.
    (is_loop or support.sanitizer) and raised.message:find "without a pause",
    kind .. ": " .. raised.message)
  local dies = raised.message:find "^ended: memory %(limit %d+ MB%)"
  if dies then
    test.eventually(function() return downs[service] end, nil, kind)
    test.equal(downs[service], "memory", kind)
    test.equal(perilune.send(service, "good", 1), false)
  else
    -- A single request that was too large: the service goes on.
    local lives, value = pcall(perilune.call, service, "good", kind)
    if lives then
      test.equal(value, kind)
    else
      test.eventually(function() return downs[service] == "memory" end, nil, kind)
      return true
    end
    perilune.kill(service)
  end
  return dies
end

test("bombs of every kind end their service alone, in 2 s and 4 times the limit", function()
  local bystander = perilune.spawn("services.bombs", { keep_mb = 2 })
  local names, kills = kinds(), 0
  local before = support.counters().memory_kills
  for round = 1, support.is_soak and 10 or 1 do
    for _, kind in ipairs(names) do
      local service = spawn_warm { memory_mb = LIMIT_MB }
      peak_rss_mb()
      local rss = support.rss_mb()
      if explode(service, kind) then kills = kills + 1 end
      local growth = peak_rss_mb() - rss
      if not support.sanitizer then
        test.ok(growth <= 4 * LIMIT_MB, ("%s grew by %.1f MB in round %d"):format(kind, growth, round))
      end
    end
  end
  test.equal(support.counters().memory_kills - before, kills)
  test.ok(kills > #names / 2)
  test.equal(perilune.call(bystander, "kept"), 2)
  perilune.kill(bystander)
end, support.is_soak and 3600000 or support.patience(100000))

test("bombs in rounds, several at a time, leave the node as it was", function()
  local names, next_round, rounds = kinds(), 0, support.scale(20, 500)
  local rss
  local tasks = {}
  for i = 1, 3 do
    tasks[i] = function()
      while next_round < rounds do
        next_round = next_round + 1
        if next_round == math.floor(rounds / 2) then rss = support.rss_mb() end
        explode(spawn_warm { memory_mb = LIMIT_MB }, names[math.random(#names)])
      end
    end
  end
  for _, result in ipairs(perilune.wait_all(tasks)) do test.ok(result[1], tostring(result[2])) end
  if not support.sanitizer and rss then
    -- What is free may stay with the process, but it doesn't add up.
    test.ok(support.rss_mb() < rss + 4 * LIMIT_MB)
  end
end, support.is_soak and 3600000 or support.patience(60000))

test("a bomb that was never compiled ends its service, too", function()
  for _, kind in ipairs { "array", "hash", "array_in_pcall", "closures", "coroutines", "sort" } do
    explode(perilune.spawn("services.bombs", nil, { memory_mb = LIMIT_MB }), kind)
  end
end, support.patience(60000))

test("a bomb in on_start means that the service never was", function()
  local before = perilune.node().services
  for _, kind in ipairs { "array", "strings_in_pcall", "forks" } do
    local raised = test.raises(function()
      perilune.spawn("services.bombs", { bomb = kind }, { memory_mb = LIMIT_MB, name = "bomb" })
    end)
    test.ok(tostring(raised):find "memory", tostring(raised))
    test.equal(perilune.find "bomb", nil)
  end
  test.eventually(function() return perilune.node().services == before end)
end, support.patience(60000))

test("a bomb in a group ends the largest, and the others live", function()
  for round, kind in ipairs { "nested_tables", "strings_in_pcall", "closures", "coroutines" } do
    local group = "bombs" .. round
    local settings = { group = group, memory_mb = LIMIT_MB }
    local others = {}
    for i = 1, 5 do others[i] = perilune.spawn("services.bombs", { keep_mb = 1 }, settings) end
    local bomb = spawn_warm(settings)
    test.ok(explode(bomb, kind))
    for _, other in ipairs(others) do
      test.equal(perilune.call(other, "kept"), 1)
      perilune.kill(other)
    end
  end
end, support.patience(60000))

test("services that stay below their limit are left alone", function()
  local service = perilune.spawn("services.bombs", { keep_mb = 12 }, { memory_mb = LIMIT_MB })
  for _ = 1, 50 do
    test.equal(#perilune.call(service, "good", ("x"):rep(500000)), 500000)
  end
  local stats = perilune.stats(service)
  test.ok(stats.memory > 12 * 2 ^ 20 and stats.memory < LIMIT_MB * 2 ^ 20, stats.memory)
  perilune.kill(service)
end)

-- ---- deep ----

-- Some of these take a second where nobody else uses the machine.
local function deep(service, ...)
  return perilune.call_within(support.patience(30000), service, "deep", ...)
end

test("deep recursion and nesting give errors, and the service lives", function()
  for _, group in ipairs { false, "deep" } do
    local service = perilune.spawn("services.bombs", nil, { group = group or nil })
    for _, kind in ipairs { "endless_recursion", "gsub", "gsub_in_coroutines", "sort",
      "load_readers", "index", "index_chain", "tostring", "print", "concat", "lpeg" } do
      local ok, raised, more = pcall(deep, service, kind)
      local text = ok and tostring(more) or raised.message
      test.ok(text:find "overflow" or text:find "loop in gettable", kind .. ": " .. text)
    end
    for _, kind in ipairs { "pcalls", "handlers" } do
      deep(service, kind)
    end
    test.equal({ deep(service, "json", 100000) }, { false, false })
    test.equal(deep(service, "buffer", 100000), false)
    test.equal(deep(service, "lpeg_grammar", 100000), false)
    test.equal(deep(service, "pattern", 10000), false)
    test.equal(deep(service, "recursion", 10000), 10000)
    test.raises(function() deep(service, "recursion", 100000) end, "overflow")
    test.equal(perilune.call(service, "good", 1), 1)
    perilune.kill(service)
  end
end, support.patience(60000))

test("xpcall that calls itself ends", function()
  local service = perilune.spawn "services.bombs"
  pcall(deep, service, "xpcalls")
  test.equal(perilune.call_within(20000, service, "good", 1), 1)
  perilune.kill(service)
end, support.patience(60000))

test("10,000 coroutines in a chain are possible, 100,000 an error or fine", function()
  local service = perilune.spawn "services.bombs"
  for _, kind in ipairs { "coroutines", "coroutine_chain" } do
    test.equal(deep(service, kind, 10000), 10000)
    local ok, raised = pcall(perilune.call, service, "deep", kind, 100000)
    test.ok(ok or tostring(raised):find "overflow" or tostring(raised):find "memory",
      tostring(raised))
    if not ok and tostring(raised):find "memory limit" then
      service = perilune.spawn "services.bombs"
    end
  end
  perilune.kill(service)
end, support.patience(60000))

test("syntax that is nested deep gives errors", function()
  local service = perilune.spawn "services.bombs"
  for _, opening in ipairs { "(", "{", "[", "-", "not ", "a(", "a{", "a..", "a^", "function() " } do
    local ok, problem = deep(service, "syntax", opening, 100000)
    test.ok(ok or problem, opening)
    ok, problem = deep(service, "syntax", "function() if x then do " .. opening, 10000)
    test.equal(ok, false)
    test.ok(problem)
  end
  perilune.kill(service)
end, support.patience(60000))

test("64 nested tables are sent, 65 refused, with the path", function()
  local service = perilune.spawn "services.bombs"
  local value = { "core" }
  for _ = 1, 63 do value = { value } end
  local back = perilune.call(service, "good", value)
  for _ = 1, 63 do back = back[1] end
  test.equal(back, { "core" })
  test.raises(function() perilune.call(service, "good", { value }) end,
    "argument 1: .*%[1%]%[1%] is nested deeper than 64 tables")
  perilune.kill(service)
end)

return test
