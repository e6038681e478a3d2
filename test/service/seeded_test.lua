-- Runs limits_in_virtual_time.lua.

local test = require "perilune.test"

test("the limits of time hold to the millisecond in virtual time", function()
  local folder = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
  local command = '"$(readlink /proc/$PPID/exe)" test %s/limits_in_virtual_time.lua --seed %d 2>&1'
  for seed = 1, 3 do
    local output = io.popen(command:format(folder, seed)):read "*a"
    test.ok(output:find "passed, 0 failed\n$", output:sub(-2000))
  end
end, 120000)

return test
