local http = require "perilune.http"
local perilune = require "perilune"
local test = require "perilune.test"

test("notes are added, listed, read and removed", function()
  local service = perilune.spawn("notes", { port = 0 })
  local base = "http://127.0.0.1:" .. perilune.call(service, "port")
  local answer = assert(http.request("POST", base .. "/notes", { form = { text = "buy milk" } }))
  test.equal({ answer.status, answer:json() }, { 201, { id = 1, text = "buy milk" } })
  test.equal(assert(http.post(base .. "/notes", "x")).status, 400)
  test.equal(assert(http.get(base .. "/notes")).body, "1 buy milk\n")
  test.equal(assert(http.get(base .. "/notes/1")):json(), { text = "buy milk" })
  test.equal(assert(http.request("DELETE", base .. "/notes/1")).status, 204)
  test.equal(assert(http.get(base .. "/notes/1")).status, 404)
  test.ok(assert(http.get(base .. "/")).body:find "Notes")
  http.close_idle()
  perilune.stop(service)
end)

return test
