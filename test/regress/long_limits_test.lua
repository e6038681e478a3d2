-- Limits and delays up to 2^53 ms are taken as what they are, though a signed 64-bit count of
-- nanoseconds ends before.

local perilune = require "perilune"
local test = require "perilune.test"

local LONG = { 1e12, 1e13, 2 ^ 53 }

test("a call with a very long limit has its reply", function()
  local echo = perilune.spawn "services.echo"
  for i, ms in ipairs(LONG) do
    -- So that it waits for a while.
    local name = "long " .. i
    local latch = perilune.spawn("services.echo", nil, { name = name })
    perilune.send(echo, "hold", name)
    perilune.fork(function()
      perilune.sleep(50)
      perilune.stop(latch)
    end)
    test.equal(perilune.call_within(ms, echo, "echo", ms), ms)
  end
  perilune.stop(echo)
end)

test("timers of a very long delay don't come", function()
  local calls = 0
  local function called() calls = calls + 1 end
  for _, ms in ipairs(LONG) do
    local once, again = perilune.timeout(ms, called), perilune.every(ms, called)
    perilune.sleep(20)
    test.equal(calls, 0)
    test.equal({ perilune.cancel(once), perilune.cancel(again) }, { true, true })
  end
end)

return test
