---@class perilune.redis.channel
-- The connection that all tasks share, made again whenever it is lost: after 0.1 s, and then after
-- twice the time before, up to 5 s. Requests that come meanwhile wait for it, as long as their own
-- time lasts.
local channel = {}

local core = require "perilune.core"
local perilune = require "perilune"

local now, fork = core.native "now", core.native "fork"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local FIRST_PAUSE_MS, LAST_PAUSE_MS = 100, 5000

---@alias perilune.redis.Dial async fun(limit_ms: number): perilune.redis.Link?, string?, string?

---@class perilune.redis.Channel
---@field link perilune.redis.Link? while there is one
---@field closed boolean?
---@field what string for messages: whom it leads to
---@field on_lost fun()? the connection is gone, or could not be made
local Channel = {}
Channel.__index = Channel

local function wake_all(self, ...)
  local waiting, first, last = self._waiting, self._first, self._last
  self._waiting, self._first, self._last, self._count = {}, 1, 0, 0
  for place = first, last do
    if waiting[place] then wake(waiting[place], ...) end
  end
end

-- Pauses, unless it is closed meanwhile.
---@async
local function pause(self, ms)
  self._pause = new_token()
  wait(self._pause, ms)
  self._pause = nil
end

-- A quarter more or less: services that lost the same server don't come back at once.
local function scatter(ms) return math.ceil(ms * (0.75 + math.random() / 2)) end

---@async
local function dial(self)
  local ok, link, message, code = pcall(self._dial, self._connect_ms)
  if not ok then
    perilune.log.error("redis: %s: %s", self.what, tostring(link))
    return nil, tostring(link), "unavailable"
  end
  if link and (self.closed or link.closed) then
    message, code = link.address .. ": " .. (link.closed or "closed here"), "unavailable"
    link:close()
    return nil, message, code
  end
  return link, message, code
end

-- Lets everybody use the connection until it ends.
---@async
local function serve(self, link)
  if link.closed then return end
  local ended = new_token()
  link.on_close = function() wake(ended) end
  self.link = link
  wake_all(self, true)
  wait(ended)
  self.link = nil
  if self.closed then return end
  self._counters.lost = self._counters.lost + 1
  self.problem = link.address .. ": " .. link.closed
  perilune.log.warn("redis: %s", self.problem)
end

-- The task that keeps the connection.
local function run(self, link)
  local ms, is_new = FIRST_PAUSE_MS, false
  while not self.closed do
    if link then
      if is_new then
        perilune.log.info("redis: %s: connected again", link.address)
        self._counters.reconnects = self._counters.reconnects + 1
      end
      serve(self, link)
      ms = FIRST_PAUSE_MS
    end
    if self.closed then return end
    if self.on_lost then self.on_lost() end
    pause(self, scatter(ms))
    if self.closed then return end
    ms = math.min(ms * 2, LAST_PAUSE_MS)
    is_new = true
    link, self.problem, self.problem_code = dial(self)
  end
end

---A channel. Its first connection is made at once, unless there is one.
---@param dial_once perilune.redis.Dial
---@param settings perilune.redis.Settings
---@param what string whom it leads to
---@param link perilune.redis.Link? the first connection
---@return perilune.redis.Channel
function channel.new(dial_once, settings, what, link)
  local self = setmetatable({
    what = what, _dial = dial_once, _connect_ms = settings.connect_ms,
    _max_waiting = settings.max_pending, _counters = settings.counters, _waiting = {}, _first = 1,
    _last = 0, _count = 0,
  }, Channel)
  self.link = link
  fork(function()
    if not link then link, self.problem, self.problem_code = dial(self) end
    run(self, link)
  end)
  return self
end

-- Waits until there is a connection.
---@async
local function wait_for_link(self, left_ms)
  if self._count >= self._max_waiting then
    self._counters.busy = self._counters.busy + 1
    return nil, ("%d requests wait for %s already"):format(self._count, self.what), "busy"
  end
  local token, waiting, place = new_token(), self._waiting, self._last + 1
  self._count, self._last, waiting[place] = self._count + 1, place, token
  local ready, message, code = wait(token, left_ms < math.huge and math.ceil(left_ms) or nil)
  if ready then return true end
  if code then return nil, message, code end
  if self._waiting == waiting then
    waiting[place], self._count = nil, self._count - 1
    while self._first <= self._last and not waiting[self._first] do
      self._first = self._first + 1
    end
  end
  self._counters.unavailable = self._counters.unavailable + 1
  local text = ("%s: no connection in time%s"):format(self.what,
    self.problem and " (" .. self.problem .. ")" or "")
  return nil, text, "unavailable"
end

---The connection, as soon as there is one.
---@async
---@param limit_ms number
---@return perilune.redis.Link? link
---@return string? message
---@return string? code "unavailable", "busy", "closed"
function Channel:connected(limit_ms)
  local deadline = now() + limit_ms
  while not self.link or self.link.closed do
    if self.closed then return nil, self.what .. ": closed here", "closed" end
    local ok, message, code = wait_for_link(self, math.max(1, deadline - now()))
    if not ok then return nil, message, code end
  end
  return self.link
end

---Sends a command when there is a connection, and waits for its reply.
---@async
---@param limit_ms number for both
---@param ... string|number|table
---@return any reply
---@return string? message
---@return string? code
function Channel:request(limit_ms, ...)
  local link = self.link
  if not link or link.closed then
    local deadline = now() + limit_ms
    local message, code
    link, message, code = self:connected(limit_ms)
    if not link then return nil, message, code end
    limit_ms = math.max(1, deadline - now())
  end
  return link:request(limit_ms, ...)
end

---How many requests wait for their reply, or for a connection.
---@return integer count
function Channel:pending() return self._count + (self.link and self.link:pending() or 0) end

---Those who wait for a connection are told so.
---@param message string
---@param code string
function Channel:send_away(message, code) wake_all(self, nil, message, code) end

---Closes. Requests under way fail with "unknown", those that wait with "closed".
function Channel:close()
  if self.closed then return end
  self.closed = true
  if self.link then self.link:close() end
  if self._pause then wake(self._pause) end
  wake_all(self, nil, self.what .. ": closed here", "closed")
end

return channel
