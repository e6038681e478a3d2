-- For tests of what services keep in the engine: it does what it is told to.

local perilune = require "perilune"
local socket = require "perilune.socket"

local bound = {}

function bound.echo(...) return ... end
function bound.exit(reason) perilune.exit(reason) end
function bound.link(to) perilune.link(to) end
-- Says that it is held, by a name, and looks at nothing else while there is a service `latch`.
function bound.hold(latch)
  perilune.name(latch .. " holds " .. perilune.self())
  while perilune.find(latch) do end -- luacheck: ignore
end
function bound.name(name) perilune.name(name) end
function bound.level(level) perilune.log.level(level) end
function bound.subscribe(count)
  for i = 1, count do perilune.subscribe("topic " .. i, "echo") end
end
function bound.unsubscribe(i) perilune.unsubscribe("topic " .. i) end
function bound.groups(count)
  for _ = 1, count do socket.group() end
end

-- What it sees of a service that dies with a call of it in its mailbox.
local seen, calls = {}, 0
function bound.watch(service)
  perilune.monitor(service)
  perilune.fork(function()
    calls = calls + 1
    local _, raised = pcall(perilune.call, service, "echo")
    seen[#seen + 1] = raised.code
  end)
end
function bound.calls() return calls end
function bound.seen() return seen end
function bound.on_down() seen[#seen + 1] = "down" end

return bound
