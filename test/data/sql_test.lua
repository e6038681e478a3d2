-- What every database of SQL does: perilune.mysql and perilune.sqlite.

local cjson = require "cjson"
local codec = require "perilune.codec"
local helper = require "sql_helper"
local perilune = require "perilune"
local test = require "perilune.test"

local both, fails, make_table = helper.both, helper.fails, helper.make_table

local idle_again = helper.idle_again

local NOTES = "id INTEGER PRIMARY KEY, text VARCHAR(100), score DOUBLE"

both("rows come as lists or by the names of columns", nil, function(db)
  make_table(db, "note", NOTES)
  test.equal((db:execute("INSERT INTO note VALUES (?, ?, ?)", 1, "one", 0.5)), 1)
  test.equal(db:execute "INSERT INTO note VALUES (2, NULL, 2), (3, 'three', NULL)", 2)
  test.equal({ db:query "SELECT id, text FROM note WHERE id <> 2 ORDER BY id" },
    { { { 1, "one" }, { 3, "three" } }, { "id", "text" } })
  test.equal({ db:query("SELECT text, id FROM note WHERE id = ?", 2) },
    { { { nil, 2 } }, { "text", "id" } })
  test.equal(db:rows("SELECT * FROM note WHERE id >= ? ORDER BY id", 2),
    { { id = 2, score = 2 }, { id = 3, text = "three" } })
  test.equal(db:one("SELECT score AS s FROM note WHERE id = ?", 1), { s = 0.5 })
  test.equal(db:one("SELECT 1 FROM note WHERE id = ?", 99), nil)
  test.equal(db:rows "SELECT 1 FROM note WHERE id = 99", {})
  test.equal({ db:query("SELECT id AS a FROM note WHERE id = ?", 99) }, { {}, { "a" } })
  test.equal(db:rows "DELETE FROM note", {})
end)

both("affected counts rows that a statement is about, changed or not", nil, function(db)
  make_table(db, "note", NOTES)
  db:execute "INSERT INTO note VALUES (1, 'a', 1), (2, 'a', 2)"
  test.equal(db:execute("UPDATE note SET text = ?", "a"), 2)
  test.equal(db:execute("UPDATE note SET text = 'b' WHERE id = ?", 2), 1)
  test.equal(db:execute "UPDATE note SET text = 'b' WHERE id = 9", 0)
  test.equal(db:execute "SELECT * FROM note", 0)
  test.equal(db:execute "DELETE FROM note", 2)
end)

both("a key that a row was given is told", nil, function(db, kind)
  make_table(db, "made", "id INTEGER PRIMARY KEY " ..
    (kind == "mysql" and "AUTO_INCREMENT" or "AUTOINCREMENT") .. ", x INTEGER")
  test.equal({ db:execute("INSERT INTO made (x) VALUES (?)", 5) }, { 1, 1 })
  test.equal({ db:execute "INSERT INTO made (x) VALUES (5)" }, { 1, 2 })
  test.equal({ db:execute "UPDATE made SET x = 6" }, { 2 })
  test.equal({ db:execute("DELETE FROM made WHERE id = ?", 1) }, { 1 })
end)

both("a statement is prepared once and used many times", nil, function(db)
  make_table(db, "note", NOTES)
  local insert = db:prepare "INSERT INTO note (id, text) VALUES (?, ?)"
  for i = 1, 200 do insert:execute(i, "text " .. i) end
  local find = db:prepare "SELECT text FROM note WHERE id = ?"
  for i = 1, 200 do test.equal(find:one(i), { text = "text " .. i }) end
  test.equal({ find:query(7) }, { { { "text 7" } }, { "text" } })
  test.equal(find:rows(201), {})
  test.equal(db:prepare "SELECT count(*) AS n FROM note":one(), { n = 200 })
end)

