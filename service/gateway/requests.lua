-- What players send to services. A packet passes, in this order: rate limits, the header, reserved
-- numbers, login, and is then forwarded as it came, with another utag. Nothing but the header is
-- decoded.
local perilune = require "perilune"
local limits = require "perilune.limits"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local counters = require "gateway.counters"
local crowd = require "gateway.crowd"
local itself = require "gateway.itself"
local sessions = require "gateway.sessions"
local settings = require "gateway.settings"
local game = require "protocol" ---@type perilune.Protocol

local requests = {}

local JSON = protocol.JSON
local DISCONNECTED = protocol.DISCONNECTED
local BROADCAST = protocol.BROADCAST

local routes = {} -- stype -> name of the service
local address_buckets
local watched = {} -- handle -> name, of services that are asked for logins

---Reads routes and limits from the settings.
function requests.start()
  for stype, service in pairs(game.services) do
    if stype ~= 0 then routes[stype] = settings.routes[service.name] or service.service end
  end
  address_buckets = limits.buckets(settings.address_rate, settings.address_burst, perilune.now())
end

-- True when a packet is over a limit; it is dropped then, which its sender is told once a second.
local function is_too_fast(session, data, now)
  if session.bucket:take(now)
      and (crowd.is_exempt(session.address) or address_buckets:take(session.address, now)) then
    return false
  end
  counters.add "too_fast"
  local rested = not session.struck_at or now - session.struck_at >= 1000
  session.strikes = rested and 1 or session.strikes + 1
  session.struck_at = now
  if session.strikes > settings.max_strikes then
    counters.add "flooding"
    sessions.close(session, "flooding", "too many packets")
  elseif rested or now - session.told_at >= 1000 then
    session.told_at = now
    local stype, ctype = packet.header(data)
    if stype then
      sessions.send_error(session, "too_fast", "too many packets", stype, ctype,
        protocol.request_id(data))
    end
  end
  return true
end

-- True when a packet may pass as far as logging in goes.
local function passes_login(session, data, command, now)
  local is_login = command and command.login
  if not session.uid and not is_login then
    counters.add "not_logged_in"
    sessions.refuse(session, data, "not_logged_in", "log in first")
    return false
  end
  if not is_login then return true end
  if session.uid or session.asked_at then
    counters.add "refused"
    sessions.write(session, game:encode_reply(command.name, session.form,
      { status = protocol.status.invalid_operation }, protocol.request_id(data)))
    return false
  end
  session.asked_at = now
  return true
end

---A login was answered, or not even asked: the time to log in goes on.
---@param session gateway.Session
function requests.end_asking(session)
  if not session.asked_at then return end
  session.login_by = session.login_by + perilune.now() - session.asked_at
  session.asked_at, session.asked = nil, nil
end

-- Who waits for a service's answer to a login hears when it dies.
local function watch(session, service)
  session.asked = service
  local handle = perilune.find(service)
  if handle and not watched[handle] and perilune.monitor(handle) then watched[handle] = service end
end

---A service has died that was asked for logins.
---@param handle integer
function requests.on_down(handle)
  local service = watched[handle]
  watched[handle] = nil
  for _, session in sessions.each() do
    if session.asked and session.asked == service and not session.closing then
      requests.end_asking(session)
      counters.add "unavailable"
      sessions.send_error(session, "service_unavailable", ("service %s is dead"):format(service),
        0, 0)
    end
  end
end

local function forward(session, data, stype, service)
  local address = not session.uid and session.address or nil
  local sent, why = perilune.send(service, "@packet",
    packet.restamp(data, session.uid or session.key), session.key, address)
  if sent then
    counters.add "forwarded"
    if session.uid then session.seen[service] = stype end
    if session.asked_at then watch(session, service) end
    return
  end
  requests.end_asking(session)
  counters.add "unavailable"
  sessions.refuse(session, data, why == "overloaded" and "busy" or "service_unavailable",
    ("service %s is %s"):format(service, why))
end

local function is_reserved(stype, ctype)
  return stype < 0 or ctype < 0 or stype == BROADCAST or ctype == DISCONNECTED
    or ctype == BROADCAST or stype == DISCONNECTED
end

---@param session gateway.Session
---@param data string
function requests.handle(session, data)
  local now = perilune.now()
  session.heard_at, session.pings = now, 0
  counters.add "packets_in"
  if is_too_fast(session, data, now) then return end
  local stype, ctype, _, form = packet.header(data)
  if not stype then return sessions.malformed(session, ctype) end
  if form ~= JSON and form ~= protocol.BUF then
    return sessions.malformed(session, ("proto_type %d is neither JSON nor BUF"):format(form))
  end
  session.form = form
  if stype == 0 then return itself.handle(session, data) end
  if session.full then return sessions.refuse_full(session) end
  if is_reserved(stype, ctype) then
    counters.add "reserved"
    return sessions.refuse(session, data, "reserved", "this number isn't for clients")
  end
  if not passes_login(session, data, game:by_number(stype, ctype), now) then return end
  local service = routes[stype]
  if not service then
    return sessions.refuse(session, data, "unknown_service",
      ("there is no service %d"):format(stype))
  end
  forward(session, data, stype, service)
end

return requests
