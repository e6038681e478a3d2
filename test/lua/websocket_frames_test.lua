-- Promise 19: WebSocket by RFC 6455. Each case of cases/websocket.lua has a connection of its own
-- to an echo server; what comes back must be what is wanted, and then the end.

local cases = require "cases.websocket"
local perilune = require "perilune"
local socket = require "perilune.socket"
local support = require "support"
local test = require "perilune.test"

local LARGEST = 65536
local NAMES = { [1] = "text", [2] = "binary", [8] = "close", [9] = "ping", [10] = "pong" }

local function listen(on_close)
  local function on_data(connection, data)
    if connection.framing ~= "raw" then return connection:write(data) end
    connection:write_raw "shaken\r\n"
    assert(connection:upgrade("websocket", { max_frame = LARGEST }))
  end
  return assert(socket.listen {
    on_data = on_data,
    on_text = function(connection, text) connection:write_text(text) end,
    on_close = on_close,
  })
end

local function number(bytes)
  local value = 0
  for i = 1, #bytes do value = value * 256 + bytes:byte(i) end
  return value
end

-- Frames as they are, up to the end.
local function read_frames(connection)
  local frames = {}
  while true do
    local head = connection:read(2, 20000)
    if not head then return frames end
    local first, length = head:byte(1, 2)
    test.ok(first >= 128 and length < 128, "a server's frames are whole and not masked")
    if length == 126 then
      length = number(connection:read(2, 20000))
    elseif length == 127 then
      length = number(connection:read(8, 20000))
    end
    local name, body = NAMES[first - 128], connection:read(length, 20000)
    if name ~= "close" then
      frames[#frames + 1] = name .. " " .. body
    else
      frames[#frames + 1] = #body == 0 and "close" or "close " .. number(body:sub(1, 2))
    end
  end
end

local function run(listener, case)
  local connection = assert(socket.connect("127.0.0.1", listener.port))
  connection:write "shake\n"
  test.equal(connection:read("line", 20000), "shaken", case.name)
  for _, piece in ipairs(case.sent) do
    connection:write(piece)
    -- So that it arrives as a piece.
    if #case.sent > 20 then perilune.yield() end
  end
  local frames = read_frames(connection)
  connection:close()
  test.equal(#frames, #case.wanted, case.name .. ": " .. table.concat(frames, " | "):sub(1, 200))
  for index, wanted in ipairs(case.wanted) do
    test.ok(frames[index] == wanted, ("%s: got %s, wanted %s"):format(case.name,
      frames[index]:sub(1, 100), wanted:sub(1, 100)))
  end
end

test("a server does with each kind of frame what RFC 6455 says", function()
  test.ok(#cases >= 247, #cases)
  local closed = 0
  local listener = listen(function() closed = closed + 1 end)
  for _, case in ipairs(cases) do run(listener, case) end
  test.eventually(function() return closed == #cases end)
  listener:close()
end, support.patience(60000))

test("a client understands a server's fragments, pings and close", function()
  local answers = ""
  local listener = assert(socket.listen {
    on_data = function(connection, data)
      if data:sub(1, 5) ~= "shake" then
        answers = answers .. data
        return
      end
      -- In one write: what follows the head must not be lost.
      connection:write("HTTP/1.1 101 Switching Protocols\r\n\r\n" ..
        "\1\3one\137\2hi\128\4 two" .. "\130\3\0\1\2" .. "\136\5\15\160bye")
    end,
  })
  local connection = assert(socket.connect("127.0.0.1", listener.port, { framing = "head" }))
  connection:write_raw "shake\r\n\r\n"
  test.equal(connection:read(), "HTTP/1.1 101 Switching Protocols\r\n\r\n")
  test.ok(connection:upgrade "websocket")
  test.equal({ connection:read() }, { "one two", true })
  test.equal({ connection:read() }, { "\0\1\2" })
  test.equal({ connection:read() }, { nil, "closed", "ended" })
  test.equal(connection.close_code, 4000)
  test.equal(connection.close_reason, "bye")
  -- A pong of 2 bytes and a close, both masked.
  test.eventually(function() return #answers == 8 + 8 end)
  test.equal(answers:byte(1), 138)
  test.equal(answers:byte(2), 130)
  listener:close()
end)

test("a client is refused a frame that is masked", function()
  local listener = assert(socket.listen {
    on_data = function(connection) connection:write("ok\r\n\r\n\130\129\0\0\0\0x") end,
  })
  local connection = assert(socket.connect("127.0.0.1", listener.port, { framing = "head" }))
  connection:write_raw "shake"
  test.equal(connection:read(), "ok\r\n\r\n")
  test.ok(connection:upgrade "websocket")
  test.equal({ connection:read() }, { nil, "closed", "malformed" })
  listener:close()
end)

test("texts and codes that may not be sent are refused", function()
  local accepted
  local listener = listen(function() end)
  local other = assert(socket.listen { on_open = function(connection) accepted = connection end })
  local plain = assert(socket.connect("127.0.0.1", other.port))
  test.equal(select(3, plain:write_text "x"), "invalid")
  test.equal(select(3, plain:close_websocket()), "invalid")
  local connection = assert(socket.connect("127.0.0.1", listener.port, { framing = "head" }))
  connection:write_raw "shake"
  test.equal(select(3, connection:close_websocket()), "invalid")
  plain:close()
  test.eventually(function() return accepted and accepted.closed end)
  connection:close()
  listener:close()
  other:close()
end)

test("a text for a service that takes only binary messages closes the connection", function()
  local listener = assert(socket.listen {
    on_data = function(connection, data)
      if connection.framing ~= "raw" then return connection:write(data) end
      connection:write_raw "ok\r\n\r\n"
      assert(connection:upgrade "websocket")
    end,
  })
  local connection = assert(socket.connect("127.0.0.1", listener.port, { framing = "head" }))
  connection:write_raw "shake"
  test.equal(connection:read(), "ok\r\n\r\n")
  test.ok(connection:upgrade "websocket")
  test.ok(connection:write_text "no")
  test.equal({ connection:read() }, { nil, "closed", "ended" })
  test.equal(connection.close_code, 1003)
  test.equal(connection.close_reason, "only binary messages are taken")
  listener:close()
end)

return test