both("more statements than are kept work, and texts too long to be kept", { statements = 3 },
  function(db)
    for round = 1, 3 do
      for i = 1, 10 do
        test.equal(db:one(("SELECT ? + %d AS n"):format(i), round).n, i + round)
      end
    end
    local long = ("SELECT ? AS n /* %s */"):format(("x"):rep(20000))
    for i = 1, 3 do test.equal(db:one(long, i).n, i) end
  end)

both("a table that changes is seen by statements that were prepared before", nil, function(db)
  make_table(db, "changing", "a INTEGER")
  db:execute "INSERT INTO changing VALUES (1)"
  local all = db:prepare "SELECT * FROM changing"
  test.equal(all:rows(), { { a = 1 } })
  db:execute "ALTER TABLE changing ADD COLUMN b VARCHAR(10) DEFAULT 'x'"
  test.equal(all:rows(), { { a = 1, b = "x" } })
  make_table(db, "changing", "c VARCHAR(10)")
  db:execute "INSERT INTO changing VALUES ('y')"
  test.equal(all:rows(), { { c = "y" } })
end)

both("values that can't be are refused, and nothing is sent", nil, function(db)
  make_table(db, "note", NOTES)
  local function refused(pattern, ...)
    local values, count = { ... }, select("#", ...)
    test.raises(function()
      db:execute("INSERT INTO note VALUES (?, ?, ?)", unpack(values, 1, count))
    end, pattern)
  end
  refused("sql_test.lua:%d+: value 2 is a table: give db.json%(value%)", 1, {}, 1)
  refused("value 3 is a number that no database has", 1, "a", 0 / 0)
  refused("value 3 is a number that no database has", 1, "a", math.huge)
  refused("value 1 is a function", print, "a", 1)
  test.raises(function() db:execute(nil) end, "has to be a string, not a nil")
  test.raises(function() db:execute "SELECT '\0'" end, "zero byte")
  local problem = fails("invalid", function() db:execute("INSERT INTO note VALUES (?, ?, ?)", 1) end)
  test.ok(problem.message:find "has 3 %?, and 1 values were given", problem.message)
  fails("invalid", function() db:execute("INSERT INTO note VALUES (1, 'a', 1)", 1) end)
  test.equal(db:one "SELECT count(*) AS n FROM note", { n = 0 })
end)

both("where nothing can wait a request says so, and costs no connection", nil,
  function(db)
    for _, request in ipairs {
      function() db:one("SELECT ? AS n", 1) end,
      function() db:query "SELECT 1" end,
      function() db:transaction(function() end) end,
      function() db:transaction(function(tx) tx:execute "SELECT 1" end) end,
    } do
      for _, from in ipairs {
        function() table.sort({ 1, 2 }, request) end,
        function() string.gsub("a", "a", request) end,
        function() assert(coroutine.resume(coroutine.create(request))) end,
      } do
        test.raises(from, "waits, which it can't in a")
        test.equal(db:one("SELECT ? AS n", 2), { n = 2 })
      end
    end
    -- Nor can a statement of a transaction, which goes on.
    db:transaction(function(tx)
      test.raises(function() table.sort({ 1, 2 }, function() tx:one "SELECT 1 AS n" end) end,
        "waits, which it can't")
      test.equal(tx:one "SELECT 1 AS n", { n = 1 })
    end)
    idle_again(db)
  end)

both("thousands of values are sent, and where the stack is full no connection is lost",
  { timeout_ms = 60000 }, function(db)
    local values, places = {}, {}
    for i = 1, 7000 do values[i], places[i] = i, "?" end
    local text = "SELECT 7000 IN (" .. table.concat(places, ", ") .. ") AS n"
    local function at_depth(depth)
      if depth > 0 then return (at_depth(depth - 1)) end
      return db:one(text, unpack(values)).n
    end
    test.equal(at_depth(0), 1)
    local failed = 0
    for depth = 8000, 16000, 100 do
      local ok, result = pcall(at_depth, depth)
      if ok then
        test.equal(result, 1)
      else
        failed = failed + 1
        test.ok(tostring(result):find "stack overflow", tostring(result))
      end
    end
    test.ok(failed > 0)
    test.equal(db:one("SELECT ? AS n", 2), { n = 2 })
    idle_again(db)
  end)

