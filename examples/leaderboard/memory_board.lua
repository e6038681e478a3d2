-- Scores in memory. The order is that of Redis: by score, players of the same score by name, both
-- from the highest.
local memory_board = {}

local MAX_PLAYERS = 100000

local Board = {}
Board.__index = Board

function memory_board.new() return setmetatable({ best = {}, count = 0 }, Board) end

-- Keeps a score if it is the player's best so far. nil, message, code when the board is full.
function Board:submit(player, score)
  local best = self.best[player]
  if not best then
    if self.count == MAX_PLAYERS then return nil, "the board is full", "busy" end
    self.count = self.count + 1
  end
  if not best or score > best then
    self.best[player], self.sorted = score, nil
  end
  return true
end

local function sorted(self)
  if self.sorted then return self.sorted end
  local list = {}
  for player, score in pairs(self.best) do list[#list + 1] = { player = player, score = score } end
  table.sort(list, function(a, b)
    if a.score ~= b.score then return a.score > b.score end
    return a.player > b.player
  end)
  self.sorted = list
  return list
end

-- The best players, {player, score} each.
function Board:top(count)
  local list, top = sorted(self), {}
  for place = 1, math.min(count, #list) do top[place] = list[place] end
  return top
end

-- The place of a player, from 1, and the score; nil when there is none.
function Board:rank(player)
  local score = self.best[player]
  if not score then return nil end
  for place, entry in ipairs(sorted(self)) do
    if entry.player == player then return place, score end
  end
end

return memory_board
