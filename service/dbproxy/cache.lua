-- Rows that were read from the database, as packed strings, in memory or in Redis. A cache forgets:
-- by age, for want of room, and whatever was written. One that fails is a cache that has nothing:
-- for a second after a failure, and after one to forget a row for as long as that row could last.
local counters = require "dbproxy.counters"
local lru = require "perilune.lru"
local perilune = require "perilune"

local cache = {}

local REST_MS = 1000

---@class dbproxy.Cache
---@field get async fun(self: dbproxy.Cache, id: string): string?
---@field set async fun(self: dbproxy.Cache, id: string, packed: string)
---@field remove async fun(self: dbproxy.Cache, id: string)
---@field copy fun(self: dbproxy.Cache, to: table) adds what an operator wants to know
---@field close fun(self: dbproxy.Cache)

-- ---- memory ----

local Memory = {}
Memory.__index = Memory

function Memory:get(id) return self._map:get(id, perilune.now()) end

function Memory:set(id, packed) self._map:set(id, packed, #id + #packed, perilune.now()) end

function Memory:remove(id) self._map:remove(id) end

function Memory:copy(to)
  local map = self._map
  to.cache_entries, to.cache_bytes, to.cache_evicted = map.count, map.bytes, map.evicted
end

function Memory.close() end

-- ---- Redis ----

local Redis = {}
Redis.__index = Redis

local function failed(self, ms, message)
  counters.add "cache_errors"
  local now = perilune.now()
  if now >= self._rests_until then perilune.log.warn("the cache fails: %s", message) end
  self._rests_until = math.max(self._rests_until, now + ms)
end

function Redis:get(id)
  if perilune.now() < self._rests_until then return nil end
  local packed, message, code = self._db:get(self._prefix .. id)
  if code then failed(self, REST_MS, message) end
  return packed
end

function Redis:set(id, packed)
  if perilune.now() < self._rests_until then return end
  local ok, message = self._db:set(self._prefix .. id, packed, "PX", self._ttl_ms)
  if not ok then failed(self, REST_MS, message) end
end

function Redis:remove(id)
  -- While nothing has been read for so long that no row can be left, there is none to forget.
  if perilune.now() < self._forgets_until then return end
  local _, message, code = self._db:del(self._prefix .. id)
  if not code then return end
  self._forgets_until = perilune.now() + self._ttl_ms
  failed(self, self._ttl_ms, message)
end

function Redis:copy(to) to.cache_rests = perilune.now() < self._rests_until end

function Redis:close() self._db:close() end

-- ---- either ----

---Opens the cache that the settings name. Raises where that can't be.
---@async
---@param settings table
---@return dbproxy.Cache
function cache.open(settings)
  if settings.cache == "memory" then
    return setmetatable({
      _map = lru.new {
        entries = settings.cache_rows, bytes = settings.cache_mb * 2 ^ 20,
        ttl_ms = settings.cache_ttl_ms,
      },
    }, Memory)
  end
  local db, message = require("perilune.redis").connect(settings.cache,
    { timeout_ms = settings.cache_limit_ms })
  if not db then error("cache: " .. message, 0) end
  return setmetatable({
    _db = db, _prefix = settings.cache_prefix, _ttl_ms = settings.cache_ttl_ms, _rests_until = 0,
    _forgets_until = 0,
  }, Redis)
end

return cache
