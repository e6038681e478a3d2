---@class perilune.redis.link
-- One connection to one server: requests go out as they are made, replies come back in the same
-- order. A ring has whoever waits: the token of a task, a batch, or a mark that nobody does. What
-- has begun ends once: with its reply, with its time, or with the connection.
local link = {}

local bit = require "bit"
local core = require "perilune.core"
local greeting = require "perilune.redis.greeting"
local native = require "perilune.native.redis"
local network = require "perilune.native.socket"
local socket = require "perilune.socket"

local band, ceil, min = bit.band, math.ceil, math.min
local write, new_error, null = native.write, native.error, native.null
local now, fork = core.native "now", core.native "fork"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local FIRST_ROOM = 64              -- of a ring; a power of two
local FOREVER = math.huge
local LOOK_EACH = 256 * 1024       -- bytes written between two looks at what the peer hasn't taken
local MAX_UNSENT = 16 * 1024 * 1024
-- Who waits for a reply: nobody, since the time of the request was up or the link itself asked.
local GAVE_UP, ITSELF = false, true

---What is the same for all connections of a database.
---@class perilune.redis.Settings
---@field user string?
---@field password string?
---@field name string? for CLIENT SETNAME
---@field database integer
---@field tls perilune.socket.TlsOptions|boolean|nil
---@field connect_ms integer
---@field silence_ms integer
---@field ping_ms integer
---@field max_pending integer
---@field max_reply integer
---@field max_elements integer
---@field counters table<string, integer>
---@field places perilune.redis.Places

---@class perilune.redis.Link
---@field address string "127.0.0.1:6379"
---@field closed string? why
---@field on_close fun(link: perilune.redis.Link)? once
---@field on_push fun(value: any, message: string?, code: string?)? gets all that comes: the
---connection is a subscriber's
local Link = {}
Link.__index = Link

-- Several requests whose replies are wanted together.
---@class perilune.redis.Batch
---@field results any[] null for nil, an error object for an error
local Batch = {}
Batch.__index = Batch

function Batch:_add(value, message, code)
  if self.done then return false end
  local count = self.count + 1
  self.count = count
  if message then
    value = new_error(code, message)
  elseif value == nil then
    value = null
  end
  self.results[count] = value
  if count == self.size then
    self.done = true
    if self.token then wake(self.token) end
  end
  return true
end

function Batch:_fail(message, code)
  while self:_add(nil, message, code) do end -- luacheck: ignore 542
end

-- Ends ---------------------------------------------------------------------------------------

-- All that waits gets to know; the one at the head may be told more.
local function end_all(self, message, code, head_message, head_code)
  local first, last = self._head, self._tail
  self._head = last + 1
  for position = first, last do
    local index = band(position, self._mask)
    local entry = self._ring[index]
    self._ring[index] = nil
    local why, kind = message, code
    if position == first and head_code then why, kind = head_message, head_code end
    if type(entry) == "number" then
      self._counters.unknown = self._counters.unknown + 1
      wake(entry, nil, why, kind)
    elseif type(entry) == "table" and not entry.done then
      self._counters.unknown = self._counters.unknown + entry.size - entry.count
      if kind ~= code then entry:_add(nil, why, kind) end
      entry:_fail(message, code)
    end
  end
end

-- The connection is of no use any more. `head_code`: what the oldest request learns, of whose reply
-- something is known.
local function end_link(self, why, head_message, head_code)
  if self.closed then return end
  self.closed = why
  local message = ("%s: %s; whether it was done is unknown"):format(self.address, why)
  end_all(self, message, "unknown", head_message, head_code)
  if self._keeper then wake(self._keeper) end
  if self.on_close then self.on_close(self) end
end

local function break_link(self, why, head_message, head_code)
  if self.closed then return end
  if self._connection then self._connection:abort() end
  end_link(self, why, head_message, head_code)
end

