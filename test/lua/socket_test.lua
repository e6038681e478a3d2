-- Connections as services see them: both styles, limits, endings, handing over, groups.

local perilune = require "perilune"
local socket = require "perilune.socket"
local test = require "perilune.test"

local HOST = "127.0.0.1"

-- The group's VM counts among the services and outlives them, so it is there before the tests.
function test.on_start()
  perilune.stop(perilune.spawn("socket_helper", {}, { group = "sockets" }))
end

local function listen(options)
  local listener = assert(socket.listen(options))
  return listener, listener.port
end

-- Waits until `condition()` holds.
local function eventually(condition, what)
  for _ = 1, 400 do
    if condition() then return end
    perilune.sleep(10)
  end
  error("never: " .. (what or "condition"), 2)
end

local function expect(value, wanted)
  if value ~= wanted then
    error(("expected %s, got %s"):format(tostring(wanted), tostring(value)), 2)
  end
end

local function expect_raise(pattern, body, ...)
  local ok, message = pcall(body, ...)
  if ok then error("nothing was raised", 2) end
  if not tostring(message):find(pattern) then
    error(("%q isn't in %q"):format(pattern, tostring(message)), 2)
  end
end

test("callbacks echo frames", function()
  local opened, closed = 0, {}
  local listener, port = listen {
    framing = "packet",
    on_open = function(connection, address)
      opened = opened + 1
      expect(connection.address, address)
    end,
    on_data = function(connection, data) assert(connection:write(data)) end,
    on_close = function(connection, reason) closed[#closed + 1] = reason end,
  }
  local connection = assert(socket.connect(HOST, port, { framing = "packet" }))
  for _, body in ipairs { "hello", "", ("x"):rep(60000), "\0\255" } do
    assert(connection:write(body))
    expect(connection:read(), body)
  end
  expect(opened, 1)
  connection:close()
  eventually(function() return closed[1] end, "on_close")
  expect(closed[1], "ended")
  assert(listener:close())
end)

test("a task reads bytes, lines and separators of a raw connection", function()
  local done
  local listener, port = listen {
    on_open = function(connection)
      expect(connection:read(3), "abc")
      expect(connection:read("line"), "a line")
      expect(connection:read("line"), "")
      expect(connection:read_until("--"), "up to")
      expect(connection:read(0), "")
      expect(connection:read(5), "12345")
      local rest, message, code = connection:read(100)
      expect(rest, nil)
      expect(message, "closed")
      expect(code, "ended")
      expect(connection:read("any"), "tail")
      done = true
    end,
  }
  local connection = assert(socket.connect(HOST, port))
  for part in ("abca line\r\n\nup to--12345tail"):gmatch "." do
    connection:write(part)
    perilune.sleep(1)
  end
  connection:close()
  eventually(function() return done end, "the reader's end")
  listener:close()
end)

test("much more than the buffer is read in one go", function()
  local size = 1000000
  local listener, port = listen {
    on_open = function(connection)
      for _ = 1, 20 do
        assert(connection:write(("d"):rep(size / 20)))
        assert(connection:drain(5000))
      end
      connection:close()
    end,
  }
  local connection = assert(socket.connect(HOST, port))
  perilune.sleep(100)
  expect(#assert(connection:read(size)), size)
  local data, message = connection:read("any")
  expect(data, nil)
  expect(message, "closed")
  listener:close()
end)

test("each() gives frames until the end", function()
  local listener, port = listen {
    framing = "line",
    on_open = function(connection)
      for i = 1, 100 do connection:write(tostring(i)) end
      connection:close()
    end,
  }
  local connection = assert(socket.connect(HOST, port, { framing = "line" }))
  local count = 0
  for line in connection:each() do
    count = count + 1
    expect(line, tostring(count))
  end
  expect(count, 100)
  listener:close()
end)

test("a reader gets nil and closed when the connection is closed here", function()
  local listener, port = listen { framing = "line" , on_data = function() end }
  local connection = assert(socket.connect(HOST, port, { framing = "line" }))
  local data, message, code = "unset", nil, nil
  perilune.fork(function() data, message, code = connection:read() end)
  perilune.yield()
  connection:close()
  eventually(function() return data == nil end, "the reader's end")
  expect(message, "closed")
  expect(code, "closed")
  expect(select(3, connection:write("x")), "dead")
  expect(select(3, connection:close()), "dead")
  listener:close()
end)

test("reading has a limit of time", function()
  local listener, port = listen { framing = "line", on_data = function() end }
  local connection = assert(socket.connect(HOST, port, { framing = "line" }))
  local before = perilune.now()
  local data, message, code = connection:read("frame", 50)
  expect(data, nil)
  expect(message, "timeout")
  expect(code, "timeout")
  assert(perilune.now() - before >= 50)
  connection:close()
  listener:close()
end)

test("a line that is too long is refused", function()
  local reason
  local listener, port = listen {
    framing = "line", max_frame = 10, on_data = function() end,
    on_close = function(_, why) reason = why end,
  }
  local connection = assert(socket.connect(HOST, port))
  connection:write(("x"):rep(20))
  eventually(function() return reason end, "on_close")
  expect(reason, "too_large")
  listener:close()
end)

test("the limit of frames changes after a login", function()
  local listener, port = listen {
    framing = "packet", max_frame = 16,
    on_data = function(connection, data)
      connection:set_max_frame(1000)
      connection:write(tostring(#data))
    end,
  }
  local connection = assert(socket.connect(HOST, port, { framing = "packet" }))
  connection:write "login"
  expect(connection:read(), "5")
  connection:write(("x"):rep(1000))
  expect(connection:read(), "1000")
  connection:write(("x"):rep(1001))
  local data, _, code = connection:read()
  expect(data, nil)
  assert(code == "reset" or code == "ended", code)
  listener:close()
end)

test("a port in use is named", function()
  local listener, port = listen {}
  local second, message, code = socket.listen { port = port }
  expect(second, nil)
  expect(message, "127.0.0.1:" .. port .. " is in use")
  expect(code, "exists")
  listener:close()
end)

test("what can't be connected to says why", function()
  local listener, port = listen {}
  listener:close()
  local connection, message, code
  -- What comes before it is closed is accepted, or reset.
  eventually(function()
    connection, message, code = socket.connect(HOST, port)
    if connection then connection:close() end
    return not connection and message:find("refused", 1, true)
  end, "refused")
  expect(connection, nil)
  assert(message:find("refused", 1, true), message)
  expect(code, "unavailable")
  connection, message = socket.connect("no-such-host.perilune.invalid", 80)
  expect(connection, nil)
  assert(#message > 0)
end)

test("misuse names the argument", function()
  expect_raise('socket.listen: bad option "prot"', socket.listen, { prot = 1 })
  expect_raise('socket.listen: bad option "port" %(integer from 0 to 65535', socket.listen,
    { port = 70000 })
  expect_raise('bad option "framing"', socket.listen, { framing = "json" })
  expect_raise('bad option "on_data"', socket.listen, { on_data = 5 })
  expect_raise("a table of options", socket.listen)
  expect_raise("port from 1", socket.connect, HOST, 0)
  local listener, port = listen { framing = "packet", on_data = function() end }
  local connection = assert(socket.connect(HOST, port, { framing = "packet" }))
  expect_raise("gives frames", connection.read, connection, 5)
  expect_raise("string expected", connection.write, connection, {})
  connection:close()
  listener:close()
end)

test("groups send one frame to all but one", function()
  local group, members = socket.group(), {}
  local listener, port = listen {
    framing = "packet",
    on_open = function(connection)
      members[#members + 1] = connection
      assert(group:add(connection))
    end,
  }
  local clients = {}
  for i = 1, 5 do clients[i] = assert(socket.connect(HOST, port, { framing = "packet" })) end
  eventually(function() return #members == 5 end, "five members")
  expect(group:write("all"), 5)
  expect(group:write("but one", members[3]), 4)
  expect(socket.broadcast(members, "again"), 5)
  local but_one = 0
  for _, client in ipairs(clients) do
    expect(client:read(), "all")
    local second = client:read()
    if second == "but one" then
      but_one = but_one + 1
      second = client:read()
    end
    expect(second, "again")
  end
  expect(but_one, 4)
  clients[1]:close()
  eventually(function()
    group:write "x"
    return group:size() == 4
  end, "one less")
  expect(group:remove(members[1].closed and members[2] or members[1]), true)
  expect(group:size(), 3)
  group:close()
  expect(select(3, group:write "x"), "not_found")
  for _, client in ipairs(clients) do client:close() end
  listener:close()
end)

test("unread frames hold the peer up and none is lost", function()
  local listener, port = listen {
    framing = "packet",
    on_open = function(connection)
      for i = 1, 3000 do
        assert(connection:write(("%05d"):format(i) .. ("x"):rep(200)))
        if i % 100 == 0 then assert(connection:drain()) end
      end
      connection:close()
    end,
  }
  local connection = assert(socket.connect(HOST, port, { framing = "packet" }))
  perilune.sleep(200)
  local count = 0
  for frame in connection:each() do
    count = count + 1
    expect(tonumber(frame:sub(1, 5)), count)
  end
  expect(count, 3000)
  listener:close()
end)

test("a connection is handed over with everything that it was sent", function()
  local helper = perilune.spawn("socket_helper", { tag = "second:" })
  local listener, port = listen {
    framing = "packet",
    on_data = function(connection, data)
      assert(connection:write("first:" .. data))
      if data == "10" then assert(connection:hand_over(helper)) end
    end,
    on_close = function() error("it isn't ours any more") end,
  }
  local connection = assert(socket.connect(HOST, port, { framing = "packet" }))
  for i = 1, 500 do connection:write(tostring(i)) end
  for i = 1, 500 do
    expect(connection:read(), (i <= 10 and "first:" or "second:") .. i)
  end
  connection:close()
  eventually(function()
    local opened, closed, reason = perilune.call(helper, "counts")
    return opened == 1 and closed == 1 and reason == "ended"
  end, "the helper's on_close")
  perilune.stop(helper)
  listener:close()
end)

test("light services of one VM have their own connections", function()
  local first = perilune.spawn("socket_helper", { tag = "a:" }, { group = "sockets" })
  local second = perilune.spawn("socket_helper", { tag = "b:" }, { group = "sockets" })
  local connections = {}
  for index, service in ipairs { first, second } do
    local port = perilune.call(service, "listen")
    connections[index] = assert(socket.connect(HOST, port, { framing = "packet" }))
    connections[index]:write "x"
  end
  expect(connections[1]:read(), "a:x")
  expect(connections[2]:read(), "b:x")
  perilune.stop(first)
  local data, message, code = connections[1]:read()
  expect(data, nil)
  expect(message, "closed")
  expect(code, "ended")
  connections[2]:write "y"
  expect(connections[2]:read(), "b:y")
  connections[2]:write "exit"
  expect(connections[2]:read(), "last words")
  expect(connections[2]:read(), nil)
end)

test("stats count", function()
  local before = socket.stats()
  local listener, port = listen { framing = "line", on_data = function() end }
  local connection = assert(socket.connect(HOST, port, { framing = "line" }))
  local after = socket.stats()
  expect(after.listeners, before.listeners + 1)
  expect(after.connected, before.connected + 1)
  connection:abort()
  listener:close()
end)

return test
