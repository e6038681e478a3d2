-- Takes connections over, and says so in all that it echoes.

local socket = require "perilune.socket"

local adopter = {}

function adopter.on_start()
  socket.adopt {
    on_data = function(connection, data) connection:write("adopted " .. data) end,
  }
end

return adopter
