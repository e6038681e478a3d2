-- Returns what can't be sent, or is large.

local perilune = require "perilune"

local payloads = {}

local function make(kind)
  if kind == "function" then return print end
  if kind == "nested" then return 1, { list = { 1, { code = print } } } end
  if kind == "key" then return { x = { [{}] = 1 } } end
  if kind == "cycle" then
    local cycle = {}
    cycle.own = cycle
    return cycle
  end
  if kind == "huge" then return ("x"):rep(17 * 2 ^ 20) end
  if kind == "large" then return ("x"):rep(15 * 2 ^ 20) end
  return kind
end

payloads.result = make

function payloads.later(kind)
  local reply = perilune.defer()
  perilune.timeout(5, function() reply(make(kind)) end)
end

return payloads
