-- Datagrams as services see them.

local perilune = require "perilune"
local test = require "perilune.test"
local udp = require "perilune.udp"

local HOST = "127.0.0.1"

local function echo(options)
  options = options or {}
  options.on_data = function(socket, data, host, port) assert(socket:send(data, host, port)) end
  return assert(udp.open(options))
end

test("on_data gets datagrams and their sender's address", function()
  local server = echo()
  local client = assert(udp.open {})
  for _, data in ipairs { "hello", "", ("x"):rep(60000), "\0\255" } do
    assert(client:send(data, server.host, server.port))
    local got, host, port = client:receive(5000)
    test.equal(got, data)
    test.equal(host, HOST)
    test.equal(port, server.port)
  end
  test.ok(client:close())
  test.ok(server:close())
  local _, _, code = server:close()
  test.equal(code, "dead")
end)

test("a connected socket sends without an address, by name too", function()
  local server = echo()
  for _, host in ipairs { HOST, "localhost" } do
    local client = assert(udp.connect(host, server.port))
    assert(client:send "ping")
    test.equal(client:receive(5000), "ping")
    local ok, _, code = client:send("ping", HOST, server.port)
    test.equal(ok, nil)
    test.equal(code, "invalid")
    client:close()
  end
  server:close()
end)

test("one socket serves IPv4 and IPv6", function()
  local server = echo { host = "*" }
  for _, host in ipairs { HOST, "::1" } do
    local client = assert(udp.open { host = host })
    assert(client:send("hello", host, server.port))
    local data, from = client:receive(5000)
    test.equal(data, "hello")
    test.equal(from, host)
    client:close()
  end
  server:close()
end)

test("receive gives up in time, and when the socket closes", function()
  local socket = assert(udp.open {})
  local data, message, code = socket:receive(20)
  test.equal({ data, message, code }, { nil, "timeout", "timeout" })
  local done
  perilune.fork(function() done = { select(2, socket:receive()) } end)
  perilune.sleep(1)
  socket:close()
  test.eventually(function() return done end)
  test.equal(done, { "closed", "dead" })
end)

test("a receiver that never receives loses datagrams, and they are counted", function()
  local socket = assert(udp.open {})
  local client = assert(udp.open {})
  for _ = 1, 12 do
    local before = udp.stats().udp_in
    assert(client:send(("x"):rep(50000), socket.host, socket.port))
    test.eventually(function() return udp.stats().udp_in > before end, 10000)
  end
  test.eventually(function() return socket.dropped > 0 end, 10000)
  test.equal(#socket:receive(5000), 50000)
  socket:close()
  client:close()
end)

test("max_datagram drops what is larger", function()
  local server = echo { max_datagram = 10 }
  local client = assert(udp.open {})
  local before = udp.stats().udp_dropped_large
  assert(client:send(("x"):rep(11), server.host, server.port))
  assert(client:send(("y"):rep(10), server.host, server.port))
  test.equal(client:receive(5000), ("y"):rep(10))
  test.equal(udp.stats().udp_dropped_large, before + 1)
  local ok, _, code = client:send(("x"):rep(65508), server.host, server.port)
  test.equal({ ok, code }, { nil, "too_large" })
  server:close()
  client:close()
end)

test("what can't be opened says why", function()
  local socket = assert(udp.open {})
  local _, message, code = udp.open { port = socket.port }
  test.equal(code, "exists")
  test.ok(message:find "in use")
  _, _, code = udp.open { host = "no address" }
  test.equal(code, "invalid")
  test.ok(not udp.connect("no such name", 1))
  test.raises(function() udp.open { port = 70000 } end, "port")
  test.raises(function() udp.open { prot = 7 } end, "no option prot")
  test.raises(function() udp.open { on_data = 7 } end, "on_data")
  test.raises(function() socket:send(7, HOST, 1) end, "string expected")
  socket:close()
end)

test("a socket dies with its service", function()
  local helper = perilune.spawn "udp_helper"
  local port = perilune.call(helper, "udp_port")
  local client = assert(udp.connect(HOST, port))
  assert(client:send "hello")
  test.equal(client:receive(5000), "hello")
  perilune.stop(helper)
  test.eventually(function()
    local socket = udp.open { port = port }
    return socket and socket:close()
  end, 10000)
  client:close()
end)

return test
