-- Promise 29: one owner a uid, whatever pauses. Gold changes hands among heroes that several owners
-- take from each other all the time, and none of it is made or lost.
local dbproxy = require "perilune.dbproxy"
local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local perilune = require "perilune"
local servers = require "servers"
local test = require "perilune.test"

local GOLD = 1000
local HEROES = helper.is_soak and 1000 or 100
local SECONDS = helper.scale(4, 60)

local count = 0

-- A node of three owners, each with a dbproxy of its own; two of them never know of the third.
local function in_one_node(database)
  count = count + 1
  local started = {}
  for i = 1, 3 do
    started[#started + 1] = perilune.spawn("dbproxy", {
      database = database, journal = ("sqlite:owners%d_%d.db"):format(count, i), flush_ms = 20,
      tables = { "tables", "dbproxy_tables" },
    }, { name = "dbproxy" .. i })
  end
  local db = dbproxy.at "dbproxy1"
  for first = 1, HEROES, 100 do
    local steps = {}
    for uid = first, first + 99 do
      steps[#steps + 1] = { "insert", "hero", { uid = uid, gold = GOLD, epoch = 0 } }
    end
    test.ok(db:transact(steps))
  end
  for i = 1, 3 do
    started[#started + 1] = perilune.spawn("owner",
      { dbproxy = "dbproxy" .. i, heroes = HEROES, tasks = 4 }, { name = "owner" .. i })
  end
  perilune.sleep(SECONDS * 1000)
  test.eventually(function()
    local done, lost = 0, 0
    for i = 1, 3 do
      local numbers = perilune.call("owner" .. i, "stats")
      done, lost = done + numbers.done, lost + numbers.lost
    end
    return done > 20 and lost > 20
  end, 120000, "heroes changed their owners")
  for i = #started, 2, -1 do -- all but the first dbproxy
    if i > 3 then perilune.kill(started[i]) else perilune.stop(started[i]) end
  end
  test.equal(db:query "all_gold", { { gold = HEROES * GOLD, heroes = HEROES } })
  perilune.stop(started[1])
end

test("gold that changes hands keeps its sum, with SQLite", function()
  in_one_node "sqlite:owners.db"
end, 180000)

-- ---- processes that are paused ----

local CONFIG = [[return {
  paths = { %q }, data = %q,
  services = {
    { script = "dbproxy", options = { database = %q, flush_ms = 100,
      tables = { "tables", "dbproxy_tables" } } },
    { script = "owner", options = { dbproxy = "dbproxy", heroes = %d, tasks = 4 } },
  },
  log = { level = "error" },
}
]]

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"

local function start(folder, number, database)
  local path = ("%s/node%d.lua"):format(folder, number)
  local config = assert(io.open(path, "w"))
  config:write(CONFIG:format(here, "data" .. number, database, HEROES))
  config:close()
  local pipe = assert(io.popen(
    ('exec 2>&1; sh -c \'echo $$; exec "$0" "$1"\' "$(readlink /proc/$PPID/exe)" %s'):format(path)))
  return { pid = assert(tonumber(pipe:read "*l")), pipe = pipe }
end

local function tell(node, signal) os.execute(("kill -%s %d"):format(signal, node.pid)) end

local function pause_nodes(server)
  local url = helper.address(server.port, nil, "owners")
  local direct = mysql.connect(helper.address(server.port))
  direct:execute "CREATE DATABASE owners CHARACTER SET utf8mb4"
  local handle = perilune.spawn("dbproxy", { database = url, journal = "sqlite::memory:",
    tables = { "tables", "dbproxy_tables" } }, { name = "dbproxy" })
  perilune.stop(handle)
  for uid = 1, HEROES do
    direct:execute("INSERT INTO owners.hero (uid, gold, epoch) VALUES (?, ?, 0)", uid, GOLD)
  end
  local folder, nodes = os.tmpname(), {}
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
  for i = 1, 3 do nodes[i] = start(folder, i, url) end
  local function claims()
    return tonumber(direct:one("SELECT SUM(epoch) AS claims FROM owners.hero").claims)
  end
  local ends = perilune.now() + SECONDS * 1000
  repeat
    local node = nodes[math.random(3)]
    tell(node, "STOP")
    perilune.sleep(math.random(50, 1500))
    tell(node, "CONT")
    perilune.sleep(math.random(1, 300))
  until perilune.now() > ends and claims() > HEROES -- they took heroes from each other
  for _, node in ipairs(nodes) do
    tell(node, "TERM")
    node.pipe:read "*a"
    node.pipe:close()
  end
  local row = direct:one(
    "SELECT CAST(SUM(gold) AS SIGNED) AS gold, MIN(gold) AS least FROM owners.hero")
  direct:close()
  os.execute("rm -r " .. folder)
  test.equal(row.gold, HEROES * GOLD)
  test.ok(row.least >= 0)
end

local why = servers.missing "mysql"
local add = why and function(name) test.skip(name, why) end or test.add

add("gold that changes hands keeps its sum, with MariaDB", function()
  local server = servers.start "mysql"
  local ok, message = xpcall(in_one_node, debug.traceback, helper.address(server.port))
  server:close()
  if not ok then error(message, 0) end
end, 180000)

add("gold keeps its sum while the nodes that own it are paused and go on", function()
  local server = servers.start "mysql"
  local ok, message = xpcall(pause_nodes, debug.traceback, server)
  server:close()
  if not ok then error(message, 0) end
end, 300000)

return test
