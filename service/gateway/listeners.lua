-- Where clients connect.
local perilune = require "perilune"
local options = require "perilune.options"
local socket = require "perilune.socket"
local websocket = require "perilune.websocket"
local crowd = require "gateway.crowd"
local settings = require "gateway.settings"
local udp = require "gateway.udp"

local listeners = {}

-- What an entry of `listen` may have.
local LISTEN = {
  kind = { type = "string", default = "tcp", choices = { "tcp", "websocket", "udp" },
    meaning = "how packets come; by UDP of those alone who are logged in" },
  host = { type = "string", default = "127.0.0.1", meaning = "address; \"*\": all" },
  port = { type = "integer", required = true, min = 0, max = 65535,
    meaning = "port; 0: any free one" },
  tls = { type = "table", meaning = "{ certificate = file, key = file }: then TLS, or wss://" },
  encrypt = { type = "any",
    meaning = "true, or { key = file }: encryption of our own, for TCP without TLS" },
  path = { type = "string", meaning = "of a WebSocket's URL; default: any" },
  origins = { type = "table",
    meaning = "pages that may connect by WebSocket, { \"*\" }: all; default: those of this host" },
  max_peers = { type = "integer", default = 1024, min = 1, max = 4095,
    meaning = "of UDP, at a time" },
  timeout_ms = { type = "integer", default = 10000, min = 100, max = 3600000, unit = "ms",
    meaning = "of UDP: without an acknowledgement, then the peer is given up" },
  public_port = { type = "integer", min = 1, max = 65535,
    meaning = "of UDP: the port that clients are told; default: port" },
}

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
  local read, entry = pcall(options.read, LISTEN, settings.listen[index])
  if not read then error(("listen[%d]: %s"):format(index, entry), 0) end
  local mistake
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
