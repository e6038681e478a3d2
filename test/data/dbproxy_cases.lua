-- What dbproxy promises whatever is behind it: `require "dbproxy_cases"(name, places)` registers
-- the tests. places(): options of a dbproxy with an empty database, and a function that ends it.
local dbproxy = require "perilune.dbproxy"
local perilune = require "perilune"
local test = require "perilune.test"

local db = dbproxy.at "dbproxy"

local INJECTIONS = {
  "' OR '1'='1", "'; DROP TABLE hero; --", "\" OR \"\"=\"", "`; DELETE FROM hero", "\\' OR 1=1 -- ",
  "%00' UNION SELECT upwd FROM uinfo --", "a\0b'", "?", ":name", "1; UPDATE hero SET gold = 1",
  "hero` SET gold = 1 WHERE 1 = 1 -- ", "*/ OR 1 /*", "\xc2\xbf\x27 OR 1=1",
}

local count = 0

-- A journal of its own for each test.
local function new_journal()
  count = count + 1
  return ("sqlite:journal%d.db"):format(count)
end

local heard = {}
function test.on_stale(...) heard[#heard + 1] = { ... } end

local function stats() return perilune.call("dbproxy", "stats") end

return function(name, places)
  local function start(options)
    return perilune.spawn("dbproxy", options, { name = "dbproxy" })
  end

  -- Runs body(restart) with a dbproxy; restart(kill) ends it, in order or not, and starts another.
  local function with(given, body)
    local options, close = places()
    options.tables = { "tables", "dbproxy_tables" }
    options.journal = options.journal or new_journal()
    options.flush_ms = 20
    for key, value in pairs(given) do options[key] = value end
    local handle = start(options)
    local function restart(end_it, changed)
      end_it(handle)
      test.eventually(function() return not perilune.find "dbproxy" end)
      for key, value in pairs(changed or {}) do options[key] = value end
      handle = start(options)
    end
    local ok, message = xpcall(body, debug.traceback, restart)
    perilune.stop(handle)
    if close then close() end
    if not ok then error(message, 0) end
  end

  local function add(title, body, limit_ms)
    test.add(name .. ": " .. title, body, limit_ms or 60000)
  end

  local function hero(uid, gold)
    test.equal(db:insert("hero", { uid = uid, gold = gold or 0, epoch = 0 }), uid)
  end

  local function gold(uid) return db:load("hero", uid).gold end

  -- ---- types ----

  local THINGS = {
    { small = -128, flag = true },
    { small = 127, flag = false, name = "", big = 0, ratio = 0, raw = "" },
    { small = 0, flag = true, name = "한국어日本語中", big = 2 ^ 53, ratio = -1.5e300 },
    { small = 1, flag = true, name = "😀😀😀😀😀😀😀😀", big = "18446744073709551615", ratio = 0.1 },
    { small = 1, flag = true, name = "a\0b", raw = "\0\255\0'\\\"`;--\200\n" },
    { small = 1, flag = true, doc = {}, blob = {} },
    { small = 1, flag = true, doc = { "a", "b", { x = 1.5 } }, blob = { "a", nil, "c" } },
    { small = 1, flag = true, doc = { text = "ü\"\\'\0😀", deep = { { { true } } }, n = 2 ^ 53 },
      blob = { [1] = "\255\0", [-3] = false, [1.5] = { [true] = "y" }, text = ("x"):rep(800) } },
  }

  add("rows of every type are loaded as they were written", function()
    with({}, function(restart)
      for id, thing in ipairs(THINGS) do
        thing.id = id
        test.equal(db:insert("thing", thing), id)
      end
      for round = 1, 3 do -- from the database, from the cache, and after a start
        for id, thing in ipairs(THINGS) do
          local row = db:load("thing", id)
          test.ok(row.updated_at > 1600000000)
          row.updated_at = nil
          test.equal(row, thing, ("thing %d, round %d"):format(id, round))
        end
        if round == 2 and places.is_kept then restart(perilune.stop) end
      end
      test.equal({ db:load("thing", 99) }, {})
    end)
  end)

  add("saved values are those that are loaded, in the database or not yet", function()
    with({}, function()
      db:insert("thing", { id = 1, small = 1, flag = false, name = "old", ratio = 2, doc = { 1 } })
      for _, thing in ipairs(THINGS) do
        thing.id = nil
        local clear = {}
        for _, column in ipairs { "name", "big", "ratio", "raw", "doc", "blob" } do
          if thing[column] == nil then clear[#clear + 1] = column end
        end
        test.ok(db:save("thing", 1, thing, { clear = clear }))
        for _ = 1, 2 do
          local row = db:load("thing", 1)
          row.id, row.updated_at = nil, nil
          test.equal(row, thing)
          test.ok(db:flush("thing", 1))
        end
      end
    end)
  end)

  add("what doesn't fit its column is refused, and the column named", function()
    with({}, function()
      local function refuses(changes, pattern)
        local row = { id = 1, small = 1, flag = true }
        for column, value in pairs(changes) do row[column] = value end
        test.raises(function() db:insert("thing", row) end, pattern)
        row.id = nil
        test.raises(function() db:save("thing", 1, row) end, pattern)
      end
      refuses({ small = 128 }, "thing.small: an integer from %-128 to 127 expected, got 128")
      refuses({ small = 1.5 }, "thing.small")
      refuses({ small = "1" }, "thing.small")
      refuses({ big = -1 }, "thing.big")
      refuses({ big = "18446744073709551616" }, "thing.big")
      refuses({ big = "1e3" }, "thing.big")
      refuses({ big = 2 ^ 53 + 2 }, "thing.big")
      refuses({ ratio = 0 / 0 }, "thing.ratio: a finite number")
      refuses({ ratio = math.huge }, "thing.ratio")
      refuses({ flag = 1 }, "thing.flag: a boolean expected")
      refuses({ name = "\255" }, "thing.name: is not UTF%-8")
      refuses({ name = "123456789" }, "thing.name: 9 characters, and 8 is the most")
      refuses({ raw = ("x"):rep(17) }, "thing.raw: 17 bytes, and 16 is the most")
      refuses({ doc = "text" }, "thing.doc: a table expected")
      refuses({ doc = { [1] = 1, [3] = 1 } }, "thing.doc: a list has a gap")
      refuses({ doc = { 1, a = 1 } }, "thing.doc: JSON has lists without gaps")
      refuses({ doc = { a = { [7] = 1 } } }, "thing.doc.a: JSON has lists")
      refuses({ doc = { a = "\255" } }, "thing.doc.a: is not UTF%-8")
      refuses({ doc = { a = ("x"):rep(1000) } }, "thing.doc: 1008 bytes, and 1000 is the most")
      refuses({ blob = { ("x"):rep(1000) } }, "thing.blob: %d+ bytes, and 1000 is the most")
      refuses({ nothing = 1 }, "table thing has no column nothing")
      test.equal(select(3, db:insert("thing", { id = 1, small = 1 })), "constraint", "no flag")
    end)
  end)

  -- ---- nothing but declared names, and bound values ----

  add("names that aren't declared are refused, whatever they are", function()
    with({}, function()
      hero(1, 5)
      for _, text in ipairs(INJECTIONS) do
        test.raises(function() db:load(text, 1) end, "there is no table")
        test.raises(function() db:find("thing", text, "x") end, "isn't declared as unique")
        test.raises(function() db:query(text) end, "there is no statement")
        test.raises(function() db:run(text) end, "there is no statement")
        test.raises(function() db:query("rich", { [text] = 1, gold = 1 }) end, "has no parameter")
        test.raises(function() db:save("hero", 1, { [text] = 1 }) end, "has no column")
        test.raises(function() db:update("hero", 1, { gold = 1 }, { clear = { text } }) end,
          "has no column")
        test.raises(function() db:update("hero", 1, { gold = 1 }, { where = { [text] = 1 } }) end,
          "has no column")
        test.raises(function() db:insert("hero", { [text] = 1 }) end, "has no column")
        test.raises(function() db:load("hero", text) end, "hero.uid: an integer")
        test.raises(function() db:query("rich", { gold = text }) end, "rich.gold: an integer")
        test.raises(function() db:transact { { text } } end, "step 1: it has no kind")
      end
      for _, id in ipairs { "", ("x"):rep(65), "a b", "'", "a\0" } do
        test.raises(function() db:run("give", { uid = 1, gold = 1 }, id) end, "operation's id")
      end
      test.raises(function() db:query("give", { uid = 1, gold = 1 }) end, "no statement give that")
      test.raises(function() db:query "rich" end, "rich.gold is missing")
      test.raises(function() db:transact {} end, "1 to 100 steps")
      test.raises(function() db:save("hero", 1, { uid = 2 }) end, "isn't changed this way")
      test.raises(function() db:save("hero", 1, { epoch = 2 }) end, "isn't changed this way")
      test.raises(function() db:save("hero", 1, {}) end, "no changes")
      test.equal(gold(1), 5)
    end)
  end)

  add("texts that look like SQL are texts", function()
    with({}, function()
      hero(1, 5)
      for id, text in ipairs(INJECTIONS) do
        local short = text:sub(1, 8)
        test.equal(db:insert("thing", { id = id, small = 1, flag = true, name = short,
          raw = short, doc = { [text] = text } }), id)
        test.equal(db:find("thing", "name", short).id, id)
        local row = db:query("named", { name = short })[1]
        test.equal({ row.id, row.raw, row.doc }, { id, short, { [text] = text } })
        test.ok(db:update("thing", id, { doc = { text } }, { where = { name = short } }))
        test.equal(db:load("thing", id).doc, { text })
        test.equal(#db:query("named", { name = text }), text == short and 1 or 0)
      end
      test.equal(db:query "all_gold", { { gold = 5, heroes = 1 } })
      test.equal(#db:query("named", {}), 0) -- NULL is nobody's name
    end)
  end)

  -- ---- transactions ----

  add("a transaction is done as a whole or not at all", function()
    with({}, function()
      hero(1, 10)
      hero(2, 0)
      local function give(from, to, sum)
        return db:transact {
          { "run", "give", { uid = from, gold = -sum }, { changed = 1 } },
          { "run", "give", { uid = to, gold = sum }, { changed = 1 } },
        }
      end
      test.equal(give(1, 2, 4), { { changed = 1 }, { changed = 1 } })
      test.equal({ gold(1), gold(2) }, { 6, 4 })
      test.equal(select(3, give(1, 2, 7)), "condition")
      test.equal(select(3, give(1, 3, 1)), "condition")
      test.equal(select(3, db:transact {
        { "update", "hero", 1, { gold = 100 } },
        { "insert", "hero", { uid = 2, gold = 0, epoch = 0 } },
      }), "exists")
      test.equal(select(3, db:transact {
        { "delete", "hero", 1 }, { "update", "hero", 7, { gold = 0 } },
      }), "missing")
      test.equal({ gold(1), gold(2) }, { 6, 4 })
      test.equal(db:transact {
        { "insert", "hero", { uid = 3, gold = 1, epoch = 0 } },
        { "run", "rich", { gold = 1 } },
        { "delete", "hero", 3, { where = { gold = 1 } } },
      }, { { key = 3 }, { { uid = 1, gold = 6 }, { uid = 2, gold = 4 }, { uid = 3, gold = 1 } },
        { changed = 1 } })
      test.equal(db:load("hero", 3), nil)
      local numbers = stats()
      test.equal({ numbers.committed, numbers.not_applied, numbers.unknown }, { 4, 4, 0 })
    end)
  end)

  add("an update says why it changed nothing", function()
    with({}, function()
      hero(1, 10)
      local function update(uid, options)
        return select(3, db:update("hero", uid, { gold = 1 }, options))
      end
      test.equal(update(2), "missing")
      test.equal(update(1, { where = { gold = 11 } }), "condition")
      test.equal(update(1, { owner = 1 }), "stale")
      test.equal(gold(1), 10)
      test.equal(update(1, { where = { gold = 10 }, owner = 0 }), nil)
      test.equal(update(1, { where = { gold = 1 } }), nil, "also where nothing is new")
      test.equal(gold(1), 1)
      test.equal(select(3, db:insert("hero", { uid = 1, gold = 0, epoch = 0 })), "exists")
      test.equal(select(3, db:update("hero", 1, { gold = 10 ^ 10 })), "constraint")
    end)
  end)

  add("an operation is done once, however often it is asked for", function()
    with({}, function(restart)
      hero(1, 0)
      local id = dbproxy.operation()
      local function give(operation) return db:run("give", { uid = 1, gold = 1 }, operation) end
      local bodies = {}
      for i = 1, 20 do bodies[i] = function() test.equal(give(id), { changed = 1 }) end end
      for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
      test.equal(gold(1), 1)
      test.equal(stats().repeated, 19)
      if places.is_kept then
        restart(perilune.kill)
        test.equal(give(id), { changed = 1 })
        test.equal(gold(1), 1)
      end
      test.ok(give(dbproxy.operation()))
      test.ok(give())
      test.equal(gold(1), 3)
      local failing = dbproxy.operation()
      test.equal(select(3, db:transact({
        { "run", "give", { uid = 1, gold = -9 }, { changed = 1 } } }, failing)), "condition")
      test.ok(give(failing), "what wasn't applied may be tried again")
      test.equal(gold(1), 4)
    end)
  end)

  add("ids of operations are forgotten after one to two periods", function()
    with({ operation_ms = 150 }, function()
      hero(1, 0)
      local id = dbproxy.operation()
      db:run("give", { uid = 1, gold = 1 }, id)
      test.eventually(function()
        db:run("give", { uid = 1, gold = 1 }, id)
        return gold(1) > 1
      end)
    end)
  end)

  add("writers of a row at once lose no update", function()
    with({}, function()
      hero(1, 0)
      local bodies = {}
      for i = 1, 10 do
        bodies[i] = function()
          for _ = 1, 10 do test.equal(db:run("give", { uid = 1, gold = 1 }), { changed = 1 }) end
        end
      end
      for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
      test.equal(gold(1), 100)
    end)
  end)

  -- ---- owners ----

  add("who claims a row fences off all owners before", function()
    with({}, function()
      local first = db:claim("hero", 1, { gold = 5 })
      test.equal(first, { uid = 1, gold = 5, epoch = 1 })
      test.ok(db:save("hero", 1, { gold = 6 }, { owner = 1 }))
      local second = db:claim("hero", 1, { gold = 0 })
      test.equal(second, { uid = 1, gold = 6, epoch = 2 }, "with what was saved before")
      test.equal(select(3, db:update("hero", 1, { gold = 7 }, { owner = 1 })), "stale")
      test.ok(db:update("hero", 1, { gold = 8 }, { owner = 2 }))
      test.equal(select(3, db:claim("hero", 9)), "missing")
      test.equal(gold(1), 8)
    end)
  end)

  add("new rows are claimed at once, one by many with a number each", function()
    with({}, function()
      local bodies, epochs = {}, {}
      for uid = 1, 200 do
        bodies[uid] = function() test.equal(db:claim("hero", uid, { gold = 5 }).epoch, 1) end
      end
      for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
      test.equal(stats().conflicts, 0)
      for i = 1, 20 do
        bodies[i] = function() epochs[db:claim("hero", 999, { gold = 5 }).epoch] = true end
      end
      for _, result in ipairs(perilune.wait_all { unpack(bodies, 1, 20) }) do
        test.ok(result[1], result[2])
      end
      test.equal(#epochs, 20)
    end)
  end)

  add("a stale owner's saves are dropped, and it hears of it", function()
    with({}, function()
      db:claim("hero", 1, { gold = 5 })
      heard = {}
      perilune.subscribe("dbproxy.stale", "on_stale")
      -- Claimed behind the back of this dbproxy, as by another node.
      test.ok(db:save("hero", 1, { gold = 6 }, { owner = 0 }))
      test.equal(select(3, db:flush("hero", 1)), "stale")
      test.eventually(function() return heard[1] end)
      perilune.unsubscribe "dbproxy.stale"
      test.equal(heard, { { "dbproxy.stale", "hero", 1, 0 } })
      test.equal(select(3, db:save("hero", 1, { gold = 7 }, { owner = 0 })), "stale")
      test.ok(db:save("hero", 1, { gold = 8 }, { owner = 1 }))
      test.ok(db:flush("hero", 1))
      test.equal(gold(1), 8)
      test.equal(stats().stale, 1)
    end)
  end)

  -- ---- saves ----

  add("saves of a row are merged, and the last one stays", function()
    with({ flush_ms = 100 }, function()
      for uid = 1, 10 do hero(uid) end
      local bodies = {}
      for uid = 1, 10 do
        bodies[uid] = function()
          for value = 1, 100 do
            test.ok(db:save("hero", uid, { gold = value }))
            test.equal(gold(uid), value, "seen at once")
          end
        end
      end
      for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
      for uid = 1, 10 do test.ok(db:flush("hero", uid)) end
      local found = db:query("rich", { gold = 100 })
      test.equal(#found, 10)
      local numbers = stats()
      test.equal(numbers.journaled, 1000)
      test.equal(numbers.flushed + numbers.merged, 1000)
      test.equal({ numbers.journal_writes, numbers.journal_bytes }, { 0, 0 })
    end)
  end)

  add("a transaction comes behind what was saved of its rows", function()
    with({ flush_ms = 3600000 }, function()
      hero(1, 0)
      for round = 1, 20 do
        test.ok(db:save("hero", 1, { gold = round * 100 }))
        test.equal(db:run("give", { uid = 1, gold = 1 }), { changed = 1 })
        test.equal(gold(1), round * 100 + 1)
      end
    end)
  end)

  add("a write that the database refuses is kept aside and holds up nothing", function()
    with({ flush_ms = 3600000 }, function()
      for uid = 1, 5 do hero(uid) end
      for uid = 1, 5 do test.ok(db:save("hero", uid, { gold = uid == 3 and 10 ^ 10 or uid })) end
      test.ok(db:save("hero", 99, { gold = 1 }))
      test.equal(select(3, db:flush("hero", 3)), "rejected")
      test.equal(select(3, db:flush("hero", 99)), "missing")
      for _, uid in ipairs { 1, 2, 4, 5 } do
        test.ok(db:flush("hero", uid))
        test.equal(gold(uid), uid)
      end
      test.equal(gold(3), 0)
      test.equal(db:load("hero", 99), nil)
      test.ok(db:save("hero", 3, { gold = 3 }))
      test.ok(db:flush("hero", 3))
      test.equal(stats().rejected, 2)
    end)
  end)

  add("saves over the limit are refused as busy, and nothing else is", function()
    with({ flush_ms = 3600000, journal_writes = 10 }, function()
      hero(1, 0)
      hero(2, 0)
      for value = 1, 10 do test.ok(db:save("hero", 1, { gold = value })) end
      test.equal(select(3, db:save("hero", 1, { gold = 11 })), "busy")
      test.equal(select(3, db:save("hero", 2, { gold = 11 })), "busy")
      test.equal(gold(1), 10)
      test.ok(db:run("give", { uid = 2, gold = 1 }))
      test.ok(db:flush("hero", 1))
      test.ok(db:save("hero", 1, { gold = 12 }))
      test.equal(stats().busy, 2)
    end)
  end)

  add("what was saved survives a kill, and is written once, in order", function()
    if not places.is_kept then return end
    with({ flush_ms = 3600000 }, function(restart)
      for uid = 1, 20 do hero(uid) end
      for value = 1, 10 do
        for uid = 1, 20 do test.ok(db:save("hero", uid, { gold = 100 * uid + value })) end
      end
      restart(perilune.kill, { flush_ms = 20 })
      for uid = 1, 20 do test.equal(gold(uid), 100 * uid + 10, "laid over at once") end
      for uid = 1, 20 do test.ok(db:flush("hero", uid)) end
      test.equal(stats().replayed, 200)
      test.ok(db:update("hero", 1, { gold = 1 }))
      restart(perilune.kill)
      test.equal(gold(1), 1, "nothing is written a second time")
      test.equal(stats().replayed, 0)
    end)
  end)

  add("what is saved when it stops in order is in the database", function()
    if not places.is_kept then return end
    with({ flush_ms = 3600000 }, function(restart)
      hero(1, 0)
      test.ok(db:save("hero", 1, { gold = 7 }))
      restart(perilune.stop)
      test.equal(stats().replayed, 0)
      test.equal(gold(1), 7)
    end)
  end)

  -- ---- the cache ----

  add("a row is read once and then is in the cache until it is written", function()
    with({}, function()
      hero(1, 5)
      local before = stats()
      local bodies = {}
      for i = 1, 20 do bodies[i] = function() test.equal(gold(1), 5) end end
      for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
      for _ = 1, 20 do gold(1) end
      local after = stats()
      test.equal(after.loads - before.loads, 40)
      test.ok(after.cache_hits - before.cache_hits >= 20)
      for round = 1, 20 do
        local writers = {
          function() db:update("hero", 1, { gold = round }) end,
          function() db:load("hero", 1) end, function() db:load("hero", 1, { fresh = true }) end,
          function() db:save("hero", 1, { bag = { round } }) end, function() db:load("hero", 1) end,
        }
        for _, result in ipairs(perilune.wait_all(writers)) do test.ok(result[1], result[2]) end
        local row = db:load("hero", 1)
        test.equal({ row.gold, row.bag }, { round, { round } })
      end
    end)
  end)

  -- ---- requests that wait ----

  add("a dbproxy that isn't there is unavailable", function()
    for _, ask in ipairs {
      function() return db:load("hero", 1) end,
      function() return db:save("hero", 1, { gold = 1 }) end,
      function() return db:run("give", {}) end,
    } do
      test.equal(select(3, ask()), "unavailable")
    end
  end)

  add("of a write whose dbproxy dies meanwhile nobody says that it wasn't applied", function()
    with({}, function(restart)
      hero(1, 0)
      local steps, code = { { "run", "give", { uid = 1, gold = 1 } } }, nil
      for i = 2, 50 do steps[i] = { "run", "slow" } end
      perilune.fork(function() code = select(3, db:transact(steps)) end)
      test.eventually(function() return stats().writes == 2 end)
      restart(perilune.kill)
      test.eventually(function() return code end)
      test.equal(code, "unknown")
    end)
  end)

  add("transactions over the limit are refused as busy", function()
    with({ max_requests = 5 }, function()
      hero(1, 0)
      local codes, bodies = { ok = 0, busy = 0, unavailable = 0 }, {}
      for i = 1, 50 do
        bodies[i] = function()
          local result, _, code = db:transact { { "run", "slow" },
            { "run", "give", { uid = 1, gold = 1 }, { changed = 1 } } }
          code = result and "ok" or code
          codes[code] = codes[code] + 1
        end
      end
      for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
      test.ok(codes.ok > 0 and codes.busy > 0, codes.ok)
      test.equal(codes.ok + codes.busy + codes.unavailable, 50)
      test.equal(gold(1), codes.ok)
    end)
  end)
end
