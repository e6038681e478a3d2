-- Promises 28 and 33, under 500 saves a second: what was acknowledged survives kill -9 of the node, and
-- SIGTERM ends it in order.
local bot = require "perilune.bot"
local perilune = require "perilune"
local servers = require "servers"
local test = require "perilune.test"

local ROUNDS = perilune.env "PERILUNE_SOAK" and 20 or 3
local SAVES = perilune.env "PERILUNE_SOAK" and 10000 or 1000 -- before SIGTERM

local CONFIG = [[return {
  paths = { %q }, data = "data", trusted = { "kill_writer" },
  services = {
    { script = "dbproxy", options = { database = %q, tables = { "tables", "dbproxy_tables" } } },
    { script = "kill_writer", options = { show = %s } },
    %s
  },
  log = { level = "error", levels = { gateway = "info" } },
}
]]
local GATEWAY = [[{ script = "auth" },
    { script = "gateway", options = { listen = { { port = 0 } }, center = "" } },]]

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"

-- Starts a node; its process id, and the lines that it says.
local function start(folder, database, show, more)
  local path = folder .. "/config.lua"
  local file = assert(io.open(path, "w"))
  file:write(CONFIG:format(here, database, tostring(show), more or ""))
  file:close()
  local pipe = assert(io.popen(
    ('exec 2>&1; sh -c \'echo $$; exec "$0" "$1"\' "$(readlink /proc/$PPID/exe)" %s'):format(path)))
  return assert(tonumber(pipe:read "*l")), pipe
end

-- What a node has said of its writes: the last value saved of each hero, and which counts were begun
-- and acknowledged.
local function new_said() return { saved = {}, saves = 0, begun = 0, counted = 0 } end

local function note(said, text)
  local uid, value = text:match "^saved (%d+) (%d+)$"
  if uid then
    said.saved[tonumber(uid)] = math.max(said.saved[tonumber(uid)] or 0, tonumber(value))
    said.saves = said.saves + 1
  end
  if text:find "^counts " then said.begun = said.begun + 1 end
  if text:find "^counted " then said.counted = said.counted + 1 end
end

-- Listens until the node has ended. Calls on_saves() when there were so many.
local function listen(pipe, said, saves, on_saves)
  local is_over = false
  for text in pipe:lines() do
    note(said, text)
    if said.saves >= saves and not is_over then
      is_over = true
      on_saves()
    end
  end
end

local function write_and_kill(folder, database, saves)
  local pid, pipe = start(folder, database, false)
  test.equal(pipe:read "*l", "ready")
  -- What it still says until it is dead is acknowledged, too.
  local said = new_said()
  listen(pipe, said, saves, function() os.execute("kill -9 " .. pid) end)
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

local function new_folder()
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
  return folder
end

local function check_saved(said, found)
  for uid, value in pairs(said.saved) do
    test.ok(found[uid] and found[uid] >= value, ("hero %d: %d was acknowledged, %s is there")
      :format(uid, value, tostring(found[uid])))
  end
end

local function kill_often(database)
  local folder = new_folder()
  local begun, counted, replayed = 0, 0, 0
  for _ = 1, ROUNDS do
    local said = write_and_kill(folder, database, math.random(100, 1500))
    begun, counted = begun + said.begun, counted + said.counted
    local found = read(folder, database)
    check_saved(said, found)
    test.ok(found[0] >= counted and found[0] <= begun,
      ("%d counted, %d begun, %s is there"):format(counted, begun, tostring(found[0])))
    begun, counted = found[0], found[0]
    replayed = replayed + found.replayed
  end
  test.ok(replayed > 0, "the journal was needed")
  os.execute("rm -r " .. folder)
end

-- SIGTERM: no more players, those who are here are told, all is written, and in time.
local function stop_in_order(database)
  local folder = new_folder()
  local pid, pipe = start(folder, database, false, GATEWAY)
  test.equal(pipe:read "*l", "ready")
  local said, port = new_said(), nil
  while not port do
    local text = assert(pipe:read "*l")
    note(said, text)
    port = text:match "tcp at 127.0.0.1:(%d+)"
  end
  local players = {}
  for i = 1, 10 do
    players[i] = assert(bot.connect { port = tonumber(port) })
    test.ok(players[i]:login())
  end
  local began
  listen(pipe, said, SAVES, function()
    began = perilune.now()
    os.execute("kill -TERM " .. pid)
  end)
  local _, how, status = pipe:close()
  test.equal({ how, status }, { "exit", 0 })
  test.ok(said.saves >= SAVES and perilune.now() - began < 30000)
  for _, player in ipairs(players) do
    test.eventually(function() return player.closed end)
    test.equal(player.closing and player.closing.reason, "shutdown")
  end
  test.equal(bot.connect { port = tonumber(port) }, nil)
  local found = read(folder, database)
  check_saved(said, found)
  test.equal(found.replayed, 0, "nothing was left in the journal")
  test.ok(found[0] >= said.counted and found[0] <= said.begun)
  os.execute("rm -r " .. folder)
end

test("saves that were acknowledged survive kill -9, with SQLite", function()
  kill_often "sqlite:kill.db"
end, 60000 * ROUNDS)

test("SIGTERM writes all that was saved and tells the players, with SQLite", function()
  stop_in_order "sqlite:stop.db"
end, 120000)

local why = servers.missing "mysql"

local function with_server(name, body, limit_ms)
  if why then return test.skip(name, why) end
  test(name, function()
    local server = servers.start "mysql"
    local ok, message = xpcall(body, debug.traceback,
      ("mysql://tester:p%%40ss%%3Aw%%2Frd%%23%%3F%%25@127.0.0.1:%d/test"):format(server.port))
    server:close()
    if not ok then error(message, 0) end
  end, limit_ms)
end

with_server("saves that were acknowledged survive kill -9, with MariaDB", kill_often, 60000 * ROUNDS)

with_server("SIGTERM writes all that was saved and tells the players, with MariaDB", stop_in_order,
  120000)

return test
