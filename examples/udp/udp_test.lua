local enet = require "perilune.enet"
local perilune = require "perilune"
local test = require "perilune.test"

test("players see each other move, talk and leave", function()
  local world = perilune.spawn("udp", { port = 0 })
  local port = perilune.call(world, "port")
  local seen = {}
  local function see(_, data) seen[#seen + 1] = data:gsub("%d+ ", "", 1) end
  local ann = assert(enet.connect("127.0.0.1", port, { on_data = see }))
  local ben = assert(enet.connect("127.0.0.1", port))
  test.eventually(function() return #seen == 1 end, 10000)
  ben:write "hello"
  test.eventually(function() return seen[2] == "says hello" end, 10000)
  ben:write("10,20", { channel = 1, mode = "unreliable" })
  test.eventually(function() return seen[3] == "10,20" end, 10000)
  ben:close()
  test.eventually(function() return seen[4] and seen[4]:find "ended" end, 10000)
  ann:close()
  perilune.stop(world)
end)

return test
