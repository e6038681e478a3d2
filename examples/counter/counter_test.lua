local perilune = require "perilune"
local bot = require "perilune.bot"
local protocol = require "perilune.protocol"
local test = require "perilune.test"

test("services add to the counter", function()
  local handle = perilune.spawn("counter", { first = 10 }, { name = "counter" })
  perilune.send("counter", "add", 5)
  test.equal(perilune.call(handle, "add", 1), 16)
  perilune.stop(handle)
end)

test("players add to the counter, in JSON and BUF", function()
  local services = {
    perilune.spawn("counter", { first = 10 }, { name = "counter" }),
    perilune.spawn("dbproxy", { database = "sqlite::memory:" }, { name = "dbproxy" }),
    perilune.spawn("auth", nil, { name = "auth" }),
    perilune.spawn("gateway", { listen = { { port = 0 } } }, { name = "gateway" }),
  }
  local port = perilune.call("gateway", "stats").listeners[1].port
  for i, form in ipairs { protocol.JSON, protocol.BUF } do
    local player = assert(bot.connect { port = port, form = form })
    test.ok(player:login())
    test.equal(player:request("counter.add", { n = 5 }), { status = 1, total = 10 + 5 * i })
    player:close()
  end
  for i = #services, 1, -1 do perilune.stop(services[i]) end
end)

return test
