---@class perilune.users
-- Objects that a service owns while their players are here: rows of a table that has an owner
-- (service/tables.lua), loaded once, changed in memory, saved every so often, on leaving and at the
-- end.
--
--   local heroes = users.open {
--     table = "ugame", owner = "owner_epoch", defaults = { uexp = 0, status = 1, ... },
--     on_lost = function(user) gateway.kick(user.uid, "moved") end,
--   }
--   local hero = assert(heroes:enter(uid))
--   hero.row.uexp = hero.row.uexp + 10        -- is saved within a minute
--   heroes:change({ uid, other }, function(mine, theirs)  -- is in the database when it returns
--     mine.uchip, theirs.uchip = mine.uchip - 5, theirs.uchip + 5
--   end)
--   heroes:leave(uid)
--
-- Who enters a row claims it: from then on the database takes no writes of owners before, who may
-- have been paused for long and not know. They find out at their next save, and forget the user.
local users = {}

local codec = require "perilune.codec"
local dbproxy = require "perilune.dbproxy"
local perilune = require "perilune"

local SWEEP_MS = 1000
local RETRY_MS = 1000
local FLUSH_TRIES = 3
local STOP_TRIES = 5
local SAVES_AT_ONCE = 64

---@class perilune.User
---@field uid integer
---@field epoch integer of the claim
---@field row table<string, any> the columns, to be changed at will, but for key and owner
---@field gone string? why it is here no longer: "left", "stale", "unknown"

---@class perilune.users.Options
---@field table string
---@field owner string its column that counts owners
---@field defaults table<string, any>? columns of a user who has no row yet
---@field dbproxy string? the service; default "dbproxy"
---@field key string? the table's key; default "uid"
---@field save_ms integer? a user who has changed is saved so often; default 60000
---@field max integer? users at a time; default 10000
---@field on_lost fun(user: perilune.User)? somebody else owns the user, whose changes are gone

---@class perilune.Users
local Users = {}
Users.__index = Users

---Users of a table. Tell them of the topic "dbproxy.stale" (on_stale), and of the end (stop).
---@param options perilune.users.Options
---@return perilune.Users
function users.open(options)
  return setmetatable({
    _db = dbproxy.at(options.dbproxy or "dbproxy"), _table = options.table,
    _owner = options.owner, _key = options.key or "uid", _defaults = options.defaults or {},
    _save_ms = options.save_ms or 60000, _max = options.max or 10000,
    _on_lost = options.on_lost or function() end, _here = {}, _locks = {}, _count = 0,
    _counters = { entered = 0, left = 0, saved = 0, lost = 0, save_failures = 0, busy = 0 },
  }, Users)
end

-- ---- what has changed ----

-- A value that stays as it is when the table is changed, and can be compared.
local function freeze(value)
  if type(value) == "table" then return { codec.pack(value) } end
  return value
end

local function is_same(frozen, value)
  if type(frozen) ~= "table" then return frozen == value end
  return type(value) == "table" and frozen[1] == codec.pack(value)
end

local function freeze_all(row)
  local frozen = {}
  for name, value in pairs(row) do frozen[name] = freeze(value) end
  return frozen
end

