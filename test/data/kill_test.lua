-- Promise 28: what was acknowledged survives kill -9 of the node, under 500 saves a second.
local perilune = require "perilune"
local servers = require "servers"
local test = require "perilune.test"

local ROUNDS = perilune.env "PERILUNE_SOAK" and 20 or 3

local CONFIG = [[return {
  paths = { %q }, data = "data", trusted = { "kill_writer" },
  services = {
    { script = "dbproxy", options = { database = %q, tables = { "tables", "dbproxy_tables" } } },
    { script = "kill_writer", options = { show = %s } },
  },
  log = { level = "error" },
}
]]

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"

-- Starts a node; its process id, and the lines that it says.
local function start(folder, database, show)
  local path = folder .. "/config.lua"
  local file = assert(io.open(path, "w"))
  file:write(CONFIG:format(here, database, tostring(show)))
  file:close()
  local pipe = assert(io.popen(
    ('exec 2>&1; sh -c \'echo $$; exec "$0" "$1"\' "$(readlink /proc/$PPID/exe)" %s'):format(path)))
  return assert(tonumber(pipe:read "*l")), pipe
end

-- Lets a node write for a while and kills it. What it said: the last value saved of each hero, and
-- which counts were begun and acknowledged.
local function write_and_kill(folder, database, saves)
  local pid, pipe = start(folder, database, false)
  local said = { saved = {}, saves = 0, begun = 0, counted = 0 }
  local line = pipe:read "*l"
  test.equal(line, "ready")
  for text in pipe:lines() do
    local uid, value = text:match "^saved (%d+) (%d+)$"
    if uid then
      said.saved[tonumber(uid)] = math.max(said.saved[tonumber(uid)] or 0, tonumber(value))
      said.saves = said.saves + 1
    end
    if text:find "^counts " then said.begun = said.begun + 1 end
    if text:find "^counted " then said.counted = said.counted + 1 end
    -- What it still says until it is dead is acknowledged, too.
    if said.saves == saves then os.execute("kill -9 " .. pid) end
  end
  local _, how, status = pipe:close()
  test.equal({ how, status }, { "exit", 128 + 9 }, "the node was killed")
  return said
end

local function read(folder, database)
  local pid, pipe = start(folder, database, true)
  local found = {}
  for text in pipe:lines() do
    local uid, value = text:match "^is (%d+) (%d+)$"
    if uid then found[tonumber(uid)] = tonumber(value) end
    found.replayed = found.replayed or tonumber(text:match "^replayed (%d+)$")
    if text == "done" then os.execute("kill " .. pid) end
  end
  local _, how, status = pipe:close()
  test.equal({ how, status }, { "exit", 0 }, "the node ends in order")
  return found
end

local function kill_often(database)
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
  local begun, counted, replayed = 0, 0, 0
  for round = 1, ROUNDS do
    local said = write_and_kill(folder, database, math.random(100, 1500))
    begun, counted = begun + said.begun, counted + said.counted
    local found = read(folder, database)
    for uid, value in pairs(said.saved) do
      test.ok(found[uid] and found[uid] >= value,
        ("round %d, hero %d: %d was acknowledged, %s is there"):format(round, uid, value,
          tostring(found[uid])))
    end
    test.ok(found[0] >= counted and found[0] <= begun,
      ("%d counted, %d begun, %s is there"):format(counted, begun, tostring(found[0])))
    begun, counted = found[0], found[0]
    replayed = replayed + found.replayed
  end
  test.ok(replayed > 0, "the journal was needed")
  os.execute("rm -r " .. folder)
end

test("saves that were acknowledged survive kill -9, with SQLite", function()
  kill_often "sqlite:kill.db"
end, 60000 * ROUNDS)

local why = servers.missing "mysql"
local add = why and function(name) test.skip(name, why) end or test.add
add("saves that were acknowledged survive kill -9, with MariaDB", function()
  local server = servers.start "mysql"
  local ok, message = xpcall(kill_often, debug.traceback,
    ("mysql://tester:p%%40ss%%3Aw%%2Frd%%23%%3F%%25@127.0.0.1:%d/test"):format(server.port))
  server:close()
  if not ok then error(message, 0) end
end, 60000 * ROUNDS)

return test
