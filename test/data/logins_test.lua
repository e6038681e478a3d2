-- Logins over the databases that there are: promises 21 (guesses) and 22 (keys of guests).
local bot = require "perilune.bot"
local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local perilune = require "perilune"
local protocol = require "perilune.protocol"
local servers = require "servers"
local sqlite = require "perilune.sqlite"
local test = require "perilune.test"

local STATUS = protocol.status
local IS_SLOW = tostring(perilune.env "PERILUNE_BUILD"):find "san" ~= nil

-- So that it is auth's limits that are hit.
local GATEWAY = { listen = { { port = 0 } }, center = "", rate = 100000, burst = 1000000,
  max_strikes = 1000000 }

-- Runs body(port) with a gateway and auth over a database.
local function with(database, auth, body)
  local started = {}
  local function start(script, options)
    table.insert(started, 1, perilune.spawn(script, options, { name = script }))
  end
  start("dbproxy", database)
  start("auth", auth)
  start("gateway", GATEWAY)
  local port = perilune.call("gateway", "stats").listeners[1].port
  local ok, message = xpcall(body, debug.traceback, port)
  for _, handle in ipairs(started) do perilune.stop(handle) end
  if not ok then error(message, 0) end
end

local function connect(port) return (assert(bot.connect { port = port })) end

-- One who is logged in as a new guest.
local function new_player(port)
  local player = connect(port)
  local profile, why = player:login()
  test.ok(profile, tostring(why))
  return player
end

local function run_all(bodies)
  for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
end

local count = 0

