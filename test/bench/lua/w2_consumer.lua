-- Checks what it gets, and in which order.

local perilune = require "perilune"
local consumer = {}

local STEP = 1024 -- acknowledged at once

local payload
local producers, expected = 1, 0
local received = 0
local due = {} -- by producer: the number that comes next
local done

function consumer.expect(count, producers_count, text)
  payload, producers, expected, received, done = text, producers_count, count, 0, nil
  for i = 0, producers - 1 do due[i] = i end
end

-- Returns when the last one came.
function consumer.wait()
  if received == expected then return received, perilune.now() end
  done = perilune.defer()
end

function consumer.put(number, text)
  local from = number % producers
  if number ~= due[from] then error("message " .. number .. " instead of " .. due[from]) end
  if text ~= payload then error("a wrong payload") end
  number = number + producers
  due[from] = number
  received = received + 1
  if (number - from) / producers % STEP == 0 then perilune.send(perilune.sender(), "more") end
  if received == expected and done then done(received, perilune.now()) end
end

return consumer
