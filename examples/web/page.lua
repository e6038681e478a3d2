-- The page of the chat and the client that it uses, and where the gateway's WebSocket is.
local http = require "perilune.http"
local options = require "perilune.options"
local perilune = require "perilune"

local page = {} -- the commands that other services may call
local settings, server

page.options = {
  port = { type = "integer", default = 8082, min = 0, max = 65535, meaning = "TCP port" },
  gateway = { type = "string", default = "gateway", meaning = "name of the gateway" },
}

function page.on_start(given)
  settings = options.read(page.options, given)
  server = assert(http.listen {
    port = settings.port,
    routes = { -- one file each: the folder itself has config.lua and this service
      ["GET /"] = "on_index",
      ["GET /chat.js"] = "on_chat",
      ["GET /gateway"] = "on_gateway",
    },
    static = { ["/client"] = "client" },
  })
  print(("http://%s:%d/"):format(server.host, server.port))
end

local function send(response, path)
  response:set("cache-control", "no-cache")
  if not response:send_file(path) then return 404, path .. " isn't in the data folder" end
end

function page.on_index(_, response) return send(response, "index.html") end

function page.on_chat(_, response) return send(response, "chat.js") end

function page.on_gateway()
  for _, listener in ipairs(perilune.call(settings.gateway, "stats").listeners) do
    if listener.kind == "websocket" then return { port = listener.port, tls = listener.tls } end
  end
  return 404, "the gateway has no WebSocket"
end

function page.port() return server.port end

return page
