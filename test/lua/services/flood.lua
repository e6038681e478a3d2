-- Floods others for as long as it is told to.

local perilune = require "perilune"

local flood = {}

---Sends `command` to all of `targets` as fast as they take it.
function flood.run(targets, ms, command, ...)
  local stop, sent, refused = perilune.now() + ms, 0, 0
  while perilune.now() < stop do
    for _, target in ipairs(targets) do
      for _ = 1, 100 do
        if perilune.send(target, command, ...) then
          sent = sent + 1
        else
          refused = refused + 1
          break
        end
      end
    end
    perilune.yield()
  end
  return sent, refused
end

---Sends to itself for ever: never idle, never in one dispatch for long.
function flood.spin(ms)
  local stop = perilune.now() + ms
  while perilune.now() < stop do perilune.yield() end
end

return flood
