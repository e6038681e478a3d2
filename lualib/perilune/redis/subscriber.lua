---@class perilune.redis.subscriber
-- The connection for what others publish, made at the first subscription, closed after the last.
-- When it is lost, it is made again and everything is subscribed to again; what was published
-- meanwhile is gone, and each subscription is told so.
local subscriber = {}

local callbacks = require "perilune.callback"
local channels = require "perilune.redis.channel"
local core = require "perilune.core"
local perilune = require "perilune"

local now, fork, watch = core.native "now", core.native "fork", core.native "core_watch"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

-- What may wait in a subscription for a task that takes it.
local MAX_MESSAGES, MAX_BYTES = 10000, 16 * 1024 * 1024
local MAX_NAMES = 100000

---@class perilune.redis.Subscription
---@field names string[] channels, or patterns
---@field dropped integer messages that came while too many waited
---@field gaps integer how often the connection was lost
---@field closed boolean?
local Subscription = {}
Subscription.__index = Subscription

---@class perilune.redis.Subscriber
local Subscriber = {}
Subscriber.__index = Subscriber

-- Subscriptions --------------------------------------------------------------------------------

local function wake_reader(self)
  local reader = self._reader
  self._reader = nil
  if reader then wake(reader) end
end

local function keep(self, message, channel)
  local size = #message + #channel
  if self._last - self._first + 1 >= MAX_MESSAGES or self._bytes + size > MAX_BYTES then
    self.dropped = self.dropped + 1
    self._counters.dropped = self._counters.dropped + 1
    return
  end
  self._last, self._bytes = self._last + 1, self._bytes + size
  self._messages[self._last] = { message, channel }
  wake_reader(self)
end

---Waits for the next message. For subscriptions without a callback.
---@async
---@param timeout_ms integer? default: as long as the subscription lasts
---@return string? message
---@return string? channel it was published to; or "timeout", "closed"
---@return string? code "timeout", "closed"
function Subscription:next(timeout_ms)
  if self._reader then error("next: another task waits for this subscription", 2) end
  local deadline = timeout_ms and now() + timeout_ms
  while true do
    local first = self._first
    local entry = self._messages[first]
    if entry then
      self._messages[first], self._first = nil, first + 1
      self._bytes = self._bytes - #entry[1] - #entry[2]
      return entry[1], entry[2]
    end
    if self.closed then return nil, "closed", "closed" end
    local left = deadline and deadline - now()
    if left and left <= 0 then return nil, "timeout", "timeout" end
    local token = new_token()
    self._reader = token
    wait(token, left and math.ceil(left) or nil)
    if self._reader == token then self._reader = nil end
  end
end

---`for message, channel in subscription:each() do`: until it is closed.
---@async
---@return async fun(): string?, string?
function Subscription:each()
  return function()
    local message, channel = self:next()
    if message then return message, channel end
  end
end

-- Hands messages to the callback, one after the other.
local function deliver(self)
  for message, channel in self:each() do
    local ok, problem = xpcall(callbacks.call, debug.traceback, self._callback, message, channel)
    if not ok then perilune.log.error("redis: a message of %s: %s", channel, problem) end
  end
end

-- Goes on after a message whose callback was killed, because it didn't end.
local function keep_delivering(self)
  while not self.closed or self._messages[self._first] do
    local ended = new_token()
    fork(function()
      watch(ended)
      deliver(self)
      wake(ended)
    end)
    wait(ended)
    self._reader = nil
  end
end

-- Once for each connection, however many names it has.
local function tell_gap(self, link)
  if self._told == link then return end
  self._told = link
  self.gaps = self.gaps + 1
  if self._on_gap then fork(callbacks.call, self._on_gap, self) end
end

---Ends it. What has come already can still be read.
function Subscription:close()
  if self.closed then return end
  self.closed = true
  wake_reader(self)
  self._subscriber:_remove(self)
end

-- The connection ---------------------------------------------------------------------------------

local function verb(is_pattern, ends)
  return (is_pattern and "P" or "") .. (ends and "UNSUBSCRIBE" or "SUBSCRIBE")
end

-- Asks the server for a name. The answers come in the order of asking.
local function ask_for(self, entry)
  local link = self._link
  if not link then return end
  if link:push(verb(entry.is_pattern), entry.name) then
    self._asked_last = self._asked_last + 1
    self._asked[self._asked_last] = entry
  end
end

local function next_asked(self)
  local entry = self._asked[self._asked_first]
  if not entry then return nil end
  self._asked[self._asked_first] = nil
  self._asked_first = self._asked_first + 1
  return entry
end

local function wake_waiting(entry, ...)
  local waiting = entry.waiting
  entry.waiting = {}
  for _, token in ipairs(waiting) do wake(token, ...) end
end

local function confirm(entry, link)
  entry.is_confirmed = true
  wake_waiting(entry, true)
  if not entry.had_gap then return end
  entry.had_gap = nil
  for subscription in pairs(entry.subscriptions) do tell_gap(subscription, link) end
end

-- The server won't have it: it may not be allowed.
local function refuse(self, entry, message, code)
  if self._entries[entry.key] == entry then
    self._entries[entry.key] = nil
    self._count = self._count - 1
  end
  wake_waiting(entry, nil, message, code)
  for subscription in pairs(entry.subscriptions) do
    if subscription.is_confirmed then
      perilune.log.error("redis: %s isn't subscribed to any more: %s", entry.name, message)
    end
  end
end

