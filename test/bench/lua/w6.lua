-- W6: sends each frame to all connections. A server for test/bench/load, as w5.

local socket = require "perilune.socket"
local w6 = {}

function w6.on_start()
  local group = socket.group()
  local listener = assert(socket.listen {
    framing = "u16be", backlog = 4096, max_connections = 100000,
    on_open = function(connection) group:add(connection) end,
    on_data = function(_, data) group:write(data) end,
  })
  io.stdout:write("READY ", listener.port, "\n")
  io.stdout:flush()
end

return w6
