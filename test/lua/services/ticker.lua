-- Measures how late its timers are.

local perilune = require "perilune"

local ticker = {}
local lates, due = {}, 0

local function tick(period_ms)
  lates[#lates + 1] = perilune.now() - due
  due = perilune.now() + period_ms
  perilune.timeout(period_ms, tick, period_ms)
end

function ticker.on_start(period_ms)
  due = perilune.now() + period_ms
  perilune.timeout(period_ms, tick, period_ms)
end

---How late each was in ms, since the last time.
function ticker.take()
  local taken = lates
  lates = {}
  return taken
end

return ticker
