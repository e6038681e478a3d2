-- A service that has a database, for tests that end it.

local mysql = require "perilune.mysql"
local perilune = require "perilune"
local sqlite = require "perilune.sqlite"

local user = {}
local db
local has_begun = false

function user.on_start(options)
  db = options.path and sqlite.open(options.path) or mysql.connect(options.address)
end

---Writes a row, and then waits for ever within the transaction.
function user.write_and_wait()
  db:transaction(function(tx)
    tx:execute "INSERT INTO note (id) VALUES (1)"
    has_begun = true
    perilune.sleep(2 ^ 31 - 1)
  end)
end

---Asks for something that takes long.
function user.ask(text)
  has_begun = true
  return #db:with { timeout_ms = 600000, max_bytes = 64 * 2 ^ 20, max_rows = 2 ^ 31 }:query(text)
end

function user.has_begun() return has_begun end

return user
