-- Promise 2: an endless loop is reported and ended, its service lives, others never stall.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local INTERRUPT_MS = 200 -- loops_test.config.lua
local SLACK_MS = 800
local PATIENCE_MS = support.patience(10000)

-- An allocation fails in the loop, or a hook yields out of it: both are "ended after".
local function check_ended(service, kind, began, raised)
  test.equal(type(raised), "table", kind .. ": " .. tostring(raised))
  test.equal(raised.code, "error", kind)
  test.ok(raised.message:find "ended after 200 ms without a pause", kind .. ": " .. raised.message)
  local took = perilune.now() - began
  test.ok(took >= INTERRUPT_MS, ("%s was ended after %d ms"):format(kind, took))
  support.in_time(took, INTERRUPT_MS + SLACK_MS, kind)
  -- At once, but where the loop has filled its own mailbox.
  test.eventually(function()
    local ok, value = pcall(perilune.call, service, "good", kind)
    return ok and value == kind
  end, PATIENCE_MS)
end

local function run_loop(service, kind)
  local began = perilune.now()
  local raised = test.raises(function() perilune.call_within(20000, service, "loop", kind) end)
  check_ended(service, kind, began, raised)
end

local function spawn_warm(group) return support.spawn_warm("services.loops", { group = group }) end

local function kinds()
  local service = perilune.spawn "services.loops"
  local names = perilune.call(service, "names")
  perilune.kill(service)
  if support.sanitizer ~= "tsan" then return names end
  -- Unwinding a full stack takes seconds there, and nothing can end it meanwhile. Nor can a
  -- pattern be ended: there are no signals, and the hook that looks for requests stands still.
  local quick = {}
  for _, name in ipairs(names) do
    if not name:find "recursion" and not name:find "^match_" then quick[#quick + 1] = name end
  end
  return quick
end

-- Runs a body of so many loops, one after the other, while a bystander's timers tick.
local function with_bystander(loops, most_ms, body)
  local ticker = perilune.spawn("services.ticker", 10)
  local ok, problem = pcall(body)
  local lates = perilune.call(ticker, "take")
  perilune.kill(ticker)
  if not ok then error(problem, 0) end
  -- Usually 20 during a loop. If it stood still meanwhile it would tick once or twice after it.
  test.ok(#lates >= 4 * loops, ("a bystander ticked %d times in %d loops"):format(#lates, loops))
  support.in_time(support.percentile(lates, 0.99), most_ms, "a bystander, p99")
end

test("loops of every kind are ended, in compiled services", function()
  local before, names = support.counters(), kinds()
  with_bystander(#names, 100, function()
    local service = spawn_warm()
    for _, kind in ipairs(names) do run_loop(service, kind) end
    test.equal(perilune.stats(service).errors, #names)
    perilune.kill(service)
  end)
  local after = support.counters()
  test.equal(after.interrupted_requests - before.interrupted_requests, #names)
  test.ok(after.long_dispatches - before.long_dispatches >= #names)
end, support.patience(60000))

test("loops of every kind are ended, in light services, and their group goes on", function()
  local names, next_kind = kinds(), 0
  local tasks = {}
  for number = 1, 3 do
    tasks[number] = function()
      local group = "loops" .. number
      local service = spawn_warm(group)
      local neighbour = perilune.spawn("services.loops", nil, { group = group })
      while next_kind < #names do
        next_kind = next_kind + 1
        local kind = names[next_kind]
        local answered
        perilune.fork(function()
          perilune.sleep(20)
          answered = perilune.call(neighbour, "good", kind)
        end)
        run_loop(service, kind)
        test.eventually(function() return answered == kind end, PATIENCE_MS)
      end
      test.equal(perilune.stats(neighbour).errors, 0)
      perilune.kill(service)
      perilune.kill(neighbour)
    end
  end
  for _, result in ipairs(perilune.wait_all(tasks)) do test.ok(result[1], tostring(result[2])) end
end, support.patience(60000))

test("loops that were never compiled are ended, too", function()
  for _, kind in ipairs { "plain", "numeric", "tail_calls", "xpcall_loop", "sort", "index" } do
    local service = perilune.spawn "services.loops"
    run_loop(service, kind)
    perilune.kill(service)
  end
end)

test("loops on all workers don't stall the bystanders", function()
  local services = {}
  for i = 1, 3 do services[i] = spawn_warm(i == 3 and "loops" or nil) end
  -- The processor is saturated: 250 ms.
  with_bystander(3, 250, function()
    for _, kind in ipairs { "plain", "xpcall_loop", "tables" } do
      local tasks = {}
      for i, service in ipairs(services) do
        tasks[i] = function() run_loop(service, kind) end
      end
      for _, result in ipairs(perilune.wait_all(tasks)) do
        test.ok(result[1], tostring(result[2]))
      end
    end
  end)
  for _, service in ipairs(services) do perilune.kill(service) end
end, support.patience(30000))

test("a loop in on_start is ended, and the service never was", function()
  for _, group in ipairs { false, "loops" } do
    for _, kind in ipairs { "plain", "xpcall_loop", "gsub", "module" } do
      local began = perilune.now()
      local raised = test.raises(function()
        perilune.spawn("services.loops", kind, { name = "endless", group = group or nil })
      end)
      test.ok(tostring(raised):find "without a pause", tostring(raised))
      support.in_time(perilune.now() - began, INTERRUPT_MS + SLACK_MS, kind)
      test.equal(perilune.find "endless", nil)
    end
  end
end, support.patience(30000))

test("a loop while a script loads is ended, and the service never was", function()
  for _, group in ipairs { false, "loops" } do
    local raised = test.raises(function()
      perilune.spawn("services.endless_module", nil, { group = group or nil })
    end)
    test.ok(tostring(raised):find "without a pause", tostring(raised))
  end
end, support.patience(30000))

test("loops in timers, forks, on_down and after a reply are ended", function()
  for _, group in ipairs { false, "loops" } do
    local service = perilune.spawn("services.loops", nil, { group = group or nil })
    local errors = 0
    local function ends(how)
      errors = errors + 1
      test.eventually(function() return perilune.stats(service).errors == errors end,
        PATIENCE_MS, how)
      test.equal(perilune.call(service, "good", how), how)
    end
    perilune.call(service, "tick", 1)
    ends "timer by name"
    perilune.call(service, "tick_function", 1)
    ends "timer by function"
    perilune.call(service, "fork")
    ends "fork"
    local victim = perilune.spawn "services.target"
    perilune.call(service, "monitor", victim)
    perilune.kill(victim)
    ends "on_down"
    test.equal(perilune.call(service, "after_reply"), "answered")
    ends "after a reply"
    perilune.kill(service)
  end
end, support.patience(30000))

test("a service that loops can be killed meanwhile, and is dead when the loop has ended", function()
  local service = spawn_warm()
  local outcome
  perilune.fork(function()
    outcome = { pcall(perilune.call, service, "loop", "plain", "loops now") }
  end)
  test.eventually(function() return perilune.find "loops now" end, PATIENCE_MS)
  test.equal(perilune.kill(service), true)
  test.eventually(function() return outcome end, PATIENCE_MS)
  test.equal(outcome[1], false)
  test.eventually(function() return not perilune.send(service, "good") end)
end)

test("what waits behind a loop is handled after it, in order", function()
  local service = spawn_warm()
  perilune.send(service, "loop", "plain")
  local tasks = {}
  for i = 1, 20 do tasks[i] = function() return perilune.call(service, "good", i) end end
  for i, result in ipairs(perilune.wait_all(tasks)) do test.equal(result, { true, i }) end
  perilune.kill(service)
end)

return test
