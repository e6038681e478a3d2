local perilune = require "perilune"
local bot = require "perilune.bot"
local protocol = require "perilune.protocol"
local test = require "perilune.test"

local STATUS = protocol.status
local APPLE, SWORD, CASTLE = 1, 2, 3

local function with_game(body)
  local services = {
    perilune.spawn("dbproxy", { database = "sqlite::memory:",
      tables = { "tables", "inventory_tables" } }, { name = "dbproxy" }),
    perilune.spawn("auth", nil, { name = "auth" }),
    perilune.spawn("inventory", nil, { name = "inventory" }),
    perilune.spawn("gateway", { listen = { { port = 0 } } }, { name = "gateway" }),
  }
  local port = perilune.call("gateway", "stats").listeners[1].port
  local ok, message = xpcall(body, debug.traceback, function(form)
    local player = assert(bot.connect { port = port, form = form })
    test.ok(player:login())
    return player
  end)
  for i = #services, 1, -1 do perilune.stop(services[i]) end
  if not ok then error(message, 0) end
end

local function buy(player, item, count, ticket)
  return player:request("inventory.buy", { item = item, count = count, ticket = ticket })
end

local function give(player, item, count, to)
  return player:request("inventory.give", { item = item, count = count, to = to }).status
end

local function list(player)
  local found = player:request "inventory.list"
  return { found.coins, found.stacks }
end

test("who buys has paid, and who can't pay buys nothing", function()
  with_game(function(new_player)
    for form = protocol.JSON, protocol.BUF do
      local player = new_player(form)
      test.equal(list(player), { 100, {} })
      test.equal(buy(player, SWORD, 3, "a"), { status = 1, coins = 10 })
      test.equal(buy(player, CASTLE, 1, "b").status, STATUS.invalid_operation)
      test.equal(buy(player, APPLE, 2, "c"), { status = 1, coins = 0 })
      test.equal(list(player), { 0, { { item = APPLE, count = 2 }, { item = SWORD, count = 3 } } })
      for _, wrong in ipairs { { 9, 1, "d" }, { APPLE, 0, "d" }, { APPLE, 1, "" },
        { APPLE, 1, "a'b" }, { APPLE, 1, ("x"):rep(33) } } do
        test.equal(buy(player, unpack(wrong)).status, STATUS.invalid_params)
      end
      player:close()
    end
  end)
end)

test("a purchase that is asked for again is made once", function()
  with_game(function(new_player)
    local player, bodies = new_player(), {}
    for i = 1, 8 do
      bodies[i] = function() test.equal(buy(player, APPLE, 1, "same").status, STATUS.ok) end
    end
    for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
    test.equal(list(player), { 95, { { item = APPLE, count = 1 } } })
    test.equal(buy(player, APPLE, 1, "other"), { status = 1, coins = 90 })
    player:close()
  end)
end)

test("coins can't be spent twice at the same time", function()
  with_game(function(new_player)
    local player, bought, bodies = new_player(), 0, {}
    for i = 1, 10 do
      bodies[i] = function()
        if buy(player, SWORD, 1, "t" .. i).status == STATUS.ok then bought = bought + 1 end
      end
    end
    perilune.wait_all(bodies)
    test.equal(bought, 3)
    test.equal(list(player), { 10, { { item = SWORD, count = 3 } } })
    player:close()
  end)
end)

test("items change hands, or stay where they are", function()
  with_game(function(new_player)
    local one, two = new_player(), new_player()
    buy(one, APPLE, 5, "a")
    test.equal(give(one, APPLE, 1, two.profile.uid), STATUS.invalid_operation, "no purse yet")
    list(two)
    test.equal(give(one, APPLE, 2, two.profile.uid), STATUS.ok)
    test.equal(give(one, APPLE, 4, two.profile.uid), STATUS.invalid_operation)
    test.equal(give(one, APPLE, 1, 999), STATUS.invalid_operation)
    test.equal(give(one, APPLE, 1, one.profile.uid), STATUS.invalid_params)
    test.equal(list(one), { 75, { { item = APPLE, count = 3 } } })
    test.equal(list(two), { 100, { { item = APPLE, count = 2 } } })
    one:close()
    two:close()
  end)
end)

return test
