---@class perilune.lru
-- Maps that are bounded: what hasn't been used for longest goes first. Times are those of
-- perilune.now(), in milliseconds, and are given by the caller.
--
--   local cache = lru.new { entries = 1000, bytes = 2 ^ 20, ttl_ms = 60000 }
--   cache:set("a", value, #value, now)
--   cache:get("a", now)
local lru = {}

---@class perilune.Lru
---@field count integer entries that are there
---@field bytes integer of these, as they were given
---@field evicted integer entries that went because there was no room
local Lru = {}
Lru.__index = Lru

---@class perilune.lru.Options
---@field entries integer the most there may be
---@field bytes integer? the same in bytes; default: no limit
---@field ttl_ms number? how long an entry lasts; default: for ever

---An empty map.
---@param options perilune.lru.Options
---@return perilune.Lru
function lru.new(options)
  local ends = {}
  ends.newer, ends.older = ends, ends -- a ring: behind it the newest, before it the oldest
  return setmetatable({
    count = 0, bytes = 0, evicted = 0, _entries = {}, _ends = ends,
    _max = options.entries, _max_bytes = options.bytes or math.huge,
    _ttl_ms = options.ttl_ms or math.huge,
  }, Lru)
end

local function unlink(entry)
  entry.newer.older, entry.older.newer = entry.older, entry.newer
end

local function link_newest(self, entry)
  local ends = self._ends
  entry.newer, entry.older = ends, ends.older
  ends.older.newer, ends.older = entry, entry
end

local function drop(self, entry)
  unlink(entry)
  self._entries[entry.key] = nil
  self.count, self.bytes = self.count - 1, self.bytes - entry.bytes
end

---What was set, unless it is too old or had to go. It is the newest from now on.
---@param key any
---@param now number
---@return any value nil when there is none
function Lru:get(key, now)
  local entry = self._entries[key]
  if not entry then return nil end
  if now >= entry.until_ms then
    drop(self, entry)
    return nil
  end
  unlink(entry)
  link_newest(self, entry)
  return entry.value
end

---Sets a value, which lasts ttl_ms from now. One that is larger than all the room isn't kept.
---@param key any
---@param value any
---@param bytes integer what it counts for
---@param now number
function Lru:set(key, value, bytes, now)
  self:remove(key)
  if bytes > self._max_bytes then return end
  local entry = { key = key, value = value, bytes = bytes, until_ms = now + self._ttl_ms }
  self._entries[key] = entry
  link_newest(self, entry)
  self.count, self.bytes = self.count + 1, self.bytes + bytes
  while self.count > self._max or self.bytes > self._max_bytes do
    drop(self, self._ends.newer)
    self.evicted = self.evicted + 1
  end
end

---Forgets a value, if it is there.
---@param key any
function Lru:remove(key)
  local entry = self._entries[key]
  if entry then drop(self, entry) end
end

return lru
