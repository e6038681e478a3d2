-- Promise 1: a Lua error fails that message alone; an error in on_start means that the service
-- never was.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local GROUPS = { isolated = false, light = "errors" }

local function spawn(group, options, settings)
  settings = settings or {}
  settings.group = group or nil
  return perilune.spawn("services.errors", options, settings)
end

-- kind -> what is found in the message, whether the value arrives (true: as it was)
local KINDS = {
  ["nil"] = { "type nil" }, boolean = { "type boolean", false }, number = { "42$" },
  text = { "services/errors.lua:%d+: just text$" }, empty = { "services/errors.lua:%d+: $" },
  binary = { "%z\255\27" }, table = { "^{code = 5, list = %(table%)}$", { code = 5, list = { 1, 2 } } },
  message = { "^says why$", { message = "says why", code = 5 } },
  tostring = { "type table", {} }, bad_tostring = { "type table", {} },
  endless_tostring = { "type table", {} }, index = { "type table", {} },
  unsendable = { "^with a function$" }, cycle = { "^a cycle$" }, huge_table = { "^huge$" },
  ["function"] = { "type function" }, coroutine = { "type thread" },
  userdata = { "type userdata", { 1 } }, long = { "x+$" }, huge = { "x+$" },
}

for way, group in pairs(GROUPS) do
  test(("error values of every type reach the caller of a service (%s)"):format(way), function()
    local service = spawn(group)
    local count = 0
    for kind, wanted in pairs(KINDS) do
      local raised = test.raises(function() perilune.call(service, "raise", kind) end)
      test.equal(raised.code, "error", kind)
      test.ok(raised.message:find(wanted[1]), kind .. ": " .. raised.message:sub(1, 300))
      test.ok(#raised.message <= 4096, kind)
      test.ok(raised.traceback == nil or #raised.traceback <= 4096, kind)
      if wanted[2] ~= nil then test.equal(raised.value, wanted[2], kind) end
      test.ok(type(raised.value) ~= "string" or #raised.value <= 4096, kind)
      test.ok(#tostring(raised) <= 8193, kind)
      test.equal(perilune.call(service, "in_pcall", kind), false)
      test.equal(perilune.call(service, "good", kind), kind)
      count = count + 1
    end
    test.equal(perilune.stats(service).errors, count)
    perilune.kill(service)
  end)

  test(("an error value of every type in on_start ends the start (%s)"):format(way), function()
    local before = perilune.node().services
    for kind, wanted in pairs(KINDS) do
      local raised = test.raises(function() spawn(group, kind, { name = "never" }) end)
      test.equal(raised.code, "error", kind)
      test.ok(raised.message:find(wanted[1]), kind .. ": " .. raised.message:sub(1, 300))
      test.equal(perilune.find "never", nil)
    end
    test.eventually(function() return perilune.node().services == before end)
  end)

  test(("errors carry the lines of the script and short tracebacks (%s)"):format(way), function()
    local service = spawn(group)
    local raised = test.raises(function() perilune.call(service, "deep") end)
    test.ok(raised.message:find "services/errors.lua:%d+: deep down")
    test.ok(raised.traceback:find "services/errors.lua:%d+")
    test.ok(#raised.traceback <= 4096)
    raised = test.raises(function() perilune.call(service, "nested") end)
    test.equal(raised.value.message, "says why")
    test.equal(raised.value.code, "error")
    raised = test.raises(function() perilune.call(service, "runtime") end)
    test.ok(raised.message:find "services/errors.lua:%d+: attempt to perform arithmetic")
    raised = test.raises(function() perilune.call(service, "call_nil") end)
    test.ok(raised.message:find "no_such_function")
    perilune.kill(service)
  end)

  test(("10,000 failing calls leave 10,000 good ones alone (%s)"):format(way), function()
    local service, count = spawn(group), support.scale(10000)
    local good, failed, kinds = 0, 0, {}
    for kind in pairs(KINDS) do
      -- Those that are large would measure something else.
      if not kind:find "huge" and kind ~= "long" then kinds[#kinds + 1] = kind end
    end
    table.sort(kinds)
    local callers = {}
    for caller = 1, 20 do
      callers[caller] = function()
        for i = 1, count / 20 do
          if perilune.call(service, "good", i) == i then good = good + 1 end
          local ok, raised = pcall(perilune.call, service, "raise", kinds[i % #kinds + 1])
          if not ok and raised.code == "error" then failed = failed + 1 end
        end
      end
    end
    perilune.wait_all(callers)
    test.equal({ good, failed }, { count, count })
    local stats = perilune.stats(service)
    test.equal({ stats.errors, stats.messages, stats.tasks }, { count, 2 * count, 0 })
    perilune.kill(service)
  end, support.patience(60000))
end

test("errors of a light service are its own", function()
  local first, second = spawn "neighbours", spawn "neighbours"
  for _ = 1, 100 do perilune.send(first, "raise", "text") end
  test.equal(perilune.call(second, "good", 1), 1)
  test.eventually(function() return perilune.stats(first).errors == 100 end)
  test.equal(perilune.stats(second).errors, 0)
  perilune.kill(first)
  perilune.kill(second)
end)

test("errors are counted by the node", function()
  local service, before = spawn(false), support.counters().lua_errors
  for _ = 1, 10 do perilune.send(service, "raise", "text") end
  test.eventually(function() return support.counters().lua_errors == before + 10 end)
  perilune.kill(service)
end)

return test
