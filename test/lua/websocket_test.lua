-- WebSockets: handshakes of both sides by tables, messages, closings, beside HTTP on one port.

local crypto = require "perilune.crypto"
local http = require "perilune.http"
local perilune = require "perilune"
local socket = require "perilune.socket"
local test = require "perilune.test"
local websocket = require "perilune.websocket"

local HOST = "127.0.0.1"
local LONG = 20000 -- a limit that only a broken program reaches
local KEY = "dGhlIHNhbXBsZSBub25jZQ==" -- of RFC 6455, 1.3, as is its answer
local ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

local function url_of(server, path)
  return ("ws://%s:%d%s"):format(HOST, server.port, path or "/")
end

-- Runs a test with a server, which is closed behind it.
local function with_server(name, options, body)
  test(name, function()
    local server = assert(websocket.listen(options))
    local ok, problem = xpcall(body, debug.traceback, server)
    http.close_idle()
    server:close()
    if not ok then error(problem, 0) end
  end)
end

-- Handshakes ------------------------------------------------------------------------------------

local GOOD = {
  Host = "example.com", Upgrade = "websocket", Connection = "Upgrade",
  ["Sec-WebSocket-Key"] = KEY, ["Sec-WebSocket-Version"] = "13",
}

-- The bytes of a handshake that differs from a good one: false leaves a header out.
local function make_handshake(change)
  local lines = { change.line or "GET /chat HTTP/1.1" }
  for name, value in pairs(GOOD) do
    local other = change[name]
    if other == nil then other = value end
    if other then lines[#lines + 1] = name .. ": " .. other end
  end
  for name, value in pairs(change) do
    if name ~= "line" and name ~= "extra" and not GOOD[name] and value then
      lines[#lines + 1] = name .. ": " .. value
    end
  end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. (change.extra or "")
end

-- what it is, the change, the status, a header that the answer has
local HANDSHAKES = {
  { "a good one", {}, 101, "sec-websocket-accept: " .. ACCEPT:lower() },
  { "tokens in any case", { Upgrade = "WebSocket", Connection = "uPGRADE" }, 101 },
  { "tokens within lists", { Upgrade = "h2c, websocket", Connection = "keep-alive, Upgrade" }, 101 },
  { "a query", { line = "GET /chat?room=1 HTTP/1.1" }, 101 },
  { "an absolute target", { line = "GET http://example.com/chat HTTP/1.1" }, 101 },
  { "an allowed origin", { Origin = "https://good.example" }, 101 },
  { "an allowed origin in capitals", { Origin = "HTTPS://GOOD.example" }, 101 },
  { "a protocol that is known", { ["Sec-WebSocket-Protocol"] = "chat.v2" }, 101,
    "sec-websocket-protocol: chat.v2" },
  { "the server's preference", { ["Sec-WebSocket-Protocol"] = "chat.v1, chat.v2" }, 101,
    "sec-websocket-protocol: chat.v2" },
  { "an extension that isn't spoken", { ["Sec-WebSocket-Extensions"] = "permessage-deflate" }, 101 },
  { "another path", { line = "GET /other HTTP/1.1" }, 404 },
  { "POST", { line = "POST /chat HTTP/1.1" }, 405, "allow: get" },
  { "HEAD", { line = "HEAD /chat HTTP/1.1" }, 405 },
  { "HTTP/1.0", { line = "GET /chat HTTP/1.0" }, 400 },
  { "HTTP/2.0", { line = "GET /chat HTTP/2.0" }, 505 },
  { "no Host", { Host = false }, 400 },
  { "no Upgrade", { Upgrade = false }, 426, "upgrade: websocket" },
  { "another Upgrade", { Upgrade = "h2c" }, 426, "upgrade: websocket" },
  { "an Upgrade that only contains it", { Upgrade = "websockets" }, 426 },
  { "no Connection", { Connection = false }, 400 },
  { "another Connection", { Connection = "keep-alive" }, 400 },
  { "no version", { ["Sec-WebSocket-Version"] = false }, 426, "sec-websocket-version: 13" },
  { "an old version", { ["Sec-WebSocket-Version"] = "8" }, 426, "sec-websocket-version: 13" },
  { "a later version", { ["Sec-WebSocket-Version"] = "14" }, 426, "sec-websocket-version: 13" },
  { "two versions", { ["Sec-WebSocket-Version"] = "13, 8" }, 426, "sec-websocket-version: 13" },
  { "no key", { ["Sec-WebSocket-Key"] = false }, 400 },
  { "an empty key", { ["Sec-WebSocket-Key"] = "" }, 400 },
  { "a key that is too short", { ["Sec-WebSocket-Key"] = "c2hvcnQ=" }, 400 },
  { "a key that is too long", { ["Sec-WebSocket-Key"] = crypto.base64_encode(("x"):rep(17)) }, 400 },
  { "a key that isn't base64", { ["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZ!==" }, 400 },
  { "two keys", { ["Sec-WebSocket-Key"] = KEY .. "\r\nSec-WebSocket-Key: " .. KEY }, 400 },
  { "an origin that isn't allowed", { Origin = "https://evil.example" }, 403 },
  { "an origin that only begins well", { Origin = "https://good.example.evil.example" }, 403 },
  { "no origin at all", { Origin = "null" }, 403 },
  { "a protocol that can't be one", { ["Sec-WebSocket-Protocol"] = "a b" }, 400 },
  { "a protocol twice", { ["Sec-WebSocket-Protocol"] = "chat.v1, chat.v1" }, 400 },
  { "an empty list of protocols", { ["Sec-WebSocket-Protocol"] = "" }, 400 },
  { "a frame before the answer", { extra = "\129\128\0\0\0\0" }, 400 },
  { "a request behind it", { extra = "GET / HTTP/1.1\r\nHost: a\r\n\r\n" }, 400 },
  { "a body", { ["Content-Length"] = "2", extra = "hi" }, 413 },
  { "an empty body", { ["Content-Length"] = "0" }, 101 },
  { "chunks", { ["Transfer-Encoding"] = "chunked", extra = "0\r\n\r\n" }, 400 },
  { "a folded header", { Upgrade = "websocket\r\n , h2c" }, 400 },
  { "a space before a colon", { ["X-Y "] = "z" }, 400 },
}

with_server("handshakes are answered by the rules", {
  path = "/chat", origins = { "https://good.example" }, protocols = { "chat.v2", "chat.v1" },
}, function(server)
  for _, case in ipairs(HANDSHAKES) do
    local name, change, status, header = unpack(case)
    local connection = assert(socket.connect(HOST, server.port))
    connection:write(make_handshake(change))
    local answer = assert(connection:read_until("\r\n\r\n", nil, LONG), name)
    test.equal(tonumber(answer:match "^HTTP/1.1 (%d+)"), status, name)
    test.ok(not header or answer:lower():find(header, 1, true), name .. ": " .. answer)
    local has_protocol = answer:lower():find("sec-websocket-protocol", 1, true) ~= nil
    test.equal(has_protocol, header ~= nil and header:find "protocol" ~= nil, name)
    test.ok(not answer:lower():find("extensions", 1, true), name)
    connection:abort()
  end
end)

with_server("without a list only pages of the same host may connect", {}, function(server)
  for origin, status in pairs {
    ["http://example.com"] = 101, ["https://EXAMPLE.com"] = 101, ["http://example.com:8080"] = 403,
    ["http://evil.example"] = 403, ["null"] = 403, ["http://u@example.com"] = 403,
  } do
    local connection = assert(socket.connect(HOST, server.port))
    connection:write(make_handshake { Origin = origin })
    local answer = assert(connection:read_until("\r\n\r\n", nil, LONG))
    test.equal(tonumber(answer:match "^HTTP/1.1 (%d+)"), status, origin)
    connection:abort()
  end
end)

-- A server that answers a handshake as it is told.
local function answering(answer)
  return assert(socket.listen {
    on_open = function(connection)
      local request = connection:read_until("\r\n\r\n", nil, LONG)
      if not request then return end
      local key = request:match "sec%-websocket%-key: (%S+)"
      local accept = crypto.base64_encode(crypto.sha1(key .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
      connection:write((answer:gsub("ACCEPT", accept)))
      connection:read("any", LONG)
      connection:close()
    end,
  })
end

test("a client refuses answers that aren't the handshake's", function()
  local head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
  for answer, wanted in pairs {
    [head .. "Sec-WebSocket-Accept: ACCEPT\r\n\r\n"] = true,
    [head .. "Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: a\r\n\r\n"] = true,
    [head .. "Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: b\r\n\r\n"] = "subprotocol",
    [head .. "Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Extensions: x\r\n\r\n"] = "extension",
    [head .. "Sec-WebSocket-Accept: " .. ACCEPT .. "\r\n\r\n"] = "Accept is wrong",
    [head .. "\r\n"] = "Accept is wrong",
    ["HTTP/1.1 101 X\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n"] = "another protocol",
    ["HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"] = "another protocol",
    ["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"] = "answered 200 OK",
    ["HTTP/1.1 403 Forbidden\r\n\r\n"] = "answered 403",
    ["SSH-2.0-x\r\n\r\n"] = "isn't HTTP",
  } do
    local listener = answering(answer)
    local connection, message, code = websocket.connect(url_of(listener), { protocols = { "a" } })
    if wanted == true then
      test.ok(connection, message)
      connection.socket:abort()
    else
      test.equal({ connection, code }, { nil, "refused" }, answer)
      test.ok(message:find(wanted, 1, true), message)
    end
    listener:close()
  end
end)

test("a client says how it failed", function()
  test.equal(select(3, websocket.connect "http://a/"), "invalid")
  test.equal(select(3, websocket.connect "ws://a b/"), "invalid")
  local listener = assert(socket.listen {})
  local code
  local limit = 50
  repeat -- on a busy machine connecting alone may take so long
    code = select(3, websocket.connect(url_of(listener), { connect_ms = limit }))
    limit = limit * 3
  until code == "timeout" or limit > LONG
  test.equal(code, "timeout")
  listener:close()
  test.equal(select(3, websocket.connect(url_of(listener))), "unavailable")
  test.raises(function()
    websocket.connect("ws://127.0.0.1:1/", { headers = { x = "a\r\nb" } })
  end, "line end")
  test.raises(function() websocket.connect("ws://a/", { on_message = 5 }) end, "on_message")
  test.raises(function() websocket.listen { max_message = 0 } end, "max_message can't be 0")
  test.raises(function() websocket.listen { max_mesage = 1 } end, 'no option "max_mesage"')
end)

-- Messages --------------------------------------------------------------------------------------

local opened, closed = {}, {}

local ECHO = {
  max_message = 200000,
  protocols = { "echo" },
  on_open = function(connection, request)
    opened[#opened + 1] = { connection.path, request.query_string, connection.protocol }
  end,
  on_message = function(connection, data, is_text)
    if data == "bye" then
      connection:close(4001, "you said bye")
    elseif is_text then
      assert(connection:send_text(data))
    else
      assert(connection:send(data))
    end
  end,
  on_close = function(_, code, reason) closed[#closed + 1] = { code, reason } end,
}

with_server("messages come back as they went", ECHO, function(server)
  opened, closed = {}, {}
  local connection = assert(websocket.connect(url_of(server, "/a?b"), { protocols = { "echo" },
    max_message = 200000 }))
  test.equal(connection.protocol, "echo")
  for _, data in ipairs { "", "x", "\0\255", ("y"):rep(126), ("z"):rep(70000), ("w"):rep(200000) } do
    assert(connection:send(data))
    local back, is_text = connection:read(LONG)
    test.ok(back == data and is_text == false, #data)
  end
  assert(connection:send_text "grüß dich")
  test.equal({ connection:read(LONG) }, { "grüß dich", true })
  test.equal(select(3, connection:send_text "\255"), "invalid")
  test.equal(opened, { { "/a", "b", "echo" } })
  assert(connection:close(3000, "done"))
  test.eventually(function() return closed[1] end, LONG)
  test.equal(closed, { { 3000, "done" } })
  test.equal(connection.closed, true)
  test.equal(select(3, connection:send "x"), "dead")
end)

with_server("a client hears why a server closed", ECHO, function(server)
  local heard
  local connection = assert(websocket.connect(url_of(server), {
    on_close = function(_, code, reason) heard = { code, reason } end,
  }))
  connection:send_text "bye"
  test.equal(connection:read(LONG), nil)
  test.eventually(function() return heard end, LONG)
  test.equal(heard, { 4001, "you said bye" })
end)

with_server("a message that is too large closes with 1009", ECHO, function(server)
  closed = {}
  local heard
  local connection = assert(websocket.connect(url_of(server), {
    on_close = function(_, code) heard = code end,
  }))
  connection:send(("x"):rep(200001))
  test.eventually(function() return heard and closed[1] end, LONG)
  test.equal({ heard, closed[1][1] }, { 1009, 1009 })
end)

with_server("a connection that ends without a close frame is a 1006", ECHO, function(server)
  for _, ending in ipairs { "close", "abort" } do
    closed = {}
    local connection = assert(socket.connect(HOST, server.port))
    connection:write(make_handshake {})
    assert(connection:read_until("\r\n\r\n", nil, LONG))
    connection[ending](connection)
    test.eventually(function() return closed[1] end, LONG)
    test.equal(closed[1][1], 1006, ending)
  end
end)

with_server("many messages keep their order", ECHO, function(server)
  local count, seen = 2000, 0
  local connection
  connection = assert(websocket.connect(url_of(server), {
    on_message = function(_, data, is_text)
      seen = seen + 1
      assert(is_text and tonumber(data) == seen, data)
      if seen == count then connection:close() end
    end,
  }))
  for i = 1, count do assert(connection:send_text(tostring(i))) end
  test.eventually(function() return connection.closed end, LONG)
  test.equal(seen, count)
end)

test("what a server sends with its answer arrives", function()
  local server = assert(websocket.listen {
    on_open = function(connection)
      for i = 1, 100 do connection:send_text("greeting " .. i) end
    end,
  })
  for _ = 1, 10 do
    local connection = assert(websocket.connect(url_of(server)))
    for i = 1, 100 do test.equal(connection:read(LONG), "greeting " .. i) end
    connection:close()
  end
  server:close()
end)

test("one port serves HTTP and WebSocket", function()
  local raised
  local server = assert(http.listen {
    routes = {
      ["GET /page"] = function() return "page" end,
      ["GET /chat/:room"] = function(request)
        local connection = websocket.accept(request)
        if not connection then return end
        -- A handler may go on with the connection.
        connection:send_text("room " .. request.params.room)
        for _ = 1, 2 do connection:send_text("got " .. assert(connection:read(LONG))) end
        raised = true
        error "after the upgrade"
      end,
    },
  })
  local base = ("http://%s:%d"):format(HOST, server.port)
  test.equal(assert(http.get(base .. "/page")).body, "page")
  local refused = assert(http.get(base .. "/chat/5"))
  test.equal({ refused.status, refused.headers.upgrade }, { 426, "websocket" })
  test.equal(assert(http.get(base .. "/page")).body, "page")
  local code
  local connection = assert(websocket.connect(url_of(server, "/chat/5"), {
    on_close = function(_, why) code = why end,
  }))
  test.equal(connection:read(LONG), "room 5")
  connection:send_text "a"
  test.equal(connection:read(LONG), "got a")
  connection:send "b"
  test.equal(connection:read(LONG), "got b")
  test.equal(connection:read(LONG), nil)
  test.eventually(function() return code end, LONG)
  test.equal({ raised, code }, { true, 1011 })
  http.close_idle()
  server:close()
end)

test("callbacks may be names of functions", function()
  local server = assert(websocket.listen { on_message = "on_named_message" })
  local connection = assert(websocket.connect(url_of(server)))
  connection:send "x"
  test.equal(connection:read(LONG), "named x")
  connection:close()
  server:close()
end)

function test.on_named_message(connection, data) connection:send("named " .. data) end

test("light services of one VM have their own servers and pools", function()
  local services = {}
  for i = 1, 2 do services[i] = perilune.spawn("http_helper", { tag = "s" .. i }, { group = "web" }) end
  local ports = {}
  for i, service in ipairs(services) do ports[i] = perilune.call(service, "port") end
  for i = 1, 2 do
    test.equal(perilune.call(services[i], "ask", ports[3 - i]), "s" .. 3 - i)
    local connection = assert(websocket.connect(("ws://%s:%d/ws"):format(HOST, ports[i])))
    connection:send_text "x"
    test.equal(connection:read(LONG), "s" .. i .. " x")
    connection:close()
  end
  for _, service in ipairs(services) do perilune.stop(service) end
end)

-- The group's VM counts among the services and outlives them, so it is there before the tests.
function test.on_start()
  perilune.stop(perilune.spawn("http_helper", { tag = "" }, { group = "web" }))
end

return test
