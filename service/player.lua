-- player: what players own, while they play.
--
-- DESIGN
-- A user is loaded and claimed when the player enters the game, saved each minute where something
-- has changed, and saved and let go when the player is gone or this service ends (perilune.users).
-- What must not be lost or doubled by a crash, such as chips that change hands, is written at once,
-- in one transaction. A player whom another node has claimed meanwhile is sent away from here.
local perilune = require "perilune"
local gateway = require "perilune.gateway"
local options = require "perilune.options"
local protocol = require "perilune.protocol"
local users = require "perilune.users"

local player = {}
local client = {}

player.options = {
  dbproxy = { type = "string", default = "dbproxy", meaning = "the service that keeps the users" },
  save_ms = { type = "integer", default = 60000, min = 10, max = 86400000, unit = "ms",
    meaning = "a user who has changed is saved so often" },
  max_users = { type = "integer", default = 10000, min = 1, max = 1000000,
    meaning = "users at a time" },
}

local STATUS = protocol.status
local NEW_USER = { uexp = 0, status = 1, uchip = 1000, uvip = 0, uvip_endtime = 0 }
local MAX_CHIPS = 2 ^ 53

local all -- perilune.Users

local function is_count(value)
  return type(value) == "number" and value % 1 == 0 and value > 0 and value <= MAX_CHIPS
end

-- ---- for players ----

function client.enter(uid)
  local user, message, code = all:enter(uid)
  if not user then
    if code ~= "busy" then perilune.log.warn("%d can't enter: %s", uid, message) end
    return { status = STATUS.busy }
  end
  if user.row.status ~= 1 then return { status = STATUS.illegal_account } end
  return {
    status = STATUS.ok, uexp = user.row.uexp, uchip = user.row.uchip, uvip = user.row.uvip,
  }
end

function client.on_disconnect(uid) all:leave(uid) end

-- ---- for services ----

---What a user has: a copy.
---@param uid integer
---@return table<string, any>? row nil when the user isn't here
function player.get(uid)
  local user = all:find(uid)
  return user and user.row
end

---Gives a user experience. It is saved within a minute.
---@param uid integer
---@param amount integer above 0
---@return integer? uexp nil when the user isn't here
function player.add_experience(uid, amount)
  if not is_count(amount) then error("experience is a whole number above 0", 0) end
  local user = all:find(uid)
  if not user then return nil end
  user.row.uexp = math.min(user.row.uexp + amount, 2 ^ 31 - 1)
  return user.row.uexp
end

---Keeps something of a user, in the table udata, under a name. It is saved within a minute.
---@param uid integer
---@param name string
---@param value any nil: nothing any more
---@return boolean kept false when the user isn't here
function player.keep(uid, name, value)
  local user = all:find(uid)
  if not user then return false end
  user.row.udata = user.row.udata or {}
  user.row.udata[name] = value
  return true
end

---Gives chips to a user, or takes them. They are in the database when it returns.
---@async
---@param uid integer
---@param amount integer below 0: takes
---@return true? done
---@return string? message
---@return string? code "missing", "refused" (there aren't so many), or as Users:change has it
function player.give_chips(uid, amount)
  if not is_count(math.abs(amount)) then error("chips are a whole number, not 0", 0) end
  return all:change({ uid }, function(row)
    row.uchip = row.uchip + amount
    return row.uchip >= 0 and row.uchip <= MAX_CHIPS
  end)
end

---Gives chips of one user to another. They are in the database when it returns.
---@async
---@param from integer
---@param to integer
---@param amount integer above 0
---@return true? done
---@return string? message
---@return string? code as give_chips
function player.transfer(from, to, amount)
  if not is_count(amount) then error("chips are a whole number above 0", 0) end
  if from == to then error("chips go from one user to another", 0) end
  return all:change({ from, to }, function(mine, theirs)
    mine.uchip, theirs.uchip = mine.uchip - amount, theirs.uchip + amount
    return mine.uchip >= 0 and theirs.uchip <= MAX_CHIPS
  end)
end

---What an operator wants to know.
---@return table numbers users who are here; counters: entered, left, saved, save_failures, lost,
---busy
function player.stats() return all:stats() end

-- ---- life ----

function player.on_stale(_, name, uid, epoch) all:on_stale(name, uid, epoch) end

function player.on_start(given)
  local settings = options.read(player.options, given)
  all = users.open {
    dbproxy = settings.dbproxy, table = "ugame", owner = "owner_epoch", defaults = NEW_USER,
    save_ms = settings.save_ms, max = settings.max_users,
    on_lost = function(user) gateway.kick(user.uid, "moved", "you play elsewhere") end,
  }
  perilune.subscribe("dbproxy.stale", "on_stale")
end

function player.on_stop() all:stop() end

return player, client
