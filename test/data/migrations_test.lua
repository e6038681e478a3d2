-- Changes of tables at the start of dbproxy: once each, in order, by one node at a time.
local file = require "perilune.file"
local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local perilune = require "perilune"
local servers = require "servers"
local sqlite = require "perilune.sqlite"
local test = require "perilune.test"

local count = 0

-- Files of migrations for both kinds of databases in the data folder, which is a folder of scripts.
local function write_files(files)
  for _, dialect in ipairs { "sqlite", "mysql" } do
    local folder = "migrations/" .. dialect
    for _, name in ipairs(file.list(folder) or {}) do assert(file.remove(folder .. "/" .. name)) end
    assert(file.mkdir(folder))
    for name, text in pairs(files) do assert(file.write(folder .. "/" .. name, text)) end
  end
end

local function start(database, name)
  return perilune.spawn("dbproxy",
    { database = database, journal = "sqlite::memory:", tables = {} }, { name = name or "dbproxy" })
end

local function starts(database) perilune.stop(start(database)) end

local function refuses(database, pattern)
  test.raises(function() starts(database) end, pattern)
end

-- Registers a test of body(database, query) for each kind.
local function both(name, body)
  test.add("sqlite: " .. name, function()
    count = count + 1
    local path = ("migrated%d.db"):format(count)
    body("sqlite:" .. path, function(text)
      local db = sqlite.open(path)
      local rows = db:rows(text)
      db:close()
      return rows
    end, "sqlite")
    write_files {}
  end, 120000)
  local why = servers.missing "mysql"
  if why then return test.skip("mysql: " .. name, why) end
  test.add("mysql: " .. name, function()
    count = count + 1
    local port, database = helper.server().port, "migrated" .. count
    local direct = mysql.connect(helper.address(port))
    direct:execute("CREATE DATABASE " .. database)
    direct:close()
    local url = helper.address(port, nil, database)
    body(url, function(text)
      local db = mysql.connect(url)
      local rows = db:rows(text)
      db:close()
      return rows
    end, "mysql")
    write_files {}
  end, 120000)
end

local MAKE = "CREATE TABLE seen (word VARCHAR(20) NOT NULL);\n"

local function insert(word) return ("INSERT INTO seen (word) VALUES ('%s');\n"):format(word) end

local QUOTED = insert "b;''" -- the word b;'

local function words(query)
  local found = {}
  for i, row in ipairs(query "SELECT word FROM seen ORDER BY word") do found[i] = row.word end
  return found
end

both("each file is applied once, in the order of the numbers", function(database, query)
  write_files { ["2002_b.sql"] = QUOTED, ["2001_a.sql"] = MAKE .. insert "a" }
  starts(database)
  test.equal(words(query), { "a", "b;'" })
  starts(database)
  test.equal(words(query), { "a", "b;'" })
  write_files { ["2001_a.sql"] = MAKE .. insert "a", ["2003_c.sql"] = "-- more;\n" .. insert "c",
    ["2002_b.sql"] = QUOTED }
  starts(database)
  test.equal(words(query), { "a", "b;'", "c" })
  local numbers = {}
  for i, row in ipairs(query "SELECT number FROM migrations WHERE number > 1000 ORDER BY number") do
    numbers[i] = row.number
  end
  test.equal(numbers, { 2001, 2002, 2003 })
end)

both("what stands in strings, comments and triggers ends no statement", function(database, query, kind)
  local text = MAKE .. [[
    /* one; two ' */ INSERT INTO seen VALUES ('a;--'); -- three;
    CREATE TRIGGER doubled AFTER INSERT ON other FOR EACH ROW
    BEGIN
      INSERT INTO seen VALUES ('b');
      INSERT INTO seen VALUES ('c');
    END;
    INSERT INTO other VALUES (1);
  ]]
  text = text:gsub("CREATE TRIGGER", "CREATE TABLE other (number INTEGER);\n%0")
  if kind == "mysql" then text = text .. "# four;\nINSERT INTO seen VALUES ('d\\';\\\\');" end
  write_files { ["2001_a.sql"] = text }
  starts(database)
  local wanted = { "a;--", "b", "c" }
  if kind == "mysql" then wanted[4] = "d';\\" end
  test.equal(words(query), wanted)
  write_files { ["2001_a.sql"] = text:gsub("\n", "\r\n") }
  starts(database) -- the same with other ends of lines
end)

both("a file that was changed after it was applied refuses the start", function(database, query)
  write_files { ["2001_a.sql"] = MAKE .. insert "a" }
  starts(database)
  write_files { ["2001_a.sql"] = MAKE .. insert "b" }
  refuses(database, "migration 2001_a.sql isn't what was applied as 2001_a.sql")
  test.equal(words(query), { "a" })
  write_files {} -- one that is gone was applied all the same
  starts(database)
end)

both("files that can't be told apart refuse the start", function(database)
  write_files { ["2001_a.sql"] = "SELECT 1", ["2001_b.sql"] = "SELECT 1" }
  refuses(database, "2001_a.sql and 2001_b.sql have one number")
  write_files { ["x.sql"] = "SELECT 1" }
  refuses(database, "migration x.sql: it is called 0001_name.sql")
end)

both("a file that fails refuses the start, and can be mended", function(database, query, kind)
  write_files { ["2001_a.sql"] = MAKE .. insert "a" .. "INSERT INTO nowhere VALUES (1);" }
  refuses(database, "nowhere")
  write_files { ["2001_a.sql"] = MAKE .. insert "a" }
  if kind == "mysql" then -- tables can't be unmade there
    refuses(database, "migration 2001_a.sql broke off")
    query "DROP TABLE seen"
    query "DELETE FROM migrations WHERE number = 2001"
  end
  starts(database)
  test.equal(words(query), { "a" })
end)

both("nodes that start at once apply each file once", function(database, query)
  write_files { ["2001_a.sql"] = MAKE, ["2002_b.sql"] = insert "b", ["2003_c.sql"] = insert "c" }
  local bodies = {}
  for i = 1, 6 do
    bodies[i] = function() perilune.stop(start(database, "dbproxy" .. i)) end
  end
  for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
  test.equal(words(query), { "b", "c" })
end)

test("the server that the tests share is closed", function()
  if not servers.missing "mysql" then helper.server():close() end
end)

return test
