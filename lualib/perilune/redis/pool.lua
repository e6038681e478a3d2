---@class perilune.redis.pool
-- Connections that one task has for itself, for commands that wait and for transactions. They are
-- kept for a while for the next one. How many there may be is the database's limit, whatever the
-- servers; further tasks wait, in the order of coming.
local pool = {}

local core = require "perilune.core"

local now = core.native "now"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local MAX_IDLE = 4

---@class perilune.redis.Pool
local Pool = {}
Pool.__index = Pool

---How many connections all pools of a database have lent, and who waits for one.
---@param most integer
---@param most_waiting integer
---@return perilune.redis.Places
function pool.places(most, most_waiting)
  ---@class perilune.redis.Places
  return {
    most = most, most_waiting = most_waiting, used = 0,
    waiting = {}, first = 1, last = 0, count = 0,
  }
end

---@async
local function enter(places, limit_ms)
  if places.used < places.most then
    places.used = places.used + 1
    return true
  end
  if places.count >= places.most_waiting then return false end
  local token, place = new_token(), places.last + 1
  places.last, places.count, places.waiting[place] = place, places.count + 1, token
  local entered = wait(token, math.ceil(limit_ms))
  places.count = places.count - 1
  if entered then return true end -- the place of one that has left
  places.waiting[place] = nil
  while places.first <= places.last and not places.waiting[places.first] do
    places.first = places.first + 1
  end
  return false
end

local function leave(places)
  while places.first <= places.last do
    local token = places.waiting[places.first]
    places.waiting[places.first] = nil
    places.first = places.first + 1
    if token and wake(token, true) then return end
  end
  places.used = places.used - 1
end

---A pool without connections.
---@param dial perilune.redis.Dial
---@param settings perilune.redis.Settings
---@return perilune.redis.Pool
function pool.new(dial, settings)
  return setmetatable({ _dial = dial, _settings = settings, _idle = {}, _lent = {} }, Pool)
end

local function forget(self, link)
  for index, other in ipairs(self._idle) do
    if other == link then
      table.remove(self._idle, index)
      return
    end
  end
end

local function take_idle(self)
  while #self._idle > 0 do
    local link = table.remove(self._idle)
    link.on_close = nil
    if not link.closed then
      link:set_idle(0)
      return link
    end
  end
end

---A connection that nobody else has; to be given back.
---@async
---@param limit_ms number to get one
---@return perilune.redis.Link? link
---@return string? message
---@return string? code "busy", "unavailable", "closed", of the server
function Pool:take(limit_ms)
  local settings, deadline = self._settings, now() + limit_ms
  local places = settings.places
  if not enter(places, limit_ms) then
    settings.counters.busy = settings.counters.busy + 1
    return nil, ("redis: %d connections are in use already"):format(places.used), "busy"
  end
  local link, message, code = nil, "redis: closed here", "closed"
  if not self.closed then link = take_idle(self) end
  if not link and not self.closed then
    local left = math.max(1, deadline - now())
    link, message, code = self._dial(math.min(left, settings.connect_ms))
  end
  if link and self.closed then
    link:close()
    link, message, code = nil, "redis: closed here", "closed"
  end
  if not link then
    leave(places)
    return nil, message, code
  end
  self._lent[link] = true
  return link
end

---Takes a connection back. One on which something is still under way is closed.
---@param link perilune.redis.Link
function Pool:give(link)
  self._lent[link] = nil
  leave(self._settings.places)
  if link.closed then return end
  if self.closed or link:pending() > 0 or #self._idle >= MAX_IDLE then return link:close() end
  self._idle[#self._idle + 1] = link
  link.on_close = function() forget(self, link) end
  link:set_idle(self._settings.idle_ms)
end

---Closes all of them.
function Pool:close()
  self.closed = true
  local idle, lent = self._idle, self._lent
  self._idle, self._lent = {}, {}
  for _, link in ipairs(idle) do
    link.on_close = nil
    link:close()
  end
  for link in pairs(lent) do link:close() end
end

return pool
