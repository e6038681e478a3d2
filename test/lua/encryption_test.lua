-- Encryption of our own for TCP: connections that are private, and what happens where they can't be.

local secure_cases = require "secure_cases"
local socket = require "perilune.socket"
local test = require "perilune.test"

local KEY = "test/lua/tls/x25519.pem"
local SERVER_KEY = "60d63fc4712f996cd8d70ce3f1fcd6fbd1fe4cb30e5da701a4af7e8939b47b62"

local function listen(options)
  if options.encrypt == nil then options.encrypt = { key = KEY } end
  return assert(socket.listen(options))
end

local function echo(options)
  options.on_data = function(connection, data) connection:write(data) end
  return listen(options)
end

local function connect(listener, options)
  if options.encrypt == nil then options.encrypt = { server_key = SERVER_KEY } end
  return socket.connect("127.0.0.1", listener.port, options)
end

secure_cases(listen, connect, { 4094, 4095, 4096, 4097 }, "\38\0PLE")

test("groups and broadcasts reach encrypted and plain connections alike", function()
  local members, plain = {}, {}
  local function on_open(connection) members[#members + 1] = connection end
  local private = listen { framing = "packet", on_open = on_open }
  local open = listen { framing = "packet", encrypt = false, on_open = on_open }
  for i = 1, 4 do
    local secret = i % 2 == 0
    plain[i] = assert(connect(secret and private or open,
      { framing = "packet", encrypt = secret }))
  end
  test.eventually(function() return #members == 4 end)
  for _, text in ipairs { "small", ("large"):rep(5000) } do
    test.equal(socket.broadcast(members, text), 4)
    for i = 1, 4 do test.equal(plain[i]:read(nil, 20000), text) end
  end
  for i = 1, 4 do plain[i]:close() end
  private:close()
  open:close()
end)

test("a server that has another key, or none, is refused with the reason", function()
  local known, unknown = echo {}, echo { encrypt = true }
  test.equal(known.server_key, SERVER_KEY)
  test.equal(unknown.server_key, nil)
  local function refused(to, key, why)
    local connection, message, code = connect(to, { encrypt = { server_key = key } })
    test.equal(connection, nil)
    test.equal(code, "unavailable")
    test.equal(message, "encryption: " .. why)
  end
  refused(unknown, SERVER_KEY, "the server has no key of its own")
  refused(known, ("12"):rep(32), "the server has another key")
  for _, listener in ipairs { known, unknown } do
    local connection = assert(connect(listener, { encrypt = true, framing = "raw" }))
    connection:write "x"
    test.equal(connection:read(nil, 20000), "x")
    connection:close()
  end
  known:close()
  unknown:close()
end)

test("options that can't be are refused", function()
  local connection, message, code =
    socket.connect("127.0.0.1", 1, { encrypt = { server_key = "x" } })
  test.equal(connection, nil)
  test.ok(message:find "64 hexadecimal digits", message)
  test.equal(code, "invalid")
  local listener, why = socket.listen { encrypt = { key = "test/lua/tls/key.pem" } }
  test.equal(listener, nil)
  test.ok(why:find "is no X25519 key", why)
  test.raises(function() socket.listen { encrypt = { server_key = SERVER_KEY } } end, "server_key")
  test.raises(function() socket.connect("127.0.0.1", 1, { encrypt = { key = KEY } }) end, "key")
  test.raises(function() socket.listen { encrypt = true, tls = true } end, "beside TLS")
  test.raises(function() socket.listen { encrypt = 1 } end, "boolean or table")
  test.raises(function() socket.listen { encrypt = { secret = "x" } } end, "key or server_key")
end)

test("what is no hello is closed, counted, and no service hears of it", function()
  local opened = 0
  local listener = listen { on_open = function() opened = opened + 1 end }
  local before = socket.stats()
  for _, bytes in ipairs { "GET / HTTP/1.0\r\n\r\n", "\0\0", ("\255"):rep(1000),
    "\38\0PLE\1" .. ("\0"):rep(32) } do
    local plain = assert(socket.connect("127.0.0.1", listener.port))
    plain:write(bytes)
    test.equal(plain:read(nil, 20000), nil)
  end
  test.eventually(function() return socket.stats().open == before.open end)
  test.equal(socket.stats().closed_encryption - before.closed_encryption, 4)
  test.equal(opened, 0)
  listener:close()
end)

-- Connects through somebody in between, who sends on what `change` makes of each piece of the
-- client's, nil: nothing. The answers pass as they are.
local function connect_through(listener, change, options)
  local middle = assert(socket.listen {
    paused = true,
    on_open = function(client)
      local server = assert(socket.connect("127.0.0.1", listener.port, {
        on_data = function(_, data) client:write(data) end,
        on_close = function() client:close() end,
      }))
      client.on_data = function(_, data)
        local piece = change(data)
        if piece then server:write(piece) end
      end
      client.on_close = function() server:close() end
      client:resume()
    end,
  })
  local connection, message = connect(middle, options)
  middle:close()
  return connection, message
end

test("records that were changed, repeated or left out close that connection alone", function()
  local reasons, heard = {}, {}
  local listener = listen {
    framing = "packet",
    on_data = function(connection, data)
      heard[#heard + 1] = data
      connection:write(data)
    end,
    on_close = function(_, reason) reasons[#reasons + 1] = reason end,
  }
  local bystander = assert(connect(listener, { framing = "packet" }))
  local before = socket.stats().closed_encryption
  local attacks = {
    changed = function(data) return data:sub(1, -2) .. string.char((data:byte(-1) + 1) % 256) end,
    repeated = function(data) return data .. data end,
    left_out = function(data, number) return number > 1 and data or nil end,
  }
  for name, attack in pairs(attacks) do
    local active, pieces = false, 0
    local connection = assert(connect_through(listener, function(data)
      if not active then return data end
      pieces = pieces + 1
      return attack(data, pieces)
    end, { framing = "packet" }))
    connection:write "one"
    test.equal(connection:read(nil, 20000), "one")
    active, heard = true, {}
    connection:write "two"
    test.eventually(function() return pieces > 0 end, 20000, name)
    connection:write "three" -- which shows that the one before it is missing
    test.eventually(function() return connection.closed end, 20000, name)
    test.eventually(function() return #reasons > 0 end, 20000, name)
    test.equal(table.remove(reasons), "encryption", name)
    test.equal(heard, name == "repeated" and { "two" } or {}, name)
  end
  test.equal(socket.stats().closed_encryption - before, 3)
  bystander:write "still here"
  test.equal(bystander:read(nil, 20000), "still here")
  bystander:close()
  listener:close()
end)

test("what is on the way is not the text", function()
  local seen = {}
  local listener = echo { framing = "packet" }
  local connection = assert(connect_through(listener, function(data)
    seen[#seen + 1] = data
    return data
  end, { framing = "packet" }))
  connection:write "a secret that nobody else may read"
  test.equal(connection:read(nil, 20000), "a secret that nobody else may read")
  test.equal(table.concat(seen):find("secret", 1, true), nil)
  connection:close()
  listener:close()
end)

return test
