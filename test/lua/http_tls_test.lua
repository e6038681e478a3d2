-- HTTP and WebSocket over TLS, from the outside of both libraries.

local http = require "perilune.http"
local socket = require "perilune.socket"
local test = require "perilune.test"
local websocket = require "perilune.websocket"

local CERTIFICATE = "test/lua/tls/certificate.pem" -- from where make runs the tests
local TLS = { certificate = CERTIFICATE, key = "test/lua/tls/key.pem" }
local TRUST = { ca = CERTIFICATE }
local LONG = 20000

local function with_server(name, body)
  test(name, function()
    local server = assert(http.listen {
      tls = TLS,
      routes = {
        ["GET /"] = function() return "safe" end,
        ["POST /"] = function(request) return request.body end,
        ["GET /ws"] = function(request)
          websocket.accept(request, {
            on_message = function(connection, data) connection:send_text("safe " .. data) end,
          })
        end,
      },
    })
    local ok, problem = xpcall(body, debug.traceback, server.port)
    http.close_idle()
    server:close()
    if not ok then error(problem, 0) end
  end)
end

with_server("requests go over TLS, and connections are kept", function(port)
  local before = socket.stats().connected
  local base = "https://127.0.0.1:" .. port
  for _ = 1, 5 do test.equal(assert(http.get(base, { tls = TRUST })).body, "safe") end
  test.equal(socket.stats().connected - before, 1)
  local body = ("0123456789abcdef"):rep(60000)
  local answer = assert(http.post(base, body, { tls = { ca = CERTIFICATE } }))
  test.ok(answer.body == body, #answer.body)
  test.equal(socket.stats().connected - before, 1)
  -- Whoever trusts others, or nobody, has a connection of their own.
  test.equal(assert(http.get(base, { tls = { verify = false } })).body, "safe")
  test.equal(socket.stats().connected - before, 2)
end)

with_server("a certificate that isn't trusted, or of another host, is refused", function(port)
  local base = "https://127.0.0.1:" .. port
  for _, tls in ipairs { {}, { ca = CERTIFICATE, server_name = "example.com" } } do
    local answer, _, code = http.get(base, { tls = tls })
    test.equal({ answer, code }, { nil, "unavailable" })
  end
  test.equal(select(3, http.get(base)), "unavailable")
end)

with_server("WebSockets go over TLS", function(port)
  local connection =
    assert(websocket.connect("wss://localhost:" .. port .. "/ws", { tls = TRUST }))
  connection:send_text "words"
  test.equal(connection:read(LONG), "safe words")
  connection:close()
  local refused, _, code = websocket.connect("wss://localhost:" .. port .. "/ws")
  test.equal({ refused, code }, { nil, "unavailable" })
end)

return test
