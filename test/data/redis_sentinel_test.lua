-- A primary that sentinels watch, and who takes over from it.

local helper = require "redis_helper"
local redis = require "perilune.redis"
local servers = require "servers"
local test = require "perilune.test"

local code = helper.code

local function address(server) return "127.0.0.1:" .. server.port end

-- A primary, its replica, and three sentinels that know them and each other.
local function start()
  local all = {
    primary = servers.start("redis", { "requirepass secret", "masterauth secret" }),
  }
  all.replica = servers.start("redis", { "requirepass secret", "masterauth secret",
    "replicaof 127.0.0.1 " .. all.primary.port })
  all.watchers = helper.servers("sentinel", 3, {
    "sentinel monitor players 127.0.0.1 " .. all.primary.port .. " 2",
    "sentinel auth-pass players secret", "sentinel down-after-milliseconds players 2000",
    "sentinel failover-timeout players 3000",
  })
  for _, watcher in ipairs(all.watchers) do
    local db = assert(redis.connect("redis://" .. address(watcher)))
    test.eventually(function()
      return #db:command("SENTINEL", "REPLICAS", "players") == 1
        and #db:command("SENTINEL", "SENTINELS", "players") == 2
    end, 60000)
    db:close()
  end
  return all
end

local function url_of(all, name)
  local hosts = {}
  for index, watcher in ipairs(all.watchers) do hosts[index] = address(watcher) end
  hosts[#hosts + 1] = "127.0.0.1:1" -- one that isn't there
  return ("redis+sentinel://:secret@%s/%s/0"):format(table.concat(hosts, ","), name)
end

local function is_replica(server)
  local db = redis.connect("redis://:secret@" .. address(server))
  local role = db and db:role()
  if db then db:close() end
  return role and role[1] == "slave"
end

-- The port of the server that requests go to.
local function port_of(db)
  local reply = db:config("GET", "port")
  return reply and tonumber(reply[2])
end

-- An orderly failover, after which the former primary still answers.
local function swap(all, db)
  local watcher = assert(redis.connect("redis://" .. address(all.watchers[1])))
  test.eventually(function()
    return watcher:command("SENTINEL", "FAILOVER", "players") == "OK"
  end, 60000)
  watcher:close()
  test.eventually(function() return port_of(db) == all.primary.port end, 60000)
  test.eventually(function() return db:incr "a" end, 60000)
end

helper.test("the primary is found, and followed when another one takes over", function()
  local all = start()
  test.equal(code(redis.connect(url_of(all, "nobody"))), "unavailable")
  local db = assert(redis.connect(url_of(all, "players"), { timeout_ms = 60000, silence_ms = 3000 }))
  test.equal(db:set("a", 1), "OK")
  test.equal(port_of(db), all.primary.port)
  test.eventually(function() return db:wait(1, 100) == 1 end, 30000) -- the replica has it

  -- It stops without dying: nothing but our own limit closes the connection to it.
  all.primary:tell "pause"
  test.equal(code(db:with({ timeout_ms = 200 }):get "a"), "timeout")
  test.eventually(function() return db:incr "a" end, 60000)
  test.equal(port_of(db), all.replica.port)

  -- It comes back and is made a replica; nobody has written to it by mistake.
  all.primary:tell "continue"
  if helper.is_soak then
    test.eventually(function() return is_replica(all.primary) end, 60000)
    test.ok(db:incr "a" >= 3)
    swap(all, db)
  end
  db:close()
  all.primary:close()
  all.replica:close()
  for _, watcher in ipairs(all.watchers) do watcher:close() end
end)

-- A sentinel and the server that it names, in one.
local function fake(role, answer)
  local listener, connections
  listener, connections = helper.fake(function(command)
    if command[1] == "SENTINEL" then
      return ("*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n"):format(#tostring(listener.port), listener.port)
    elseif command[1] == "ROLE" then
      return role()
    end
    return answer and answer(command)
  end)
  return "redis+sentinel://127.0.0.1:" .. listener.port .. "/players", listener, connections
end

local PRIMARY = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
local REPLICA = "*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"

test("a server that says itself that it is no primary isn't used, whatever the sentinels say", function()
  for _, role in ipairs { REPLICA, "+OK\r\n", "*0\r\n" } do
    local url, listener, connections = fake(function() return role end)
    test.equal(code(redis.connect(url, { connect_ms = 2000 })), "READONLY")
    helper.close_fake(listener, connections)
  end
end)

test("a server that doesn't write any more is left for the next primary", function()
  local is_primary, roles = true, 0
  local url, listener, connections = fake(function()
    roles = roles + 1
    return is_primary and PRIMARY or REPLICA
  end, function(command)
    if command[1] ~= "SET" then return nil end
    return is_primary and "+OK\r\n" or "-READONLY You can't write against a read only replica.\r\n"
  end)
  local db = assert(redis.connect(url, { timeout_ms = 60000 }))
  test.equal(db:set("a", 1), "OK")
  is_primary = false
  test.equal(code(db:set("a", 1)), "READONLY")
  test.eventually(function() return roles >= 3 end) -- it asks again, and isn't content
  test.equal(db:stats().connected, 0)
  is_primary = true
  test.equal(db:set("a", 1), "OK")
  test.equal(db:stats().lost, 1)
  db:close()
  helper.close_fake(listener, connections)
end)

test("sentinels that say nonsense are none", function()
  for _, reply in ipairs { "*-1\r\n", "+OK\r\n", "*2\r\n$1\r\nx\r\n$1\r\ny\r\n", "*1\r\n$1\r\nx\r\n",
    "*2\r\n:5\r\n:6\r\n", "*2\r\n$1\r\nx\r\n:700000\r\n" } do
    local listener, connections = helper.fake(function(command)
      return command[1] == "SENTINEL" and reply or nil
    end)
    test.equal(code(redis.connect("redis+sentinel://127.0.0.1:" .. listener.port .. "/players")),
      "unavailable", reply)
    helper.close_fake(listener, connections)
  end
end)

return test
