---@class perilune.redis.sentinel
-- Where the primary is, by its sentinels. They are asked for each new connection; one of them is
-- listened to for news that another server has become the primary.
local sentinel = {}

local links = require "perilune.redis.link"
local perilune = require "perilune"

-- The settings for connections to sentinels themselves.
local function settings_of_sentinels(settings)
  local own = {}
  for name, value in pairs(settings) do own[name] = value end
  own.user, own.password = settings.sentinel_user, settings.sentinel_password
  own.database = 0
  return own
end

---@class perilune.redis.Sentinels
local Sentinels = {}
Sentinels.__index = Sentinels

---The sentinels of a URL, not connected yet.
---@param place perilune.redis.Place
---@param settings perilune.redis.Settings
---@return perilune.redis.Sentinels
function sentinel.new(place, settings)
  return setmetatable({
    _hosts = place.hosts, _primary = place.primary, _settings = settings,
    _own = settings_of_sentinels(settings), _last = 1,
  }, Sentinels)
end

-- The sentinels, whoever answered last first.
local function in_turn(self)
  local hosts = {}
  for index = 0, #self._hosts - 1 do
    local place = (self._last - 1 + index) % #self._hosts + 1
    hosts[#hosts + 1] = { self._hosts[place], place }
  end
  return hosts
end

-- What `use` makes of the first sentinel that it can use. nil, message, code of the last one.
---@async
local function first_that(self, limit_ms, use)
  local deadline = perilune.now() + limit_ms
  local message, code = "redis: no sentinel is left to be asked in time", "unavailable"
  for _, entry in ipairs(in_turn(self)) do
    local left = deadline - perilune.now()
    if left <= 0 then break end
    local host, place = unpack(entry)
    -- One that doesn't answer leaves time for the others.
    local share = math.max(1, left / 2)
    local link, why, kind = links.open(host[1], host[2], self._own, share)
    local result
    if link then
      result, why, kind = use(link, math.max(1, deadline - perilune.now()))
    end
    if result then
      self._last = place
      return result
    end
    message, code = "sentinel " .. why, kind
  end
  return nil, message, code
end

---@async
local function ask(self, link, limit_ms)
  local reply, message, code =
    link:request(limit_ms / 2, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._primary)
  link:close()
  if type(reply) == "table" and reply[2] then return reply end
  if message then return nil, message, code == "unknown" and "unavailable" or code end
  return nil, ("%s knows no primary %q"):format(link.address, self._primary), "unavailable"
end

---Connects to the primary.
---@async
---@param limit_ms number
---@return perilune.redis.Link? link
---@return string? message
---@return string? code
function Sentinels:dial(limit_ms)
  return first_that(self, limit_ms, function(link, left_ms)
    local deadline = perilune.now() + left_ms
    local address, message, code = ask(self, link, left_ms)
    if not address then return nil, message, code end
    local left = math.max(1, deadline - perilune.now())
    return links.open(address[1], tonumber(address[2]), self._settings, left, true)
  end)
end

---Connects to any sentinel.
---@async
---@param limit_ms number
---@return perilune.redis.Link? link
---@return string? message
---@return string? code
function Sentinels:dial_one(limit_ms)
  return first_that(self, limit_ms, function(link) return link end)
end

---Which primary a message of "+switch-master" is about.
---@param message string "name old_host old_port new_host new_port"
---@return string? address "host:port" of the new one, if it is ours
function Sentinels:new_primary(message)
  local name, host, port = message:match "^(%S+) %S+ %S+ (%S+) (%d+)$"
  if name ~= self._primary then return nil end
  return (host:find(":", 1, true) and "[%s]:%s" or "%s:%s"):format(host, port)
end

return sentinel
