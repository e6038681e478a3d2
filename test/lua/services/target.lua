-- A service that does what a test asks for.

local perilune = require "perilune"

local target = {}

local state = { received = {}, downs = {} }

---@param options table? sleep_ms, fail, name, report_to, stop_fails, note
function target.on_start(options)
  options = options or {}
  state.options = options
  if options.name then perilune.name(options.name) end
  if options.sleep_ms then perilune.sleep(options.sleep_ms) end
  if options.fail ~= nil then error(options.fail, options.level or 0) end
  if options.timer_ms then perilune.timeout(options.timer_ms, "note", "timer") end
end

function target.on_stop(reason)
  if state.options.report_to then
    perilune.send(state.options.report_to, "reported", "on_stop", reason, perilune.self())
  end
  if state.options.stop_ms then perilune.sleep(state.options.stop_ms) end
  if state.options.stop_fails then error("on_stop fails") end
end

function target.on_down(handle, reason) table.insert(state.downs, { handle, reason }) end
function target.on_topic(topic, ...) table.insert(state.received, { topic, ... }) end

function target.echo(...) return ... end
function target.count(...) return select("#", ...) end
function target.options() return state.options end
function target.received() return state.received end
function target.downs() return state.downs end
function target.sender() return perilune.sender() end
function target.self() return perilune.self() end

function target.note(value) table.insert(state.received, value) end

function target.sleep(ms, ...)
  perilune.sleep(ms)
  return ...
end

function target.fail(value, level) error(value, level or 0) end
function target.raise_text() error("raised on purpose") end

-- Answers after a while, `times` times.
function target.later(ms, times, ...)
  local reply, values = perilune.defer(), { n = select("#", ...), ... }
  perilune.fork(function()
    perilune.sleep(ms)
    for _ = 1, times do reply(unpack(values, 1, values.n)) end
  end)
  return "not this"
end

function target.forget()
  perilune.defer()
end

function target.collect()
  for _ = 1, 3 do
    repeat until collectgarbage("step", 1000)
  end
end

function target.redirect(to, command, ...)
  local sent, why = perilune.redirect(to, command, ...)
  return "redirected", sent, why
end

-- Hands itself round and round.
function target.circle() perilune.redirect(perilune.self(), "circle") end

function target.exit(reason)
  perilune.exit(reason)
  return "leaving"
end

function target.monitor(to) return perilune.monitor(to) end
function target.link(to) return perilune.link(to) end
function target.subscribe(topic, command) perilune.subscribe(topic, command) end
function target.unsubscribe(topic) perilune.unsubscribe(topic) end
function target.rename(name) perilune.name(name) end
function target.unique(...) return perilune.unique(...) end
function target.spin() while true do end end -- luacheck: ignore
function target.set_timer(ms, command) return perilune.timeout(ms, command) end

return target
