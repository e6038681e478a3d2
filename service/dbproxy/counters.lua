-- What an operator wants to know of dbproxy: how often each thing has happened.
local counters = {}

local values = {
  -- asked for
  loads = 0, saves = 0, writes = 0, statements = 0,
  -- how loads ended
  cache_hits = 0, cache_misses = 0, cache_errors = 0, shared_loads = 0, replica_reads = 0,
  replica_failures = 0,
  -- how writes ended
  committed = 0, not_applied = 0, unknown = 0, repeated = 0, busy = 0, conflicts = 0, failovers = 0,
  -- the journal
  journaled = 0, merged = 0, flushed = 0, replayed = 0, stale = 0, rejected = 0, flush_retries = 0,
  journal_failures = 0,
}

---@param name string
---@param number integer? default 1
function counters.add(name, number)
  values[name] = (values[name] or 0) + (number or 1) -- a reload may bring one that isn't there
end

---Adds all of them to a table.
---@param to table<string, any>
function counters.copy(to)
  for name, value in pairs(values) do to[name] = value end
end

return counters
