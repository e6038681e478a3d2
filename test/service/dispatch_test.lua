-- What becomes of a packet in the service that serves it: perilune.client and perilune.gateway.
local file = require "perilune.file"
local perilune = require "perilune"
local protocol = require "perilune.protocol"
local test = require "perilune.test"
local world = require "world"

local JSON, BUF = protocol.JSON, protocol.BUF
local STATUS = protocol.status

-- auth as it is, and the service "broken" in the place of the talkroom.
local function with_broken(body)
  local handle = perilune.spawn("broken", nil, { name = "broken" })
  local ok, message = pcall(world.with, { gateway = { routes = { talkroom = "broken" } } }, body)
  perilune.stop(handle)
  if not ok then error(message, 0) end
end

local function enter(player, uname, ms)
  return player:request("talkroom.enter", { uname = uname, usex = 0 }, ms)
end

for form, name in pairs { [JSON] = "JSON", [BUF] = "BUF" } do
  test("errors of a command answer system_error, in " .. name, function()
    with_broken(function(port)
      local player = world.player(port, form)
      test.equal(enter(player, "raise"), { status = STATUS.system_error })
      test.equal(enter(player, "wrong"), { status = STATUS.system_error })
      test.equal(enter(player, "fine"), { status = 1 })
      player:close()
    end)
  end)

  test("errors after a wait, and what never ends, answer system_error, in " .. name, function()
    with_broken(function(port)
      local player = world.player(port, form)
      test.equal(enter(player, "late"), { status = STATUS.system_error })
      test.equal(enter(player, "endless", 30000), { status = STATUS.system_error })
      test.equal(enter(player, "fine"), { status = 1 })
      player:close()
    end)
  end)

  test("replies of commands that wait come when they are there, in " .. name, function()
    with_broken(function(port)
      local player = world.player(port, form)
      test.equal(enter(player, "wait"), { status = 2 })
      test.equal(select(3, enter(player, "nothing", 50)), "timeout")
      player:close()
    end)
  end)
end

local WAITING = [[
local perilune = require "perilune"
local waiting, client = {}, {}
local requests, goes_on = 0, false
function client.enter(_, body)
  requests = requests + 1
  while not goes_on do perilune.sleep(5) end
  if body.uname == "raise" then error("on purpose") end
  return { status = 2 }
end
function waiting.requests() return requests end
function waiting.go_on() goes_on = true end
return waiting, client
]]

test("replies of commands that wait come, too, when the service is reloaded meanwhile", function()
  test.ok(file.write("waiting.lua", WAITING))
  local handle = perilune.spawn("waiting", nil, { name = "waiting" })
  world.with({ gateway = { routes = { talkroom = "waiting" } } }, function(port)
    local players, statuses, bodies = {}, {}, {}
    for i, uname in ipairs { "fine", "raise" } do
      players[i] = world.player(port)
      bodies[i] = function() statuses[i] = enter(players[i], uname, 20000).status end
    end
    bodies[3] = function()
      test.eventually(function() return perilune.call("waiting", "requests") == 2 end)
      test.ok(file.write("waiting.lua", WAITING .. "-- changed"))
      test.equal(perilune.reload "waiting", 1)
      perilune.call("waiting", "go_on")
    end
    for _, result in ipairs(perilune.wait_all(bodies)) do test.ok(result[1], result[2]) end
    test.equal(statuses, { 2, STATUS.system_error })
    for _, player in ipairs(players) do player:close() end
  end)
  perilune.stop(handle)
  file.remove "waiting.lua"
end)

