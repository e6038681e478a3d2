-- Values that don't fit, rows as large as they may be, more requests than anybody can do, and
-- services that come, go and change while requests are under way.

local file = require "perilune.file"
local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local perilune = require "perilune"
local servers = require "servers"
local test = require "perilune.test"

local both, fails, make_table = helper.both, helper.fails, helper.make_table
local idle_again, with_server = helper.idle_again, helper.with_server

local MB = 2 ^ 20

-- ---- values ----

helper.mysql("a value that doesn't fit its column is invalid, in the server's words", nil,
  function(db)
    make_table(db, "typed", [[id INT PRIMARY KEY AUTO_INCREMENT, t TINYINT, u INT UNSIGNED,
      b BIGINT, n BIGINT UNSIGNED, f FLOAT, d DECIMAL(5, 2), v VARCHAR(3), y DATE, m DATETIME,
      e ENUM('a'), k INT NOT NULL DEFAULT 0 UNIQUE, j JSON]])
    for _, case in ipairs {
      { "t", 128, 1264 }, { "t", -129, 1264 }, { "t", "seven", 1366 }, { "t", 1e300, 1264 },
      { "u", -1, 1264 }, { "u", 2 ^ 32, 1264 }, { "b", 2 ^ 64, 1264 }, { "b", 1e300, 1264 },
      { "b", "9223372036854775808", 1264 }, { "b", "99999999999999999999999999", 1264 },
      { "n", -1, 1264 }, { "n", "18446744073709551616", 1264 }, { "f", 1e308, 1264 },
      { "f", "x", 1366 }, { "d", "1000.00", 1264 }, { "d", "1,5", 1265 }, { "v", "abcd", 1406 },
      { "v", ("ü"):rep(4), 1406 }, { "y", "2023-02-29", 1292 }, { "m", "yesterday", 1292 },
      { "e", "b", 1265 },
    } do
      local column, value, native = unpack(case)
      local text = ("INSERT INTO typed (%s, k) VALUES (?, -1)"):format(column)
      local problem = fails("invalid", function() db:execute(text, value) end)
      test.equal({ problem.native, problem.outcome }, { native, "not_applied" }, tostring(problem))
      test.ok(problem.message:find("[`']" .. column .. "[`']"), problem.message)
      -- The same within a transaction, which goes on.
      db:transaction(function(tx)
        fails("invalid", function() tx:execute(text, value) end)
        test.equal(tx:one "SELECT 1 AS n", { n = 1 })
      end)
    end
    for _, case in ipairs {
      { "constraint", 1048, "INSERT INTO typed (k) VALUES (?)", nil },
      { "constraint", 4025, "INSERT INTO typed (j) VALUES (?)", "{" },
      { "invalid", 1054, "SELECT x FROM typed WHERE id = ?", 1 },
      { "invalid", 1146, "SELECT 1 FROM nowhere WHERE id = ?", 1 },
    } do
      local code, native, text, value = unpack(case, 1, 4)
      test.equal(fails(code, function() db:execute(text, value) end).native, native)
    end
    test.equal(db:one "SELECT count(*) AS n FROM typed", { n = 0 })
  end)

both("numbers keep what a number has, and what none has is refused", nil, function(db)
  make_table(db, "numbers", "id INTEGER PRIMARY KEY, d DOUBLE, i BIGINT")
  for _, value in ipairs { 0 / 0, -(0 / 0), math.huge, -math.huge } do
    test.raises(function() db:execute("INSERT INTO numbers (id, d) VALUES (?, ?)", 1, value) end,
      "value 2 is a number that no database has: NaN or infinity")
  end
  for id, value in ipairs { 2 ^ 53 - 1, 2 ^ 53, -2 ^ 53, 0, -0.0 } do
    db:execute("INSERT INTO numbers VALUES (?, ?, ?)", id, value, value)
    test.equal(db:one("SELECT d, i FROM numbers WHERE id = ?", id), { d = value, i = value })
  end
  for id, value in ipairs { "9007199254740993", "-9223372036854775808", "9223372036854775807" } do
    db:execute("INSERT INTO numbers (id, i) VALUES (?, ?)", 100 + id, value)
    test.equal(db:one("SELECT i FROM numbers WHERE id = ?", 100 + id), { i = value })
    test.equal(db:one("SELECT id FROM numbers WHERE i = ?", value), { id = 100 + id })
  end
end)

-- ---- sizes ----

both("a row may have 16 MB, and one more byte is too large", { timeout_ms = 120000 }, function(db)
  make_table(db, "large", "id INTEGER PRIMARY KEY, b LONGBLOB")
  local bytes = ("\0\255 x"):rep(4 * MB)
  db:execute("INSERT INTO large VALUES (?, ?)", 1, bytes)
  test.ok(db:one("SELECT b FROM large WHERE id = ?", 1).b == bytes)
  test.ok(db:query "SELECT b FROM large WHERE id = 1"[1][1] == bytes)
  db:execute("INSERT INTO large VALUES (?, ?)", 2, bytes .. "x")
  for _, text in ipairs {
    "SELECT b FROM large WHERE id = 2", "SELECT id, b FROM large WHERE id = 1",
  } do
    local problem = fails("too_large", function() db:one(text) end)
    test.ok(problem.message:find "more than 16777216 bytes", problem.message)
    fails("too_large", function() db:one(text .. " AND id > ?", 0) end)
  end
  local row = db:with { max_bytes = 17 * MB }:one("SELECT b FROM large WHERE id = ?", 2)
  test.ok(row.b == bytes .. "x")
  test.equal(db:one "SELECT count(*) AS n FROM large", { n = 2 })
  idle_again(db)
end)

