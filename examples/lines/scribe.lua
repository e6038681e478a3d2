-- Keeps the last lines of the chat: a client whose task reads them one after the other. Where it is
-- given a certificate to trust it talks TLS, and to nobody who can't show that one.
local options = require "perilune.options"
local perilune = require "perilune"
local socket = require "perilune.socket"

local scribe = {} -- the commands that other services may call
local kept = {} -- the lines; kept over a reload, too
local settings, delay_ms, trouble

local MAX_KEPT = 100
local CONNECT_MS = 5000 -- for the name, its addresses and TLS together
local FIRST_DELAY_MS, LAST_DELAY_MS = 100, 5000
local SILENCE_MS = 3600000 -- the chat itself ends connections from which nothing comes before that

scribe.options = {
  host = { type = "string", default = "localhost", meaning = "host of the chat" },
  port = { type = "integer", default = 7010, min = 1, max = 65535, meaning = "port of the chat" },
  ca = { type = "string", default = "", meaning = "PEM file of whom to trust; none: no TLS" },
  name = { type = "string", default = "scribe", meaning = "its name in the chat" },
}

function scribe.on_start(given)
  settings = options.read(scribe.options, given)
  delay_ms = FIRST_DELAY_MS
  perilune.timeout(0, "on_connect")
end

local function write_down(line)
  kept[#kept + 1] = line
  if #kept > MAX_KEPT then table.remove(kept, 1) end
end

-- Stays as long as the connection does. Returns why it is over.
---@async
local function listen_in()
  local connection, message = socket.connect(settings.host, settings.port, {
    framing = "line", connect_ms = CONNECT_MS, idle_ms = SILENCE_MS,
    tls = settings.ca ~= "" and { ca = settings.ca } or nil,
  })
  if not connection then return message end
  connection:write(settings.name)
  delay_ms, trouble = FIRST_DELAY_MS, nil
  for line in connection:each() do write_down(line) end
  return "the connection is closed: " .. connection.closed
end

-- A timer by name for each connection: a reload takes effect with the next one.
function scribe.on_connect()
  trouble = listen_in()
  perilune.log.warn("%s; again in %d ms", trouble, delay_ms)
  perilune.timeout(delay_ms, "on_connect")
  delay_ms = math.min(delay_ms * 2, LAST_DELAY_MS)
end

---The last lines, oldest first, and why there is no connection, if there is none.
---@param count integer? default: all that are kept, which are 100 at most
---@return string[] lines, string? trouble
function scribe.last(count)
  local first = math.max(1, #kept - (count or MAX_KEPT) + 1)
  local lines = {}
  for index = first, #kept do lines[#lines + 1] = kept[index] end
  return lines, trouble
end

return scribe
