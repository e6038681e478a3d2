-- A service for udp_test.lua and enet_test.lua: echoes.

local enet = require "perilune.enet"
local udp = require "perilune.udp"

local helper = {}
local closed = {}

function helper.on_packet(peer, data, channel) peer:write(data, { channel = channel }) end

function helper.on_gone(_, reason, code) closed[#closed + 1] = { reason, code } end

function helper.udp_port()
  return assert(udp.open {
    on_data = function(socket, data, host, port) socket:send(data, host, port) end,
  }).port
end

function helper.enet_port()
  return assert(enet.listen { on_data = "on_packet", on_close = "on_gone" }).port
end

function helper.closed() return closed end

return helper
