-- dbproxy when the disk fails it, or its files are another's.
local dbproxy = require "perilune.dbproxy"
local file = require "perilune.file"
local perilune = require "perilune"
local sqlite = require "perilune.sqlite"
local test = require "perilune.test"

local db = dbproxy.at "dbproxy"
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local count = 0

local function path_of(url) return (url:gsub("^sqlite:", "")) end

local function new_options()
  count = count + 1
  return { database = ("sqlite:disk%d.db"):format(count), flush_ms = 20,
    journal = ("sqlite:disk%d_journal.db"):format(count), tables = { "tables", "dbproxy_tables" } }
end

local function start(options, name)
  return perilune.spawn("dbproxy", options, { name = name or "dbproxy" })
end

local function stats() return perilune.call("dbproxy", "stats") end

local function add_heroes()
  for uid = 1, 3 do db:insert("hero", { uid = uid, gold = 0, epoch = 0 }) end
end

-- ---- the journal ----

test("a journal is one dbproxy's, until that ends", function()
  local options = new_options()
  local first = start(options)
  local other = new_options()
  other.journal = options.journal
  test.raises(function() start(other, "dbproxy2") end, "the journal .* is another's")
  add_heroes()
  test.ok(db:save("hero", 1, { gold = 5 }), "the first goes on")
  perilune.kill(first)
  test.eventually(function() return not perilune.find "dbproxy" end)
  local second = start(options)
  test.equal(db:load("hero", 1).gold, 5)
  perilune.stop(second)
end)

test("a journal that is no database refuses the start, and says what to do", function()
  local options = new_options()
  test.ok(file.write(path_of(options.journal), ("garbage"):rep(10000)))
  test.raises(function() start(options) end, "the journal .*: file is not a database %(.*26%)")
  options.journal = "sqlite:disk_damaged.db"
  perilune.stop(start(options))
  local data = assert(file.read "disk_damaged.db")
  test.ok(file.write("disk_damaged.db", data:sub(1, 100) .. ("\255"):rep(#data - 100)))
  test.raises(function() start(options) end,
    "the journal .*: database disk image is malformed.*move it away")
end)

test("records that aren't of declared tables and columns are kept aside", function()
  local options = new_options()
  options.flush_ms = 3600000
  local handle = start(options)
  add_heroes()
  test.ok(db:insert("thing", { id = 1, small = 1, flag = true }))
  for round = 1, 3 do
    test.ok(db:save("hero", round, { gold = round }))
    test.ok(db:save("thing", 1, { small = round }))
  end
  perilune.kill(handle)
  test.eventually(function() return not perilune.find "dbproxy" end)
  local journal = sqlite.open(path_of(options.journal))
  journal:execute("UPDATE records SET record = ? WHERE number = 1", "\255\0garbage")
  journal:close()
  options.tables = { "tables", "dbproxy_fewer_tables" }
  handle = start(options)
  test.equal(stats().rejected, 4, "three of the table, and one that can't be read")
  test.eventually(function() return stats().journal_writes == 0 end)
  for uid = 1, 3 do
    test.equal(db:load("hero", uid, { fresh = true }).gold, uid == 1 and 0 or uid)
  end
  perilune.stop(handle)
  handle = start(options)
  test.equal({ stats().rejected_before, stats().replayed }, { 4, 0 })
  perilune.stop(handle)
end)

test("saves wait for a table that isn't as it is declared", function()
  local options = new_options()
  local handle = start(options)
  add_heroes()
  local direct = sqlite.open(path_of(options.database))
  direct:execute "ALTER TABLE hero RENAME TO away"
  for uid = 1, 3 do test.ok(db:save("hero", uid, { gold = uid })) end
  local _, message, code = db:load("hero", 1, { fresh = true })
  test.equal({ message, code }, { "no such table: hero (1)", "invalid" })
  test.equal(select(3, db:insert("hero", { uid = 9, gold = 0, epoch = 0 })), "invalid")
  test.eventually(function() return stats().flush_retries > 2 end)
  direct:execute "ALTER TABLE away RENAME TO hero"
  direct:close()
  for uid = 1, 3 do
    test.eventually(function() return db:flush("hero", uid) end, 60000)
    test.equal(db:load("hero", uid, { fresh = true }).gold, uid)
  end
  test.equal(stats().rejected, 0)
  perilune.stop(handle)
end, 120000)

-- ---- a disk that is full ----

local CONFIG = [[return {
  paths = { %q }, data = "data", trusted = { "disk_writer" },
  services = {
    { script = "dbproxy", options = { flush_ms = 50, tables = { "tables", "dbproxy_tables" } } },
    { script = "disk_writer", options = { path = "data/filler" } },
  },
}
]]

-- The data folder is a small disk that the node alone sees, and that goes with it.
local RUN = [[exec 2>&1; cd %s && echo $$ && exec unshare -rm sh -c '
  mount -t tmpfs -o size=2m none data && exec "$0" config.lua' "$(readlink /proc/$PPID/exe)"]]

local mounted = os.execute "unshare -rm mount -t tmpfs none /mnt 2>/dev/null"
local can_mount = mounted == 0 or mounted == true
local add = can_mount and test.add
  or function(name) test.skip(name, "no disk can be mounted here") end

add("on a full disk nothing is acknowledged that is lost, and all goes on when there is room",
  function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute(("mkdir -p %s/data"):format(folder)))
    local config = assert(io.open(folder .. "/config.lua", "w"))
    config:write(CONFIG:format(here))
    config:close()
    local pipe = assert(io.popen(RUN:format(folder)))
    local pid = assert(tonumber(pipe:read "*l"))
    local counts, heroes, complaints = {}, 0, 0
    for line in pipe:lines() do
      local name, number = line:match "^count (%S+) (%d+)$"
      if name then counts[name] = tonumber(number) end
      local uid, gold, wanted = line:match "^hero (%d+) (%d+) (%d+)$"
      if uid then
        heroes = heroes + 1
        test.equal(gold, wanted, "hero " .. uid)
      end
      if line:find "the journal can't be written: database or disk is full" then
        complaints = complaints + 1
      end
      if line == "done" then os.execute("kill " .. pid) end
    end
    pipe:close()
    os.execute("rm -r " .. folder)
    test.equal(heroes, 5)
    test.ok(counts["save.unavailable"] > 0 and counts["give.unavailable"] > 0)
    test.equal({ counts["save.unknown"], counts["give.unknown"] }, {})
    test.ok(counts.journal_failures > 0)
    test.ok(complaints > 0 and complaints < 100, "once a second")
  end, 120000)

return test
