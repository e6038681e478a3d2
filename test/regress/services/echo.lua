local perilune = require "perilune"

local echo = {}
function echo.echo(...) return ... end
-- Says that it is held, by a name, and looks at nothing else while there is a service `latch`.
function echo.hold(latch)
  perilune.name(latch .. " holds")
  while perilune.find(latch) do end -- luacheck: ignore
end
return echo
