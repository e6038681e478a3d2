-- A service that looks whether packets come in order. It stands in for the talkroom: each line of
-- a player is a number, larger than the one before.
local perilune = require "perilune"

local counting = {}
local client = {}
local last = {} -- by uid
local numbers = { lines = 0, disordered = 0, gone = 0 }

function client.send_message(uid, text)
  local number = tonumber(text)
  numbers.lines = numbers.lines + 1
  if number <= (last[uid] or 0) then numbers.disordered = numbers.disordered + 1 end
  last[uid] = number
  return { status = 1, id = number }
end

function client.on_disconnect(uid)
  numbers.gone = numbers.gone + 1
  last[uid] = nil
end

function counting.numbers() return numbers end

-- Says that it is held, by a name, and looks at nothing else while there is a service `latch`.
function counting.hold(latch)
  perilune.name(latch .. " holds")
  while perilune.find(latch) do end -- luacheck: ignore
end

return counting, client
