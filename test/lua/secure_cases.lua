-- What holds for connections over TLS and for those over encryption of our own.

local socket = require "perilune.socket"
local support = require "support"
local test = require "perilune.test"

---Registers the tests.
---@param listen fun(options: table): perilune.socket.Listener
---@param connect fun(listener: perilune.socket.Listener, options: table): perilune.socket.Connection?
---@param sizes integer[] of frames: those around the size of a record
---@param first_bytes string with which a client's handshake begins
return function(listen, connect, sizes, first_bytes)
  for _, framing in ipairs { "packet", "u32be", "line" } do
    test(("frames of every size come through, both ways (%s)"):format(framing), function()
      local listener = listen {
        framing = framing, max_frame = 300000,
        on_data = function(connection, data) connection:write(data) end,
      }
      local connection = assert(connect(listener, { framing = framing, max_frame = 300000 }))
      local all = { 0, 1, 100, 65533 }
      for _, size in ipairs(sizes) do all[#all + 1] = size end
      if framing ~= "packet" then all[#all + 1] = 300000 end
      for _, size in ipairs(all) do connection:write(("x"):rep(size)) end
      for _, size in ipairs(all) do test.equal(#connection:read(nil, 20000), size) end
      connection:close()
      listener:close()
    end)
  end

  test("much data is delivered before the end that follows it", function()
    local size, got, reason = 20 * 2 ^ 20, 0, nil
    local listener = listen {
      on_data = function(_, data) got = got + #data end,
      on_close = function(_, why) reason = why end,
    }
    local connection = assert(connect(listener, { send_bytes = 0, send_packets = 0 }))
    for _ = 1, size / 2 ^ 16 do connection:write(("x"):rep(2 ^ 16)) end
    connection:close()
    test.eventually(function() return reason end, support.patience(20000))
    test.equal(got, size)
    test.equal(reason, "ended")
    listener:close()
  end, support.patience(30000))

  test("a handshake that isn't done in time is closed as such", function()
    local listener = listen { handshake_ms = 100 }
    local before = socket.stats().closed_handshake
    local plain = assert(socket.connect("127.0.0.1", listener.port))
    plain:write(first_bytes)
    test.equal(plain:read(nil, 20000), nil)
    test.ok(plain.closed)
    test.equal(socket.stats().closed_handshake - before, 1)
    listener:close()
  end)
end
