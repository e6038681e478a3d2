-- What an operator wants to know of a gateway: counters, and a line a second in the log of what
-- clients cause.
local perilune = require "perilune"
local gate = require "perilune.gate"

local counters = {}

local LOG_EVERY_MS = 1000

local values = {
  opened = 0, closed = 0, forwarded = 0, logins = 0, relogins = 0, malformed = 0, reserved = 0,
  too_fast = 0, not_logged_in = 0, refused = 0, unavailable = 0, full = 0, login_timeouts = 0,
  idle = 0, flooding = 0, kept = 0, resumed = 0, resume_expired = 0,
  udp_tickets = 0, udp_joined = 0, udp_ended = 0, udp_replaced = 0, udp_full = 0, udp_late = 0,
  udp_no_ticket = 0, udp_bad_ticket = 0, udp_bad_signature = 0, udp_malformed = 0,
  udp_flooding = 0,
}
local logged = {} -- by counter: when the last line was written, and what wasn't since

---@param name string
---@param number integer? default 1
function counters.add(name, number) values[name] = values[name] + (number or 1) end

---Counts, and warns once a second of each counter: a flood of clients must not be one of the log.
---@param name string
---@param format string
---@param ... any
function counters.warn(name, format, ...)
  counters.add(name)
  local now, log = perilune.now(), logged[name]
  if not log then
    log = { at = -LOG_EVERY_MS, silent = 0 }
    logged[name] = log
  end
  if now - log.at < LOG_EVERY_MS then
    log.silent = log.silent + 1
    return
  end
  perilune.log.warn("%s (%d more since the last line)", format:format(...), log.silent)
  log.at, log.silent = now, 0
end

---Adds all of them to a table, and those of the gate.
---@param to table<string, any>
function counters.copy(to)
  for name, value in pairs(gate.stats()) do to[name] = value end
  for name, value in pairs(values) do to[name] = (to[name] or 0) + value end
end

return counters