---Closes at once. Requests under way fail with "unknown".
---@param why string in words
function Link:abort(why) break_link(self, why) end

---Closes. Requests under way fail with "unknown".
function Link:close()
  if self.closed then return end
  self._connection:close()
  end_link(self, "closed here")
end

-- Replies --------------------------------------------------------------------------------------

local function take_reply(self, value, message, code)
  if self.on_push then return self.on_push(value, message, code) end
  local head = self._head
  if head > self._tail then
    return break_link(self, "it sent a reply to nothing")
  end
  local index = band(head, self._mask)
  local entry = self._ring[index]
  self._ring[index] = nil
  self._head = head + 1
  if type(entry) == "number" then
    if message then
      wake(entry, nil, message, code)
    else
      wake(entry, value)
    end
  elseif entry == GAVE_UP or (entry ~= ITSELF and not entry:_add(value, message, code)) then
    self._counters.late_replies = self._counters.late_replies + 1
  end
  if code == "READONLY" and self._is_primary then
    break_link(self, "it isn't the primary any more")
  end
end

local function refuse_reply(self, message, code)
  self._counters.refused_replies = self._counters.refused_replies + 1
  local text = ("%s sent what can't be taken: %s"):format(self.address, message)
  break_link(self, "it sent what can't be taken (" .. code .. ")", text, code)
end

local function on_data(self, data)
  if self.closed then return end
  -- A task that was killed in the midst of it: which reply is whose isn't known any more.
  if self._taking then return break_link(self, "a task that read from it was killed") end
  self._taking = true
  self._heard, self._pinged = now(), nil
  local reader, position = self._reader, 1
  while not self.closed do
    local next_position, value, message, code = reader:next(data, position)
    if not next_position then
      if message then refuse_reply(self, value, message) end
      break
    end
    position = next_position
    take_reply(self, value, message, code)
  end
  self._taking = nil
end

-- Time -----------------------------------------------------------------------------------------

-- Takes their time from those that have waited too long; returns when the next one has.
local function end_late(self, time)
  local ring, deadlines, mask = self._ring, self._deadlines, self._mask
  local next_due = FOREVER
  for position = self._head, self._tail do
    local index = band(position, mask)
    local entry, deadline = ring[index], deadlines[index]
    if entry and entry ~= ITSELF then
      if deadline > time then
        next_due = min(next_due, deadline)
      else
        local message = self.address .. " didn't answer in time; whether it was done is unknown"
        ring[index] = GAVE_UP
        if type(entry) == "number" then
          self._counters.timeouts = self._counters.timeouts + 1
          wake(entry, nil, message, "timeout")
        elseif not entry.done then
          self._counters.timeouts = self._counters.timeouts + entry.size - entry.count
          entry:_fail(message, "timeout")
        end
      end
    end
  end
  return next_due
end

local function ping(self, time)
  self._pinged = time
  if not write(self.id, "PING") or self.on_push then return end
  local tail = self._tail + 1
  self._ring[band(tail, self._mask)] = ITSELF
  self._tail = tail
end

-- What the time has brought; returns when to look again.
local function look(self, time)
  local due = end_late(self, time)
  local silence, pause = self._silence_ms, self._ping_ms
  if self._taking then
    break_link(self, "a task that read from it was killed")
  elseif silence > 0 and (self._pinged or self._head <= self._tail) then
    local limit = self._heard + silence
    if time >= limit then
      self._counters.silent = self._counters.silent + 1
      break_link(self, ("it has been silent for %d ms"):format(silence))
    end
    due = min(due, limit)
  elseif pause > 0 then
    if time >= self._heard + pause then
      self._heard = time
      ping(self, time)
      return min(due, time + silence)
    end
    due = min(due, self._heard + pause)
  end
  return due
end

-- The task that keeps the time of a connection, as long as that lives.
local function keep_time(self)
  while not self.closed do
    local time = now()
    local due = look(self, time)
    if self.closed then return end
    self._due = due
    self._keeper = new_token()
    wait(self._keeper, due < FOREVER and math.max(1, ceil(due - time)) or nil)
    self._keeper = nil
  end
