-- Host names: what is found, and each way of not finding it.

local dns = require "perilune.dns"
local perilune = require "perilune"
local test = require "perilune.test"

test("an address is its own", function()
  test.equal(dns.resolve "127.0.0.1", { "127.0.0.1" })
  test.equal(dns.resolve "::1", { "::1" })
end)

test("localhost is this machine", function()
  local addresses = assert(dns.resolve("localhost", 20000))
  for _, address in ipairs(addresses) do
    test.ok(address == "::1" or address:find "^127%.", address)
  end
  test.ok(#addresses >= 1)
end)

test("a name that can't be is not found", function()
  -- Reserved for that (RFC 2606); without a network the resolver is what is missing.
  local addresses, message, code = dns.resolve("nobody.invalid", 25000)
  test.equal(addresses, nil)
  test.ok(code == "not_found" or code == "unavailable" or code == "timeout", code)
  test.ok(message:find("nobody.invalid", 1, true), message)
end)

test("what isn't a name is invalid", function()
  for _, name in ipairs { "", ("x"):rep(254), "a\0b" } do
    local addresses, _, code = dns.resolve(name)
    test.equal(addresses, nil)
    test.equal(code, "invalid")
  end
  test.raises(function() dns.resolve(5) end, "a name expected, got number")
  test.raises(function() dns.resolve("localhost", 0) end, "a limit from 1")
end)

test("more look-ups than the pool takes are refused, and none is lost", function()
  -- Some wait in the queue of the pool, some don't get into it.
  local codes, left = {}, 300
  for _ = 1, left do
    perilune.fork(function()
      local addresses, _, code = dns.resolve("localhost", 20000)
      local kind = addresses and "found" or code
      codes[kind] = (codes[kind] or 0) + 1
      left = left - 1
    end)
  end
  test.eventually(function() return left == 0 end, 25000)
  for kind in pairs(codes) do
    test.ok(kind == "found" or kind == "overloaded", kind)
  end
  test.ok(codes.found > 0)
end)

return test
