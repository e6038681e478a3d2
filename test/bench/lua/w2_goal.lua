-- Where the tokens of a ring go in the end: each once, from where it must be by then.

local perilune = require "perilune"
local goal = {}

local size, hops = 0, 0
local seen, arrived = {}, 0
local done

function goal.expect(ring_size, hops_count)
  size, hops, seen, arrived, done = ring_size, hops_count, {}, 0, nil
end

-- Returns when the last one came.
function goal.wait()
  if arrived == size then return perilune.now() end
  done = perilune.defer()
end

function goal.arrive(token, place)
  if seen[token] then error("token " .. token .. " came twice") end
  if place ~= (token + hops - 1) % size + 1 then error("token " .. token .. " lost its way") end
  seen[token] = true
  arrived = arrived + 1
  if arrived == size and done then done(perilune.now()) end
end

return goal
