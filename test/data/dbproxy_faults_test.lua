-- dbproxy when what is behind it breaks: connections that are cut at the worst moment, servers that
-- die, stop and come back.
local codec = require "perilune.codec"
local dbproxy = require "perilune.dbproxy"
local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local perilune = require "perilune"
local redis = require "perilune.redis"
local servers = require "servers"
local test = require "perilune.test"

local COMMIT = "\3COMMIT" -- as it travels: the command for a text, and the text

local db = dbproxy.at "dbproxy"
local scale = helper.scale
local count = 0

local function stats() return perilune.call("dbproxy", "stats") end

local function gold(uid, options) return db:load("hero", uid, options).gold end

-- A new database of a server; its name.
local function new_database(server)
  count = count + 1
  local name = "faults" .. count
  local direct = mysql.connect(helper.address(server.port))
  direct:execute(("CREATE DATABASE %s CHARACTER SET utf8mb4"):format(name))
  direct:close()
  return name
end

-- Runs body() with a dbproxy.
local function with(given, body)
  count = count + 1
  local options = {
    tables = { "tables", "dbproxy_tables" }, flush_ms = 20,
    journal = ("sqlite:faults%d.db"):format(count),
  }
  for key, value in pairs(given) do options[key] = value end
  local handle = perilune.spawn("dbproxy", options, { name = "dbproxy" })
  local ok, message = xpcall(body, debug.traceback)
  perilune.stop(handle)
  if not ok then error(message, 0) end
end

-- Registers a test whose dbproxy reaches its database through a wire.
local function with_wire(name, given, body)
  helper.with_server(name, function(server)
    local database = new_database(server)
    local wire = helper.wire(server.port)
    local options = { database = helper.address(wire.port, nil, database) }
    for key, value in pairs(given) do options[key] = value end
    local ok, message = xpcall(with, debug.traceback, options, function() body(wire) end)
    wire:close()
    if not ok then error(message, 0) end
  end)
end

-- Registers a test with a dbproxy and a server of its own.
local function with_own_server(name, given, body)
  local why = servers.missing "mysql"
  if why then return test.skip(name, why) end
  test(name, function()
    local server = servers.start "mysql"
    local options = { database = helper.address(server.port, nil, new_database(server)) }
    for key, value in pairs(given) do options[key] = value end
    local ok, message = xpcall(with, debug.traceback, options, function() body(server) end)
    server:close()
    if not ok then error(message, 0) end
  end, 180000)
end

-- From now on each COMMIT is done and its answer lost, as often as is said.
local function cut_commits(wire, times)
  local left = times
  wire.on_client = function(data, cut)
    if left > 0 and data:find(COMMIT, 1, true) then
      left = left - 1
      wire.on_server = function(_, cut_now)
        wire.on_server = function(answer) return answer end
        cut_now()
      end
    end
    return data, cut
  end
  return function() return times - left end
end

-- ---- cut after COMMIT, before its answer ----

with_wire("an operation whose answer is lost is done once, and its result is told", {},
  function(wire)
    db:insert("hero", { uid = 1, gold = 0, epoch = 0 })
    local rounds = scale(30, 500)
    local cuts = cut_commits(wire, rounds)
    for round = 1, rounds do
      local id, result, _, code = dbproxy.operation(), nil, nil, "unknown"
      while code == "unknown" or code == "unavailable" do
        result, _, code = db:run("give", { uid = 1, gold = 1 }, id)
      end
      test.equal(result, { changed = 1 })
      test.equal(gold(1, { fresh = true }), round)
    end
    test.equal(cuts(), rounds)
    test.ok(stats().repeated >= rounds, "found to be done")
  end)

with_wire("of an operation that may have been done nobody says that it wasn't", { limit_ms = 1000 },
  function(wire)
    db:insert("hero", { uid = 1, gold = 0, epoch = 0 })
    local function pass(data) return data end
    wire.on_client = function(data)
      if not data:find(COMMIT, 1, true) then return data end
      wire.on_server = function(_, cut)
        wire.on_server = pass
        wire.on_client = function(_, cut_too) cut_too() end -- and from now on there is no server
        cut()
      end
      return data
    end
    local id = dbproxy.operation()
    test.equal(select(3, db:run("give", { uid = 1, gold = 1 }, id)), "unknown")
    wire.on_client = pass
    test.eventually(function() return db:run("give", { uid = 1, gold = 1 }, id) end, 60000)
    test.equal(gold(1, { fresh = true }), 1)
  end)