with_server("a statement that is larger than the server takes is too large, and was not applied",
  function()
    local server = servers.start("mysql", { "--max-allowed-packet=1M" })
    local db = mysql.connect(helper.address(server.port), { timeout_ms = 60000 })
    make_table(db, "large", "id INTEGER PRIMARY KEY, b LONGBLOB")
    local insert, bytes = "INSERT INTO large VALUES (?, ?)", ("x"):rep(MB)
    db:transaction(function(tx)
      tx:execute(insert, 1, bytes:sub(1, -1000))
      local problem = fails("too_large", function() tx:execute(insert, 2, bytes) end)
      test.equal(problem.outcome, "not_applied")
      test.ok(problem.message:find "and the server takes 1048576 %(max_allowed_packet%)",
        problem.message)
      fails("too_large", function()
        tx:execute(("INSERT INTO large VALUES (3, '%s')"):format(bytes))
      end)
      tx:execute(insert, 4, "small")
    end)
    test.equal(db:query "SELECT id FROM large", { { 1 }, { 4 } })
    test.equal(db:stats(), { open = 1, idle = 1, waiting = 0, refused = 0, late = 0 })
    db:close()
    server:close()
  end)

both("ten thousand requests at once are each answered, done or refused", { timeout_ms = 120000 },
  function(db)
    local done, refused, wrong = 0, 0, 0
    helper.at_once(10000, function(index)
      local ok, row = pcall(db.one, db, "SELECT ? AS n", index)
      if not ok and row.code == "overloaded" and row.outcome == "not_applied" then
        refused = refused + 1
      elseif ok and row.n == index then
        done = done + 1
      else
        wrong = wrong + 1
      end
    end)
    test.equal({ wrong, done + refused }, { 0, 10000 })
    test.ok(done >= 1024 and refused > 0, done)
    test.equal(db:stats().refused, refused)
    idle_again(db)
  end)

-- ---- faults ----

with_server("a server that stops in the midst of its rows costs that request its time",
  function(server)
    local wire = helper.wire(server.port)
    local db = mysql.connect(helper.address(wire.port), { pool = 1 })
    for _, values in ipairs { {}, { 0 } } do
      local text = "SELECT seq, repeat('x', 100) FROM seq_1_to_50000" ..
        (#values > 0 and " WHERE seq > ?" or "")
      db:ping()
      local passed = 0
      wire.on_server = function(data)
        passed = passed + #data
        if passed < 500000 then return data end
      end
      local problem = fails("timeout", function()
        db:with { timeout_ms = 500 }:query(text, unpack(values))
      end)
      test.equal(problem.outcome, "unknown")
      test.ok(passed >= 500000, passed)
      wire.on_server = function(data) return data end
      test.equal(#db:with { timeout_ms = 60000 }:query(text, unpack(values)), 50000)
    end
    db:close()
    wire:close()
  end)

-- ---- services ----

with_server("services that share an address have connections of their own", function(server)
  local users = {}
  for i = 1, 4 do
    users[i] = perilune.spawn("sql_user", { address = helper.address(server.port) },
      i > 2 and { group = "users" } or nil)
  end
  local function ask(user) return perilune.call(user, "ask", "SELECT connection_id()") end
  for _, user in ipairs(users) do test.equal(ask(user), 1) end
  test.equal(perilune.node().counters.mysql_connections, 4)
  -- While one is ended in the midst of a statement others go on.
  for i = 1, 3 do
    perilune.send(users[i], "ask", "SELECT sleep(600)")
    perilune.kill(users[i])
    test.equal(ask(users[4]), 1)
  end
  test.eventually(function() return perilune.node().counters.mysql_connections == 1 end)
  test.equal(ask(users[4]), 1)
  perilune.stop(users[4])
  test.eventually(function() return perilune.node().counters.mysql_connections == 0 end)
end)

with_server("a reload while statements and a transaction are under way loses none of them",
  function(server)
    local db = mysql.connect(helper.address(server.port))
    make_table(db, "note", "id INTEGER PRIMARY KEY")
    local original = assert(io.open "test/data/sql_user.lua")
    local text = original:read "*a"
    original:close()
    local versions = 0
    local function write()
      versions = versions + 1
      test.ok(file.write("sql_changing.lua", ("%s -- version %d\n"):format(text, versions)))
    end
    local function reload()
      write()
      test.equal({ perilune.reload "sql_changing" }, { 1, {} })
    end
    write()
    local user = perilune.spawn("sql_changing", { address = helper.address(server.port) })
    local before = perilune.node().counters.mysql_operations
    local answers = {}
    for i = 1, 20 do
      perilune.fork(function()
        local count = perilune.call_within(60000, user, "ask",
          ("SELECT seq + sleep(0.1) FROM seq_1_to_%d"):format(1 + i % 4))
        answers[#answers + 1] = count
      end)
    end
    test.eventually(function() return perilune.node().counters.mysql_operations - before >= 8 end)
    for _ = 1, 3 do
      reload()
      perilune.sleep(50)
    end
    test.eventually(function() return #answers == 20 end, 60000)
    table.sort(answers)
    for i = 1, 20 do test.equal(answers[i], math.ceil(i / 5)) end
    test.equal(perilune.call(user, "ask", "SELECT 1"), 1)
    perilune.send(user, "write_and_wait")
    test.eventually(function() return perilune.call(user, "has_begun") end)
    reload()
    test.equal(perilune.call(user, "ask", "SELECT 1"), 1)
    perilune.stop(user)
    test.eventually(function() return perilune.node().counters.mysql_connections == 1 end)
    test.equal(db:one "SELECT count(*) AS n FROM note", { n = 0 })
    db:close()
    file.remove "sql_changing.lua"
  end)

return test