-- Columns of `row` that aren't as frozen, those that are gone, and whether there are any.
local function difference(frozen, row)
  local changes, clear = {}, {}
  for name, value in pairs(row) do
    if not is_same(frozen[name], value) then changes[name] = value end
  end
  for name in pairs(frozen) do
    if row[name] == nil then clear[#clear + 1] = name end
  end
  return changes, clear, next(changes) ~= nil or clear[1] ~= nil
end

-- What has been written of a user.
local function note_written(user, frozen, clear)
  for name, value in pairs(frozen) do user._written[name] = value end
  for _, name in ipairs(clear) do user._written[name] = nil end
end

-- ---- coming and going ----

-- Runs body() while nothing else happens to a user's coming, going and saving.
local function locked(self, uid, body)
  local lock = self._locks[uid]
  if not lock then
    lock = { enter = perilune.queue(), waiting = 0 }
    self._locks[uid] = lock
  end
  lock.waiting = lock.waiting + 1
  local function done(ok, ...)
    lock.waiting = lock.waiting - 1
    if lock.waiting == 0 then self._locks[uid] = nil end
    if not ok then error((...), 0) end
    return ...
  end
  return done(pcall(lock.enter, body))
end

local function forget(self, user, why)
  if user.gone then return end
  user.gone = why
  self._here[user.uid] = nil
  self._count = self._count - 1
  if self._count == 0 and self._sweeper then
    perilune.cancel(self._sweeper)
    self._sweeper = nil
  end
end

local function lose(self, user, why)
  if user.gone then return end
  forget(self, user, why)
  self._counters.lost = self._counters.lost + 1
  perilune.log.warn("%s %d has another owner now: what wasn't saved is gone", self._table, user.uid)
  self._on_lost(user)
end

local function claim(self, uid)
  if self._count >= self._max then
    self._counters.busy = self._counters.busy + 1
    return nil, ("%d users are here"):format(self._count), "busy"
  end
  self._count = self._count + 1 -- while it waits, too
  local row, message, code = self._db:claim(self._table, uid, self._defaults)
  if not row then
    self._count = self._count - 1
    return nil, message, code
  end
  local user = {
    uid = uid, epoch = row[self._owner], row = row, _written = freeze_all(row),
    _save_at = perilune.now() + self._save_ms * (0.5 + math.random() / 2),
  }
  self._here[uid] = user
  self._counters.entered = self._counters.entered + 1
  if not self._sweeper then
    self._sweeper = perilune.every(math.min(SWEEP_MS, self._save_ms), function() self:sweep() end)
  end
  return user
end

---The user of a uid, loaded and claimed if it isn't here. A user who has no row gets one.
---@async
---@param uid integer
---@return perilune.User? user
---@return string? message
---@return string? code "busy", "unavailable", ...: as perilune.dbproxy has them
function Users:enter(uid)
  if self._stopping then return nil, "the service ends", "unavailable" end
  return locked(self, uid, function()
    if self._here[uid] then return self._here[uid] end
    return claim(self, uid)
  end)
end

---The user of a uid who is here.
---@param uid integer
---@return perilune.User? user
function Users:find(uid) return self._here[uid] end

-- ---- saving ----

local function save(self, user)
  if user.gone then return nil, "the user isn't here", user.gone end
  local changes, clear, any = difference(user._written, user.row)
  if not any then return true end
  local frozen = freeze_all(changes)
  local ok, message, code =
    self._db:save(self._table, user.uid, changes, { owner = user.epoch, clear = clear })
  if ok then
    note_written(user, frozen, clear)
    self._counters.saved = self._counters.saved + 1
    return true
  end
  self._counters.save_failures = self._counters.save_failures + 1
  if code == "stale" then lose(self, user, "stale") end
  return nil, message, code
end

---Saves what has changed of a user, so that it survives a crash.
---@async
---@param user perilune.User
---@return true? saved
---@return string? message
---@return string? code "stale": the user is lost; "busy", "unavailable", "unknown": it is tried
---again
function Users:save(user) return locked(self, user.uid, function() return save(self, user) end) end

-- Until it is saved, or not ours to save any more. The same values written twice do no harm.
local function save_at_last(self, user)
  local tries = 0
  while true do
    local ok, message = save(self, user)
    if ok then return true end
    if user.gone then return false end
    tries = tries + 1
    if self._stopping and tries >= STOP_TRIES then
      perilune.log.error("%s %d can't be saved: %s", self._table, user.uid, message)
      return false
    end
    perilune.log.warn("%s %d isn't saved yet: %s", self._table, user.uid, message)
    perilune.sleep(RETRY_MS)
  end
end

---Saves a user and forgets it. Returns when it is in the database, so that another node may claim
---it; where the database is away, when it is in the journal.
---@async
---@param uid integer
---@return boolean left false when it wasn't here
function Users:leave(uid)
  return locked(self, uid, function()
    local user = self._here[uid]
    if not user then return false end
    local ok = save_at_last(self, user)
    for _ = 1, ok and FLUSH_TRIES or 0 do
      local _, _, code = self._db:flush(self._table, uid)
      if code ~= "unavailable" or self._stopping then break end
    end
    if user.gone then return false end
    forget(self, user, "left")
    self._counters.left = self._counters.left + 1
    return true
  end)
end

---Saves those whose time has come.
---@async
function Users:sweep()
  local now, due = perilune.now(), {}
  for _, user in pairs(self._here) do
    if now >= user._save_at then
      user._save_at = now + self._save_ms
      due[#due + 1] = function() return self:save(user) end
    end
  end
  for first = 1, #due, SAVES_AT_ONCE do
    perilune.wait_all { unpack(due, first, math.min(first + SAVES_AT_ONCE - 1, #due)) }
  end
end

---The topic "dbproxy.stale": an owner's writes weren't applied.
---@param name string of the table
---@param uid integer
---@param epoch integer
function Users:on_stale(name, uid, epoch)
  local user = name == self._table and self._here[uid]
  if user and tonumber(user.epoch) <= tonumber(epoch) then lose(self, user, "stale") end
end

---Saves all users and forgets them.
---@async
function Users:stop()
  self._stopping = true
  local leaving = {}
  for uid in pairs(self._here) do
    leaving[#leaving + 1] = function() self:leave(uid) end
  end
  perilune.wait_all(leaving)
end

-- ---- changes that are in the database at once ----

local function copy(row) return (codec.unpack(codec.pack(row))) end

local function change(self, list, body)
  local copies, steps, notes = {}, {}, {}
  for i, user in ipairs(list) do
    if user.gone then return nil, "a user isn't here", "missing" end
    copies[i] = copy(user.row)
  end
  local before = {}
  for i, row in ipairs(copies) do before[i] = freeze_all(row) end
  local result = body(unpack(copies))
  if result == false then return nil, "it was refused", "refused" end
  for i, user in ipairs(list) do
    local changes, clear, any = difference(before[i], copies[i])
    if any then
      steps[#steps + 1] =
        { "update", self._table, user.uid, changes, { owner = user.epoch, clear = clear } }
      notes[#notes + 1] = { user, freeze_all(changes), clear, changes }
    end
  end
  if not steps[1] then return true end
  local done, message, code = self._db:transact(steps, dbproxy.operation())
  if not done then return nil, message, code end
  for _, note in ipairs(notes) do
    local user, frozen, clear, changes = unpack(note)
    note_written(user, frozen, clear)
    for name, value in pairs(changes) do user.row[name] = value end
    for _, name in ipairs(clear) do user.row[name] = nil end
  end
  return true
end

-- Runs body() with the locks of all uids, taken in their order so that no two wait for each other.
local function locked_all(self, uids, index, body)
  if index > #uids then return body() end
  return locked(self, uids[index], function() return locked_all(self, uids, index + 1, body) end)
end

---Changes rows of users who are here in one transaction: all of it is in the database when it
---returns, or nothing of it anywhere. body() gets copies of the rows, changes them without waiting,
---and may return false to refuse. Columns that are changed so aren't to be changed otherwise.
---@async
---@param uids integer[] each once
---@param body fun(...: table<string, any>): boolean?
---@return true? done
---@return string? message
---@return string? code "missing" (a user isn't here), "refused" (by body), "stale" (those whose
---owner is another are lost), "unknown" (all of them are lost), or as perilune.dbproxy has it
function Users:change(uids, body)
  local sorted = { unpack(uids) }
  table.sort(sorted)
  return locked_all(self, sorted, 1, function()
    local list = {}
    for i, uid in ipairs(uids) do
      list[i] = self._here[uid]
      if not list[i] then return nil, ("%d isn't here"):format(uid), "missing" end
    end
    local done, message, code = change(self, list, body)
    for _, user in ipairs((code == "stale" or code == "unknown") and list or {}) do
      local row = code == "stale" and self._db:load(self._table, user.uid, { fresh = true })
      if not row or row[self._owner] ~= user.epoch then lose(self, user, code) end
    end
    return done, message, code
  end)
end

---What an operator wants to know.
---@return table numbers users who are here; counters: entered, left, saved, save_failures, lost,
---busy
function Users:stats()
  local numbers = { users = self._count }
  for name, value in pairs(self._counters) do numbers[name] = value end
  return numbers
end

return users