both("JSON and values of a message travel as parameters", nil, function(db)
  make_table(db, "packed", "id INTEGER PRIMARY KEY, j TEXT, b BLOB")
  local value = { name = "魔法使い", items = { 1, 2, { deep = true } } }
  db:execute("INSERT INTO packed VALUES (?, ?, ?)", 1, db.json(value), db.binary(value, nil, 7))
  local row = db:one "SELECT * FROM packed"
  test.equal(cjson.decode(row.j), value)
  test.equal({ codec.unpack(row.b) }, { value, nil, 7 })
  db:execute("UPDATE packed SET j = ?", cjson.null)
  test.equal(db:one "SELECT j FROM packed", {})
end)

both("errors carry the database's own words and number", nil, function(db, kind)
  make_table(db, "note", NOTES)
  db:execute "INSERT INTO note (id) VALUES (1)"
  local problem = fails("exists", function() db:execute("INSERT INTO note (id) VALUES (?)", 1) end)
  test.equal(problem.native, kind == "mysql" and 1062 or 1555)
  test.equal(problem.sqlstate, kind == "mysql" and "23000" or nil)
  test.equal(problem.outcome, "not_applied")
  test.equal(tostring(problem), ("%s (exists, %d)"):format(problem.message, problem.native))
  problem = fails("invalid", function() db:query "SELEKT 1" end)
  test.ok(problem.message:find("SELEKT", 1, true), problem.message)
  problem = fails("invalid", function() db:query("SELECT ? FROM nowhere", 1) end)
  test.ok(problem.message:find("nowhere", 1, true), problem.message)
  make_table(db, "strict", "a INTEGER NOT NULL")
  fails("constraint", function() db:execute("INSERT INTO strict VALUES (?)", nil) end)
end)

