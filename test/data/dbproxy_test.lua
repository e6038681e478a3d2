-- dbproxy over SQLite, in a file and in memory.
local test = require "perilune.test"
local add_cases = require "dbproxy_cases"

local count = 0

add_cases("a file of SQLite", setmetatable({ is_kept = true }, {
  __call = function()
    count = count + 1
    return { database = ("sqlite:file%d.db"):format(count) }
  end,
}))

add_cases("SQLite in memory", setmetatable({ is_kept = false }, {
  __call = function() return { database = "sqlite::memory:", journal = "sqlite::memory:" } end,
}))

return test
