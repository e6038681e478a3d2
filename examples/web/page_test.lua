local http = require "perilune.http"
local perilune = require "perilune"
local test = require "perilune.test"

test("the page says where the gateway's WebSocket is, and gives away nothing else", function()
  local gateway = perilune.spawn("gateway",
    { listen = { { port = 0 }, { port = 0, kind = "websocket" } } }, { name = "gateway" })
  local page = perilune.spawn("page", { port = 0 })
  local base = "http://127.0.0.1:" .. perilune.call(page, "port")
  test.equal(assert(http.get(base .. "/gateway")):json(),
    { port = perilune.call(gateway, "stats").listeners[2].port, tls = false })
  for _, path in ipairs { "/config.lua", "/page.lua", "/client/../config.lua", "/client/" } do
    test.equal(assert(http.get(base .. path)).status, 404, path)
  end
  http.close_idle()
  perilune.stop(page)
  perilune.stop(gateway)
end)

return test
