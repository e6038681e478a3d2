-- Guests, accounts and their limits.
local perilune = require "perilune"
local bot = require "perilune.bot"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local world = require "world"

local JSON, BUF = protocol.JSON, protocol.BUF
local STATUS = protocol.status

test("a guest gets an account, and the same one again", function()
  world.with({}, function(port)
    local first = world.player(port, JSON)
    local profile = first.profile
    test.equal(profile.status, STATUS.ok)
    test.ok(profile.uid > 0 and profile.uid < 2 ^ 31)
    test.ok(profile.unick:find("^guest%d%d%d%d%d%d$"), profile.unick)
    first:close()
    world.wait_for("sessions", 0)
    local second = world.player(port, BUF, first.key)
    test.equal(second.profile, profile)
    local other = world.player(port, JSON)
    test.ok(other.profile.uid ~= profile.uid)
    second:close()
    other:close()
  end)
end)

test("first logins of one key at once give one account", function()
  world.with({}, function(port)
    local key, uids, bodies = bot.new_key(), {}, {}
    for i = 1, 8 do
      bodies[i] = function()
        local player = world.connect(port, i % 2 == 0 and JSON or BUF)
        local profile = player:login(key)
        if profile then uids[profile.uid] = true end
        player:close()
      end
    end
    perilune.wait_all(bodies)
    test.equal(perilune.call("auth", "stats").accounts, 1)
    test.equal(next(uids, next(uids)), nil)
  end)
end)

test("keys that aren't 32 letters and digits are refused", function()
  world.with({}, function(port)
    local player = world.connect(port)
    for _, key in ipairs { "", "short", ("x"):rep(31), ("x"):rep(33), ("x"):rep(31) .. "'",
      ("é"):rep(16), "' OR '1'='1" .. ("x"):rep(21) } do
      test.equal(player:request("auth.guest_login", key), { status = STATUS.invalid_params, uid = 0,
        unick = "", usex = 0, uface = 0, uvip = 0 }, key)
    end
    test.ok(player:login())
    player:close()
  end)
end)

test("an address may make so many guests a minute", function()
  world.with({ auth = { new_guests = 2, exempt = {} } }, function(port)
    local players = { world.player(port), world.player(port) }
    local third = world.connect(port)
    test.equal(select(2, third:login()), STATUS.too_fast)
    players[1]:close()
    test.ok(third:login(players[1].key), "one that there is may log in")
    players[2]:close()
    third:close()
  end)
end)

test("a frozen account is kicked and can't log in until it is let in again", function()
  world.with({}, function(port)
    local player = world.player(port)
    local uid = player.profile.uid
    test.equal(perilune.call("auth", "freeze", uid, true), true)
    test.equal(world.wait_closed(player), "frozen")
    local again = world.connect(port)
    test.equal(select(2, again:login(player.key)), STATUS.illegal_account)
    perilune.call("auth", "freeze", uid, false)
    test.ok(again:login(player.key))
    test.equal(perilune.call("auth", "freeze", 999, true), false)
    again:close()
  end)
end)

test("a profile can be changed and is kept", function()
  world.with({}, function(port)
    local player = world.player(port)
    local function edit(unick)
      return player:request("auth.edit_profile", { unick = unick, usex = 1, uface = 3 }).status
    end
    test.equal(edit "Ада 😀", STATUS.ok)
    for _, unick in ipairs { "", ("x"):rep(33), "a\nb" } do
      test.equal(edit(unick), STATUS.invalid_params, unick)
    end
    player:close()
    world.wait_for("sessions", 0)
    local again = world.player(port, BUF, player.key)
    test.equal({ again.profile.unick, again.profile.usex, again.profile.uface },
      { "Ада 😀", 1, 3 })
    again:close()
  end)
end)

test("a guest registers and logs in by name", function()
  world.with({}, function(port)
    local guest = world.player(port)
    local body = { uname = "Ada_1", upwd = "correct horse" }
    test.equal(guest:request("auth.register", body).status, STATUS.ok)
    test.equal(guest:request("auth.register", body).status, STATUS.invalid_operation)
    guest:close()
    world.wait_for("sessions", 0)

    local player = world.connect(port)
    test.equal(select(2, player:login(guest.key)), STATUS.invalid_operation, "it is no guest now")
    local profile = player:request("auth.account_login", { uname = "ADA_1", upwd = body.upwd })
    test.equal({ profile.status, profile.uid }, { STATUS.ok, guest.profile.uid })
    local other = world.player(port)
    test.equal(other:request("auth.register", body).status, STATUS.invalid_operation, "taken")
    for _, wrong in ipairs { { "a", "secret1" }, { "a b", "secret1" }, { "ok_name", "short" },
      { ("x"):rep(33), "secret1" }, { "ok_name", ("x"):rep(129) } } do
      test.equal(other:request("auth.register", { uname = wrong[1], upwd = wrong[2] }).status,
        STATUS.invalid_params)
    end
    player:close()
    other:close()
  end)
end)

test("who guesses passwords is locked out, with one answer for unknown and wrong", function()
  -- How the lock ends is a test of the limits, library_test.lua.
  local limits = { account_failures = 3, account_lock_ms = 3600000 }
  world.with({ auth = limits }, function(port)
    local guest = world.player(port)
    guest:request("auth.register", { uname = "ada", upwd = "secret1" })
    guest:close()
    local player = world.connect(port)
    local function try(uname, upwd)
      return player:request("auth.account_login", { uname = uname, upwd = upwd }).status
    end
    for _, uname in ipairs { "ada", "nobody" } do
      for _ = 1, 3 do test.equal(try(uname, "wrong"), STATUS.invalid_params) end
      test.equal(try(uname, "secret1"), STATUS.too_fast)
    end
    player:close()
  end)
end)

test("many guesses at once are no more than one by one", function()
  local guesses, players, statuses = 12, {}, {}
  world.with({ auth = { account_failures = 3, account_lock_ms = 3600000 } }, function(port)
    local guest = world.player(port)
    guest:request("auth.register", { uname = "ada", upwd = "secret1" })
    guest:close()
    local bodies = {}
    for i = 1, guesses do
      players[i] = world.connect(port)
      bodies[i] = function()
        local body = { uname = "ada", upwd = "wrong" }
        local status = players[i]:request("auth.account_login", body).status
        statuses[status] = (statuses[status] or 0) + 1
      end
    end
    perilune.wait_all(bodies)
    test.equal(statuses, { [STATUS.invalid_params] = 3, [STATUS.too_fast] = guesses - 3 })
    for _, player in ipairs(players) do player:close() end
  end)
end)

test("an address that guesses is locked out for all accounts", function()
  world.with({ auth = { address_failures = 4, exempt = {} } }, function(port)
    local player = world.connect(port)
    for i = 1, 4 do
      test.equal(player:request("auth.account_login", { uname = "user" .. i, upwd = "x" }).status,
        STATUS.invalid_params)
    end
    test.equal(player:request("auth.account_login", { uname = "user9", upwd = "x" }).status,
      STATUS.too_fast)
    player:close()
  end)
end)

return test