with_wire("without an id the outcome is unknown, and it isn't tried again", {}, function(wire)
  db:insert("hero", { uid = 1, gold = 0, epoch = 0 })
  local rounds = scale(10, 100)
  local cuts = cut_commits(wire, rounds)
  for round = 1, rounds do
    test.equal(select(3, db:run("give", { uid = 1, gold = 1 })), "unknown")
    test.equal(gold(1), round, "what is loaded isn't from before")
  end
  test.equal({ cuts(), stats().unknown }, { rounds, rounds })
end)

with_wire("what is cut before COMMIT wasn't done", {}, function(wire)
  db:insert("hero", { uid = 1, gold = 0, epoch = 0 })
  for _ = 1, scale(10, 100) do
    wire.on_client = function(data, cut)
      if not data:find("UPDATE", 1, true) then return data end
      wire.on_client = function(more) return more end
      cut()
    end
    local _, _, code = db:run("give", { uid = 1, gold = 1 })
    test.equal(code, "unavailable")
  end
  test.equal(gold(1), 0)
  test.equal(stats().unknown, 0)
end)

with_wire("saves come to the database once and in order, whatever is cut", {}, function(wire)
  for uid = 1, 5 do db:insert("hero", { uid = uid, gold = 0, epoch = 0 }) end
  local rounds = scale(10, 100)
  local cuts = cut_commits(wire, rounds)
  for value = 1, rounds * 3 do
    for uid = 1, 5 do test.ok(db:save("hero", uid, { gold = value })) end
    if value % 3 == 0 then
      test.eventually(function() return db:flush("hero", 1) end, 60000)
      -- Written by somebody else, which a write that came twice would undo.
      local update = { operation = dbproxy.operation() }
      test.eventually(function() return db:update("hero", 2, { gold = -value }, update) end, 60000)
    end
  end
  test.ok(cuts() >= rounds, cuts())
  for uid = 1, 5 do
    test.eventually(function() return db:flush("hero", uid) end, 60000)
    test.equal(gold(uid, { fresh = true }), uid == 2 and -rounds * 3 or rounds * 3)
  end
  test.ok(stats().flush_retries == 0, "each was found to be done")
end)

-- ---- servers that die ----

local function outage(name, stop, start)
  with_own_server("while the database is " .. name .. " saves go on, and requests fail in time",
    { limit_ms = 1000 }, function(server)
      for uid = 1, 3 do db:insert("hero", { uid = uid, gold = 0, epoch = 0 }) end
      test.equal(gold(1), 0) -- into the cache
      server:tell(stop)
      for value = 1, 20 do
        for uid = 1, 3 do test.ok(db:save("hero", uid, { gold = value })) end
      end
      test.equal(gold(1), 20, "from the cache and the journal")
      for _, ask in ipairs {
        function() return db:load("hero", 2) end,
        function() return db:run("give", { uid = 3, gold = 1 }) end,
        function() return db:flush("hero", 1) end,
        function() return db:query "all_gold" end,
      } do
        local began = perilune.now()
        test.equal(select(3, ask()), "unavailable")
        test.ok(perilune.now() - began < 20000, "in its time, and what a busy machine adds")
      end
      server:tell(start)
      for uid = 1, 3 do
        test.eventually(function() return db:flush("hero", uid) end, 60000)
        test.equal(gold(uid, { fresh = true }), 20)
      end
      test.equal(db:run("give", { uid = 3, gold = 1 }), { changed = 1 })
      test.equal(gold(3), 21)
    end)
end

outage("dead", "kill", "start")
outage("stopped", "pause", "continue")

