-- What perilune.sqlite does besides what every database of SQL does.

local file = require "perilune.file"
local helper = require "sql_helper"
local perilune = require "perilune"
local sqlite = require "perilune.sqlite"
local test = require "perilune.test"

local fails, make_table = helper.fails, helper.make_table

local function counters() return perilune.node().counters end

-- ---- files ----

test("sqlite: what was written is there when the file is opened again", function()
  assert(file.mkdir "deep/folder")
  for round = 1, 3 do
    local db = sqlite.open "deep/folder/kept.db"
    db:execute "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY)"
    db:execute "INSERT INTO note VALUES (NULL)"
    test.equal(db:one "SELECT count(*) AS n FROM note", { n = round })
    db:close()
    test.eventually(function() return counters().sqlite_databases == 0 end)
  end
  test.equal(file.exists "deep/folder/kept.db", true)
  test.equal(file.exists "deep/folder/kept.db-wal", false) -- the last one that closes writes it back
end)

test("sqlite: paths stay below the data folder", function()
  for _, path in ipairs {
    "", "../x.db", "/tmp/x.db", "a/../../x.db", "./x.db", "a//x.db", "x\0.db", "x\n.db", ".perilune-x",
    ("x"):rep(300), "a/", "file:x.db",
  } do
    if path ~= "file:x.db" then
      fails("invalid", function() sqlite.open(path) end)
    else
      sqlite.open(path):close() -- a name like any other
      test.equal(file.exists(path), true)
    end
  end
  test.raises(function() sqlite.open(7) end, "a path expected, got number")
  test.raises(function() sqlite.open("x.db", { sync = 1 }) end, "sync has to be of type boolean")
  fails("unavailable", function() sqlite.open "no/such/folder/x.db" end)
  assert(file.write("no.db", ("this is no database "):rep(100)))
  local problem = fails("unavailable", function() sqlite.open "no.db" end)
  test.ok(problem.message:find "not a database", problem.message)
end)

test("sqlite: symbolic links are not followed", function()
  assert(file.write("real.txt", ""))
  local folder = io.popen "ls -d /tmp/perilune_test_*":read "*a"
  local own
  for path in folder:gmatch "[^\n]+" do
    local there = io.open(path .. "/real.txt")
    if there then
      there:close()
      own = path
    end
  end
  os.execute(("ln -s /tmp/elsewhere.db %s/link.db; ln -s /tmp %s/out"):format(own, own))
  fails("unavailable", function() sqlite.open "link.db" end)
  fails("unavailable", function() sqlite.open "out/x.db" end)
  test.equal(io.open "/tmp/elsewhere.db", nil)
end)

helper.sqlite("memory is a file that nobody keeps", nil, function()
  local db = sqlite.open ":memory:"
  make_table(db, "note", "id INTEGER")
  local other = sqlite.open ":memory:"
  fails("invalid", function() other:query "SELECT * FROM note" end)
  db:close()
  other:close()
end)

-- ---- what scripts may not do ----

helper.sqlite("SQL reaches no other file, loads nothing and weakens nothing", nil, function(db)
  make_table(db, "note", "id INTEGER")
  for _, text in ipairs {
    "ATTACH 'other.db' AS other", "ATTACH ? AS other", "VACUUM INTO 'copy.db'",
    "PRAGMA journal_mode = DELETE", "PRAGMA synchronous = OFF", "PRAGMA foreign_keys = OFF",
    "PRAGMA writable_schema = ON", "PRAGMA temp_store_directory = '/tmp'", "PRAGMA trusted_schema = ON",
    "PRAGMA locking_mode = EXCLUSIVE", "PRAGMA wal_autocheckpoint = 0", "PRAGMA mmap_size = 1000000",
    "PRAGMA cache_size = 1000000000", "PRAGMA max_page_count = 1", "PRAGMA query_only = 1",
  } do
    local ok, problem = pcall(db.execute, db, text, unpack(text:find "?" and { "x" } or {}))
    test.equal(ok, false, text)
    test.equal(problem.code, "denied", text .. ": " .. tostring(problem))
  end
  test.raises(function() db:one("SELECT load_extension(?)", "x") end, "not authorized")
  for _, text in ipairs { "SELECT readfile('x')", "SELECT writefile('x', 'y')", "SELECT edit('x')" } do
    fails("invalid", function() db:execute(text) end)
  end
  test.raises(function() db:execute "UPDATE sqlite_master SET sql = 'x'" end)
  for _, name in ipairs { "other.db", "copy.db" } do test.equal(file.exists(name), false) end
  -- What is allowed.
  db:execute "VACUUM"
  test.equal(db:one "PRAGMA user_version", { user_version = 0 })
  db:execute "PRAGMA user_version = 7"
  test.equal(db:one "PRAGMA user_version", { user_version = 7 })
  test.equal(db:one "PRAGMA table_info(note)".name, "id")
  test.equal(db:one "PRAGMA integrity_check", { integrity_check = "ok" })
end)

