local perilune = require "perilune"
local test = require "perilune.test"

test("hello greets", function()
  local handle = perilune.spawn("hello", { name = "Ada" })
  test.equal(perilune.call(handle, "greet", "Bob"), "Hello, Bob!")
  test.equal(perilune.call(handle, "greet"), "Hello, world!")
  perilune.stop(handle)
end)

return test
