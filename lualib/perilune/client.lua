---@class perilune.client
-- Packets of players: what a gateway forwards is decoded by service/protocol.lua, calls the
-- command of the service's second table that the packet names, and what that returns is the
-- reply, in the form the request had.
--
--   client.<command>(uid, body)           body: a table of the declared fields, or a bare value
--   client.<command>(key, body, address)  a command allowed before login; key names the connection
--   client.on_disconnect(uid)             a player who has called this service is gone
--
-- A body that doesn't fit is answered with status invalid_params; an error in the command is
-- logged and answered with system_error; a packet that can't be read at all costs its sender the
-- connection. The host loads this module for services that return a second table.
local client = {}

local perilune = require "perilune"
local core = require "perilune.core"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"

local deliver = core.native "core_deliver"
local LOG_EVERY_MS = 1000

-- Errors that weren't logged since the last one that was, by command.
local silent, logged_at = {}, {}

-- Once a second at most for a command: a client can cause it as often as it likes.
local function log_error(command, uid, message)
  local now = perilune.now()
  if now - (logged_at[command.name] or -LOG_EVERY_MS) < LOG_EVERY_MS then
    silent[command.name] = (silent[command.name] or 0) + 1
    return
  end
  local more = silent[command.name] and (" (and %d more)"):format(silent[command.name]) or ""
  logged_at[command.name], silent[command.name] = now, nil
  perilune.log.error("%s of %d failed%s: %s", command.name, uid, more, message)
end

-- The service's own copy of service/protocol.lua, which also knows what form each player uses.
local function declared()
  return require "protocol" ---@type perilune.Protocol
end

local function reply(gateway, key, command, form, uid, body, request_id)
  local data = declared():encode_reply(command.name, form, body, request_id, uid)
  deliver(gateway, data, key)
end

local function reply_status(gateway, key, command, form, uid, status, request_id)
  if command.has_status then
    reply(gateway, key, command, form, uid, { status = status }, request_id)
    return
  end
  local code = status == protocol.status.invalid_params and "invalid_params" or "system_error"
  perilune.send(gateway, "refuse", key, code, command.name, request_id, command.stype,
    command.ctype)
end

local function run(body, command, form, uid, request_id, key, address, handler)
  local gateway = perilune.sender()
  local function answer()
    local result = handler(uid, body, address)
    if command.reply and result ~= nil then
      reply(gateway, key, command, form, uid, result, request_id)
    end
  end
  local ok, message = xpcall(answer, debug.traceback)
  if ok then return end
  log_error(command, uid, tostring(message))
  reply_status(gateway, key, command, form, uid, protocol.status.system_error, request_id)
end

local function refuse(data, key, code, message, command, request_id)
  local stype, ctype, uid, form = packet.header(data)
  local gateway = perilune.sender()
  if code == "invalid_params" then
    perilune.log.debug("%s of %d: %s", command.name, uid, message)
    reply_status(gateway, key, command, form, uid, protocol.status.invalid_params, request_id)
  else
    perilune.send(gateway, "refuse", key, code, message, request_id, stype, ctype)
  end
end

---Forgets a player and tells the service.
---@async
---@param uid integer
function client.disconnect(uid)
  local game, clients = declared(), core.clients()
  game.gateways[uid], game.forms[uid] = nil, nil
  local on_disconnect = clients and rawget(clients, "on_disconnect")
  if on_disconnect then on_disconnect(uid) end
end

---A gateway has died: all players who were here through it are gone.
---@param gateway integer
function client.lose_gateway(gateway)
  local gateways = declared().gateways
  for uid, through in pairs(gateways) do
    if through == gateway then
      gateways[uid] = nil
      perilune.fork(client.disconnect, uid)
    end
  end
end

-- A player comes through a gateway. Who was here through another has lost that connection,
-- whether or not that gateway still lives to tell.
local function meet(game, uid, form)
  local through, gateway = game.gateways[uid], perilune.sender()
  if through and through ~= gateway then client.disconnect(uid) end
  game.gateways[uid] = gateway
  game.forms[uid] = form == protocol.BUF and form or nil
end

---Handles a packet that a gateway forwarded. In a task of the service.
---@async
---@param data string its utag is the uid, or before login the key
---@param key integer names the connection
---@param address string? of the player, with a command allowed before login
function client.on_packet(data, key, address)
  local game = declared()
  local _, ctype, uid, form = packet.header(data)
  if ctype == protocol.DISCONNECTED then
    local through = game.gateways[uid]
    -- Not a player who is here through another gateway by now.
    if not through or through == perilune.sender() then client.disconnect(uid) end
    return
  end
  local command, body, request_id, failed, failed_id = game:decode_request(data)
  if not command then return refuse(data, key, request_id, body, failed, failed_id) end
  local clients = core.clients()
  local handler = clients and not command.is_push and rawget(clients, command.key)
  if not handler then
    return refuse(data, key, "unknown_command", command.name .. " is not served here", command,
      request_id)
  end
  if uid < protocol.FIRST_KEY then
    meet(game, uid, form)
  else
    game.forms[uid] = form -- for gateway.tell, until the command has ended
  end
  run(body, command, form, uid, request_id, key, address, handler)
  if uid >= protocol.FIRST_KEY then game.forms[uid] = nil end
end

---Has the running service's packets handled by its second table.
function client.attach()
  core.on_event("packet", client.on_packet)
end

client.attach()

return client