helper.sqlite("text in double quotes is a name, and foreign keys are enforced", nil, function(db)
  make_table(db, "parent", "id INTEGER PRIMARY KEY")
  make_table(db, "child", "parent INTEGER REFERENCES parent(id), n INTEGER CHECK (n > 0)")
  fails("invalid", function() db:one 'SELECT "no such name"' end)
  fails("constraint", function() db:execute("INSERT INTO child VALUES (?, 1)", 7) end)
  fails("constraint", function() db:execute("INSERT INTO child VALUES (NULL, ?)", 0) end)
  db:execute "INSERT INTO parent VALUES (7)"
  db:execute("INSERT INTO child VALUES (?, 1)", 7)
  fails("constraint", function() db:execute "DELETE FROM parent" end)
end)

helper.sqlite("one statement at a time, with comments around it", nil, function(db)
  for _, text in ipairs { "", "  ", "-- nothing", "/* nothing", ";" } do
    local problem = fails("invalid", function() db:execute(text) end)
    test.equal(problem.message, "an empty statement")
  end
  test.equal(db:one "/* a */ SELECT 1 AS n -- b", { n = 1 })
  test.equal(db:one "SELECT 1 AS n; /* c */ ; -- d\n", { n = 1 })
  fails("invalid", function() db:execute "SELECT 1; SELECT 2" end)
end)

-- ---- time ----

local ENDLESS = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s) SELECT max(n) FROM s"

helper.sqlite("a statement that isn't done in time is ended, and was not applied", nil, function(db)
  make_table(db, "note", "n INTEGER")
  for _, text in ipairs { ENDLESS, "INSERT INTO note " .. ENDLESS } do
    local problem = fails("timeout", function() db:with { timeout_ms = 100 }:execute(text) end)
    test.equal(problem.outcome, "not_applied")
  end
  test.equal(db:one "SELECT count(*) AS n FROM note", { n = 0 })
  -- Those that waited behind it, too.
  local results = helper.at_once(5, function(index)
    return db:with { timeout_ms = index == 1 and 300 or 100 }:one(index == 1 and ENDLESS or "SELECT 1")
  end)
  for _, result in ipairs(results) do
    test.equal(result[1], false)
    test.equal(result[2].code, "timeout")
    test.equal(result[2].outcome, "not_applied")
  end
  test.equal(db:one "SELECT 1 AS n", { n = 1 })
end)

helper.sqlite("two that write the same file wait for each other, and then it is a conflict",
  { busy_ms = 100 }, function(db, path)
    make_table(db, "note", "n INTEGER")
    local other = sqlite.open(path, { busy_ms = 20000 })
    local patient
    db:transaction(function(tx)
      tx:execute "INSERT INTO note VALUES (1)"
      test.equal(other:one "SELECT count(*) AS n FROM note", { n = 0 }) -- readers don't wait
      perilune.fork(function()
        patient = other:with { timeout_ms = 20000 }:execute "INSERT INTO note VALUES (2)"
      end)
      perilune.sleep(50)
      test.equal(patient, nil)
    end)
    test.eventually(function() return patient == 1 end, 20000)
    other:transaction(function(tx)
      tx:execute "INSERT INTO note VALUES (3)"
      local problem = fails("conflict", function() db:execute "INSERT INTO note VALUES (4)" end)
      test.equal(problem.outcome, "not_applied")
      fails("conflict", function() db:transaction(function() end) end)
    end)
    test.equal(db:one "SELECT count(*) AS n FROM note", { n = 3 })
    other:close()
  end)

-- ---- ends ----

helper.sqlite("a service that ends leaves nothing of its transaction, and no thread", nil,
  function(db, path)
    make_table(db, "note", "id INTEGER PRIMARY KEY")
    for _, ending in ipairs { "kill", "stop" } do
      for _, group in ipairs { false, "users" } do
        local user = perilune.spawn("sql_user", { path = path }, group and { group = group } or nil)
        perilune.send(user, "write_and_wait")
        test.eventually(function() return perilune.call(user, "has_begun") end)
        test.equal(counters().sqlite_databases, 2)
        perilune[ending](user)
        test.eventually(function() return counters().sqlite_databases == 1 end)
        test.equal(db:execute "INSERT INTO note VALUES (1)", 1)
        db:execute "DELETE FROM note"
      end
    end
    -- In the midst of a statement that never ends.
    local user = perilune.spawn("sql_user", { path = path })
    perilune.send(user, "ask", ENDLESS)
    test.eventually(function() return perilune.call(user, "has_begun") end)
    perilune.kill(user)
    test.eventually(function() return counters().sqlite_databases == 1 end)
  end)

test("sqlite: 64 databases are open at most", function()
  local all = {}
  for i = 1, 64 do all[i] = sqlite.open ":memory:" end
  local refused = counters().sqlite_refused
  local problem = fails("overloaded", function() sqlite.open ":memory:" end)
  test.ok(problem.message:find "64 SQLite databases open", problem.message)
  test.equal(counters().sqlite_refused - refused, 1)
  all[1]:close()
  test.eventually(function() return counters().sqlite_databases == 63 end)
  all[1] = sqlite.open ":memory:"
  for _, db in ipairs(all) do db:close() end
  test.eventually(function() return counters().sqlite_databases == 0 end)
end)

helper.sqlite("with `sync` a commit waits for the disk", { sync = true }, function(db)
  make_table(db, "note", "n INTEGER")
  for i = 1, 10 do db:execute("INSERT INTO note VALUES (?)", i) end
  test.equal(db:one "SELECT sum(n) AS s FROM note", { s = 55 })
end)

return test
