-- Both sides of W1.

local perilune = require "perilune"
local peer = {}

function peer.echo(number, text)
  return number + 1, text
end

function peer.run(to, count, payload)
  local call = perilune.call
  for i = 1, count do
    local number, text = call(to, "echo", i, payload)
    if number ~= i + 1 or text ~= payload then error("a wrong reply to call " .. i) end
  end
  return count
end

return peer
