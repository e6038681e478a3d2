-- A server, or whoever sits between, that sends what no server sends: it costs its connection,
-- never the node.

local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local perilune = require "perilune"
local test = require "perilune.test"

local ROUNDS = tonumber(perilune.env "PERILUNE_FLIPS") or helper.scale(300, 5000)

-- All kinds of answers: rows of each type as text and as binary, columns that are known already,
-- OK, several results, an error.
local COLUMNS = [[1 AS a, NULL AS b, 'text' AS c, CAST(1.5 AS DOUBLE) AS d, 12.50 AS e,
  CAST('2024-02-29' AS DATE) AS f, CAST('12:34:56.123' AS TIME(3)) AS g,
  CAST('2024-02-29 12:34:56.123456' AS DATETIME(6)) AS h, b'101' AS i, repeat('x', 300) AS j,
  CAST(x'00ff' AS BINARY) AS k, id, small, real_one]]
local STATEMENTS = {
  { "SELECT " .. COLUMNS .. " FROM flipped" },
  { "SELECT " .. COLUMNS .. " FROM flipped WHERE id >= ?", 1 },
  { "SELECT " .. COLUMNS .. " FROM flipped WHERE id >= ?", 2 },
  { "UPDATE flipped SET small = ? WHERE id = ?", 7, 3 },
  { "UPDATE flipped SET small = 8 WHERE id = 4" },
  { "CALL flipped_twice()" },
  { "CALL flipped_twice(?)", 1 },
  { "SELECT nothing FROM flipped WHERE id = ?", 1 },
}

local function make_tables(db)
  helper.make_table(db, "flipped", "id INTEGER PRIMARY KEY, small TINYINT, real_one FLOAT")
  db:execute "INSERT INTO flipped VALUES (1, 1, 0.1), (2, NULL, NULL), (3, 3, 3.5), (4, 4, 4)"
  db:execute "DROP PROCEDURE IF EXISTS flipped_twice"
  db:execute "CREATE PROCEDURE flipped_twice() BEGIN SELECT id FROM flipped; SELECT 1; END"
end

-- Changes one byte of what passes, or two, from byte `from` of a connection on.
local function flipping(from)
  local passed, left = 0, math.random(2)
  return function(data)
    local first = passed
    passed = passed + #data
    if left == 0 or passed <= from then return data end
    left = left - 1
    local at = math.random(math.max(from - first + 1, 1), #data)
    from = passed + math.random(0, 200)
    return data:sub(1, at - 1) .. string.char(math.random(0, 255)) .. data:sub(at + 1)
  end
end

helper.with_server("bytes of answers that are changed on their way end in an error or a result",
  function(server)
    local direct = mysql.connect(helper.address(server.port))
    make_tables(direct)
    local wire = helper.wire(server.port)
    local before = perilune.node().counters
    local seed = tonumber(perilune.env "PERILUNE_SEED") or os.time()
    perilune.log.info("changing bytes in %d rounds, seed %d", ROUNDS, seed)
    math.randomseed(seed)
    local ended = { done = 0, failed = 0 }
    for _ = 1, ROUNDS do
      wire.on_server = flipping(math.random(0, 4000))
      local db = mysql.connect(helper.address(wire.port),
        { pool = 1, timeout_ms = 150, connect_ms = 100 })
      for _ = 1, 4 do
        local ok, problem = pcall(db.query, db, unpack(STATEMENTS[math.random(#STATEMENTS)]))
        if not ok then test.equal(type(problem), "table", tostring(problem)) end
        local key = ok and "done" or "failed"
        ended[key] = ended[key] + 1
      end
      db:close()
    end
    test.equal(ended.done + ended.failed, ROUNDS * 4)
    local counters = perilune.node().counters
    test.ok(ended.done > 0 and counters.mysql_malformed > before.mysql_malformed, ended.done)
    perilune.log.info("%d done, %d failed, %d connections malformed", ended.done, ended.failed,
      counters.mysql_malformed - before.mysql_malformed)
    test.equal(#direct:query "SELECT id FROM flipped", 4)
    direct:close()
    wire:close()
  end)

return test
