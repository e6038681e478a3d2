-- A service for redis_test.lua that uses a database, and leaves it open.

local perilune = require "perilune"
local redis = require "perilune.redis"

local redis_user = {}

local db, subscription
local heard = 0

function redis_user.on_start(options)
  db = assert(redis.connect("redis://127.0.0.1:" .. options.port))
  subscription = assert(db:subscribe("user:" .. perilune.self(), "on_news"))
end

function redis_user.on_news() heard = heard + 1 end

-- How often it was called, by Redis's count.
function redis_user.visit(text)
  local own = tostring(perilune.self())
  assert(db:echo(text) == text)
  local count
  local results = assert(db:transaction(function(tx) count = tx:incr("visits:" .. own) end))
  assert(db:publish("user:" .. own, text) == 1)
  assert(not subscription.closed)
  return results[count]
end

return redis_user
