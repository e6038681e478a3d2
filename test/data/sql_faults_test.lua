-- MySQL servers that die, stop, come back, or say what no server should; and wires that are cut.

local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local perilune = require "perilune"
local servers = require "servers"
local socket = require "perilune.socket"
local test = require "perilune.test"

local fails, make_table, with_server = helper.fails, helper.make_table, helper.with_server

local function counters() return perilune.node().counters end

local idle_again = helper.idle_again

-- How many statements of that text the server works on.
local function under_way(direct, text)
  return direct:one("SELECT count(*) AS n FROM information_schema.processlist " ..
    "WHERE info LIKE ? AND id <> connection_id()", text .. "%").n
end

-- A server that dies ----------------------------------------------------------------------------

with_server("a killed server: what was under way is unknown, what comes waits for the next one",
  function()
    local server = servers.start "mysql"
    local db = mysql.connect(helper.address(server.port), { timeout_ms = 60000, pool = 4 })
    make_table(db, "note", "id INTEGER PRIMARY KEY")
    local outcomes, lost = {}, 0
    for index = 1, 4 do
      perilune.fork(function()
        local ok, problem = pcall(db.query, db, "SELECT sleep(?)", 600)
        outcomes[index] = ok and "ok" or problem.code .. " " .. problem.outcome
        lost = lost + 1
      end)
    end
    local direct = mysql.connect(helper.address(server.port))
    test.eventually(function() return under_way(direct, "SELECT sleep") == 4 end, 60000)
    direct:close()
    server:tell "kill"
    test.eventually(function() return lost == 4 end)
    for index = 1, 4 do test.equal(outcomes[index], "unavailable unknown") end
    local got
    perilune.fork(function() got = db:one("SELECT ? AS n", 7) end)
    server:tell "start"
    test.eventually(function() return got end, 60000)
    test.equal(got, { n = 7 })
    db:execute "INSERT INTO note VALUES (1)"
    db:close()
    server:close()
  end)

with_server("requests of a server that is away fail in their time, and attempts have a back-off",
  function()
    local server = servers.start "mysql"
    local db = mysql.connect(helper.address(server.port), { timeout_ms = 300 })
    db:ping()
    server:tell "kill"
    -- The connection is closed where nobody uses it.
    test.eventually(function() return db:stats().open == 0 end)
    local before, began = counters().mysql_connect_failed, perilune.now()
    local results = helper.at_once(20, function()
      for _ = 1, 10 do
        local problem = fails("unavailable", function() db:one("SELECT ?", 1) end)
        test.equal(problem.outcome, "not_applied")
        test.ok(problem.message:find "no connection within %d+ ms: ", problem.message)
      end
    end)
    for _, result in ipairs(results) do test.equal(result[1], true, tostring(result[2])) end
    -- 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s ...: the time there was allows for so many attempts.
    local took, most, delay = perilune.now() - began, 1, 100
    while took > 0 do
      took, delay, most = took - delay, math.min(delay * 2, 5000), most + 1
    end
    local attempts = counters().mysql_connect_failed - before
    test.equal({ db:stats().late, db:stats().refused }, { 200, 0 })
    test.ok(attempts >= 2 and attempts <= most, ("%d attempts, at most %d"):format(attempts, most))
    server:tell "start"
    test.eventually(function() return (pcall(db.ping, db)) end, 30000)
    db:close()
    server:close()
  end)

with_server("a stopped server costs its requests their time, and no answer reaches another request",
  function()
    local server = servers.start "mysql"
    local db = mysql.connect(helper.address(server.port), { timeout_ms = 500, pool = 4 })
    local stop, wrong, right, failed = false, 0, 0, 0
    local running = 8
    for task = 1, running do
      perilune.fork(function()
        local number = 0
        while not stop do
          number = number + 1
          local text = ("%d/%d"):format(task, number)
          local ok, row = pcall(db.one, db, "SELECT ? AS t", text)
          if not ok then
            failed = failed + 1
          elseif row.t == text then
            right = right + 1
          else
            wrong = wrong + 1
          end
        end
        running = running - 1
      end)
    end
    for round = 1, helper.scale(3, 30) do
      local answers, errors = right, failed
      test.eventually(function() return right > answers + 100 end, 60000)
      if round % 2 == 1 then
        server:tell "pause"
        test.eventually(function() return failed >= errors + 8 end, 60000)
        server:tell "continue"
      else
        server:tell "kill"
        test.eventually(function() return failed >= errors + 8 end, 60000)
        server:tell "start"
      end
    end
    test.eventually(function()
      local before = right
      perilune.sleep(20)
      return right > before
    end, 60000)
    stop = true
    test.eventually(function() return running == 0 end, 60000)
    test.equal(wrong, 0)
    idle_again(db)
    db:close()
    server:close()
  end)

