-- What a WebSocket server must do with frames, by RFC 6455: run by websocket_frames_test.lua
-- against an echo server. The sections are those that conformance suites have.

local cases = {}

-- Opcodes.
local CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

local MASK = "\x37\xfa\x21\x3d"

local function masked(body)
  local bytes = {}
  for i = 1, #body do
    bytes[i] = string.char(bit.bxor(body:byte(i), MASK:byte((i - 1) % 4 + 1)))
  end
  return table.concat(bytes)
end

local function big_endian(value, count)
  local bytes = {}
  for i = count, 1, -1 do
    bytes[i] = string.char(value % 256)
    value = math.floor(value / 256)
  end
  return table.concat(bytes)
end

---One frame as a client sends it.
---@param opcode integer
---@param body string?
---@param how { more: true?, reserved: integer?, unmasked: true?, length: integer?, form: 16|64|nil }?
---length: what the header says instead of the body's size; form: the bits of its length field
local function frame(opcode, body, how)
  how, body = how or {}, body or ""
  local length = how.length or #body
  local first = (how.more and 0 or 0x80) + (how.reserved or 0) * 16 + opcode
  local second = how.unmasked and 0 or 0x80
  local form = how.form or (length > 65535 and 64 or length > 125 and 16)
  local size
  if form == 64 then
    size = string.char(second + 127) .. big_endian(length, 8)
  elseif form == 16 then
    size = string.char(second + 126) .. big_endian(length, 2)
  else
    size = string.char(second + length)
  end
  return string.char(first) .. size .. (how.unmasked and body or MASK .. masked(body))
end

local function first_part(opcode, body) return frame(opcode, body, { more = true }) end
local function next_part(body) return frame(CONTINUATION, body, { more = true }) end
local function last_part(body) return frame(CONTINUATION, body) end
local function close(code, reason)
  return frame(CLOSE, code and big_endian(code, 2) .. (reason or "") or "")
end

local DONE = close(1000)
local OK = "close 1000"

