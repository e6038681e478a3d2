-- auth: who players are.
--
-- DESIGN
-- Accounts are in a store (service/accounts.lua) whose functions may wait: every check is made
-- again, or by the store itself, after each of them. A login is an epoch: the store counts it, the
-- gateway is told (key, uid, epoch) before the reply, and a later epoch of the same uid wins.
-- Guest keys are secrets: the store sees their HMAC alone. What is guessed at (names, passwords)
-- is locked out by account and by address, with the same answer for unknown and wrong.
local perilune = require "perilune"
local accounts = require "accounts"
local crypto = require "perilune.crypto"
local gateway = require "perilune.gateway"
local limits = require "perilune.limits"
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
  exempt = { type = "table", default = { "127.0.0.1", "::1" },
    meaning = "addresses, such as a proxy's, without limits an address" },
}

local STATUS = protocol.status
local KEY_BYTES = 32
local NAME = "^[%w_][%w_.-]+$"
local MAX_NAME_BYTES = 32
local MIN_PASSWORD_BYTES, MAX_PASSWORD_BYTES = 6, 128
local MAX_NICK_BYTES = 32
-- Of nobody's password: what is compared for an unknown name, so that the time tells nothing.
local NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$" .. ("A"):rep(22) .. "$" .. ("A"):rep(43)

local settings
local exempt = {}
local account_lockout, address_lockout, guest_buckets
local secret = crypto.random_bytes(32) -- of this node, until the store keeps one

local refused_for_maintenance = 0

local function refuse(status) return { status = status } end

-- ---- logins ----

-- Whether nobody may log in now, which the connection is told with the reason (service/center.lua).
local function is_maintenance(key)
  local center = perilune.shared "center"
  if not center or center.maintenance == "" then return false end
  refused_for_maintenance = refused_for_maintenance + 1
  if game.commands["system.announcement"] then
    gateway.tell(key, "system.announcement", { text = center.maintenance })
  end
  return true
end

local function log_in(key, account)
  if account.status ~= 1 then return refuse(STATUS.illegal_account) end
  local epoch = accounts.next_epoch(account.uid)
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
  local hash = crypto.hex(crypto.hmac_sha256(secret, guest_key))
  local account = accounts.find_guest(hash)
  if not account then
    if not exempt[address] and not guest_buckets:take(address, perilune.now()) then
      return refuse(STATUS.too_fast)
    end
    account = accounts.add_guest(hash, new_guest())
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
  local account = accounts.find_name(name)
  local right, message = password.verify(body.upwd, account and account.upwd or NOBODY)
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
  local account = accounts.find(uid)
  if not account or account.is_guest ~= 1 then return refuse(STATUS.invalid_operation) end
  local hash, message = password.hash(body.upwd)
  if not hash then
    perilune.log.warn("a password could not be hashed: %s", message)
    return refuse(STATUS.busy)
  end
  local taken = not accounts.register(uid, name, hash)
  return refuse(taken and STATUS.invalid_operation or STATUS.ok)
end

function client.edit_profile(uid, body)
  local nick = body.unick
  if nick == "" or #nick > MAX_NICK_BYTES or nick:find("%c") or not packet.is_utf8(nick) then
    return refuse(STATUS.invalid_params)
  end
  local changed = accounts.update(uid, { unick = nick, usex = body.usex, uface = body.uface })
  return refuse(changed and STATUS.ok or STATUS.invalid_operation)
end

function client.logout(uid)
  local account = accounts.find(uid)
  if not account then return refuse(STATUS.invalid_operation) end
  -- After the reply, which is for the player who still is logged in.
  perilune.fork(gateway.logout, uid, account.login_epoch)
  return refuse(STATUS.ok)
end

-- ---- for operators ----

---Shuts an account out, and ends its session, or lets it in again.
---@param uid integer
---@param frozen boolean
---@return boolean changed false when there is no such account
function auth.freeze(uid, frozen)
  if not accounts.update(uid, { status = frozen and 0 or 1 }) then return false end
  if frozen then gateway.kick(uid, "frozen", "this account is shut out") end
  return true
end

---What an operator wants to know.
---@return table numbers accounts; refused_for_maintenance: logins
function auth.stats()
  return { accounts = accounts.count(), refused_for_maintenance = refused_for_maintenance }
end

function auth.on_start(given)
  settings = options.read(auth.options, given)
  local now = perilune.now()
  for _, address in ipairs(settings.exempt) do exempt[address] = true end
  account_lockout = limits.lockout(settings.account_failures, settings.account_lock_ms, now)
  address_lockout = limits.lockout(settings.address_failures, settings.address_lock_ms, now)
  guest_buckets = limits.buckets(settings.new_guests / 60, settings.new_guests, now)
end

return auth, client
