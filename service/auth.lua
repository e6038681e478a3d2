-- auth: who players are.
--
-- DESIGN
-- Accounts are in the database (service/accounts.lua), whose functions wait: every check is made
-- again, or by the database itself, after each of them. A login is an epoch: the database counts
-- it, the gateway is told (key, uid, epoch) before the reply, and a later epoch of the same uid
-- wins. A logout ends the epoch of the connection that asked for it, and no later one.
-- Guest keys are secrets: the database has their HMAC alone. What is guessed at (names, passwords)
-- is locked out by account and by address, with the same answer for unknown and wrong. Where the
-- database doesn't answer, players are told "busy".
local perilune = require "perilune"
local accounts = require "accounts"
local gateway = require "perilune.gateway"
local limits = require "perilune.limits"
local lru = require "perilune.lru"
local options = require "perilune.options"
local packet = require "perilune.packet"
local password = require "perilune.password"
local protocol = require "perilune.protocol"
local game = require "protocol" ---@type perilune.Protocol

local auth = {}
local client = {}

auth.options = {
  account_failures = { type = "integer", default = 5, min = 1, max = 1000000,
    meaning = "failed logins of an account until it is locked" },
  account_lock_ms = { type = "integer", default = 60000, min = 1, max = 86400000, unit = "ms",
    meaning = "for how long" },
  address_failures = { type = "integer", default = 10, min = 1, max = 1000000,
    meaning = "failed logins from an address until it is locked" },
  address_lock_ms = { type = "integer", default = 600000, min = 1, max = 86400000, unit = "ms",
    meaning = "for how long" },
  new_guests = { type = "integer", default = 10, min = 1, max = 1000000,
    meaning = "new guest accounts an address may make in a minute" },
  dbproxy = { type = "string", default = "dbproxy", meaning = "the service that keeps accounts" },
  exempt = { type = "table", default = { "127.0.0.1", "::1" },
    meaning = "addresses, such as a proxy's, without limits an address" },
}

local STATUS = protocol.status
local KEY_BYTES = 32
local NAME = "^[%w_][%w_.-]+$"
local MAX_NAME_BYTES = 32
local MIN_PASSWORD_BYTES, MAX_PASSWORD_BYTES = 6, 128
local MAX_NICK_BYTES = 32
-- Why an account isn't changed, where it isn't the database that fails.
local UNFIT = { exists = true, missing = true, condition = true, constraint = true }
-- Of nobody's password: what is compared for an unknown name, so that the time tells nothing.
local NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$" .. ("A"):rep(22) .. "$" .. ("A"):rep(43)

local settings
local exempt = {}
local account_lockout, address_lockout, guest_buckets
-- The last login of each uid as { key, epoch }. One that is forgotten here has had no later one for
-- so many logins that its epoch in the database is the last.
local logins = lru.new { entries = 100000 }
local counters = { refused_for_maintenance = 0, failed = 0 }
local logged_at = -math.huge

local function refuse(status) return { status = status } end

-- The database doesn't do it. Logged once a second.
local function fail(message)
  counters.failed = counters.failed + 1
  if perilune.now() - logged_at >= 1000 then
    logged_at = perilune.now()
    perilune.log.warn("accounts: %s (%d failures so far)", message, counters.failed)
  end
  return refuse(STATUS.busy)
end

-- ---- logins ----

-- Whether nobody may log in now, which the connection is told with the reason (service/center.lua).
local function is_maintenance(key)
  local center = perilune.shared "center"
  if not center or center.maintenance == "" then return false end
  counters.refused_for_maintenance = counters.refused_for_maintenance + 1
  if game.commands["system.announcement"] then
    gateway.tell(key, "system.announcement", { text = center.maintenance })
  end
  return true
end

local function log_in(key, account)
  if account.status ~= 1 then return refuse(STATUS.illegal_account) end
  local epoch, message, code = accounts.next_epoch(account.uid)
  if code == "condition" then return refuse(STATUS.illegal_account) end -- since it was looked up
  if not epoch then return fail(message) end
  local last = logins:get(account.uid, 0)
  if not last or last[2] < epoch then logins:set(account.uid, { key, epoch }, 0, 0) end
  gateway.login(key, account.uid, epoch)
  return {
    status = STATUS.ok, uid = account.uid, unick = account.unick, usex = account.usex,
    uface = account.uface, uvip = account.uvip,
  }
end

local function new_guest()
  return {
    unick = ("guest%06d"):format(math.random(0, 999999)), usex = math.random(0, 1),
    uface = math.random(1, 9), uvip = 0, is_guest = 1, status = 1,
  }
end

function client.guest_login(key, guest_key, address)
  if is_maintenance(key) then return refuse(STATUS.busy) end
  if #guest_key ~= KEY_BYTES or guest_key:find("[^%w]") then
    return refuse(STATUS.invalid_params)
  end
  local hash = accounts.hash(guest_key)
  local account, message, code = accounts.find_guest(hash)
  if code then return fail(message) end
  if not account then
    if not exempt[address] and not guest_buckets:take(address, perilune.now()) then
      return refuse(STATUS.too_fast)
    end
    account, message = accounts.add_guest(hash, new_guest())
    if not account then return fail(message) end
  end
  if account.is_guest ~= 1 then return refuse(STATUS.invalid_operation) end
  return log_in(key, account)
