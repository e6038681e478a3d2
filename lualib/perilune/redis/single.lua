---@class perilune.redis.single
-- One server, or the primary that sentinels name: all requests share one connection.
local single = {}

local channels = require "perilune.redis.channel"
local links = require "perilune.redis.link"
local pools = require "perilune.redis.pool"
local sentinels = require "perilune.redis.sentinel"
local subscribers = require "perilune.redis.subscriber"

---@class perilune.redis.Single
local Single = {}
Single.__index = Single

-- Follows the sentinels' news: whoever talks to a primary of yesterday would write in vain.
local function listen(self, settings)
  local function dial(limit_ms) return self._sentinels:dial_one(limit_ms) end
  self._listener = subscribers.new(dial, settings)
  self._listener:start({ "+switch-master" }, false, function(message)
    local address = self._sentinels:new_primary(message)
    local link = self._channel.link
    if address and link and link.address ~= address then
      link:abort("the sentinels have made " .. address .. " the primary")
    end
  end)
end

local function make_dial(place, settings, self)
  if place.kind == "sentinel" then
    self._sentinels = sentinels.new(place, settings)
    return function(limit_ms) return self._sentinels:dial(limit_ms) end
  end
  local host, port = place.hosts[1][1], place.hosts[1][2]
  return function(limit_ms) return links.open(host, port, settings, limit_ms) end
end

---Connects, unless that is to be done later.
---@async
---@param place perilune.redis.Place
---@param settings perilune.redis.Settings
---@return perilune.redis.Single? router
---@return string? message
---@return string? code
function single.new(place, settings)
  local self = setmetatable({}, Single)
  local dial = make_dial(place, settings, self)
  local link, message, code
  if not settings.lazy then
    link, message, code = dial(settings.connect_ms)
    if not link then return nil, message, code end
  end
  local what = place.primary and ("primary %s"):format(place.primary)
    or ("%s:%d"):format(place.hosts[1][1], place.hosts[1][2])
  self._channel = channels.new(dial, settings, what, link)
  self._pool = pools.new(dial, settings)
  self.dial = dial
  if self._sentinels then listen(self, settings) end
  return self
end

---Gives a command to the server, and waits for the reply.
---@async
---@param limit_ms number
---@param name string
---@param ... any
---@return any reply
---@return string? message
---@return string? code
function Single:request(limit_ms, name, ...)
  return self._channel:request(limit_ms, name, ...)
end

---Sends commands that leave together and waits for all replies.
---@async
---@param limit_ms number
---@param commands string[]
---@return any[]? results
---@return string? message
---@return string? code then nothing was sent
function Single:batch(limit_ms, commands)
  local link, message, code = self._channel:connected(limit_ms)
  if not link then return nil, message, code end
  local batch, why, kind = link:send_batch(limit_ms, commands)
  if not batch then return nil, why, kind end
  return batch:wait()
end

---A connection of one's own, and the pool to give it back to.
---@async
---@param limit_ms number
---@return perilune.redis.Link? link
---@return perilune.redis.Pool|string pool or message
---@return string? code
function Single:own(limit_ms)
  local link, message, code = self._pool:take(limit_ms)
  if not link then return nil, message, code end
  return link, self._pool
end

---Whether an error says that another server has the keys.
---@param code string
---@return boolean
function Single:is_redirection(code) return false end

---The same, and by now it is known which one that is.
---@async
---@param code string
---@param message string
---@return boolean
function Single:follows(code, message) return false end

---Calls a function for each server; here there is one.
---@async
---@param visit fun(request: (async fun(name: string, ...: any): any), address: string)
---@param limit_ms number
function Single:each(visit, limit_ms)
  visit(function(...) return self:request(limit_ms, ...) end, self._channel.what)
end

---How many requests wait for a reply or for a connection, and whether there is one.
---@return integer pending
---@return integer connected servers
function Single:state() return self._channel:pending(), self._channel.link and 1 or 0 end

---Closes all connections.
function Single:close()
  if self._listener then self._listener:close() end
  self._channel:close()
  self._pool:close()
end

return single
