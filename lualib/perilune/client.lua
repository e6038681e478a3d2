---@class perilune.client
-- Packets of players: what a gateway forwards calls the command of the service's second table that
-- the packet names, and what that returns is the reply, in the form the request had.
--
--   client.<command>(uid, body, key)      body: a table of the declared fields, or a bare value;
--                                         key names the connection that it came through
--   client.<command>(key, body, address)  a command allowed before login
--   client.on_disconnect(uid)             a player who has called this service is gone
--
-- A body that doesn't fit is answered with status invalid_params; an error in the command is
-- logged and answered with system_error; a packet that can't be read at all costs its sender the
-- connection, or by UDP that packet alone. The host reads and writes the bodies and calls the
-- commands; what it can't do by itself is here. It loads this module when the first packet comes,
-- and attaches it again after a reload.
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

-- The host couldn't read a packet, or nothing serves it.
local function refuse(data, key, code, message, request_id, by_udp)
  local game = declared()
  local stype, ctype, uid, form = packet.header(data)
  local command, gateway = game:by_number(stype, ctype), perilune.sender()
  if code == "invalid_params" then
    perilune.log.debug("%s of %d: %s", command.name, uid, message)
    reply_status(gateway, key, command, form, uid, protocol.status.invalid_params, request_id)
    return
  end
  if code == "unknown_command" then
    message = command and command.name .. " is not served here"
      or ("there is no command %d of service %d"):format(ctype, stype)
    request_id = request_id or packet.request_id(data)
  end
  perilune.send(gateway, "refuse", key, code, message, request_id, stype, ctype, by_udp)
end

-- The command has raised, or what it returned is no reply.
local function failed(stype, ctype, uid, form, key, request_id, text)
  local command = declared():by_number(stype, ctype)
  log_error(command, uid, text)
  reply_status(perilune.sender(), key, command, form, uid, protocol.status.system_error,
    request_id)
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

-- A gateway says that a player is gone, who may be here through another by now.
local function gone(uid)
  local through = declared().gateways[uid]
  if not through or through == perilune.sender() then client.disconnect(uid) end
end

-- A player who was here through another gateway has lost that connection, whether or not that
-- gateway still lives to tell.
local function moved(handler, uid, body, form, key)
  client.disconnect(uid)
  local game = declared()
  game.gateways[uid] = perilune.sender()
  game.forms[uid] = form == protocol.BUF and form or nil
  return handler(uid, body, key)
end

---Tells the host which packets the running service takes.
function client.attach()
  local game, commands = declared(), {}
  for _, command in pairs(game.commands) do commands[#commands + 1] = command end
  core.serve(commands, game.gateways, game.forms, refuse, failed, gone, moved)
end

return client
