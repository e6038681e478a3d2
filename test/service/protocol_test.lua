-- Declarations of packets: perilune.protocol.
local packet = require "perilune.packet"
local protocol = require "perilune.protocol"
local test = require "perilune.test"

local JSON, BUF = protocol.JSON, protocol.BUF

local function declare(service) return protocol.declare { game = service } end

local function refuses(service, pattern)
  test.raises(function() declare(service) end, pattern)
end

test("a declared message survives JSON and BUF alike", function()
  local game = protocol.declare {
    messages = { point = "x f64, y f64", path = "name string, points point[]" },
    game = {
      stype = 4,
      draw = { 1, request = "id i64, paths path[], tags string[][], raw bytes, on bool" },
    },
  }
  local body = {
    id = "9223372036854775807", raw = "\0\255\1", on = true, tags = { { "a", "ü" }, {} },
    paths = { { name = "一", points = { { x = 1.5, y = -2 } } }, { name = "", points = {} } },
  }
  for _, form in ipairs { JSON, BUF } do
    local data = game:encode_request("game.draw", form, body)
    local command, got = game:decode_request(data)
    test.equal(command.name, "game.draw")
    test.equal(got, body)
  end
end)

test("a bare type is a bare value", function()
  local game = declare { stype = 4, say = { 1, request = "string", reply = "u32[]" } }
  for _, form in ipairs { JSON, BUF } do
    test.equal(select(2, game:decode_request(game:encode_request("game.say", form, "hi"))), "hi")
    local reply = game:encode_reply("game.say", form, { 1, 2, 4294967295 })
    test.equal(select(2, game:decode_reply(reply)), { 1, 2, 4294967295 })
  end
end)

test("a refusal is its status alone", function()
  local game = declare { stype = 4, get = { 1, reply = "status i16, text string, list u8[]" } }
  test.equal(select(2, game:decode_reply(game:encode_reply("game.get", BUF, { status = -100 }))),
    { status = -100, text = "", list = {} })
  local data = game:encode_reply("game.get", JSON, { status = -100 })
  test.equal(data:sub(13), '{"0":{"status":-100}}')
  test.raises(function() game:encode_reply("game.get", JSON, { text = "x" }) end, "status")
end)

test("request_id is carried by JSON", function()
  local game = declare { stype = 4, get = { 1, reply = "status i16" } }
  local data = game:encode_reply("game.get", JSON, { status = 1 }, 2 ^ 53)
  test.equal(data:sub(13), '{"0":{"status":1},"1":9007199254740992}')
  test.equal(select(3, game:decode_reply(data)), 2 ^ 53)
  test.equal(packet.request_id(data), 2 ^ 53)
  test.equal(packet.request_id "short", nil)
end)

test("what isn't declared raises", function()
  local game = declare { stype = 4, get = { 1, reply = "status i16" }, ping = { 2 } }
  test.raises(function() game:encode_reply("game.got", JSON, {}) end, 'no "game.got"')
  test.raises(function() game:encode_reply("game.ping", JSON, { 1 }) end, "declares no reply")
  test.raises(function() game:encode_request("game.get", JSON, 5) end, "declares no request")
end)

test("wrong declarations say where they are wrong", function()
  refuses({ stype = 0 }, "game: stype is an integer from 1 to 9999")
  refuses({ stype = 10001 }, "stype is an integer")
  refuses({ stype = 4, get = { 10000 } }, "game.get: ctype is an integer from 1 to 9999")
  refuses({ stype = 4, get = { 1 }, set = { 1 } }, "has the number 1 already")
  refuses({ stype = 4, on_get = { 1 } }, "doesn't begin with on_")
  refuses({ stype = 4, get = 1 }, "game.get: a command is { ctype")
  refuses({ stype = 4, get = { 1, requests = "a i8" } }, "game.get: unknown key requests")
  refuses({ stype = 4, get = { 1, request = "a" } }, 'game.get: request: unknown type "a"')
  refuses({ stype = 4, get = { 1, request = "a i128" } }, 'unknown type "i128"')
  refuses({ stype = 4, get = { 1, request = "a i8 b" } }, "is not \"name type\"")
  refuses({ stype = 4, get = { 1, request = "a i8, a i8" } }, "two fields are called a")
  refuses({ stype = 4, get = { 1, request = "a i8[" } }, "is no type")
  refuses({ stype = 4, get = { 1, request = 5 } }, "fields are a string")
  refuses({ stype = 4, get = { 1, push = "a i8", reply = "a i8" } }, "neither request nor reply")
  test.raises(function()
    protocol.declare { messages = { a = "b a" }, game = { stype = 4, get = { 1, request = "a" } } }
  end, "contains itself")
  test.raises(function() protocol.declare { messages = { i8 = "b u8" } } end, "the name is taken")
  test.raises(function()
    protocol.declare { one = { stype = 4 }, two = { stype = 4 } }
  end, "has the number 4 already")
end)

test("the hash tells declarations apart", function()
  local function hash(fields)
    return declare({ stype = 4, get = { 1, request = fields } }).hash
  end
  test.equal(hash "a i8", hash "a  i8")
  test.ok(hash "a i8" ~= hash "a u8")
  test.ok(hash "a i8" ~= hash "b i8")
end)

return test
