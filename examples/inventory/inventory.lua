-- Players buy items and give them away. Coins and items change in one transaction of the database,
-- so that nothing is paid without an item, or twice, whatever breaks meanwhile.
local dbproxy = require "perilune.dbproxy"
local options = require "perilune.options"
local perilune = require "perilune"
local protocol = require "perilune.protocol"

local inventory = {}
local client = {} -- the commands of players

inventory.options = {
  coins = { type = "integer", default = 100, min = 0, max = 1000000,
    meaning = "what a new player has" },
}

local STATUS = protocol.status
local PRICES = { [1] = 5, [2] = 30, [3] = 1000 } -- apple, sword, castle

local settings
local db = dbproxy.at "dbproxy"

-- What a player is told where the database didn't do it.
local function refuse(message, code)
  if code == "condition" or code == "missing" or code == "constraint" then
    return { status = STATUS.invalid_operation } -- too few coins or items, or nobody
  end
  perilune.log.warn("the database: %s", message)
  return { status = STATUS.busy }
end

-- The player's purse, made at the first time.
local function find_purse(uid)
  local purse, message, code = db:load("purse", uid)
  if purse or code then return purse, message, code end
  local fresh = { uid = uid, coins = settings.coins }
  local made
  made, message, code = db:insert("purse", fresh)
  if made then return fresh end
  if code == "exists" then return db:load("purse", uid) end -- two asked at once
  return nil, message, code
end

function client.list(uid)
  local purse, message, code = find_purse(uid)
  if not purse then return refuse(message, code) end
  local stacks
  stacks, message, code = db:query("stacks", { uid = uid })
  if not stacks then return refuse(message, code) end
  return { status = STATUS.ok, coins = purse.coins, stacks = stacks }
end

function client.buy(uid, body)
  local price = PRICES[body.item]
  local ticket = body.ticket:match "^[%w]+$"
  if not price or body.count == 0 or not ticket or #ticket > 32 then
    return { status = STATUS.invalid_params }
  end
  local purse, message, code = find_purse(uid)
  if not purse then return refuse(message, code) end
  local done
  done, message, code = db:transact({
    { "run", "take_coins", { uid = uid, coins = price * body.count }, { changed = 1 } },
    { "run", "add_items", { uid = uid, item = body.item, count = body.count },
      { changed = true } },
  }, ("buy:%d:%s"):format(uid, ticket)) -- asked for twice, it is done once
  if not done then return refuse(message, code) end
  purse = db:load("purse", uid)
  return { status = STATUS.ok, coins = purse and purse.coins }
end

function client.give(uid, body)
  if body.count == 0 or body.to == uid then return { status = STATUS.invalid_params } end
  local done, message, code = db:transact {
    { "run", "take_items", { uid = uid, item = body.item, n = body.count }, { changed = 1 } },
    { "run", "add_items", { uid = body.to, item = body.item, count = body.count },
      { changed = true } },
  }
  if not done then return refuse(message, code) end
  return { status = STATUS.ok }
end

function inventory.on_start(given) settings = options.read(inventory.options, given) end

return inventory, client
