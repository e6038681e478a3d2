-- stats, node, env, shared data and logs: run by api_test.lua in isolated and light services.

local perilune = require "perilune"
local file = require "perilune.file"
local support = require "support"
local test = require "perilune.test"

local cases = {}
local function case(name, body) cases[#cases + 1] = { name, body } end

case("stats count what a service does", function()
  local target = support.spawn("services.target", nil, { name = "counted" })
  for i = 1, 5 do perilune.send(target, "note", i) end
  pcall(perilune.call, target, "raise_text")
  perilune.send(target, "sleep", 1e7)
  perilune.call(target, "set_timer", 1e7, "note")
  -- What a turn has handled is counted as waiting until the turn ends, and this may come before.
  test.eventually(function() return perilune.stats("counted").mailbox == 0 end)
  local stats = perilune.stats "counted"
  test.equal(stats.name, "counted")
  test.equal(stats.script, "services.target")
  test.equal(stats.group, support.group)
  test.equal(stats.version, 1)
  test.equal(stats.messages, 8)
  test.equal(stats.errors, 1)
  test.equal(stats.tasks, 1)
  test.equal(stats.timers, 2)
  test.equal(stats.mailbox, 0)
  -- The collector frees in the turn of one light service what others have left.
  local least = support.group and 0 or 500
  test.ok(stats.memory >= least and stats.memory < 1e6, stats.memory)
  test.ok(stats.cpu_ms >= 0 and stats.cpu_ms < 1000, stats.cpu_ms)
  test.equal(type(stats.jit), "boolean")
  perilune.kill(target)
end)

case("stats of the running service need no wait", function()
  local stats = coroutine.wrap(function() return perilune.stats() end)()
  test.equal(stats.script, "services.cases")
  test.ok(stats.tasks >= 1)
  test.equal(perilune.stats(perilune.self()).script, "services.cases")
end)

case("stats of what is dead raise dead, of what is no service an error", function()
  for _, to in ipairs { 12345, "nobody", 0 } do
    test.equal(test.raises(function() perilune.stats(to) end).code, "dead")
  end
  test.raises(function() perilune.stats {} end, "argument #1 to 'perilune.stats'")
end)

case("node tells services, counters and names", function()
  local before = perilune.node()
  local target = support.spawn("services.target", nil, { name = "known" })
  local node = perilune.node()
  test.equal(node.services, before.services + 1)
  test.equal(node.names.known, target)
  test.ok(node.counters.services_started > before.counters.services_started)
  for _, name in ipairs { "dead_letters", "refused_dead", "refused_overloaded", "late_replies",
    "calls_failed", "lua_errors", "memory_kills", "interrupted_requests", "long_dispatches" } do
    test.equal(type(node.counters[name]), "number", name)
  end
  perilune.kill(target)
  test.eventually(function() return perilune.node().services == before.services end)
end)

case("env gives what config.lua says, then the process's environment, then nil", function()
  test.equal(perilune.env "text", "from config.lua")
  test.equal(perilune.env "number", 5)
  test.equal(perilune.env "table", { list = { 1, 2 } })
  test.ok(#perilune.env "PATH" > 0)
  test.equal(select("#", perilune.env "NO_SUCH_VARIABLE_HERE"), 1)
  test.equal(perilune.env "NO_SUCH_VARIABLE_HERE", nil)
  test.raises(function() perilune.env() end, "argument #1 to 'perilune.env'")
  perilune.env("table").list[1] = 9
  test.equal(perilune.env "table", { list = { 1, 2 } })
end)

-- ---- shared data ----

case("shared data is read like a table", function()
  local data = perilune.shared("prices", {
    10, 20, 30, sword = { cost = 7, tags = { "sharp" } }, [true] = "yes", text = "\0\255",
  })
  test.equal({ #data, data[1], data[3], data[4] }, { 3, 10, 30 })
  test.equal({ data.sword.cost, data.sword.tags[1], #data.sword.tags }, { 7, "sharp", 1 })
  test.equal({ data[true], data.text, data.none, data[1.5], data[print] }, { "yes", "\0\255" })
  local keys, list = {}, {}
  for key, value in pairs(data) do
    keys[#keys + 1] = tostring(key)
    test.ok(value ~= nil)
  end
  table.sort(keys)
  test.equal(keys, { "1", "2", "3", "sword", "text", "true" })
  for i, value in ipairs(data) do list[i] = value end
  test.equal(list, { 10, 20, 30 })
  test.ok(data.sword == data.sword)
end)

case("shared data can't be changed by anybody", function()
  local source = { list = { 1 }, name = "x" }
  local data = perilune.shared("constant", source)
  source.name, source.list[1] = "changed", 2
  test.equal({ data.name, data.list[1] }, { "x", 1 })
  test.raises(function() data.name = "y" end, "cannot be changed")
  test.raises(function() data.new = 1 end, "cannot be changed")
  test.raises(function() data.list[1] = 5 end, "cannot be changed")
  test.raises(function() rawset(data, "name", "y") end)
  test.raises(function() setmetatable(data, {}) end)
  test.raises(function() table.insert(data.list, 3) end)
  test.raises(function() table.sort(data.list) end)
  test.equal(getmetatable(data), false)
  test.equal({ data.name, #data.list }, { "x", 1 })
end)

case("shared data is replaced as a whole, and who has the old goes on with it", function()
  local old = perilune.shared("season", { name = "spring", days = { 1, 2, 3 } })
  local days = old.days
  perilune.shared("season", { name = "summer" })
  test.equal({ old.name, #days, days[3] }, { "spring", 3, 3 })
  test.equal(perilune.shared("season").name, "summer")
  test.equal(perilune.shared("season").days, nil)
  test.equal(perilune.shared "no such data", nil)
  test.equal(select("#", perilune.shared "no such data"), 1)
end)

case("shared data is sent as a plain table", function()
  local data = perilune.shared("sent", { a = { 1, 2 } })
  local target = support.spawn "services.target"
  local copy = perilune.call(target, "echo", data, data.a)
  test.equal(copy, { a = { 1, 2 } })
  copy.a[1] = 5
  test.equal(copy.a[1], 5)
  perilune.kill(target)
end)

case("all services read the same shared data", function()
  test.ok(file.write("reader.lua", [[
    local perilune = require "perilune"
    return { read = function() return perilune.shared("for all").value end }]]))
  local readers = { support.spawn "reader", perilune.spawn "reader",
    perilune.spawn("reader", nil, { group = "readers" }) }
  for round = 1, 3 do
    perilune.shared("for all", { value = round })
    for _, reader in ipairs(readers) do test.equal(perilune.call(reader, "read"), round) end
  end
  for _, reader in ipairs(readers) do perilune.kill(reader) end
  file.remove "reader.lua"
end)

case("shared data may come from a script", function()
  test.ok(file.write("shared_file.lua", "return { from = 'a file', list = { 1, 2, 3 } }"))
  test.equal(#perilune.shared("from file", "shared_file").list, 3)
  test.equal(perilune.shared("from file").from, "a file")
  file.remove "shared_file.lua"
end)

case("shared says what it can't take", function()
  test.raises(function() perilune.shared() end, "argument #1 to 'perilune.shared'")
  test.raises(function() perilune.shared("x", 5) end, "perilune.shared: a table")
  test.raises(function() perilune.shared("x", { { print } }) end, "%[1%]%[1%] is a function")
  test.raises(function() perilune.shared("x", "no_such_script") end, "no_such_script")
  local cycle = {}
  cycle.own = { cycle }
  test.raises(function() perilune.shared("x", cycle) end, "contains itself")
  test.equal(perilune.shared "x", nil)
end)

-- ---- log ----

case("log takes formats and plain texts", function()
  for _, level in ipairs { "debug", "info", "warn", "error" } do
    perilune.log[level]("%d of %s", 1, "two")
    perilune.log[level]("100% plain")
    perilune.log[level]("control \0\1\27 characters")
  end
  print("printed", 1, nil, {}, setmetatable({}, { __tostring = function() return "own" end }))
  perilune.log.level "warn"
  perilune.log.level "info"
  test.raises(function() perilune.log.level "loud" end, "trace, debug, info")
end)

return cases
