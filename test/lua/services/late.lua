-- Starts when there is no service `latch` any more.

local perilune = require "perilune"

local late = {}

function late.on_start(latch)
  while perilune.find(latch) do perilune.sleep(1) end
end
function late.echo(...) return ... end

return late
