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

test("no worker waits for it", function()
  local hash, turns = nil, 0
  perilune.fork(function() hash = assert(password.hash "x") end)
  while not hash do
    perilune.sleep(1)
    turns = turns + 1
  end
  test.ok(turns >= 1, "this service went on")
end)

test("more than the pool takes is refused, and nothing is lost", function()
  local codes, count = { done = 0, overloaded = 0 }, 1000
  local left = count
  for _ = 1, count do
    perilune.fork(function()
      local _, _, code = password.verify("password", REFERENCE)
      codes[code or "done"] = (codes[code or "done"] or 0) + 1
      left = left - 1
    end)
  end
  test.eventually(function() return left == 0 end, 25000)
  test.ok(codes.overloaded > 0 and codes.done > 0, codes.overloaded)
  test.equal(codes.overloaded + codes.done, count)
end)

return test
