---@class perilune.limits
-- Limits on what a client, an address or an account may do. Times are those of perilune.now(),
-- in milliseconds, and are given by the caller: it reads the clock once for all of them.
local limits = {}

local MAX_KEYS = 10000

-- ---- addresses ----

-- The first four groups of an IPv6 address: who has one address has 2^64 of them.
local function network_of(host)
  local left, right = host:match("^(.-)::(.*)$")
  local groups = {}
  for group in (left or host):gmatch("%x+") do groups[#groups + 1] = group end
  if right then
    local last = {}
    for group in right:gmatch("[%x.]+") do last[#last + 1] = group end
    for _ = 1, 8 - #groups - #last do groups[#groups + 1] = "0" end
    for _, group in ipairs(last) do groups[#groups + 1] = group end
  end
  return table.concat(groups, ":", 1, math.min(4, #groups)) .. "::/64"
end

---What of a peer's address limits go by: "192.0.2.1:5000" is 192.0.2.1, of IPv6 it is the network
---of 64 bits; "::1" stays as it is.
---@param address string with or without a port
---@return string host
function limits.address(address)
  local host = address:match("^%[(.*)%]") or address:match("^([^:]*):?%d*$") or address
  if not host:find(":", 1, true) or host == "::1" then return host end
  return host:match("^::ffff:(%d+%.%d+%.%d+%.%d+)$") or network_of(host)
end

-- ---- token buckets ----

---Allows `rate` a second on average and `burst` at once.
---@class perilune.Bucket
---@field rate number
---@field burst number
local Bucket = {}
Bucket.__index = Bucket

---A full bucket.
---@param rate number a second
---@param burst number at once
---@param now number
---@return perilune.Bucket bucket
function limits.bucket(rate, burst, now)
  return setmetatable({ rate = rate, burst = burst, _tokens = burst, _at = now }, Bucket)
end

---Takes one, if there is one.
---@param now number
---@return boolean allowed
function Bucket:take(now)
  local tokens = self._tokens + (now - self._at) * self.rate / 1000
  self._at = now
  if tokens > self.burst then tokens = self.burst end
  if tokens < 1 then
    self._tokens = tokens
    return false
  end
  self._tokens = tokens - 1
  return true
end

-- ---- maps that forget ----

-- What isn't used for one to two periods is forgotten, and so is the older half when there are
-- too many keys: a flood of them costs bounded memory.
local Forgetful = {}
Forgetful.__index = Forgetful

local function forgetful(period_ms, now)
  return setmetatable({ _period_ms = period_ms, _young = {}, _old = {}, _count = 0, _at = now },
    Forgetful)
end

function Forgetful:_turn(now)
  if now - self._at >= 2 * self._period_ms then self._young = {} end
  self._old, self._young = self._young, {}
  self._count, self._at = 0, now
end

function Forgetful:get(key, now)
  if now - self._at >= self._period_ms then self:_turn(now) end
  local value = self._young[key]
  if value == nil then
    value = self._old[key]
    if value ~= nil then self:set(key, value, now) end
  end
  return value
end

function Forgetful:set(key, value, now)
  if self._young[key] == nil then
    if self._count >= MAX_KEYS then self:_turn(now) end
    self._count = self._count + 1
  end
  self._young[key] = value
end

function Forgetful:remove(key)
  if self._young[key] ~= nil then self._count = self._count - 1 end
  self._young[key], self._old[key] = nil, nil
end

-- ---- buckets by key ----

---A token bucket for each key.
---@class perilune.Buckets
local Buckets = {}
Buckets.__index = Buckets

---Buckets by key, made when a key first comes.
---@param rate number a second
---@param burst number at once
---@param now number
---@return perilune.Buckets buckets
function limits.buckets(rate, burst, now)
  local full_after_ms = burst / rate * 1000
  return setmetatable({ rate = rate, burst = burst, _map = forgetful(full_after_ms, now) }, Buckets)
end

---Takes one from the bucket of a key.
---@param key any
---@param now number
---@return boolean allowed
function Buckets:take(key, now)
  local bucket = self._map:get(key, now)
  if not bucket then
    bucket = limits.bucket(self.rate, self.burst, now)
    self._map:set(key, bucket, now)
  end
  return bucket:take(now)
end

-- ---- lock-out ----

---Locks a key out for `lock_ms` after `failures` failures within that time.
---@class perilune.Lockout
local Lockout = {}
Lockout.__index = Lockout

---Counts failures by key.
---@param failures integer so many lock a key out
---@param lock_ms number
---@param now number
---@return perilune.Lockout lockout
function limits.lockout(failures, lock_ms, now)
  return setmetatable({ _failures = failures, _lock_ms = lock_ms, _map = forgetful(lock_ms, now) },
    Lockout)
end

---Whether a key is locked out.
---@param key any
---@param now number
---@return boolean locked
function Lockout:is_locked(key, now)
  local entry = self._map:get(key, now)
  return entry ~= nil and entry.locked_until ~= nil and now < entry.locked_until
end

---Counts a failure.
---@param key any
---@param now number
function Lockout:fail(key, now)
  local entry = self._map:get(key, now)
  if not entry or now - entry.since >= self._lock_ms then
    entry = { count = 0, since = now }
    self._map:set(key, entry, now)
  end
  entry.count = entry.count + 1
  if entry.count >= self._failures then
    entry.count, entry.since, entry.locked_until = 0, now, now + self._lock_ms
  end
end

---Takes back what fail() counted before it was known that it would succeed.
---@param key any
---@param now number
function Lockout:forgive(key, now)
  local entry = self._map:get(key, now)
  if not entry then return end
  if entry.count > 0 then
    entry.count = entry.count - 1
  else
    entry.count, entry.locked_until = self._failures - 1, nil
  end
end

---Forgets the failures of a key: it has succeeded.
---@param key any
function Lockout:forget(key)
  self._map:remove(key)
end

return limits
