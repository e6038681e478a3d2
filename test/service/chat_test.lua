-- Players in the talkroom.
local perilune = require "perilune"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local game = require "protocol"
local world = require "world"

local JSON, BUF = protocol.JSON, protocol.BUF
local STATUS = protocol.status

test("two players chat, one in JSON and one in BUF", function()
  world.with({}, function(port)
    local ada = world.talker(port, JSON, "Ada")
    local bob = world.talker(port, BUF, "Bob")
    local name, body = ada:next()
    test.equal(name, "talkroom.user_arrived")
    test.equal(body, { uid = bob.profile.uid, uname = "Bob", usex = 1 })

    test.equal(ada:request("talkroom.send_message", "hi"), { status = STATUS.ok, id = 1 })
    name, body = bob:next()
    test.equal(name, "talkroom.user_message")
    body.time = nil
    test.equal(body, { id = 1, uid = ada.profile.uid, uname = "Ada", usex = 1, text = "hi" })

    test.equal(bob:request("talkroom.send_message", "hello").id, 2)
    name, body = ada:next()
    test.equal({ name, body.text, body.uid }, { "talkroom.user_message", "hello", bob.profile.uid })
    ada:close()
    name, body = bob:next()
    test.equal({ name, body.uname }, { "talkroom.user_left", "Ada" })
    bob:close()
  end)
end)

test("text of any language arrives byte for byte", function()
  world.with({ talkroom = { rate = 1000, burst = 1000 } }, function(port)
    local ada, bob = world.talker(port, JSON, "Ада"), world.talker(port, BUF, "小明")
    ada:next()
    for _, text in ipairs { "😀", "한국어 채팅", "こんにちは", "你好,世界", "مرحبا", "👩‍👩‍👧‍👦", "\"\\/<>&",
      "\239\187\191x", ("😀"):rep(250) } do
      test.equal(ada:request("talkroom.send_message", text).status, STATUS.ok, text)
      test.equal(select(2, bob:next()).text, text)
      test.equal(bob:request("talkroom.send_message", text).status, STATUS.ok, text)
      local _, line = ada:next()
      test.equal(line.text, text)
      test.equal(line.uname, "小明")
    end
    ada:close()
    bob:close()
  end)
end)

test("bytes that are not UTF-8 cost their sender the connection alone", function()
  world.with({}, function(port)
    local ada, bob = world.talker(port, JSON, "Ada"), world.talker(port, JSON, "Bob")
    bob.connection:write("\1\0\5\0\0\0\0\0\1\0\9\0{\"0\":\"\255\"}")
    test.equal(world.wait_closed(bob), "malformed")
    test.equal(ada:request("talkroom.send_message", "still here").status, STATUS.ok)
    ada:close()
  end)
end)

test("who isn't in the room can't talk, enter twice or leave", function()
  world.with({}, function(port)
    local ada = world.player(port, JSON)
    for _, name in ipairs { "exit", "history", "members" } do
      test.equal(ada:request("talkroom." .. name).status, STATUS.not_in_room, name)
    end
    test.equal(ada:request("talkroom.send_message", "hi").status, STATUS.not_in_room)
    local entered = { uname = "Ada", usex = 0 }
    test.equal(ada:request("talkroom.enter", entered).status, STATUS.ok)
    test.equal(ada:request("talkroom.enter", entered).status, STATUS.in_room)
    test.equal(ada:request("talkroom.exit").status, STATUS.ok)
    test.equal(ada:request("talkroom.exit").status, STATUS.not_in_room)
    ada:close()
  end)
end)

test("wrong names and lines are refused", function()
  world.with({ talkroom = { name_bytes = 8, line_bytes = 8 } }, function(port)
    local ada = world.player(port, JSON)
    for _, uname in ipairs { "", "123456789", "a\nb" } do
      test.equal(ada:request("talkroom.enter", { uname = uname, usex = 0 }).status,
        STATUS.invalid_params, uname)
    end
    test.equal(ada:request("talkroom.enter", { uname = "12345678", usex = 0 }).status, STATUS.ok)
    for _, text in ipairs { "", "123456789", "\27[31m" } do
      test.equal(ada:request("talkroom.send_message", text).status, STATUS.invalid_params, text)
    end
    ada:close()
  end)
end)

test("who talks too fast is refused, others are not", function()
  world.with({ talkroom = { rate = 0.1, burst = 2 } }, function(port)
    local ada, bob = world.talker(port, JSON, "Ada"), world.talker(port, JSON, "Bob")
    for i = 1, 2 do test.equal(ada:request("talkroom.send_message", "x").id, i) end
    test.equal(ada:request("talkroom.send_message", "x"), { status = STATUS.too_fast, id = 0 })
    test.equal(bob:request("talkroom.send_message", "x").id, 3)
    ada:close()
    bob:close()
  end)
end)