end

local function is_locked(name, address, now)
  return account_lockout:is_locked(name, now)
    or (not exempt[address] and address_lockout:is_locked(address, now))
end

-- Counted before the check, which takes a while: many at once get no more guesses than one by one.
local function count_guess(name, address, now)
  account_lockout:fail(name, now)
  if not exempt[address] then address_lockout:fail(address, now) end
end

local function forgive_guess(name, address)
  local now = perilune.now()
  account_lockout:forgive(name, now)
  if not exempt[address] then address_lockout:forgive(address, now) end
end

function client.account_login(key, body, address)
  if is_maintenance(key) then return refuse(STATUS.busy) end
  local name, now = body.uname:lower(), perilune.now()
  if #name > MAX_NAME_BYTES or #body.upwd > MAX_PASSWORD_BYTES then
    return refuse(STATUS.invalid_params)
  end
  if is_locked(name, address, now) then return refuse(STATUS.too_fast) end
  count_guess(name, address, now)
  local account, message, code = accounts.find_name(name)
  if code then
    forgive_guess(name, address)
    return fail(message)
  end
  local right
  right, message = password.verify(body.upwd, account and account.upwd or NOBODY)
  if right == nil then
    perilune.log.warn("a password could not be checked: %s", message)
    forgive_guess(name, address)
    return refuse(STATUS.busy)
  end
  if not account or not right then return refuse(STATUS.invalid_params) end
  forgive_guess(name, address)
  account_lockout:forget(name)
  return log_in(key, account)
end

-- ---- accounts ----

function client.register(uid, body)
  local name = body.uname:lower()
  local bytes = #body.upwd
  if #name > MAX_NAME_BYTES or not name:find(NAME)
      or bytes < MIN_PASSWORD_BYTES or bytes > MAX_PASSWORD_BYTES then
    return refuse(STATUS.invalid_params)
  end
  local account, message, code = accounts.find(uid)
  if code then return fail(message) end
  if not account or account.is_guest ~= 1 then return refuse(STATUS.invalid_operation) end
  local hash
  hash, message = password.hash(body.upwd)
  if not hash then
    perilune.log.warn("a password could not be hashed: %s", message)
    return refuse(STATUS.busy)
  end
  local registered
  registered, message, code = accounts.register(uid, name, hash)
  if registered then return refuse(STATUS.ok) end
  return UNFIT[code] and refuse(STATUS.invalid_operation) or fail(message)
end

function client.edit_profile(uid, body)
  local nick = body.unick
  if nick == "" or #nick > MAX_NICK_BYTES or nick:find("%c") or not packet.is_utf8(nick) then
    return refuse(STATUS.invalid_params)
  end
  local changed, message, code =
    accounts.update(uid, { unick = nick, usex = body.usex, uface = body.uface })
  if changed then return refuse(STATUS.ok) end
  return UNFIT[code] and refuse(STATUS.invalid_operation) or fail(message)
end

function client.logout(uid, _, key)
  local last = logins:get(uid, 0)
  if last and last[1] ~= key then return refuse(STATUS.ok) end -- who has logged in since stays
  local epoch = last and last[2]
  if not last then
    local account, message = accounts.find(uid)
    if not account then return message and fail(message) or refuse(STATUS.invalid_operation) end
    epoch = account.login_epoch
  end
  -- After the reply, which is for the player who still is logged in.
  perilune.fork(gateway.logout, uid, epoch)
  return refuse(STATUS.ok)
end

-- ---- for operators ----

---Shuts an account out, and ends its session, or lets it in again.
---@param uid integer
---@param frozen boolean
---@return boolean changed false when there is no such account. Raises where the database fails.
function auth.freeze(uid, frozen)
  local changed, message, code = accounts.update(uid, { status = frozen and 0 or 1 })
  if not changed and code ~= "missing" then error(message, 0) end
  if not changed then return false end
  if frozen then gateway.kick(uid, "frozen", "this account is shut out") end
  return true
end

---What an operator wants to know.
---@return table numbers accounts, nil where the database doesn't say; counters:
---refused_for_maintenance (logins), failed (requests that the database didn't do)
function auth.stats()
  local numbers = { accounts = (accounts.count()) }
  for name, value in pairs(counters) do numbers[name] = value end
  return numbers
end

function auth.on_start(given)
  settings = options.read(auth.options, given)
  accounts.start(settings.dbproxy)
  local now = perilune.now()
  for _, address in ipairs(settings.exempt) do exempt[address] = true end
  account_lockout = limits.lockout(settings.account_failures, settings.account_lock_ms, now)
  address_lockout = limits.lockout(settings.address_failures, settings.address_lock_ms, now)
  guest_buckets = limits.buckets(settings.new_guests / 60, settings.new_guests, now)
end

return auth, client
