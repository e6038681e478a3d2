-- W9: SELECT by key and INSERT of SQLite, BENCH_N times (a quarter of that for INSERT) by one task
-- and by 100 at once, and INSERT in transactions of 100 rows.

local sqlite = require "perilune.sqlite"
local util = require "bench_util"

local w9 = {}

local KEYS = 1000
local TASKS = 100

-- What `request(number)` does a second, by so many tasks. `rows`: how many each is about.
local function measure(name, tasks, count, rows, request)
  local each = math.ceil(count / tasks / rows)
  local began, used = util.now(), util.cpu()
  util.each(tasks, function(task)
    for number = 1, each do request(task * each + number) end
  end)
  local all = each * tasks * rows
  util.result("W9_sqlite_" .. name, all / (util.now() - began), "ops/s")
  util.result("W9_sqlite_" .. name .. "_cpu", (util.cpu() - used) / all * 1e6, "us")
end

local function run()
  local count = util.env("BENCH_N", 100000)
  local db = sqlite.open("w9.sqlite", { timeout_ms = 60000 })
  for _, name in ipairs { "player", "item" } do db:execute("DROP TABLE IF EXISTS " .. name) end
  db:execute "CREATE TABLE player (uid INTEGER PRIMARY KEY, name TEXT, gold INTEGER)"
  db:execute "CREATE TABLE item (id INTEGER PRIMARY KEY, kind TEXT)"
  db:transaction(function(tx)
    for uid = 0, KEYS - 1 do
      tx:execute("INSERT INTO player VALUES (?, ?, ?)", uid, "player " .. uid, 1000 + uid)
    end
  end)
  local function select(number)
    local uid = number % KEYS
    local row = db:one("SELECT name, gold FROM player WHERE uid = ?", uid)
    util.check(row.gold == 1000 + uid and row.name == "player " .. uid, "SELECT")
  end
  local added = 0
  local function insert(on)
    local affected, id = on:execute("INSERT INTO item (kind) VALUES (?)", "sword")
    util.check(affected == 1 and id, "INSERT")
    added = added + 1
  end
  measure("get_1", 1, count, 1, select)
  measure("get_100", TASKS, count, 1, select)
  measure("insert_1", 1, count / 4, 1, function() insert(db) end)
  measure("insert_100", TASKS, count / 4, 1, function() insert(db) end)
  measure("insert_tx", 1, count, 100, function()
    db:transaction(function(tx)
      for _ = 1, 100 do insert(tx) end
    end)
  end)
  util.check(db:one "SELECT count(*) AS n FROM item".n == added, "rows are missing")
  db:close()
end

function w9.on_start() util.main(run) end

return w9
