---@class perilune.redis.greeting
-- What is said at the beginning of a connection.
local greeting = {}

local native = require "perilune.native.redis"

-- What an error of the server may repeat: its arguments.
local function without_password(text, settings)
  local secret = settings.password
  if not secret or secret == "" then return text end
  local parts, at = {}, 1
  while true do
    local first, last = text:find(secret, at, true)
    if not first then break end
    parts[#parts + 1] = text:sub(at, first - 1) .. "***"
    at = last + 1
  end
  return table.concat(parts) .. text:sub(at)
end

-- The commands that begin a connection, and their names.
local function greetings(settings, ask_role)
  local commands, names = {}, {}
  local function add(name, ...)
    commands[#commands + 1], names[#names + 1] = assert(native.format(name, ...)), name
  end
  if settings.password then
    if settings.user then
      add("AUTH", settings.user, settings.password)
    else
      add("AUTH", settings.password)
    end
  end
  if settings.name then add("CLIENT", "SETNAME", settings.name) end
  if settings.database ~= 0 then add("SELECT", settings.database) end
  add(ask_role and "ROLE" or "PING")
  return commands, names
end

-- Whether a server has said what lets us work with it.
local function check_answer(name, answer)
  local is_error = getmetatable(answer) == "perilune.redis.Error"
  if name == "CLIENT" then return true end -- it is for people who look
  if name == "PING" and is_error and answer.code == "NOPERM" then return true end
  if is_error then return nil, answer.message, answer.code end
  if name == "ROLE" and (type(answer) ~= "table" or answer[1] ~= "master") then
    return nil, "it isn't the primary", "READONLY"
  end
  return true
end

---Logs in, chooses the database and asks for a sign of life.
---@async
---@param link perilune.redis.Link
---@param settings perilune.redis.Settings
---@param limit_ms number
---@param ask_role boolean? only a primary will do
---@return true? ok
---@return string? message without the password
---@return string? code of the server, or "unavailable"
function greeting.exchange(link, settings, limit_ms, ask_role)
  local commands, names = greetings(settings, ask_role)
  local batch, why, kind = link:send_batch(limit_ms, commands)
  if not batch then return nil, why, kind end
  for index, answer in ipairs(batch:wait()) do
    local ok, message, code = check_answer(names[index], answer)
    if code == "unknown" then
      message, code = link.closed, "unavailable"
    elseif code == "timeout" then
      message, code = "it didn't answer in time", "unavailable"
    end
    if not ok then
      return nil, link.address .. ": " .. without_password(message, settings), code
    end
  end
  return true
end

return greeting
