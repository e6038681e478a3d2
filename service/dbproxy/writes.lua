-- Writes that are acknowledged before they are in the database (write-behind).
--
-- DESIGN
-- A save is a record in the journal; when it is there, it is acknowledged. Records are applied to
-- the database in the order of their numbers, many in one transaction: those of one row between
-- two owners become one update. In the same transaction the database notes the number that it has
-- come to. So a transaction that was cut off, here or there, is known to have been done or not, is
-- never done twice, and writes of one row never overtake each other. What isn't applied yet lies
-- over what is loaded: services always see what they have saved.
--
-- A save whose row belongs to another owner by then is dropped; the owner hears of it by the topic
-- "dbproxy.stale" (table, key, owner), and each further save of it is refused. A record that the
-- database refuses otherwise is kept aside in the journal, so that it holds up no others.
local codec = require "perilune.codec"
local core = require "perilune.core"
local counters = require "dbproxy.counters"
local lru = require "perilune.lru"
local perilune = require "perilune"
local rows = require "dbproxy.rows"
local sql = require "dbproxy.sql"

local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local writes = {}

local ROWS_AT_ONCE = 200 -- of a transaction
local RECORDS_AT_ONCE = 5000
local FIRST_PAUSE_MS, LAST_PAUSE_MS = 100, 5000
local STALE_KEPT = 10000 -- rows whose owner was found to be stale
-- Failures that are about the records, and those that pass.
local REFUSALS = { exists = true, constraint = true, invalid = true }
local PASSING = { unavailable = true, busy = true, conflict = true, unknown = true }

---@class dbproxy.Record a save
---@field number integer
---@field size integer of what the journal has
---@field of dbproxy.Table
---@field key any encoded
---@field id string
---@field owner any encoded, or nil
---@field changes { [1]: string, [2]: any }[] encoded
---@field is_aside boolean? the database refused it

local db, declared, journal, settings, on_applied
local records, first, last = {}, 1, 0 -- in their order, at first to last
local bytes = 0 -- of their packed form, and of those that are being journaled
local waiting = 0 -- ... how many these are
local applied = 0 -- the number that the database has come to
-- By id: what isn't applied of a row, as column -> { encoded value, number }, and the last number.
local unapplied = {}
local flushes = {} -- tasks that wait: { number, id, token, message, code }
local stale = lru.new { entries = STALE_KEPT } -- id -> owner
local timer, is_applying, is_stopping, broken
local forgotten = 0 -- the number up to which the journal was told to forget
local target = 0 -- apply up to this number without waiting for the timer

-- ---- records ----

local function lay_over(record)
  local row = unapplied[record.id]
  if not row then
    row = { columns = {} }
    unapplied[record.id] = row
  end
  for _, change in ipairs(record.changes) do
    row.columns[change[1]] = { change[2], record.number }
  end
  row.last = record.number
end

local function uncover(id)
  local row = unapplied[id]
  if not row then return end
  if row.last <= applied then
    unapplied[id] = nil
    return
  end
  for name, change in pairs(row.columns) do
    if change[2] <= applied then row.columns[name] = nil end
  end
end

local function add(record)
  last = last + 1
  records[last] = record
  lay_over(record)
end

local function remove_first(count)
  for _ = 1, count do
    bytes = bytes - records[first].size
    records[first] = nil
    first = first + 1
  end
end

---What a row is like when all that was acknowledged is in it.
---@param id string
---@param row table<string, any> encoded; it is changed
---@return table<string, any> row
function writes.lay_over(id, row)
  for name, change in pairs(unapplied[id] and unapplied[id].columns or {}) do
    row[name] = change[1]
  end
  return row
end

-- ---- applying ----

