-- center: which gateways there are, and what is said to all players.
--
-- DESIGN
-- Gateways report by themselves: where they listen and how full they are. One that hasn't for a
-- while is gone, and so is one that has died. A client is sent to the gateway with the smallest
-- share of its connections in use. Who was sent to it since its last report counts as being there,
-- so that a crowd spreads out between two reports.
--
-- Maintenance is shared data of the node: auth sees it without asking, and it outlives both.
local perilune = require "perilune"
local http = require "perilune.http"
local options = require "perilune.options"
local protocol = require "perilune.protocol"
local game = require "protocol" ---@type perilune.Protocol

local center = {}
local client = {}

center.options = {
  host = { type = "string", default = "127.0.0.1", meaning = "address of HTTP; \"*\": all" },
  port = { type = "integer", default = 6082, min = 0, max = 65535,
    meaning = "its port; 0: any free one" },
  tls = { type = "table", meaning = "{ certificate = file, key = file }: then HTTPS" },
  lost_ms = { type = "integer", default = 5000, min = 10, max = 3600000, unit = "ms",
    meaning = "a gateway that hasn't reported for so long is gone" },
  maintenance = { type = "string", default = "",
    meaning = "a reason: logins are refused with it from the start on" },
}

-- What a gateway reports.
local REPORT = {
  host = { type = "string", default = "",
    meaning = "for clients; \"\": where they reached this service" },
  listeners = { type = "table", required = true, meaning = "kind, port, tls, encrypt of each" },
  sessions = { type = "integer", required = true, min = 0, meaning = "connections" },
  room = { type = "integer", required = true, min = 1, meaning = "the most there may be" },
}

local STATUS = protocol.status
local MAX_REASON_BYTES = 1000
local SHARED = "center"

local settings, server
local gateways = {} -- by handle: the last report, `at`, and how many clients were `sent` since
local counters = { reports = 0, given = 0, full = 0, lost = 0, broadcasts = 0 }

-- ---- gateways ----

-- Forgets those that are silent.
local function forget_lost()
  local now = perilune.now()
  for handle, gateway in pairs(gateways) do
    if now - gateway.at >= settings.lost_ms then
      perilune.log.warn("gateway %d hasn't reported for %d ms", handle, now - gateway.at)
      gateways[handle] = nil
      perilune.unmonitor(handle)
      counters.lost = counters.lost + 1
    end
  end
end

---From a gateway, each second or so: it is there.
---@param report {host: string?, listeners: table[], sessions: integer, room: integer}
---@return boolean known
function center.report(report)
  local handle, gateway = perilune.sender(), options.read(REPORT, report)
  if not gateways[handle] and not perilune.monitor(handle) then return false end
  gateway.at, gateway.sent = perilune.now(), 0
  gateways[handle] = gateway
  counters.reports = counters.reports + 1
  return true
end

function center.on_down(handle)
  if not gateways[handle] then return end
  gateways[handle] = nil
  counters.lost = counters.lost + 1
end

local function share(gateway) return (gateway.sessions + gateway.sent) / gateway.room end

-- The gateway with the most room, or nil when none has any.
local function pick()
  forget_lost()
  local best
  for _, gateway in pairs(gateways) do
    if share(gateway) < (best and share(best) or 1) then best = gateway end
  end
  return best
end

local function maintenance()
  local state = perilune.shared(SHARED)
  return state and state.maintenance or ""
end

-- What a client is told that looks for a gateway.
local function server_info(host)
  local gateway, listeners = pick(), {}
  if not gateway then
    counters.full = counters.full + 1
    return { status = STATUS.busy, listeners = listeners, maintenance = maintenance() }
  end
  gateway.sent = gateway.sent + 1
  counters.given = counters.given + 1
  for i, listener in ipairs(gateway.listeners) do
    listeners[i] = {
      kind = listener.kind, port = listener.port, tls = listener.tls,
      encrypt = listener.encrypt == true,
      host = gateway.host ~= "" and gateway.host or host,
    }
  end
  return { status = STATUS.ok, listeners = listeners, maintenance = maintenance() }
end

function client.server_info() return server_info "" end

function center.on_server_info(request, response)
  local url = http.parse_url("http://" .. (request.headers.host or ""))
  local info = server_info(url and url.host or "")
  response:set("cache-control", "no-store")
  response:set("access-control-allow-origin", "*") -- everybody may know
  return info.status == STATUS.ok and 200 or 503, info
end

-- ---- all players ----

---Sends a packet to every player who is logged in.
---@param name string "system.announcement"
---@param body any
---@return integer gateways it was sent to
function center.broadcast(name, body)
  local json = game:encode_reply(name, protocol.JSON, body)
  local buf = game:encode_reply(name, protocol.BUF, body)
  forget_lost()
  local count = 0
  for handle in pairs(gateways) do
    if perilune.send(handle, "deliver_to_all", json, buf) then count = count + 1 end
  end
  counters.broadcasts = counters.broadcasts + 1
  return count
end

---Begins maintenance, or ends it. From now on logins are refused, and who tries is told the
---reason, as are all players who are here. They may stay.
---@param reason string? for people; nil or "": logins are allowed again
---@return integer gateways that tell their players
function center.maintain(reason)
  reason = reason or ""
  if type(reason) ~= "string" or #reason > MAX_REASON_BYTES then
    error(("the reason is a text of at most %d bytes"):format(MAX_REASON_BYTES), 0)
  end
  perilune.shared(SHARED, { maintenance = reason })
  perilune.log.info(reason == "" and "maintenance ends" or "maintenance: " .. reason)
  return reason ~= "" and center.broadcast("system.announcement", { text = reason }) or 0
end

---What an operator wants to know.
---@return table numbers gateways that are there, sessions and room of all of them, the port of
---HTTP, maintenance; counters: reports, given (clients sent to a gateway), full (clients for whom
---there was none), lost (gateways), broadcasts
function center.stats()
  forget_lost()
  local numbers = { gateways = 0, sessions = 0, room = 0, port = server.port }
  for _, gateway in pairs(gateways) do
    numbers.gateways = numbers.gateways + 1
    numbers.sessions = numbers.sessions + gateway.sessions
    numbers.room = numbers.room + gateway.room
  end
  for name, value in pairs(counters) do numbers[name] = value end
  numbers.maintenance = maintenance()
  return numbers
end

-- ---- life ----

function center.on_start(given)
  settings = options.read(center.options, given)
  if settings.maintenance ~= "" then center.maintain(settings.maintenance) end
  server = assert(http.listen {
    host = settings.host, port = settings.port, tls = settings.tls, max_body = 0,
    routes = { ["GET /server_info"] = "on_server_info" },
  })
  perilune.log.info("http%s at %s:%d", settings.tls and "s" or "", settings.host, server.port)
end

return center, client
