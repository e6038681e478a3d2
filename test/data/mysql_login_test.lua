-- How perilune.mysql proves a password: a server of our own here asks for it in each way that there
-- is, since MariaDB's has no caching_sha2_password.

local bit = require "bit"
local crypto = require "perilune.crypto"
local helper = require "sql_helper"
local mysql = require "perilune.mysql"
local perilune = require "perilune"
local socket = require "perilune.socket"
local test = require "perilune.test"

local PASSWORD = "p@ss:w/rd#?%"
local SCRAMBLE = "abcdefgh12345678!?-+"
local OK = "\0\0\0\2\0\0\0"
local DENIED = "\255\21\4#28000Access denied for user 'tester'"

-- CLIENT_LONG_PASSWORD, FOUND_ROWS, CONNECT_WITH_DB, PROTOCOL_41, TRANSACTIONS,
-- SECURE_CONNECTION; MULTI_RESULTS, PS_MULTI_RESULTS, PLUGIN_AUTH.
local CAPABILITIES = { "\11\162", "\14\0" }

local function greeting(plugin)
  return "\10" .. "8.0.30\0" .. "\1\0\0\0" .. SCRAMBLE:sub(1, 8) .. "\0" .. CAPABILITIES[1] ..
    "\45" .. "\2\0" .. CAPABILITIES[2] .. "\21" .. ("\0"):rep(10) .. SCRAMBLE:sub(9) .. "\0" ..
    plugin .. "\0"
end

local function switch_to(plugin) return "\254" .. plugin .. "\0" .. SCRAMBLE .. "\0" end

