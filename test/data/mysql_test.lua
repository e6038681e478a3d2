-- What perilune.mysql does besides what every database of SQL does.

local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local native = require "perilune.native.mysql"
local perilune = require "perilune"
local servers = require "servers"
local socket = require "perilune.socket"
local test = require "perilune.test"

local fails, make_table, with_server = helper.fails, helper.make_table, helper.with_server
local idle_again = helper.idle_again

local TLS = "test/lua/tls/"

-- ---- addresses and options ----

test("mysql: an address that can't be is refused, without a word of its password", function()
  for _, address in ipairs {
    "", "127.0.0.1", "redis://a:hunter2@h/d", "mysql://h:3306/d", "mysql://:hunter2@h/d",
    "mysql://a:hunter2@/d", "mysql://a:hunter2@h:0/d", "mysql://a:hunter2@h:65536/d",
    "mysql://a:hunter2@h:x/d", "mysql://a:hunter2@h,i/d", "mysql://a:hunter2@h/d/e",
    "mysql://a:%zzhunter2@h/d", "mysql://a:hunter2%00@h/d", "mysql://a:hunter2@h/d?pool=0",
    "mysql://a:hunter2@h/d?pool=many", "mysql://a:hunter2@h/d?tls=maybe",
    "mysql://a:hunter2@h/d?nothing=1", "mysql://a:hunter2@[::g]/d",
  } do
    local problem = test.raises(function() mysql.connect(address) end,
      "mysql_test.lua:%d+: mysql.connect: ")
    test.ok(not problem:find("hunter2", 1, true), problem)
  end
  test.raises(function() mysql.connect(7) end, "an address expected, got number")
  test.raises(function() mysql.connect("mysql://a@h/d", { pool = 257 }) end,
    "pool has to be from 1 to 256")
  mysql.connect("mariadb://a:b@[::1]:3306/d?pool=256&statements=0"):close()
  mysql.connect("mysql://a@h", { pool = 1 }):close()
end)

