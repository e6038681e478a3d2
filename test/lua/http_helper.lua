-- A service for websocket_test.lua: a server of its own, and requests to others.

local http = require "perilune.http"
local websocket = require "perilune.websocket"

local helper = {}
local tag, server = "", nil

function helper.on_start(options)
  tag = options.tag
  server = assert(http.listen {
    routes = {
      ["GET /"] = "on_root",
      ["GET /ws"] = function(request)
        websocket.accept(request, { on_message = "on_message" })
      end,
    },
  })
end

function helper.on_root() return tag end

function helper.on_message(connection, text) connection:send_text(tag .. " " .. text) end

function helper.port() return server.port end

function helper.ask(port)
  for _ = 1, 3 do assert(http.get("http://127.0.0.1:" .. port .. "/")) end
  return assert(http.get("http://127.0.0.1:" .. port .. "/")).body
end

return helper