local function xor(a, b)
  local bytes = {}
  for i = 1, #a do
    bytes[i] = string.char(bit.bxor(a:byte(i), b:byte((i - 1) % #b + 1)))
  end
  return table.concat(bytes)
end

-- What a client has to answer that knows the password.
local PROOFS = {
  caching_sha2_password = function()
    local once = crypto.sha256(PASSWORD)
    return xor(once, crypto.sha256(crypto.sha256(once) .. SCRAMBLE))
  end,
  mysql_native_password = function()
    local once = crypto.sha1(PASSWORD)
    return xor(once, crypto.sha1(SCRAMBLE .. crypto.sha1(once)))
  end,
}

-- The fields of a client's login.
local function read_login(payload)
  local login = { charset = payload:byte(9) }
  local at = payload:find("\0", 33, true)
  login.user = payload:sub(33, at - 1)
  local size = payload:byte(at + 1)
  login.proof = payload:sub(at + 2, at + 1 + size)
  login.database, login.plugin = payload:sub(at + 2 + size):match "^(%Z*)%z(%Z*)%z"
  return login
end

-- Runs `script(connection)` for each connection; `receive` and `send` of it are packets. All that a
-- client sends is in `received`.
local function listen(script)
  local server = { received = "" }
  server.listener = assert(socket.listen {
    framing = "raw",
    on_open = function(connection)
      local peer, sequence = {}, 0
      function peer.receive()
        local head = connection:read(4)
        if not head then return nil end
        sequence = head:byte(4) + 1
        local payload = connection:read(head:byte(1) + head:byte(2) * 256)
        server.received = server.received .. (payload or "")
        return payload
      end
      function peer.send(payload)
        connection:write(string.char(#payload % 256, math.floor(#payload / 256), 0, sequence) ..
          payload)
        sequence = sequence + 1
      end
      script(peer)
      while peer.receive() do peer.send(OK) end -- each statement is done
      connection:close()
    end,
  })
  return server
end

-- How a server of that script is found: nil when requests are answered, or the error.
local function ask(script, options)
  local server = listen(script)
  local db = mysql.connect(helper.address(server.listener.port), options)
  local ok, problem = pcall(db.ping, db)
  db:close()
  server.listener:close()
  test.eventually(function() return perilune.node().counters.mysql_connections == 0 end)
  if ok then return nil, server end
  return problem, server
end

local function login_is_right(login, plugin)
  test.equal({ login.user, login.database, login.plugin }, { "tester", "test", plugin })
  test.ok(login.proof == PROOFS[plugin](), "a wrong proof of the password")
end

for plugin, more in pairs { caching_sha2_password = "\1\3", mysql_native_password = false } do
  test("mysql: a password is proven by " .. plugin .. ", with utf8mb4 from the beginning", function()
    local login
    test.equal(ask(function(peer)
      peer.send(greeting(plugin))
      login = read_login(peer.receive())
      if more then peer.send(more) end -- what the server has in its cache is right
      peer.send(OK)
    end), nil)
    login_is_right(login, plugin)
    test.equal(login.charset, 45)
  end)

  test("mysql: a server may ask for " .. plugin .. " after another one was tried", function()
    local proof
    local first = next(PROOFS, plugin) or next(PROOFS)
    test.equal(ask(function(peer)
      peer.send(greeting(first))
      peer.receive()
      peer.send(switch_to(plugin))
      proof = peer.receive()
      if more then peer.send(more) end
      peer.send(OK)
    end), nil)
    test.ok(proof == PROOFS[plugin](), "a wrong proof of the password")
  end)

  test("mysql: a login by " .. plugin .. " that is refused is denied, in the server's words",
    function()
      local problem = ask(function(peer)
        peer.send(greeting(plugin))
        peer.receive()
        peer.send(DENIED)
      end, { timeout_ms = 60000 })
      test.equal({ problem.code, problem.native, problem.sqlstate, problem.message },
        { "denied", 1045, "28000", "Access denied for user 'tester'" })
    end)
end

-- What openssl says.
local function openssl(command)
  local pipe = assert(io.popen("openssl " .. command .. " 2>/dev/null"))
  local output = pipe:read "*a"
  pipe:close()
  return output
end

local function with_file(bytes, body)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(bytes)
  file:close()
  local result = body(path)
  os.remove(path)
  return result
end

test("mysql: caching_sha2_password without a cache encrypts the password for the server's key",
  function()
    local key = openssl "genrsa 2048"
    local public = with_file(key, function(path) return openssl("rsa -pubout -in " .. path) end)
    local asked, sealed
    local problem, server = ask(function(peer)
      peer.send(greeting "caching_sha2_password")
      peer.receive()
      peer.send "\1\4" -- it isn't in the cache
      asked = peer.receive()
      peer.send("\1" .. public)
      sealed = peer.receive()
      peer.send(OK)
    end)
    test.equal(problem, nil)
    test.equal(asked, "\2")
    test.equal(#sealed, 256)
    local opened = with_file(key, function(key_path)
      return with_file(sealed, function(path)
        return openssl(("pkeyutl -decrypt -inkey %s -pkeyopt rsa_padding_mode:oaep -in %s")
          :format(key_path, path))
      end)
    end)
    test.equal(xor(opened, SCRAMBLE), PASSWORD .. "\0")
    test.ok(not server.received:find(PASSWORD, 1, true))
  end)

test("mysql: a server that wants the password in the clear, or a key that is none, doesn't get it",
  function()
    local scripts = {
      clear = function(peer)
        peer.send(greeting "caching_sha2_password")
        peer.receive()
        peer.send(switch_to "mysql_clear_password")
        peer.receive()
      end,
      clear_at_once = function(peer)
        peer.send(greeting "mysql_clear_password")
        peer.receive()
      end,
      unknown = function(peer)
        peer.send(greeting "mysql_native_password")
        peer.receive()
        peer.send(switch_to "../../../tmp/evil")
        peer.receive()
      end,
      no_key = function(peer)
        peer.send(greeting "caching_sha2_password")
        peer.receive()
        peer.send "\1\4"
        peer.receive()
        peer.send "\1-----BEGIN PUBLIC KEY-----\nnone\n-----END PUBLIC KEY-----\n"
        peer.receive()
      end,
      empty_key = function(peer)
        peer.send(greeting "caching_sha2_password")
        peer.receive()
        peer.send "\1\4"
        peer.receive()
        peer.send "\1"
        peer.receive()
      end,
    }
    for name, script in pairs(scripts) do
      local problem, server = ask(script, { timeout_ms = 1000 })
      test.ok(problem, name)
      test.ok(problem.code == "denied" or problem.code == "unavailable", tostring(problem))
      test.ok(not server.received:find(PASSWORD, 1, true), name)
      test.ok(not problem.message:find(PASSWORD, 1, true), problem.message)
    end
  end)

test("mysql: a server that sends rubbish in the place of an answer is left", function()
  for _, answer in ipairs {
    "\1", "\1\9", "\254", "\254\0", "", "\251/etc/passwd", "\3\1\2\3", "\0", "\255", "\255\1",
    "\254mysql_native_password\0short\0", "\254caching_sha2_password\0\0",
  } do
    local problem, server = ask(function(peer)
      peer.send(greeting "caching_sha2_password")
      peer.receive()
      peer.send(answer)
      peer.receive()
      peer.send(answer)
      peer.receive()
      peer.send(answer)
    end, { timeout_ms = 300, connect_ms = 200 })
    local name = crypto.hex(answer)
    if problem then
      test.ok(problem.code ~= "timeout", name .. ": " .. tostring(problem))
    else
      -- An OK packet may be that short: it is one.
      test.equal(answer, "\0")
    end
    test.ok(not server.received:find("root:", 1, true), name)
  end
end)

return test