with_server("a query that takes too long costs its connection alone", function(server)
  local db = mysql.connect(helper.address(server.port), { pool = 1 })
  db:ping()
  local before = counters()
  local problem = fails("timeout", function() db:with { timeout_ms = 100 }:one("SELECT sleep(?)", 30) end)
  test.equal(problem.outcome, "unknown")
  test.equal(db:one("SELECT ? AS n", 5), { n = 5 })
  local after = counters()
  test.equal(after.mysql_closed_busy - before.mysql_closed_busy, 1)
  test.equal(after.mysql_connected - before.mysql_connected, 1)
  -- Within a transaction all is undone.
  make_table(db, "note", "id INTEGER PRIMARY KEY")
  problem = fails("timeout", function()
    db:with { timeout_ms = 1000 }:transaction(function(tx)
      tx:execute "INSERT INTO note VALUES (1)"
      tx:one("SELECT sleep(?)", 30)
    end)
  end)
  test.equal(problem.outcome, "not_applied")
  test.equal(db:one "SELECT count(*) AS n FROM note", { n = 0 })
  db:close()
end)

-- The server doesn't look whether somebody waits for it.
local ENDLESS = "SELECT benchmark(1000000000000, md5('x'))"

with_server("a statement that nobody waits for any more ends on the server, with its transaction",
  function(server)
    local direct = mysql.connect(helper.address(server.port))
    make_table(direct, "note", "id INTEGER PRIMARY KEY")
    local before = counters().mysql_stopped
    local function ends(stopped)
      test.eventually(function() return under_way(direct, "SELECT benchmark") == 0 end, 60000)
      test.eventually(function() return counters().mysql_stopped - before == stopped end)
    end
    for index, options in ipairs { { tls = "off" }, { tls = "unverified" } } do
      local db = mysql.connect(helper.address(server.port), options)
      db:ping()
      fails("timeout", function() db:with { timeout_ms = 200 }:one(ENDLESS) end)
      ends(index * 2 - 1)
      db:ping()
      fails("timeout", function()
        db:with { timeout_ms = 1000 }:transaction(function(tx)
          tx:execute "INSERT INTO note VALUES (1)"
          tx:one(ENDLESS)
        end)
      end)
      ends(index * 2)
      -- The lock that it had is free, too.
      direct:execute "INSERT INTO note VALUES (1)"
      direct:execute "DELETE FROM note"
      db:close()
    end
    local user = perilune.spawn("sql_user", { address = helper.address(server.port) })
    perilune.send(user, "ask", ENDLESS)
    test.eventually(function() return under_way(direct, "SELECT benchmark") == 1 end, 60000)
    perilune.kill(user)
    ends(5)
    direct:close()
  end)

