-- The journal: writes that were acknowledged and aren't in the database yet, in a file of SQLite
-- below the data folder. What comes while a commit is under way leaves together in the next one.
local core = require "perilune.core"
local crypto = require "perilune.crypto"
local database = require "dbproxy.database"
local perilune = require "perilune"

local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local journal = {}

local MAX_GROUP = 1000 -- records of a commit
local MAX_ROWS = 50 -- of a statement
local PAGE = 1000 -- records that are read at once
local LIMIT_MS = 60000 -- of a commit, on a disk that is busy
local NONE = { n = 0 }

local MAKE_TABLES = {
  "CREATE TABLE IF NOT EXISTS itself (id TEXT NOT NULL)",
  "CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, record BLOB NOT NULL)",
  [[CREATE TABLE IF NOT EXISTS rejected (id INTEGER PRIMARY KEY, number INTEGER NOT NULL,
    record BLOB NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL, at INTEGER NOT NULL)]],
}

---@class dbproxy.Journal
---@field id string that the database knows it by
---@field last integer number of the last record
local Journal = {}
Journal.__index = Journal

---Opens the journal, or makes it. Raises where that can't be.
---@async
---@param url string
---@param sync boolean it survives the end of the machine, too
---@return dbproxy.Journal
function journal.open(url, sync)
  local self = setmetatable({
    _db = database.open({ url }, {}, { limit_ms = LIMIT_MS, max_requests = 1000, sync = sync }),
    _waiting = {}, _forget = 0, _forgotten = 0,
  }, Journal)
  local found, message = self._db:transact(function(transaction)
    for _, text in ipairs(MAKE_TABLES) do transaction:write(text, NONE) end
    local row = transaction:read("SELECT id FROM itself", NONE)[1]
    if not row then
      row = { id = crypto.hex(crypto.random_bytes(16)) }
      transaction:write("INSERT INTO itself (id) VALUES (?)", { n = 1, row.id })
    end
    row.last = transaction:read("SELECT MAX(number) AS last FROM records", NONE)[1].last
    return row
  end)
  if not found then error("the journal: " .. message, 0) end
  self.id, self.last = found.id, found.last or 0
  return self
end

-- ---- writing ----

local function insert(transaction, group, first, last)
  local values = { n = 0 }
  for i = first, last do
    values[values.n + 1], values[values.n + 2] = group[i].number, group[i].record
    values.n = values.n + 2
  end
  local marks = ("(?, ?), "):rep(last - first + 1):sub(1, -3)
  transaction:write("INSERT INTO records (number, record) VALUES " .. marks, values)
end

local function write_group(self, group, forget)
  return self._db:transact(function(transaction)
    if forget > self._forgotten then
      transaction:write("DELETE FROM records WHERE number <= ?", { n = 1, forget })
    end
    for first = 1, #group, MAX_ROWS do
      insert(transaction, group, first, math.min(first + MAX_ROWS - 1, #group))
    end
    return true
  end)
end

-- The next records that wait, at most MAX_GROUP.
local function take_group(self)
  local waiting = self._waiting
  if #waiting <= MAX_GROUP then
    self._waiting = {}
    return waiting
  end
  local group, rest = {}, {}
  for i, entry in ipairs(waiting) do
    if i <= MAX_GROUP then group[i] = entry else rest[i - MAX_GROUP] = entry end
  end
  self._waiting = rest
  return group
end

-- The task that writes, while there is something to write.
local function write_all(self)
  while self._waiting[1] or self._forget > self._forgotten do
    local group, forget = take_group(self), self._forget
    local ok, message, code = write_group(self, group, forget)
    if ok then
      self._forgotten = forget
      for _, entry in ipairs(group) do entry.on_written(entry.number) end
    else
      perilune.log.error("the journal can't be written: %s", message)
      if not group[1] then break end -- the next record tries again
    end
    for _, entry in ipairs(group) do wake(entry.token, ok, message, code) end
  end
  self._is_writing = false
end

local function begin_writing(self)
  if self._is_writing then return end
  self._is_writing = true
  perilune.fork(write_all, self)
end

---Adds a record, and returns when it survives this process.
---@async
---@param record string
---@param on_written fun(number: integer) called in the order of the records, before any of them
---that came at the same time returns
---@return true? written
---@return string? message
---@return string? code "unavailable"
function Journal:append(record, on_written)
  self.last = self.last + 1
  local entry = { number = self.last, record = record, on_written = on_written,
    token = new_token() }
  self._waiting[#self._waiting + 1] = entry
  begin_writing(self)
  local ok, message = wait(entry.token)
  if ok then return true end
  return nil, message, "unavailable"
end

---Records up to this one are in the database: they go with the next commit.
---@param number integer
function Journal:forget(number)
  self._forget = math.max(self._forget, number)
  begin_writing(self)
end

---Keeps a record aside that the database refuses, for somebody to look at.
---@async
---@param number integer
---@param record string
---@param message string
---@param code string
---@return true? kept
---@return string? why
function Journal:reject(number, record, message, code)
  return self._db:transact(function(transaction)
    transaction:write(
      "INSERT INTO rejected (number, record, code, message, at) VALUES (?, ?, ?, ?, ?)",
      { n = 5, number, record, code, message, math.floor(perilune.time()) })
    return true
  end)
end

---Calls something for each record behind one, in their order. Raises where they can't be read.
---@async
---@param number integer
---@param on_record fun(number: integer, record: string)
function Journal:replay(number, on_record)
  repeat
    local found, message = self._db:read(
      "SELECT number, record FROM records WHERE number > ? ORDER BY number LIMIT ?",
      { n = 2, number, PAGE })
    if not found then error("the journal: " .. message, 0) end
    for _, row in ipairs(found) do
      on_record(row.number, row.record)
      number = row.number
    end
  until #found < PAGE
end

---@async
---@return integer count of records that were kept aside
function Journal:count_rejected()
  local found = self._db:read("SELECT COUNT(*) AS number FROM rejected", NONE)
  return found and found[1].number or 0
end

function Journal:close() self._db:close() end

return journal
