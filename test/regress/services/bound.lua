-- For tests of what services keep in the engine: it does what it is told to.

local perilune = require "perilune"

local bound = {}

function bound.echo(...) return ... end
function bound.exit(reason) perilune.exit(reason) end
function bound.link(to) perilune.link(to) end
-- Says that it is held, by a name, and looks at nothing else while there is a service `latch`.
function bound.hold(latch)
  perilune.name(latch .. " holds " .. perilune.self())
  while perilune.find(latch) do end -- luacheck: ignore
end

return bound
