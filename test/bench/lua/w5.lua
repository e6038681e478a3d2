-- W5, W7: echoes each frame. A server for test/bench/load: prints READY and its port, and serves
-- until the node is stopped.

local socket = require "perilune.socket"
local w5 = {}

function w5.on_start()
  local listener = assert(socket.listen {
    framing = "u16be", backlog = 4096, max_connections = 100000, max_handshakes = 0,
    encrypt = os.getenv "BENCH_ENCRYPT" == "1",
    on_data = function(connection, data) connection:write(data) end,
  })
  io.stdout:write("READY ", listener.port, "\n")
  io.stdout:flush()
end

return w5
