-- A cluster of three nodes.

local helper = require "redis_helper"
local native = require "perilune.native.redis"
local perilune = require "perilune"
local redis = require "perilune.redis"
local test = require "perilune.test"

local code = helper.code

-- Runs a program without waiting for it in a dispatch; fails unless it says `wanted`.
local function run(command, wanted)
  local file = os.tmpname()
  os.execute(("(%s; echo over) >%s 2>&1 </dev/null &"):format(command, file))
  local text
  test.eventually(function()
    local handle = assert(io.open(file))
    text = handle:read "*a"
    handle:close()
    return text:find "over\n$"
  end, 60000, command)
  os.remove(file)
  test.ok(text:find(wanted, 1, true), text)
end

local function address(server) return "127.0.0.1:" .. server.port end

local nodes = {}

local function start_cluster()
  if nodes[1] then return end
  nodes = helper.servers("redis", 3, { "cluster-enabled yes", "cluster-node-timeout 10000",
    "cluster-require-full-coverage no" })
  local addresses = {}
  for index, node in ipairs(nodes) do addresses[index] = address(node) end
  run("redis-cli --cluster create --cluster-yes " .. table.concat(addresses, " "), "All 16384 slots covered")
end

local function cluster_url() return "redis+cluster://" .. address(nodes[1]) .. "," .. address(nodes[2]) end

-- Keys of which each node has some.
local KEYS = {}
for index = 1, 30 do KEYS[index] = "key " .. index end

local function with_cluster(options, body)
  start_cluster()
  local db = assert(redis.connect(cluster_url(), options))
  db:each_server(function(request) assert(request "FLUSHALL") end)
  local ok, problem = xpcall(body, debug.traceback, db)
  db:close()
  if not ok then error(problem, 0) end
end

-- Which node has a slot, by index, as node 1 sees it.
local function owner_of(slot)
  local direct = assert(redis.connect("redis://" .. address(nodes[1])))
  local owner
  for _, range in ipairs(direct:cluster "SLOTS") do
    if slot >= range[1] and slot <= range[2] then
      for index, node in ipairs(nodes) do
        if node.port == range[3][2] then owner = index end
      end
    end
  end
  direct:close()
  return owner
end

local function direct(index, ...)
  local db = assert(redis.connect("redis://" .. address(nodes[index])))
  local value, message, kind = db:command(...)
  db:close()
  if kind then error(message, 2) end
  return value
end

local function id_of(index) return direct(index, "CLUSTER", "MYID") end

