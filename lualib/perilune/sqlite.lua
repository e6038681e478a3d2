---@class perilune.sqlite
-- SQLite, embedded in the node: `local sqlite = require "perilune.sqlite"`.
--
--   local db = sqlite.open "game.db"
--   db:execute "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"
--   local _, id = db:execute("INSERT INTO note (text) VALUES (?)", "hello")
--
-- What a database can be asked, what its values are and how it fails: perilune.sql. Here:
--
-- The file is below the node's data folder. An open database is a connection with a thread of its
-- own, 64 to a node: let one service have it, and others ask that. Several may have the same file
-- open: they wait for each other, `busy_ms` at most, and then fail as "conflict".
--
-- Foreign keys are enforced, the journal is a write-ahead log. A commit survives the end of the
-- process; with `sync` also that of the machine. Text in double quotes is a name, never a string.
-- ATTACH, extensions, and PRAGMAs that reach other files or weaken this one are refused as
-- "denied".
local sqlite = {}

local core = require "perilune.core"
local native = require "perilune.native.sqlite"
local options = require "perilune.options"
local sql = require "perilune.sql"

local fork, now = core.native "fork", core.native "now"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local MAX_WAITING = 1024
local MAX_USED = 64 -- statements that the thread has to do
local ROLLBACK_MS = 60000

local DECLARED = {
  busy_ms = { type = "integer", default = 5000, min = 0, max = 600000, unit = "ms",
    meaning = "how long it waits for others that hold the file" },
  sync = { type = "boolean", default = false, meaning = "a commit waits for the disk" },
  statements = { type = "integer", default = 64, min = 0, max = 1000,
    meaning = "prepared ones that are kept" },
}
for name, option in pairs(sql.limit_options) do DECLARED[name] = option end

-- Statements go to the thread as they come. A transaction has the database for itself: while one is
-- open (`_alone`), all else waits for its turn. `_used` counts statements under way. What each
-- function does: perilune.sql.Driver.
---@type perilune.sql.Driver
local Driver = {
  begin = "BEGIN IMMEDIATE", begin_reading = "BEGIN", check = native.check,
}
Driver.__index = Driver

local function closed() return sql.error("closed", "the database was closed") end

local function close_if_unused(self)
  if self._closed and self._used == 0 and self._id then
    native.close(self._id)
    self._id = nil
  end
end

-- Those who wait, in their order, up to the next who wants to be alone.
local function let_in(self)
  while self._first <= self._last and not self._alone and self._used < MAX_USED do
    local entry = self._waiting[self._first]
    if entry and entry.alone and self._used > 0 then return end
    self._waiting[self._first] = nil
    self._first = self._first + 1
    if entry then
      self._waiters = self._waiters - 1
      if wake(entry.token, true) then
        self._used = self._used + 1
        self._alone = entry.alone
      end
    end
  end
end

---@async
function Driver:take(deadline, alone)
  if self._closed then error(closed(), 0) end
  alone = alone or false
  if self._waiters == 0 and not self._alone and self._used < (alone and 1 or MAX_USED) then
    self._used = self._used + 1
    self._alone = alone
    return self._id
  end
  if self._waiters >= MAX_WAITING then
    self._refused = self._refused + 1
    error(sql.error("overloaded", MAX_WAITING .. " requests wait for the database"), 0)
  end
  local ms = math.max(math.ceil(deadline - now()), 1)
  local entry = { token = new_token(), alone = alone }
  self._last = self._last + 1
  local place = self._last
  self._waiting[place] = entry
  self._waiters = self._waiters + 1
  local ok, problem = wait(entry.token, ms)
  if ok then return self._id end
  if problem ~= "timeout" then error(problem, 0) end
  self._waiting[place] = nil
  self._waiters = self._waiters - 1
  self._late = self._late + 1
  let_in(self) -- who waited behind it
  error(sql.error("timeout", ("a transaction kept the database for %d ms"):format(ms)), 0)
end

function Driver:give(_, alone)
  self._used = self._used - 1
  if alone then self._alone = false end
  let_in(self)
  close_if_unused(self)
end

-- Of a transaction, which may be open still: it is rolled back before others come.
function Driver:drop(id, alone)
  if not alone then return self:give(id) end
  fork(function()
    native.execute(id, ROLLBACK_MS, 1, 1, 0, true, "ROLLBACK")
    self:give(id, true)
  end)
end

---@async
function Driver:execute(id, ms, limits, shape, _, text, ...)
  return native.execute(id, ms, limits.max_rows, limits.max_bytes, shape, self._alone, text, ...)
end

function Driver:close()
  self._closed = true
  for place = self._first, self._last do
    local entry = self._waiting[place]
    self._waiting[place] = nil
    if entry then wake(entry.token, nil, closed()) end
  end
  self._first, self._last, self._waiters = 1, 0, 0
  close_if_unused(self)
end

function Driver:stats()
  return {
    open = self._id and 1 or 0, idle = self._used == 0 and 1 or 0, waiting = self._waiters,
    refused = self._refused, late = self._late,
  }
end

---@class perilune.sqlite.Options: perilune.sql.Limits
---@field busy_ms integer? how long it waits for others that hold the file; default 5000
---@field sync boolean? a commit waits for the disk; default false
---@field statements integer? prepared ones that are kept; default 64

---Opens a database, or makes it. Raises a perilune.sql.Error when that fails.
---@async
---@param path string below the data folder: "game.db"; or ":memory:" for one that nobody keeps
---@param given perilune.sqlite.Options?
---@return perilune.sql.Database
function sqlite.open(path, given)
  if type(path) ~= "string" then error("sqlite.open: a path expected, got " .. type(path), 2) end
  local settings = options.read_for("sqlite.open", DECLARED, given)
  local function opened(ok, a, b, c, d, e, f, _, h)
    if ok == true then return f end
    if h then native.close(h) end -- its thread has nothing to do
    error(sql.problem(0, ok, a, b, c, d, e), 0)
  end
  local id = opened(native.open(path, settings.busy_ms, settings.sync, settings.statements))
  local driver = setmetatable({
    _id = id, _used = 0, _alone = false, _waiting = {}, _first = 1, _last = 0, _waiters = 0,
    _refused = 0, _late = 0,
  }, Driver)
  return sql.new(driver, settings)
end

sqlite.json = sql.json
sqlite.binary = sql.binary

return sqlite
