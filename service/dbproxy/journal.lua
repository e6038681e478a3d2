-- The journal: writes that were acknowledged and aren't in the database yet, in a file of SQLite
-- below the data folder. What comes while a commit is under way leaves together in the next one.
-- Two who wrote one journal would take each other's numbers, so whoever opens it holds a lock until
-- its process ends, however it does: a transaction in a file beside it that nobody commits.
local core = require "perilune.core"
local counters = require "dbproxy.counters"
local crypto = require "perilune.crypto"
local database = require "dbproxy.database"
local perilune = require "perilune"
local sqlite = require "perilune.sqlite"

local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local journal = {}

local MAX_GROUP = 1000 -- records of a commit
local MAX_ROWS = 50 -- of a statement
local PAGE = 1000 -- records that are read at once
local LIMIT_MS = 60000 -- of a commit, on a disk that is busy
local REPORT_MS = 1000
local LOCK_MS = 5000 -- for one who ends just now
local IN_MEMORY = "sqlite::memory:"
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

local function refuse(url, why)
  error(("the journal %s: %s. If the file can't be mended, move it away: with it goes what isn't in"
    .. " the database yet"):format(url, why), 0)
end

local function hold(self, path)
  local lock = sqlite.open(path .. ".lock", { timeout_ms = LOCK_MS, busy_ms = LOCK_MS })
  local tried = new_token()
  perilune.fork(function()
    local ok, problem = pcall(lock.transaction, lock, function()
      wake(tried, true)
      wait(self._held)
    end)
    lock:close()
    if not ok then wake(tried, nil, problem) end
  end)
  local held, problem = wait(tried)
  if held then return end
  if problem.code ~= "conflict" then error("the journal's lock: " .. tostring(problem), 0) end
  error(("the journal %s is another's, of this node or of one that has the same data folder: give"
    .. " each a `journal` of its own, or a folder"):format(path), 0)
end

---Opens the journal, or makes it. Raises where that can't be.
---@async
---@param url string
---@param sync boolean it survives the end of the machine, too
---@return dbproxy.Journal
function journal.open(url, sync)
  if not url:find "^sqlite:" then error("the journal's URL begins with sqlite:", 0) end
  local self = setmetatable({ _waiting = {}, _forget = 0, _forgotten = 0, _held = new_token(),
    _reported_at = -math.huge }, Journal)
  if url ~= IN_MEMORY then hold(self, (url:gsub("^sqlite:", ""))) end
  local ok, db = pcall(database.open, { url }, {},
    { limit_ms = LIMIT_MS, max_requests = 1000, sync = sync })
  if not ok then refuse(url, db) end
  self._db = db
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
  if not found then refuse(url, message) end
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

-- As write_group(), where what became of it is looked up if the file alone knows.
local function write_group_surely(self, group, forget)
  local ok, message, code = write_group(self, group, forget)
  if code ~= "unknown" or not group[1] then return ok, message, code end
  local found = self._db:read("SELECT 1 AS there FROM records WHERE number = ?",
    { n = 1, group[1].number })
  if not found then return nil, message, code end
  if found[1] then return true end
  return nil, message, "unavailable"
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

-- Logged once a second.
local function report(self, message)
  counters.add "journal_failures"
  if perilune.now() - self._reported_at < REPORT_MS then return end
  self._reported_at = perilune.now()
  perilune.log.error("the journal can't be written: %s", message)
end

-- The task that writes, while there is something to write.
local function write_all(self)
  while self._waiting[1] or self._forget > self._forgotten do
    local group, forget = take_group(self), self._forget
    local ok, message, code = write_group_surely(self, group, forget)
    if ok then
      self._forgotten = forget
      for _, entry in ipairs(group) do entry.on_written(entry.number) end
    else
      report(self, message)
    end
    for _, entry in ipairs(group) do wake(entry.token, ok, message, code) end
    -- What couldn't be forgotten goes with the next record.
    if not ok and not self._waiting[1] then break end
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
---@return string? code "unavailable", "unknown"
function Journal:append(record, on_written)
  self.last = self.last + 1
  local entry = { number = self.last, record = record, on_written = on_written,
    token = new_token() }
  self._waiting[#self._waiting + 1] = entry
  begin_writing(self)
  local ok, message, code = wait(entry.token)
  if ok then return true end
  return nil, message, code == "unknown" and code or "unavailable"
end

---Records up to this one are in the database: they go with the next commit.
---@param number integer
function Journal:forget(number)
  self._forget = math.max(self._forget, number)
  begin_writing(self)
end

---Puts a record aside that the database refuses, for somebody to look at.
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
    transaction:write("DELETE FROM records WHERE number = ?", { n = 1, number })
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

function Journal:close()
  self._db:close()
  wake(self._held, true)
end

return journal
