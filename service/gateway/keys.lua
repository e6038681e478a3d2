-- Keys of sessions: 2^31 and more, so that no uid is one. That of a dead session rests before it
-- is used again, since what it asked for may still be answered.
local perilune = require "perilune"
local protocol = require "perilune.protocol"
local settings = require "gateway.settings"

local keys = {}

local FIRST_KEY = protocol.FIRST_KEY

local taken = {} -- those in use
local resting = {} -- key -> when its session died
local order = { first = 1, last = 0 } -- the same, oldest first
local next_key = 0

---Before the first key is taken.
function keys.start() next_key = math.random(0, settings.keys - 1) end

---Lets those go that have rested for long enough.
---@param now number
function keys.wake(now)
  while order.first <= order.last do
    local key = order[order.first]
    if now - resting[key] < settings.key_rest_ms then return end
    resting[key], order[order.first] = nil, nil
    order.first = order.first + 1
  end
end

---@param now number
---@return integer? key nil when all are in use or rest
function keys.take(now)
  keys.wake(now)
  for _ = 1, settings.keys do
    local key = FIRST_KEY + next_key
    next_key = (next_key + 1) % settings.keys
    if not taken[key] and not resting[key] then
      taken[key] = true
      return key
    end
  end
end

---Its session is dead.
---@param key integer
function keys.rest(key)
  taken[key] = nil
  resting[key] = perilune.now()
  order.last = order.last + 1
  order[order.last] = key
end

return keys
