-- Where clients connect.
local perilune = require "perilune"
local options = require "perilune.options"
local socket = require "perilune.socket"
local websocket = require "perilune.websocket"
local settings = require "gateway.settings"

local listeners = {}

-- What an entry of `listen` may have.
local LISTEN = {
  kind = { type = "string", default = "tcp", choices = { "tcp", "websocket" },
    meaning = "how packets come" },
  host = { type = "string", default = "127.0.0.1", meaning = "address; \"*\": all" },
  port = { type = "integer", required = true, min = 0, max = 65535,
    meaning = "port; 0: any free one" },
  tls = { type = "table", meaning = "{ certificate = file, key = file }: then TLS, or wss://" },
  path = { type = "string", meaning = "of a WebSocket's URL; default: any" },
  origins = { type = "table",
    meaning = "pages that may connect by WebSocket, { \"*\" }: all; default: those of this host" },
}

local running = {} -- with `kind` and `tls` of their entry

-- Listens as entry `index` of the option says. Raises where that can't be.
local function serve(index)
  local read, entry = pcall(options.read, LISTEN, settings.listen[index])
  if not read then error(("listen[%d]: %s"):format(index, entry), 0) end
  local room = settings.max_connections + 100 -- those over max_connections are told why
  local server, message
  if entry.kind == "websocket" then
    local origins = entry.origins
    if origins and origins[1] == "*" then origins = "*" end
    server, message = websocket.listen {
      host = entry.host, port = entry.port, tls = entry.tls, path = entry.path,
      origins = origins, max_message = settings.frame_before_login, max_connections = room,
      header_ms = settings.login_ms, on_open = "on_websocket",
    }
  else
    server, message = socket.listen {
      host = entry.host, port = entry.port, tls = entry.tls, framing = "packet",
      max_frame = settings.frame_before_login, max_connections = room,
      handshake_ms = settings.login_ms,
      on_open = "on_open", on_data = "on_data", on_close = "on_close",
    }
  end
  if not server then error(("listen[%d]: %s"):format(index, message), 0) end
  running[index] = { server = server, kind = entry.kind, tls = entry.tls ~= nil }
  perilune.log.info("%s%s at %s:%d", entry.kind, entry.tls and " with TLS" or "", entry.host,
    server.port)
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

---@return table[] listeners kind, port and whether it has TLS of each, in the order of the option
function listeners.list()
  local list = {}
  for index, entry in ipairs(running) do
    list[index] = { kind = entry.kind, port = entry.server.port, tls = entry.tls }
  end
  return list
end

return listeners
