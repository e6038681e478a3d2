-- Accounts in the database: who they are after a restart, what is kept of their secrets, and what
-- players hear when the database doesn't answer.
local bot = require "perilune.bot"
local dbproxy = require "perilune.dbproxy"
local file = require "perilune.file"
local packet = require "perilune.packet"
local perilune = require "perilune"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local world = require "world"
local game = require "protocol" ---@type perilune.Protocol

local STATUS = protocol.status
local db = dbproxy.at "dbproxy"
local IS_SLOW = (perilune.env "PERILUNE_BUILD" or ""):find "san"

test("accounts outlive the node, and secrets aren't in its files", function()
  local options = { database = "sqlite:accounts.db", journal = "sqlite:accounts_journal.db" }
  local key, uid
  local account = { uname = "Ada", upwd = "correct horse battery" }
  world.with({ dbproxy = options }, function(port)
    local guest, other = world.player(port), world.player(port)
    key, uid = other.key, other.profile.uid
    test.equal(guest:request("auth.register", account).status, STATUS.ok)
    guest:close()
    other:close()
  end)
  world.with({ dbproxy = options }, function(port)
    local player = world.connect(port)
    test.equal(player:login(key).uid, uid)
    player:close()
    player = world.connect(port)
    local profile = player:request("auth.account_login", account)
    test.equal({ profile.status, profile.uid ~= uid }, { STATUS.ok, true })
    player:close()
  end)
  local seen = 0
  for _, name in ipairs(assert(file.list())) do
    if name:find "^accounts" then
      local data = file.read(name) or "" -- SQLite removes some when it closes
      test.ok(not data:find(key, 1, true), name)
      test.ok(not data:find(account.upwd, 1, true), name)
      if data:find("argon2id", 1, true) then seen = seen + 1 end
    end
  end
  test.ok(seen > 0, "the files are those of the accounts")
end)

test("a thousand who log in at once are all let in, each once", function()
  local count, uids, failures = IS_SLOW and 100 or 1000, {}, {}
  world.with({}, function(port)
    local players, bodies = {}, {}
    for i = 1, count do
      bodies[i] = function()
        players[i] = world.connect(port)
        local profile, why = players[i]:login()
        if profile then uids[profile.uid] = true else failures[#failures + 1] = tostring(why) end
      end
    end
    for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
    test.equal(failures, {})
    local different = 0
    for _ in pairs(uids) do different = different + 1 end
    test.equal({ different, perilune.call("auth", "stats").accounts }, { count, count })
    test.equal(world.stats().users, count)
    for _, player in ipairs(players) do player:close() end
    world.wait_for("sessions", 0)
  end)
end, 180000)

test("nodes of one database know the same guests", function()
  world.with({}, function(port)
    local other = perilune.spawn("auth", nil, { name = "auth2" })
    local gateway = perilune.spawn("gateway", { listen = { { port = 0 } }, center = "",
      routes = { auth = "auth2" } }, { name = "gateway2" })
    local second = perilune.call("gateway2", "stats").listeners[1].port
    local key, uids, bodies = bot.new_key(), {}, {}
    for i = 1, 6 do
      bodies[i] = function()
        local player = world.connect(i % 2 == 0 and port or second)
        local profile = player:login(key)
        if profile then uids[profile.uid] = true end
        player:close()
      end
    end
    for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
    local uid = next(uids)
    test.equal(next(uids, uid), nil)
    test.equal(db:load("uinfo", uid).login_epoch, 6)
    test.equal(perilune.call("auth", "stats").accounts, 1)
    perilune.stop(gateway)
    perilune.stop(other)
  end)
end)

test("without the database players hear that it is busy, until it is back", function()
  world.with({ dbproxy = { database = "sqlite:back.db", journal = "sqlite:back_journal.db" } },
    function(port)
      local player, late = world.player(port), world.connect(port)
      perilune.stop "dbproxy"
      test.equal(select(2, late:login()), STATUS.busy)
      test.equal(late:request("auth.account_login", { uname = "ada", upwd = "secret1" }).status,
        STATUS.busy)
      for name, body in pairs {
        ["auth.register"] = { uname = "ada", upwd = "secret1" },
        ["auth.edit_profile"] = { unick = "Ada", usex = 1, uface = 1 },
      } do
        test.equal(player:request(name, body).status, STATUS.busy, name)
      end
      test.equal(perilune.call("auth", "stats").failed, 4)
      perilune.spawn("dbproxy",
        { database = "sqlite:back.db", journal = "sqlite:back_journal.db" }, { name = "dbproxy" })
      test.ok(late:login())
      test.equal(player:request("auth.edit_profile", { unick = "Ada", usex = 1, uface = 1 }).status,
        STATUS.ok)
      player:close()
      late:close()
      perilune.stop "dbproxy"
    end)
end)

test("texts of players that look like SQL are texts", function()
  world.with({}, function(port)
    local player = world.player(port)
    for _, nick in ipairs { "' OR '1'='1", "'; DROP TABLE uinfo; --", "\"; --", "\\' OR 1=1",
      "`uid`", "?", ":uid", "%' OR '%'='" } do
      local body = { unick = nick, usex = 0, uface = 1 }
      test.equal(player:request("auth.edit_profile", body).status, STATUS.ok)
      test.equal(db:load("uinfo", player.profile.uid).unick, nick)
      local other = world.connect(port)
      test.equal(other:request("auth.account_login", { uname = nick, upwd = nick }).status,
        STATUS.invalid_params)
      other:close()
    end
    test.equal(perilune.call("auth", "stats").accounts, 1)
    player:close()
  end)
end, 60000)

local ended = {}
function test.logout(...) ended[#ended + 1] = { ... } end
function test.deliver() end

test("a logout that comes late doesn't end the login that came after", function()
  world.with({}, function(port)
    local first = world.player(port)
    local uid = first.profile.uid
    local second = world.player(port, nil, first.key)
    test.equal(world.wait_closed(first), "relogin")
    -- As if it were this gateway whose packet of the first connection was still on its way.
    local data = packet.restamp(game:encode_request("auth.logout", protocol.JSON), uid)
    perilune.send("auth", "@packet", data, protocol.FIRST_KEY + 12345)
    test.ok(second:request("auth.logout").status == STATUS.ok, "its own ends it")
    test.equal(ended, {})
    local profile = test.ok(second:login(first.key), "on the same connection")
    test.equal({ profile.uid, db:load("uinfo", uid).login_epoch }, { uid, 3 })
    second:close()
  end)
end)

test("an account that is frozen while it logs in stays outside", function()
  world.with({}, function(port)
    local player = world.player(port)
    local uid = player.profile.uid
    player:close()
    -- The check before sees it as it was: only the database knows.
    local results = { db:transact {
      { "update", "uinfo", uid, { status = 0 } },
      { "run", "count_login", { uid = uid }, { changed = 1 } },
    } }
    test.equal(results[3], "condition")
    test.equal(db:load("uinfo", uid).login_epoch, 1)
  end)
end)

return test
