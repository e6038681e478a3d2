-- Sends numbered messages, at most WINDOW ahead of what the consumer has acknowledged.

local perilune = require "perilune"
local producer = {}

local WINDOW, STEP = 4096, 1024

local consumer, payload
local number, step, left

-- The consumer has had STEP messages: as many again.
function producer.more()
  local send, to, text = perilune.send, consumer, payload
  local count = math.min(left, STEP)
  left = left - count
  for _ = 1, count do
    if not send(to, "put", number, text) then error("message " .. number .. " was not sent") end
    number = number + step
  end
end

-- Its messages are numbered first, first + producers, and so on: the consumer knows by its number
-- whose a message is.
function producer.begin(to, count, first, producers, text)
  consumer, payload = to, text
  number, step, left = first, producers, count
  for _ = 1, WINDOW / STEP do producer.more() end
end

return producer
