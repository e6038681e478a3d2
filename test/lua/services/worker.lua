-- Does what messages ask for, quickly: for tests of many calls.

local perilune = require "perilune"

local worker = {}
local results = { count = 0 }

function worker.echo(...) return ... end
function worker.wait(ms, value)
  perilune.sleep(ms)
  return value
end
function worker.fail(value) error(value, 0) end
function worker.defer(ms, value)
  local reply = perilune.defer()
  perilune.timeout(ms, function() reply(value) end)
end
function worker.forget() perilune.defer() end
function worker.pass_on(to, value)
  local sent, why = perilune.redirect(to, "echo", value)
  if not sent then error(why, 0) end
end
function worker.exit(value)
  perilune.exit()
  return value
end
-- Says that it is held, by a name, and looks at nothing else while there is a service `latch`.
function worker.hold(latch)
  perilune.name(latch .. " holds " .. perilune.self())
  while perilune.find(latch) do end -- luacheck: ignore
end
function worker.busy(ms)
  local stop = os.clock() + ms / 1000
  while os.clock() < stop do end -- luacheck: ignore
end

-- Makes `count` calls of random kinds to random others, and counts how each ends.
function worker.run(others, count)
  local ended = {}
  for call = 1, count do
    local to, kind = others[math.random(#others)], math.random(100)
    local ok, value
    if kind <= 40 then
      ok, value = pcall(perilune.call, to, "echo", call)
    elseif kind <= 55 then
      ok, value = pcall(perilune.call_within, 1000, to, "wait", math.random(5), call)
    elseif kind <= 65 then
      ok, value = pcall(perilune.call_within, math.random(10), to, "wait", math.random(15), call)
    elseif kind <= 75 then
      ok, value = pcall(perilune.call, to, "fail", call)
      if not ok and value.code == "error" and value.value ~= call and value.value ~= tostring(call)
      then error("the error of another call: " .. tostring(value.value)) end
    elseif kind <= 85 then
      ok, value = pcall(perilune.call, to, "defer", math.random(5), call)
    elseif kind <= 95 then
      ok, value = pcall(perilune.call, to, "pass_on", others[math.random(#others)], call)
    elseif kind <= 97 then
      ok, value = pcall(perilune.call_within, 20, to, "forget")
    else
      ok, value = pcall(perilune.call, to, "busy", 0.2)
      if ok then value = call end
    end
    if ok and value ~= call and kind ~= 96 and kind ~= 97 then
      error(("the reply of another call: %s for %s"):format(tostring(value), call))
    end
    local outcome = ok and "reply" or value.code
    ended[outcome] = (ended[outcome] or 0) + 1
    results.count = results.count + 1
  end
  return ended
end

function worker.count() return results.count end

return worker
