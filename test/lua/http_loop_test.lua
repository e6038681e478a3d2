-- Handlers that never end, in a node that interrupts them soon.

local http = require "perilune.http"
local test = require "perilune.test"

test("a handler in an endless loop is a 500, and the server goes on", function()
  local server = assert(http.listen {
    routes = {
      ["GET /loop"] = function()
        while true do end
      end,
      ["GET /"] = function() return "root" end,
    },
  })
  local base = "http://127.0.0.1:" .. server.port
  test.equal(assert(http.get(base .. "/loop")).status, 500)
  test.equal(assert(http.get(base .. "/")).body, "root")
  http.close_idle()
  test.eventually(function() return server:connections() == 0 end, 20000)
  server:close()
end)

return test