with_server("a statement of a connection that the server knows by another port is left alone",
  function(server)
    local direct = mysql.connect(helper.address(server.port))
    local wire = helper.wire(server.port)
    local db = mysql.connect(helper.address(wire.port))
    db:ping()
    local before = counters()
    local looked = false
    wire.on_client = function(data)
      looked = looked or data:find("processlist", 1, true) ~= nil
      return data
    end
    fails("timeout", function() db:with { timeout_ms = 200 }:one(ENDLESS) end)
    test.eventually(function() return looked end, 60000)
    -- The next one can't ask: nobody answers.
    local hasty = mysql.connect(helper.address(wire.port), { connect_ms = 500, timeout_ms = 60000 })
    hasty:ping()
    local find = "SELECT id FROM information_schema.processlist WHERE info = ?"
    test.equal(#direct:rows(find, ENDLESS), 1)
    wire.on_server = function() end
    fails("timeout", function() hasty:with { timeout_ms = 200 }:one(ENDLESS) end)
    test.eventually(function()
      return counters().mysql_stop_failed - before.mysql_stop_failed == 1
    end, 60000)
    test.equal(counters().mysql_stopped, before.mysql_stopped)
    for _, row in ipairs(direct:rows(find, ENDLESS)) do direct:execute("KILL " .. row.id) end
    hasty:close()
    db:close()
    wire:close()
    direct:close()
  end)

with_server("a connection that the server closes while it is idle is not used again", function(server)
  local db = mysql.connect(helper.address(server.port), { pool = 2 })
  local other = mysql.connect(helper.address(server.port), { pool = 1 })
  local id = db:one("SELECT connection_id() AS id").id
  other:execute("KILL " .. id)
  test.eventually(function() return db:stats().open == 0 end)
  test.ok(db:one("SELECT connection_id() AS id").id ~= id)
  -- And one that is in use is lost, with its transaction.
  make_table(other, "note", "id INTEGER PRIMARY KEY")
  local problem = fails("unavailable", function()
    db:transaction(function(tx)
      tx:execute "INSERT INTO note VALUES (1)"
      other:execute("KILL " .. tx:one("SELECT connection_id() AS id").id)
      perilune.sleep(50)
      tx:execute "INSERT INTO note VALUES (2)"
    end)
  end)
  test.equal(problem.outcome, "not_applied")
  test.equal(other:one "SELECT count(*) AS n FROM note", { n = 0 })
  db:close()
  other:close()
end)

-- What is no server -----------------------------------------------------------------------------

-- Bytes that begin like a greeting, and then go wrong.
local function packet(payload)
  local size = #payload
  return string.char(size % 256, math.floor(size / 256) % 256, math.floor(size / 65536), 0) .. payload
end

local GARBAGE = {
  nothing = "", text = "HTTP/1.0 400 Bad Request\r\n\r\n", zeros = ("\0"):rep(200),
  ones = ("\255"):rep(200), empty = packet "", huge = "\255\255\255\0", short = packet "\10",
  old = packet "\9old\0", failure = packet "\255\16\4#08004Too many connections",
  cut = packet("\10" .. ("8"):rep(60)):sub(1, 20), wide = packet("\10" .. ("v"):rep(5000)),
  no_scramble = packet("\10v\0\1\0\0\0" .. ("s"):rep(8) .. "\0\255\255"),
  bad_length = packet("\10v\0\1\0\0\0" .. ("s"):rep(8) .. "\0\255\255\33\2\0\255\255\255" ..
    ("\0"):rep(10) .. ("s"):rep(12)),
  sequence = "\5\0\0\77hello",
}

for name, bytes in pairs(GARBAGE) do
  for _, ending in ipairs { "closes", "stays" } do
    test(("mysql: garbage from the port is refused: %s, and then it %s"):format(name, ending), function()
      local listener = assert(socket.listen {
        framing = "raw",
        on_open = function(connection)
          if bytes ~= "" then connection:write(bytes) end
          if ending == "closes" then connection:close() end
        end,
      })
      local db = mysql.connect(helper.address(listener.port), { timeout_ms = 400, connect_ms = 200 })
      local problem = test.raises(function() db:one("SELECT ?", 1) end)
      -- Some of it asks for a proof of the password that is never given.
      test.ok(problem.code == "unavailable" or problem.code == "denied", tostring(problem))
      test.equal(problem.outcome, "not_applied")
      test.ok(not problem.message:find("p@ss", 1, true), problem.message)
      db:close()
      listener:close()
      test.eventually(function() return counters().mysql_connections == 0 end)
    end)
  end
end

with_server("a server that trickles is given up at the limit, and so is one that is silent",
  function(server)
    for _, silent in ipairs { true, false } do
      local wire = helper.wire(server.port)
      wire.on_server = function(data)
        if silent then return nil end
        for i = 1, #data do
          perilune.sleep(40)
          if i == #data then return nil end
        end
      end
      local db = mysql.connect(helper.address(wire.port), { timeout_ms = 2000, connect_ms = 300 })
      local failed = counters().mysql_connect_failed
      fails("unavailable", function() db:ping() end)
      test.ok(counters().mysql_connect_failed > failed)
      db:close()
      wire:close()
      test.eventually(function() return counters().mysql_connections == 0 end)
    end
  end)

with_server("an answer that is cut anywhere, or damaged, never reaches a task as a good one",
  function(server)
    local direct = mysql.connect(helper.address(server.port))
    make_table(direct, "many", "n INTEGER, t VARCHAR(100)")
    for i = 1, 50 do direct:execute("INSERT INTO many VALUES (?, ?)", i, ("x"):rep(100)) end
    local wire = helper.wire(server.port)
    local db = mysql.connect(helper.address(wire.port), { timeout_ms = 5000, pool = 1 })
    local whole = 0
    wire.on_server = function(data)
      whole = whole + #data
      return data
    end
    db:ping()
    whole = 0
    test.equal(#db:rows("SELECT * FROM many WHERE n > ?", 0), 50)
    local size = whole
    for round = 1, helper.scale(20, 200) do
      local place = 1 + (round * 2654435761) % (size - 1)
      local passed, armed = 0, false
      wire.on_server = function(data, cut)
        if not armed then return data end
        if passed + #data < place then
          passed = passed + #data
          return data
        end
        perilune.timeout(0, cut)
        return data:sub(1, place - passed - 1)
      end
      db:ping()
      armed = true
      fails("unavailable", function() db:rows("SELECT * FROM many WHERE n > ?", 0) end)
    end
    wire.on_server = function(data) return data end
    test.equal(#db:rows("SELECT * FROM many WHERE n > ?", 0), 50)
    db:close()
    wire:close()
    direct:close()
  end)

-- Whether a write was applied -------------------------------------------------------------------

with_server("a COMMIT whose answer is lost is unknown, and an id of the operation settles it",
  function(server)
    local direct = mysql.connect(helper.address(server.port))
    make_table(direct, "operation", "id INTEGER PRIMARY KEY")
    make_table(direct, "account", "id INTEGER PRIMARY KEY, gold BIGINT")
    direct:execute "INSERT INTO account VALUES (1, 0)"
    local wire = helper.wire(server.port)
    local db = mysql.connect(helper.address(wire.port), { timeout_ms = 5000 })
    local rounds, unknown, applied = helper.scale(30, 500), 0, 0
    for id = 1, rounds do
      local cut_at = id % 3 -- before the server has it; after it has answered; not at all
      wire.on_client = function(data, cut)
        if not data:find("COMMIT", 1, true) or cut_at == 0 then return data end
        if cut_at == 1 then
          perilune.timeout(0, cut)
          return nil
        end
        wire.on_server = function()
          wire.on_server = function(answer) return answer end
          perilune.timeout(0, cut)
        end
        return data
      end
      local done
      while not done do
        local ok, problem = pcall(db.transaction, db, function(tx)
          tx:execute("INSERT INTO operation VALUES (?)", id)
          tx:execute("UPDATE account SET gold = gold + ? WHERE id = 1", id)
        end)
        if ok then
          done = true
        else
          test.equal(problem.outcome, "unknown", tostring(problem))
          unknown = unknown + 1
          cut_at = 0
          done = direct:one("SELECT 1 AS x FROM operation WHERE id = ?", id) ~= nil
          if done then applied = applied + 1 end
        end
      end
    end
    -- None is lost and none is there twice.
    test.equal(direct:one "SELECT gold FROM account".gold, rounds * (rounds + 1) / 2)
    test.equal(direct:one "SELECT count(*) AS n FROM operation".n, rounds)
    test.equal(unknown, rounds - math.floor(rounds / 3))
    test.ok(applied > 0 and applied < unknown, applied)
    db:close()
    wire:close()
    direct:close()
  end)

with_server("a single write is unknown once it was sent, and not applied before", function(server)
  local direct = mysql.connect(helper.address(server.port))
  make_table(direct, "note", "id INTEGER PRIMARY KEY")
  local wire = helper.wire(server.port)
  local db = mysql.connect(helper.address(wire.port), { timeout_ms = 5000, pool = 1 })
  local function cut_at(text)
    wire.on_client = function(data, cut)
      if not data:find(text, 1, true) then return data end
      wire.on_client = function(rest) return rest end
      perilune.timeout(0, cut)
    end
  end
  db:ping()
  cut_at "INSERT INTO note VALUES (1)"
  test.equal(fails("unavailable", function() db:execute "INSERT INTO note VALUES (1)" end).outcome,
    "unknown")
  -- It is lost while it is prepared: nothing has run.
  db:ping()
  cut_at "INSERT INTO note VALUES (?)"
  test.equal(fails("unavailable", function() db:execute("INSERT INTO note VALUES (?)", 2) end).outcome,
    "not_applied")
  -- The server's refusal is an answer.
  direct:execute "INSERT INTO note VALUES (3)"
  test.equal(fails("exists", function() db:execute("INSERT INTO note VALUES (?)", 3) end).outcome,
    "not_applied")
  -- Where the wire is cut within a transaction nothing of it stays.
  db:ping()
  cut_at "(5)"
  test.equal(fails("unavailable", function()
    db:transaction(function(tx)
      tx:execute "INSERT INTO note VALUES (4)"
      tx:execute "INSERT INTO note VALUES (5)"
    end)
  end).outcome, "not_applied")
  test.equal(direct:rows "SELECT id FROM note", { { id = 3 } })
  db:close()
  wire:close()
  direct:close()
end)

-- Services that end -----------------------------------------------------------------------------

with_server("a service that ends in the midst of a transaction leaves nothing of it", function(server)
  local db = mysql.connect(helper.address(server.port))
  make_table(db, "note", "id INTEGER PRIMARY KEY")
  local before = counters().mysql_connections
  for _, ending in ipairs { "kill", "stop" } do
    for _, group in ipairs { false, "users" } do
      local user = perilune.spawn("sql_user", { address = helper.address(server.port) },
        group and { group = group } or nil)
      perilune.send(user, "write_and_wait")
      test.eventually(function() return perilune.call(user, "has_begun") end)
      perilune[ending](user)
      test.eventually(function() return counters().mysql_connections == before end)
      -- A row of a transaction that is still open would be locked.
      db:execute "INSERT INTO note VALUES (1)"
      db:execute "DELETE FROM note"
    end
  end
  db:close()
end)

with_server("a service that ends in the midst of a query or while it connects leaves nothing",
  function(server)
    local user = perilune.spawn("sql_user", { address = helper.address(server.port) })
    perilune.send(user, "ask", "SELECT sleep(600)")
    test.eventually(function() return perilune.call(user, "has_begun") end)
    test.eventually(function() return counters().mysql_connections == 1 end)
    local busy = counters().mysql_closed_busy
    perilune.sleep(50)
    perilune.kill(user)
    test.eventually(function() return counters().mysql_connections == 0 end)
    test.ok(counters().mysql_closed_busy - busy <= 1)
    local silent = assert(socket.listen { framing = "raw" })
    user = perilune.spawn("sql_user", { address = helper.address(silent.port) })
    perilune.send(user, "ask", "SELECT 1")
    test.eventually(function() return counters().mysql_connections == 1 end)
    perilune.kill(user)
    test.eventually(function() return counters().mysql_connections == 0 end)
    silent:close()
  end)

with_server("an answer that a service has no memory for ends that service alone", function(server)
  local db = mysql.connect(helper.address(server.port))
  local user = perilune.spawn("sql_user", { address = helper.address(server.port) },
    { memory_mb = 8 })
  local problem = test.raises(function()
    perilune.call_within(60000, user, "ask", "SELECT seq, repeat('x', 200) FROM seq_1_to_300000")
  end)
  test.ok(problem.code == "dead" or tostring(problem):find "memory", tostring(problem))
  test.equal(db:one("SELECT ? AS n", 1), { n = 1 })
  db:close()
  pcall(perilune.kill, user)
  test.eventually(function() return counters().mysql_connections == 0 end)
end)

-- A socket that the library had closed was shut down once more, when its number was another's.
with_server("statements that end disturb no connections that are being made", function()
  -- The first server of the file would have too many until they are ended.
  local server = servers.start("mysql", { "--max-connections=1000" })
  local before, stop, running = counters(), false, 4
  local patient = { connect_ms = 60000, timeout_ms = 60000 }
  for _ = 1, running do
    perilune.fork(function()
      while not stop do
        local db = mysql.connect(helper.address(server.port), patient)
        db:ping()
        db:close()
      end
      running = running - 1
    end)
  end
  local db = mysql.connect(helper.address(server.port), { connect_ms = 60000, timeout_ms = 20 })
  for _ = 1, helper.scale(40) do
    helper.at_once(8, function() test.raises(function() db:one "SELECT sleep(600)" end) end)
  end
  stop = true
  test.eventually(function() return running == 0 end, 60000)
  local after = counters()
  for _, name in ipairs { "connect_failed", "lost" } do
    test.equal(after["mysql_" .. name], before["mysql_" .. name], name)
  end
  db:close()
  local direct = mysql.connect(helper.address(server.port), patient)
  test.eventually(function() return under_way(direct, "SELECT sleep") == 0 end, 60000)
  direct:close()
  server:close()
end)

return test
