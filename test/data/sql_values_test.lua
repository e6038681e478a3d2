-- What is stored comes back as it was, whatever its type and its bytes; and a value is never SQL.

local cjson = require "cjson"
local codec = require "perilune.codec"
local helper = require "sql_helper"
local test = require "perilune.test"

local fails, make_table = helper.fails, helper.make_table

-- What is stored, by what kind of column, and what comes back where that is something else.
local VALUES = {
  -- Integers.
  { "integer", 0 }, { "integer", 1 }, { "integer", -1 }, { "integer", 127 }, { "integer", -128 },
  { "integer", 65535 }, { "integer", 2147483647 }, { "integer", -2147483648 },
  { "integer", 4294967296 }, { "integer", 2 ^ 53 }, { "integer", -2 ^ 53 },
  { "integer", "9007199254740993" }, { "integer", "-9007199254740993" },
  { "integer", "9223372036854775807" }, { "integer", "-9223372036854775808" },
  { "integer", true, 1 }, { "integer", false, 0 }, { "integer", nil },
  -- Floating point.
  { "double", 0.5 }, { "double", 0.1 }, { "double", -1e300 }, { "double", 5e-324 },
  { "double", 1.7976931348623157e308 }, { "double", 2 ^ 60 }, { "double", nil },
  -- Texts: empty, control characters, several planes of Unicode, what could be SQL.
  { "text", "" }, { "text", "plain" }, { "text", " blanks  " }, { "text", "a\0b" },
  { "text", "line\nline\r\ttab" }, { "text", "\1\31\127" }, { "text", "quote ' and \" and `" },
  { "text", "back\\slash \\' \\0" }, { "text", "100%_?" }, { "text", "; DROP TABLE stored; --" },
  { "text", "안녕하세요 세계" }, { "text", "こんにちは、世界 ｶﾅ" }, { "text", "你好，世界" },
  { "text", "🎮👩‍👩‍👧‍👦🏳️‍🌈" }, { "text", "e\204\129 é" }, { "text", "مرحبا שלום" },
  { "text", ("x"):rep(1000) }, { "text", ("漢"):rep(20000) }, { "text", "0x41" }, { "text", "NULL" },
  { "text", "1e3" }, { "text", nil },
  -- Bytes.
  { "bytes", "\0" }, { "bytes", "\0\0\0" }, { "bytes", "\255\254\253" }, { "bytes", "\192\128" },
  { "bytes", "\237\160\128" }, { "bytes", ("\0\255"):rep(50000) }, { "bytes", "ascii" },
  { "bytes", nil },
  -- Exact decimals and dates, which are texts.
  { "decimal", "12345678901234567890.123456789" }, { "decimal", "-0.000000001" },
  { "decimal", "99999999999999999999.999999999" },
  { "date", "2024-02-29" }, { "date", "9999-12-31" }, { "date", "0001-01-01" },
  { "datetime", "2024-02-29 23:59:59.123456" }, { "datetime", "1970-01-01 00:00:00.000001" },
}
-- All bytes that there are.
local all = {}
for byte = 0, 255 do all[#all + 1] = string.char(byte) end
VALUES[#VALUES + 1] = { "bytes", table.concat(all) }
-- Structures.
local STRUCTURE = { name = "ヒーロー", level = 7, items = { "⚔️", "🛡" }, nested = { { {} } } }
VALUES[#VALUES + 1] = { "text", cjson.encode(STRUCTURE) }
VALUES[#VALUES + 1] = { "bytes", codec.pack(STRUCTURE, true, 2 ^ 53) }

local COLUMNS = {
  mysql = {
    integer = "BIGINT", double = "DOUBLE", text = "LONGTEXT", bytes = "LONGBLOB",
    decimal = "DECIMAL(29, 9)", date = "DATE", datetime = "DATETIME(6)",
  },
  sqlite = {
    integer = "INTEGER", double = "REAL", text = "TEXT", bytes = "BLOB", decimal = "TEXT",
    date = "TEXT", datetime = "TEXT",
  },
}

helper.both("60 values come back as they were, by each protocol and shape", nil,
  function(db, kind)
    test.ok(#VALUES >= 60, #VALUES)
    local columns = {}
    for name, sql_type in pairs(COLUMNS[kind]) do columns[#columns + 1] = name .. "_ " .. sql_type end
    make_table(db, "stored", "id INTEGER PRIMARY KEY, " .. table.concat(columns, ", "))
    for id, entry in ipairs(VALUES) do
      local column, value, wanted = entry[1] .. "_", entry[2], entry[3]
      if wanted == nil then wanted = value end
      local name = ("%s %d: %s"):format(column, id, tostring(value):sub(1, 50))
      db:execute(("INSERT INTO stored (id, %s) VALUES (?, ?)"):format(column), id, value)
      local prepared = ("SELECT %s FROM stored WHERE id = ?"):format(column)
      local plain = ("SELECT %s FROM stored WHERE id = %d"):format(column, id)
      test.ok(db:one(prepared, id)[column] == wanted, name .. ", prepared")
      test.ok(db:one(plain)[column] == wanted, name .. ", plain")
      test.ok(db:query(prepared, id)[1][1] == wanted, name .. ", in a list")
      if value ~= nil and entry[1] ~= "double" then
        local found = ("SELECT id FROM stored WHERE id = ? AND %s = ?"):format(column)
        test.equal(db:one(found, id, value), { id = id }, name .. ", found by its value")
      end
    end
    test.equal(db:one "SELECT count(*) AS n FROM stored".n, #VALUES)
  end)

helper.both("values stay values in every text field, whatever SQL they hold", nil, function(db)
  local columns = {}
  for i = 1, 8 do columns[i] = ("t%d VARCHAR(200)"):format(i) end
  make_table(db, "victim", "id INTEGER PRIMARY KEY, " .. table.concat(columns, ", "))
  db:execute "INSERT INTO victim (id, t1) VALUES (0, 'bystander')"
  local attacks = {
    "' OR '1'='1", "'; DROP TABLE victim; --", "\"; DROP TABLE victim; --", "\\'; DROP TABLE victim; -- ",
    "' UNION SELECT id, t1 FROM victim --", "1; DELETE FROM victim", "'/*", "*/ OR 1=1 /*", "`", "\\",
    "' AND sleep(10) --", "x' || (SELECT t1 FROM victim) || '", "?", "?, ?", ":name", "@variable",
    "%s", "\191' OR 1=1 --", "\240\159\146'", "' OR 1=1 LIMIT 1 -- \0 more", "0x27204f5220313d31",
    "CHAR(39)", "{\"a\": \"' OR 1=1\"}", "＇ OR １＝１", "ʼ OR 1=1 --",
  }
  for id, attack in ipairs(attacks) do
    -- What is no UTF-8 is refused by MySQL for a column of text, and kept by SQLite.
    local ok, problem = pcall(db.execute, db, "INSERT INTO victim VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
      id, attack, attack, attack, attack, attack, attack, attack, attack)
    if not ok then
      test.equal(problem.code, "invalid", attack)
    else
      local row = db:one("SELECT * FROM victim WHERE id = ?", id)
      for i = 1, 8 do test.equal(row["t" .. i], attack) end
      test.equal(db:rows("SELECT id FROM victim WHERE t3 = ? AND t7 = ?", attack, attack),
        { { id = id } })
      test.equal(db:execute("UPDATE victim SET t1 = ? WHERE t1 = ?", attack, attack), 1)
      test.equal(db:execute("DELETE FROM victim WHERE t8 = ?", attack), 1)
    end
    test.equal(db:rows "SELECT id, t1 FROM victim", { { id = 0, t1 = "bystander" } }, attack)
  end
  -- And a statement is one statement.
  fails("invalid", function() db:execute "DELETE FROM victim; DELETE FROM victim" end)
  test.equal(db:one "SELECT count(*) AS n FROM victim".n, 1)
end)

helper.mysql("all types of columns come as they are documented", nil, function(db)
  make_table(db, "typed", [[
    id INT PRIMARY KEY, ti TINYINT, tu TINYINT UNSIGNED, si SMALLINT, su SMALLINT UNSIGNED,
    mi MEDIUMINT, mu MEDIUMINT UNSIGNED, ii INT, iu INT UNSIGNED, bi BIGINT, bu BIGINT UNSIGNED,
    zf INT(6) ZEROFILL, yy YEAR, b1 BIT(1), b8 BIT(8), b64 BIT(64), ff FLOAT, dd DOUBLE,
    de DECIMAL(30, 10), d0 DECIMAL(5, 0), da DATE, dt DATETIME, dt3 DATETIME(3), ts TIMESTAMP(6) NULL,
    tm TIME, tm6 TIME(6), ch CHAR(5), vc VARCHAR(20), bn BINARY(4), vb VARBINARY(20), bl BLOB,
    tx TEXT, en ENUM('a', 'b'), st SET('x', 'y', 'z'), js JSON, bo BOOLEAN, ge POINT]])
  local wanted = {
    id = 1, ti = -128, tu = 255, si = -32768, su = 65535, mi = -8388608, mu = 16777215,
    ii = -2147483648, iu = 4294967295, bi = "-9223372036854775808", bu = "18446744073709551615",
    zf = 42, yy = 2024, b1 = 1, b8 = 165, b64 = "18446744073709551615", ff = 0.1, dd = 0.1,
    de = "12345678901234567890.0123456789", d0 = "-99999", da = "2024-02-29",
    dt = "2024-02-29 12:34:56", dt3 = "2024-02-29 12:34:56.789", ts = "2024-02-29 12:34:56.000001",
    tm = "-838:59:59", tm6 = "01:02:03.000004", ch = "abc", vc = "vär", bn = "a\0\0\0", vb = "\0\1",
    bl = "\0\255", tx = "テキスト", en = "b", st = "x,z", js = '{"a": [1, "日本"]}', bo = 1,
    ge = "\0\0\0\0\1\1\0\0\0\0\0\0\0\0\0\240?\0\0\0\0\0\0\0@",
  }
  db:execute([[INSERT INTO typed VALUES (1, -128, 255, -32768, 65535, -8388608, 16777215, -2147483648,
    4294967295, ?, ?, 42, 2024, b'1', b'10100101', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    ?, ?, ?, ST_GeomFromText('POINT(1 2)'))]], wanted.bi, wanted.bu,
    "\255\255\255\255\255\255\255\255", 0.1, 0.1, wanted.de, -99999, wanted.da, wanted.dt, wanted.dt3,
    wanted.ts, wanted.tm, wanted.tm6, "abc", "vär", "a", "\0\1", "\0\255", wanted.tx, "b", "x,z",
    wanted.js, true)
  test.equal(db:one("SELECT * FROM typed WHERE id = ?", 1), wanted)
  test.equal(db:one "SELECT * FROM typed", wanted)
  db:execute "INSERT INTO typed (id) VALUES (2)"
  test.equal(db:one("SELECT * FROM typed WHERE id = ?", 2), { id = 2 })
  test.equal(db:one "SELECT * FROM typed WHERE id = 2", { id = 2 })
  -- What expressions are.
  local plain = db:one "SELECT 1 AS a, 1.50 AS b, 1e0 AS c, NULL AS d, 'x' AS e, 2 > 1 AS f, NOW(6) AS g"
  local prepared = db:one(
    "SELECT 1 AS a, 1.50 AS b, 1e0 AS c, NULL AS d, 'x' AS e, 2 > 1 AS f, NOW(6) AS g FROM dual WHERE ?",
    1)
  test.equal(#plain.g, #prepared.g)
  plain.g, prepared.g = nil, nil
  test.equal(plain, { a = 1, b = "1.50", c = 1, e = "x", f = 1 })
  test.equal(prepared, plain)
end)

helper.mysql("dates that are no dates come as they are", nil, function(db)
  db:transaction(function(tx)
    tx:execute "SET SESSION sql_mode = ''"
    tx:execute "CREATE TEMPORARY TABLE zero (d DATE, t DATETIME, u TIME)"
    tx:execute "INSERT INTO zero VALUES ('0000-00-00', '0000-00-00 00:00:00', '00:00:00')"
    local wanted = { d = "0000-00-00", t = "0000-00-00 00:00:00", u = "00:00:00" }
    test.equal(tx:one "SELECT * FROM zero", wanted)
    test.equal(tx:one("SELECT * FROM zero WHERE ?", 1), wanted)
    tx:execute "SET SESSION sql_mode = DEFAULT"
  end)
end)

helper.mysql("text is utf8mb4 on each connection, and what isn't UTF-8 is refused", nil, function(db)
  make_table(db, "texts", "t VARCHAR(20) CHARACTER SET utf8mb4, l VARCHAR(20) CHARACTER SET latin1")
  for _ = 1, 3 do
    test.equal(db:one("SELECT @@character_set_client AS a, @@character_set_connection AS b, " ..
      "@@character_set_results AS c"), { a = "utf8mb4", b = "utf8mb4", c = "utf8mb4" })
  end
  db:execute("INSERT INTO texts VALUES (?, ?)", "👍", "é")
  test.equal(db:one "SELECT t, hex(t) AS h, l, hex(l) AS i FROM texts",
    { t = "👍", h = "F09F918D", l = "é", i = "E9" })
  fails("invalid", function() db:execute("INSERT INTO texts (t) VALUES (?)", "\255") end)
  fails("invalid", function() db:execute("INSERT INTO texts (l) VALUES (?)", "👍") end)
end)

helper.sqlite("values keep the type they were given", nil, function(db)
  make_table(db, "anything", "v")
  for value, kind in pairs {
    [7] = "integer", [7.5] = "real", ["7"] = "text", ["\255"] = "blob", [true] = "integer",
    [2 ^ 53 + 2] = "real", [""] = "text",
  } do
    db:execute("INSERT INTO anything VALUES (?)", value)
    test.equal(db:one "SELECT typeof(v) AS t FROM anything", { t = kind }, tostring(value))
    db:execute "DELETE FROM anything"
  end
  test.equal(db:one "SELECT 'x' AS t, x'00ff' AS b, 1.0 AS r, NULL AS n",
    { t = "x", b = "\0\255", r = 1 })
end)

return test
