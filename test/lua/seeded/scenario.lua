-- A node with all that happens in an order of its own: run with a seed by seeded_test.lua, it
-- prints what happened, in order.

local perilune = require "perilune"
local test = require "perilune.test"

local trace = {}

function test.trace(...)
  local line = { ("%.3f"):format(perilune.now()), ... }
  for i = 2, #line do line[i] = tostring(line[i]) end
  trace[#trace + 1] = table.concat(line, " ")
end

function test.on_down(_, reason) test.trace("down", reason) end

test("scenario", function()
  local peers, handles = {}, {}
  for i = 1, 8 do
    peers[i] = perilune.spawn("peer", { number = i, main = perilune.self() },
      { group = i > 4 and "light" or nil, monitor = true, name = "peer" .. i })
    handles[i] = peers[i]
  end
  local tasks = {}
  for i, peer in ipairs(peers) do
    tasks[i] = function() return perilune.call_within(0, peer, "run", handles, 40) end
  end
  perilune.timeout(40, function() perilune.kill "peer3" end)
  perilune.timeout(55, function() perilune.kill "peer7" end)
  for i, result in ipairs(perilune.wait_all(tasks)) do
    test.trace("ended", i, result[1] and result[2] or result[2].code)
  end
  for i, peer in ipairs(peers) do
    if perilune.find("peer" .. i) then perilune.stop(peer) end
  end
  for _, line in ipairs(trace) do io.write(line, "\n") end
  io.write("events ", #trace, "\n")
end)

return test
