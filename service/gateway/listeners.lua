-- Where clients connect.
local perilune = require "perilune"
local socket = require "perilune.socket"
local websocket = require "perilune.websocket"
local crowd = require "gateway.crowd"
local settings = require "gateway.settings"
local udp = require "gateway.udp"

local listeners = {}

local running = {} -- with `kind`, `tls` and `encrypt` of their entry

-- What all kinds have in common. Handshakes are limited as those who aren't logged in are.
local function common(entry)
  return {
    host = entry.host, port = entry.port, tls = entry.tls,
    max_connections = settings.max_connections + 100, -- those over max_connections are told why
    max_handshakes = crowd.max_pending(), max_handshakes_per_address = settings.max_pending,
    exempt = settings.exempt,
  }
end

local function serve_websocket(entry)
  local given = common(entry)
  given.path, given.origins = entry.path, entry.origins
  if entry.origins and entry.origins[1] == "*" then given.origins = "*" end
  given.max_message, given.header_ms = settings.frame_before_login, settings.login_ms
  given.on_open = "on_websocket"
  return websocket.listen(given)
end

local function serve_tcp(entry)
  local given = common(entry)
  given.framing, given.max_frame = "packet", settings.frame_before_login
  given.encrypt, given.handshake_ms = entry.encrypt, settings.login_ms
  given.on_open, given.on_data, given.on_close = "on_open", "on_data", "on_close"
  return socket.listen(given)
end

local SERVE = { tcp = serve_tcp, websocket = serve_websocket, udp = udp.listen }

-- Listens as entry `index` of the option says. Raises where that can't be.
local function serve(index)
  local entry, mistake = settings.listen[index], nil
  if entry.encrypt and (entry.tls or entry.kind ~= "tcp") then
    mistake = "encrypt is for TCP without TLS"
  elseif entry.tls and entry.kind == "udp" then
    mistake = "UDP has no TLS"
  end
  if mistake then error(("listen[%d]: %s"):format(index, mistake), 0) end
  local server, message = SERVE[entry.kind](entry)
  if not server then error(("listen[%d]: %s"):format(index, message), 0) end
  running[index] = {
    server = server, kind = entry.kind, tls = entry.tls ~= nil,
    encrypt = entry.encrypt ~= nil and entry.encrypt ~= false,
  }
  local how = entry.tls and " with TLS" or entry.encrypt and " with encryption" or ""
  if server.server_key then how = how .. ", server key " .. server.server_key .. "," end
  perilune.log.info("%s%s at %s:%d", entry.kind, how, entry.host, server.port)
end

---Listens as the option says. Raises where that can't be. Connections come to the commands
---on_open, on_data and on_close, or on_websocket.
function listeners.start()
  for index in ipairs(settings.listen) do serve(index) end
end

---Accepts no more.
function listeners.close()
  for _, entry in ipairs(running) do entry.server:close() end
end

---@return table[] listeners kind, port, whether it has TLS or encrypts, and by which key, of each
---in the order of the option
function listeners.list()
  local list = {}
  for index, entry in ipairs(running) do
    list[index] = {
      kind = entry.kind, port = entry.server.port, tls = entry.tls, encrypt = entry.encrypt,
      server_key = entry.server.server_key,
    }
  end
  return list
end

return listeners
