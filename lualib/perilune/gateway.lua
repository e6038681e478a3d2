---@class perilune.gateway
-- What services say to gateways: packets for players, and who has logged in.
--
--   local gateway = require "perilune.gateway"
--   gateway.push(uid, "talkroom.user_message", line)
--   gateway.broadcast(uids, "talkroom.user_left", member)
--
-- A player gets JSON or BUF as their own packets to this service were; one who has sent it none
-- gets JSON, through the service called "gateway".
local gateway = {}

local perilune = require "perilune"
local core = require "perilune.core"
local client = require "perilune.client"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"

local core_deliver = core.native "core_deliver"
local DEFAULT = "gateway"
local MAX_BODY = 65523
local BROADCAST = protocol.BROADCAST

local function declared()
  return require "protocol" ---@type perilune.Protocol
end

local function look(to, sent, why)
  if why == "dead" and to ~= DEFAULT then client.lose_gateway(to) end
  return sent, why
end

local function send(to, ...) return look(to, perilune.send(to, ...)) end

local function deliver(to, data, unreliable)
  return look(to, core_deliver(to, data, 0, unreliable))
end

local function push(uid, name, body, unreliable)
  local game = declared()
  local form = game.forms[uid] or protocol.JSON
  local data = game:encode_reply(name, form, body, nil, uid)
  return deliver(game.gateways[uid] or DEFAULT, data, unreliable)
end

---Sends a packet to a player. It is dropped when the player is gone.
---@param uid integer
---@param name string "talkroom.user_message"
---@param body any
---@return boolean sent
---@return "dead"|"overloaded"? why nothing was sent to the gateway
function gateway.push(uid, name, body) return push(uid, name, body, false) end

---Sends a packet that the next of its kind makes worthless, such as where something moves to. To
---players with UDP it goes by that: it may be lost, and one that comes later than a newer one is
---dropped. The others get it as by push(), and all do over 1,200 bytes. Who is away for now, to
---resume, never gets it.
---@param uid integer
---@param name string
---@param body any
---@return boolean sent
---@return "dead"|"overloaded"? why nothing was sent to the gateway
function gateway.push_unreliable(uid, name, body) return push(uid, name, body, true) end

---For a command that is allowed before login: sends a packet to the connection that it came from,
---ahead of the reply.
---@param key integer as the command got it
---@param name string
---@param body any
function gateway.tell(key, name, body)
  local data = declared():encode_reply(name, core.form() or protocol.JSON, body, nil, key)
  core_deliver(perilune.sender(), data, key)
end

-- uids by gateway and form.
local function group(game, uids, except)
  local groups, found = {}, {}
  for _, uid in ipairs(uids) do
    if uid ~= except then
      local form = game.forms[uid] or protocol.JSON
      local to = game.gateways[uid] or DEFAULT
      local by_form = found[to]
      if not by_form then
        by_form = {}
        found[to] = by_form
      end
      local same = by_form[form]
      if not same then
        same = { to = to, form = form }
        by_form[form] = same
        groups[#groups + 1] = same
      end
      same[#same + 1] = uid
    end
  end
  return groups
end

-- A broadcast packet has room for so many uids beside the packet that they get.
local function send_group(to, data, uids, unreliable)
  local room = math.floor((MAX_BODY - 4 - #data) / 4)
  if room < 1 then
    for _, uid in ipairs(uids) do deliver(to, packet.restamp(data, uid), unreliable) end
    return
  end
  for first = 1, #uids, room do
    local part = uids
    if #uids > room then
      part = {}
      for i = first, math.min(first + room - 1, #uids) do part[#part + 1] = uids[i] end
    end
    local body = packet.wrap_broadcast(data, part)
    deliver(to, packet.make(BROADCAST, BROADCAST, 0, protocol.BUF, body), unreliable)
  end
end

local function broadcast(uids, name, body, except, unreliable)
  local game = declared()
  local encoded = {}
  for _, same in ipairs(group(game, uids, except)) do
    local data = encoded[same.form] or game:encode_reply(name, same.form, body)
    encoded[same.form] = data
    send_group(same.to, data, same, unreliable)
  end
end

---Sends a packet to many players. It is encoded once.
---@param uids integer[]
---@param name string
---@param body any
---@param except integer? this one doesn't get it
function gateway.broadcast(uids, name, body, except) broadcast(uids, name, body, except, false) end

---The same as push_unreliable() does it.
---@param uids integer[]
---@param name string
---@param body any
---@param except integer? this one doesn't get it
function gateway.broadcast_unreliable(uids, name, body, except)
  broadcast(uids, name, body, except, true)
end

---Ends a player's connection, after telling them why.
---@param uid integer
---@param reason string one word: "frozen"
---@param text string? for people
---@return boolean sent
function gateway.kick(uid, reason, text)
  return (send(declared().gateways[uid] or DEFAULT, "kick", uid, reason, text))
end

---For the service that checks who players are: the connection that the running command came from
---is `uid` from now on. The reply that the command returns reaches it after this.
---@param key integer as the command got it
---@param uid integer
---@param epoch integer of this login; a later one of the same uid has a larger one
function gateway.login(key, uid, epoch)
  perilune.send(perilune.sender(), "login", key, uid, epoch)
end

---For the same service: the player is logged out, and may log in again on the same connection.
---@param uid integer
---@param epoch integer of the login that ends: a later one isn't touched
function gateway.logout(uid, epoch)
  send(declared().gateways[uid] or DEFAULT, "logout", uid, epoch)
end

return gateway
