---@class perilune.protocol
-- What packets are called and what is in them. A game declares its services and commands once,
-- in service/protocol.lua; gateways, services and bots encode and decode by that.
--
--   return protocol.declare {
--     messages = { line = "id u32, uname string, text string" },
--     talkroom = {
--       stype = 1,
--       enter = { 1, request = "uname string, usex i16", reply = "status i16" },
--       user_arrived = { 3, push = "uid u32, uname string" },
--       say = { 5, request = "string", reply = "status i16, id u32" },
--       history = { 7, reply = "status i16, lines line[]" },
--     },
--   }
--
-- A command is its ctype, what a client sends (`request`), what it is answered (`reply`), or what
-- a server sends by itself (`push`; "" for nothing but its number). Fields are "name type", in the
-- order of their BUF form; a single type is a bare value. `login = true`: allowed before login.
-- Types: i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 bool string bytes, a
-- name of `messages`, a type followed by []. A field followed by ? may be left out. In a reply
-- with a `status` all other fields may be: a refusal is its status alone.
local protocol = {}

local bit = require "bit"
local packet = require "perilune.packet"

protocol.JSON = 1 -- proto_type of a packet
protocol.BUF = 2
protocol.DISCONNECTED = 10000 -- ctype: a user is gone, gateway to service
protocol.BROADCAST = 10001 -- stype and ctype: a packet for many, service to gateway
protocol.FIRST_KEY = 2 ^ 31 -- utags from here on name connections; below are uids

-- What a reply's `status` says.
protocol.status = {
  ok = 1, system_error = -100, invalid_params = -101, invalid_operation = -102,
  illegal_account = -103, in_room = -104, not_in_room = -105, too_fast = -106, busy = -107,
}

local MAX_STYPE = 9999
local MAX_CTYPE = 9999
local MAX_DEPTH = 8 -- of messages inside each other
local PRIMITIVES = {
  i8 = true, i16 = true, i32 = true, i64 = true, u8 = true, u16 = true, u32 = true, u64 = true,
  f32 = true, f64 = true, bool = true, string = true, bytes = true,
}
-- Keys of a service that aren't commands.
local SERVICE_KEYS = { stype = true, service = true }

---@class perilune.Command
---@field name string "talkroom.enter"
---@field key string "enter"
---@field service string the name of the service that serves it
---@field stype integer
---@field ctype integer
---@field login boolean? allowed before login
---@field is_push boolean? sent by servers alone
---@field has_status boolean? its reply begins with a status
---@field takes_nothing boolean? all fields of its request may be left out
---@field request perilune.packet.Codec?
---@field reply perilune.packet.Codec? of what a client gets

---A declaration that has been compiled. What is declared is new after a reload of
---service/protocol.lua, what is known of players stays.
---@class perilune.Protocol
---@field hash string of all names, numbers and fields: two sides with the same understand each
---other
---@field commands table<string, perilune.Command> by name
---@field services table<integer, {name: string, service: string}> by stype
---@field gateways table<integer, integer> by uid: whom the player's packets came from
---@field forms table<integer, integer> by uid: protocol.BUF of those who use it
---@field package DECLARED table the first three, and commands by their numbers
local Protocol = {}

-- In upper case, so that a reload takes the new one.
function Protocol:__index(key)
  local method = Protocol[key]
  if method ~= nil then return method end
  return rawget(self, "DECLARED")[key]
end

-- ---- fields ----

local parse_fields

-- "line[][]" -> description
local function parse_type(text, messages, path, depth)
  local name, brackets = text:match("^([%a_][%w_]*)([%[%]]*)$")
  if not name or brackets:gsub("%[%]", "") ~= "" then
    error(("%s: %q is no type"):format(path, text), 0)
  end
  local description = name
  if not PRIMITIVES[name] then
    local fields = messages[name]
    if not fields then error(("%s: unknown type %q"):format(path, name), 0) end
    if depth > MAX_DEPTH then error(("%s: %s contains itself"):format(path, name), 0) end
    description = parse_fields(fields, messages, path, depth + 1)
  end
  for _ = 1, #brackets / 2 do description = { list = description } end
  return description
end

