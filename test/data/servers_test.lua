-- The servers that other tests of this folder use.

local servers = require "servers"
local socket = require "perilune.socket"
local test = require "perilune.test"

for _, kind in ipairs { "mysql", "redis" } do
  local why = servers.missing(kind)
  local add = why and function(name) test.skip(name, why) end or test.add
  add(kind .. ": a server that is killed comes back on its port", function()
    local server = servers.start(kind)
    local port, pid = server.port, server.pid
    assert(socket.connect("127.0.0.1", port)):close()
    server:tell "kill"
    test.equal(socket.connect("127.0.0.1", port), nil)
    server:tell "start"
    test.equal(server.port, port)
    test.ok(server.pid ~= pid)
    server:tell "pause"
    local connection = assert(socket.connect("127.0.0.1", port, { framing = "raw" }))
    test.equal(select(3, connection:read(nil, 100)), "timeout")
    server:tell "continue"
    connection:close()
    server:close()
  end, 180000)
end

return test
