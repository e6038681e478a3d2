-- TLS: connections that are private, and what happens where they can't be.

local perilune = require "perilune"
local secure_cases = require "secure_cases"
local socket = require "perilune.socket"
local test = require "perilune.test"

local FOLDER = "test/lua/tls/"
local OURS = { certificate = FOLDER .. "certificate.pem", key = FOLDER .. "key.pem" }
local TRUST = { ca = OURS.certificate }

local function listen(options)
  options.tls = options.tls or OURS
  return assert(socket.listen(options))
end

local function echo(options)
  options.on_data = function(connection, data) connection:write(data) end
  return listen(options)
end

local function connect(listener, options)
  options.tls = options.tls or TRUST
  return socket.connect("localhost", listener.port, options)
end

secure_cases(listen, connect, { 16383, 16384, 16385 }, "\22\3\1")

test("a server that isn't trusted, or is another, is refused with the reason", function()
  local listener = echo {}
  local elsewhere = echo {
    tls = { certificate = FOLDER .. "other_certificate.pem", key = FOLDER .. "other_key.pem" },
  }
  local function refused(to, tls, why)
    local connection, message, code = connect(to, { tls = tls })
    test.equal(connection, nil)
    test.equal(code, "unavailable")
    test.ok(message:find(why, 1, true), message)
  end
  refused(listener, true, "tls: self-signed certificate")
  refused(listener, { ca = FOLDER .. "other_certificate.pem" }, "tls: self-signed certificate")
  refused(elsewhere, { ca = FOLDER .. "other_certificate.pem" }, "tls: hostname mismatch")
  for to, tls in pairs {
    [elsewhere] = { ca = FOLDER .. "other_certificate.pem", server_name = "elsewhere.example" },
    [listener] = { verify = false },
  } do
    local connection = assert(connect(to, { tls = tls, framing = "raw" }))
    connection:write "x"
    test.equal(connection:read(nil, 20000), "x")
    connection:close()
  end
  listener:close()
  elsewhere:close()
end)

test("what is no TLS is closed, counted, and no service hears of it", function()
  local opened = 0
  local listener = listen { on_open = function() opened = opened + 1 end }
  local before = socket.stats()
  for _, bytes in ipairs { "GET / HTTP/1.0\r\n\r\n", "\22\3\1\255\255", ("\0"):rep(1000) } do
    local plain = assert(socket.connect("127.0.0.1", listener.port))
    plain:write(bytes)
    plain:close()
  end
  test.eventually(function()
    local now = socket.stats()
    return now.closed - before.closed >= 6 and now.open == before.open
  end)
  test.ok(socket.stats().closed_tls - before.closed_tls >= 2)
  test.equal(opened, 0)
  listener:close()
end)

