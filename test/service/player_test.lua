-- What players own: loaded, saved, and never owned twice.
local dbproxy = require "perilune.dbproxy"
local perilune = require "perilune"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local world = require "world"

local STATUS = protocol.status
local db = dbproxy.at "dbproxy"

local function stats() return perilune.call("player", "stats") end

local function enter(player)
  local profile = player:request "game.enter"
  test.equal(profile.status, STATUS.ok)
  return profile
end

local function in_database(uid) return db:load("ugame", uid, { fresh = true }) end

test("a user is loaded when the player enters and saved when the player is gone", function()
  world.with({ player = {} }, function(port)
    for form = protocol.JSON, protocol.BUF do
      local player = world.player(port, form)
      local uid = player.profile.uid
      test.equal(enter(player), { status = 1, uexp = 0, uchip = 1000, uvip = 0 })
      test.equal(perilune.call("player", "add_experience", uid, 50), 50)
      test.ok(perilune.call("player", "keep", uid, "hats", { "red", { size = 5 } }))
      test.equal(enter(player).uexp, 50, "who is here stays")
      player:close()
      test.eventually(function() return stats().users == 0 end)
      local row = in_database(uid)
      test.equal({ row.uexp, row.udata }, { 50, { hats = { "red", { size = 5 } } } })
      test.equal(perilune.call("player", "add_experience", uid, 1), nil)
      local again = world.player(port, form, player.key)
      test.equal(enter(again).uexp, 50)
      test.equal(perilune.call("player", "get", uid).udata.hats[1], "red")
      again:close()
      test.eventually(function() return stats().users == 0 end)
    end
    test.equal(stats().entered, 4)
  end)
end)

test("who plays on is saved every so often, and who hasn't changed isn't", function()
  world.with({ player = { save_ms = 50 } }, function(port)
    local player, idle = world.player(port), world.player(port)
    enter(player)
    enter(idle)
    local uid = player.profile.uid
    for value = 1, 3 do
      test.equal(perilune.call("player", "add_experience", uid, 1), value)
      test.ok(perilune.call("player", "keep", uid, "turn", value))
      test.eventually(function() return stats().saved == value end)
      local row = db:load("ugame", uid)
      test.equal({ row.uexp, row.udata }, { value, { turn = value } })
    end
    test.ok(perilune.call("player", "keep", uid, "turn", nil))
    test.eventually(function() return stats().saved == 4 end)
    test.equal(db:load("ugame", uid).udata, {})
    player:close()
    idle:close()
  end)
end)

test("the end of the service saves everybody", function()
  world.with({ player = {} }, function(port)
    local players = {}
    for i = 1, 20 do
      players[i] = world.player(port)
      enter(players[i])
      perilune.call("player", "add_experience", players[i].profile.uid, i)
    end
    perilune.stop "player"
    for i, player in ipairs(players) do
      test.equal(in_database(player.profile.uid).uexp, i)
      player:close()
    end
  end)
end)

test("chips change hands as a whole or not at all, and are in the database at once", function()
  world.with({ player = {} }, function(port)
    local one, two = world.player(port), world.player(port)
    enter(one)
    enter(two)
    local a, b = one.profile.uid, two.profile.uid
    local function transfer(...)
      local done, _, code = perilune.call("player", "transfer", ...)
      return done or code
    end
    test.equal(transfer(a, b, 300), true)
    test.equal({ in_database(a).uchip, in_database(b).uchip }, { 700, 1300 })
    test.equal(transfer(a, b, 701), "refused")
    test.equal(transfer(a, 999, 1), "missing")
    test.equal(select(3, perilune.call("player", "give_chips", a, -701)), "refused")
    test.equal(perilune.call("player", "give_chips", a, 5), true)
    test.equal({ perilune.call("player", "get", a).uchip, perilune.call("player", "get", b).uchip },
      { 705, 1300 })
    for _, wrong in ipairs { { a, b, 0 }, { a, b, -1 }, { a, b, 0.5 }, { a, a, 1 },
      { a, b, "1" } } do
      test.raises(function() transfer(unpack(wrong)) end, "chips")
    end
    -- Many at once, in both directions.
    local bodies = {}
    for i = 1, 40 do
      bodies[i] = function()
        test.equal(i % 2 == 0 and transfer(a, b, 1) or transfer(b, a, 2), true)
      end
    end
    for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
    test.equal({ in_database(a).uchip, in_database(b).uchip }, { 725, 1280 })
    one:close()
    two:close()
  end)
end)

test("who finds that another owns the user stops, and the player is told", function()
  world.with({ player = {} }, function(port)
    local player, other = world.player(port), world.player(port)
    enter(player)
    enter(other)
    local uid = player.profile.uid
    perilune.call("player", "add_experience", uid, 5)
    local claimed = db:claim("ugame", uid) -- as another node does
    test.equal(claimed.owner_epoch, 2)
    test.equal(select(3, perilune.call("player", "transfer", other.profile.uid, uid, 5)), "stale")
    test.equal(world.wait_closed(player), "moved")
    test.equal(perilune.call("player", "get", uid), nil)
    test.equal(perilune.call("player", "get", other.profile.uid).uchip, 1000)
    test.equal({ in_database(uid).uexp, in_database(uid).uchip }, { 0, 1000 })
    local numbers = stats()
    test.equal({ numbers.lost, numbers.users }, { 1, 1 })
    other:close()
  end)
end)

test("a stale owner finds out by its next save, too", function()
  world.with({ player = { save_ms = 50 }, dbproxy = { flush_ms = 20 } }, function(port)
    local player = world.player(port)
    enter(player)
    local uid = player.profile.uid
    db:claim("ugame", uid)
    perilune.call("player", "add_experience", uid, 5)
    test.equal(world.wait_closed(player), "moved")
    test.eventually(function() return stats().users == 0 end)
    test.equal(in_database(uid).uexp, 0)
    test.equal(perilune.call("dbproxy", "stats").stale, 1)
  end)
end)

test("users over the limit are told that it is busy, frozen ones that they are", function()
  world.with({ player = { max_users = 1 } }, function(port)
    local one, two = world.player(port), world.player(port)
    enter(one)
    test.equal(two:request("game.enter").status, STATUS.busy)
    one:close()
    test.eventually(function() return stats().users == 0 end)
    enter(two)
    two:close()
    test.eventually(function() return stats().users == 0 end)
    db:update("ugame", two.profile.uid, { status = 0 })
    local again = world.player(port, nil, two.key)
    test.equal(again:request("game.enter").status, STATUS.illegal_account)
    again:close()
  end)
end)

test("coming while still going waits for what is saved", function()
  world.with({ player = {} }, function(port)
    local key
    for round = 1, 10 do
      local player = world.player(port, nil, key)
      key = player.key
      test.equal(enter(player).uexp, round - 1)
      perilune.call("player", "add_experience", player.profile.uid, 1)
      if round % 2 == 0 then player:close() end -- else the next login ends it
    end
    test.eventually(function() return stats().users == 0 end)
    local numbers = stats()
    test.equal(numbers.entered, numbers.left)
    test.equal(numbers.lost, 0)
  end)
end)

return test