end

-- Somebody wants it to look earlier.
local function look_by(self, due)
  self._due = due
  if self._keeper then
    wake(self._keeper)
    self._keeper = nil
  end
end

-- Requests -------------------------------------------------------------------------------------

-- The ring becomes twice as large.
local function grow(self)
  local ring, deadlines, mask = self._ring, self._deadlines, self._mask
  local size = (mask + 1) * 2
  local new_ring, new_deadlines = {}, {}
  for index = 0, size - 1 do new_ring[index], new_deadlines[index] = nil, 0 end
  for position = self._head, self._tail do
    local from, to = band(position, mask), band(position, size - 1)
    new_ring[to], new_deadlines[to] = ring[from], deadlines[from]
  end
  self._ring, self._deadlines, self._mask = new_ring, new_deadlines, size - 1
end

-- Room for `count` more, or nil, message, code.
local function make_room(self, count)
  if self.closed then
    return nil, self.address .. ": the connection is closed", "unavailable"
  end
  local pending = self._tail - self._head + 1
  if pending + count > self._max_pending then
    self._counters.busy = self._counters.busy + 1
    return nil, ("%d requests wait for %s already"):format(pending, self.address), "busy"
  end
  while pending + count > self._mask + 1 do grow(self) end
  return true
end

-- The peer takes less than is written.
local function is_behind(self)
  if self._written < LOOK_EACH then return false end
  self._written = 0
  if network.unsent(self.id) <= MAX_UNSENT then return false end
  self._written = LOOK_EACH
  self._counters.busy = self._counters.busy + 1
  return true
end

-- Writes a command. true, or nil, message, code: then nothing was sent.
local function send(self, ...)
  local size, message, code = write(self.id, ...)
  if not size then
    if code == "dead" then code = "unavailable" end
    return nil, self.address .. ": " .. message, code
  end
  self._written = self._written + size
  return true
end

---Sends a command and waits for its reply.
---@async
---@param limit_ms number how long; math.huge: as long as it takes
---@param ... string|number|table name and arguments
---@return any reply
---@return string? message
---@return string? code of the server, or "busy", "too_large", "unavailable" (not sent), "timeout",
---"unknown"
function Link:request(limit_ms, ...)
  local head, tail = self._head, self._tail
  if tail - head > self._mask - 1 or tail - head + 1 >= self._max_pending or self.closed then
    local room, message, code = make_room(self, 1)
    if not room then return nil, message, code end
  end
  if is_behind(self) then return nil, self.address .. " doesn't take what is sent", "busy" end
  local sent, message, code = send(self, ...)
  if not sent then return nil, message, code end
  local counters = self._counters
  counters.requests = counters.requests + 1
  -- It is in the ring before anything can fail: each reply has its place.
  tail = tail + 1
  local index, time = band(tail, self._mask), now()
  self._ring[index], self._tail = GAVE_UP, tail
  if tail == self._head then self._heard = time end
  local deadline = time + limit_ms
  self._deadlines[index] = deadline
  local token = new_token()
  self._ring[index] = token
  if deadline < self._due then look_by(self, deadline) end
  return wait(token)
end

---Sends several commands, which leave together or not at all.
---@param limit_ms number
---@param commands string[] as native.format() makes them
---@return perilune.redis.Batch? batch
---@return string? message
---@return string? code "busy", "unavailable"
function Link:send_batch(limit_ms, commands)
  local count = #commands
  local room, message, code = make_room(self, count)
  if not room then return nil, message, code end
  if is_behind(self) then return nil, self.address .. " doesn't take what is sent", "busy" end
  local bytes = count == 1 and commands[1] or table.concat(commands)
  local batch = setmetatable({ results = {}, count = 0, size = count, done = count == 0 }, Batch)
  local sent, why = network.write_raw(self.id, bytes)
  if not sent then return nil, self.address .. ": " .. why, "unavailable" end
  self._written = self._written + #bytes
  self._counters.requests = self._counters.requests + count
  local time = now()
  if self._tail < self._head then self._heard = time end
  for position = self._tail + 1, self._tail + count do
    local index = band(position, self._mask)
    self._ring[index], self._deadlines[index] = batch, time + limit_ms
  end
  self._tail = self._tail + count
  if time + limit_ms < self._due then look_by(self, time + limit_ms) end
  return batch
