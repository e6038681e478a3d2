-- HTTP from both ends: routes, bodies, limits, files, keep-alive; requests, redirects, time-outs.

local file = require "perilune.file"
local http = require "perilune.http"
local perilune = require "perilune"
local socket = require "perilune.socket"
local test = require "perilune.test"
local url = require "perilune.http.url"

local HOST = "127.0.0.1"
local LONG = 20000 -- a limit that only a broken program reaches

local function serve(options)
  local server = assert(http.listen(options))
  return server, ("http://%s:%d"):format(HOST, server.port)
end

-- Sends bytes and returns all that comes back until the server closes.
local function exchange(port, text)
  local connection = assert(socket.connect(HOST, port))
  connection:write(text)
  local parts = {}
  for data in connection:each "any" do parts[#parts + 1] = data end
  return table.concat(parts)
end

-- The status of the one response to these bytes, after which the server closes.
local function status_of(port, text)
  return tonumber(exchange(port, text):match "^HTTP/1.1 (%d%d%d)")
end

-- Calls with a limit in ms until it returns something: on a busy machine a small limit may be over
-- before what is looked at has begun.
local function with_limit(ms, body)
  local value
  repeat
    value = body(ms)
    ms = ms * 3
  until value or ms > LONG
  return value
end

-- A test with a server, which is closed behind it.
local function with_server(name, options, body)
  test(name, function()
    local given = type(options) == "function" and options() or options
    local server, base = serve(given)
    local ok, problem = xpcall(body, debug.traceback, server.port, base, server)
    http.close_idle()
    server:close()
    if not ok then error(problem, 0) end
  end)
end

local ECHO = {
  routes = {
    ["GET /"] = function() return "root" end,
    ["GET /users/:id"] = function(request) return { id = request.params.id } end,
    ["GET /users/me"] = function() return "me" end,
    ["DELETE /users/:id"] = function() end,
    ["POST /echo"] = function(request, response)
      response:set("content-type", "application/octet-stream")
      return request.body
    end,
    ["PUT /small"] = { max_body = 4, handler = function(request) return request.body end },
    ["GET /rest/*path"] = function(request) return request.params.path end,
    ["GET /status"] = function() return 418, { short = "stout" }, { ["X-Pot"] = "tea" } end,
    ["GET /query"] = function(request) return request:query() end,
    ["POST /form"] = function(request)
      local form, why = request:form()
      return form and 200 or 415, form or why
    end,
    ["POST /json"] = function(request) return { got = request:json() } end,
    ["GET /cookies"] = function(request, response)
      response:set("set-cookie", { "a=1", "b=2; Path=/" })
      return request:cookies()
    end,
    ["GET /boom"] = function() error "boom" end,
    ["GET /half"] = function(_, response)
      response:write "first"
      error "boom"
    end,
    ["GET /stream"] = function(_, response)
      for i = 1, 5 do assert(response:write("part " .. i .. "\n")) end
      response:finish "end"
    end,
    ["GET /large"] = function() return ("0123456789abcdef"):rep(200000) end,
    ["GET /twice"] = function(_, response)
      response:send "once"
      local ok, _, code = response:send "twice"
      assert(ok == nil and code == "closed")
    end,
    ["GET /inject"] = function(request, response)
      response:set("x-name", request:query().name)
      return "never"
    end,
    ["GET /named"] = "on_named",
    ["GET /loop"] = function(_, response) response:redirect "/loop" end,
    ["GET /to"] = function(request, response)
      response:redirect(request:query().url, tonumber(request:query().status))
    end,
    ["POST /to"] = function(request, response)
      response:redirect(request:query().url, tonumber(request:query().status))
    end,
    ["/any"] = function(request) return request.method .. " " .. request.body end,
    ["GET /headers"] = function(request) return request.headers end,
  },
}

function test.on_named(request) return "named " .. request.path end

local function get(base, path, options)
  return assert(http.get(base .. path, options))
end

-- Routes ----------------------------------------------------------------------------------------

with_server("routes find what they name", ECHO, function(_, base)
  test.equal(get(base, "/").body, "root")
  test.equal(get(base, "/users/me").body, "me")
  local answer = get(base, "/users/a%20b%2Fc")
  test.equal(answer:json(), { id = "a b/c" })
  test.equal(answer.headers["content-type"], "application/json")
  test.equal(get(base, "/rest/a/b").body, "a/b")
  test.equal(get(base, "/named").body, "named /named")
  test.equal(get(base, "/nothing").status, 404)
  test.equal(get(base, "/users").status, 404)
  test.equal(get(base, "/users/").status, 404)
  test.equal(get(base, "/users/%zz").status, 400)
  test.equal(get(base, "/users/%00").status, 400)
  test.equal(assert(http.request("PATCH", base .. "/any", { body = "b" })).body, "PATCH b")
end)

with_server("statuses, methods and headers are as the handler says", ECHO, function(_, base)
  local answer = get(base, "/status")
  test.equal({ answer.status, answer:json(), answer.headers["x-pot"] },
    { 418, { short = "stout" }, "tea" })
  test.equal(assert(http.request("DELETE", base .. "/users/5")).status, 204)
  answer = assert(http.request("PUT", base .. "/users/5"))
  test.equal({ answer.status, answer.headers.allow }, { 405, "DELETE, GET, HEAD, OPTIONS" })
  answer = assert(http.request("OPTIONS", base .. "/users/5"))
  test.equal({ answer.status, answer.headers.allow }, { 204, "DELETE, GET, HEAD, OPTIONS" })
  answer = assert(http.request("HEAD", base .. "/"))
  test.equal({ answer.status, answer.body, answer.headers["content-length"] }, { 200, "", "4" })
  test.equal(get(base, "/cookies", { headers = { Cookie = 'a=1; b="2"; a=3' } }):json(),
    { a = "1", b = "2" })
  test.equal(get(base, "/cookies").headers["set-cookie"], { "a=1", "b=2; Path=/" })
  test.ok(answer.headers.date:find "^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$")
end)

test("routes that can't be are refused with their name", function()
  for key, pattern in pairs {
    ["GET users"] = "a method and a path", ["FETCH /"] = "a method and a path",
    ["GET /*a/b"] = 'has to be its end', [5] = "not 5",
  } do
    test.raises(function() http.listen { routes = { [key] = function() end } } end, pattern)
  end
  test.raises(function() http.listen { routes = { ["GET /"] = 5 } } end, "a function")
  test.raises(function()
    http.listen { routes = { ["GET /:a"] = "on_a", ["GET /:b"] = "on_b" } }
  end, "twice")
  test.raises(function() http.listen { prot = 80 } end, "no option prot")
  test.raises(function() http.listen { max_body = "1" } end, "max_body has to be of type integer")
  test.raises(function() http.listen { max_headers = 100000 } end, "headers has to be")
  test.raises(function() http.listen { static = { ["/"] = "../etc" } } end, "below the data folder")
end)

with_server("a function takes what no route does", {
  routes = { ["GET /"] = function() return "root" end },
  on_request = function(request) return request.method .. " " .. request.path end,
}, function(_, base)
  test.equal(get(base, "/").body, "root")
  test.equal(get(base, "/a").body, "GET /a")
  test.equal(assert(http.post(base .. "/", "x")).body, "POST /")
end)

-- Bodies ----------------------------------------------------------------------------------------

with_server("bodies come back as they went", ECHO, function(_, base)
  for _, body in ipairs { "", "x", "\0\255\r\n", ("y"):rep(1000000) } do
    local answer = assert(http.post(base .. "/echo", body))
    test.ok(answer.body == body, #answer.body)
  end
  test.equal(assert(http.post(base .. "/json", { a = { 1, 2 } })):json(), { got = { a = { 1, 2 } } })
  test.equal(assert(http.request("POST", base .. "/form", { form = { a = "1&2", b = "x y" } })):json(),
    { a = "1&2", b = "x y" })
  test.equal(assert(http.post(base .. "/form", "a=1")).status, 415)
  test.equal(get(base, "/query?a=1&b=%C3%A4+x&a=2&c"):json(), { a = "1", b = "ä x", c = "" })
  test.equal(get(base, "/query", { query = { q = "a&b" } }):json(), { q = "a&b" })
  local large = get(base, "/large")
  test.equal(#large.body, 3200000)
end)

with_server("chunks go in and out", ECHO, function(port, base)
  local answer = exchange(port, "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" ..
    "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n")
  test.ok(answer:find("\r\n\r\nabcdefg$"), answer)
  answer = get(base, "/stream")
  test.equal(answer.headers["transfer-encoding"], "chunked")
  test.equal(answer.body, "part 1\npart 2\npart 3\npart 4\npart 5\nend")
  local parts = {}
  answer = get(base, "/large", { on_body = function(data) parts[#parts + 1] = data end })
  test.equal(answer.body, "")
  test.equal(#table.concat(parts), 3200000)
  local old = exchange(port, "GET /stream HTTP/1.0\r\n\r\n")
  test.ok(old:find("connection: close", 1, true) and not old:find("chunked", 1, true), old)
  test.ok(old:find("\r\n\r\npart 1\n.*end$"), old)
end)

with_server("a body over its limit is refused before it is read", ECHO, function(port, base)
  local head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n"
  test.equal(status_of(port, head:format(1024 * 1024 + 1, "")), 413)
  test.equal(status_of(port, head:format(2 ^ 40, "Expect: 100-continue\r\n")), 413)
  test.equal(assert(http.request("PUT", base .. "/small", { body = "1234" })).body, "1234")
  test.equal(status_of(port, "PUT /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" ..
    "3\r\nabc\r\n2\r\nde\r\n"), 413)
end)

with_server("100-continue is answered before the body comes", ECHO, function(port)
  local connection = assert(socket.connect(HOST, port))
  connection:write("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" ..
    "Expect: 100-continue\r\nConnection: close\r\n\r\n")
  test.equal(connection:read_until("\r\n\r\n", nil, LONG), "HTTP/1.1 100 Continue")
  connection:write "hello"
  test.ok(connection:read_until("\r\n\r\n", nil, LONG):find "^HTTP/1.1 200 OK\r\n")
  test.equal(connection:read(5, LONG), "hello")
  connection:close()
  test.equal(status_of(port, "GET / HTTP/1.1\r\nHost: a\r\nExpect: a-miracle\r\n\r\n"), 417)
end)

-- What can't be -----------------------------------------------------------------------------------

with_server("each limit of a head has its status", ECHO, function(port)
  local get_root = "GET / HTTP/1.1\r\nHost: a\r\n"
  for text, status in pairs {
    ["GET /" .. ("x"):rep(9000) .. " HTTP/1.1\r\nHost: a\r\n\r\n"] = 414,
    [get_root .. "X: " .. ("x"):rep(17000) .. "\r\n\r\n"] = 431,
    [get_root .. ("X: y\r\n"):rep(100) .. "\r\n"] = 431,
    ["FETCH / HTTP/1.1\r\nHost: a\r\n\r\n"] = 501,
    ["GET / HTTP/2.0\r\nHost: a\r\n\r\n"] = 505,
    ["GET / HTTP/1.1\r\n\r\n"] = 400,
    [get_root .. "X : y\r\n\r\n"] = 400,
    [get_root .. "X: y\r\n folded\r\n\r\n"] = 400,
    [get_root .. "X: a\0b\r\n\r\n"] = 400,
    [get_root .. "X: y\n\r\n"] = 400,
    ["GET / HTTP/1.1\nHost: a\n\n"] = 400,
    [get_root .. "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] = 400,
    [get_root .. "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"] = 400,
    [get_root .. "Transfer-Encoding: gzip\r\n\r\n"] = 501,
    ["CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"] = 400,
  } do
    test.equal(status_of(port, text), status, text:sub(1, 60))
  end
end)

with_server("a smuggled request is not answered", ECHO, function(port)
  local answer = exchange(port, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n" ..
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
  test.ok(answer:find "^HTTP/1.1 400 " and not answer:find("root", 1, true), answer)
end)

test("a head that doesn't come in time is a 408, one that never began nothing", function()
  test.equal(with_limit(50, function(ms)
    local server = serve { header_ms = ms }
    local status = status_of(server.port, "GET / HTTP/1.1\r\n")
    local nothing = exchange(server.port, "")
    server:close()
    test.equal(nothing, "")
    return status
  end), 408)
end)

with_server("a body that doesn't come in time is a 408",
  { body_ms = 50, routes = { ["POST /"] = function() end } }, function(port)
    test.equal(status_of(port, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc"), 408)
  end)

with_server("a connection that is silent after a request is closed",
  { keep_alive_ms = 50, routes = { ["GET /"] = function() return "root" end } }, function(port)
    test.ok(exchange(port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"):find "root$")
  end)

with_server("an error in a handler is a 500 that tells nothing", ECHO, function(port, base)
  local answer = get(base, "/boom")
  test.equal({ answer.status, answer.body }, { 500, "Internal Server Error" })
  answer = get(base, "/inject?name=a%0d%0aSet-Cookie:%20b")
  test.equal({ answer.status, answer.headers["set-cookie"] }, { 500, nil })
  local half = exchange(port, "GET /half HTTP/1.1\r\nHost: a\r\n\r\n")
  test.ok(not half:find("\r\n0\r\n", 1, true), half)
  test.equal(get(base, "/twice").body, "once")
end)

local release, late, begun

with_server("a handler that takes too long is a 503", {
  handler_ms = 30,
  routes = {
    ["GET /"] = function(_, response)
      while not release do perilune.sleep(5) end
      late = { response:send "late" }
    end,
  },
}, function(_, base)
  release, late = false, nil
  test.equal(get(base, "/").status, 503)
  release = true
  test.eventually(function() return late end, LONG)
  test.equal(late[3], "closed")
end)

with_server("bodies that are too much together are refused", {
  max_bodies = 10,
  routes = {
    ["POST /"] = function(request)
      begun = true
      while not release do perilune.sleep(5) end
      return request.body
    end,
  },
}, function(_, base)
  release, begun = false, false
  local first
  perilune.fork(function() first = assert(http.post(base, "12345678")) end)
  test.eventually(function() return begun end, LONG)
  test.equal(assert(http.post(base, "12345678")).status, 503)
  release = true
  test.eventually(function() return first end, LONG)
  test.equal(first.body, "12345678")
  test.equal(assert(http.post(base, "1234567890")).body, "1234567890")
end)

-- Connections -----------------------------------------------------------------------------------

with_server("pipelined requests are answered in their order", {
  routes = {
    ["GET /:n"] = function(request)
      perilune.sleep(request.params.n == "1" and 50 or 0)
      return "<" .. request.params.n .. ">"
    end,
  },
}, function(port)
  local texts = {}
  for i = 1, 20 do
    texts[i] = ("GET /%d HTTP/1.1\r\nHost: a\r\n%s\r\n"):format(i,
      i == 20 and "Connection: close\r\n" or "")
  end
  local seen = {}
  for number in exchange(port, table.concat(texts)):gmatch "<(%d+)>" do
    seen[#seen + 1] = tonumber(number)
  end
  test.equal(#seen, 20)
  for i = 1, 20 do test.equal(seen[i], i) end
end)

with_server("versions and headers decide whether a connection stays", ECHO, function(port)
  local connection = assert(socket.connect(HOST, port))
  for _, text in ipairs {
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
  } do
    connection:write(text)
    local head = assert(connection:read_until("\r\n\r\n", nil, LONG))
    assert(connection:read(tonumber(head:match "content%-length: (%d+)"), LONG))
    if text:find("1.0", 1, true) then test.ok(head:find("connection: keep-alive", 1, true), head) end
  end
  connection:write "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
  test.ok(connection:read_until("\r\n\r\n", nil, LONG):find("connection: close", 1, true))
  test.equal(connection:read(4, LONG), "root")
  test.equal(connection:read("any", LONG), nil)
end)

with_server("closing a server lets requests end and idle connections go", {
  routes = {
    ["GET /slow"] = function()
      begun = true
      while not release do perilune.sleep(5) end
      return "done"
    end,
    ["GET /"] = function() return "root" end,
  },
}, function(port, base, server)
  release, begun = false, false
  local idle = assert(socket.connect(HOST, port))
  idle:write "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
  assert(idle:read("any", LONG))
  local answer
  perilune.fork(function() answer = get(base, "/slow", { keep_alive = false }) end)
  test.eventually(function() return begun end, LONG)
  server:close()
  test.equal(idle:read("any", LONG), nil)
  release = true
  test.eventually(function() return answer end, LONG)
  test.equal(answer.body, "done")
  test.equal(answer.headers.connection, "close")
end)

with_server("the pool keeps connections and reuses them", ECHO, function(_, base)
  local before = socket.stats().connected
  for _ = 1, 10 do get(base, "/") end
  test.equal(socket.stats().connected - before, 1)
  local left = 30
  for _ = 1, left do
    perilune.fork(function()
      get(base, "/", { max_per_host = 3 })
      left = left - 1
    end)
  end
  test.eventually(function() return left == 0 end, LONG)
  test.ok(socket.stats().connected - before <= 3, socket.stats().connected - before)
  get(base, "/", { keep_alive = false })
end)

-- Files -------------------------------------------------------------------------------------------

local PAGE = ("0123456789"):rep(30000)

local function with_files(name, body)
  with_server(name, function()
    assert(file.mkdir "http_test/www/sub")
    assert(file.write("http_test/www/index.html", "<p>index</p>"))
    assert(file.write("http_test/www/sub/index.html", "sub"))
    assert(file.write("http_test/www/page.txt", PAGE))
    assert(file.write("http_test/www/.hidden", "hidden"))
    assert(file.write("http_test/secret", "secret"))
    return {
      static = {
        ["/"] = "http_test/www",
        ["/files"] = { folder = "http_test/www", cache_control = "max-age=9" },
      },
      routes = {
        ["GET /api"] = function() return "api" end,
        ["GET /sent"] = function(_, response) response:send_file "http_test/secret" end,
      },
    }
  end, function(...)
    body(...)
    for _, path in ipairs { "www/index.html", "www/sub/index.html", "www/sub", "www/page.txt",
      "www/.hidden", "www", "secret" } do
      assert(file.remove("http_test/" .. path))
    end
    assert(file.remove "http_test")
  end)
end

with_files("files come with type, date and tag", function(_, base)
  local answer = get(base, "/")
  test.equal({ answer.body, answer.headers["content-type"] }, { "<p>index</p>", "text/html; charset=utf-8" })
  test.equal(get(base, "/api").body, "api")
  test.equal(get(base, "/sent").body, "secret")
  answer = get(base, "/files/page.txt")
  test.ok(answer.body == PAGE, #answer.body)
  test.equal(answer.headers["cache-control"], "max-age=9")
  local etag, date = answer.headers.etag, answer.headers["last-modified"]
  local function ask(name, value) return get(base, "/page.txt", { headers = { [name] = value } }) end
  test.equal(ask("if-none-match", etag).status, 304)
  test.equal(ask("if-none-match", '"x", W/' .. etag).status, 304)
  test.equal(ask("if-none-match", '"x"').status, 200)
  test.equal(ask("if-modified-since", date).status, 304)
  test.equal(ask("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT").status, 200)
  test.equal(ask("if-modified-since", "yesterday").status, 200)
  answer = assert(http.request("HEAD", base .. "/page.txt"))
  test.equal({ answer.body, answer.headers["content-length"] }, { "", "300000" })
  test.equal(get(base, "/sub", { redirects = 0 }).headers.location, "/sub/")
  test.equal(get(base, "/sub").body, "sub")
  test.equal(get(base, "/sub").url, base .. "/sub/")
end)

with_files("no path leads out of the folder", function(port)
  for _, path in ipairs {
    "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/sub/../../secret", "/%2e%2e%2fsecret",
    "//secret", "/.hidden", "/sub/./index.html", "/%5c..%5csecret", "/nothing",
    "/files/../../secret", "/..", "/%00", "/http_test/secret",
  } do
    local answer = exchange(port, "GET " .. path .. " HTTP/1.0\r\n\r\n")
    test.ok(answer:find "^HTTP/1.1 40[04] ", path .. ": " .. answer)
    test.ok(not answer:find("hidden\n", 1, true) and not answer:find("\r\n\r\nsecret", 1, true), path)
  end
end)

with_files("one part of a file can be had", function(_, base)
  for range, wanted in pairs {
    ["bytes=0-9"] = { 206, "0123456789", "bytes 0-9/300000" },
    ["bytes=299995-"] = { 206, "56789", "bytes 299995-299999/300000" },
    ["bytes=-3"] = { 206, "789", "bytes 299997-299999/300000" },
    ["bytes=299999-999999"] = { 206, "9", "bytes 299999-299999/300000" },
    ["bytes=100000-299999"] = { 206, PAGE:sub(100001), "bytes 100000-299999/300000" },
    ["bytes=300000-"] = { 416, "", "bytes */300000" },
    ["bytes=-0"] = { 416, "", "bytes */300000" },
    ["bytes=5-2"] = { 200, PAGE }, ["bytes=0-1,4-5"] = { 200, PAGE }, ["lines=1-2"] = { 200, PAGE },
    ["bytes=-"] = { 200, PAGE },
  } do
    local answer = get(base, "/page.txt", { headers = { range = range } })
    test.equal(answer.status, wanted[1], range)
    test.ok(answer.body == wanted[2], range)
    test.equal(answer.headers["content-range"], wanted[3], range)
  end
  local etag = get(base, "/page.txt").headers.etag
  local function ask(condition)
    return get(base, "/page.txt", { headers = { range = "bytes=0-1", ["if-range"] = condition } }).status
  end
  test.equal({ ask(etag), ask '"other"' }, { 206, 200 })
end)

-- Requests ----------------------------------------------------------------------------------------

with_server("redirects are followed, and secrets don't follow elsewhere", ECHO, function(_, base)
  local other, elsewhere = serve(ECHO)
  local function to(target, status, method, options)
    return http.request(method or "GET",
      base .. "/to?" .. url.build_query { url = target, status = status }, options)
  end
  test.equal(assert(to("/users/me", 302)).body, "me")
  test.equal(assert(to("users/../users/me", 301)).body, "me")
  test.equal(assert(to("/any", 303, "POST", { body = "b" })).body, "GET ")
  test.equal(assert(to("/any", 307, "POST", { body = "b" })).body, "POST b")
  test.equal(assert(to("/any", 302, nil, { redirects = 0 })).status, 302)
  local secret = { headers = { Authorization = "Bearer x" } }
  test.equal(assert(to("/headers", 302, nil, secret)):json().authorization, "Bearer x")
  local there = assert(to(elsewhere .. "/headers", 302, nil, secret)):json()
  test.equal({ there.authorization, there.host }, { nil, elsewhere:sub(8) })
  test.equal(select(3, http.get(base .. "/loop")), "too_many_redirects")
  test.equal(select(3, to("ftp://x/", 302)), "invalid")
  http.close_idle()
  other:close()
end)

test("requests that can't be are refused", function()
  for _, target in ipairs { "", "example.com", "ftp://a/", "http://", "http://a b/", "http://a:0/",
    "http://a:99999/", "http://u:p@a/", "http://a/\r\nX: y", "http://ä/" } do
    test.equal(select(3, http.get(target)), "invalid", target)
  end
  for _, headers in ipairs { { a = "b\r\nc: d" }, { ["a\r\nb"] = "c" }, { ["a b"] = "c" },
    { a = "b\0" }, { [""] = "b" }, { a = true } } do
    test.raises(function() http.get("http://127.0.0.1:1/", { headers = headers }) end, "header")
  end
  test.raises(function() http.request("GET\r\nX: y", "http://a/") end, "no method")
  test.raises(function() http.get("http://a/", { time = 5 }) end, "no option time")
  test.raises(function() http.get("http://a/", { timeout_ms = -1 }) end, "timeout_ms has to be from 0")
end)

-- A server that says what it is told to.
local function scripted(answer)
  local listener = assert(socket.listen {
    on_open = function(connection)
      while connection:read_until("\r\n\r\n", nil, LONG) do
        if not answer(connection) then return end
      end
    end,
  })
  return listener, ("http://%s:%d/"):format(HOST, listener.port)
end

test("how a request fails is in the code", function()
  local function fails(code, answer, most)
    local listener, target = scripted(answer)
    local function ask(ms)
      local got, message, kind = http.get(target, { timeout_ms = ms, max_body = most })
      test.equal(got, nil)
      return (kind == code or not kind:find "timeout") and kind .. ": " .. message
    end
    local problem = with_limit(code:find "timeout" and 50 or LONG, ask)
    listener:close()
    test.ok(problem and problem:find("^" .. code), problem)
  end
  local function says(text)
    return function(connection)
      connection:write(text)
      connection:close()
    end
  end
  fails("head_timeout", function() return true end)
  fails("body_timeout", function(connection)
    return connection:write "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"
  end)
  fails("closed", says "")
  fails("closed", says "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
  fails("malformed", says "SSH-2.0-x\r\n\r\n")
  fails("malformed", says "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
  fails("too_large", says "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", 10)
  fails("too_large", says("HTTP/1.1 200 OK\r\n\r\n" .. ("x"):rep(50)), 10)
  local listener = assert(socket.listen { port = 0 })
  listener:close()
  test.equal(select(3, http.get("http://127.0.0.1:" .. listener.port .. "/")), "unavailable")
end)

test("a server that takes nothing is a time-out of sending", function()
  local deaf = {}
  local listener = assert(socket.listen {
    paused = true, on_open = function(connection) deaf[#deaf + 1] = connection end,
  })
  local target, body = ("http://%s:%d/"):format(HOST, listener.port), ("x"):rep(32 * 1024 * 1024)
  test.equal(with_limit(300, function(ms)
    local _, _, code = http.post(target, body, { timeout_ms = ms })
    return code ~= "connect_timeout" and code
  end), "send_timeout")
  test.eventually(function() return #deaf > 0 end, LONG)
  listener:close()
  for _, connection in ipairs(deaf) do connection:abort() end
end)

test("only what can't do harm twice is sent again", function()
  local asked = 0
  -- The first request of a connection is answered, the second ends it.
  local listener = assert(socket.listen {
    on_open = function(connection)
      assert(connection:read_until("\r\n\r\n", nil, LONG))
      connection:write "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
      if connection:read_until("\r\n\r\n", nil, LONG) then
        asked = asked + 1
        connection:close()
      end
    end,
  })
  local target = ("http://%s:%d/"):format(HOST, listener.port)
  test.equal(assert(http.get(target)).body, "ok")
  test.equal(assert(http.get(target)).body, "ok")
  test.equal(asked, 1)
  local answer, _, code = http.post(target, "x")
  test.equal({ answer, code, asked }, { nil, "closed", 2 })
  http.close_idle()
  listener:close()
end)

test("interim responses, and bodies that last until the end, are read", function()
  local listener, target = scripted(function(connection)
    connection:write "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    connection:write "HTTP/1.0 200 OK\r\nX: 1\r\nX: 2\r\n\r\nto the "
    connection:write "end"
    connection:close()
  end)
  local answer = assert(http.get(target))
  test.equal({ answer.status, answer.body, answer.headers.x, answer.version },
    { 200, "to the end", "1, 2", "1.0" })
  listener:close()
end)

test("misuse is raised where it was", function()
  for _, misuse in ipairs {
    function() http.get(5) end,
    function() http.get("http://a/", { time = 5 }) end,
    function() http.request("GET", "http://a/", { headers = { ["a b"] = "c" } }) end,
    function() http.post("http://a/", print) end,
    function() http.request("GET\r\nX: y", "http://a/") end,
    function() http.listen { prot = 80 } end,
    function() http.listen { routes = { ["GET /"] = 5 } } end,
  } do
    test.raises(misuse, "^%S*/http_test%.lua:%d+: ")
  end
end)

-- URLs ------------------------------------------------------------------------------------------

test("URLs are taken apart", function()
  local parts = assert(http.parse_url "HTTPS://Example.com:8443/a/b?c=d#e")
  test.equal({ parts.scheme, parts.host, parts.port, parts.path, parts.query, parts.fragment,
    parts.target, parts.authority },
    { "https", "example.com", 8443, "/a/b", "c=d", "e", "/a/b?c=d", "example.com:8443" })
  parts = assert(http.parse_url "http://[::1]?x")
  test.equal({ parts.host, parts.port, parts.target, parts.authority }, { "::1", 80, "/?x", "[::1]" })
  test.equal({ http.encode "a b/ä", http.decode "a%20b%2f%C3%A4" }, { "a%20b%2F%C3%A4", "a b/ä" })
  test.equal(select(3, http.decode "%2"), "invalid")
  test.equal(http.build_query { b = 2, a = "x&y" }, "a=x%26y&b=2")
  local base = assert(http.parse_url "http://a/b/c/d?q")
  for reference, wanted in pairs {
    ["g"] = "/b/c/g", ["./g/"] = "/b/c/g/", ["/g"] = "/g", ["?y"] = "/b/c/d?y", [".."] = "/b/",
    ["../g"] = "/b/g", ["../../../g"] = "/g", ["g?y/../x"] = "/b/c/g?y/../x", [""] = "/b/c/d?q",
    ["//h/x"] = "/x", ["."] = "/b/c/",
  } do
    test.equal(assert(url.resolve(base, reference)).target, wanted, reference)
  end
end)

return test
