-- probe: what a test outside of this process sees of it, over a connection of lines. "stats" is
-- answered with lines "name value" and an empty one. "scene 4000 7 8 9" shows these players a scene
-- that changes by 4,000 bytes 20 times a second, until "calm".
local perilune = require "perilune"
local enet = require "perilune.enet"
local gateway = require "perilune.gateway"
local socket = require "perilune.socket"

local probe = {}

local SCENE_MS = 50

local scenes = {} -- their timers
local peer -- of the service "framed", by ENet: someone healthy there
local echo = { sent = 0, received = 0, wrong = 0, lost = 0 }

-- Every number below `value` as a line, under the names on the way.
local function add_lines(lines, name, value)
  if type(value) ~= "table" then
    lines[#lines + 1] = ("%s %s\n"):format(name, tostring(value))
    return
  end
  for key, below in pairs(value) do add_lines(lines, name .. "." .. key, below) end
end

local COMMANDS = {}

function COMMANDS.stats(connection)
  local lines = {}
  add_lines(lines, "gateway", perilune.call("gateway", "stats"))
  add_lines(lines, "framed", perilune.call("framed", "stats"))
  add_lines(lines, "talkroom", perilune.call("talkroom", "stats"))
  add_lines(lines, "node", perilune.node().counters)
  add_lines(lines, "echo", echo)
  connection:write_raw(table.concat(lines) .. "\n")
end

function COMMANDS.scene(connection, words)
  local numbers = {}
  for number in words:gmatch "%d+" do numbers[#numbers + 1] = tonumber(number) end
  local line = { id = 1, uid = 1, uname = "scene", usex = 0, time = 0 }
  line.text = ("s"):rep(table.remove(numbers, 1))
  scenes[#scenes + 1] = perilune.every(SCENE_MS, function()
    gateway.broadcast(numbers, "talkroom.user_message", line)
  end)
  connection:write_raw "\n"
end

function COMMANDS.calm(connection)
  for _, scene in ipairs(scenes) do perilune.cancel(scene) end
  scenes = {}
  connection:write_raw "\n"
end

function probe.on_line(connection, line)
  local name, words = line:match "^(%a+) ?(.*)$"
  COMMANDS[name](connection, words)
end

function probe.on_echo_due()
  echo.sent = echo.sent + 1
  peer:write(tostring(echo.sent))
end

function probe.on_start()
  peer = assert(enet.connect("127.0.0.1", perilune.call("framed", "stats").enet, {
    on_data = function(_, data)
      echo.received = echo.received + 1
      if data ~= tostring(echo.received) then echo.wrong = echo.wrong + 1 end
    end,
    on_close = function() echo.lost = echo.lost + 1 end,
  }))
  perilune.every(100, "on_echo_due")
  local listener = assert(socket.listen { framing = "line", on_data = "on_line" })
  perilune.log.info("probe at port %d", listener.port)
end

return probe
