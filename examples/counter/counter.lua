-- A number that services and players add to.
local options = require "perilune.options"
local perilune = require "perilune"

local counter = {} -- the commands that other services may call
local client = {} -- the commands that players may call, through a gateway
local total = 0 -- its state, kept over a reload

counter.options = { -- what on_start gets: checked, with defaults
  first = { type = "integer", default = 0, meaning = "the number it starts at" },
  tick_ms = { type = "integer", default = 1000, min = 1, max = 3600000, unit = "ms",
    meaning = "how often it says its number" },
}

function counter.on_start(given) -- names beginning with on_ can't be called from outside
  local settings = options.read(counter.options, given)
  total = settings.first
  perilune.every(settings.tick_ms, "on_tick") -- by name: reload takes effect
end

function counter.on_tick() perilune.log.info("total %d", total) end

function counter.add(n)
  total = total + n
  return total -- what a command returns is the reply
end

function client.add(_, body) -- protocol.lua says what a packet is called and what is in it
  return { status = 1, total = counter.add(body.n) }
end

return counter, client
