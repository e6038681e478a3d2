-- What a service does with Redis, on a real server.

local commands = require "perilune.redis.commands"
local helper = require "redis_helper"
local native = require "perilune.native.redis"
local perilune = require "perilune"
local redis = require "perilune.redis"
local servers = require "servers"
local socket = require "perilune.socket"
local test = require "perilune.test"

local code, with_db = helper.code, helper.with_db

-- Values ----------------------------------------------------------------------------------------

helper.test("values come back as they were", function()
  with_db(nil, function(db)
    for _, value in ipairs { "", "a", "\0\r\n\255", ("x"):rep(300000), "안녕 😀" } do
      test.equal(db:set("k", value), "OK")
      test.equal(db:get "k", value)
    end
    local texts = { [5] = "5", [-1] = "-1", [0.1] = "0.1", [1 / 3] = "0.3333333333333333",
      [1e100] = "1e+100", [2 ^ 53] = "9007199254740992", [-2 ^ 53] = "-9007199254740992",
      [2 ^ 62] = "4611686018427387904", [math.huge] = "inf" }
    for value, text in pairs(texts) do
      db:set("k", value)
      test.equal(db:get "k", text)
    end
  end)
end)

helper.test("integers are exact, beyond 2^53 as strings", function()
  with_db(nil, function(db)
    db:set("n", "9007199254740990")
    test.equal(db:incr "n", 9007199254740991)
    test.equal(db:incr "n", 9007199254740992)
    test.equal(db:incr "n", "9007199254740993")
    db:set("n", "-9007199254740993")
    test.equal(db:decr "n", "-9007199254740994")
    db:set("n", "9223372036854775806")
    test.equal(db:incr "n", "9223372036854775807")
    test.equal(code(db:incr "n"), "ERR")
  end)
end)

helper.test("nothing is nil, and redis.null in lists", function()
  with_db(nil, function(db)
    test.equal(select("#", db:get "none"), 1)
    test.equal(db:get "none", nil)
    db:set("there", 1)
    test.equal(db:mget("none", "there"), { redis.null, "1" })
    test.equal(redis.null, require("cjson").null)
    test.equal(db:lrange("none", 0, -1), {})
  end)
end)

helper.test("errors have the code of the server", function()
  with_db(nil, function(db)
    db:set("text", "a")
    local value, message, kind = db:lpush("text", 1)
    test.equal({ value, kind }, { nil, "WRONGTYPE" })
    test.ok(message:find "^WRONGTYPE Operation")
    test.equal(code(db:command("NOSUCHCOMMAND", 1)), "ERR")
    test.equal(code(db:eval("return redis.error_reply('MINE is special')", 0)), "MINE")
  end)
end)

helper.test("lists among the arguments are spread", function()
  with_db(nil, function(db)
    test.equal(db:mset { "a", 1, "b", 2 }, "OK")
    test.equal(db:mget { "a", "b" }, { "1", "2" })
    test.equal(db:zadd("z", "NX", { 1, "one", 2, "two" }), 2)
    local many = {}
    for index = 1, 20000 do many[index] = "element " .. index end
    test.equal(db:rpush("list", many), 20000)
    test.equal(db:lrange("list", 0, -1), many)
  end)
end)

helper.test("what is no argument raises, with the line of the script", function()
  with_db(nil, function(db)
    for _, bad in ipairs { {}, { true }, { { {} } }, { 0 / 0 }, { print } } do
      local raised = test.raises(function() db:set("k", bad[1]) end, "redis_test.lua:%d+: redis: part 3")
      test.ok(tostring(raised):find "string or a number", tostring(raised))
    end
    test.raises(function() db:get(nil) end, "not nil")
    test.raises(function() db:command(5) end, "name of a command")
    -- Each reply still finds its request.
    test.equal(db:set("k", "v"), "OK")
    test.equal(db:get "k", "v")
  end)
end)