with_server("options come from the address, and those given besides come first", function(server)
  local address = helper.address(server.port) .. "?pool=1&max_rows=2"
  local db = mysql.connect(address)
  fails("too_large", function() db:query "SELECT seq FROM seq_1_to_3" end)
  db:close()
  db = mysql.connect(address, { max_rows = 3 })
  test.equal(#db:query "SELECT seq FROM seq_1_to_3", 3)
  local results = helper.at_once(4, function() return db:one "SELECT connection_id() AS id".id end)
  for _, result in ipairs(results) do test.equal(result, results[1]) end
  test.equal(db:stats(), { open = 1, idle = 1, waiting = 0, refused = 0, late = 0 })
  db:close()
end)

with_server("a wrong password, user or database is denied at once, and nothing of it is logged",
  function(server)
    for _, user in ipairs { "tester:wrong%20hunter2", "nobody:hunter2", "nobody" } do
      local db = mysql.connect(helper.address(server.port, user), { timeout_ms = 60000 })
      local problem = fails("denied", function() db:ping() end)
      test.equal(problem.native, 1045)
      test.equal(problem.outcome, "not_applied")
      test.ok(not problem.message:find("hunter2", 1, true), problem.message)
      db:close()
    end
    local db = mysql.connect(helper.address(server.port, nil, "no_such_database"),
      { timeout_ms = 60000 })
    local problem = fails("invalid", function() db:ping() end)
    test.equal(problem.native, 1049)
    test.ok(problem.message:find("no_such_database", 1, true), problem.message)
    db:close()
  end)

with_server("a host is looked up by its name, and one that isn't there is unavailable",
  function(server)
    local address = helper.address(server.port):gsub("127%.0%.0%.1", "localhost")
    local db = mysql.connect(address)
    db:ping()
    db:close()
    db = mysql.connect("mysql://a:b@no-such-host.invalid/d", { timeout_ms = 300 })
    test.equal(fails("unavailable", function() db:ping() end).outcome, "not_applied")
    db:close()
    test.eventually(function() return perilune.node().counters.mysql_connections == 0 end, 60000)
  end)

-- ---- TLS ----

-- The cipher of a connection, "" for none; or nil and why there is none.
local function cipher(server, host, options)
  local settings = { timeout_ms = 2000, pool = 1 }
  for name, value in pairs(options) do settings[name] = value end
  local db = mysql.connect((helper.address(server.port):gsub("127%.0%.0%.1", host)), settings)
  local ok, row = pcall(db.one, db, "SHOW STATUS LIKE 'Ssl_cipher'")
  db:close()
  if ok then return row.Value end
  return nil, row
end

with_server("TLS: a server that isn't trusted, is another, or has none, is refused",
  function(server)
    local ours = { tls = "on", ca = TLS .. "certificate.pem" }
    local theirs = { tls = "on", ca = TLS .. "other_certificate.pem" }
    local unverified = { tls = "unverified" }
    for _, host in ipairs { "localhost", "127.0.0.1" } do
      test.ok(#cipher(server, host, ours) > 0)
    end
    test.ok(#cipher(server, "127.0.0.1", unverified) > 0)
    test.equal(cipher(server, "127.0.0.1", {}), "")
    -- Its certificate is of elsewhere.example.
    local elsewhere = servers.start("mysql", {
      "--ssl-cert=ROOT/" .. TLS .. "other_certificate.pem",
      "--ssl-key=ROOT/" .. TLS .. "other_key.pem",
    })
    local plain = servers.start("mysql", { "--skip-ssl" })
    local cases = {
      { server, { tls = "on" }, "self%-signed certificate" },
      { server, theirs, "self%-signed certificate" },
      { elsewhere, theirs, "Validation of SSL server certificate failed" },
      { elsewhere, ours, "self%-signed certificate" },
      { plain, ours, "server does not support it" },
      { plain, unverified, "does not offer TLS" },
      { server, { tls = "on", ca = TLS .. "none.pem" }, "No such file or directory" },
    }
    local results = helper.at_once(#cases, function(index)
      local refused_by, options, pattern = unpack(cases[index])
      local got, problem = cipher(refused_by, "localhost", options)
      test.equal(got, nil, pattern)
      test.equal({ problem.code, problem.outcome }, { "unavailable", "not_applied" })
      test.ok(problem.message:find(pattern), problem.message)
    end)
    for _, result in ipairs(results) do test.equal(result[1], true, tostring(result[2])) end
    elsewhere:close()
    plain:close()
  end)

with_server("TLS: the same as without it, and a server that dies", function(server)
  local wire = helper.wire(server.port)
  local db = mysql.connect(helper.address(wire.port),
    { tls = "unverified", pool = 2, timeout_ms = 5000 })
  make_table(db, "note", "id INTEGER PRIMARY KEY, t LONGTEXT")
  local text = ("ü"):rep(500000)
  db:transaction(function(tx) tx:execute("INSERT INTO note VALUES (?, ?)", 1, text) end)
  test.ok(db:one("SELECT t FROM note WHERE id = ?", 1).t == text)
  test.equal(#db:rows "SELECT seq FROM seq_1_to_20000", 20000)
  local results = helper.at_once(50, function(i) return db:one("SELECT ? AS n", i).n end)
  for i, result in ipairs(results) do test.equal(result, { true, i }) end
  fails("timeout", function() db:with { timeout_ms = 100 }:one("SELECT sleep(?)", 30) end)
  wire.on_server = function(_, cut) perilune.timeout(0, cut) end
  fails("unavailable", function() db:one("SELECT ? AS n", 1) end)
  wire.on_server = function(data) return data end
  test.equal(db:one("SELECT ? AS n", 2), { n = 2 })
  db:close()
  wire:close()
end)

-- ---- statements ----

helper.mysql("procedures return their first rows, and the connection goes on working", { pool = 1 },
  function(db)
    db:execute "DROP PROCEDURE IF EXISTS several"
    db:execute [[CREATE PROCEDURE several(a INT) BEGIN
      SELECT a AS first UNION SELECT a + 1; SELECT a * 2 AS second; SELECT 'third' AS third; END]]
    for _ = 1, 3 do
      test.equal(db:rows("CALL several(?)", 5), { { first = 5 }, { first = 6 } })
      test.equal(db:rows "CALL several(7)", { { first = 7 }, { first = 8 } })
    end
    db:execute "DROP PROCEDURE IF EXISTS failing"
    db:execute [[CREATE PROCEDURE failing() BEGIN SELECT 1 AS a;
      SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no gold'; END]]
    for _, text in ipairs { "CALL failing()", "CALL failing() /* ? */" } do
      local problem = fails("error", function() db:rows(text) end)
      test.equal({ problem.native, problem.sqlstate, problem.message },
        { 1644, "45000", "no gold" })
    end
    test.equal(db:prepare "CALL several(1)":one(), { first = 1 })
    idle_again(db)
  end)

helper.mysql("rows of an INSERT come back, and a statement that can't be prepared goes as text",
  { pool = 1 }, function(db)
    make_table(db, "made", "id INTEGER PRIMARY KEY AUTO_INCREMENT, x INTEGER")
    test.equal(db:rows("INSERT INTO made (x) VALUES (?), (?) RETURNING id, x", 5, 6),
      { { id = 1, x = 5 }, { id = 2, x = 6 } })
    test.equal(db:execute("INSERT INTO made (x) VALUES (?) ON DUPLICATE KEY UPDATE x = 1", 7), 1)
    db:execute "LOCK TABLES made READ"
    db:execute "UNLOCK TABLES"
    fails("error", function() db:execute "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE made" end)
  end)

helper.mysql("deadlocks are conflicts, after which the whole is tried again", nil, function(db)
  make_table(db, "account", "id INTEGER PRIMARY KEY, gold INTEGER")
  db:execute "INSERT INTO account VALUES (1, 0), (2, 0)"
  local codes, locked, swallowed = {}, 0, 0
  local results = helper.at_once(2, function(index)
    repeat
      local ok, problem = pcall(db.transaction, db, function(tx)
        tx:execute("UPDATE account SET gold = gold + 1 WHERE id = ?", index)
        locked = locked + 1
        test.eventually(function() return locked >= 2 end, 60000)
        -- Who swallows a deadlock can't write on: all before it is undone.
        local fine, why = pcall(tx.execute, tx,
          "UPDATE account SET gold = gold + 1 WHERE id = ?", 3 - index)
        if not fine and why.native == 1213 then
          swallowed = swallowed + 1
          fails("conflict", function() tx:execute "INSERT INTO account VALUES (9, 9)" end)
        elseif not fine then
          error(why, 0)
        end
      end)
      if not ok then codes[#codes + 1] = problem.code end
    until ok
  end)
  for _, result in ipairs(results) do test.equal(result[1], true, tostring(result[2])) end
  test.ok(swallowed > 0)
  for _, code in ipairs(codes) do test.equal(code, "conflict") end
  test.equal({ db:query "SELECT gold FROM account ORDER BY id" }, { { { 2 }, { 2 } }, { "gold" } })
end)

helper.mysql("what changes tables ends a transaction, and says so", nil, function(db)
  make_table(db, "note", "id INTEGER PRIMARY KEY")
  local problem = fails("invalid", function()
    db:transaction(function(tx)
      tx:execute "INSERT INTO note VALUES (1)"
      tx:execute "CREATE TABLE IF NOT EXISTS note2 (id INTEGER)"
    end)
  end)
  test.equal(problem.outcome, "unknown")
  test.ok(problem.message:find "has ended the transaction", problem.message)
end)

helper.mysql("a statement that the server forgot is prepared again", { pool = 1 },
  function(db, server)
    make_table(db, "note", "id INTEGER PRIMARY KEY")
    local find = db:prepare "SELECT count(*) AS n FROM note WHERE id > ?"
    test.equal(find:one(0), { n = 0 })
    local other = mysql.connect(helper.address(server.port))
    for i = 1, 20 do
      other:execute(("ALTER TABLE note ADD COLUMN c%d INTEGER"):format(i))
      test.equal(find:one(0), { n = 0 })
    end
    other:close()
  end)

-- ---- limits ----

test("mysql: a node has 1000 connections at most, those that are being made among them", function()
  local function counter(name) return perilune.node().counters["mysql_" .. name] end
  -- Takes connections and never says a word.
  local silent = assert(socket.listen { framing = "raw" })
  local target = {
    host = "127.0.0.1", port = silent.port, user = "a", password = "", database = "", tls = "off",
    ca = "", certificate = "", key = "", connect_ms = 600000, statements = 1,
  }
  local refused, codes, ids = counter "refused", {}, {}
  for index = 1, 1010 do
    perilune.fork(function()
      ids[index] = native.reserve()
      local ok, code = native.connect(ids[index], target, 600000)
      codes[index] = ok == false and code or "made"
    end)
  end
  test.eventually(function() return counter "refused" - refused == 10 end)
  test.equal(counter "connections", 1000)
  for index = 1001, 1010 do test.equal(codes[index], "overloaded") end
  local db = mysql.connect(helper.address(silent.port), { timeout_ms = 200 })
  local problem = fails("unavailable", function() db:ping() end)
  test.ok(problem.message:find "1000 connections to MySQL, which is the limit", problem.message)
  db:close()
  -- Whoever waits for one that is closed hears nothing, so it isn't in `codes`.
  for index = 1, 1000 do native.close(ids[index]) end
  test.equal(counter "connections", 0)
  silent:close()
end)

return test
