-- Declarations of tables and statements, and files of migrations, without a database.
local migrations = require "dbproxy.migrations"
local schema = require "dbproxy.schema"
local test = require "perilune.test"

local TABLES = { hero = { key = "uid", columns = "uid u32, name text(8)?" } }

local function compile(declaration) return schema.compile({ script = declaration }, "sqlite") end

local function refuses(declaration, pattern)
  test.raises(function() compile(declaration) end, pattern)
end

local function statement(text, more)
  local declared = more or {}
  declared[1] = text
  declared.parameters = declared.parameters or "uid u32, name text(8)?"
  declared.touches = declared.touches or {}
  return { tables = TABLES, statements = { one = declared } }
end

local function sql_of(text) return compile(statement(text)).statements.one end

test("named parameters become ? in the order of the text", function()
  local found = sql_of "UPDATE hero SET name = :name, uid = :uid WHERE uid = :uid AND a = b/c - d"
  test.equal(found.sql, "UPDATE hero SET name = ?, uid = ? WHERE uid = ? AND a = b/c - d")
  test.equal(found.order, { "name", "uid", "uid" })
  test.ok(not found.is_read)
  test.ok(sql_of(" select 1").is_read)
  test.ok(sql_of("INSERT INTO hero (uid) VALUES (:uid)").is_insert)
end)

test("what stands in quotes stays as it is", function()
  for _, text in ipairs { "SELECT ':uid'", "SELECT 'it''s ? ; -- :uid'", "SELECT \":uid ;\"",
    "SELECT `:uid` FROM hero" } do
    local found = sql_of(text)
    test.equal({ found.sql, found.order }, { text, {} })
  end
end)

test("a statement that could be more than one, or hides its values, is refused", function()
  for text, pattern in pairs {
    ["SELECT ?"] = "values are :names", ["SELECT 1; DROP TABLE hero"] = "second statement",
    ["SELECT 1 -- x"] = "no comments", ["SELECT 1 /* x */"] = "no comments",
    ["SELECT 1 # x"] = "no comments", ["SELECT 'a"] = "isn't closed",
    ["SELECT 'a\\' :uid'"] = "within quotes", ["SELECT :other"] = "no parameter other",
  } do
    refuses(statement(text), pattern)
  end
  refuses(statement(nil), "no text for sqlite")
  refuses({ tables = TABLES, statements = { one = { "DELETE FROM hero" } } }, "touches")
  refuses(statement("SELECT 1", { rows = "nobody" }), "no table nobody")
  refuses(statement("SELECT 1", { touches = { hero = "other" } }), "no parameter other")
  refuses(statement("SELECT 1", { touch = {} }), "unknown key touch")
end)

test("a statement may have a text for each database", function()
  local declaration = statement(nil, { sqlite = "SELECT 1", mysql = "SELECT 2" })
  for dialect, text in pairs { sqlite = "SELECT 1", mysql = "SELECT 2" } do
    test.equal(schema.compile({ script = declaration }, dialect).statements.one.sql, text)
  end
end)

test("a table that can't be is refused", function()
  local function table_of(columns, more)
    local declared = more or {}
    declared.key, declared.columns = declared.key or "uid", columns
    return { tables = { hero = declared } }
  end
  refuses(table_of "uid u32, uid u32", "there are two uid")
  refuses(table_of "uid int", "unknown type \"int\"")
  refuses(table_of "uid u32(5)", "text, bytes, json and table have a size")
  refuses(table_of "uid text", "text, bytes, json and table have a size")
  refuses(table_of "uid", "isn't \"name type\"")
  refuses(table_of "Uid u32", "small letters")
  refuses(table_of "uid u32?", "the key can't be NULL")
  refuses(table_of("a u32", { key = "b" }), "there is no column b")
  refuses(table_of("uid u32, a text(1)", { owner = "a" }), "owner is an integer")
  refuses(table_of("uid u32", { unique = { "b" } }), "unique: there is no column b")
  refuses(table_of("uid u32", { index = "a" }), "unknown key index")
  refuses({ tables = { ["a`b"] = TABLES.hero } }, "small letters")
  refuses({ tabels = {} }, "unknown key tabels")
  test.raises(function()
    schema.compile({ one = { tables = TABLES }, two = { tables = TABLES } }, "sqlite")
  end, "hero is in")
end)

test("a file of migrations is cut into its statements", function()
  for text, wanted in pairs {
    [""] = {}, [" ;; \n"] = {}, ["-- only a comment; not a statement"] = {},
    ["a;b"] = { "a", "b" }, ["a;\n-- c;d\nb;\n"] = { "a", "b" },
    ["a 'x;y' ;b \"p;q\""] = { "a 'x;y'", "b \"p;q\"" },
    ["a /* ; */ b; c - d / e"] = { "a   b", "c - d / e" },
    ["a 'it''s; -- no comment'; `b;c`"] = { "a 'it''s; -- no comment'", "`b;c`" },
    ["a 'never closed; b"] = { "a 'never closed; b" }, ["a -- x\n, b"] = { "a  , b" },
  } do
    test.equal(migrations.split(text), wanted, text)
  end
end)

return test