test("history and members tell what is there", function()
  world.with({ talkroom = { rate = 1000, burst = 1000, history = 3 } }, function(port)
    local ada, bob = world.talker(port, JSON, "Ada"), world.talker(port, BUF, "Bob")
    for i = 1, 5 do ada:request("talkroom.send_message", "line " .. i) end
    for _, player in ipairs { ada, bob } do
      local history = player:request("talkroom.history", { count = 0 })
      test.equal({ #history.lines, history.lines[1].text, history.lines[3].id },
        { 3, "line 3", 5 })
      test.equal(#player:request("talkroom.history", { count = 2 }).lines, 2)
      local members = player:request("talkroom.members", { after = 0 })
      test.equal(members.total, 2)
      test.equal(members.members, {
        { uid = ada.profile.uid, uname = "Ada", usex = 1 },
        { uid = bob.profile.uid, uname = "Bob", usex = 1 },
      })
      test.equal(player:request("talkroom.members", { after = ada.profile.uid }).members[1].uname,
        "Bob")
    end
    ada.connection:write("\1\0\7\0\0\0\0\0\1\0\10\0{\"0\":null}")
    local name, body = ada:next()
    while name ~= "talkroom.history" do name, body = ada:next() end
    test.equal(#body.lines, 3, "an empty body asks for all")
    ada:close()
    bob:close()
  end)
end)

test("a full room answers busy", function()
  world.with({ talkroom = { max_members = 1 } }, function(port)
    local ada, bob = world.talker(port, JSON, "Ada"), world.player(port, JSON)
    test.equal(bob:request("talkroom.enter", { uname = "Bob", usex = 0 }).status, STATUS.busy)
    ada:close()
    bob:close()
  end)
end)

test("bots chat and lose nothing, by TCP, encrypted and by UDP", function()
  local listen = {
    { port = 0 }, { port = 0, encrypt = { key = "test/lua/tls/x25519.pem" } },
    { port = 0, kind = "udp" },
  }
  world.with({ talkroom = { rate = 1000, burst = 1000 }, gateway = { listen = listen } }, function()
    local tcp, encrypted = unpack(world.stats().listeners)
    local handle = perilune.spawn("bots")
    for _, where in ipairs {
      { port = tcp.port },
      { url = "tcp+encrypted://127.0.0.1:" .. encrypted.port, server_key = encrypted.server_key },
      { port = tcp.port, udp = 0.5 },
    } do
      where.count, where.seconds, where.rate = 8, 0.5, 20
      local result = perilune.call_within(20000, handle, "run", where)
      test.equal({ result.ok, result.lost, result.repeated, result.disordered, result.errors },
        { true, 0, 0, 0, 0 })
      test.ok(result.sent >= 8 and result.received == result.sent * 7)
      test.equal(result.echo.count, 0)
    end
    for _, url in ipairs { "tcp+encrypted://127.0.0.1", "tcp+x://a:1", "tcp://a:0" } do
      local result = perilune.call_within(20000, handle, "run",
        { url = url, count = 1, seconds = 0.1 })
      test.equal(result.ok, false, url)
    end
    perilune.stop(handle)
  end)
end)

test("bots on both transports chat and have every request answered once", function()
  local listen = { { port = 0 }, { port = 0, kind = "websocket" } }
  world.with({ gateway = { listen = listen } }, function(port)
    local url = ("ws://127.0.0.1:%d"):format(world.stats().listeners[2].port)
    local handle = perilune.spawn("bots")
    local result = perilune.call_within(20000, handle, "run", {
      port = port, url = url, url_share = 0.5, count = 6, seconds = 0.5, echo_ms = 50,
    })
    perilune.stop(handle)
    test.equal({ result.ok, result.bots, result.lost, result.errors }, { true, 6, 0, 0 })
    test.ok(result.echo.count >= 6, "each has asked")
  end)
end)

test("bots notice replies too many and connections that end early", function()
  world.with({}, function(port)
    local handle = perilune.spawn("bots")
    perilune.fork(function()
      world.wait_for("users", 2)
      test.eventually(function() return perilune.call("talkroom", "stats").members == 2 end)
      perilune.send("gateway", "deliver",
        game:encode_reply("talkroom.history", JSON, { status = STATUS.ok, lines = {} }, 99, 1))
      perilune.call("gateway", "kick", 2, "test")
    end)
    local result = perilune.call_within(20000, handle, "run",
      { port = port, count = 2, seconds = 1, rate = 0, drain_ms = 0 })
    perilune.stop(handle)
    test.equal({ result.ok, result.errors }, { false, 2 }, "the reply and the end")
  end)
end)

return test
