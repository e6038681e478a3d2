-- A supervisor that was stopped while it started a child again left that child running.

local file = require "perilune.file"
local perilune = require "perilune"
local test = require "perilune.test"

test("a supervisor that is stopped while it starts a child again leaves none", function()
  file.write("slow.lua", [[
    local perilune = require "perilune"
    return { on_start = function()
      while perilune.find "hold slow" do perilune.sleep(1) end
    end }]])
  local top = perilune.supervisor({ { name = "slow" } }, { backoff_ms = 1 })
  local first = perilune.find "slow"
  local hold = perilune.spawn("services.echo", nil, { name = "hold slow" })
  perilune.kill "slow"
  test.eventually(function()
    local again = perilune.find "slow"
    return again and again ~= first
  end)
  local stopped
  perilune.fork(function() stopped = perilune.stop(top) end)
  perilune.yield()
  perilune.kill(hold)
  test.eventually(function() return stopped end)
  test.eventually(function() return not perilune.find "slow" end)
  file.remove "slow.lua"
end)

test("a supervisor that is stopped in the pause before a restart starts nothing", function()
  local top = perilune.supervisor({ { name = "resting", script = "services.echo" } },
    { backoff_ms = 300 })
  perilune.kill "resting"
  test.eventually(function() return not perilune.find "resting" end)
  test.equal(perilune.stop(top), true)
  test.equal(perilune.find "resting", nil)
end)

return test