with_own_server("replies never reach another request, whatever dies meanwhile", { limit_ms = 1000 },
  function(server)
    for uid = 1, 20 do db:insert("hero", { uid = uid, gold = uid * 1000, epoch = 0 }) end
    local ends, wrong, answered, bodies = false, 0, 0, {}
    for uid = 1, 20 do
      bodies[uid] = function()
        while not ends do
          local found, _, code = db:query("rich", { gold = uid * 1000 })
          if code == "unavailable" or code == "busy" then
            perilune.sleep(20)
          else
            answered = answered + 1
            if not found or found[1].gold ~= uid * 1000 or #found ~= 21 - uid then
              wrong = wrong + 1
            end
          end
        end
      end
    end
    bodies[#bodies + 1] = function()
      for _ = 1, scale(2, 10) do
        for _, command in ipairs { "kill", "start", "pause", "continue" } do
          local before = answered
          server:tell(command)
          if command == "start" or command == "continue" then
            test.eventually(function() return answered > before + 100 end, 60000)
          end
        end
      end
      ends = true
    end
    for _, result in ipairs(perilune.wait_all(bodies)) do
      ends = true
      test.ok(result[1], result[2])
    end
    test.equal(wrong, 0)
  end)

helper.with_server("saves wait while the server fails, and are put aside where it refuses them",
  function(server)
    local name = new_database(server)
    local direct = mysql.connect(helper.address(server.port, nil, name))
    with({ database = helper.address(server.port, nil, name) }, function()
      for uid = 1, 3 do db:insert("hero", { uid = uid, gold = 0, epoch = 0 }) end
      local function fail_with(number)
        direct:execute "DROP TRIGGER IF EXISTS fails"
        if number then
          direct:execute("CREATE TRIGGER fails BEFORE UPDATE ON hero FOR EACH ROW SIGNAL SQLSTATE"
            .. " 'HY000' SET MYSQL_ERRNO = " .. number .. ", MESSAGE_TEXT = 'it fails'")
        end
      end
      for round, number in ipairs { 1114, 1021, 1290 } do -- full, full, read only
        fail_with(number)
        for uid = 1, 3 do test.ok(db:save("hero", uid, { gold = round })) end
        local _, message, code = db:run("give", { uid = 1, gold = 1 }, nil)
        test.equal(code, "unavailable", message)
        fail_with(nil)
        for uid = 1, 3 do
          test.eventually(function() return db:flush("hero", uid) end, 60000)
          test.equal(gold(uid, { fresh = true }), round)
        end
      end
      test.equal(stats().rejected, 0)
      fail_with(1644) -- what a trigger says by itself
      test.ok(db:save("hero", 1, { gold = 9 }))
      test.equal({ select(2, db:flush("hero", 1)) }, { "it fails (1644)", "rejected" })
      test.equal({ select(2, db:run("give", { uid = 1, gold = 1 })) }, { "it fails (1644)", "invalid" })
    end)
    direct:close()
  end)

-- ---- what can't be ----

helper.with_server("a database that can't be refuses the start with its own words, and no password",
  function(server)
    local function refuses(options, pattern)
      options.journal, options.tables = "sqlite::memory:", { "tables" }
      local ok, message = pcall(perilune.spawn, "dbproxy", options, { name = "dbproxy" })
      test.equal(ok, false)
      message = tostring(message)
      test.ok(message:find(pattern), message)
      test.ok(not message:find("geheim", 1, true), message)
    end
    for url, pattern in pairs {
      ["postgres://a:geheim@host/x"] = "begins with sqlite: or mysql://",
      ["mysql://a:geheim@127.0.0.1:99999/x"] = "^mysql.connect: its host or port can't be",
      ["mysql://a:x@geheim@127.0.0.1:1/x"] = "the database at 127.0.0.1:1/x: ",
      ["mysql://a:geheim@127.0.0.1/x?pol=3"] = "there is no option pol",
      ["mysql://a:geheim@127.0.0.1:1/x"] = "the database at 127.0.0.1:1/x: .*Can't connect",
      [helper.address(server.port, "tester:geheim")] = "Access denied for user .*1045",
      [helper.address(server.port, nil, "nowhere")] = "Unknown database 'nowhere'",
      ["sqlite:../x.db"] = "can't be used",
      ["sqlite:nowhere/x.db"] = "nowhere/x.db: unable to open database file",
    } do
      refuses({ database = url }, pattern)
    end
    refuses({ database = 5 }, "is a text that begins")
    refuses({ database = {} }, "there is no URL of a database")
    refuses({ database = "sqlite::memory:", replicas = { "mysql://a:geheim@127.0.0.1/x" } },
      "all databases are of one kind")
    refuses({ database = "sqlite::memory:", cache = "redis://:geheim@127.0.0.1:1" },
      "cache: 127.0.0.1:1: Connection refused")
    refuses({ database = "sqlite::memory:", cache = "geheim://x" }, "the URL of Redis")
  end)

-- ---- others that take its place ----

helper.with_server("a replica is read where that is allowed, and the next one where it is away",
  function(server)
    local names = { new_database(server), new_database(server) }
    local urls = {}
    for i, name in ipairs(names) do
      urls[i] = helper.address(server.port, nil, name)
      with({ database = urls[i] }, function()
        db:insert("hero", { uid = 1, gold = i, epoch = 0 })
      end)
    end
    local dead = helper.address(1)
    with({ database = urls[1], replicas = { dead, urls[2] }, limit_ms = 1000 }, function()
      for _ = 1, 4 do
        test.equal(gold(1, { replica = true }), 2)
        test.equal(db:query("all_gold", nil, { replica = true }), { { gold = 2, heroes = 1 } })
        test.equal(gold(1), 1)
      end
      local numbers = stats()
      test.equal(numbers.replica_reads, 8)
      test.ok(numbers.replica_failures > 0)
    end)
    with({ database = urls[1], replicas = { dead }, limit_ms = 1000 }, function()
      test.equal(gold(1, { replica = true }), 1, "from the primary")
    end)
  end)

helper.with_server("another database takes the place of one that doesn't answer", function(server)
  local names, urls = { new_database(server), new_database(server) }, {}
  local wire = helper.wire(server.port)
  for i, name in ipairs(names) do
    urls[i] = helper.address(i == 1 and wire.port or server.port, nil, name)
    with({ database = urls[i] }, function() db:insert("hero", { uid = 1, gold = 0, epoch = 0 }) end)
  end
  with({ database = urls, limit_ms = 1000 }, function()
    test.equal(db:run("give", { uid = 1, gold = 5 }), { changed = 1 })
    wire:close()
    test.eventually(function()
      return (db:run("give", { uid = 1, gold = 1 }, dbproxy.operation()))
    end, 60000)
    test.equal(gold(1, { fresh = true }), 1)
    test.equal(stats().failovers, 1)
  end)
end)

-- ---- Redis ----

local why = servers.missing "redis"
local add = why and function(name) test.skip(name, why) end or test.add
add("a cache that dies costs time and nothing else", function()
  local server = servers.start "redis"
  local options = {
    database = "sqlite::memory:", cache = ("redis://127.0.0.1:%d"):format(server.port),
    cache_limit_ms = 200, cache_ttl_ms = 1000,
  }
  with(options, function()
    db:insert("hero", { uid = 1, gold = 0, epoch = 0 })
    for round = 1, 3 do
      for _, command in ipairs { "kill", "start", "pause", "continue" } do
        server:tell(command)
        for _ = 1, 3 do
          test.ok(db:run("give", { uid = 1, gold = 1 }))
          local found = db:query("rich", { gold = 0 })[1].gold
          test.equal(gold(1), found, command .. round)
          test.ok(db:save("hero", 1, { gold = found + 1 }))
          test.equal(gold(1), found + 1)
          test.ok(db:flush("hero", 1))
          test.equal(gold(1), found + 1)
        end
      end
    end
    test.ok(stats().cache_errors > 0)
    test.eventually(function()
      gold(1)
      local before = stats().cache_hits
      gold(1)
      return stats().cache_hits > before
    end, 30000)
  end)
  server:close()
end, 180000)

add("what is in the cache from another version, or from others, is read anew", function()
  local server = servers.start "redis"
  local url = ("redis://127.0.0.1:%d"):format(server.port)
  with({ database = "sqlite::memory:", cache = url, cache_limit_ms = 5000 }, function()
    db:insert("hero", { uid = 1, gold = 7, epoch = 0 })
    local direct = assert(redis.connect(url))
    for _, text in ipairs { codec.pack("another shape", { uid = 1, gold = 99 }), "\255garbage", "" } do
      assert(direct:set("perilune:row:hero:1", text))
      test.equal(gold(1), 7)
      local hits = stats().cache_hits
      test.equal(gold(1), 7)
      test.equal(stats().cache_hits, hits + 1, "and is written anew")
    end
    direct:close()
  end)
  server:close()
end, 60000)

test("the server that the tests share is closed", function()
  if not servers.missing "mysql" then helper.server():close() end
end)

return test
