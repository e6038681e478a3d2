-- A service for socket_test.lua: takes connections over, or serves an echo of its own.

local perilune = require "perilune"
local socket = require "perilune.socket"

local helper = {}
local tag, opened, closed, last_reason = "", 0, 0, nil

function helper.on_start(options)
  tag = options.tag
  socket.adopt {
    on_open = function() opened = opened + 1 end,
    on_data = "on_packet",
    on_close = function(_, reason)
      closed = closed + 1
      last_reason = reason
    end,
  }
end

function helper.on_packet(connection, data) connection:write(tag .. data) end

function helper.listen()
  local listener = assert(socket.listen {
    framing = "packet",
    on_data = function(connection, data)
      if data == "exit" then
        connection:write "last words"
        perilune.exit()
      else
        connection:write(tag .. data)
      end
    end,
  })
  return listener.port
end

function helper.counts() return opened, closed, last_reason end

return helper
