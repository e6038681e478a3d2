-- A service for owners_test.lua: it owns heroes while it gives gold of one to another.
local perilune = require "perilune"
local users = require "perilune.users"

local owner = {}

local heroes, ends
local counters = { done = 0 } -- and by code

-- Gives gold of one hero to another, both claimed if they aren't here.
local function transfer(from, to, gold)
  for _, uid in ipairs { from, to } do
    local hero, _, code = heroes:enter(uid)
    if not hero then return nil, "", code end
  end
  return heroes:change({ from, to }, function(mine, theirs)
    if mine.gold < gold then return false end
    mine.gold, theirs.gold = mine.gold - gold, theirs.gold + gold
  end)
end

-- Transfers among `count` heroes until it is stopped.
local function keep_on(count)
  while not ends do
    local from, to = math.random(count), math.random(count)
    if from ~= to then
      local done, _, code = transfer(from, to, math.random(50))
      local name = done and "done" or code
      counters[name] = (counters[name] or 0) + 1
    end
    -- What isn't worth a transaction, and may be lost with the ownership.
    local hero = heroes:find(from)
    if hero then hero.row.bag = { math.random(1000) } end
  end
end

function owner.stats()
  local numbers = heroes:stats()
  for name, value in pairs(counters) do numbers[name] = value end
  return numbers
end

function owner.on_stale(_, name, uid, epoch) heroes:on_stale(name, uid, epoch) end

function owner.on_start(given)
  heroes = users.open {
    table = "hero", owner = "epoch", dbproxy = given.dbproxy, save_ms = 100,
    on_lost = function() end,
  }
  perilune.subscribe("dbproxy.stale", "on_stale")
  for _ = 1, given.tasks do perilune.fork(keep_on, given.heroes) end
end

function owner.on_stop()
  ends = true
  heroes:stop()
end

return owner
