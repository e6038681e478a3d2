-- Database servers for the tests of this folder: `local servers = require "servers"`. Each is a
-- process of its own on a port of the loopback interface, with a data folder that goes with it.
-- servers/launch says what they are told.

local test = require "perilune.test"

local servers = {}

local PROGRAMS = { mysql = "mariadbd", redis = "redis-check-rdb", sentinel = "redis-check-rdb" }

---Why there can be no server of that kind here, or nil.
---@param kind "mysql"|"redis"|"sentinel"
---@return string? why
function servers.missing(kind)
  local pipe = assert(io.popen("PATH=$PATH:/usr/sbin command -v " .. PROGRAMS[kind]))
  local path = pipe:read "*l"
  pipe:close()
  if not path then return PROGRAMS[kind] .. " isn't installed" end
end

---@class test.Server
---@field port integer
---@field pid integer
local Server = {}
Server.__index = Server

local function answers_of(server)
  local lines = {}
  local file = io.open(server._folder .. "/answers")
  for line in file and file:lines() or function() end do lines[#lines + 1] = line end
  if file then file:close() end
  return lines
end

-- Waits for the next answer; fails unless it begins with `wanted`.
---@async
local function expect(server, wanted)
  server._answers = server._answers + 1
  local answer = test.eventually(function() return answers_of(server)[server._answers] end, 90000,
    "the server: " .. wanted)
  if answer:sub(1, #wanted) ~= wanted then error("the server: " .. answer, 3) end
  local port, pid = answer:match "^up (%d+) (%d+)"
  if port then server.port, server.pid = tonumber(port), tonumber(pid) end
end

-- A word for the shell.
local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

---Starts a server.
---@async
---@param kind "mysql"|"redis"|"sentinel"
---@param lines string[]? of the configuration of a server of Redis; PORT in them is its port; or
---options of MySQL
---@return test.Server
function servers.start(kind, lines)
  -- Its socket's path, which is in there, has to be short.
  local folder = os.tmpname()
  os.remove(folder)
  local server = setmetatable({ _folder = folder, _answers = 0 }, Server)
  -- It ends when the pipe does, however this process ends.
  local words = { "PATH=$PATH:/usr/sbin", "test/data/servers/launch", kind, folder }
  for _, line in ipairs(lines or {}) do words[#words + 1] = quote(line) end
  server._pipe = assert(io.popen(table.concat(words, " "), "w"))
  expect(server, "up ")
  return server
end

local ANSWERS = { kill = "down", start = "up ", pause = "paused", continue = "continued" }

---Ends the server at once, starts it again, stops it for a while or lets it go on.
---@async
---@param command "kill"|"start"|"pause"|"continue"
function Server:tell(command)
  self._pipe:write(command, "\n")
  self._pipe:flush()
  expect(self, ANSWERS[command])
end

---Ends the server and removes what it kept. Waits for neither.
function Server:close()
  if not self._pipe then return end
  -- Closing the pipe waits for the script: that is left to the collector.
  self._pipe:write "end\n"
  self._pipe:flush()
  self._pipe = nil
end

return servers
