-- Calls others, sleeps, draws numbers and walks tables, and tells of all of it.

local perilune = require "perilune"

local peer = {}
local number, main

local function tell(...) perilune.send(main, "trace", number, ...) end

-- The order of pairs depends on the addresses of tables and the seed of strings.
local function walk()
  local keys, map = {}, {}
  for i = 1, 12 do
    map["key" .. i * 7] = i
    map[{}] = i
  end
  for _, value in pairs(map) do keys[#keys + 1] = value end
  return table.concat(keys, ",")
end

function peer.on_start(options)
  number, main = options.number, options.main
  tell("begins", math.random(1e6), walk())
  perilune.every(7, "on_tick")
end

function peer.on_tick() tell("tick", math.random(100)) end
function peer.on_stop(reason) tell("stops", reason) end

function peer.ask(from, n)
  if math.random(4) == 1 then perilune.sleep(math.random(20)) end
  if math.random(10) == 1 then error("refused " .. n, 0) end
  return from * 1000 + n
end

function peer.later(n)
  local reply = perilune.defer()
  perilune.timeout(math.random(15), function() reply(n) end)
end

function peer.run(others, count)
  for n = 1, count do
    local to = others[math.random(#others)]
    local ok, result
    if math.random(3) == 1 then
      ok, result = pcall(perilune.call_within, 10, to, "later", n)
    else
      ok, result = pcall(perilune.call, to, "ask", number, n)
    end
    tell("asked", n, ok, ok and result or result.code)
    if n % 10 == 0 then tell("walks", walk()) end
    if n % 15 == 0 then
      local data = perilune.shared("seeded", { n, { n }, x = { y = { n } } })
      tell("shares", #data, data.x.y[1], data[2][1])
    end
  end
  return math.random()
end

return peer
