local perilune = require "perilune"
local socket = require "perilune.socket"
local test = require "perilune.test"

local FOLDER = "test/lua/tls/" -- certificates of localhost and of elsewhere.example
local WAIT_MS = 20000

local function copy(name, to)
  local from, out = assert(io.open(FOLDER .. name)), assert(io.open(to, "w"))
  out:write(from:read "*a")
  out:close()
  from:close()
end

-- Runs the body with a chat whose certificate can be replaced, and its ports.
local function with_chat(body)
  local file = os.tmpname()
  local certificate, key = file .. ".crt", file .. ".key"
  local function put(prefix)
    copy(prefix .. "certificate.pem", certificate)
    copy(prefix .. "key.pem", key)
  end
  put ""
  local chat = perilune.spawn("lines",
    { port = 0, tls_port = 0, certificate = certificate, key = key })
  local port, tls_port = perilune.call(chat, "ports")
  local ok, problem = pcall(body, { service = chat, port = port, tls_port = tls_port,
    certificate = certificate, put = put })
  perilune.stop(chat)
  for _, name in ipairs { file, certificate, key } do os.remove(name) end
  if not ok then error(problem, 0) end
end

local function join(port, name, tls)
  local connection = assert(socket.connect("localhost", port, { framing = "line", tls = tls }))
  test.equal(connection:read(nil, WAIT_MS), "Your name?")
  connection:write(name)
  test.equal(connection:read(nil, WAIT_MS), name .. " is here.")
  return connection
end

local function expect(connection, line) test.equal(connection:read(nil, WAIT_MS), line) end

test("a line reaches everybody else, over TCP and over TLS", function()
  with_chat(function(chat)
    local ann = join(chat.port, "Ann")
    local ben = join(chat.tls_port, "Ben", { ca = chat.certificate })
    expect(ann, "Ben is here.")
    ben:write "hello\27[2J\194\155"
    expect(ann, "Ben: hello [2J")
    ann:write "/who"
    expect(ann, "Ann, Ben")
    ben:write "/quit"
    test.equal({ ben:read(nil, WAIT_MS) }, { nil, "closed", "ended" })
    expect(ann, "Ben is gone (closed).")
    ann:close()
  end)
end)

test("names are short, and one at a time", function()
  with_chat(function(chat)
    local ann = join(chat.port, "Ann")
    local other = assert(socket.connect("localhost", chat.port, { framing = "line" }))
    expect(other, "Your name?")
    for _, name in ipairs { "", " \9 ", ("x"):rep(21) } do
      other:write(name)
      expect(other, "A name of 1 to 20 bytes, please.")
    end
    other:write "Ann"
    expect(other, "Somebody has that name.")
    ann:close()
    other:close()
  end)
end)

test("who sends too much is told, and who sends a line that is too long is gone", function()
  with_chat(function(chat)
    local ann, ben = join(chat.port, "Ann"), join(chat.port, "Ben")
    expect(ann, "Ben is here.")
    for _ = 1, 200 do ben:write "again" end
    test.eventually(function() return ben:read(nil, WAIT_MS) == "Slowly, please." end)
    ben:write(("x"):rep(401))
    local said = 0
    for line in ann:each() do
      if line == "Ben is gone (too_large)." then break end
      test.equal(line, "Ben: again")
      said = said + 1
    end
    test.ok(said >= 20 and said < 200, said)
    ann:close()
    ben:close()
  end)
end)

test("a new certificate is used without a restart, and one that is no good is not", function()
  with_chat(function(chat)
    local ann = join(chat.tls_port, "Ann", { ca = chat.certificate })
    copy("other_certificate.pem", chat.certificate) -- whose key is still the old one
    local ok, message = perilune.call(chat.service, "renew")
    test.equal(ok, nil)
    test.ok(message:find(".key", 1, true), message)
    chat.put "other_"
    test.equal(perilune.call(chat.service, "renew"), true)
    local tls = { ca = chat.certificate, server_name = "elsewhere.example" }
    local ben = join(chat.tls_port, "Ben", tls)
    expect(ann, "Ben is here.")
    ann:close()
    ben:close()
  end)
end)

-- What the scribe has once it is there and has heard a line.
local function heard(scribe, line)
  return test.eventually(function()
    local lines = perilune.call(scribe, "last", 1)
    return lines[1] == line
  end, WAIT_MS)
end

test("the scribe writes down what is said, and comes back", function()
  with_chat(function(chat)
    local ann = join(chat.port, "Ann")
    local scribe = perilune.spawn("scribe", { port = chat.tls_port, ca = chat.certificate })
    expect(ann, "scribe is here.")
    ann:write "one"
    heard(scribe, "Ann: one")
    ann:close()
    heard(scribe, "Ann is gone (ended).")
    perilune.stop(chat.service)
    heard(scribe, "The chat ends.")
    chat.service = perilune.spawn("lines", { port = 0, tls_port = chat.tls_port,
      certificate = chat.certificate, key = chat.certificate:gsub("crt$", "key") })
    heard(scribe, "scribe is here.")
    perilune.stop(scribe)
    perilune.stop(chat.service)
  end)
end)

test("the scribe says nothing to a server that it can't verify", function()
  with_chat(function(chat)
    local ann = join(chat.port, "Ann")
    local scribe = perilune.spawn("scribe",
      { port = chat.tls_port, ca = FOLDER .. "other_certificate.pem" })
    test.eventually(function()
      local lines, trouble = perilune.call(scribe, "last")
      test.equal(lines, {})
      return trouble and trouble:find("tls: self-signed certificate", 1, true)
    end, WAIT_MS)
    ann:write "/who"
    expect(ann, "Ann")
    perilune.stop(scribe)
    ann:close()
  end)
end)

return test