-- `sent`: pieces; each is a write of its own. `wanted`: what comes back, in order.
local function case(name, sent, wanted)
  cases[#cases + 1] = { name = name, sent = sent, wanted = wanted }
end

-- The same case once at a time and once in single bytes.
local function in_pieces(name, sent, wanted)
  case(name, sent, wanted)
  local bytes = {}
  for byte in table.concat(sent):gmatch "." do bytes[#bytes + 1] = byte end
  case(name .. ", a byte at a time", bytes, wanted)
end

-- 1 Sizes -----------------------------------------------------------------------------------

for opcode, kind in pairs { [TEXT] = "text", [BINARY] = "binary" } do
  for _, size in ipairs { 0, 1, 125, 126, 127, 128, 1023, 1024, 1025, 65535, 65536 } do
    local body = ("*"):rep(size)
    case(("%s of %d bytes"):format(kind, size), { frame(opcode, body), DONE },
      { kind .. " " .. body, OK })
  end
  local body, pieces = ("*"):rep(65536), {}
  local bytes = frame(opcode, body)
  for from = 1, #bytes, 997 do pieces[#pieces + 1] = bytes:sub(from, from + 996) end
  pieces[#pieces + 1] = DONE
  case(kind .. " of 65536 bytes in pieces of 997", pieces, { kind .. " " .. body, OK })
end

-- 2 Pings and pongs ---------------------------------------------------------------------------

in_pieces("ping without a body", { frame(PING), DONE }, { "pong ", OK })
in_pieces("ping with a text", { frame(PING, "hello"), DONE }, { "pong hello", OK })
in_pieces("ping with bytes", { frame(PING, "\0\255\254\253\1"), DONE },
  { "pong \0\255\254\253\1", OK })
in_pieces("ping of 125 bytes", { frame(PING, ("\254"):rep(125)), DONE },
  { "pong " .. ("\254"):rep(125), OK })
case("ping of 126 bytes", { frame(PING, ("\254"):rep(126)) }, { "close 1002" })
case("pong that nobody asked for", { frame(PONG), DONE }, { OK })
case("pong with a body that nobody asked for", { frame(PONG, "x"), DONE }, { OK })
case("pong, then ping", { frame(PONG, "x"), frame(PING, "y"), DONE }, { "pong y", OK })
do
  local pings, pongs = {}, {}
  for i = 1, 10 do pings[i], pongs[i] = frame(PING, "p" .. i), "pong p" .. i end
  pings[11], pongs[11] = DONE, OK
  in_pieces("ten pings", pings, pongs)
end

-- 3 Reserved bits -----------------------------------------------------------------------------

for reserved = 1, 7 do
  case("reserved bits " .. reserved, { frame(TEXT, "x", { reserved = reserved }) },
    { "close 1002" })
  case("reserved bits " .. reserved .. " after a good message",
    { frame(TEXT, "good"), frame(BINARY, "x", { reserved = reserved }), frame(PING) },
    { "text good", "close 1002" })
  case("reserved bits " .. reserved .. " on a ping", { frame(PING, "x", { reserved = reserved }) },
    { "close 1002" })
end

-- 4 Opcodes that nobody has defined -------------------------------------------------------------

for _, opcode in ipairs { 3, 4, 5, 6, 7, 11, 12, 13, 14, 15 } do
  case("opcode " .. opcode, { frame(opcode) }, { "close 1002" })
  case(("opcode %d with a body, after a good message"):format(opcode),
    { frame(TEXT, "good"), frame(opcode, "x"), frame(PING) }, { "text good", "close 1002" })
end

-- 5 Fragments -----------------------------------------------------------------------------------

case("ping in two fragments", { first_part(PING, "a"), last_part "b" }, { "close 1002" })
case("pong in two fragments", { first_part(PONG, "a"), last_part "b" }, { "close 1002" })
case("close in two fragments", { first_part(CLOSE, "\3\232"), last_part "b" }, { "close 1002" })
for opcode, kind in pairs { [TEXT] = "text", [BINARY] = "binary" } do
  in_pieces(kind .. " in two fragments", { first_part(opcode, "one "), last_part "two", DONE },
    { kind .. " one two", OK })
  in_pieces(kind .. " in two fragments with a ping between",
    { first_part(opcode, "one "), frame(PING, "p"), last_part "two", DONE },
    { "pong p", kind .. " one two", OK })
  case(kind .. " in five fragments with pings between",
    { first_part(opcode, "1"), next_part "2", frame(PING, "a"), next_part "3", next_part "4",
      frame(PING, "b"), last_part "5", DONE },
    { "pong a", "pong b", kind .. " 12345", OK })
  case(kind .. " in empty fragments", { first_part(opcode, ""), next_part "", last_part "", DONE },
    { kind .. " ", OK })
  case(kind .. " with its middle alone", { first_part(opcode, ""), next_part "x", last_part "",
    DONE }, { kind .. " x", OK })
  case(kind .. " while one is under way", { first_part(opcode, "1"), frame(opcode, "2") },
    { "close 1002" })
  case("the other kind while a " .. kind .. " is under way",
    { first_part(opcode, "1"), frame(3 - opcode, "2") }, { "close 1002" })
  case(kind .. " that is never finished", { first_part(opcode, "1"), DONE }, { OK })
  case("a second message after a " .. kind .. " in fragments",
    { first_part(opcode, "1"), last_part "2", frame(opcode, "3"), DONE },
    { kind .. " 12", kind .. " 3", OK })
  case("continuation after a whole " .. kind, { frame(opcode, "1"), last_part "2" },
    { kind .. " 1", "close 1002" })
  case("unfinished continuation after a whole " .. kind, { frame(opcode, "1"), next_part "2" },
    { kind .. " 1", "close 1002" })
end
case("continuation first", { last_part "x" }, { "close 1002" })
case("unfinished continuation first", { next_part "x", last_part "y" }, { "close 1002" })
case("empty continuation first", { last_part "" }, { "close 1002" })

-- 6 UTF-8 -----------------------------------------------------------------------------------------

local VALID = {
  "Hello-µ@ßöäüàá-UTF-8!!", "\206\186\225\189\185\207\131\206\188\206\181", -- Greek
  "\0", "\127", "\194\128", "\223\191", "\224\160\128", "\239\191\191", "\240\144\128\128",
  "\244\143\191\191", "\237\159\191", "\238\128\128", "\239\191\189", "\239\191\190",
  "\240\159\191\190", "\240\159\191\191", "\240\175\191\190", "\240\191\191\191",
  "\241\143\191\190", "\241\159\191\191", "\242\143\191\190", "\243\191\191\191",
  "\244\128\128\128", "안녕하세요", "日本語", "😀😁", ("ä"):rep(600), ("x"):rep(1023) .. "ä",
}
for number, text in ipairs(VALID) do
  local name = ("valid text %d"):format(number)
  case(name, { frame(TEXT, text), DONE }, { "text " .. text, OK })
  local half = math.floor(#text / 2)
  case(name .. ", cut anywhere", { first_part(TEXT, text:sub(1, half)),
    last_part(text:sub(half + 1)), DONE }, { "text " .. text, OK })
end
do
  local text, parts = VALID[2], {}
  for i = 1, #text do
    local make = i == 1 and function(b) return first_part(TEXT, b) end or next_part
    parts[i] = make(text:sub(i, i))
  end
  parts[#parts + 1], parts[#parts + 2] = last_part "", DONE
  case("a text in fragments of one byte", parts, { "text " .. text, OK })
end

local INVALID = {
  "\128", "\191", "\128\191", "\128\191\128", "\128\191\128\191\128\191", -- continuations alone
  "\193\191", "\192\128", "\192\175", "\224\128\175", "\224\159\191", "\240\128\128\175",
  "\240\143\191\191", "\248\136\128\128\128", "\248\128\128\128\175", "\252\132\128\128\128\128",
  "\252\128\128\128\128\175", -- longer than need be
  "\237\160\128", "\237\173\191", "\237\174\128", "\237\175\191", "\237\176\128", "\237\190\128",
  "\237\191\191", "\237\160\128\237\176\128", -- surrogates
  "\244\144\128\128", "\245\128\128\128", "\247\191\191\191", "\251\191\191\191\191",
  "\253\191\191\191\191\191", "\254", "\255", "\254\254\255\255", -- too large, never used
  "\192 ", "\194 ", "\223 ", "\224 ", "\239 ", "\240 ", "\244 ", -- a lead without what follows
  "\224\128 ", "\225\128 ", "\240\144 ", "\240\144\128 ",
  "\206\186\225\189\185\207\131\206\188\206\181\237\160\128edited",
  "\206\186\225\189\185\207\131\206\188\206\181\244\144\128\128edited",
}
for number, text in ipairs(INVALID) do
  local name = ("invalid text %d"):format(number)
  case(name, { frame(TEXT, text) }, { "close 1007" })
  case(name .. " in the second fragment", { first_part(TEXT, "good"), last_part(text) },
    { "close 1007" })
end
for number, text in ipairs { "\194", "\223", "\224", "\224\160", "\239\191", "\240", "\240\144",
  "\240\144\128", "\244\143\191" } do
  case(("text that ends within a character %d"):format(number), { frame(TEXT, text) },
    { "close 1007" })
  case(("text that ends within a character %d, after fragments"):format(number),
    { first_part(TEXT, "x" .. text), last_part "" }, { "close 1007" })
end
case("an invalid text is refused before it ends",
  { first_part(TEXT, "good \244\144"), next_part "never looked at" }, { "close 1007" })
case("an invalid text is refused within its frame",
  { frame(TEXT, "good \244\144" .. ("x"):rep(2000)):sub(1, 60) }, { "close 1007" })
case("binary need not be UTF-8", { frame(BINARY, "\237\160\128\255"), DONE },
  { "binary \237\160\128\255", OK })

-- 7 Closing ---------------------------------------------------------------------------------------

case("close after a message", { frame(TEXT, "x"), DONE }, { "text x", OK })
case("close at once", { DONE }, { OK })
case("two closes", { DONE, DONE }, { OK })
case("ping after a close", { DONE, frame(PING) }, { OK })
case("message after a close", { DONE, frame(TEXT, "x") }, { OK })
case("rest of a message after a close", { first_part(TEXT, "x"), DONE, last_part "y" }, { OK })
case("large message, then close", { frame(BINARY, ("x"):rep(60000)), DONE },
  { "binary " .. ("x"):rep(60000), OK })
in_pieces("close without a code", { frame(CLOSE) }, { "close" })
case("close with half a code", { frame(CLOSE, "\3") }, { "close 1002" })
in_pieces("close with a reason", { close(1000, "bye") }, { OK })
case("close with a reason of 123 bytes", { close(1000, ("*"):rep(123)) }, { OK })
case("close with a reason of 124 bytes", { close(1000, ("*"):rep(124)) }, { "close 1002" })
case("close with a reason that is no UTF-8", { close(1000, "\206\186\237\160\128") },
  { "close 1007" })
for _, code in ipairs { 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014,
  3000, 3999, 4000, 4999 } do
  case("close with code " .. code, { close(code) }, { "close " .. code })
  case(("close with code %d and a reason"):format(code), { close(code, "why") },
    { "close " .. code })
end
for _, code in ipairs { 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535 } do
  case("close with code " .. code .. ", which is none", { close(code) }, { "close 1002" })
  case(("close with code %d, which is none, and a reason"):format(code), { close(code, "why") },
    { "close 1002" })
end

-- 8 Masks and lengths -----------------------------------------------------------------------------

case("text without a mask", { frame(TEXT, "x", { unmasked = true }) }, { "close 1002" })
case("ping without a mask", { frame(PING, "x", { unmasked = true }) }, { "close 1002" })
case("close without a mask", { frame(CLOSE, "", { unmasked = true }) }, { "close 1002" })
for _, size in ipairs { 0, 1, 125 } do
  local body = ("x"):rep(size)
  case(("%d bytes with a length of 16 bits"):format(size), { frame(BINARY, body, { form = 16 }) },
    { "close 1002" })
  case(("%d bytes with a length of 64 bits"):format(size), { frame(BINARY, body, { form = 64 }) },
    { "close 1002" })
end
case("65535 bytes with a length of 64 bits",
  { frame(BINARY, ("x"):rep(65535), { form = 64 }):sub(1, 100) }, { "close 1002" })
case("a length with its highest bit set",
  { "\130\255\128\0\0\0\0\0\0\1" .. MASK .. "x" }, { "close 1002" })
case("one byte too many, refused from the header alone",
  { frame(BINARY, "", { length = 65537 }):sub(1, 14) }, { "close 1009" })
case("2^31 bytes, refused from the header alone",
  { frame(BINARY, "", { length = 2 ^ 31 }):sub(1, 14) }, { "close 1009" })
case("2^62 bytes, refused from the header alone",
  { "\130\255\64\0\0\0\0\0\0\0" .. MASK }, { "close 1009" })
case("fragments that are too large together",
  { first_part(BINARY, ("x"):rep(40000)), frame(CONTINUATION, "", { length = 25537 }):sub(1, 8) },
  { "close 1009" })
case("fragments that just fit",
  { first_part(BINARY, ("x"):rep(40000)), last_part(("y"):rep(25536)), DONE },
  { "binary " .. ("x"):rep(40000) .. ("y"):rep(25536), OK })

return cases
