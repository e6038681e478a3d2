-- The accounts that auth knows, in memory: gone when auth ends. A database takes the place of
-- this file behind the same functions, which may wait then. What must not happen twice (an
-- account of a guest key, a name) is decided in one of these functions and never by its caller.
local accounts = {}

local by_uid, by_guest, by_name = {}, {}, {}
local last_uid = 0

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

---@param uid integer
---@return accounts.Account?
function accounts.find(uid) return by_uid[uid] end

---@param hash string of the guest's key
---@return accounts.Account?
function accounts.find_guest(hash) return by_guest[hash] end

---@param name string in lower case
---@return accounts.Account?
function accounts.find_name(name) return by_name[name] end

---The account of a guest key: `account` with a new uid, or the one that was there first.
---@param hash string
---@param account accounts.Account
---@return accounts.Account
function accounts.add_guest(hash, account)
  if by_guest[hash] then return by_guest[hash] end
  last_uid = last_uid + 1
  account.uid, account.login_epoch = last_uid, 0
  by_uid[last_uid], by_guest[hash] = account, account
  return account
end

---Counts a login.
---@param uid integer
---@return integer epoch larger than all before
function accounts.next_epoch(uid)
  local account = by_uid[uid]
  account.login_epoch = account.login_epoch + 1
  return account.login_epoch
end

---Makes a guest an account with a name.
---@param uid integer
---@param name string in lower case
---@param password_hash string
---@return boolean registered false when the name is taken or it is none of a guest
function accounts.register(uid, name, password_hash)
  local account = by_uid[uid]
  if by_name[name] or not account or account.is_guest ~= 1 then return false end
  account.uname, account.upwd, account.is_guest = name, password_hash, 0
  by_name[name] = account
  return true
end

---@param uid integer
---@param fields table
---@return boolean updated false when there is no such account
function accounts.update(uid, fields)
  local account = by_uid[uid]
  if not account then return false end
  for name, value in pairs(fields) do account[name] = value end
  return true
end

---@return integer
function accounts.count() return last_uid end

return accounts