end

---Waits for all replies of a batch.
---@async
---@return any[] results
function Batch:wait()
  if not self.done then
    self.token = new_token()
    wait(self.token)
  end
  return self.results
end

---Sends a command whose reply goes to on_push.
---@param ... string|number|table
---@return true? ok
---@return string? message
---@return string? code
function Link:push(...)
  if self.closed then return nil, self.address .. ": " .. self.closed, "unavailable" end
  return send(self, ...)
end

---How many requests wait for their reply.
---@return integer count
function Link:pending() return self._tail - self._head + 1 end

---Whether the server may be silent, as it is while a command of the connection blocks.
---@param silence_ms integer 0: for ever
function Link:allow_silence(silence_ms) self._silence_ms = silence_ms end

---While it is kept for later use: closed when nothing comes for so long.
---@param ms integer 0: never
function Link:set_idle(ms)
  self._ping_ms = 0
  self._connection:set_idle(ms)
end

-- Beginning ------------------------------------------------------------------------------------

local function new_link(address, settings, is_primary)
  return setmetatable({
    address = address, _is_primary = is_primary,
    _reader = native.reader(settings.max_reply, settings.max_elements),
    _ring = {}, _deadlines = {}, _mask = FIRST_ROOM - 1, _head = 1, _tail = 0,
    _heard = now(), _due = FOREVER, _written = 0,
    _max_pending = settings.max_pending, _silence_ms = settings.silence_ms,
    _ping_ms = settings.ping_ms, _counters = settings.counters,
  }, Link)
end

-- Sentinels and nodes of a cluster may name any.
local function is_place(host, port)
  return type(host) == "string" and host:find "^[^%z%s]+$" and #host <= 255
    and type(port) == "number" and port % 1 == 0 and port >= 1 and port <= 65535
end

---Connects, logs in and chooses the database.
---@async
---@param host string
---@param port integer
---@param settings perilune.redis.Settings
---@param limit_ms number for all of it
---@param ask_role boolean? only a primary will do
---@return perilune.redis.Link? link
---@return string? message
---@return string? code of the server, or "unavailable", "overloaded"
function link.open(host, port, settings, limit_ms, ask_role)
  if not is_place(host, port) then
    local given = ("%s %s"):format(tostring(host):sub(1, 100), tostring(port):sub(1, 100))
    return nil, "this is no host and port: " .. given, "unavailable"
  end
  local deadline = now() + limit_ms
  local address = (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, port)
  local self = new_link(address, settings, ask_role)
  local connection, why, kind = socket.connect(host, port, {
    connect_ms = ceil(limit_ms), tls = settings.tls, send_bytes = 0, send_packets = 0,
    stall_ms = settings.silence_ms,
    on_data = function(_, data) on_data(self, data) end,
    on_close = function(_, reason)
      end_link(self, "the connection was closed (" .. reason .. ")")
    end,
  })
  if not connection then
    local is_named = why:find(address, 1, true) == 1
    return nil, is_named and why or address .. ": " .. why, kind
  end
  self._connection, self.id = connection, connection.id
  fork(keep_time, self)
  local left = math.max(1, deadline - now())
  local ok, message, code = greeting.exchange(self, settings, left, ask_role)
  if ok and not self.closed then return self end
  if not self.closed then self:close() end
  return nil, message or (address .. ": " .. self.closed), code or "unavailable"
end

return link