helper.test("keys are where the server has them", function()
  with_cluster(nil, function(db)
    for _, key in ipairs(KEYS) do
      test.equal(native.slot(key), direct(1, "CLUSTER", "KEYSLOT", key))
      test.equal(db:set(key, key .. "!"), "OK")
    end
    for _, key in ipairs(KEYS) do test.equal(db:get(key), key .. "!") end
    local total, servers_seen = 0, 0
    db:each_server(function(request, at)
      local count = request "DBSIZE"
      test.ok(count > 0, at .. " has no key")
      total, servers_seen = total + count, servers_seen + 1
    end)
    test.equal({ total, servers_seen }, { #KEYS, 3 })
    test.equal(db:stats().redirected, 0) -- the map was right
    test.equal(db:ping(), "PONG")
  end)
end)

helper.test("commands with several keys need one slot, and say so", function()
  with_cluster(nil, function(db)
    test.eventually(function() return db:stats().connected == 3 end)
    local before = db:stats().requests
    for _, command in ipairs {
      { "MGET", KEYS }, { "MSET", "a", 1, "b", 2 }, { "DEL", "a", "b" }, { "RENAME", "a", "b" },
      { "EVAL", "return 1", 2, "a", "b" }, { "ZUNIONSTORE", "a", 2, "b", "c" },
      { "XREAD", "STREAMS", "a", "b", 0, 0 }, { "BLPOP", "a", "b", 1 }, { "LMPOP", 2, "a", "b", "LEFT" },
      { "BITOP", "AND", "a", "b" },
    } do
      test.equal(code(db:command(unpack(command))), "CROSSSLOT", command[1])
    end
    test.equal(db:stats().requests, before) -- none of them was sent
    test.equal(db:mset("{x}a", 1, "{x}b", 2), "OK")
    test.equal(db:mget("{x}a", "{x}b"), { "1", "2" })
    test.equal(db:eval("return {KEYS[1], KEYS[2]}", 2, "{x}a", "{x}b"), { "{x}a", "{x}b" })
    test.equal(db:zunionstore("{x}z", 1, "{x}y"), 0)
    test.raises(function() db:pipeline { { "MGET", "a", "b" } } end, "redis_cluster_test.lua:%d+.*CROSSSLOT")
    test.raises(function()
      db:transaction(function(tx)
        tx:set("a", 1)
        tx:set("b", 1)
      end)
    end, "redis_cluster_test.lua:%d+.*one slot")
  end)
end)

helper.test("pipelines, transactions, scripts, waiting and news work as on one server", function()
  with_cluster(nil, function(db)
    local results = db:pipeline(function(p)
      for index, key in ipairs(KEYS) do p:set(key, index) end
      for _, key in ipairs(KEYS) do p:get(key) end
      p:ping()
    end)
    for index in ipairs(KEYS) do
      test.equal({ results[index], results[#KEYS + index] }, { "OK", tostring(index) })
    end
    test.equal(results[#KEYS * 2 + 1], "PONG")
    local add = db:script "return redis.call('INCRBY', KEYS[1], ARGV[1])"
    for index, key in ipairs(KEYS) do
      test.equal(add({ key }, 1), index + 1)
      test.equal(db:transaction(function(tx)
        tx:watch(key)
        local value = tx:get(key)
        tx:multi()
        tx:set(key, value * 2)
        tx:get(key)
      end), { "OK", tostring((index + 1) * 2) })
      test.equal(db:blpop("list of " .. key, 0.01), nil)
    end
    local got = {}
    local subscription = assert(db:subscribe("news", function(message) table.insert(got, message) end))
    db:each_server(function(request, at) request("PUBLISH", "news", at) end)
    test.eventually(function() return #got == 3 end)
    subscription:close()
  end)
end)

helper.test("a slot that moves: requests follow, while it moves and afterwards", function()
  with_cluster(nil, function(db)
    local slot = native.slot "{moving}"
    local from = owner_of(slot)
    local to = from % 3 + 1
    db:set("{moving}a", "a")
    local lost, count, stop, ended, problem = 0, 0, false, false, nil
    perilune.fork(function()
      while not stop do
        local value, why = db:incr "{moving}n"
        count = count + 1
        if value ~= count then lost = lost + 1 end
        problem = problem or why
      end
      ended = true
    end)
    test.eventually(function() return count > 100 end)
    direct(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(from))
    direct(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(to))
    -- A key that isn't there any more is asked for at the other node.
    test.equal(db:set("{moving}new", 1), "OK")
    test.equal(direct(from, "CLUSTER", "COUNTKEYSINSLOT", slot), 2)
    test.equal(db:get "{moving}a", "a")
    test.equal(code(db:mget("{moving}a", "{moving}new")), "TRYAGAIN")
    direct(from, "MIGRATE", "127.0.0.1", nodes[to].port, "", 0, 5000, "KEYS", "{moving}a", "{moving}n")
    local before = count
    test.eventually(function() return count > before + 10 end)
    local redirected = db:stats().redirected
    test.ok(redirected >= 10)
    for _, index in ipairs { to, from, to % 3 + 1 == from and from % 3 + 1 or to % 3 + 1 } do
      direct(index, "CLUSTER", "SETSLOT", slot, "NODE", id_of(to))
    end
    test.eventually(function()
      local seen, requests = db:stats().redirected, count
      perilune.sleep(50)
      return count > requests and db:stats().redirected == seen
    end, 30000)
    test.equal(db:mget("{moving}a", "{moving}new"), { "a", "1" })
    test.equal(db:transaction(function(tx) tx:get "{moving}a" end), { "a" })
    stop = true
    test.eventually(function() return ended end)
    test.equal({ lost, problem }, { 0, nil })
  end)
end)

helper.test("a node that dies and comes back: the others' keys are there all the time", function()
  with_cluster({ timeout_ms = 60000 }, function(db)
    local by_node = {}
    for _, key in ipairs(KEYS) do by_node[owner_of(native.slot(key))] = key end
    for index = 1, 3 do db:set(by_node[index], index) end
    nodes[3]:tell "kill"
    test.equal(db:get(by_node[1]), "1")
    test.equal(db:get(by_node[2]), "2")
    test.equal(db:with({ timeout_ms = 100 }):get(by_node[3]), nil)
    local commands = {}
    for index, key in ipairs(KEYS) do commands[index] = { "SET", key, index } end
    local began = perilune.now()
    local results = db:with({ timeout_ms = 1000 }):pipeline(commands)
    for index, key in ipairs(KEYS) do
      if owner_of(native.slot(key)) == 3 then
        test.equal(results[index].code, "unavailable")
      else
        test.equal(results[index], "OK")
      end
    end
    test.ok(perilune.now() - began >= 1000)
    -- What there is time for waits until it is back.
    local got
    perilune.fork(function() got = db:get(by_node[3]) end)
    perilune.fork(function() results = db:pipeline(commands) end)
    results = nil
    nodes[3]:tell "start"
    test.eventually(function() return got and results end, 60000)
    for index in ipairs(KEYS) do test.equal(results[index], "OK") end
  end)
end)

helper.test("a cluster of which no node answers can't be connected to", function()
  local listener, connections = helper.fake(function(command)
    return command[1] == "CLUSTER" and "-ERR This instance has cluster support disabled\r\n" or nil
  end)
  test.equal(code(redis.connect("redis+cluster://127.0.0.1:" .. listener.port)), "ERR")
  local port = listener.port
  helper.close_fake(listener, connections)
  test.equal(code(redis.connect("redis+cluster://127.0.0.1:" .. port, { connect_ms = 500 })),
    "unavailable")
end)

-- Maps that no cluster has.
for number, reply in ipairs {
  "+OK\r\n", ":1\r\n", "*1\r\n:5\r\n", "*1\r\n*3\r\n:0\r\n:5\r\n$1\r\nx\r\n", "*0\r\n",
  "*1\r\n*3\r\n:0\r\n$1\r\nx\r\n*2\r\n$1\r\nh\r\n:1\r\n", "*1\r\n*2\r\n:0\r\n:5\r\n",
} do
  test("a map of a cluster that is none is refused " .. number, function()
    local listener, connections = helper.fake(function(command)
      return command[1] == "CLUSTER" and reply or nil
    end)
    test.equal(code(redis.connect("redis+cluster://127.0.0.1:" .. listener.port)), "CLUSTERDOWN")
    helper.close_fake(listener, connections)
  end)
end

test("a node that sends on in circles is followed only so long", function()
  local listener, connections
  listener, connections = helper.fake(function(command)
    if command[1] == "CLUSTER" then
      return ("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n"):format(listener.port)
    elseif command[1] == "GET" then
      return ("-MOVED 1 127.0.0.1:%d\r\n"):format(listener.port)
    elseif command[1] == "SET" then
      return "-MOVED nonsense\r\n"
    elseif command[1] == "INCR" then
      return "-ASK 1 127.0.0.1:99999\r\n"
    end
  end)
  local db = assert(redis.connect("redis+cluster://127.0.0.1:" .. listener.port))
  test.equal(code(db:get "a"), "MOVED")
  test.equal(code(db:set("a", 1)), "MOVED")
  test.equal(code(db:incr "a"), "ASK")
  db:close()
  helper.close_fake(listener, connections)
end)

test("a map of more nodes than there may be is used as far as that", function()
  local most, ranges = 1000, {}
  for index = 1, most + 10 do
    -- Addresses of this machine, where nobody listens.
    local host = ("127.9.%d.%d"):format(math.floor(index / 200), index % 200 + 1)
    ranges[index] = ("*3\r\n:%d\r\n:%d\r\n*2\r\n$%d\r\n%s\r\n:1\r\n"):format(index, index, #host, host)
  end
  local map = ("*%d\r\n%s"):format(#ranges, table.concat(ranges))
  local listener, connections = helper.fake(function(command)
    return command[1] == "CLUSTER" and map or nil
  end)
  local db = assert(redis.connect("redis+cluster://127.0.0.1:" .. listener.port))
  local count = 0
  db:each_server(function() count = count + 1 end)
  test.equal(count, most)
  db:close()
  helper.close_fake(listener, connections)
end)

helper.test("the cluster is stopped", function()
  for _, node in ipairs(nodes) do node:close() end
end)

return test
