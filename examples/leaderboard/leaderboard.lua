-- The best scores, for other services and over HTTP.
local http = require "perilune.http"
local memory_board = require "memory_board"
local options = require "perilune.options"
local perilune = require "perilune"
local redis_board = require "redis_board"

local leaderboard = {} -- the commands that other services may call

leaderboard.options = {
  port = { type = "integer", default = 8080, min = 0, max = 65535, meaning = "TCP port" },
  redis = { type = "string", default = "", meaning = "URL of Redis; empty: in memory alone" },
}

local MAX_TOP = 100
local MAX_SCORE = 2 ^ 53

local server
local memory = memory_board.new() -- what this service has seen
local stored                      -- the board in Redis, if there is one
local unsent = {}                 -- scores that Redis hasn't confirmed, by player
local is_sending = false

function leaderboard.on_start(given)
  local settings = options.read(leaderboard.options, given)
  if settings.redis ~= "" then
    stored = redis_board.new(settings.redis)
    perilune.every(1000, "on_tick")
  end
  server = assert(http.listen {
    port = settings.port,
    max_body = 1000,
    routes = { -- by name, so that a reload takes effect
      ["POST /scores"] = "on_score",
      ["GET /top"] = "on_top",
      ["GET /players/:player"] = "on_player",
    },
  })
  print(("http://%s:%d/top"):format(server.host, server.port))
end

function leaderboard.on_stop()
  if stored then stored:close() end
end

-- A player's score, which counts if it is the best. Whether it is in Redis by now, or only here;
-- nil, message, code when it can't be kept.
function leaderboard.submit(player, score)
  local kept, message, code = memory:submit(player, score)
  if not kept then return nil, message, code end
  if not stored then return false end
  if stored:submit(player, score) then return true end
  unsent[player] = math.max(unsent[player] or score, score)
  return false
end

-- The best players, {player, score} each.
function leaderboard.top(count)
  local top = stored and stored:top(count)
  return top or memory:top(count)
end

-- Place and score of a player, or nil.
function leaderboard.rank(player)
  if stored then
    local place, score, code = stored:rank(player)
    if place or not code then return place, score end
  end
  return memory:rank(player)
end

-- How many scores Redis hasn't confirmed.
function leaderboard.unsent()
  local count = 0
  for _ in pairs(unsent) do count = count + 1 end
  return count
end

-- Sends again what Redis hasn't confirmed. It may have come although nobody said so: the best score
-- stays the best, however often it is sent.
function leaderboard.on_tick()
  if is_sending then return end
  is_sending = true
  local players = {}
  for player in pairs(unsent) do players[#players + 1] = player end
  for _, player in ipairs(players) do
    local score = unsent[player]
    if not stored:submit(player, score) then break end
    if unsent[player] == score then unsent[player] = nil end -- else a better one came meanwhile
  end
  is_sending = false
end

function leaderboard.on_score(request)
  local form = request:form() or {}
  local player, score = form.player, tonumber(form.score)
  if not player or not player:find "^[%w_-]+$" or #player > 32 then
    return 400, { error = "a player has 1 to 32 letters, digits, _ or -" }
  end
  if not score or score % 1 ~= 0 or math.abs(score) > MAX_SCORE then
    return 400, { error = "a score is an integer" }
  end
  local is_stored, message = leaderboard.submit(player, score)
  if is_stored == nil then return 503, { error = message } end
  return { player = player, score = score, stored = is_stored }
end

function leaderboard.on_top(request)
  local count = tonumber((request:query() or {}).count or 10)
  if not count or count % 1 ~= 0 or count < 1 or count > MAX_TOP then
    return 400, { error = "count is 1 to " .. MAX_TOP }
  end
  return { top = leaderboard.top(count) }
end

function leaderboard.on_player(request)
  local place, score = leaderboard.rank(request.params.player)
  if not place then return 404, { error = "no such player" } end
  return { player = request.params.player, place = place, score = score }
end

function leaderboard.port() return server.port end

return leaderboard
