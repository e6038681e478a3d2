-- perilune.crypto against known vectors.

local test = require "perilune.test"
local crypto = require "perilune.crypto"

local hex, unhex = crypto.hex, crypto.unhex

test("digests of FIPS 180 and RFC 1321", function()
  local long = ("a"):rep(1000000)
  local two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
  test.equal(hex(crypto.sha256 "abc"),
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
  test.equal(hex(crypto.sha256 ""),
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
  test.equal(hex(crypto.sha256(two)),
    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
  test.equal(hex(crypto.sha256(long)),
    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
  test.equal(hex(crypto.sha1 "abc"), "a9993e364706816aba3e25717850c26c9cd0d89d")
  test.equal(hex(crypto.sha1(two)), "84983e441c3bd26ebaae4aa1f95129e5e54670f1")
  test.equal(hex(crypto.sha1(long)), "34aa973cd4c4daa4f61eeb2bdbad27316534016f")
  test.equal(hex(crypto.md5 ""), "d41d8cd98f00b204e9800998ecf8427e")
  test.equal(hex(crypto.md5 "message digest"), "f96b697d7cb7938d525a2f31aaf161d0")
end)

-- key, data, what hmac_sha256 gives
local RFC_4231 = {
  { ("\11"):rep(20), "Hi There",
    "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7" },
  { "Jefe", "what do ya want for nothing?",
    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" },
  { ("\170"):rep(20), ("\221"):rep(50),
    "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe" },
  { unhex "0102030405060708090a0b0c0d0e0f10111213141516171819", ("\205"):rep(50),
    "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b" },
  { ("\170"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First",
    "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54" },
  { ("\170"):rep(131), "This is a test using a larger than block-size key and a larger than "
    .. "block-size data. The key needs to be hashed before being used by the HMAC algorithm.",
    "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2" },
}

test("hmac_sha256 of RFC 4231", function()
  for i, vector in ipairs(RFC_4231) do
    test.equal(hex(crypto.hmac_sha256(vector[1], vector[2])), vector[3], "vector " .. i)
  end
end)

test("hmac_sha1 of RFC 2202, and empty keys and data", function()
  test.equal(hex(crypto.hmac_sha1(("\11"):rep(20), "Hi There")),
    "b617318655057264e28bc0b6fb378c8ef146be00")
  test.equal(hex(crypto.hmac_sha1("Jefe", "what do ya want for nothing?")),
    "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")
  test.equal(hex(crypto.hmac_sha256("", "")),
    "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")
end)

-- RFC 4648
local BASE64 = {
  [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=",
  foobar = "Zm9vYmFy", ["\251\255\191"] = "+/+/", ["\0"] = "AA==",
}

test("base64 of RFC 4648, both alphabets", function()
  for data, text in pairs(BASE64) do
    test.equal(crypto.base64_encode(data), text)
    test.equal(crypto.base64_decode(text), data)
    local url = text:gsub("%+", "-"):gsub("/", "_"):gsub("=", "")
    test.equal(crypto.base64url_encode(data), url)
    test.equal(crypto.base64url_decode(url), data)
    test.equal(crypto.base64url_decode(url .. ("="):rep(-#url % 4)), data)
  end
end)

test("base64 refuses what is none", function()
  local bad = { "Zg", "Zg=", "Zg===", "=", "====", "Z===", "Zm9v\n", "Zm 9", "Zm9-", "Zh==", "Zm9=",
    "Zg==Zg==", "Zm\0v", "Zm9\255" }
  for _, text in ipairs(bad) do
    local data, message, code = crypto.base64_decode(text)
    test.equal(data, nil, text)
    test.ok(message)
    test.equal(code, "invalid")
  end
  for _, text in ipairs { "A", "Zm9vA", "Zm+v", "Zh", "Zg=" } do
    test.equal(crypto.base64url_decode(text), nil, text)
  end
end)

test("all strings survive hex and base64", function()
  for size = 0, 700, 7 do
    local data = crypto.random_bytes(size)
    test.equal(#data, size)
    test.equal(unhex(hex(data)), data)
    test.equal(unhex(hex(data):upper()), data)
    test.equal(crypto.base64_decode(crypto.base64_encode(data)), data)
    test.equal(crypto.base64url_decode(crypto.base64url_encode(data)), data)
  end
end)

test("unhex refuses what is none", function()
  for _, text in ipairs { "0", "0g", "g0", " 0", "0x", "\0\0", "é" } do
    local data, _, code = unhex(text)
    test.equal(data, nil, text)
    test.equal(code, "invalid")
  end
end)

test("random bytes differ and their count is checked", function()
  test.ok(crypto.random_bytes(16) ~= crypto.random_bytes(16))
  test.equal(#crypto.random_bytes(1048576), 1048576)
  for _, count in ipairs { -1, 1048577, 1.5, 0 / 0, 1 / 0 } do
    test.raises(function() crypto.random_bytes(count) end, "bad argument #1")
  end
end)

test("equal compares whole strings", function()
  test.equal(crypto.equal("", ""), true)
  test.equal(crypto.equal("secret\0a", "secret\0a"), true)
  test.equal(crypto.equal("secret\0a", "secret\0b"), false)
  test.equal(crypto.equal("secret", "secret1"), false)
end)

test("what is too long or no string raises", function()
  local long = ("x"):rep(2 ^ 24 + 1)
  local names = { "md5", "sha1", "sha256", "hex", "unhex", "base64_encode", "base64_decode" }
  for _, name in ipairs(names) do
    test.raises(function() crypto[name](long) end, "longer than 16 MB")
    test.raises(function() crypto[name] {} end, "string expected")
    test.raises(function() crypto[name]() end, "string expected")
  end
  test.equal(#crypto.hex(long:sub(2)), 2 ^ 25)
end)

return test
