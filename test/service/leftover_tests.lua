-- Tests that are not run by themselves: library_test.lua looks at what becomes of them.
local perilune = require "perilune"
local socket = require "perilune.socket"
local sqlite = require "perilune.sqlite"
local test = require "perilune.test"

local left, listener, database

test("service", function() left = perilune.spawn "broken" end)

test("timer", function()
  perilune.kill(left)
  perilune.every(60000, function() end)
end)

test("listener", function() listener = socket.listen {} end)

test("database", function() database = sqlite.open ":memory:" end)

test("clean", function()
  listener:close()
  database:close()
end)

test("slow", function() perilune.sleep(200) end, 50)

return test
