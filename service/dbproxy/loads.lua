-- Rows that are loaded: from the cache, else from the database, with what is saved of them laid
-- over. Tasks that want the same row at the same time read it once. A row that is written while it
-- is read is read again, so that what is in the cache is never older than the database.
local codec = require "perilune.codec"
local core = require "perilune.core"
local counters = require "dbproxy.counters"
local rows = require "dbproxy.rows"
local sql = require "dbproxy.sql"
local writes = require "dbproxy.writes"

local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local loads = {}

local MAX_READS = 10 -- of a row that is written all the time

local db, cache, limit_ms
local reading = {} -- by id: tokens of those who wait, and is_old once the row was written

---@param given { db: dbproxy.Database, cache: dbproxy.Cache, limit_ms: integer }
function loads.start(given) db, cache, limit_ms = given.db, given.cache, given.limit_ms end

---Rows were written: what is known of them is old.
---@async
---@param ids string[]
function loads.forget(ids)
  for _, id in ipairs(ids) do
    if reading[id] then reading[id].is_old = true end
  end
  for _, id in ipairs(ids) do cache:remove(id) end
end

-- What the cache has. Others may have written there, and tables change while a cache goes on: a row
-- comes with the shape of its table.
local function read_cache(of, id)
  local packed = cache:get(id)
  if not packed then return nil end
  local ok, shape, row = pcall(codec.unpack, packed)
  return ok and shape == of.shape and row or nil
end

-- What the database has: an encoded row, or nil.
local function read(of, key, id)
  for try = 1, MAX_READS do
    local flight = reading[id]
    flight.is_old = false
    local found, message, code = db:read(sql.select(of, of.key), { n = 1, key })
    if not found then return nil, message, code end
    if not flight.is_old or try == MAX_READS then
      if found[1] and not flight.is_old then cache:set(id, codec.pack(of.shape, found[1])) end
      return found[1]
    end
  end
end

local function read_for_all(of, key, id)
  local flight = {}
  reading[id] = flight
  local ok, row, message, code = pcall(read, of, key, id)
  reading[id] = nil
  local packed = ok and row and codec.pack(row) or nil
  for _, token in ipairs(flight) do wake(token, true, packed, message, code) end
  if not ok then error(row, 0) end
  return row, message, code
end

-- As another task has it that reads the row already.
local function share(flight, of, key)
  local token = new_token()
  flight[#flight + 1] = token
  counters.add "shared_loads"
  local shared, packed, message, code = wait(token, limit_ms)
  if shared then return packed and codec.unpack(packed), message, code end
  return nil, ("%s: the row %s takes too long"):format(of.name, key), "unavailable"
end

local function decode(of, id, row)
  return row and rows.decode(of, writes.lay_over(id, row))
end

---Loads a row by its key.
---@async
---@param of dbproxy.Table
---@param key any encoded
---@param options { fresh: boolean?, replica: boolean? }
---@return table<string, any>? row nil when there is none
---@return string? message
---@return string? code
function loads.by_key(of, key, options)
  counters.add "loads"
  local id = rows.id(of, key)
  if options.replica then
    local found, message, code = db:read(sql.select(of, of.key), { n = 1, key }, true)
    if not found then return nil, message, code end
    return decode(of, id, found[1])
  end
  local cached = not options.fresh and read_cache(of, id)
  if cached then
    counters.add "cache_hits"
    return decode(of, id, cached)
  end
  counters.add "cache_misses"
  local row, message, code
  if reading[id] and not options.fresh then
    row, message, code = share(reading[id], of, key)
  elseif reading[id] then -- that began before this was asked for
    local found
    found, message, code = db:read(sql.select(of, of.key), { n = 1, key })
    row = found and found[1]
  else
    row, message, code = read_for_all(of, key, id)
  end
  if code then return nil, message, code end
  return decode(of, id, row)
end

---Loads a row by a column whose values are unique.
---@async
---@param of dbproxy.Table
---@param column string
---@param value any encoded
---@return table<string, any>? row nil when there is none
---@return string? message
---@return string? code
function loads.by_column(of, column, value)
  counters.add "loads"
  local found, message, code = db:read(sql.select(of, column), { n = 1, value })
  if not found then return nil, message, code end
  local row = found[1]
  return row and decode(of, rows.id(of, row[of.key]), row)
end

return loads
