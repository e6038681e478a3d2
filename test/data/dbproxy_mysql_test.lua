-- dbproxy over MariaDB, with its cache in memory and in Redis.
local add_cases = require "dbproxy_cases"
local mysql = require "perilune.mysql"
local redis = require "perilune.redis"
local servers = require "servers"
local test = require "perilune.test"

local USER = "tester:p%40ss%3Aw%2Frd%23%3F%25"

local started = {}

local function server(kind)
  started[kind] = started[kind] or servers.start(kind)
  return started[kind]
end

local count = 0

-- A database that is new, of the server that the tests of this file share.
local function new_database()
  count = count + 1
  local name = "dbproxy" .. count
  local address = ("mysql://%s@127.0.0.1:%d/"):format(USER, server("mysql").port)
  local db = mysql.connect(address .. "test")
  db:execute(("CREATE DATABASE %s CHARACTER SET utf8mb4"):format(name))
  db:close()
  return address .. name
end

local function add(name, kinds, places)
  for _, kind in ipairs(kinds) do
    local why = servers.missing(kind)
    if why then return test.skip(name, why) end
  end
  add_cases(name, setmetatable({ is_kept = true }, { __call = places }))
end

add("MariaDB", { "mysql" }, function() return { database = new_database() } end)

add("MariaDB and Redis", { "mysql", "redis" }, function()
  local url = ("redis://127.0.0.1:%d"):format(server("redis").port)
  local db = assert(redis.connect(url))
  assert(db:flushall())
  db:close()
  return { database = new_database(), cache = url, cache_limit_ms = 5000 }
end)

test("the servers of this file are closed", function()
  for _, one in pairs(started) do one:close() end
end)

return test
