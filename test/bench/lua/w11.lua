-- W11: a gateway whose players talk to a service that echoes. A server for test/bench/load, as w5.
-- The gateway's settings are the default ones, but for the packets that a player may send.

local perilune = require "perilune"
local w11 = {}

function w11.on_start()
  perilune.spawn("dbproxy", { database = "sqlite::memory:" }, { name = "dbproxy" })
  perilune.spawn("auth", nil, { name = "auth" })
  perilune.spawn("w11_echo", nil, { name = "w11_echo" })
  perilune.spawn("gateway", {
    listen = { { port = 0 } }, max_connections = 20000, pending_share = 1,
    rate = 100000, burst = 1000000,
  }, { name = "gateway" })
  io.stdout:write("READY ", perilune.call("gateway", "stats").listeners[1].port, "\n")
  io.stdout:flush()
end

return w11