-- The next records as one entry for each row, those of two owners of a row apart.
local function gather(max_records)
  local entries, by_id, count = {}, {}, 0
  while count < max_records and first + count <= last do
    local record = records[first + count]
    local entry = by_id[record.id]
    if entry and entry.owner ~= record.owner then break end
    if not entry then
      if #entries == ROWS_AT_ONCE then break end
      entry = { of = record.of, key = record.key, id = record.id, owner = record.owner,
        columns = {} }
      entries[#entries + 1], by_id[record.id] = entry, entry
    end
    for _, change in ipairs(record.changes) do entry.columns[change[1]] = change end
    count = count + 1
  end
  return entries, count
end

-- Updates a row. Why it could not be, or nil.
local function update(transaction, entry)
  local of, names, values = entry.of, {}, { n = 0 }
  for name in pairs(entry.columns) do names[#names + 1] = name end
  table.sort(names) -- one text for the same columns
  local function add_value(value)
    values.n = values.n + 1
    values[values.n] = value
  end
  for _, name in ipairs(names) do add_value(entry.columns[name][2]) end
  if of.updated and not entry.columns[of.updated] then
    names[#names + 1] = of.updated
    add_value(math.floor(perilune.time()))
  end
  add_value(entry.key)
  local conditions = {}
  if entry.owner then
    conditions[1] = of.owner
    add_value(entry.owner)
  end
  if transaction:write(sql.update(of, names, conditions), values) > 0 then return nil end
  if not entry.owner then return "missing" end
  local row = transaction:read(sql.select(of, of.key), { n = 1, entry.key })[1]
  return row and "stale" or "missing"
end

-- Applies entries and notes the number. A list of { entry, code } of those that could not be.
local function write(entries, number)
  return db:transact(function(transaction)
    local moved = transaction:write(
      "UPDATE journals SET number = ? WHERE journal = ? AND number = ?",
      { n = 3, number, journal.id, applied })
    if moved == 0 then transaction:fail("the journal's number isn't as it was", "moved") end
    local refused = {}
    for _, entry in ipairs(entries) do
      local code = update(transaction, entry)
      if code then refused[#refused + 1] = { entry, code } end
    end
    return refused
  end)
end

-- The number that the database has come to.
local function read_number()
  local found, message, code = db:read("SELECT number FROM journals WHERE journal = ?",
    { n = 1, journal.id })
  if not found then return nil, message, code end
  if not found[1] then return nil, "the journal is unknown to the database", "lost" end
  return found[1].number
end

-- After a failure that leaves it open: was it applied up to `number`?
local function was_applied(number)
  local noted, message, code = read_number()
  if not noted then return nil, message, code end
  if noted == number then return true end
  if noted > applied then
    return nil, "another process writes the same journal", "lost"
  end
  if noted < applied then
    perilune.log.error("the database is behind: it had come to write %.0f, and is at %.0f", applied,
      noted)
    applied = noted
  end
  return false
end

local function tell_waiting(id, message, code)
  for _, flush in ipairs(flushes) do
    if flush.id == id then flush.message, flush.code = message, code end
  end
end

local function refuse_stale(entry)
  counters.add "stale"
  stale:set(entry.id, entry.owner, 0, 0)
  tell_waiting(entry.id, "somebody else has claimed the row", "stale")
  perilune.publish("dbproxy.stale", entry.of.name, entry.key, entry.owner)
end

-- Keeps a record aside that the database refuses. Nil and why when that isn't possible now.
local function reject(number, packed, id, message, code)
  local kept, why = journal:reject(number, packed, message, code)
  if not kept then return nil, why end
  counters.add "rejected"
  perilune.log.error("a write of %s was refused and is kept aside in the journal: %s", id, message)
  tell_waiting(id, message, code == "missing" and code or "rejected")
  return true
end

-- A record, or an entry of some, as the journal has it.
local function pack(record, changes)
  return codec.pack(record.of.name, record.key, record.owner, changes)
end

-- An update of a row that isn't there. Best effort: the database has come further already.
local function reject_missing(entry, number)
  local changes = {}
  for _, change in pairs(entry.columns) do changes[#changes + 1] = change end
  reject(number, pack(entry, changes), entry.id, "there is no such row", "missing")
end

local function wake_flushes()
  local still = {}
  for _, flush in ipairs(flushes) do
    if flush.number <= applied then
      wake(flush.token, flush.code == nil, flush.message, flush.code)
    else
      still[#still + 1] = flush
    end
  end
  flushes = still
end

-- The database has come to `number` with the next `count` records.
local function advance(entries, count, number, refused)
  applied = number
  for _, refusal in ipairs(refused) do
    local entry, code = unpack(refusal)
    if code == "stale" then refuse_stale(entry) else reject_missing(entry, number) end
  end
  counters.add("flushed", #entries - #refused)
  counters.add("merged", count - #entries)
  local ids = {}
  for i, entry in ipairs(entries) do ids[i] = entry.id end
  on_applied(ids)
  for _, id in ipairs(ids) do uncover(id) end
  remove_first(count)
  wake_flushes()
end

-- What the database has for good goes from the journal.
local function forget_applied()
  if not settings.journal_sync or db:make_durable() then
    journal:forget(applied)
    forgotten = applied
  end
end

-- As write(), where what became of it is always known: done, or to be tried again.
local function write_surely(entries, number)
  local refused, message, code = write(entries, number)
  if code ~= "unknown" and code ~= "moved" then return refused, message, code end
  local done, why, problem = was_applied(number)
  if done then return {} end
  if done == nil then return nil, why, problem end
  return nil, message, "unknown"
end

-- Whether a failure is the record's, and not that of a table that isn't as it is declared: whoever
-- changes tables may put that right.
local function is_of_record(record, code)
  local of = record.of
  return code ~= "invalid" or db:read(sql.select(of, of.key), { n = 1, record.key }) ~= nil
end

-- Applies the next records, at most so many. True when that was done; else nil, message, code.
local function apply_once(max_records)
  local entries, count = gather(max_records)
  local number = records[first + count - 1].number
  local refused, message, code = write_surely(entries, number)
  if not refused and REFUSALS[code] then
    if count > 1 then return nil, message, "one_by_one" end
    local record = records[first]
    if not is_of_record(record, code) then return nil, message, "unavailable" end
    if not record.is_aside then
      local kept, why = reject(number, pack(record, record.changes), record.id, message, code)
      if not kept then return nil, why, "unavailable" end
      record.is_aside = true
    end
    refused, message, code = write_surely({}, number)
  end
  if not refused then return nil, message, code end
  advance(entries, count, number, refused)
  return true
end

local function stop_for_ever(message)
  broken = message
  perilune.log.error("writes are refused from now on: %s", message)
  for _, flush in ipairs(flushes) do wake(flush.token, false, message, "unavailable") end
  flushes = {}
end

local function is_due() return first <= last and records[first].number <= target and not broken end

-- Until the target is reached.
local function apply_due()
  local pause, one_by_one = FIRST_PAUSE_MS, 0
  while is_due() do
    local done, message, code = apply_once(one_by_one > 0 and 1 or RECORDS_AT_ONCE)
    if done then
      pause, one_by_one = FIRST_PAUSE_MS, math.max(0, one_by_one - 1)
      if applied - forgotten > RECORDS_AT_ONCE then forget_applied() end
    elseif code == "one_by_one" then
      one_by_one = ROWS_AT_ONCE
    elseif PASSING[code] then
      counters.add "flush_retries"
      perilune.log.warn("writes wait for the database: %s", message)
      perilune.sleep(math.ceil(pause * (0.75 + math.random() / 2)))
      pause = math.min(2 * pause, LAST_PAUSE_MS)
    else
      stop_for_ever(message)
    end
  end
end

local function apply()
  repeat
    apply_due()
    forget_applied()
  until not is_due() -- that has come meanwhile
end

local apply_later

local function apply_until(number)
  target = math.max(target, number)
  if is_applying or broken or first > last then return end
  is_applying = true
  perilune.fork(function()
    local ok, problem = pcall(apply)
    is_applying = false
    if not ok then
      perilune.log.error("applying writes: %s", tostring(problem))
      apply_later()
    end
  end)
end

function apply_later()
  if timer or is_stopping then return end
  timer = perilune.timeout(settings.flush_ms, function()
    timer = nil
    if first > last then return end
    apply_until(records[last].number)
    apply_later()
  end)
end

-- ---- saving ----

---Whether an owner is known to have lost a row.
---@param id string
---@param owner any
---@return boolean
function writes.is_stale(id, owner)
  local loser = owner and stale:get(id, 0)
  return loser ~= nil and loser ~= false and tonumber(owner) <= tonumber(loser)
end

---Acknowledges changes of a row. They will be in the database within flush_ms, in the order of all
---saves, whatever happens to this process.
---@async
---@param of dbproxy.Table
---@param key any encoded
---@param changes { [1]: string, [2]: any }[] encoded
---@param owner any encoded
---@return true? acknowledged
---@return string? message
---@return string? code "busy", "stale", "unavailable", "unknown"
function writes.save(of, key, changes, owner)
  local id = rows.id(of, key)
  if broken or is_stopping then return nil, broken or "dbproxy ends", "unavailable" end
  if writes.is_stale(id, owner) then
    return nil, "somebody else has claimed the row", "stale"
  end
  local packed = codec.pack(of.name, key, owner, changes)
  if last - first + 1 + waiting >= settings.journal_writes
      or bytes + #packed > settings.journal_mb * 2 ^ 20 then
    counters.add "busy"
    return nil, "too many writes wait for the database", "busy"
  end
  bytes, waiting = bytes + #packed, waiting + 1
  local ok, message, code = journal:append(packed, function(number)
    waiting = waiting - 1
    add { number = number, size = #packed, of = of, key = key, id = id, owner = owner,
      changes = changes }
  end)
  if not ok then
    bytes, waiting = bytes - #packed, waiting - 1
    return nil, message, code
  end
  counters.add "journaled"
  apply_later()
  return true
end

---Returns when all that was saved of a row before is in the database.
---@async
---@param id string
---@param limit_ms integer
---@return true? done
---@return string? message
---@return string? code "stale", "missing", "rejected": they aren't, and never will be;
---"unavailable": not yet
function writes.flush(id, limit_ms)
  local row = unapplied[id]
  if not row then return true end
  local flush = { number = row.last, id = id, token = new_token() }
  flushes[#flushes + 1] = flush
  apply_until(row.last)
  local ok, message, code = wait(flush.token, limit_ms)
  if ok then return true end
  if code then return nil, message, code end
  for i, other in ipairs(flushes) do
    if other == flush then table.remove(flushes, i) end
  end
  return nil, "the database takes too long", "unavailable"
end

-- ---- life ----

-- A record of the journal. Raises for one that isn't about what is declared any more.
local function read_record(number, packed)
  local name, key, owner, changes = codec.unpack(packed)
  local of = declared.tables[name]
  if not of then error(("there is no table %s"):format(tostring(name)), 0) end
  for _, change in ipairs(changes) do
    if not of.columns[change[1]] then
      error(("table %s has no column %s"):format(name, tostring(change[1])), 0)
    end
  end
  return { number = number, size = #packed, of = of, key = key, id = rows.id(of, key),
    owner = owner, changes = changes }
end

local function find_number()
  local found, message = db:transact(function(transaction)
    local row = transaction:read("SELECT number FROM journals WHERE journal = ?",
      { n = 1, journal.id })[1]
    if row then return row end
    transaction:write("INSERT INTO journals (journal, number) VALUES (?, 0)", { n = 1, journal.id })
    return { number = 0 }
  end)
  if not found then error(message, 0) end
  return found.number
end

---Takes up what the journal has. Raises where that can't be.
---@async
---@param given { db: dbproxy.Database, schema: dbproxy.Schema, journal: dbproxy.Journal,
---settings: table, on_applied: async fun(ids: string[]) } the last is called with the rows that
---the database has by now, before they are uncovered
function writes.start(given)
  db, declared, journal = given.db, given.schema, given.journal
  settings, on_applied = given.settings, given.on_applied
  applied = find_number()
  journal.last = math.max(journal.last, applied)
  local lost = {}
  journal:replay(applied, function(number, packed)
    local ok, record = pcall(read_record, number, packed)
    if not ok then
      lost[#lost + 1] = { number, packed, tostring(record) }
      return
    end
    bytes = bytes + #packed
    add(record)
    counters.add "replayed"
  end)
  for _, one in ipairs(lost) do
    local kept, why = reject(one[1], one[2], "record " .. one[1], one[3], "invalid")
    if not kept then error("the journal: " .. why, 0) end
  end
  if last >= first then
    perilune.log.info("%d writes of the journal aren't in the database yet", last - first + 1)
    apply_until(records[last].number)
  end
end

---Writes what is left, as far as there is time; the journal has the rest.
---@async
---@param limit_ms integer
function writes.stop(limit_ms)
  is_stopping = true
  if timer then perilune.cancel(timer) end
  if first > last then return end
  writes.flush(records[last].id, limit_ms)
  if first <= last then
    perilune.log.warn("%d writes stay in the journal", last - first + 1)
  end
end

---Adds what an operator wants to know: journal_writes and journal_bytes, which wait to be
---applied; journal_applied, the number that the database has come to; journal_broken: why writes
---are refused.
---@param to table
function writes.copy(to)
  to.journal_writes, to.journal_bytes = last - first + 1 + waiting, bytes
  to.journal_applied, to.journal_broken = applied, broken
end

return writes
