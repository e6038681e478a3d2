-- A chat in lines of text: over TCP, for nc, and over TLS where there is a certificate.
local limits = require "perilune.limits"
local options = require "perilune.options"
local perilune = require "perilune"
local socket = require "perilune.socket"

local lines = {} -- the commands that other services may call
local members = {} -- by id of the connection: { name, bucket }; kept over a reload
local everybody, plain, secure

local MAX_LINE = 400 -- bytes; a longer one costs its sender the connection
local RATE, BURST = 5, 20 -- lines a second
local NAME_MS, IDLE_MS = 60000, 1800000

lines.options = {
  port = { type = "integer", default = 7010, min = 0, max = 65535, meaning = "TCP port" },
  tls_port = { type = "integer", default = 7011, min = 0, max = 65535, meaning = "port with TLS" },
  certificate = { type = "string", default = "", meaning = "file in PEM form; none: no TLS" },
  key = { type = "string", default = "", meaning = "file in PEM form" },
  renew_ms = { type = "integer", default = 3600000, min = 1000, unit = "ms",
    meaning = "how often the files are read again" },
}

local function listen(port, tls)
  return assert(socket.listen {
    port = port, tls = tls, framing = "line", max_frame = MAX_LINE, idle_ms = NAME_MS,
    max_connections = 1000,
    on_open = "on_open", on_data = "on_line", on_close = "on_leave", -- by name: reload takes effect
  })
end

function lines.on_start(given)
  local settings = options.read(lines.options, given)
  everybody = socket.group()
  plain = listen(settings.port)
  perilune.log.info("nc %s %d", plain.host, plain.port)
  if settings.certificate == "" then return end
  secure = listen(settings.tls_port, { certificate = settings.certificate, key = settings.key })
  perilune.log.info("TLS at %s:%d", secure.host, secure.port)
  perilune.every(settings.renew_ms, "renew")
end

function lines.on_stop() everybody:write "The chat ends." end

-- Others see it on their terminals: nothing in it may move a cursor there (C0 and C1 of UTF-8).
local function clean(text)
  return text:gsub("%c", " "):gsub("\194[\128-\159]", " "):match "^ *(.-) *$"
end

local function names()
  local list = {}
  for _, member in pairs(members) do list[#list + 1] = member.name end
  table.sort(list)
  return list
end

local function is_taken(name)
  for _, member in pairs(members) do
    if member.name == name then return true end
  end
  return false
end

local function enter(connection, name)
  if name == "" or #name > 20 then return connection:write "A name of 1 to 20 bytes, please." end
  if is_taken(name) then return connection:write "Somebody has that name." end
  members[connection.id] = { name = name, bucket = limits.bucket(RATE, BURST, perilune.now()) }
  connection:set_idle(IDLE_MS)
  everybody:add(connection)
  everybody:write(name .. " is here.")
end

local COMMANDS = {
  ["/who"] = function(connection) connection:write(table.concat(names(), ", ")) end,
  ["/quit"] = function(connection) connection:close() end,
}

function lines.on_open(connection) connection:write "Your name?" end

function lines.on_line(connection, line)
  local member, text = members[connection.id], clean(line)
  if not member then return enter(connection, text) end
  if not member.bucket:take(perilune.now()) then return connection:write "Slowly, please." end
  local command = COMMANDS[text]
  if command then return command(connection) end
  if text ~= "" then everybody:write(member.name .. ": " .. text, connection) end
end

-- The reason is what perilune.socket says of closed connections: "ended", "idle", "too_large", ...
function lines.on_leave(connection, reason)
  local member = members[connection.id]
  members[connection.id] = nil
  if member then everybody:write(("%s is gone (%s)."):format(member.name, reason)) end
end

---Reads certificate and key again, for connections that come from now on.
---@return true? ok
---@return string? message why the old ones stay
function lines.renew()
  if not secure then return nil, "there is no TLS" end
  local ok, message = secure:reload_certificate()
  if not ok then perilune.log.error("the certificate stays as it is: %s", message) end
  return ok, message
end

---@return integer port, integer? tls_port
function lines.ports() return plain.port, secure and secure.port end

return lines
