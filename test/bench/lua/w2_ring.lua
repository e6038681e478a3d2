-- One of a ring: passes tokens on.

local perilune = require "perilune"
local ring = {}

local next_one, goal, place

function ring.join(to, goal_handle, own_place)
  next_one, goal, place = to, goal_handle, own_place
end

function ring.pass(hops, token)
  if hops == 0 then
    perilune.send(goal, "arrive", token, place)
  else
    perilune.send(next_one, "pass", hops - 1, token)
  end
end

return ring