-- "uname string, usex i16?" -> {{"uname", "string"}, {"usex", "i16", true}}; "string" -> "string"
function parse_fields(text, messages, path, depth)
  if type(text) ~= "string" then error(path .. ": fields are a string", 0) end
  local bare = text:match("^%s*([%w_%[%]]+)%s*$")
  if bare then return parse_type(bare, messages, path, depth) end
  local fields, seen = {}, {}
  for part in (text .. ","):gmatch("%s*(.-)%s*,") do
    local name, type_text, optional = part:match("^([%a_][%w_]*)%s+([%w_%[%]]+)(%??)$")
    if not name then error(("%s: %q is not \"name type\""):format(path, part), 0) end
    if seen[name] then error(("%s: two fields are called %s"):format(path, name), 0) end
    seen[name] = true
    fields[#fields + 1] = { name, parse_type(type_text, messages, path, depth), optional == "?" }
  end
  return fields
end

-- With a status, all other fields of a reply may be missing.
local function relax_reply(fields)
  if type(fields) ~= "table" or not fields[1] or fields[1][1] ~= "status" then return false end
  for i = 2, #fields do fields[i][3] = true end
  return true
end

local function is_optional(fields)
  if type(fields) ~= "table" or not fields[1] then return false end
  for _, field in ipairs(fields) do
    if not field[3] then return false end
  end
  return true
end

-- ---- declarations ----

local function check_number(number, last, path, what)
  local whole = type(number) == "number" and number % 1 == 0
  if not whole or number < 1 or number > last then
    error(("%s: %s is an integer from 1 to %d"):format(path, what, last), 0)
  end
end

local function compile_command(service, key, declared, messages)
  local name = service.name .. "." .. key
  if type(key) ~= "string" or key:find("^on_") or not key:find("^[%a_][%w_]*$") then
    error(name .. ": a command's name has letters, digits and _, and doesn't begin with on_", 0)
  end
  if type(declared) ~= "table" then
    error(name .. ": a command is { ctype, request = fields, reply = fields }", 0)
  end
  for field in pairs(declared) do
    if field ~= 1 and field ~= "request" and field ~= "reply" and field ~= "push"
        and field ~= "login" then
      error(("%s: unknown key %s"):format(name, tostring(field)), 0)
    end
  end
  check_number(declared[1], MAX_CTYPE, name, "ctype")
  if declared.push and (declared.request or declared.reply) then
    error(name .. ": what is pushed has neither request nor reply", 0)
  end
  local command = {
    name = name, key = key, service = service.service, stype = service.stype, ctype = declared[1],
    login = declared.login, is_push = declared.push ~= nil,
  }
  if declared.request then
    local fields = parse_fields(declared.request, messages, name .. ": request", 1)
    command.takes_nothing = is_optional(fields)
    command.request = packet.compile(fields, name)
  end
  local answer = declared.reply or declared.push
  if answer and answer ~= "" then
    local side = declared.reply and ": reply" or ": push"
    local fields = parse_fields(answer, messages, name .. side, 1)
    command.has_status = declared.reply ~= nil and relax_reply(fields)
    command.reply = packet.compile(fields, name)
  end
  return command
end

local function add_command(declared, command)
  local by_ctype = declared.numbers[command.stype]
  if not by_ctype then
    by_ctype = {}
    declared.numbers[command.stype] = by_ctype
  end
  local other = by_ctype[command.ctype]
  if other then
    error(("%s: %s has the number %d already"):format(command.name, other.name, command.ctype), 0)
  end
  by_ctype[command.ctype] = command
  declared.commands[command.name] = command
end

local function compile_service(declared, name, given, messages)
  if type(given) ~= "table" then error(name .. ": a service is a table", 0) end
  local service = { name = name, stype = given.stype, service = given.service or name }
  if name ~= "protocol" then check_number(service.stype, MAX_STYPE, name, "stype") end
  local other = declared.services[service.stype]
  if other then
    error(("%s: %s has the number %d already"):format(name, other.name, service.stype), 0)
  end
  declared.services[service.stype] = service
  for key, command in pairs(given) do
    if not SERVICE_KEYS[key] then
      add_command(declared, compile_command(service, key, command, messages))
    end
  end
end

-- FNV-1a of what both sides must agree on.
local function hash_of(declaration)
  local lines = {}
  for name, service in pairs(declaration) do
    for key, command in pairs(service) do
      if name == "messages" then
        lines[#lines + 1] = key .. "=" .. command:gsub("%s+", " ")
      elseif not SERVICE_KEYS[key] then
        local fields = table.concat({ command.request or "", command.reply or "",
          command.push or "" }, "|")
        lines[#lines + 1] = ("%d.%d %s.%s %s"):format(service.stype, command[1], name, key,
          (fields:gsub("%s+", " ")))
      end
    end
  end
  table.sort(lines)
  local hash = 0x811c9dc5
  for byte in table.concat(lines, "\n"):gmatch(".") do
    hash = bit.bxor(hash, byte:byte())
    -- times 0x01000193, in parts that stay exact
    hash = bit.tobit(hash * 0x193 % 2 ^ 32 + bit.lshift(hash, 24))
  end
  return bit.tohex(hash)
end

-- Messages of stype 0, the protocol itself; always JSON.
local ITSELF = {
  stype = 0,
  hello = {
    1, request = "version u16?, schema string?",
    reply = "version u16, schema string, limits limits, resume string?",
  },
  ping = { 2 },
  pong = { 3 },
  resume = { 4, request = "token string?, received u32?", reply = "status i16, token string?" },
  closing = { 5, push = "reason string, text string" },
  error = { 6, push = "code string, message string, stype i16, ctype i16" },
  udp = { 7, reply = "status i16, port u16, ticket string, secret string, expires_ms u32" },
}
local LIMITS = "frame_bytes u32, packets_per_second u32, burst u32, login_ms u32, ping_ms u32"

---Compiles a declaration. Raises for one that is wrong, saying where.
---@param declaration table
---@return perilune.Protocol
function protocol.declare(declaration)
  local declared = { commands = {}, services = {}, numbers = {} }
  local messages = { limits = LIMITS }
  for name, fields in pairs(declaration.messages or {}) do
    if PRIMITIVES[name] or name == "limits" then
      error(("protocol: message %s: the name is taken"):format(name), 2)
    end
    messages[name] = fields
  end
  local ok, message = pcall(function()
    compile_service(declared, "protocol", ITSELF, messages)
    for name, service in pairs(declaration) do
      if name ~= "messages" then compile_service(declared, name, service, messages) end
    end
    declared.hash = hash_of(declaration)
  end)
  if not ok then error("protocol: " .. tostring(message), 2) end
  return setmetatable({ DECLARED = declared, gateways = {}, forms = {} }, Protocol)
end

-- ---- packets ----

---The command of two numbers.
---@param stype integer
---@param ctype integer
---@return perilune.Command? command nil when nothing has these numbers
function Protocol:by_number(stype, ctype)
  local by_ctype = self.DECLARED.numbers[stype]
  return by_ctype and by_ctype[ctype]
end

local function find_command(self, name)
  local command = self.commands[name]
  if not command then error(("the protocol has no %q"):format(tostring(name)), 3) end
  return command
end

local function encode(command, side, form, value, request_id, utag)
  local codec = command[side]
  if not codec and value ~= nil then
    error(("%s declares no %s"):format(command.name, side), 3)
  end
  if value == nil and side == "request" and command.takes_nothing then value = {} end
  return packet.encode(codec, command.stype, command.ctype, utag or 0, form, value, request_id)
end

---A packet from a client: a request. Raises, naming the field, for a body that doesn't fit.
---@param name string "talkroom.enter"
---@param form integer protocol.JSON or protocol.BUF
---@param body any
---@param request_id integer? the reply carries it back; JSON only
---@return string data
function Protocol:encode_request(name, form, body, request_id)
  return encode(find_command(self, name), "request", form, body, request_id)
end

---A packet to a client: a reply, or what is pushed.
---@param name string
---@param form integer
---@param body any
---@param request_id integer?
---@param utag integer? for the gateway: whom it is for; default 0
---@return string data
function Protocol:encode_reply(name, form, body, request_id, utag)
  return encode(find_command(self, name), "reply", form, body, request_id, utag)
end

local function decode(self, data, side)
  local stype, ctype = packet.header(data)
  if not stype then return nil, ctype, "malformed" end
  local command = self:by_number(stype, ctype)
  if not command then
    return nil, ("there is no command %d of service %d"):format(ctype, stype), "unknown_command",
      nil, packet.request_id(data)
  end
  local ok, value, request_id, failed_id =
    packet.decode(command[side], data, command.takes_nothing)
  if not ok then return nil, value, request_id, command, failed_id end
  return command, value, request_id
end

---Reads a packet from a client.
---@param data string
---@return perilune.Command? command nil for one that can't be read
---@return any body or the message that says why
---@return integer|string|nil request_id or "malformed", "invalid_params", "unknown_command"
---@return perilune.Command? command of a packet that can't be read, when that is known
---@return integer? request_id of such a packet
function Protocol:decode_request(data)
  return decode(self, data, "request")
end

---Reads a packet to a client.
---@param data string
---@return perilune.Command? command nil for one that can't be read
---@return any body or the message that says why
---@return integer|string|nil request_id or "malformed", "invalid_params", "unknown_command"
function Protocol:decode_reply(data)
  return decode(self, data, "reply")
end

return protocol
