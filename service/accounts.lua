-- The accounts that auth knows: rows of uinfo, through dbproxy, so each function waits. What must
-- not happen twice (an account of a guest key, a name, the number of a login) is decided by the
-- database. What fails returns nil, message, code, as perilune.dbproxy has it; a nil alone is an
-- account that isn't there.
local crypto = require "perilune.crypto"
local dbproxy = require "perilune.dbproxy"

local accounts = {}

local SECRET = "guest_keys" -- in the table secrets
local SECRET_BYTES = 32

local db, secret

---@class accounts.Account
---@field uid integer
---@field unick string
---@field uname string?
---@field upwd string? hash of the password
---@field usex integer
---@field uface integer
---@field uvip integer
---@field is_guest integer 1, or 0 once registered
---@field status integer 1, anything else: shut out
---@field login_epoch integer of the last login

-- The key by which all nodes of a database hash guests' keys: made by whoever comes first.
local function find_secret()
  local fresh = crypto.random_bytes(SECRET_BYTES)
  local _, message, code = db:insert("secrets", { name = SECRET, value = fresh })
  if code and code ~= "exists" then error(message, 0) end
  local row, why = db:load("secrets", SECRET, { fresh = true })
  if not row then error(why, 0) end
  return row.value
end

---Has the accounts kept by a service dbproxy. Raises where it isn't there.
---@async
---@param name string
function accounts.start(name)
  db = dbproxy.at(name)
  local ok, found = pcall(find_secret)
  if not ok then
    error(("accounts need the service %s, before auth in config.lua: %s"):format(name, found), 0)
  end
  secret = found
end

---What stands for a guest's key in the database: nobody can tell the key from it.
---@param key string
---@return string hash 64 hexadecimal digits
function accounts.hash(key) return crypto.hex(crypto.hmac_sha256(secret, key)) end

---@async
---@param uid integer
---@return accounts.Account? account
---@return string? message
---@return string? code
function accounts.find(uid) return db:load("uinfo", uid) end

---@async
---@param hash string of the guest's key
---@return accounts.Account? account
---@return string? message
---@return string? code
function accounts.find_guest(hash) return db:find("uinfo", "guest_key_hash", hash) end

---@async
---@param name string in lower case
---@return accounts.Account? account
---@return string? message
---@return string? code
function accounts.find_name(name) return db:find("uinfo", "uname", name) end

---The account of a guest key: `fields` with a new uid, or the one that was there first.
---@async
---@param hash string
---@param fields table
---@return accounts.Account? account
---@return string? message
---@return string? code
function accounts.add_guest(hash, fields)
  local row = { guest_key_hash = hash, vip_endtime = 0, login_epoch = 0 }
  for name, value in pairs(fields) do row[name] = value end
  local uid, message, code = db:insert("uinfo", row)
  if code == "exists" then return accounts.find_guest(hash) end
  if not uid then return nil, message, code end
  row.uid = uid
  return row
end

---Counts a login.
---@async
---@param uid integer
---@return integer? epoch larger than all before
---@return string? message
---@return string? code "condition": the account is shut out, or gone
function accounts.next_epoch(uid)
  local results, message, code = db:transact {
    { "run", "count_login", { uid = uid }, { changed = 1 } },
    { "run", "login_epoch", { uid = uid } },
  }
  if not results then return nil, message, code end
  return results[2][1].login_epoch
end

---Makes a guest an account with a name.
---@async
---@param uid integer
---@param name string in lower case
---@param password_hash string
---@return true? registered
---@return string? message
---@return string? code "exists": the name is taken; "condition", "missing": it is none of a guest
function accounts.register(uid, name, password_hash)
  return db:update("uinfo", uid, { uname = name, upwd = password_hash, is_guest = 0 },
    { where = { is_guest = 1 } })
end

---@async
---@param uid integer
---@param fields table
---@return true? updated
---@return string? message
---@return string? code "missing": there is no such account
function accounts.update(uid, fields) return db:update("uinfo", uid, fields) end

---@async
---@return integer? count
---@return string? message
---@return string? code
function accounts.count()
  local found, message, code = db:query "count_accounts"
  if not found then return nil, message, code end
  return found[1].number
end

return accounts
