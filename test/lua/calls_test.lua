-- Promise 6: every call ends once: reply, error, timeout, dead, overloaded.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local function spawn(index)
  -- Every other one is light, and some have room for few messages.
  return perilune.spawn("services.worker", nil, {
    group = index % 2 == 0 and "workers" or nil, mailbox = index % 3 == 0 and 8 or nil,
  })
end

-- Calls among services that are killed and replaced all the time.
test("every call ends exactly once while callers and callees are killed", function()
  local total = support.scale(20000, 1000000)
  local workers, callers, ended, finished, killed = {}, {}, {}, 0, 0
  for i = 1, 12 do workers[i] = spawn(i) end
  local per_run = 50
  -- They go on until each of these has happened, too.
  local function is_complete()
    for _, outcome in ipairs { "reply", "error", "timeout", "dead" } do
      if not ended[outcome] then return false end
    end
    return killed > 0
  end
  local tasks = {}
  for i = 1, 16 do
    tasks[i] = function()
      while finished < total or not is_complete() do
        local caller = callers[i] or spawn(i + 1)
        callers[i] = caller
        local ok, result = pcall(perilune.call_within, 60000, caller, "run", workers, per_run)
        if ok then
          local count = 0
          for outcome, times in pairs(result) do
            ended[outcome] = (ended[outcome] or 0) + times
            count = count + times
          end
          test.equal(count, per_run)
          finished = finished + count
        else
          -- It was killed with all its calls; anything else is a bug of the node.
          test.equal(result.code, "dead", tostring(result))
          killed = killed + 1
        end
        if not ok then callers[i] = nil end
      end
    end
  end
  local stop = false
  perilune.fork(function()
    while not stop do
      perilune.sleep(math.random(10))
      local i = math.random(#workers)
      if math.random(3) == 1 then
        perilune.send(workers[i], "exit")
      else
        perilune.kill(workers[i])
      end
      workers[i] = spawn(i)
      local caller = math.random(16)
      if callers[caller] and math.random(4) == 1 then perilune.kill(callers[caller]) end
    end
    stop = "stopped"
  end)
  for _, result in ipairs(perilune.wait_all(tasks)) do test.ok(result[1], tostring(result[2])) end
  stop = true
  test.eventually(function() return stop == "stopped" end)
  for _, worker in ipairs(workers) do perilune.kill(worker) end
  for _, caller in pairs(callers) do perilune.kill(caller) end
end, support.is_soak and 3600000 or support.patience(60000))

test("calls to a service that is flooded end as overloaded, at once, and once", function()
  local worker = perilune.spawn("services.worker", nil, { mailbox = 10 })
  local release = support.hold(worker)
  local ended, tasks = {}, {}
  for i = 1, 500 do
    tasks[i] = function()
      local ok, raised = pcall(perilune.call_within, 0, worker, "echo", i)
      local outcome = ok and "reply" or raised.code
      ended[outcome] = (ended[outcome] or 0) + 1
    end
  end
  perilune.fork(function()
    -- At once: while it handles none.
    test.eventually(function() return ended.overloaded == 490 end, support.patience(10000))
    test.equal(ended.reply, nil)
    release()
  end)
  for _, result in ipairs(perilune.wait_all(tasks)) do test.ok(result[1], tostring(result[2])) end
  test.equal(ended, { reply = 10, overloaded = 490 })
  perilune.kill(worker)
end)

test("a call ends in each of its ways, once", function()
  local worker = perilune.spawn("services.worker", nil, { mailbox = 100 })
  local ended, order = {}, {}
  local function begin(limit_ms, ...)
    local arguments = { n = select("#", ...), ... }
    perilune.fork(function()
      local ok, result = pcall(perilune.call_within, limit_ms, unpack(arguments, 1, arguments.n))
      local outcome = ok and result or result.code
      ended[outcome] = (ended[outcome] or 0) + 1
      order[#order + 1] = outcome
    end)
    perilune.yield()
  end
  local function ends(outcome)
    test.eventually(function() return ended[outcome] end, support.patience(10000), outcome)
  end
  begin(0, worker, "echo", "reply")
  ends "reply"
  begin(0, worker, "fail", "on purpose")
  ends "error"
  begin(20, worker, "wait", 1e7)
  ends "timeout"
  local release = support.hold(worker)
  begin(0, worker, "echo", "never")
  while perilune.send(worker, "echo", 1) do end -- luacheck: ignore
  begin(0, worker, "echo", "never")
  ends "overloaded"
  perilune.kill(worker)
  release()
  ends "dead"
  begin(0, worker, "echo", "never")
  test.equal(order, { "reply", "error", "timeout", "overloaded", "dead", "dead" })
end, support.patience(60000))

test("ten thousand calls that wait for one service get dead when it is killed", function()
  local count = support.scale(10000, 60000)
  local worker = perilune.spawn("services.worker")
  local tasks = {}
  for i = 1, count do
    tasks[i] = function() perilune.call_within(0, worker, "wait", 1e7) end
  end
  perilune.timeout(100, function() perilune.kill(worker) end)
  local dead = 0
  for _, result in ipairs(perilune.wait_all(tasks)) do
    if not result[1] and result[2].code == "dead" then dead = dead + 1 end
  end
  test.equal(dead, count)
end, support.patience(60000))

test("calls time out, none early", function()
  local worker = perilune.spawn("services.worker")
  local ended, tasks = 0, {}
  for i = 1, 50 do
    local limit = (i * 37 % 50) * 4 + 20
    tasks[i] = function()
      local began = perilune.now()
      local raised = test.raises(function() perilune.call_within(limit, worker, "wait", 1e7) end)
      test.equal(raised.code, "timeout")
      test.ok(perilune.now() - began >= limit, "early")
      support.in_time(perilune.now() - began, limit + 300)
      ended = ended + 1
    end
  end
  for _, result in ipairs(perilune.wait_all(tasks)) do test.ok(result[1], tostring(result[2])) end
  test.equal(ended, 50)
  perilune.kill(worker)
end)

test("a reply that comes late never reaches a later call", function()
  local worker = perilune.spawn("services.worker")
  for i = 1, support.scale(300) do
    pcall(perilune.call_within, 1, worker, "wait", 12, "late " .. i)
    test.equal(perilune.call(worker, "echo", i), i)
  end
  perilune.kill(worker)
end, support.patience(30000))

return test
