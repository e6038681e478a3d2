-- A pool of connections, for perilune.mysql: `local pool = require "perilune.sql.pool"`.
--
-- Connections are made when they are needed, up to a number, by tasks of their own: who waits for
-- one has a deadline and takes whichever comes first. While the server can't be reached one attempt
-- at a time is made, 0.1 s after the first failure and up to 5 s after the last.

local core = require "perilune.core"
local sql = require "perilune.sql"

local native = core.native
local fork, now, timeout, cancel =
  native "fork", native "now", native "timeout", native "cancel"
local new_token, wait, wake =
  native "core_token", native "core_wait", native "core_wake"

local FIRST_DELAY, LAST_DELAY = 100, 5000 -- ms between attempts
local MAX_WAITING = 1024

---@class perilune.sql.Connector
---@field open async fun(): any|nil, perilune.sql.Error? a connection, or why there is none
---@field close fun(connection: any)
---@field ended fun(connection: any): boolean the server has closed it

---@class perilune.sql.Pool
---@field private _idle any[] the one that was used last is last
local Pool = {}
Pool.__index = Pool

local pool = {}

---A pool without connections.
---@param connector perilune.sql.Connector
---@param size integer connections at most
---@return perilune.sql.Pool
function pool.new(connector, size)
  return setmetatable({
    _connector = connector, _size = size, _idle = {}, _open = 0, _connecting = 0,
    _waiting = {}, _first = 1, _last = 0, _waiters = 0, _delay = 0, _failures = 0,
    _refused = 0, _late = 0,
  }, Pool)
end

-- ---- who waits ----

local function closed() return sql.error("closed", "the database was closed") end

-- Gives what there is to whoever waits longest. False when nobody does.
local function wake_first(self, ...)
  while self._first <= self._last do
    local place = self._first
    self._first = place + 1
    local token = self._waiting[place]
    self._waiting[place] = nil
    if token then
      self._waiters = self._waiters - 1
      if wake(token, ...) then return true end
    end
  end
  return false
end

local function fail_all(self, problem)
  while wake_first(self, nil, problem) do end
end

-- ---- making connections ----

local grow

local function came(self, connection)
  self._delay, self._problem = 0, nil
  self:give(connection)
  for _ = 1, self._waiters do grow(self) end
end

local function failed(self, problem, before)
  self._open = self._open - 1
  self._problem = problem
  if before == self._failures then -- else it was under way when another one failed
    self._failures = before + 1
    self._delay = math.min(math.max(self._delay * 2, FIRST_DELAY), LAST_DELAY)
    self._retry_at = now() + self._delay
  end
  -- A login or a database that can't be won't be better the next time.
  local is_final = problem.code == "denied" or problem.code == "invalid"
  if is_final or self._closed then fail_all(self, problem) end
  if self._waiters > 0 then grow(self) end
end

---@async
local function connect(self)
  local before = self._failures
  local connection, problem = self._connector.open()
  self._connecting = self._connecting - 1
  if connection then came(self, connection) else failed(self, problem, before) end
end

local function begin(self)
  self._open = self._open + 1
  self._connecting = self._connecting + 1
  fork(connect, self)
end

-- Has another connection made, if there may be one now.
function grow(self)
  if self._closed or self._open >= self._size or self._timer then return end
  if self._delay == 0 then
    -- The first one shows whether there is a server.
    local most = self._open == self._connecting and 1 or self._waiters
    if self._connecting < most then begin(self) end
  elseif self._connecting == 0 then
    self._timer = timeout(math.max(math.ceil(self._retry_at - now()), 0), function()
      self._timer = nil
      if self._waiters > 0 and not self._closed then begin(self) end
    end)
  end
end

-- ---- taking and giving ----

local function take_idle(self)
  while #self._idle > 0 do
    local connection = table.remove(self._idle)
    if not self._connector.ended(connection) then return connection end
    self:drop(connection)
  end
end

-- Why nothing came until the deadline.
local function late(self, ms)
  local why = self._problem
  if why or self._open == self._connecting then
    local text = why and why.message or "no answer yet"
    local problem = sql.error("unavailable", ("no connection within %d ms: %s"):format(ms, text))
    if why then problem.native, problem.sqlstate = why.native, why.sqlstate end
    return problem
  end
  return sql.error("timeout",
    ("none of %d connections was free within %d ms"):format(self._size, ms))
end

---A connection that nobody else uses; raises an Error when none comes in time.
---@async
---@param deadline number of perilune.now()
---@return any connection
function Pool:take(deadline)
  if self._closed then error(closed(), 0) end
  local connection = take_idle(self)
  if connection then return connection end
  if self._waiters >= MAX_WAITING then
    self._refused = self._refused + 1
    error(sql.error("overloaded", MAX_WAITING .. " requests wait for a connection"), 0)
  end
  local ms = math.max(math.ceil(deadline - now()), 1)
  local token = new_token()
  self._last = self._last + 1
  local place = self._last
  self._waiting[place] = token
  self._waiters = self._waiters + 1
  grow(self)
  local problem
  connection, problem = wait(token, ms)
  if connection then return connection end
  if problem ~= "timeout" then error(problem, 0) end
  self._waiting[place] = nil
  self._waiters = self._waiters - 1
  self._late = self._late + 1
  error(late(self, ms), 0)
end

---Takes one back that is clean.
---@param connection any
function Pool:give(connection)
  if self._closed or self._connector.ended(connection) then
    self:drop(connection)
  elseif not wake_first(self, connection) then
    self._idle[#self._idle + 1] = connection
  end
end

---Closes one.
---@param connection any
function Pool:drop(connection)
  self._connector.close(connection)
  self._open = self._open - 1
  if self._waiters > 0 then grow(self) end
end

---The server has closed a connection. If nobody uses it, it goes.
---@param connection any
function Pool:forget(connection)
  for index, idle in ipairs(self._idle) do
    if idle == connection then
      table.remove(self._idle, index)
      self:drop(connection)
      return
    end
  end
end

---Closes all, those in use when they are given back. Who waits hears that it is closed.
function Pool:close()
  self._closed = true
  if self._timer then cancel(self._timer) end
  self._timer = nil
  fail_all(self, closed())
  local idle = self._idle
  self._idle = {}
  for _, connection in ipairs(idle) do self:drop(connection) end
end

---See perilune.sql.Database:stats.
---@return perilune.sql.Stats
function Pool:stats()
  return {
    open = self._open, idle = #self._idle, waiting = self._waiters, refused = self._refused,
    late = self._late,
  }
end

return pool
