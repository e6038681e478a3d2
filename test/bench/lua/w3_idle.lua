-- The smallest service.

local perilune = require "perilune"
local idle = {}

function idle.hello() return "hello" end

function idle.leave()
  perilune.exit()
  return "bye"
end

return idle
