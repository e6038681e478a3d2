-- What the service "center" is told of this gateway, and what it sends to all players.
local perilune = require "perilune"
local gate = require "perilune.gate"
local protocol = require "perilune.protocol"
local crowd = require "gateway.crowd"
local listeners = require "gateway.listeners"
local sessions = require "gateway.sessions"
local settings = require "gateway.settings"

local reports = {}

---Reports from now on.
function reports.start()
  if settings.center == "" then return end
  reports.send()
  perilune.every(settings.report_ms, "on_report")
end

-- Those where a session can begin.
local function entrances()
  local list = {}
  for _, entry in ipairs(listeners.list()) do
    if entry.kind ~= "udp" then list[#list + 1] = entry end
  end
  return list
end

---One report. Where there is no center nobody misses it.
function reports.send()
  perilune.send(settings.center, "report", {
    host = settings.public_host, listeners = entrances(), sessions = crowd.size(),
    room = settings.max_connections,
  })
end

---@param json string the packet for those who use JSON
---@param buf string for those who use BUF
function reports.deliver_to_all(json, buf)
  for _, session in sessions.each() do
    if session.uid and not session.closing then
      sessions.write(session, gate.form(session.key) == protocol.BUF and buf or json)
    end
  end
end

return reports
