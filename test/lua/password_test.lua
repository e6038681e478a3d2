-- Hashes of passwords: they are argon2id, each with a salt, and bounded in what they take.

local password = require "perilune.password"
local perilune = require "perilune"
local test = require "perilune.test"

-- Of the reference implementation's own tests (phc-winner-argon2, test.c): "password", "somesalt".
local REFERENCE = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ"
  .. "$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"

test("a password is that of its hash, and no other is", function()
  local hash = assert(password.hash "correct horse")
  test.ok(hash:find("^%$argon2id%$v=19%$m=19456,t=2,p=1%$"), hash)
  test.ok(hash ~= assert(password.hash "correct horse"), "a salt each")
  test.equal(password.verify("correct horse", hash), true)
  test.equal(password.verify("correct horsE", hash), false)
  test.equal(password.verify("", hash), false)
end)

test("bytes of any kind are a password", function()
  local text = "пароль\0😀"
  local hash = assert(password.hash(text))
  test.equal(password.verify(text, hash), true)
  test.equal(password.verify("пароль", hash), false)
end)

test("a hash of another program is understood", function()
  test.equal(password.verify("password", REFERENCE), true)
  test.equal(password.verify("Password", REFERENCE), false)
end)

test("what is no hash, or costs too much, is refused", function()
  local wrong = {
    "", "secret", "$argon2id$", "$argon2i" .. REFERENCE:sub(10), REFERENCE:sub(1, -3) .. "!!",
    REFERENCE:gsub("m=256", "m=4000000000"), REFERENCE:gsub("t=2", "t=1000000"),
    REFERENCE:gsub("p=1", "p=9"), ("x"):rep(500),
  }
  for _, hash in ipairs(wrong) do
    local right, _, code = password.verify("password", hash)
    test.equal({ right, code }, { nil, "invalid" }, hash)
  end
  test.raises(function() password.hash(("x"):rep(1025)) end, "at most 1024 bytes")
  test.raises(function() password.hash(5) end, "password.hash")
  test.raises(function() password.hash("x", 0) end, "a limit from 1")
end)

test("no worker waits for it, and more than the pool takes is refused", function()
  local codes, left, turns = {}, 300, 0
  for _ = 1, left do
    perilune.fork(function()
      local hash, _, code = password.hash "x"
      codes[code or (hash and "done")] = (codes[code or "done"] or 0) + 1
      left = left - 1
    end)
  end
  while (codes.done or 0) == 0 do
    perilune.sleep(1)
    turns = turns + 1
  end
  test.ok(turns > 1, "this service went on")
  test.eventually(function() return left == 0 end, 60000)
  test.ok(codes.overloaded > 0 and codes.done >= 256, codes.done)
  test.equal(codes.overloaded + codes.done, 300)
end, 90000)

return test
