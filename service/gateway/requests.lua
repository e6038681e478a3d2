-- What players send to services. The gate forwards it as it came, with another utag, and decodes
-- nothing but the header; here is what it doesn't let pass.
local perilune = require "perilune"
local gate = require "perilune.gate"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local counters = require "gateway.counters"
local itself = require "gateway.itself"
local sessions = require "gateway.sessions"
local settings = require "gateway.settings"
local udp = require "gateway.udp"
local game = require "protocol" ---@type perilune.Protocol

local requests = {}

local watched = {} -- handle -> name, of services that are asked for logins
local declared -- the commands that the gate knows of

local function route_of(service) return settings.routes[service.name] or service.service end

-- Tells the gate what the protocol declares.
local function declare()
  local logins = {}
  declared = game.commands
  for stype, service in pairs(game.services) do
    if stype ~= 0 then gate.route(stype, route_of(service)) end
  end
  for _, command in pairs(game.commands) do
    if command.login then
      logins[#logins + 1] = command.stype
      logins[#logins + 1] = command.ctype
    end
  end
  gate.logins(logins)
end

---Opens the gate.
function requests.start()
  gate.open {
    rate = settings.rate, burst = settings.burst,
    address_rate = settings.address_rate, address_burst = settings.address_burst,
    ring_packets = settings.resume_packets, ring_bytes = settings.resume_bytes,
    total_ring_bytes = settings.resume_total_bytes,
  }
  declare()
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

local function refuse_unavailable(session, data, why)
  local service = route_of(game.services[packet.header(data)])
  counters.add "unavailable"
  sessions.refuse(session, data, why == "overloaded" and "busy" or "service_unavailable",
    ("service %s is %s"):format(service, why))
end

-- A login goes to its service with the key as utag, and the address beside it.
local function ask(session, data, service)
  local sent, why = perilune.send(service, "@packet", packet.restamp(data, session.key),
    session.key, session.address)
  if not sent then return refuse_unavailable(session, data, why) end
  counters.add "forwarded"
  session.asked_at = perilune.now()
  watch(session, service)
end

-- Why the gate didn't let a packet pass -> function(session, data, by_udp). In upper case, so that
-- a reload takes the new ones.
local UNUSUAL = { itself = itself.handle }

-- Over a limit: dropped, which its sender is told once a second.
function UNUSUAL.too_fast(session, data, by_udp)
  local now = perilune.now()
  counters.add "too_fast"
  local rested = not session.struck_at or now - session.struck_at >= 1000
  session.strikes = rested and 1 or session.strikes + 1
  session.struck_at = now
  if session.strikes > settings.max_strikes and by_udp and session.udp then
    udp.expel(session, "udp_flooding")
    session.strikes = 0
  elseif session.strikes > settings.max_strikes then
    counters.add "flooding"
    sessions.close(session, "flooding", "too many packets")
  elseif rested or now - session.told_at >= 1000 then
    session.told_at = now
    local stype, ctype = packet.header(data)
    if stype then
      sessions.send_error(session, "too_fast", "too many packets", stype, ctype,
        packet.request_id(data))
    end
  end
end

function UNUSUAL.malformed(session, data, by_udp)
  local stype, message, _, form = packet.header(data)
  if stype then message = ("proto_type %d is neither JSON nor BUF"):format(form) end
  sessions.malformed(session, message, by_udp)
end

function UNUSUAL.full(session) sessions.refuse_full(session) end

function UNUSUAL.reserved(session, data)
  counters.add "reserved"
  sessions.refuse(session, data, "reserved", "this number isn't for clients")
end

function UNUSUAL.not_logged_in(session, data)
  counters.add "not_logged_in"
  sessions.refuse(session, data, "not_logged_in", "log in first")
end

function UNUSUAL.unknown_service(session, data)
  sessions.refuse(session, data, "unknown_service",
    ("there is no service %d"):format((packet.header(data))))
end

function UNUSUAL.dead(session, data) refuse_unavailable(session, data, "dead") end

function UNUSUAL.overloaded(session, data) refuse_unavailable(session, data, "overloaded") end

function UNUSUAL.login(session, data)
  local stype, ctype = packet.header(data)
  if not session.uid and not session.asked_at then
    return ask(session, data, route_of(game.services[stype]))
  end
  counters.add "refused"
  sessions.send(session, game:by_number(stype, ctype).name,
    { status = protocol.status.invalid_operation }, packet.request_id(data))
end

-- Of the service that checks logins, for the client.
function UNUSUAL.login_reply(session, data)
  requests.end_asking(session)
  sessions.write(session, data)
end

---A packet that the gate doesn't let pass.
---@param session gateway.Session
---@param why string
---@param data string
---@param by_udp boolean? by its peer, not its connection
function requests.handle(session, why, data, by_udp)
  if declared ~= game.commands and why ~= "too_fast" then
    declare() -- it has been reloaded
    why = gate.again(session.key, data)
    if not why then return end
  end
  UNUSUAL[why](session, data, by_udp)
end

return requests
