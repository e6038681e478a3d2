-- A service of the embedding example: it talks to the host's native service and native module.
local perilune = require "perilune"
local world = require "embed.world" -- functions of the host program, see embed.cpp

local greeter = {}
local greeted = 0

function greeter.on_start(options)
  perilune.log.info("greets in the %s", options.place)
end

-- Called by the host's main loop.
function greeter.greet(name)
  greeted = greeted + 1
  -- The score board is a service in C++; from here it is like any other.
  local best = perilune.call("scores", "add", name, world.random(1, 6))
  return ("Hello %s, frame %d. %s leads."):format(name, world.frame(), best)
end

function greeter.count() return greeted end

return greeter
