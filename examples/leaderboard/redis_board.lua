-- Scores in a sorted set of Redis. Each function may fail: nil, message, code.
local redis = require "perilune.redis"

local redis_board = {}

local KEY = "leaderboard"

local Board = {}
Board.__index = Board

-- Doesn't wait for Redis to be there.
function redis_board.new(url)
  local db, message = redis.connect(url, { lazy = true, timeout_ms = 500, retry_reads = true })
  if not db then error(message, 0) end
  return setmetatable({ db = db }, Board)
end

-- Keeps a score if it is the player's best so far. A second time does no harm.
function Board:submit(player, score)
  local added, message, code = self.db:zadd(KEY, "GT", score, player)
  if not added then return nil, message, code end
  return true
end

-- The best players, {player, score} each.
function Board:top(count)
  local list, message, code = self.db:zrevrange(KEY, 0, count - 1, "WITHSCORES")
  if not list then return nil, message, code end
  local top = {}
  for index = 1, #list, 2 do
    top[#top + 1] = { player = list[index], score = tonumber(list[index + 1]) }
  end
  return top
end

-- The place of a player, from 1, and the score; nil when there is none.
function Board:rank(player)
  local results, message, code = self.db:pipeline {
    { "ZREVRANK", KEY, player }, { "ZSCORE", KEY, player },
  }
  if not results then return nil, message, code end
  for _, result in ipairs(results) do
    if redis.is_error(result) then return nil, result.message, result.code end
  end
  local place, score = unpack(results)
  if place == redis.null or score == redis.null then return nil end
  return place + 1, tonumber(score)
end

function Board:close() self.db:close() end

return redis_board
