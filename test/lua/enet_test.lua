-- ENet peers as services see them.

local crypto = require "perilune.crypto"
local enet = require "perilune.enet"
local perilune = require "perilune"
local test = require "perilune.test"

local HOST = "127.0.0.1"

-- What a connected peer gets, as {packet, channel}.
local function connect(port, options)
  local got, ended = {}, {}
  options = options or {}
  options.on_data = function(_, data, channel) got[#got + 1] = { data, channel } end
  options.on_close = function(_, reason, code)
    ended[1], ended[2] = reason, code
  end
  return assert(enet.connect(HOST, port, options)), got, ended
end

test("peers connect, echo and close", function()
  local opened, closed = {}, {}
  local listener = assert(enet.listen {
    on_open = function(peer, address, data)
      opened[#opened + 1] = { address, data }
      test.equal(peer.address, address)
      test.equal(peer.data, data)
    end,
    on_data = function(peer, data, channel) assert(peer:write(data, { channel = channel })) end,
    on_close = function(_, reason, code) closed[#closed + 1] = { reason, code } end,
  })
  local peer, got, ended = connect(listener.port, { data = 4294967295 })
  test.equal(peer.address, HOST .. ":" .. listener.port)
  local wanted = { "hello", "", ("x"):rep(65536), "\0\255" }
  for index, data in ipairs(wanted) do assert(peer:write(data, { channel = index % 2 })) end
  test.eventually(function() return #got == #wanted end, 10000)
  table.sort(got, function(a, b) return #a[1] < #b[1] end)
  test.equal(got, { { "", 0 }, { "\0\255", 0 }, { "hello", 1 }, { ("x"):rep(65536), 1 } })
  test.equal(opened[1][2], 4294967295)
  test.ok(peer:round_trip() < 1000)
  test.ok(peer:close(7))
  test.eventually(function() return ended[1] and closed[1] end, 10000)
  test.equal(ended[1], "closed")
  test.equal(closed, { { "ended", 7 } })
  local ok, _, code = peer:write "more"
  test.equal({ ok, code }, { nil, "dead" })
  test.ok(listener:close())
end)

test("every mode arrives on a network that loses nothing", function()
  local listener = assert(enet.listen { on_data = function(peer, data) peer:write(data) end })
  local peer, got = connect(listener.port)
  for _, mode in ipairs { "reliable", "unreliable", "unsequenced" } do
    assert(peer:write(mode, { mode = mode }))
  end
  test.eventually(function() return #got == 3 end, 10000)
  test.raises(function() peer:write("x", { mode = "fast" }) end, "fast")
  local ok, _, code = peer:write("x", { channel = 9 })
  test.equal({ ok, code }, { nil, "invalid" })
  ok, _, code = peer:write(("x"):rep(65537))
  test.equal({ ok, code }, { nil, "too_large" })
  peer:abort()
  listener:close()
end)

test("callbacks by name, and peers that die with their service", function()
  local helper = perilune.spawn "udp_helper"
  local port = perilune.call(helper, "enet_port")
  local peer, got, ended = connect(port)
  assert(peer:write "hello")
  test.eventually(function() return got[1] end, 10000)
  local other = connect(port)
  other:close(3)
  test.eventually(function() return perilune.call(helper, "closed")[1] end, 10000)
  test.equal(perilune.call(helper, "closed"), { { "ended", 3 } })
  perilune.stop(helper)
  test.eventually(function() return ended[1] end, 10000)
  test.equal(ended[1], "ended")
end)

test("both ends know the cookie of a connection, and nobody else's", function()
  local peers = {}
  local listener = assert(enet.listen { on_open = function(peer) peers[#peers + 1] = peer end })
  local first, second = connect(listener.port), connect(listener.port)
  test.eventually(function() return #peers == 2 end, 10000)
  local function period_of(cookie)
    local a, b, c, d = cookie:byte(1, 4)
    return ((d * 256 + c) * 256 + b) * 256 + a
  end
  local cookies = { first:cookie(), second:cookie() }
  local known = {}
  for index, cookie in ipairs(cookies) do
    test.equal(#cookie, 20)
    for _, peer in ipairs(peers) do
      if peer:cookie(period_of(cookie)) == cookie then known[#known + 1] = index end
    end
  end
  test.equal(known, { 1, 2 }, "each is that of one peer")
  local none, _, code = peers[1]:cookie((period_of(cookies[1]) + 2) % 2 ^ 32)
  test.equal({ none, code }, { nil, "not_found" })
  for _, peer in ipairs { first, second } do peer:abort() end
  none, _, code = first:cookie()
  test.equal({ none, code }, { nil, "dead" })
  listener:close()
end)

test("a login by ticket needs the key that was given elsewhere", function()
  local key = crypto.random_bytes(32)
  local function ticket(uid) return uid .. ":" .. crypto.hex(crypto.hmac_sha256(key, uid)) end
  local logged_in, refused = nil, 0
  local listener = assert(enet.listen {
    on_data = function(peer, data)
      local uid = data:match "^(%d+):"
      if uid and crypto.equal(data, ticket(uid)) then
        logged_in = uid
      else
        refused = refused + 1
        peer:abort()
      end
    end,
  })
  local liar, _, ended = connect(listener.port)
  liar:write("7:" .. ("0"):rep(64))
  test.eventually(function() return ended[1] end, 10000)
  test.equal(refused, 1)
  local honest = connect(listener.port)
  honest:write(ticket "7")
  test.eventually(function() return logged_in end, 10000)
  test.equal(logged_in, "7")
  honest:abort()
  listener:close()
end)

test("peers of one address are limited", function()
  local listener = assert(enet.listen { max_per_address = 1 })
  local peer = connect(listener.port)
  local before = enet.stats().enet_refused_address
  local other, message, code = enet.connect(HOST, listener.port, { connect_ms = 700 })
  test.equal({ other, message, code }, { nil, "timeout", "unavailable" })
  test.ok(enet.stats().enet_refused_address > before)
  peer:abort()
  listener:close()
end)

test("nobody there is refused soon", function()
  local listener = assert(enet.listen {})
  listener:close()
  local peer, message = enet.connect(HOST, listener.port)
  test.equal({ peer, message }, { nil, "connection refused" })
end)

test("what can't be opened says why", function()
  local listener = assert(enet.listen {})
  local _, _, code = enet.listen { port = listener.port }
  test.equal(code, "exists")
  _, _, code = enet.listen { host = "::1" }
  test.equal(code, "invalid")
  test.ok(not enet.connect("no such name", 1))
  test.raises(function() enet.listen { max_peers = 5000 } end, "max_peers")
  test.raises(function() enet.listen { on_data = 1 } end, "on_data")
  test.raises(function() enet.connect(HOST, 0) end, "from 1 to 65535")
  listener:close()
end)

return test
