-- A service for kill_test.lua: writes as fast as it is told and says what was acknowledged, or says
-- what is in the database.
local dbproxy = require "perilune.dbproxy"
local perilune = require "perilune"

local writer = {}

local HEROES = 50
local TICK_MS = 100

local db = dbproxy.at "dbproxy"
local value = 0

local function say(...)
  io.stdout:write(table.concat({ ... }, " "), "\n")
  io.stdout:flush()
end

-- Saves are in order, so the last that was acknowledged has to be there, or a later one.
local function save(uid, gold)
  if db:save("hero", uid, { gold = gold }) then say("saved", uid, gold) end
end

-- Hero 0 counts: each that was acknowledged is there, and none twice.
local function count(id)
  say("counts", id)
  if db:run("give", { uid = 0, gold = 1 }, id) then say("counted", id) end
end

function writer.on_tick()
  value = value + 1
  for uid = 1, HEROES do perilune.fork(save, uid, value) end
  perilune.fork(count, dbproxy.operation())
end

function writer.on_start(given)
  if given.show then
    for uid = 0, HEROES do
      db:flush("hero", uid)
      local row = db:load("hero", uid, { fresh = true })
      say("is", uid, row and row.gold or "nil")
    end
    say("replayed", perilune.call("dbproxy", "stats").replayed)
    return say "done"
  end
  for uid = 0, HEROES do db:insert("hero", { uid = uid, gold = 0, epoch = 0 }) end
  local row = db:load("hero", 1, { fresh = true })
  value = row.gold
  say "ready"
  perilune.every(TICK_MS, "on_tick")
end

return writer