test("request_id tells replies apart that come out of order", function()
  with_broken(function(port)
    local player = world.player(port, JSON)
    local order = {}
    local function ask(uname)
      local status = enter(player, uname).status
      order[#order + 1] = status
    end
    perilune.wait_all { function() ask "wait" end, function() ask "fine" end }
    test.equal(order, { 1, 2 })
    player:close()
  end)
end)

test("a command that isn't served, or isn't declared, answers unknown_command", function()
  with_broken(function(port)
    local player = world.player(port, JSON)
    test.equal(select(3, player:request("talkroom.send_message", "hi")), "unknown_command")
    player.connection:write("\1\0\99\0\0\0\0\0\1\0\18\0{\"0\":null,\"1\":77}")
    local name, body = player:next()
    test.equal({ name, body.code, body.stype, body.ctype },
      { "protocol.error", "unknown_command", 1, 99 })
    -- What servers push can't be sent by a client.
    player.connection:write("\1\0\3\0\0\0\0\0\1\0\10\0{\"0\":null}")
    name, body = player:next()
    test.equal({ name, body.code, body.ctype }, { "protocol.error", "unknown_command", 3 })
    player:close()
  end)
end)

test("JSON that doesn't fit the declared fields is answered invalid_params", function()
  with_broken(function(port)
    local player = world.player(port, JSON)
    local function send(value)
      local text = ('{"0":%s}'):format(value)
      player.connection:write("\1\0\1\0\0\0\0\0\1\0" .. string.char(#text, 0) .. text)
      local name, body = player:next()
      test.equal(name, "talkroom.enter", value)
      return body.status
    end
    for _, value in ipairs { "null", "5", '"x"', "[]", "{}", '{"uname":5,"usex":1}',
      '{"uname":"a"}', '{"uname":"a","usex":1.5}', '{"uname":"a","usex":40000}',
      '{"uname":"a","usex":null}', '{"uname":["a"],"usex":1}' } do
      test.equal(send(value), STATUS.invalid_params, value)
    end
    test.equal(send '{"usex":1,"more":{"x":[1]},"uname":"a"}', 1)
    player:close()
  end)
end)

test("bodies that can't be read cost their sender the connection", function()
  with_broken(function(port)
    for _, bytes in ipairs {
      "\1\0", -- JSON: shorter than its length
      "\1\0\1\0\0\0\0\0\1\0", -- no length
      "\1\0\1\0\0\0\0\0\1\0\2\0{}x", -- more than its length
      "\1\0\1\0\0\0\0\0\1\0\1\0{", -- no JSON
      "\1\0\1\0\0\0\0\0\1\0\4\0null", -- no object
      "\1\0\1\0\0\0\0\0\1\0\7\0{\"0\":5", -- cut off
      "\1\0\1\0\0\0\0\0\1\0\17\0{\"0\":5,\"1\":\"one\"}", -- request_id is no number
      "\1\0\1\0\0\0\0\0\1\0\14\0{\"0\":5,\"1\":-1}",
      "\1\0\1\0\0\0\0\0\1\0\13\0{\"0\":NaN,\"\":1}",
      "\1\0\1\0\0\0\0\0\1\0\25\0{\"0\":9007199254740993000}",
      "\1\0\1\0\0\0\0\0\2\0\1\0a\1", -- BUF: cut off
      "\1\0\1\0\0\0\0\0\2\0\1\0a\1\0x", -- too much
      "\1\0\1\0\0\0\0\0\2\0\255\255a\1\0", -- a length that reads negative
      "\1\0\1\0\0\0\0\0\2\0\1\0\255\1\0", -- not UTF-8
      "\1\0\2\0\0\0\0\0\2\0x", -- exit has no fields
      "\1\0\1\0\0\0\0\0\3\0", -- proto_type
    } do
      local player = world.player(port, JSON)
      player.connection:write(bytes)
      test.equal(world.wait_closed(player), "malformed", world.hex(bytes))
    end
    local player = world.player(port, JSON)
    test.equal(enter(player, "fine").status, 1)
    test.equal(world.stats().malformed, 16)
    player:close()
  end)
end)

test("a service hears once that a player is gone, and only if it knew them", function()
  with_broken(function(port)
    local known, unknown = world.player(port, JSON), world.player(port, JSON)
    enter(known, "fine")
    known:close()
    unknown:close()
    world.wait_for("sessions", 0)
    perilune.sleep(20)
    test.equal(perilune.call("broken", "disconnected"), { known.profile.uid })
  end)
end)

test("pushes come in the form that the player uses", function()
  with_broken(function(port)
    local seen = {}
    for _, form in ipairs { JSON, BUF } do
      local player = world.player(port, form)
      enter(player, "fine")
      local on_data = player.connection.on_data
      player.connection.on_data = function(connection, data)
        seen[#seen + 1] = data:byte(9)
        on_data(connection, data)
      end
      local member = { uid = 5, uname = "x", usex = 1 }
      test.ok(perilune.call("broken", "push", player.profile.uid, "talkroom.user_left", member))
      local name, body = player:next()
      test.equal({ name, body }, { "talkroom.user_left", member })
      player:close()
    end
    test.equal(seen, { JSON, BUF })
  end)
end)

test("kick tells why and closes", function()
  with_broken(function(port)
    local player = world.player(port, JSON)
    enter(player, "fine")
    perilune.call("broken", "kick", player.profile.uid)
    test.equal(world.wait_closed(player), "test")
    test.equal(player.closing.text, "because")
  end)
end)

return test
