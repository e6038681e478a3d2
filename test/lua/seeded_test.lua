-- A seeded run of a whole node gives the same order of events for the same seed.

local support = require "support"
local test = require "perilune.test"

-- What a run prints.
local function run(seed, script)
  local command = '"$(readlink /proc/$PPID/exe)" test %s/%s.lua --seed %d 2>&1'
  local folder = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
  local output = io.popen(command:format(folder, script or "seeded/scenario", seed)):read "*a"
  test.ok(output:find "passed, 0 failed\n$", output:sub(-2000))
  return output
end

-- The first line in which two texts differ.
local function difference(left, right)
  local next_left, next_right = left:gmatch "[^\n]+", right:gmatch "[^\n]+"
  local line = 0
  while true do
    line = line + 1
    local a, b = next_left(), next_right()
    if a ~= b then return ("line %d: %s | %s"):format(line, tostring(a), tostring(b)) end
    if not a then return "none" end
  end
end

test("the same seed gives the same order of events, each time", function()
  local first = run(7)
  local events = tonumber(first:match "events (%d+)")
  test.ok(events > 300, events)
  for _ = 2, support.scale(20, 100) do
    local other = run(7)
    if other ~= first then error("they differ in " .. difference(first, other)) end
  end
end, support.patience(60000))

test("times hold to the millisecond in virtual time", function()
  for seed = 1, 3 do
    local output = run(seed, "in_virtual_time")
    test.ok(output:find "12 passed, 0 failed\n$", output:sub(-2000))
  end
end, support.patience(60000))

test("a seeded node has no UDP", function() run(1, "seeded/no_udp") end, support.patience(20000))

test("another seed gives another order", function()
  local seen, count = {}, 5
  for seed = 1, count do
    local output = run(seed)
    test.ok(not seen[output], "two seeds gave the same")
    seen[output] = true
    test.equal(run(seed) == output, true)
  end
end, support.patience(60000))

return test
