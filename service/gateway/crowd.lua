-- How many connections there are, in all and from each address, and how many may come.
local settings = require "gateway.settings"

local crowd = {}

local open, pending, kept = 0, 0, 0
local open_by_address, pending_by_address = {}, {}
local exempt = {} -- addresses

local function add(map, key, number)
  local sum = (map[key] or 0) + number
  map[key] = sum ~= 0 and sum or nil
end

---Takes the addresses without limits from the settings.
function crowd.start()
  for _, address in ipairs(settings.exempt) do exempt[address] = true end
end

---@param address string
---@return boolean? exempt from limits an address
function crowd.is_exempt(address) return exempt[address] end

---A session has come (1) or gone (-1).
---@param session gateway.Session
---@param number integer
function crowd.count(session, number)
  open = open + number
  add(open_by_address, session.address, number)
end

---Pending: not logged in, and not told to go.
---@param session gateway.Session
---@param is_pending boolean
function crowd.set_pending(session, is_pending)
  if session.is_pending == is_pending then return end
  session.is_pending = is_pending
  pending = pending + (is_pending and 1 or -1)
  add(pending_by_address, session.address, is_pending and 1 or -1)
end

---A session is kept without a connection (1), or no longer (-1).
---@param number integer
function crowd.count_kept(number) kept = kept + number end

---@return integer sessions
function crowd.size() return open end

---@return integer sessions that are pending
function crowd.pending() return pending end

---@return number connections that may be pending at a time
function crowd.max_pending()
  return math.max(1, math.floor(settings.max_connections * settings.pending_share))
end

---@param address string of a connection that comes
---@param has_key boolean there is a key for it
---@return string? why it may not come
---@return boolean? may_resume it may, to resume a session that is kept
function crowd.limit_reached(address, has_key)
  if not has_key or pending >= crowd.max_pending() then return "the server is full" end
  local too_many = "too many connections from your address"
  local exempted = exempt[address]
  if not exempted and (pending_by_address[address] or 0) >= settings.max_pending then
    return too_many
  end
  if open >= settings.max_connections then return "the server is full", kept > 0 end
  if not exempted and (open_by_address[address] or 0) >= settings.max_per_address then
    return too_many, kept > 0
  end
end

---Adds the numbers to a table.
---@param to table<string, any>
function crowd.copy(to)
  to.sessions, to.pending, to.kept_now = open, pending, kept
end

return crowd