-- All that the tables of a database have, as one text. Closes it.
local function dump(db, tables)
  local parts = {}
  for _, row in ipairs(tables) do
    for _, values in ipairs((db:query(("SELECT * FROM %s"):format(row.name)))) do
      for i = 1, table.maxn(values) do parts[#parts + 1] = tostring(values[i]) end
    end
  end
  db:close()
  return table.concat(parts, "\n")
end

local function dump_file(path)
  local db = sqlite.open(path)
  return dump(db, db:rows "SELECT name FROM sqlite_schema WHERE type = 'table'")
end

local function dump_server(url, name)
  local db = mysql.connect(url)
  return dump(db, db:rows(
    "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = ?", name))
end

-- Registers a test of body(options of dbproxy, dump) for each kind of database.
local function both(name, body)
  test("sqlite: " .. name, function()
    count = count + 1
    local path = ("logins%d.db"):format(count)
    body({ database = "sqlite:" .. path, journal = ("sqlite:logins%d_journal.db"):format(count) },
      function() return dump_file(path) end)
  end, 300000)
  local title = "mysql and redis: " .. name
  local why = servers.missing "mysql" or servers.missing "redis"
  if why then return test.skip(title, why) end
  test(title, function()
    local redis = servers.start "redis"
    local port = helper.server().port
    count = count + 1
    local database = "logins" .. count
    local direct = mysql.connect(helper.address(port))
    direct:execute(("CREATE DATABASE %s CHARACTER SET utf8mb4"):format(database))
    direct:close()
    local url = helper.address(port, nil, database)
    local ok, message = xpcall(body, debug.traceback, {
      database = url, journal = ("sqlite:logins%d_journal.db"):format(count),
      cache = ("redis://127.0.0.1:%d"):format(redis.port), cache_limit_ms = 5000,
    }, function() return dump_server(url, database) end)
    redis:close()
    if not ok then error(message, 0) end
  end, 300000)
end

both("a thousand who log in at once get an account each, and a key of many one", function(options)
  local keys, uids, shared, bodies = IS_SLOW and 100 or 1000, {}, {}, {}
  with(options, {}, function(port)
    local players, key = {}, bot.new_key()
    for i = 1, keys + 20 do
      bodies[i] = function()
        players[i] = connect(port)
        local profile, why = players[i]:login(i > keys and key or nil)
        -- Of those with one key the last stays, and the others may not have heard.
        if i <= keys then test.ok(profile, tostring(why)) end
        if profile then (i > keys and shared or uids)[profile.uid] = true end
      end
    end
    run_all(bodies)
    local different = 0
    for _ in pairs(uids) do different = different + 1 end
    test.equal(different, keys)
    test.equal(next(shared, (next(shared))), nil)
    test.equal(perilune.call("auth", "stats").accounts, keys + 1)
    for _, player in ipairs(players) do player:close() end
    test.eventually(function() return perilune.call("gateway", "stats").sessions == 0 end)
  end)
end)

both("a dump has no key and no password", function(options, dump_all)
  local secrets, hashes = {}, 0
  with(options, {}, function(port)
    for i = 1, helper.scale(5, 50) do
      local player = new_player(port)
      local upwd = "pass " .. bot.new_key()
      secrets[#secrets + 1] = player.key
      if i % 5 == 1 then
        secrets[#secrets + 1] = upwd
        test.equal(player:request("auth.register", { uname = "name" .. i, upwd = upwd }).status,
          STATUS.ok)
      end
      player:close()
    end
  end)
  local text = dump_all()
  for _ in text:gmatch "%$argon2id%$" do hashes = hashes + 1 end
  test.ok(hashes > 0, "it is a dump of the accounts")
  for _, secret in ipairs(secrets) do test.ok(not text:find(secret, 1, true)) end
end)

both("an address gets ten new guests a minute", function(options)
  with(options, { exempt = {} }, function(port)
    local attempts, new, began = helper.scale(100, 2000), 0, perilune.now()
    local known = new_player(port)
    new = new + 1
    local player = connect(port)
    for _ = 1, attempts do
      local profile, why = player:login(bot.new_key())
      if profile then
        new = new + 1
        player:close()
        player = connect(port)
      else
        test.equal(why, STATUS.too_fast)
      end
    end
    local minutes = (perilune.now() - began) / 60000
    test.ok(new >= 10 and new <= 10 + 10 * minutes + 1, new)
    test.equal(perilune.call("auth", "stats").accounts, new)
    test.ok(player:login(known.key), "one that there is may log in")
    player:close()
    known:close()
  end)
end)

-- ---- guesses ----

local function log_in(player, uname, upwd)
  return player:request("auth.account_login", { uname = uname, upwd = upwd }).status
end

local function add_accounts(port, number)
  for i = 1, number do
    local player = new_player(port)
    test.equal(player:request("auth.register",
      { uname = "known" .. i, upwd = "right password" }).status, STATUS.ok)
    player:close()
  end
end

-- Guesses at one name, which have to be refused as they should; adds how long each check took.
local function guess(port, uname, times, guesses)
  local player = connect(port)
  for i = 1, guesses do
    local began = perilune.now()
    local status = log_in(player, uname, "wrong" .. i)
    test.equal(status, i <= 5 and STATUS.invalid_params or STATUS.too_fast, uname)
    if i <= 5 then times[#times + 1] = perilune.now() - began end
  end
  test.equal(log_in(player, uname, "right password"), STATUS.too_fast)
  player:close()
end

both("ten thousand guesses are five at each name, with one answer for unknown and wrong",
  function(options)
    local names, guesses = helper.scale(4, 100), helper.is_soak and 50 or 10
    -- A machine that is busy may need longer than a minute.
    local auth = { account_lock_ms = helper.is_soak and 60000 or 3600000 }
    with(options, auth, function(port)
      add_accounts(port, names)
      local known, unknown = {}, {}
      for i = 1, names do
        guess(port, "known" .. i, known, guesses)
        guess(port, "nobody" .. i, unknown, guesses)
      end
      -- The least that it took, since the machine does other things, too.
      local ratio = math.min(unpack(known)) / math.min(unpack(unknown))
      -- A few of them say nothing where others have the processor.
      test.ok(#known < 20 or ratio > 0.5 and ratio < 2, "times of unknown and wrong: " .. ratio)
    end)
  end)

both("guesses from one address are ten, whatever the name", function(options)
  local guesses, refused = helper.is_soak and 10000 or 50, 0
  local auth = { exempt = {}, address_lock_ms = 600000 }
  with(options, auth, function(port)
    add_accounts(port, 1)
    local player = connect(port)
    for i = 1, guesses do
      local status = log_in(player, "nobody" .. i, "wrong")
      test.equal(status, i <= 10 and STATUS.invalid_params or STATUS.too_fast, i)
      if status == STATUS.too_fast then refused = refused + 1 end
    end
    test.equal(log_in(player, "known1", "right password"), STATUS.too_fast)
    test.equal(refused, guesses - 10)
    player:close()
  end)
end)

test("the server that the tests share is closed", function()
  if not servers.missing "mysql" then helper.server():close() end
end)

return test
