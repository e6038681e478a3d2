---@class perilune.redis.consumers
-- Streams that several consumers share (XREADGROUP): each entry goes to one of them, and stays with
-- it until it is acknowledged.
local consumers = {}

local native = require "perilune.native.redis"
local perilune = require "perilune"

local MAX_UNACKNOWLEDGED = 100000
local AGAIN_MS = 200

---@class perilune.redis.ConsumerOptions
---@field stream string key of the stream, which is made if there is none
---@field group string made if there is none
---@field name string of this consumer; the same one after a restart, so that it gets what it had
---@field from string? where a new group begins: "0" everything, "$" what is added from now on
---(default), or an id
---@field count integer? entries that are fetched at a time; default 100
---@field block_ms integer? how long the server is asked to wait; default 5000

---@class perilune.redis.Consumer
local Consumer = {}
Consumer.__index = Consumer

local function check(options)
  for _, name in ipairs { "stream", "group", "name" } do
    if type(options[name]) ~= "string" then
      native.misuse("db:consumer: a " .. name .. " expected")
    end
  end
  for _, name in ipairs { "count", "block_ms" } do
    local value = options[name]
    if value ~= nil and (type(value) ~= "number" or value < 1) then
      native.misuse(("db:consumer: %s has to be at least 1"):format(name))
    end
  end
end

---See db:consumer().
---@param db perilune.redis.Database
---@param options perilune.redis.ConsumerOptions
---@return perilune.redis.Consumer
function consumers.new(db, options)
  check(options)
  return setmetatable({
    _db = db, _options = options, _entries = {}, _at = 1, _own = "0", _unacknowledged = {},
    _count = 0,
  }, Consumer)
end

-- The connection was the problem, not the request.
local function is_passing(code)
  return code == "unknown" or code == "unavailable" or code == "timeout"
end

---@async
local function make_group(self)
  local options = self._options
  local _, message, code = self._db:xgroup("CREATE", options.stream, options.group,
    options.from or "$", "MKSTREAM")
  if code and code ~= "BUSYGROUP" then return nil, message, code end
  self._has_group = true
  return true
end

-- Entries of a reply to XREADGROUP, without those that are being worked on.
local function take_entries(self, reply)
  local entries, list = {}, reply and reply[1] and reply[1][2] or {}
  for _, entry in ipairs(list) do
    if not self._unacknowledged[entry[1]] then entries[#entries + 1] = entry end
  end
  self._entries, self._at = entries, 1
  return list[#list] and list[#list][1]
end

-- First what was given to this consumer before and not acknowledged, in parts; then what is new.
---@async
local function fetch(self)
  local options = self._options
  local block = self._own == nil and { "BLOCK", options.block_ms or 5000 } or {}
  local reply, message, code = self._db:xreadgroup("GROUP", options.group, options.name, "COUNT",
    options.count or 100, block, "STREAMS", options.stream, self._own or ">")
  if code then return nil, message, code end
  local last = take_entries(self, reply)
  if self._own then self._own = last end
  return true
end

---@async
local function fill(self)
  if not self._has_group then
    local ok, message, code = make_group(self)
    if not ok then return nil, message, code end
  end
  return fetch(self)
end

---Waits for the next entry. What was given to a consumer of this name before, and not acknowledged,
---comes first; so it does after a lost connection.
---@async
---@return string? id
---@return table<string, string>|string fields or message
---@return string? code "closed", "busy" (100000 entries wait for ack()), of the server
function Consumer:next()
  while true do
    if self.closed then return nil, "closed", "closed" end
    local entry = self._entries[self._at]
    if entry then
      self._at = self._at + 1
      if entry[2] ~= native.null then
        self._unacknowledged[entry[1]], self._count = true, self._count + 1
        return entry[1], require("perilune.redis").fields(entry[2])
      end
      self._db:xack(self._options.stream, self._options.group, entry[1]) -- it was deleted
    elseif self._count >= MAX_UNACKNOWLEDGED then
      return nil, ("%d entries wait for ack()"):format(self._count), "busy"
    else
      local ok, message, code = fill(self)
      if not ok then
        if not is_passing(code) then return nil, message, code end
        -- Some may have been given to this consumer in a reply that never came.
        self._own = "0"
        perilune.sleep(AGAIN_MS)
      end
    end
  end
end

---`for id, fields in consumer:each() do`: until it is closed or something is wrong.
---@async
---@return async fun(): string?, table<string, string>?
function Consumer:each()
  return function()
    local id, fields = self:next()
    if id then return id, fields end
  end
end

---An entry is done: nobody gets it again.
---@async
---@param ... string ids
---@return integer? count how many were waiting for it
---@return string? message
---@return string? code
function Consumer:ack(...)
  local count, message, code = self._db:xack(self._options.stream, self._options.group, ...)
  if not count then return nil, message, code end
  for index = 1, select("#", ...) do
    local id = select(index, ...)
    if self._unacknowledged[id] then
      self._unacknowledged[id], self._count = nil, self._count - 1
    end
  end
  return count
end

---next() gives nothing any more. What isn't acknowledged stays with this consumer's name.
function Consumer:close() self.closed = true end

return consumers
