-- A service for dbproxy_disk_test.lua: fills the disk of its data folder, asks dbproxy for much, makes
-- room again, and says what is in the database then.
local dbproxy = require "perilune.dbproxy"
local perilune = require "perilune"

local writer = {}

local HEROES = 5
local ROUNDS = 300
local BAG = { ("x"):rep(800) }

local db = dbproxy.at "dbproxy"
local counts = {} -- by what was asked and how it ended
local saved, given = {}, 0 -- what was acknowledged

local function say(...) io.stdout:write(table.concat({ ... }, " "), "\n") end

local function count(what, ok, _, code)
  local name = what .. "." .. (ok and "ok" or code)
  counts[name] = (counts[name] or 0) + 1
  return ok
end

local function fill(path)
  local file = assert(io.open(path, "w"))
  file:setvbuf "no"
  for _, size in ipairs { 65536, 4096, 512, 1 } do
    local chunk = ("x"):rep(size)
    repeat until not file:write(chunk)
  end
  file:close()
end

-- The last hero gets gold by transactions, the others by saves.
local function write_all()
  for value = 1, ROUNDS do
    for uid = 1, HEROES - 1 do
      if count("save", db:save("hero", uid, { gold = value, bag = BAG })) then
        saved[uid] = value
      end
    end
    if count("give", db:run("give", { uid = HEROES, gold = 1 })) then given = given + 1 end
  end
end

local function insist(ask)
  local ok, message, code
  repeat
    ok, message, code = ask()
    if not ok then perilune.sleep(50) end
  until ok
  return ok, message, code
end

function writer.run(path)
  for uid = 1, HEROES do insist(function()
    return db:insert("hero", { uid = uid, gold = 0, epoch = 0 })
  end) end
  fill(path)
  write_all()
  for name, number in pairs(counts) do say("count", name, number) end
  os.remove(path)
  insist(function() return db:save("hero", 1, { gold = ROUNDS + 1 }) end)
  saved[1] = ROUNDS + 1
  for uid = 1, HEROES do
    insist(function() return db:flush("hero", uid) end)
    local row = insist(function() return db:load("hero", uid, { fresh = true }) end)
    say("hero", uid, row.gold, uid == HEROES and given or saved[uid] or 0)
  end
  say("count journal_failures", perilune.call("dbproxy", "stats").journal_failures)
  say "done"
  io.stdout:flush()
end

function writer.on_start(given_path) perilune.fork(writer.run, given_path.path) end

return writer