test("handshakes under way are limited over all listeners of a service, and counted", function()
  local function stats(name) return socket.stats()[name] end
  local function is_refused(listener)
    local before = stats "refused_handshakes"
    local plain = socket.connect("127.0.0.1", listener.port)
    if plain then test.equal(plain:read(nil, 20000), nil) end
    test.equal(stats "refused_handshakes" - before, 1)
  end
  for _, limit in ipairs { "max_handshakes", "max_handshakes_per_address" } do
    local first, second = listen { [limit] = 2 }, listen { [limit] = 2 }
    local exempt = listen { max_handshakes_per_address = 1, exempt = { "127.0.0.1" } }
    local silent = {}
    for index, listener in ipairs { first, second } do
      silent[index] = assert(socket.connect("127.0.0.1", listener.port))
    end
    test.eventually(function() return stats "handshakes" == 2 end)
    is_refused(first)
    is_refused(second)
    silent[3] = assert(socket.connect("127.0.0.1", exempt.port))
    test.eventually(function() return stats "handshakes" == 3 end)
    for index = 1, 3 do silent[index]:close() end
    test.eventually(function() return stats "handshakes" == 0 end)
    for _, listener in ipairs { first, second } do
      silent[#silent + 1] = assert(connect(listener, {})) -- who has shaken hands isn't counted
      silent[#silent + 1] = assert(connect(listener, {}))
    end
    for index = 4, #silent do silent[index]:close() end
    for _, listener in ipairs { first, second, exempt } do listener:close() end
  end
  test.raises(function() listen { exempt = { "somewhere" } } end, "exempt")
  test.raises(function() listen { exempt = 1 } end, "exempt")
end)

test("a peer that ends during the handshake is closed, and not waited for", function()
  local before = socket.stats().open
  local listener = listen { handshake_ms = 0 }
  local plain = assert(socket.connect("127.0.0.1", listener.port))
  test.eventually(function() return socket.stats().handshakes == 1 end)
  plain:close()
  test.eventually(function() return socket.stats().open == before end)
  listener:close()
  local plain_listener = assert(socket.listen { on_open = function(peer) peer:close() end })
  local connection, message, code = connect(plain_listener, { connect_ms = 0 })
  test.equal(connection, nil)
  test.equal(message, "closed during the handshake")
  test.equal(code, "unavailable")
  plain_listener:close()
end)

test("with until_upgrade a handshake is over with the upgrade, or in handshake_ms", function()
  local accepted
  local listener = assert(socket.listen {
    framing = "raw", until_upgrade = true, handshake_ms = 300,
    on_open = function(connection) accepted = connection end, on_data = function() end,
  })
  local before = socket.stats().closed_handshake
  local silent = assert(socket.connect("127.0.0.1", listener.port))
  test.equal(silent:read(nil, 20000), nil)
  test.equal(socket.stats().closed_handshake - before, 1)
  local upgraded = assert(socket.connect("127.0.0.1", listener.port))
  test.eventually(function() return accepted and not accepted.closed end)
  test.equal(socket.stats().handshakes, 1)
  test.ok(accepted:upgrade "websocket")
  test.eventually(function() return socket.stats().handshakes == 0 end)
  test.eventually(function() return accepted:age() > 400 end)
  test.equal(accepted.closed, nil)
  test.ok(accepted:write "still here")
  upgraded:close()
  test.eventually(function() return accepted.closed end)
  test.equal(accepted:age(), nil)
  listener:close()
end)

test("a connection to a plain server fails", function()
  local listener = assert(socket.listen {
    on_data = function(connection) connection:write "HTTP/1.0 400 Bad Request\r\n\r\n" end,
  })
  local connection, message, code = connect(listener, {})
  test.equal(connection, nil)
  test.ok(message:find "tls: ", message)
  test.equal(code, "unavailable")
  listener:close()
end)

-- Where a test puts files that it replaces: the start of their names, and what copies one there.
local function folder_of_copies()
  local folder = os.tmpname()
  os.remove(folder)
  return folder, function(name, to)
    local from = assert(io.open(FOLDER .. name))
    local out = assert(io.open(folder .. to, "w"))
    out:write(from:read "*a")
    out:close()
    from:close()
  end
end

test("a certificate is replaced without a restart", function()
  local folder, copy = folder_of_copies()
  copy("certificate.pem", ".crt")
  copy("key.pem", ".key")
  local listener = echo { tls = { certificate = folder .. ".crt", key = folder .. ".key" } }
  local old = assert(connect(listener, {}))
  copy("other_certificate.pem", ".crt")
  local ok, message, code = listener:reload_certificate()
  test.equal(ok, nil) -- the key is still the old one
  test.equal(code, "invalid")
  test.ok(message:find(folder .. ".key", 1, true), message)
  assert(connect(listener, {})):close() -- and so is the certificate that is used
  copy("other_key.pem", ".key")
  test.equal(listener:reload_certificate(), true)
  local tls = { ca = FOLDER .. "other_certificate.pem", server_name = "elsewhere.example" }
  test.eventually(function()
    local connection = connect(listener, { tls = tls })
    if connection then connection:close() end
    return connection
  end)
  old:write "still here"
  test.equal(old:read(nil, 20000), "still here")
  old:close()
  listener:close()
  os.remove(folder .. ".crt")
  os.remove(folder .. ".key")
end)

test("a connection trusts those who are in its file now", function()
  local listener = echo {}
  local folder, copy = folder_of_copies()
  local function try() return connect(listener, { tls = { ca = folder .. ".crt" } }) end
  copy("other_certificate.pem", ".crt")
  test.equal((try()), nil)
  copy("certificate.pem", ".crt")
  assert(try()):close()
  copy("other_certificate.pem", ".crt")
  test.equal((try()), nil)
  os.remove(folder .. ".crt")
  test.equal(select(3, try()), "invalid")
  listener:close()
end)

test("files and options that are wrong are named", function()
  local function fails(tls, what)
    local listener, message, code = socket.listen { tls = tls }
    test.equal(listener, nil)
    test.equal(code, "invalid")
    test.ok(message:find(what, 1, true), message)
  end
  fails({}, 'needs "certificate" and "key"')
  fails(true, 'needs "certificate" and "key"')
  fails({ certificate = "none.pem", key = OURS.key }, '"none.pem"')
  fails({ certificate = OURS.certificate, key = OURS.certificate }, OURS.certificate)
  fails({ certificate = OURS.certificate, key = FOLDER .. "other_key.pem" }, "other_key.pem")
  test.raises(function() socket.listen { tls = { certifcate = "x" } } end, "certifcate")
  test.raises(function() socket.listen { tls = { key = 1 } } end, "key")
  test.raises(function() socket.listen { tls = 1 } end, "tls")
  local _, message, code = socket.connect("localhost", 1, { tls = { ca = "none.pem" } })
  test.equal(code, "invalid")
  test.ok(message:find '"none.pem"', message)
  local plain = assert(socket.listen {})
  test.equal(select(3, plain:reload_certificate()), "invalid")
  plain:close()
end)

test("WebSocket and hand-over work over TLS", function()
  local receiver = perilune.spawn "services.adopter"
  local listener = listen {
    on_data = function(connection, data)
      if connection.framing == "raw" then
        connection:write_raw "ok\r\n\r\n"
        assert(connection:upgrade "websocket")
      elseif data == "move" then
        assert(connection:hand_over(receiver))
      else
        connection:write(data)
      end
    end,
  }
  local connection = assert(connect(listener, { framing = "head" }))
  connection:write_raw "shake"
  test.equal(connection:read(), "ok\r\n\r\n")
  test.ok(connection:upgrade "websocket")
  connection:write(("x"):rep(60000))
  test.equal(connection:read(nil, 20000), ("x"):rep(60000))
  connection:write "move"
  connection:write "hello"
  test.equal(connection:read(nil, 20000), "adopted hello")
  connection:close()
  perilune.kill(receiver)
  listener:close()
end)

return test
