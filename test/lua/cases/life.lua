-- spawn, unique, stop, kill, exit, names, monitors, supervisors: run by api_test.lua in isolated
-- and light services.

local perilune = require "perilune"
local file = require "perilune.file"
local support = require "support"
local test = require "perilune.test"

local cases = {}
local function case(name, body, limit_ms) cases[#cases + 1] = { name, body, limit_ms } end

local spawn, failure = support.spawn, support.failure

-- Waits until another service than `handle` has the name.
local function eventually_replaced(name, handle)
  test.eventually(function()
    local now = perilune.find(name)
    return now and now ~= handle
  end)
end

local function eventually_dead(handle)
  test.eventually(function() return not perilune.send(handle, "note", 1) end)
end

-- What a target reports of its on_stop.
local function reports(service)
  local list = {}
  function service.reported(...) list[#list + 1] = { ... } end
  return list
end

local function downs(service)
  local list = {}
  function service.on_down(handle, reason) list[#list + 1] = { handle, reason } end
  return list
end

-- ---- spawn ----

case("spawn returns when on_start has, with the handle; options reach on_start", function()
  local began = perilune.now()
  local target = spawn("services.target", { sleep_ms = 20, list = { 1, 2 } })
  test.ok(perilune.now() - began >= 20)
  test.equal(perilune.call(target, "options"), { sleep_ms = 20, list = { 1, 2 } })
  test.equal(perilune.call(target, "self"), target)
  perilune.kill(target)
  local silent = spawn "services.silent"
  test.equal(type(silent), "number")
  perilune.kill(silent)
end)

case("on_start without options gets nil", function(service)
  test.ok(service)
  local target = spawn "services.target"
  test.equal(perilune.call(target, "options"), {})
  perilune.kill(target)
end)

case("a name is there before on_start runs, and messages wait for on_start", function()
  local target
  perilune.fork(function()
    target = spawn("services.target", { sleep_ms = 30 }, { name = "slow starter" })
  end)
  perilune.yield()
  local early = test.ok(perilune.find "slow starter")
  test.equal(perilune.send("slow starter", "note", "early"), true)
  test.equal(perilune.call("slow starter", "received"), { "early" })
  test.eventually(function() return target end)
  test.equal(target, early)
  perilune.kill(target)
  test.eventually(function() return not perilune.find "slow starter" end)
end)

case("spawn raises what on_start raised, and then the service never was", function()
  for _, value in ipairs { "text", { message = "in a table", code = 3 }, 42 } do
    local raised = failure(function()
      spawn("services.target", { fail = value, name = "failing" }, { name = "failing too" })
    end)
    test.equal(raised.code, "error")
    test.equal(raised.message,
      type(value) == "table" and "in a table" or tostring(value))
    test.equal(perilune.find "failing", nil)
    test.equal(perilune.find "failing too", nil)
  end
  local traced = failure(function() spawn("services.target", { fail = "here", level = 1 }) end)
  test.ok(traced.message:find "services/target.lua:%d+: here", traced.message)
  test.ok(traced.traceback:find "services/target.lua:%d+", traced.traceback)
end)

case("messages that wait for an on_start that fails are answered dead", function()
  local outcome
  perilune.fork(function()
    pcall(spawn, "services.target", { sleep_ms = 20, fail = "no" }, { name = "failing" })
  end)
  perilune.yield()
  local ok, raised = pcall(perilune.call, "failing", "echo", 1)
  outcome = { ok, raised.code }
  test.equal(outcome, { false, "dead" })
end)

case("spawn raises for scripts that can't be had", function()
  test.raises(function() spawn "no.such.script" end, 'no script "no.such.script"')
  test.raises(function() spawn "../../etc/passwd" end, "is no name of a script")
  test.raises(function() spawn "" end, "is no name of a script")
  test.raises(function() spawn "services.no_table" end, "returns its table of commands")
  test.ok(file.write("no_syntax.lua", "local x =\n\n}"))
  test.raises(function() spawn "no_syntax" end, "no_syntax.lua:3: unexpected symbol")
  test.ok(file.write("no_load.lua", "\nerror 'while loading'"))
  local raised = failure(function() spawn "no_load" end)
  test.ok(raised.message:find "no_load.lua:2: while loading", raised.message)
  file.remove "no_syntax.lua"
  file.remove "no_load.lua"
end)

case("spawn raises for a name that is taken, and starts nothing", function()
  local first = spawn("services.target", nil, { name = "taken" })
  local raised = failure(function() spawn("services.target", nil, { name = "taken" }) end)
  test.equal({ raised.code, raised.value }, { "error", "exists" })
  test.equal(perilune.find "taken", first)
  perilune.kill(first)
end)

case("spawn names the option that is wrong", function()
  local function try(options, pattern)
    test.raises(function() perilune.spawn("services.target", nil, options) end, pattern)
  end
  try({ naem = "x" }, 'unknown option "naem"')
  try({ [1] = "x" }, "unknown option")
  try({ name = 5 }, "`name` is a string")
  try({ name = ("x"):rep(129) }, "1 to 128 bytes")
  try({ group = true }, "`group` is a string")
  try({ memory_mb = 0 }, "`memory_mb` is a whole number from 1 to 65536, this is 0")
  try({ memory_mb = 1e9 }, "`memory_mb` is a whole number")
  try({ memory_mb = 0.0001 }, "`memory_mb` is a whole number")
  try({ memory_mb = "16" }, "`memory_mb` is a number")
  try({ mailbox = -1 }, "`mailbox` is a whole number")
  try({ mailbox = 0.5 }, "`mailbox` is a whole number from 1 to 1000000, this is 0.5")
  try({ mailbox = 0 / 0 }, "`mailbox` is a whole number")
  try("name", "argument #3 to 'perilune.spawn'")
  test.raises(function() perilune.spawn() end, "argument #1 to 'perilune.spawn'")
  test.raises(function() perilune.spawn("services.target", { print }) end, "%[1%] is a function")
end)

case("an on_start that waits too long is ended", function()
  -- start_limit_ms is 1000 in api_test.config.lua.
  local began = perilune.now()
  local raised = failure(function() spawn("services.target", { sleep_ms = 1e6 }) end)
  test.ok(raised.message:find "did not return within 1000 ms", raised.message)
  support.in_time(perilune.now() - began, 2000, "the start")
end)

case("an on_start that never pauses is ended", function()
  test.ok(file.write("endless_start.lua",
    "return { on_start = function() while true do end end }"))
  local raised = failure(function() spawn "endless_start" end)
  test.equal(raised.code, "error")
  test.ok(raised.message:find "without a pause", raised.message)
  file.remove "endless_start.lua"
end)

-- ---- unique ----

case("unique starts one service whoever comes, and gives all the same", function()
  local handles = {}
  local target = spawn "services.target"
  local results = perilune.wait_all {
    function() return perilune.unique("the one", "services.target", { sleep_ms = 30 }) end,
    function() return perilune.unique("the one", "services.target", { sleep_ms = 30 }) end,
    function() return perilune.call(target, "unique", "the one", "services.target") end,
    function() return perilune.unique("the one", "services.target") end,
  }
  for i, result in ipairs(results) do
    test.ok(result[1], tostring(result[2]))
    handles[i] = result[2]
  end
  test.equal(handles, { handles[1], handles[1], handles[1], handles[1] })
  test.equal(perilune.unique("the one", "services.target"), handles[1])
  test.equal(perilune.call("the one", "options").sleep_ms, 30)
  perilune.kill(target)
  perilune.kill(handles[1])
end)

case("unique fails for all who wait, and may be tried again", function()
  local results = perilune.wait_all {
    function() perilune.unique("fails", "services.target", { sleep_ms = 10, fail = "no luck" }) end,
    function() perilune.unique("fails", "services.target") end,
    function() perilune.unique("fails", "services.target") end,
  }
  for _, result in ipairs(results) do
    test.equal(result[1], false)
    test.ok(tostring(result[2]):find "no luck", tostring(result[2]))
  end
  local handle = perilune.unique("fails", "services.target")
  test.equal(perilune.find "fails", handle)
  perilune.kill(handle)
end)

case("unique goes to the next when the service that was starting it dies", function()
  local target = spawn "services.target"
  perilune.send(target, "unique", "orphan", "services.target", { sleep_ms = 200 })
  test.eventually(function() return perilune.find "orphan" end)
  local outcome
  perilune.fork(function()
    outcome = { pcall(perilune.unique, "orphan", "services.target") }
  end)
  perilune.yield()
  perilune.kill(target)
  test.eventually(function() return outcome end)
  -- Either the same service or an error that says so; nobody waits for ever.
  test.ok(outcome[1] == true or tostring(outcome[2]):find "has died")
  test.eventually(function() return perilune.find "orphan" end)
  perilune.kill "orphan"
  test.eventually(function() return not perilune.find "orphan" end)
end)

case("unique takes the name of the script from the name, and checks it", function()
  local handle = perilune.unique("services.silent")
  test.equal(perilune.find "services.silent", handle)
  perilune.kill(handle)
  test.raises(function() perilune.unique() end, "argument #1 to 'perilune.unique'")
  test.raises(function() perilune.unique "no_such" end, "no_such")
end)

-- ---- stop, kill, exit ----

case("stop runs on_stop and returns when the service is dead", function(service)
  local seen = reports(service)
  local target = spawn("services.target", { report_to = perilune.self(), stop_ms = 20 })
  local began = perilune.now()
  test.equal(perilune.stop(target), true)
  test.ok(perilune.now() - began >= 20)
  test.equal({ perilune.send(target, "note") }, { false, "dead" })
  test.equal(seen, { { "on_stop", "stop", target } })
  test.equal(perilune.stop(target), false)
  test.equal(perilune.stop "nobody", false)
end)

case("stop ends a service whose on_stop fails, loops or takes too long", function()
  for _, options in ipairs { { stop_fails = true }, { stop_ms = 1e6 } } do
    local target = spawn("services.target", options)
    test.equal(perilune.stop(target), true)
    test.equal(perilune.send(target, "note"), false)
  end
  test.ok(file.write("endless_stop.lua", "return { on_stop = function() while true do end end }"))
  local target = spawn "endless_stop"
  test.equal(perilune.stop(target), true)
  file.remove "endless_stop.lua"
end)

case("two who stop a service both hear that it is dead", function()
  local target = spawn("services.target", { stop_ms = 20 })
  test.equal(perilune.wait_all {
    function() return perilune.stop(target) end,
    function() return perilune.stop(target) end,
  }, { { true, true }, { true, true } })
end)

case("a service can't stop itself, and its messages are checked", function()
  test.raises(function() perilune.stop(perilune.self()) end, "perilune.exit")
  test.raises(function() perilune.stop {} end, "argument #1 to 'perilune.stop'")
  test.raises(function() perilune.kill {} end, "argument #1 to 'kill'")
end)

case("kill ends a service at once, without on_stop", function(service)
  local seen = reports(service)
  local target = spawn("services.target", { report_to = perilune.self() }, { name = "victim" })
  test.equal(perilune.kill "victim", true)
  eventually_dead(target)
  test.equal(perilune.find "victim", nil)
  test.equal(perilune.kill(target), false)
  test.equal(seen, {})
end)

case("a service may kill itself", function(service)
  test.ok(service)
  test.ok(file.write("suicide.lua", [[
    local perilune = require "perilune"
    return { now = function() perilune.kill(perilune.self()) return "still answered" end }]]))
  local target = spawn "suicide"
  local ok, result = pcall(perilune.call, target, "now")
  test.ok(ok and result == "still answered" or result.code == "dead")
  eventually_dead(target)
  file.remove "suicide.lua"
end)

case("exit ends the service after the current dispatch, on_stop first", function(service)
  local seen, down = reports(service), downs(service)
  local target = spawn("services.target", { report_to = perilune.self() }, { monitor = true })
  test.equal(perilune.call(target, "exit", "my reason"), "leaving")
  test.eventually(function() return #down == 1 end)
  test.equal(seen, { { "on_stop", "my reason", target } })
  test.equal(down, { { target, "my reason" } })
end)

-- ---- names ----

case("a service may have several names, each is of one service", function()
  local first, second = spawn "services.target", spawn "services.target"
  perilune.call(first, "rename", "one")
  perilune.call(first, "rename", "two")
  perilune.call(first, "rename", "two")
  test.equal({ perilune.find "one", perilune.find "two" }, { first, first })
  test.equal(perilune.stats(first).name, "one")
  local raised = failure(function() perilune.call(second, "rename", "one") end)
  test.ok(raised.message:find 'the name "one" is taken', raised.message)
  test.equal(perilune.node().names.two, first)
  perilune.kill(first)
  test.eventually(function() return not perilune.find "one" and not perilune.find "two" end)
  perilune.call(second, "rename", "one")
  test.equal(perilune.find "one", second)
  perilune.kill(second)
end)

case("names have 1 to 128 bytes, any", function()
  test.raises(function() perilune.name "" end, "1 to 128")
  test.raises(function() perilune.name(("x"):rep(129)) end, "1 to 128")
  test.raises(function() perilune.name() end, "argument #1 to 'perilune.name'")
  test.raises(function() perilune.find() end, "argument #1 to 'perilune.find'")
  local name = ("\0\255名"):rep(25)
  perilune.name(name)
  test.equal(perilune.find(name), perilune.self())
  test.equal(perilune.find "", nil)
end)

-- ---- monitors and links ----

case("monitors are told once, with the reason", function(service)
  local down = downs(service)
  local function dies(how, reason, options)
    local target = spawn("services.target", options)
    test.equal(perilune.monitor(target), true)
    test.equal(perilune.monitor(target), true)
    how(target)
    test.eventually(function() return #down >= 1 end, support.patience(2000), reason)
    perilune.sleep(5)
    test.equal(down, { { target, reason } })
    down[1], down[2] = nil, nil
    test.equal(perilune.monitor(target), false)
  end
  dies(perilune.kill, "kill")
  dies(perilune.stop, "stop")
  dies(function(target) perilune.call(target, "exit") end, "exit")
  dies(function(target) perilune.call(target, "exit", "bored") end, "bored")
  dies(perilune.stop, "stop", { stop_fails = true })
end)

case("a monitor may be taken back", function(service)
  local down = downs(service)
  local target, witness = spawn "services.target", spawn "services.target"
  perilune.call(witness, "monitor", target)
  perilune.monitor(target)
  test.equal(perilune.unmonitor(target), true)
  test.equal(perilune.unmonitor(target), false)
  perilune.kill(target)
  test.eventually(function() return #perilune.call(witness, "downs") == 1 end)
  test.equal(down, {})
  perilune.kill(witness)
  for _, to in ipairs { target, 0, "nobody" } do
    test.equal(perilune.monitor(to), false)
    test.equal(perilune.unmonitor(to), false)
  end
  test.raises(function() perilune.monitor() end, "argument #1 to 'monitor'")
  test.raises(function() perilune.unmonitor {} end, "argument #1 to 'unmonitor'")
end)

case("spawn with monitor tells of a death from the first moment", function(service)
  local down = downs(service)
  pcall(spawn, "services.target", { fail = "no" }, { monitor = true })
  test.eventually(function() return #down == 1 end)
  test.equal(down[1][2], "error")
  local target = spawn("services.target", nil, { monitor = true })
  perilune.kill(target)
  test.eventually(function() return #down == 2 end)
  test.equal(down[2], { target, "kill" })
end)

case("a link stops the other when one dies other than by its own exit", function(service)
  local down = downs(service)
  for _, way in ipairs { "first", "second" } do
    local first = spawn("services.target", nil, { monitor = true })
    local second = spawn("services.target", nil, { monitor = true })
    perilune.call(first, "link", second)
    perilune.kill(way == "first" and first or second)
    test.eventually(function() return #down == 2 end)
    test.equal(down[1][2], "kill")
    test.equal(down[2], { way == "first" and second or first, "link" })
    down[1], down[2] = nil, nil
  end
end)

case("a link lets the other live when one exits or is stopped", function()
  for _, how in ipairs { "exit", "exit with a reason", "stop" } do
    local first, second = spawn "services.target", spawn "services.target"
    perilune.call(first, "link", second)
    if how == "stop" then
      perilune.stop(first)
    else
      perilune.call(first, "exit", how == "exit with a reason" and "my reason" or nil)
    end
    eventually_dead(first)
    perilune.sleep(20)
    test.equal(perilune.call(second, "echo", "alive"), "alive", how)
    perilune.kill(second)
  end
end)

case("a link to what is dead raises", function()
  test.raises(function() perilune.link "nobody" end, "dead")
  test.raises(function() perilune.link(12345) end, "dead")
  test.raises(function() perilune.link() end, "argument #1 to 'link'")
end)

-- ---- supervisors ----

local function child(name, more)
  local spec = {
    name = name, script = "services.target",
    spawn_options = { group = support.group },
  }
  for key, value in pairs(more or {}) do spec[key] = value end
  return spec
end

local QUICK = { backoff_ms = 1 }

local function with(settings)
  local all = {}
  for key, value in pairs(QUICK) do all[key] = value end
  for key, value in pairs(settings) do all[key] = value end
  return all
end

local function handles(...)
  local list = {}
  for i, name in ipairs { ... } do list[i] = perilune.find(name) or 0 end
  return list
end

-- Kills one of a, b and c; what the three are before and after.
local function restart(strategy, victim)
  local supervisor = perilune.supervisor({ child "a", child "b", child "c" },
    with { strategy = strategy })
  local before = handles("a", "b", "c")
  test.equal(perilune.call(supervisor, "children"),
    { a = before[1], b = before[2], c = before[3] })
  perilune.kill(victim)
  test.eventually(function()
    local now = perilune.find(victim)
    if not now or now == before[victim == "a" and 1 or victim == "b" and 2 or 3] then return end
    return perilune.find "a" and perilune.find "b" and perilune.find "c"
  end)
  perilune.call("c", "self")
  local after, same = handles("a", "b", "c"), {}
  for i = 1, 3 do same[i] = before[i] == after[i] end
  test.equal(perilune.stop(supervisor), true)
  test.equal(handles("a", "b", "c"), { 0, 0, 0 })
  return same
end

case("one_for_one restarts the one that died", function()
  test.equal(restart("one_for_one", "b"), { true, false, true })
  test.equal(restart(nil, "b"), { true, false, true })
end)

case("one_for_all restarts all", function()
  test.equal(restart("one_for_all", "b"), { false, false, false })
end)

case("rest_for_one restarts it and those started after it", function()
  test.equal(restart("rest_for_one", "b"), { true, false, false })
  test.equal(restart("rest_for_one", "a"), { false, false, false })
end)

case("transient children restart after a failure alone, temporary ones never", function()
  local supervisor = perilune.supervisor({
    child("permanent"), child("transient", { restart = "transient" }),
    child("temporary", { restart = "temporary" }),
  }, QUICK)
  local first = perilune.find "transient"
  perilune.kill "transient"
  eventually_replaced("transient", first)
  perilune.call("transient", "exit")
  perilune.call("temporary", "exit")
  first = perilune.find "permanent"
  perilune.call("permanent", "exit")
  eventually_replaced("permanent", first)
  perilune.sleep(30)
  test.equal(handles("transient", "temporary"), { 0, 0 })
  perilune.stop(supervisor)
end)

case("a transient child that exits for a reason of its own stays away", function()
  local supervisor = perilune.supervisor({ child("t", { restart = "transient" }) }, QUICK)
  perilune.call("t", "exit", "done for today")
  perilune.sleep(40)
  test.equal(perilune.find "t", nil)
  perilune.stop(supervisor)
end)

case("a supervisor gives up after too many restarts, and its children with it", function(service)
  local down = downs(service)
  local supervisor = perilune.supervisor({ child "bad", child "good" },
    with { max_restarts = 3, within_ms = 60000 })
  perilune.monitor(supervisor)
  local kills, killed = 0, {}
  test.eventually(function()
    local handle = perilune.find "bad"
    if handle and not killed[handle] and perilune.kill(handle) then
      killed[handle] = true
      kills = kills + 1
    end
    return #down == 1
  end, support.patience(10000))
  test.equal(kills, 4)
  test.equal(down[1], { supervisor, "too many restarts" })
  test.equal(handles("bad", "good"), { 0, 0 })
end)

case("restarts long ago don't count", function()
  local supervisor = perilune.supervisor({ child "x" }, with { max_restarts = 1, within_ms = 60 })
  for _ = 1, 3 do
    local before = perilune.find "x"
    perilune.kill(before)
    test.eventually(function() return perilune.find "x" and perilune.find "x" ~= before end)
    perilune.call("x", "self")
    perilune.sleep(80)
  end
  test.ok(perilune.stop(supervisor))
end)

case("a child that fails to restart is tried again until the supervisor gives up", function(service)
  local down = downs(service)
  -- Scripts are read once and again by a reload, so each way needs one of its own.
  local name = support.group and "moody_light" or "moody"
  test.ok(file.write(name .. ".lua", "return {}"))
  local supervisor = perilune.supervisor({ { name = name,
    spawn_options = { group = support.group } } }, with { max_restarts = 3 })
  perilune.monitor(supervisor)
  test.ok(file.write(name .. ".lua", "return { on_start = function() error 'today' end }"))
  perilune.reload(name)
  perilune.kill(name)
  test.eventually(function() return #down == 1 end, support.patience(10000))
  test.equal(down[1][2], "too many restarts")
  file.remove(name .. ".lua")
end)

case("a supervisor whose children don't start at first raises, and leaves nothing", function()
  local raised = test.raises(function()
    perilune.supervisor { child "fine", child("fails", { options = { fail = "bad day" } }) }
  end, "bad day")
  test.ok(raised)
  test.equal(handles("fine", "fails"), { 0, 0 })
end)

case("a supervisor may be named, and supervised", function()
  local top = perilune.supervisor({
    child("below", { script = "perilune.supervised", spawn_options = {}, options = {
      children = { child "leaf" }, settings = QUICK } }),
  }, { name = "top", backoff_ms = 1 })
  test.equal(perilune.find "top", top)
  local leaf = perilune.find "leaf"
  perilune.kill "below"
  eventually_replaced("leaf", leaf)
  test.eventually(function() return perilune.call("top", "children").below end)
  perilune.stop "top"
  test.equal(handles("below", "leaf"), { 0, 0 })
end)

case("supervisor names what is wrong", function()
  local function try(pattern, ...)
    local arguments = { n = select("#", ...), ... }
    test.raises(function() perilune.supervisor(unpack(arguments, 1, arguments.n)) end, pattern)
  end
  try("a list of children expected")
  try("children%[1%] needs a `name`", { {} })
  try("children%[2%] needs a `name`", { child "x", "y" })
  try("children%[2%] has the name of another", { child "x", child "x" })
  try("`restart` is permanent", { child("x", { restart = "always" }) })
  try("`strategy` is one_for_one", { child "x" }, { strategy = "all" })
end)

return cases
