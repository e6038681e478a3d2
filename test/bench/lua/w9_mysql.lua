-- W9: SELECT by key of MySQL, BENCH_N times by 8 tasks with a connection each and a quarter of that
-- by one; and mariadb-slap on the same server, with the same statement as text.

local mysql = require "perilune.mysql"
local servers = require "servers"
local util = require "bench_util"

local w9 = {}

local KEYS = 1000
local USER, PASSWORD = "bench", "bench"
local SELECT = "SELECT name, gold FROM player WHERE uid = ?"

local function fill(server)
  -- Its own user may do that.
  local admin = mysql.connect(
    ("mysql://tester:p%%40ss%%3Aw%%2Frd%%23%%3F%%25@127.0.0.1:%d/test"):format(server.port))
  admin:execute(("CREATE USER %s@'%%' IDENTIFIED BY '%s'"):format(USER, PASSWORD))
  admin:execute(("GRANT ALL ON test.* TO %s@'%%'"):format(USER))
  admin:execute "CREATE TABLE player (uid INTEGER PRIMARY KEY, name VARCHAR(40), gold BIGINT)"
  admin:execute("INSERT INTO player SELECT seq, concat('player ', seq), 1000 + seq " ..
    "FROM seq_0_to_999")
  admin:close()
end

-- Selects a second, with so many connections.
local function measure(server, connections, count)
  local db = mysql.connect(
    ("mysql://%s:%s@127.0.0.1:%d/test?pool=%d"):format(USER, PASSWORD, server.port, connections))
  local each = math.ceil(count / connections)
  local function run(times)
    util.each(connections, function(task)
      for number = 1, times do
        local uid = (task * each + number) % KEYS
        local row = db:one(SELECT, uid)
        util.check(row.gold == 1000 + uid and row.name == "player " .. uid, "SELECT")
      end
    end)
  end
  run(math.min(each, 200)) -- each connection is made, and has prepared it
  local began, used = util.now(), util.cpu()
  run(each)
  local seconds = util.now() - began
  local name = "W9_mysql_get_" .. connections
  util.result(name, each * connections / seconds, "ops/s")
  util.result(name .. "_cpu", (util.cpu() - used) / each / connections * 1e6, "us")
  util.check(db:stats().open == connections, "connections were lost")
  db:close()
end

local function reference(server, connections, count)
  local file = os.tmpname()
  local handle = assert(io.open(file, "w"))
  for uid = 0, KEYS - 1 do handle:write((SELECT:gsub("?", uid)), ";\n") end
  handle:close()
  local each = math.ceil(count / connections / KEYS) * KEYS -- a client has to do all of the file
  local text = util.output(("mariadb-slap --no-defaults --host=127.0.0.1 --port=%d --user=%s " ..
    "--password=%s --create-schema=test --no-drop --query=%s --delimiter=';' --concurrency=%d " ..
    "--number-of-queries=%d --csv"):format(server.port, USER, PASSWORD, file, connections,
    each * connections))
  os.remove(file)
  local seconds, clients, done = text:match ",mixed,([%d.]+),[%d.]+,[%d.]+,(%d+),(%d+)"
  util.check(tonumber(clients) == connections and tonumber(done) == each, "mariadb-slap: " .. text)
  util.result("mariadb_slap_" .. connections, each * connections / tonumber(seconds), "ops/s")
end

local function run()
  local count = util.env("BENCH_N", 40000)
  local server = servers.start "mysql"
  fill(server)
  for _, connections in ipairs { 1, 8 } do
    local times = connections == 1 and math.ceil(count / 4) or count
    measure(server, connections, times)
    reference(server, connections, times)
  end
  server:close()
end

function w9.on_start() util.main(run) end

return w9
