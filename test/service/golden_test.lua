-- The exact bytes that clients and gateways exchange, over a TCP connection.
local perilune = require "perilune"
local test = require "perilune.test"
local world = require "world"

local unhex, hex = world.unhex, world.hex

local GUEST_LOGIN = unhex "3600 02000100000000000100 2800"
  .. '{"0":"mcPYQPcNY66HWNBNy8GTdcmAtPGHdMHQ"}'
local ENTER = unhex "1100 01000100000000000200 0100 61 0100"
local SAY_HI = unhex "1800 01000500000000000100 0a00" .. '{"0":"hi"}'
local SAID_HI = "010005000700000001000a007b2230223a226869227d"

test("a guest logs in and enters with the golden bytes", function()
  world.with({}, function(port)
    local client = world.raw(port)
    client:write(GUEST_LOGIN)
    local answer = world.read_frame(client)
    test.equal(hex(answer:sub(3, 12)), "02000100000000000100")
    test.ok(answer:find('{"0":{"status":1,"uid":1,"unick":"guest', 1, true), answer)
    client:write(ENTER)
    test.equal(hex(world.read_frame(client)), "0e00" .. "01000100000000000200" .. "0100")
    client:write(SAY_HI)
    test.equal(world.read_frame(client):sub(13), unhex "1900" .. '{"0":{"status":1,"id":1}}')
    client:close()
  end)
end)

test("golden bytes arrive in any pieces", function()
  world.with({}, function(port)
    for size = 1, 7 do
      local client = world.raw(port)
      local function write(bytes)
        for at = 1, #bytes, size do
          client:write(bytes:sub(at, at + size - 1))
          perilune.sleep(1)
        end
      end
      write(GUEST_LOGIN)
      test.ok(world.read_frame(client):find('"status":1', 1, true))
      write(ENTER .. ENTER)
      for _ = 1, 2 do test.equal(#world.read_frame(client), 14) end
      client:close()
      world.wait_for("sessions", 0)
    end
  end)
end)

test("a gateway stamps the uid and forwards the rest as it came", function()
  local seen = {}
  local function on_packet(data, key)
    seen[#seen + 1] = data
    if #seen == 1 then perilune.send("gateway", "login", key, 7, 1) end
  end
  world.with_gateway({}, on_packet, function(port)
    local client = world.raw(port)
    client:write(GUEST_LOGIN)
    world.wait_for("users", 1)
    -- What the client puts into utag is of no account.
    client:write(unhex "1800 01000500ffffffff0100 0a00" .. '{"0":"hi"}')
    test.eventually(function() return seen[2] end)
    test.equal(hex(seen[2]), SAID_HI)
    test.equal(seen[1]:sub(1, 4), GUEST_LOGIN:sub(3, 6))
    test.equal(seen[1]:sub(9), GUEST_LOGIN:sub(11))
    test.ok(seen[1]:byte(8) >= 128, "before login utag is 0x80000000 and a counter")
    client:close()
    test.eventually(function() return seen[3] end)
    test.equal(hex(seen[3]), "0100" .. "1027" .. "07000000" .. "0100"
      .. "0a00" .. hex '{"0":null}')
  end)
end)

test("a broadcast goes to each uid with utag 0", function()
  local uid = 0
  local function on_packet(_, key)
    uid = uid + 1
    perilune.send("gateway", "login", key, uid, 1)
  end
  world.with_gateway({}, on_packet, function(port)
    local clients = {}
    for i = 1, 3 do
      clients[i] = world.raw(port)
      clients[i]:write(GUEST_LOGIN)
      world.wait_for("users", i)
    end
    -- The inner packet has the utag of somebody, as the old services sent it.
    perilune.send("gateway", "deliver", unhex("1127 1127 00000000 0200 1600 " .. SAID_HI
      .. "0300 01000000 03000000 09000000"))
    local wanted = "1800" .. SAID_HI:gsub("^(%x%x%x%x%x%x%x%x)07", "%100")
    test.equal(hex(world.read_frame(clients[1])), wanted)
    test.equal(hex(world.read_frame(clients[3])), wanted)
    test.equal(select(2, clients[2]:read(1, 100)), "timeout")
    for _, client in ipairs(clients) do client:close() end
    world.wait_for("undeliverable", 1)
  end)
end)

return test
