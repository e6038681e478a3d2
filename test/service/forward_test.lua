-- What gateways forward without a script, beside what their scripts do: order, who a packet is
-- from, routes, limits, reload.
local perilune = require "perilune"
local bot = require "perilune.bot"
local core = require "perilune.core"
local file = require "perilune.file"
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local game = require "protocol"
local world = require "world"

local JSON, BUF = protocol.JSON, protocol.BUF
local FAST = { rate = 100000, burst = 1000000 }

-- auth as it is, and the service "counting" in the place of the talkroom: body(port).
local function with_counting(options, body, spawn_options, script)
  spawn_options = spawn_options or {}
  spawn_options.name = "counting"
  perilune.spawn(script or "counting", nil, spawn_options)
  local settings = { routes = { talkroom = "counting" } }
  for name, value in pairs(options) do settings[name] = value end
  local ok, message = pcall(world.with, { gateway = settings }, body)
  if perilune.find "counting" then perilune.stop "counting" end
  if not ok then error(message, 0) end
end

local function numbers() return perilune.call("counting", "numbers") end

-- Sends the line of a number and doesn't wait.
local function say(player, number)
  player:send("talkroom.send_message", tostring(number), player.form == JSON and number or nil)
end

-- The next so many replies to lines, which are those of consecutive numbers.
local function expect_lines(player, first, last)
  for number = first, last do
    local name, body = player:next(10000)
    test.equal({ name, body.id or body }, { "talkroom.send_message", number })
  end
end

-- ---- order ----

for form, name in pairs { [JSON] = "JSON", [BUF] = "BUF" } do
  test("what a player sends at once is answered in order, in " .. name, function()
    with_counting(FAST, function(port)
      local players = {}
      for i = 1, 5 do players[i] = world.player(port, form) end
      for number = 1, 500 do
        for _, player in ipairs(players) do say(player, number) end
      end
      for _, player in ipairs(players) do
        expect_lines(player, 1, 500)
        player:close()
      end
      test.equal(numbers().disordered, 0)
      test.ok(world.stats().forwarded >= 2500)
    end)
  end)
end

test("what the gateway's scripts write and what they don't see arrive in order", function()
  local deliver = core.native "core_deliver"
  local key
  local function on_packet(data, of)
    if packet.header(data) ~= 2 then return end
    key = of
    perilune.send("gateway", "login", of, 7, 1)
  end
  world.with_gateway({}, on_packet, function(port)
    for _, numbered in ipairs { false, true } do
      local player = world.connect(port)
      if numbered then player:request("protocol.hello", { version = 1 }) end
      player:send("auth.guest_login", bot.new_key())
      world.wait_for("users", 1)
      for i = 1, 300, 3 do
        local function left(uid)
          return game:encode_reply("talkroom.user_left", JSON, { uid = uid, uname = "", usex = 0 },
            nil, 7)
        end
        deliver("gateway", left(i))
        perilune.send("gateway", "refuse", key, "test", tostring(i + 1), nil, 1, 1)
        perilune.send("gateway", "deliver", left(i + 2), key)
      end
      for i = 1, 300 do
        local name, body = player:next(10000)
        test.equal({ name, body.uid or tonumber(body.message) },
          { i % 3 == 2 and "protocol.error" or "talkroom.user_left", i })
      end
      player:close()
      if not numbered then world.wait_for("users", 0) end -- the other one is kept
    end
  end)
end)

test("a gateway and its services may be light, and share a group", function()
  local started = {}
  for _, service in ipairs {
    { "dbproxy", { database = "sqlite::memory:" } }, { "auth" }, { "counting" },
    { "gateway", { listen = { { port = 0 } }, routes = { talkroom = "counting" } } },
  } do
    local script, options = service[1], service[2]
    table.insert(started, 1, perilune.spawn(script, options, { name = script, group = "all" }))
  end
  local player = world.player(world.stats().listeners[1].port)
  for number = 1, 20 do say(player, number) end
  expect_lines(player, 1, 20)
  player:close()
  test.eventually(function() return numbers().gone == 1 end)
  for _, handle in ipairs(started) do perilune.stop(handle) end
end)