helper.test("a command that is too large is refused here", function()
  with_db(nil, function(db)
    local value, _, kind = db:set("k", ("x"):rep(64 * 2 ^ 20 + 1))
    test.equal({ value, kind }, { nil, "too_large" })
    test.equal(db:get "k", nil)
  end)
end)

helper.test("nested replies are nested lists", function()
  with_db(nil, function(db)
    test.equal(db:eval("return {1, {'a', {redis.error_reply('NO way'), false}}}", 0),
      { 1, { "a", { { code = "NO", message = "NO way" }, redis.null } } })
    local inner = db:eval("return {redis.error_reply('NO way')}", 0)
    test.ok(redis.is_error(inner[1]))
    test.equal(tostring(inner[1]), "NO way")
    -- The deepest and largest reply that there is.
    test.ok(#db:command "COMMAND" > 200)
    test.ok(#redis.fields(db:config("GET", "*")).port > 0)
  end)
end)

-- One connection for all ------------------------------------------------------------------------

helper.test("what tasks ask for at the same time leaves in one write, and each gets its own reply",
  function()
    with_db(nil, function(db)
      db:ping()
      local before, count = socket.stats().sends, 500
      local results = helper.at_once(count, function(index) return db:echo("text " .. index) end)
      for index = 1, count do test.equal(results[index], { "text " .. index }) end
      local sends = socket.stats().sends - before
      test.ok(sends <= 5, ("%d requests left in %d writes"):format(count, sends))
      test.equal(db:stats().requests >= count, true)
      test.equal(db:stats().pending, 0)
    end)
  end)

helper.test("a light service and an isolated one use it alike", function()
  local server = helper.server()
  for _, group in ipairs { false, "light" } do
    local handles = {}
    for index = 1, 3 do
      handles[index] = perilune.spawn("redis_user", { port = server.port },
        { group = group or nil })
    end
    for round = 1, 3 do
      for _, handle in ipairs(handles) do
        test.equal(perilune.call(handle, "visit", "by " .. handle), round)
      end
    end
    -- What its service leaves open ends with it.
    for _, handle in ipairs(handles) do perilune.kill(handle) end
  end
end)

helper.test("commands that would change the connection of all are refused", function()
  with_db(nil, function(db)
    for _, name in ipairs { "multi", "watch", "subscribe_", "auth", "hello", "select", "quit",
      "monitor", "reset" } do
      name = name == "subscribe_" and "ssubscribe" or name
      test.raises(function() db[name](db, "x") end, "redis_test.lua:%d+: redis: not " .. name:upper())
    end
    test.raises(function() db:client("REPLY", "OFF") end, "CLIENT REPLY")
    test.equal(db:client "GETNAME", "perilune")
    test.equal(db:ping(), "PONG")
  end)
end)

helper.test("a request that waits has a connection of its own", function()
  with_db(nil, function(db)
    local popped
    perilune.fork(function() popped = db:blpop("list", 0) end)
    test.eventually(function() return db:info("clients"):find "blocked_clients:1" end)
    test.equal(db:ping(), "PONG") -- nobody else waits
    db:rpush("list", "a")
    test.eventually(function() return popped end)
    test.equal(popped, { "list", "a" })
    -- Its own limit comes on top of that of requests, and it may be silent for longer than others.
    local quick = db:with { timeout_ms = 2000 }
    test.equal(quick:blpop("list", 0.2), nil)
    -- The connection is used again.
    test.equal(#db:client("LIST", "TYPE", "normal"):gsub("[^\n]", ""), 2)
  end)
end)

helper.test("connections for requests that wait are limited", function()
  with_db({ max_connections = 2, timeout_ms = 60000 }, function(db)
    local ended = 0
    for _ = 1, 2 do
      perilune.fork(function()
        db:blpop("list", 0)
        ended = ended + 1
      end)
    end
    test.eventually(function() return db:info("clients"):find "blocked_clients:2" end)
    test.equal(code(db:with({ timeout_ms = 200 }):blpop("list", 0)), "busy")
    test.equal(db:stats().busy, 1)
    -- One that waits gets the next that is free.
    local popped
    perilune.fork(function() popped = db:blpop("list", 0) end)
    perilune.yield()
    db:rpush("list", 1, 2, 3)
    test.eventually(function() return ended == 2 and popped end)
    test.equal(popped, { "list", "3" })
    test.equal(db:blpop("list", 0.01), nil)
  end)
end)

-- What is known of commands ---------------------------------------------------------------------

local function set_of(list)
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return set
end

-- Arguments of which those at the places of keys have the tag "key", but for the one at `odd`.
local function arguments_for(first, last, step, odd)
  local list = {}
  for index = 1, 8 do list[index] = "{other}" .. index end
  for index = first, last < 0 and 9 + last or last, step do
    list[index] = (index == odd and "{odd}" or "{key}") .. index
  end
  return list
end

helper.test("where keys are, what waits and what only reads is what the server says, too", function()
  with_db(nil, function(db)
    local slot, seen = native.slot "{key}", 0
    for _, entry in ipairs(db:command "COMMAND") do
      local name, flags, first, last, step = entry[1]:upper(), set_of(entry[3]), unpack(entry, 4, 6)
      local is_container = #entry[10] > 0 or name == "SORT" or name == "MIGRATE"
      if commands.is_read_only(name) then test.ok(flags.readonly or first == 0, name) end
      if name ~= "WAIT" then test.equal(commands.may_wait(name), flags.blocking == true, name) end
      if flags.movablekeys or is_container or commands.refused(name) then
        seen = seen + 1 -- below
      elseif first == 0 then
        test.equal(commands.slot(name, arguments_for(1, 8, 1)), nil, name)
      else
        test.equal(commands.slot(name, arguments_for(first, last, step)), slot, name)
        -- Each of them counts.
        if last ~= first then
          local _, _, kind = commands.slot(name, arguments_for(first, last, step, first + step))
          test.equal(kind, "CROSSSLOT", name)
        end
      end
    end
    test.ok(seen > 0)
    -- Those whose keys are found by other arguments.
    for _, line in ipairs {
      "EVAL script 2 a b c", "EVALSHA sha 1 a b", "EVAL_RO script 0 a", "FCALL f 2 a b c",
      "ZUNION 2 a b WEIGHTS 1 2", "ZUNIONSTORE d 2 a b", "ZINTERSTORE {a}d 2 {a}1 {a}2", "ZDIFF 1 a",
      "ZINTERCARD 2 a b", "SINTERCARD 1 a LIMIT 5", "LMPOP 2 a b LEFT", "ZMPOP 1 a MIN",
      "BLMPOP 1 2 a b LEFT", "BZMPOP 1 1 a MIN", "XREAD COUNT 1 STREAMS a b 0 0",
      "XREAD STREAMS {a}1 {a}2 0 0", "XREADGROUP GROUP g c COUNT 1 STREAMS a >", "OBJECT ENCODING a",
      "MEMORY USAGE a", "XGROUP CREATE a g 0", "XINFO STREAM a", "SORT a BY x", "BITOP AND a b c",
      "GEORADIUS a 1 2 3 km", "PFCOUNT a b",
    } do
      local words = {}
      for word in line:gmatch "%S+" do words[#words + 1] = word end
      local keys = db:command("COMMAND", "GETKEYS", words) or {} -- an error where there are none
      local wanted, _, kind = commands.slot("DEL", keys)
      local name = table.remove(words, 1)
      local got, _, got_kind = commands.slot(name, words)
      test.equal({ got, got_kind }, { wanted, kind }, line)
    end
    test.equal(commands.slot("SPUBLISH", { "{key}", "x" }), slot) -- a channel of a slot
    test.equal(commands.waits("XREADGROUP", { "GROUP", "g", "c", "BLOCK", "50", "STREAMS", "s", ">" }), 50)
    test.equal(commands.waits("XREAD", { "STREAMS", "BLOCK", "0" }), nil)
    test.equal(commands.waits("BLPOP", { "a", "b", "0.5" }), 500)
    test.equal(commands.waits("BLMPOP", { 0, 1, "a", "LEFT" }), math.huge)
    test.equal(commands.waits("BRPOP", { "a", "soon" }), nil)
  end)
end)

-- Pipelines -------------------------------------------------------------------------------------

helper.test("a pipeline gives a result for each command", function()
  with_db(nil, function(db)
    local which
    local results = db:pipeline(function(p)
      p:set("a", 1)
      which = p:incr "a"
      p:lpush("a", 1)
      p:get "none"
      p:command("mget", { "a", "none" })
    end)
    test.equal(which, 2)
    test.equal({ results[1], results[2], results[4], results[5] },
      { "OK", 2, redis.null, { "2", redis.null } })
    test.ok(redis.is_error(results[3]))
    test.equal(results[3].code, "WRONGTYPE")
    test.equal(db:pipeline { { "GET", "a" }, { "DEL", "a" } }, { "2", 1 })
    test.equal(db:pipeline {}, {})
  end)
end)

helper.test("a pipeline may be far longer than what may wait at a time", function()
  with_db({ max_pending = 1000 }, function(db)
    local count = 25000
    local results = db:pipeline(function(p)
      for index = 1, count do p:incrby("n", index % 7) end
    end)
    local sum = 0
    for index = 1, count do
      sum = sum + index % 7
      test.equal(results[index], sum)
    end
    test.equal(db:stats().busy, 0)
  end)
end)

helper.test("of a pipeline with a mistake in it nothing is sent", function()
  with_db(nil, function(db)
    test.raises(function()
      db:pipeline(function(p)
        p:set("a", 1)
        p:set("a", nil)
      end)
    end, "redis_test.lua:%d+")
    for _, bad in ipairs { { "MULTI" }, { "BLPOP", "x", 0 }, { "XREAD", "BLOCK", 5, "STREAMS", "s", 0 } } do
      test.raises(function() db:pipeline { { "SET", "a", 1 }, bad } end, "redis_test.lua:%d+")
    end
    test.equal(db:get "a", nil)
  end)
end)

-- Transactions ----------------------------------------------------------------------------------

helper.test("a transaction is done as a whole", function()
  with_db(nil, function(db)
    local results = db:transaction(function(tx)
      test.equal(tx:set("a", 1), 1)
      test.equal(tx:incrby("a", 5), 2)
      tx:lpush("a", 1)
      tx:get "a"
    end)
    test.equal({ results[1], results[2], results[4] }, { "OK", 6, "6" })
    test.equal(results[3].code, "WRONGTYPE")
    test.equal(db:transaction(function() end), {})
    -- A command that can't be: none of them is done.
    local nothing, _, kind = db:transaction(function(tx)
      tx:set("a", "changed")
      tx:command "NOSUCHCOMMAND"
    end)
    test.equal({ nothing, kind }, { nil, "ERR" })
    test.equal(db:get "a", "6")
  end)
end)

helper.test("a transaction whose watched key was changed is run again", function()
  with_db(nil, function(db)
    db:set("gold", 10)
    local runs = 0
    local function spend(tx)
      runs = runs + 1
      tx:watch "gold"
      local gold = tonumber(tx:get "gold")
      if runs <= 2 then db:incr "gold" end -- another one
      tx:multi()
      tx:set("gold", gold - 5)
    end
    test.equal(db:transaction(spend), { "OK" })
    test.equal(runs, 3)
    test.equal(db:get "gold", "7")
    runs = 0
    test.equal(code(db:transaction(spend, { retries = 1 })), "conflict")
    test.equal(runs, 2)
  end)
end)

helper.test("transfers among accounts by many tasks keep their sum", function()
  with_db(nil, function(db)
    local accounts, count = 10, helper.scale(200)
    for account = 1, accounts do db:set("account:" .. account, 100) end
    helper.at_once(count, function(index)
      local from, to = "account:" .. index % accounts + 1, "account:" .. (index * 3) % accounts + 1
      if from == to then return end
      assert(db:transaction(function(tx)
        tx:watch(from, to)
        local here, there = tonumber(tx:get(from)), tonumber(tx:get(to))
        tx:multi()
        tx:set(from, here - 1)
        tx:set(to, there + 1)
      end, { retries = 1000 }))
    end)
    local sum = 0
    for account = 1, accounts do sum = sum + db:get("account:" .. account) end
    test.equal(sum, accounts * 100)
  end)
end)

helper.test("a transaction that raises, or is discarded, does nothing and keeps no connection", function()
  with_db({ max_connections = 1 }, function(db)
    for _ = 1, 2 do
      test.raises(function()
        db:transaction(function(tx)
          tx:watch "a"
          tx:multi()
          tx:set("a", 1)
          error "no"
        end)
      end, "no")
      test.equal(code(db:transaction(function(tx)
        tx:watch "a"
        tx:multi()
        tx:set("a", 1)
        return false
      end)), "discarded")
      test.raises(function()
        db:transaction(function(tx)
          tx:watch "a"
          while true do end
        end)
      end, "interrupt_ms")
      test.raises(function() db:transaction(function(tx) tx:set("a", {}, nil) end) end, "not nil")
    end
    test.equal(db:get "a", nil)
    test.equal(db:transaction(function(tx) tx:set("a", 1) end), { "OK" })
  end)
end)

-- Scripts ---------------------------------------------------------------------------------------

helper.test("a script is loaded when the server doesn't know it", function()
  with_db(nil, function(db)
    local add = db:script "return redis.call('INCRBY', KEYS[1], ARGV[1])"
    test.equal(add({ "n" }, 5), 5)
    test.equal(add:run({ "n" }, 5), 10)
    db:command("SCRIPT", "FLUSH")
    test.equal(add({ "n" }, 5), 15)
    test.equal(db:script("return 'nothing'")({}), "nothing")
    local broken = db:script "return redis.call('LPUSH', KEYS[1], 1)"
    test.equal(code(broken { "n" }), "WRONGTYPE")
    test.raises(function() add("n", 5) end, "redis_test.lua:%d+.*list of its keys")
  end)
end)

-- Logging in -------------------------------------------------------------------------------------

helper.test("a user logs in, a database is chosen, and errors never repeat the password", function()
  local server = servers.start("redis", {
    "requirepass default-secret", "user player on >p@ss:w/rd#?% ~player:* +@all",
  })
  local at = "127.0.0.1:" .. server.port
  local function connect(url, options)
    local db, message, kind = redis.connect(url, options)
    if db then return db end
    test.ok(not message:find "secret" and not message:find("p@ss", 1, true), message)
    return nil, kind
  end
  local db = connect("redis://player:p%40ss%3Aw%2Frd%23%3F%25@" .. at .. "/3")
  test.equal(db:set("player:1", "a"), "OK")
  test.equal(code(db:set("other", 1)), "NOPERM")
  test.ok(not tostring(db):find "p@ss")
  db:close()
  db = connect("redis://" .. at .. "/0", { user = "player", password = "p@ss:w/rd#?%" })
  test.equal(db:get "player:1", nil) -- another database
  db:close()
  db = connect("redis://:default-secret@" .. at)
  test.equal(db:ping(), "PONG")
  db:close()
  test.equal({ connect("redis://" .. at) }, { nil, "NOAUTH" })
  test.equal({ connect("redis://:wrong-secret@" .. at) }, { nil, "WRONGPASS" })
  test.equal({ connect("redis://player:wrong-secret@" .. at) }, { nil, "WRONGPASS" })
  test.equal({ connect("redis://:default-secret@" .. at .. "/99") }, { nil, "ERR" })
  server:close()
end)

helper.test("TLS, with a certificate that is verified", function()
  local server = servers.start("redis", {
    "port 0", "tls-port PORT", "tls-cert-file ROOT/test/lua/tls/certificate.pem",
    "tls-key-file ROOT/test/lua/tls/key.pem", "tls-auth-clients no",
  })
  local url = "rediss://localhost:" .. server.port
  local db = assert(redis.connect(url, { tls = { ca = "../lua/tls/certificate.pem" } }))
  local large = ("x"):rep(200000)
  test.equal(db:set("k", large), "OK")
  test.equal(db:get "k", large)
  db:close()
  db = assert(redis.connect(url .. "?verify=false"))
  test.equal(db:ping(), "PONG")
  db:close()
  test.equal(code(redis.connect(url)), "unavailable") -- nobody whom the system trusts
  test.equal(code(redis.connect("redis://localhost:" .. server.port, { connect_ms = 1000 })),
    "unavailable")
  server:close()
end)

-- URLs -------------------------------------------------------------------------------------------

test("a URL that can't be is told so, without repeating it", function()
  for _, url in ipairs {
    "", "redis:", "http://secret@h", "redis://", "redis://:secret@", "redis://:secret@h:99999",
    "redis://:secret@h:0", "redis://:secret@h/x", "redis://:secret@h/0/1", "redis://:secr%et@h",
    "redis://:secret@h/0?unknown=1", "redis://:secret@h/0?timeout_ms=x", "redis://:secret@h?lazy=maybe",
    "redis://:secret@h/0?timeout_ms=0", "redis://:secret@a,b", "redis+other://:secret@a",
    "redis+sentinel://:secret@a", "redis+cluster://:secret@a/1", "redis://:secret @h",
    "redis://:secret@h?name=a%20b", "redis://secret@h", "redis://:secret@h?verify=false",
    "redis://:secret@h?tls=1",
  } do
    local db, message, kind = redis.connect(url)
    test.equal({ db, kind }, { nil, "invalid" }, url)
    test.ok(not message:find "secret", message)
  end
  test.raises(function() redis.connect("redis://h", { timeout_m = 1 }) end,
    'redis_test.lua:%d+: .*there is no option "timeout_m"')
  test.raises(function() redis.connect("redis://h", { timeout_ms = "secret" }) end, "timeout_ms")
  test.raises(function() redis.connect(5) end, "a URL expected")
end)

helper.test("options come in the URL or as a table", function()
  local server = helper.server()
  local at = "redis://127.0.0.1:" .. server.port
  local db = assert(redis.connect(at .. "?name=one&timeout_ms=1000", { name = "two" }))
  test.equal(db:client "GETNAME", "two")
  test.equal(code(db:debug("SLEEP", 1.5)), "timeout")
  test.equal(db:with({ timeout_ms = 5000 }):ping(), "PONG")
  test.raises(function() db:with { timeout = 5 } end, "redis_test.lua:%d+")
  db:close()
  db = assert(redis.connect(at, { name = "" }))
  test.equal(db:client "GETNAME", nil)
  db:close()
end)

-- Ends -------------------------------------------------------------------------------------------

helper.test("close() ends what is under way and what comes after", function()
  local server = helper.server()
  local db = assert(redis.connect("redis://127.0.0.1:" .. server.port))
  local codes = {}
  local subscription = assert(db:subscribe "channel")
  perilune.fork(function() codes[1] = code(db:blpop("list", 0)) end)
  test.eventually(function() return db:info("clients"):find "blocked_clients:1" end)
  perilune.fork(function() codes[2] = code(db:debug("SLEEP", 0.3)) end)
  test.eventually(function() return db:stats().pending == 1 end)
  db:close()
  test.eventually(function() return codes[1] and codes[2] end)
  test.equal(codes, { "unknown", "unknown" })
  test.equal({ subscription:next() }, { nil, "closed", "closed" })
  test.equal(code(db:get "a"), "closed")
  test.equal(code(db:pipeline { { "GET", "a" } }), "closed")
  test.equal(code(db:transaction(function(tx) tx:get "a" end)), "closed")
  test.equal(code(db:subscribe "channel"), "closed")
  test.equal(code(db:blpop("list", 1)), "closed")
  db:close()
end)

return test
