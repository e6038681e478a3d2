-- Positions over ENet: what everybody must get is reliable, where somebody is may be lost.
local enet = require "perilune.enet"
local options = require "perilune.options"
local perilune = require "perilune"

local world = {} -- the commands of this service
local listener
local peers = {} -- by id; kept over a reload

world.options = {
  port = { type = "integer", default = 7001, min = 0, max = 65535, meaning = "UDP port" },
}

local function tell(data, how, except)
  for _, peer in pairs(peers) do
    if peer ~= except then peer:write(data, how) end
  end
end

function world.on_start(given)
  local settings = options.read(world.options, given)
  listener = assert(enet.listen {
    port = settings.port,
    on_open = "on_open", on_data = "on_data", on_close = "on_close", -- by name: reload takes effect
  })
  perilune.log.info("ENet at %s:%d", listener.host, listener.port)
end

function world.on_open(peer)
  peers[peer.id] = peer
  tell("joined " .. peer.id, nil, peer)
end

-- Channel 1 has positions: only the newest counts, so nothing is sent twice.
function world.on_data(peer, data, channel)
  local text = peer.id .. " " .. data
  if channel == 1 then
    tell(text, { channel = 1, mode = "unreliable" }, peer)
  else
    tell("says " .. text)
  end
end

function world.on_close(peer, reason)
  peers[peer.id] = nil
  tell("left " .. peer.id .. " " .. reason)
end

function world.port() return listener.port end

return world