-- ---- who it is from ----

test("a client's utag is replaced, whatever it is", function()
  local seen = {}
  local key, uids = nil, 40
  local function on_packet(data, of)
    local stype, ctype, utag = packet.header(data)
    if ctype == protocol.DISCONNECTED then return end
    if stype == 2 then
      uids, key = uids + 1, of
      perilune.send("gateway", "login", of, uids, 1)
    else
      seen[#seen + 1] = { utag, of == key }
    end
  end
  world.with_gateway({}, on_packet, function(port)
    local other, player = world.connect(port), world.connect(port)
    for _, each in ipairs { other, player } do
      each:send("auth.guest_login", bot.new_key())
      test.eventually(function() return world.stats().users == (each == other and 1 or 2) end)
    end
    local forged = { 0, 1, 41, 42, 2 ^ 31, 2 ^ 31 + 1, 2 ^ 32 - 1 }
    for _, utag in ipairs(forged) do
      for _, form in ipairs { JSON, BUF } do
        player.connection:write(packet.make(1, 2, utag, form, form == JSON
          and packet.wrap_json("null") or ""))
      end
    end
    test.eventually(function() return #seen == 2 * #forged end)
    for _, each in ipairs(seen) do test.equal(each, { 42, true }) end
    other:close()
    player:close()
  end)
end)

test("a reply with the key of another session, or of a dead one, reaches nobody", function()
  local keys = {}
  local function on_packet(data, key)
    if packet.header(data) == 2 then
      keys[#keys + 1] = key
      perilune.send("gateway", "login", key, #keys, 1)
    end
  end
  world.with_gateway({}, on_packet, function(port)
    local deliver = core.native "core_deliver"
    local players = {}
    for i = 1, 3 do
      players[i] = world.connect(port)
      players[i]:send("auth.guest_login", bot.new_key())
      world.wait_for("users", i)
    end
    players[3]:close()
    world.wait_for("sessions", 2)
    local function reply(uid, text)
      return game:encode_reply("talkroom.user_left", JSON, { uid = uid, uname = text, usex = 0 },
        nil, uid)
    end
    local stale = 0
    local function wrong(uid, key)
      test.ok(deliver("gateway", reply(uid, "wrong"), key))
      stale = stale + 1
    end
    wrong(1, keys[2])
    wrong(2, keys[3])
    wrong(3, keys[3])
    wrong(3, nil)
    wrong(keys[3], keys[3])
    wrong(99, nil)
    world.wait_for("undeliverable", stale)
    for i = 1, 2 do
      deliver("gateway", reply(i, "right"), keys[i])
      local _, body = players[i]:next()
      test.equal({ body.uid, body.uname }, { i, "right" })
      players[i]:close()
    end
  end)
end)

-- ---- routes ----

test("a service that dies and comes back under load is found again", function()
  with_counting(FAST, function(port)
    local DEATHS, PLAYERS = 8, 4
    local stopping, replies, refused, lost = false, 0, 0, 0
    local function play()
      local player, number = world.player(port), 0
      while not stopping do
        number = number + 1
        local reply, _, code = player:request("talkroom.send_message", tostring(number), 1000)
        if reply then
          replies = replies + 1
        elseif code == "service_unavailable" then
          refused = refused + 1
        else
          -- What was in its mailbox died with it.
          test.equal(code, "timeout")
          lost = lost + 1
        end
      end
      player:close()
    end
    local tasks = {}
    for i = 1, PLAYERS do tasks[i] = play end
    local function kill_and_spawn()
      for _ = 1, DEATHS do
        local until_reply = replies + 10
        test.eventually(function() return replies >= until_reply end, 20000)
        perilune.kill "counting"
        local until_refused = refused + 1
        test.eventually(function() return refused >= until_refused end, 20000)
        perilune.spawn("counting", nil, { name = "counting" })
      end
      local until_reply = replies + 10
      test.eventually(function() return replies >= until_reply end, 20000)
    end
    tasks[PLAYERS + 1] = function()
      local ok, message = pcall(kill_and_spawn)
      stopping = true
      if not ok then error(message, 0) end
    end
    for _, result in ipairs(perilune.wait_all(tasks)) do
      test.ok(result[1], tostring(result[2]))
    end
    test.ok(lost <= DEATHS * PLAYERS, lost)
    test.equal(world.stats().unavailable, refused)
  end)
end, 90000)

test("a full mailbox answers busy, and what was taken is answered when there is time", function()
  for _, group in ipairs { false, "counting" } do
    with_counting(FAST, function(port)
      local ROOM, LINES = 16, 50
      local player = world.player(port)
      local latch = perilune.spawn("deaf", nil, { name = "latch" })
      perilune.send("counting", "hold", "latch")
      test.eventually(function() return perilune.find "latch holds" end, 10000)
      for number = 1, LINES do say(player, number) end
      for number = ROOM + 1, LINES do
        local name, body = player:next(10000)
        test.equal({ name, body.code, body.stype, body.ctype },
          { "protocol.error", "busy", 1, 5 }, number)
      end
      perilune.kill(latch)
      expect_lines(player, 1, ROOM)
      test.equal(world.stats().unavailable, LINES - ROOM)
      test.equal(player:request("talkroom.send_message", "100").id, 100)
      player:close()
    end, { mailbox = 16, group = group or nil })
  end
end, 60000)

test("a player who comes through another gateway has left the first", function()
  with_counting(FAST, function(port)
    local second = perilune.spawn("gateway",
      { listen = { { port = 0 } }, routes = { talkroom = "counting" } }, { name = "second" })
    local other = perilune.call("second", "stats").listeners[1].port
    local before = world.player(port)
    test.equal(before:request("talkroom.send_message", "5").id, 5)
    local after = world.player(other, BUF, before.key)
    test.equal(after.profile.uid, before.profile.uid)
    test.equal(after:request("talkroom.send_message", "1").id, 1, "the numbers begin anew")
    local found = numbers()
    test.equal({ found.gone, found.disordered }, { 1, 0 })
    -- The first gateway says late that the player is gone: not by this one.
    before:close()
    world.wait_for("sessions", 0)
    test.equal(after:request("talkroom.send_message", "2").id, 2)
    test.equal(numbers().gone, 1)
    after:close()
    test.eventually(function() return numbers().gone == 2 end)
    perilune.stop(second)
  end)
end)

-- ---- limits ----

test("over the rate nothing is forwarded, and its sender is told", function()
  with_counting({ rate = 0.1, burst = 10, max_strikes = 1000 }, function(port)
    local player = world.player(port)
    for number = 1, 100 do say(player, number) end
    test.eventually(function() return numbers().lines + world.stats().too_fast == 100 end)
    -- The login was one of the burst; a slow machine adds one in ten seconds.
    local lines, told = numbers().lines, 0
    test.ok(lines >= 9 and lines < 20, lines)
    for _ = 1, lines + 1 do
      local name, body = player:next()
      if name == "protocol.error" then
        test.equal(body.code, "too_fast")
        told = told + 1
      end
    end
    test.ok(told >= 1)
    test.equal(world.stats().packets_in, 101)
    player:close()
  end)
end)

-- ---- what clients may send ----

test("whatever numbers a header has, it is answered and harms nobody", function()
  with_counting(FAST, function(port)
    local witness = world.player(port)
    local EXTREMES = { 0, 1, 2, 4, 5, 127, 128, 255, 256, 9999, 10000, 10001, 32766, 32767,
      -1, -2, -128, -32767, -32768 }
    local number = 0
    for _, stype in ipairs(EXTREMES) do
      local player = world.player(port)
      for _, ctype in ipairs(EXTREMES) do
        if not player.closed then
          local data = packet.make(stype, ctype, 0, JSON, packet.wrap_json "null")
          player.connection:write(data)
        end
      end
      number = number + 1
      test.equal(witness:request("talkroom.send_message", tostring(number)).id, number)
      -- The last of them are refused, whatever the first were.
      if stype < 0 or stype >= 10000 and stype <= 10001 then
        for _ = 1, #EXTREMES do
          local name, body = player:next()
          test.equal({ name, body.code, body.stype }, { "protocol.error", "reserved", stype })
        end
      elseif stype > 4 then
        for _, ctype in ipairs(EXTREMES) do
          local name, body = player:next()
          local code = (ctype < 0 or ctype >= 10000 and ctype <= 10001) and "reserved"
            or "unknown_service"
          test.equal({ name, body.code, body.ctype }, { "protocol.error", code, ctype })
        end
      end
      player:close()
    end
    witness:close()
  end)
end)

for form, name in pairs { [JSON] = "JSON", [BUF] = "BUF" } do
  test("texts over 32,767 bytes go there and back, in " .. name, function()
    world.with({ talkroom = { line_bytes = 8000 } }, function(port)
      local player = world.talker(port, form, "long")
      for _, bytes in ipairs { 32760, 32767, 32768, 40000, 65000 } do
        test.equal(player:request("talkroom.send_message", ("x"):rep(bytes)).status,
          protocol.status.invalid_params, bytes)
      end
      player:close()
    end)
    local function on_packet(data, key)
      local stype, _, utag, of = packet.header(data)
      if stype == 2 then return perilune.send("gateway", "login", key, 7, 1) end
      local _, text = game:decode_request(data)
      if text then
        perilune.send("gateway", "deliver", game:encode_reply("talkroom.user_left", of,
          { uid = #text, uname = text, usex = 1 }, nil, utag), key)
      end
    end
    world.with_gateway({}, on_packet, function(port)
      local player = world.connect(port, form)
      player:send("auth.guest_login", bot.new_key())
      world.wait_for("users", 1)
      for _, bytes in ipairs { 32767, 32768, 40000, 65400 } do
        local text = ("\u{4e00}"):rep(bytes / 3) .. ("x"):rep(bytes % 3)
        player:send("talkroom.send_message", text)
        local _, body = player:next()
        test.equal(body.uid, bytes)
        test.ok(body.uname == text, "byte for byte")
      end
      player:close()
    end)
  end)
end

-- ---- broadcasts ----

test("who stays gets each line once and in order while others drop", function()
  local fast = { rate = 10000, burst = 10000 }
  world.with({ talkroom = fast, gateway = FAST }, function(port)
    local LINES, STAYING, CHURN = 300, 4, 60
    local speaker = world.talker(port, JSON, "speaker")
    local staying = {}
    for i = 1, STAYING do
      local player = world.talker(port, i % 2 == 0 and JSON or BUF, "stays")
      staying[i] = { player = player, heard = 0 }
      player.on_push = function(_, name, line)
        if name ~= "talkroom.user_message" then return end
        test.equal(tonumber(line.text), staying[i].heard + 1)
        staying[i].heard = staying[i].heard + 1
      end
    end
    local dropped = 0
    local results = perilune.wait_all {
      function()
        for number = 1, LINES do
          test.equal(speaker:request("talkroom.send_message", tostring(number)).status, 1)
        end
      end,
      function()
        while dropped < CHURN do
          local player = world.talker(port, dropped % 2 == 0 and JSON or BUF, "drops")
          if dropped % 3 == 0 then player.connection:abort() else player:close() end
          dropped = dropped + 1
        end
      end,
    }
    for _, result in ipairs(results) do test.ok(result[1], tostring(result[2])) end
    for i = 1, STAYING do
      test.eventually(function() return staying[i].heard == LINES end, 20000)
      staying[i].player:close()
    end
    speaker:close()
  end)
end, 60000)

-- ---- what services get ----

test("packets are sent, not called, and are packets", function()
  with_counting(FAST, function(port)
    local player = world.player(port)
    test.raises(function() perilune.call("counting", "@packet", "x", 1) end, "not called")
    perilune.send("counting", "@packet", 5)
    perilune.send("counting", "@packet", "short", 2 ^ 31)
    perilune.send("gateway", "deliver", "short")
    perilune.send("gateway", "deliver", packet.make(10001, 10001, 0, BUF, "\200\0"))
    test.equal(player:request("talkroom.send_message", "1").id, 1)
    player:close()
  end)
end)

-- ---- reload ----

local HOME = debug.getinfo(1, "S").source:match "^@(.*)/test/service/[^/]*$"

-- Puts a changed copy of a script where it is found before the original.
local function change(name, path, edit)
  local handle = assert(io.open(HOME .. path))
  local text = edit(handle:read "*a")
  handle:close()
  local folder = name:match "^(.*)/"
  if folder then file.mkdir(folder) end
  test.ok(file.write(name .. ".lua", text))
end

local function change_service(name, edit) change(name, "/service/" .. name .. ".lua", edit) end

-- One by one: a reload of all would be one of these tests, too.
local function reload(...)
  for _, name in ipairs { ... } do
    local count, problems = perilune.reload(name)
    test.equal({ name, count, problems }, { name, 1, {} })
  end
end

test("gateway, protocol and service are reloaded while packets flow", function()
  local function edit_counting(round)
    change("counting_reloaded", "/test/service/counting.lua", function(text)
      return ("-- round %d\n%s"):format(round, text)
    end)
  end
  edit_counting(0)
  with_counting(FAST, function(port)
    local PLAYERS, ROUNDS = 4, 6
    local stopping, total, playing = false, 0, 0
    local function play(form)
      local player, number = world.player(port, form), 0
      playing = playing + 1
      while not stopping do
        for _ = 1, 10 do
          number = number + 1
          say(player, number)
        end
        expect_lines(player, number - 9, number)
      end
      player:close()
      total = total + number
    end
    local tasks = {}
    for i = 1, PLAYERS do
      tasks[i] = function() play(i % 2 == 0 and JSON or BUF) end
    end
    local function reload_often()
      test.eventually(function() return playing == PLAYERS end, 20000)
      for round = 1, ROUNDS do
        for _, name in ipairs { "gateway", "gateway/requests", "gateway/sessions" } do
          change_service(name, function(text) return ("-- round %d\n%s"):format(round, text) end)
        end
        change_service("protocol", function(text)
          local more = ("%%0 more = { %d, push = \"\" },"):format(round + 99)
          return (text:gsub("talkroom = {", more, 1))
        end)
        edit_counting(round)
        reload("gateway", "counting")
        perilune.sleep(20)
      end
    end
    tasks[PLAYERS + 1] = function()
      local ok, message = pcall(reload_often)
      stopping = true
      if not ok then error(message, 0) end
    end
    for _, result in ipairs(perilune.wait_all(tasks)) do
      test.ok(result[1], tostring(result[2]))
    end
    local found = numbers()
    test.equal({ found.lines, found.disordered }, { total, 0 })
  end, nil, "counting_reloaded")
end, 60000)

test("numbers that a reload of the protocol brings are forwarded and served", function()
  change("counting_extended", "/test/service/counting.lua", function(text) return text end)
  with_counting(FAST, function(port)
    local player = world.player(port)
    local function ask(stype, ctype)
      local data
      local on_data = player.connection.on_data
      player.connection.on_data = function(_, bytes) data = bytes end
      player.connection:write(packet.make(stype, ctype, 0, JSON, packet.wrap_json('"x"', 5)))
      test.eventually(function() return data end)
      player.connection.on_data = on_data
      return data:sub(13)
    end
    test.ok(ask(9, 1):find "unknown_service")
    test.ok(ask(1, 99):find "unknown_command")
    change_service("protocol", function(text)
      return (text:gsub("talkroom = {", [[
        more = { stype = 9, service = "counting",
          shout = { 1, request = "string", reply = "string" } },
        talkroom = { whisper = { 99, request = "string", reply = "string" },]], 1))
    end)
    change("counting_extended", "/test/service/counting.lua", function(text)
      return (text:gsub("function client.on_disconnect", [[
        function client.shout(_, body) return body .. "!" end
        function client.whisper(_, body) return body .. "." end
        %0]], 1))
    end)
    reload("gateway", "counting")
    test.equal(ask(9, 1), '{"0":"x!","1":5}')
    test.equal(ask(1, 99), '{"0":"x.","1":5}')
    player:close()
  end, nil, "counting_extended")
end)

return test
