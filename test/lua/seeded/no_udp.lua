-- What seeded_test.lua runs: the network outside can't be repeated.

local enet = require "perilune.enet"
local test = require "perilune.test"
local udp = require "perilune.udp"

local function refuses(socket, message, code)
  test.equal({ socket, code }, { nil, "unsupported" })
  test.ok(message:find "seeded")
end

test("datagrams and ENet say that they aren't there", function()
  refuses(udp.open {})
  refuses(udp.connect("127.0.0.1", 9))
  refuses(enet.listen {})
  refuses(enet.connect("127.0.0.1", 9))
end)

return test
