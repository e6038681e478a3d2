-- What services make the engine keep for them is bounded, counted, and gone when they are.

local perilune = require "perilune"
local test = require "perilune.test"

local function counter(name)
  return test.ok(perilune.node().counters[name], name .. " isn't counted")
end

-- Has a service look at nothing until the function that is returned is called.
local latches = 0
local function hold(service)
  latches = latches + 1
  local name = "latch " .. latches
  local latch = perilune.spawn("services.bound", nil, { name = name })
  perilune.send(service, "hold", name)
  test.eventually(function() return perilune.find(name .. " holds " .. service) end)
  return function() perilune.kill(latch) end
end

for _, group in ipairs { false, "limits" } do
  local way = group and "light" or "isolated"
  local settings = { group = group or nil }
  local function spawn() return perilune.spawn("services.bound", nil, settings) end

  test(("a link is forgotten when either of the two has died (%s)"):format(way), function()
    local keeper, before = spawn(), counter "monitors"
    for _ = 1, 20 do
      local other = spawn()
      perilune.call(keeper, "link", other)
      perilune.stop(other)
    end
    test.eventually(function() return counter "monitors" == before end)
    for _ = 1, 20 do
      local other = spawn()
      perilune.call(other, "link", keeper)
      perilune.stop(other)
    end
    test.eventually(function() return counter "monitors" == before end)
    perilune.stop(keeper)
  end)

  test(("a link to a service that dies before it hears of it is forgotten (%s)"):format(way),
    function()
      local before = counter "monitors"
      local keeper, other = perilune.spawn "services.bound", spawn()
      local release = hold(other)
      perilune.call(keeper, "link", other)
      local stopped
      perilune.fork(function() stopped = perilune.stop(other) end)
      perilune.yield() -- to be stopped overtakes the link
      release()
      test.eventually(function() return stopped end)
      test.eventually(function() return counter "monitors" == before end)
      perilune.stop(keeper)
    end)
end

return test
