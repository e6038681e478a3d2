local http = require "perilune.http"
local perilune = require "perilune"
local test = require "perilune.test"
local websocket = require "perilune.websocket"

test("a line reaches everybody in the room", function()
  local service = perilune.spawn("room", { port = 0 })
  local place = "127.0.0.1:" .. perilune.call(service, "port")
  test.ok(assert(http.get("http://" .. place .. "/")).body:find("WebSocket", 1, true))
  local ada = assert(websocket.connect("ws://" .. place .. "/chat?name=Ada"))
  test.equal(ada:read(), "Ada is here")
  local bob = assert(websocket.connect("ws://" .. place .. "/chat?name=Bob"))
  test.equal({ ada:read() }, { "Bob is here", true })
  test.equal(bob:read(), "Bob is here")
  bob:send_text "hello"
  test.equal(ada:read(), "Bob: hello")
  test.equal(bob:read(), "Bob: hello")
  bob:close()
  test.equal(ada:read(), "Bob is gone")
  ada:send "bytes"
  test.equal(ada:read(), nil)
  test.equal(ada.socket.close_code, 1003)
  http.close_idle()
  perilune.stop(service)
end)

return test