local function publish(self, is_pattern, name, channel, message)
  local entry = self._entries[(is_pattern and "p" or "c") .. name]
  if not entry or type(message) ~= "string" then return end
  for subscription in pairs(entry.subscriptions) do keep(subscription, message, channel) end
end

local function on_push(self, value, message, code)
  if message then
    local entry = next_asked(self)
    if entry then refuse(self, entry, message, code) end
    return
  end
  if type(value) ~= "table" then return end
  local kind = value[1]
  if kind == "message" then
    publish(self, false, value[2], value[2], value[3])
  elseif kind == "pmessage" then
    publish(self, true, value[2], value[3], value[4])
  elseif kind == "subscribe" or kind == "psubscribe" then
    local entry = next_asked(self)
    if entry then confirm(entry, self._link) end
  end
end

-- A new connection: everything is subscribed to again.
local function begin(self, link)
  self._link, self._asked, self._asked_first, self._asked_last = link, {}, 1, 0
  link.on_push = function(value, message, code) on_push(self, value, message, code) end
  for _, entry in pairs(self._entries) do ask_for(self, entry) end
end

local function lose(self)
  if not self._link then return end
  self._link = nil
  for _, entry in pairs(self._entries) do
    if entry.is_confirmed then entry.had_gap = true end
    entry.is_confirmed = false
  end
end

local function open(self)
  if self._channel then return end
  local function dial(limit_ms)
    local link, message, code = self._dial(limit_ms)
    if link then begin(self, link) end
    return link, message, code
  end
  self._channel = channels.new(dial, self._settings, "redis subscriptions")
  self._channel.on_lost = function() lose(self) end
end

local function close_unused(self)
  if next(self._entries) or not self._channel then return end
  self._channel:close()
  self._channel, self._link = nil, nil
end

---No connection yet.
---@param dial perilune.redis.Dial
---@param settings perilune.redis.Settings
---@return perilune.redis.Subscriber
function subscriber.new(dial, settings)
  return setmetatable({ _dial = dial, _settings = settings, _entries = {}, _count = 0 }, Subscriber)
end

local function add_entry(self, name, is_pattern)
  local key = (is_pattern and "p" or "c") .. name
  local entry = self._entries[key]
  if not entry then
    entry = { key = key, name = name, is_pattern = is_pattern, subscriptions = {}, waiting = {} }
    self._entries[key] = entry
    self._count = self._count + 1
    ask_for(self, entry)
  end
  return entry
end

---Begins a subscription without waiting for the server.
---@param names string[]
---@param is_pattern boolean
---@param callback perilune.Callback? (message, channel)
---@param on_gap perilune.Callback? (subscription)
---@return perilune.redis.Subscription
function Subscriber:start(names, is_pattern, callback, on_gap)
  local subscription = setmetatable({
    names = names, dropped = 0, gaps = 0, _callback = callback, _on_gap = on_gap,
    _subscriber = self, _counters = self._settings.counters, _messages = {}, _first = 1, _last = 0,
    _bytes = 0, _is_pattern = is_pattern,
  }, Subscription)
  for _, name in ipairs(names) do
    add_entry(self, name, is_pattern).subscriptions[subscription] = true
  end
  open(self)
  if callback then fork(keep_delivering, subscription) end
  return subscription
end

---@async
local function await(self, entry, deadline)
  if entry.is_confirmed then return true end
  local left = deadline - now()
  if left <= 0 then return nil, nil, "timeout" end
  local token = new_token()
  entry.waiting[#entry.waiting + 1] = token
  local ok, message, code = wait(token, math.ceil(left))
  if ok then return true end
  return nil, message, code
end

---Begins a subscription and waits until the server has it.
---@async
---@param limit_ms number
---@param names string[]
---@param is_pattern boolean
---@param callback perilune.Callback? (message, channel)
---@param on_gap perilune.Callback? (subscription)
---@return perilune.redis.Subscription? subscription
---@return string? message
---@return string? code "unavailable", "busy", of the server
function Subscriber:subscribe(limit_ms, names, is_pattern, callback, on_gap)
  if self._count + #names > MAX_NAMES then
    return nil, ("redis: over %d names are subscribed to"):format(MAX_NAMES), "busy"
  end
  local deadline = now() + limit_ms
  local subscription = self:start(names, is_pattern, callback, on_gap)
  for _, name in ipairs(names) do
    local entry = self._entries[(is_pattern and "p" or "c") .. name]
    local ok, message, code
    if entry then ok, message, code = await(self, entry, deadline) end
    if not ok then
      local problem = self._channel and self._channel.problem
      subscription:close()
      if code ~= "timeout" and message then return nil, message, code end
      return nil, ("redis: %s isn't subscribed to in time%s"):format(name,
        problem and " (" .. problem .. ")" or ""), "unavailable"
    end
  end
  subscription.is_confirmed = true
  return subscription
end

function Subscriber:_remove(subscription)
  for _, name in ipairs(subscription.names) do
    local key = (subscription._is_pattern and "p" or "c") .. name
    local entry = self._entries[key]
    if entry then
      entry.subscriptions[subscription] = nil
      if not next(entry.subscriptions) then
        self._entries[key] = nil
        self._count = self._count - 1
        if self._link then self._link:push(verb(entry.is_pattern, true), name) end
      end
    end
  end
  close_unused(self)
end

---Ends all subscriptions.
function Subscriber:close()
  local subscriptions = {}
  for _, entry in pairs(self._entries) do
    for subscription in pairs(entry.subscriptions) do subscriptions[subscription] = true end
  end
  for subscription in pairs(subscriptions) do subscription:close() end
  close_unused(self)
end

return subscriber