both("an answer has a limit of rows and one of bytes", nil, function(db)
  make_table(db, "many", "n INTEGER, t TEXT")
  for i = 1, 20 do db:execute("INSERT INTO many VALUES (?, ?)", i, ("x"):rep(1000)) end
  test.equal(#db:with { max_rows = 20 }:rows "SELECT * FROM many", 20)
  for _, text in ipairs { "SELECT n FROM many", "SELECT n FROM many WHERE n > ?" } do
    local values = text:find "?" and { 0 } or {}
    local problem = fails("too_large", function()
      db:with { max_rows = 19 }:query(text, unpack(values))
    end)
    test.ok(problem.message:find "more than 19 rows", problem.message)
    problem = fails("too_large", function()
      db:with { max_bytes = 10000 }:query((text:gsub("n FROM", "t FROM")), unpack(values))
    end)
    test.ok(problem.message:find "more than 10000 bytes", problem.message)
  end
  test.equal(db:one "SELECT count(*) AS n FROM many", { n = 20 }) -- and goes on working
  fails("too_large", function()
    db:with { max_bytes = 100 }:one("SELECT t FROM many WHERE n = ?", 1)
  end)
end)

both("large answers come as a whole", { max_bytes = 64 * 2 ^ 20 }, function(db, kind)
  local count = helper.scale(30000, 300000)
  local numbers = kind == "mysql" and "SELECT seq FROM seq_1_to_" .. count or
    ("WITH RECURSIVE s(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM s WHERE seq < %d) " ..
      "SELECT seq FROM s"):format(count)
  local rows = db:with { max_rows = count, timeout_ms = 60000 }:query(numbers)
  test.equal(#rows, count)
  for i = 1, count, 997 do test.equal(rows[i], { i }) end
  for _, size in ipairs { 0, 2, 4094, 4096, 4098, 65536, 2 ^ 20, 5 * 2 ^ 20 } do
    local text = ("ü"):rep(size / 2)
    test.ok(db:with { timeout_ms = 60000 }:one("SELECT ? AS t", text).t == text, size .. " bytes")
  end
end)

-- ---- transactions ----

both("a transaction commits what its function did, and returns what that returned", nil,
  function(db)
    make_table(db, "note", NOTES)
    test.equal({ db:transaction(function(tx)
      tx:execute("INSERT INTO note (id) VALUES (?)", 1)
      local insert = tx:prepare "INSERT INTO note (id) VALUES (?)"
      insert:execute(2)
      test.equal(tx:one "SELECT count(*) AS n FROM note", { n = 2 })
      return "a", nil, "c"
    end) }, { "a", nil, "c" })
    test.equal(db:one "SELECT count(*) AS n FROM note", { n = 2 })
    test.equal(db:transaction(function(tx) return tx:one "SELECT 7 AS n".n end,
      { read_only = true }), 7)
  end)

both("a transaction whose function raises undoes all, and raises the same", nil, function(db)
  make_table(db, "note", NOTES)
  local mine = { code = "no_gold" }
  test.equal(test.raises(function()
    db:transaction(function(tx)
      tx:execute "INSERT INTO note (id) VALUES (1)"
      error(mine)
    end)
  end), mine)
  fails("exists", function()
    db:transaction(function(tx)
      tx:execute "INSERT INTO note (id) VALUES (1)"
      tx:execute "INSERT INTO note (id) VALUES (1)"
    end)
  end)
  test.equal(db:one "SELECT count(*) AS n FROM note", { n = 0 })
end)

both("a statement that fails need not end its transaction", nil, function(db)
  make_table(db, "note", NOTES)
  db:execute "INSERT INTO note (id) VALUES (1)"
  db:transaction(function(tx)
    fails("exists", function() tx:execute "INSERT INTO note (id) VALUES (1)" end)
    fails("invalid", function() tx:execute "INSERT INTO nowhere VALUES (1)" end)
    tx:execute "INSERT INTO note (id) VALUES (2)"
  end)
  test.equal(db:one "SELECT count(*) AS n FROM note", { n = 2 })
end)

both("a transaction that is over, or busy, or ended by a statement, says so", nil, function(db, kind)
  make_table(db, "note", NOTES)
  local kept
  db:transaction(function(tx) kept = tx end)
  fails("closed", function() kept:one "SELECT 1" end)
  local problem = fails("invalid", function()
    db:transaction(function(tx)
      tx:execute "INSERT INTO note (id) VALUES (1)"
      pcall(tx.execute, tx, "ROLLBACK") -- which nobody hears of
      pcall(tx.execute, tx, "INSERT INTO note (id) VALUES (2)")
    end)
  end)
  test.ok(problem.message:find "has ended the transaction", problem.message)
  test.equal(db:one "SELECT count(*) AS n FROM note", { n = 0 })
  db:transaction(function(tx)
    local slow = kind == "mysql" and "SELECT 1 + sleep(0.1) AS n" or "SELECT 1 AS n"
    local results = helper.at_once(2, function() return tx:one(slow).n end)
    test.equal(results[1], { true, 1 })
    test.equal(results[2][1], false)
    test.ok(tostring(results[2][2]):find "one statement at a time", tostring(results[2][2]))
  end)
end)

both("a transaction that is begun by hand is rolled back at once", nil, function(db)
  make_table(db, "note", NOTES)
  local problem = fails("invalid", function() db:execute "BEGIN" end)
  test.ok(problem.message:find "db:transaction", problem.message)
  db:execute "INSERT INTO note (id) VALUES (1)"
  test.equal(db:one "SELECT count(*) AS n FROM note", { n = 1 })
end)

both("transactions don't see each other's work, and what waits for them goes on", nil, function(db)
  make_table(db, "account", "id INTEGER PRIMARY KEY, gold INTEGER")
  db:execute "INSERT INTO account VALUES (1, 500), (2, 500)"
  local results = helper.at_once(20, function(index)
    local from, to = 1 + index % 2, 2 - index % 2
    repeat
      local ok, problem = pcall(db.transaction, db, function(tx)
        local gold = {}
        for id = 1, 2 do
          -- In one order, so that nobody waits in a circle.
          tx:execute("UPDATE account SET gold = gold WHERE id = ?", id)
          gold[id] = tx:one("SELECT gold FROM account WHERE id = ?", id).gold
        end
        tx:execute("UPDATE account SET gold = ? WHERE id = ?", gold[from] - index, from)
        perilune.yield()
        tx:execute("UPDATE account SET gold = ? WHERE id = ?", gold[to] + index, to)
      end)
      if not ok and problem.code ~= "conflict" then error(problem, 0) end
    until ok
  end)
  for _, result in ipairs(results) do test.equal(result[1], true, tostring(result[2])) end
  -- 2 + 4 + ... + 20 went from the first to the second, 1 + 3 + ... + 19 back.
  test.equal({ db:query "SELECT gold FROM account ORDER BY id" }, { { { 490 }, { 510 } }, { "gold" } })
  test.equal(db:stats().waiting, 0)
end)

both("a transaction whose task is ended by the watchdog is rolled back", nil, function(db)
  make_table(db, "note", NOTES)
  local entered = false
  perilune.fork(function()
    db:transaction(function(tx)
      tx:execute "INSERT INTO note (id) VALUES (1)"
      entered = true
      while true do end
    end)
  end)
  test.eventually(function() return entered and db:stats().idle == db:stats().open end, 60000)
  test.equal(db:one "SELECT count(*) AS n FROM note", { n = 0 })
  db:transaction(function(tx) tx:execute "INSERT INTO note (id) VALUES (1)" end)
end)

-- ---- many requests, and ends ----

both("answers reach the task that asked, however many ask", { timeout_ms = 60000 }, function(db)
  local results = helper.at_once(helper.scale(1000), function(index)
    if index % 3 == 0 then return db:one(("SELECT %d AS n"):format(index)).n end
    if index % 3 == 1 then return db:query("SELECT ?", index)[1][1] end
    return db:transaction(function(tx) return tx:one("SELECT ? AS n", index).n end)
  end)
  for index, result in ipairs(results) do test.equal(result, { true, index }) end
  test.equal(db:stats().waiting, 0)
end)

both("more requests than may wait are refused at once", { timeout_ms = 60000 }, function(db, kind)
  local busy, leave = 0, false
  for _ = 1, 8 do
    perilune.fork(function()
      db:transaction(function()
        busy = busy + 1
        test.eventually(function() return leave end, 60000)
      end)
    end)
  end
  -- All of eight connections, or the one that there is.
  local all_busy = kind == "mysql" and 8 or 1
  test.eventually(function()
    return busy == all_busy and busy + db:stats().waiting == 8
  end, 60000)
  local room = 1024 - db:stats().waiting
  local refused, done, all = 0, 0, false
  perilune.fork(function()
    helper.at_once(room + 100, function()
      local ok, problem = pcall(db.one, db, "SELECT 1")
      if ok then done = done + 1 elseif problem.code == "overloaded" then refused = refused + 1 end
    end)
    all = true
  end)
  test.eventually(function() return refused == 100 end, 60000)
  leave = true
  test.eventually(function() return all end, 60000)
  test.equal({ done, refused }, { room, 100 })
  test.equal(db:stats().refused, 100)
end)

both("a closed database refuses all, and what is under way ends first", nil, function(db)
  make_table(db, "note", NOTES)
  local outcome
  perilune.fork(function()
    outcome = { pcall(db.transaction, db, function(tx)
      tx:execute "INSERT INTO note (id) VALUES (1)"
      db:close()
      fails("closed", function() db:one "SELECT 1" end)
      return tx:one "SELECT count(*) AS n FROM note".n
    end) }
  end)
  test.eventually(function() return outcome end)
  test.equal(outcome, { true, 1 })
  fails("closed", function() db:transaction(function() end) end)
  test.eventually(function() return db:stats().open == 0 end)
end)

return test
