-- A room: a page over HTTP, its chat over WebSocket, both on one port.
local http = require "perilune.http"
local options = require "perilune.options"
local websocket = require "perilune.websocket"

local room = {} -- the commands that other services may call
local members = {} -- by connection: the name
local server

room.options = {
  port = { type = "integer", default = 8081, min = 0, max = 65535, meaning = "TCP port" },
}

local PAGE = [[<!doctype html><title>Room</title><ul id=lines></ul><input id=line autofocus><script>
const socket = new WebSocket(`ws://${location.host}/chat?name=${Date.now() % 1000}`)
socket.onmessage = (event) => {
  const item = document.createElement("li")
  item.textContent = event.data
  lines.append(item)
}
line.onchange = () => { socket.send(line.value); line.value = "" }
</script>]]

local function tell(text)
  for connection in pairs(members) do connection:send_text(text) end
end

function room.on_start(given)
  local settings = options.read(room.options, given)
  server = assert(http.listen {
    port = settings.port,
    routes = { ["GET /"] = "on_page", ["GET /chat"] = "on_join" },
  })
  print(("http://%s:%d/"):format(server.host, server.port))
end

function room.on_page(_, response)
  response:set("content-type", "text/html; charset=utf-8")
  return PAGE
end

function room.on_join(request)
  local name = (request:query() or {}).name or "somebody"
  local connection = websocket.accept(request, {
    max_message = 1000, on_message = "on_line", on_close = "on_leave",
  })
  if not connection then return end -- it has been refused
  members[connection] = name
  tell(name .. " is here")
end

function room.on_line(connection, text, is_text)
  if not is_text then return connection:close(1003, "texts only") end
  tell(members[connection] .. ": " .. text)
end

function room.on_leave(connection)
  local name = members[connection]
  members[connection] = nil
  if name then tell(name .. " is gone") end
end

function room.port() return server.port end

return room
