local http = require "perilune.http"
local perilune = require "perilune"
local socket = require "perilune.socket"
local test = require "perilune.test"

local FOLDER = "test/lua/tls/"
local TLS = { certificate = FOLDER .. "certificate.pem", key = FOLDER .. "key.pem" }
local TRUST = { ca = TLS.certificate }

-- Runs the body with a service that is asked by it alone.
local function with_reach(limit_ms, targets, body)
  local service = perilune.spawn("reach",
    { port = 0, limit_ms = limit_ms, every_ms = 3600000, targets = targets })
  local ok, problem = pcall(body, service)
  http.close_idle()
  perilune.stop(service)
  if not ok then error(problem, 0) end
end

local function find(found, address)
  for _, one in ipairs(found.addresses) do
    if one.address == address then return one end
  end
end

test("a server is reached at its addresses, with and without TLS", function()
  local plain, secure = assert(socket.listen {}), assert(socket.listen { tls = TLS })
  local targets = {
    { host = "localhost", port = plain.port },
    { host = "localhost", port = secure.port, tls = TRUST },
  }
  with_reach(20000, targets, function(service)
    local report = perilune.call_within(50000, service, "round")
    for _, target in ipairs(targets) do
      local one = find(report["localhost:" .. target.port], "127.0.0.1")
      test.equal(one.message, nil)
      test.ok(one.ms >= 0 and one.ms < 20000, one.ms)
    end
    local page = assert(http.get("http://127.0.0.1:" .. perilune.call(service, "port")))
    test.ok(find(page:json()["localhost:" .. plain.port], "127.0.0.1").ms)
  end)
  plain:close()
  secure:close()
end)

test("each way of not being reached is told", function()
  local secure = assert(socket.listen { tls = TLS })
  with_reach(10000, {}, function(service)
    local function check(host, port, tls)
      return perilune.call_within(50000, service, "check", { host = host, port = port, tls = tls })
    end
    local refused = check("127.0.0.1", 1).addresses[1]
    test.equal({ refused.address, refused.code }, { "127.0.0.1", "unavailable" })
    test.ok(refused.message:find "refused", refused.message)
    local stranger = check("127.0.0.1", secure.port, true).addresses[1]
    test.ok(stranger.message:find "self%-signed", stranger.message)
    local nameless = check("nobody.invalid", 1) -- without a network no resolver answers
    test.ok(nameless.code == "not_found" or nameless.code == "unavailable" or
      nameless.code == "timeout", nameless.code)
    test.equal(nameless.addresses, nil)
    test.equal(check("no\0name", 1).code, "invalid")
  end)
  secure:close()
end)

test("a server that doesn't answer is given up in time", function()
  -- It accepts, and then says nothing, so that TLS waits for it.
  local silent = assert(socket.listen {})
  with_reach(200, {}, function(service)
    local began = perilune.now()
    local late = perilune.call_within(30000, service, "check",
      { host = "127.0.0.1", port = silent.port, tls = true }).addresses[1]
    test.equal(late.code, "unavailable")
    test.ok(late.message:find "time", late.message)
    test.ok(perilune.now() - began >= 200)
  end)
  silent:close()
end)

test("rounds that would overlap are refused", function()
  test.raises(function()
    perilune.spawn("reach", { port = 0, targets = {}, limit_ms = 10, every_ms = 19 })
  end, "twice limit_ms")
end)

return test
