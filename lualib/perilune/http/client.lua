---@class perilune.http.client
-- Requests, over connections that are kept for the next one.
local client = {}

local core = require "perilune.core"
local message = require "perilune.http.message"
local native = require "perilune.native.http"
local options = require "perilune.options"
local socket = require "perilune.socket"
local url = require "perilune.http.url"

local now = core.native "now"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local function number(default, min)
  return { type = "integer", min = min or 0, default = default }
end

local OPTIONS = {
  headers = { type = "table" }, body = { type = "any" }, form = { type = "table" },
  query = { type = "table" }, tls = { type = "table" }, on_body = { type = "function" },
  timeout_ms = number(30000), connect_ms = number(10000), max_body = number(16 * 1024 * 1024),
  redirects = number(5), keep_alive = { type = "boolean", default = true },
  max_per_host = number(64, 1), max_idle_per_host = number(8), idle_ms = number(30000),
}
local METHODS = {
  GET = true, HEAD = true, POST = true, PUT = true, DELETE = true, PATCH = true, OPTIONS = true,
  TRACE = true, PROPFIND = true, REPORT = true, SEARCH = true, PURGE = true,
}
-- A second time does no more than the first (RFC 9110, 9.2.2).
local IDEMPOTENT = {
  GET = true, HEAD = true, PUT = true, DELETE = true, OPTIONS = true, TRACE = true,
}
local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }
-- Not for another host than they were meant for.
local SECRETS = { "authorization", "cookie", "proxy-authorization" }

---@class perilune.http.RequestOptions
---@field headers table<string, string|number|string[]>?
---@field body string|table|nil a table becomes JSON
---@field form table<string, string|number|boolean>? the body instead, as a form
---@field query table<string, string|number|boolean>? is added to the URL
---@field tls perilune.socket.TlsOptions? ca, verify, server_name
---@field timeout_ms integer? of the whole, redirects too; default 30000
---@field connect_ms integer? of connecting; default 10000
---@field max_body integer? bytes of the response's body; default 16 MB
---@field on_body fun(data: string)? gets the body in parts as they come; the answer has none then
---@field redirects integer? how many are followed; default 5
---@field keep_alive boolean? default true: the connection is kept for the next request
---@field max_per_host integer? connections to a host and port; more requests wait; default 64
---@field max_idle_per_host integer? of those, how many wait for a request; default 8
---@field idle_ms integer? how long one waits; default 30000

---@class perilune.http.Answer
---@field status integer
---@field reason string
---@field version "1.0"|"1.1"
---@field headers table<string, string> by lower-case name; set-cookie is a list
---@field trailers table<string, string>? headers behind a chunked body
---@field body string
---@field url string where it is from, after redirects
local Answer = {}
Answer.__index = Answer

---The body as JSON.
---@return any value nil when it isn't JSON
---@return string? message
---@return string? code "invalid"
function Answer:json() return message.decode_json(self.body) end

-- Pools ----------------------------------------------------------------------------------------

-- The pools of the running service: a file of the library is shared by the services of a VM.
local function pools_of_service()
  local state = socket.state()
  state.http_pools = state.http_pools or {}
  return state.http_pools
end

-- What names connections that can stand for each other: options of TLS mean another trust.
local function key_of(parts, tls)
  local names = { parts.scheme .. "://" .. parts.host .. ":" .. parts.port }
  for name, value in pairs(tls or {}) do
    names[#names + 1] = ("%s=%s"):format(tostring(name), tostring(value))
  end
  table.sort(names)
  return table.concat(names, "\n")
end

local function pool_for(parts, tls)
  local pools, key = pools_of_service(), key_of(parts, tls)
  local pool = pools[key]
  if not pool then
    pool = { idle = {}, used = 0, waiting = {}, first = 1, last = 0 }
    function pool.drop()
      if pool.used == 0 and #pool.idle == 0 then pools[key] = nil end
    end
    pools[key] = pool
  end
  return pool
end

local function forget_idle(pool, connection)
  for index, other in ipairs(pool.idle) do
    if other == connection then
      table.remove(pool.idle, index)
      break
    end
  end
  pool.drop()
end

-- The newest that is still open: the server closes the oldest first.
local function take_idle(pool)
  while #pool.idle > 0 do
    local connection = table.remove(pool.idle)
    connection.on_data, connection.on_close = nil, nil
    if not connection.closed then
      connection:set_idle(0)
      return connection
    end
  end
end

-- Somebody is done: the next who waits may have a connection.
local function leave(pool)
  pool.used = pool.used - 1
  while pool.first <= pool.last do
    local token = pool.waiting[pool.first]
    pool.waiting[pool.first] = nil
    pool.first = pool.first + 1
    if token and wake(token, true) then return end
  end
  pool.drop()
end

local function keep(pool, connection, settings)
  if connection.closed or not settings.keep_alive or #pool.idle >= settings.max_idle_per_host then
    if not connection.closed then connection:close() end
    return
  end
  pool.idle[#pool.idle + 1] = connection
  connection.on_close = function() forget_idle(pool, connection) end
  -- What comes without having been asked for can only be a mistake.
  connection.on_data = function() connection:abort() end
  connection:set_idle(settings.idle_ms)
end

---@async
local function enter(pool, most, deadline)
  while pool.used >= most do
    local left = deadline - now()
    if left <= 0 then return nil end
    local token = new_token()
    pool.last = pool.last + 1
    local place = pool.last
    pool.waiting[place] = token
    if not wait(token, math.ceil(left)) then
      pool.waiting[place] = nil
      return nil
    end
  end
  pool.used = pool.used + 1
  return true
end

-- One exchange ---------------------------------------------------------------------------------

local function too_slow(code, parts, what)
  return nil, ("%s: %s within the limit"):format(parts.authority, what), code
end

---@async
local function connect(parts, settings, deadline)
  local left = math.ceil(math.min(settings.connect_ms, deadline - now()))
  if left <= 0 then return too_slow("connect_timeout", parts, "not connected") end
  local tls = parts.scheme == "https" and (settings.tls or true) or nil
  local limit = now() + left
  local connection, why, code =
    socket.connect(parts.host, parts.port, { connect_ms = left, tls = tls })
  if connection then return connection end
  if code == "unavailable" and now() >= limit then
    return too_slow("connect_timeout", parts, "not connected")
  end
  return nil, why, code
end

local function make_head(method, parts, headers)
  local lines = { method, " ", parts.target, " HTTP/1.1\r\n" }
  message.add_headers(lines, headers)
  lines[#lines + 1] = "\r\n"
  return table.concat(lines)
end

-- The next event of a response; `phase` is part of the code of a time-out.
---@async
local function next_event(exchange)
  while true do
    if exchange.data then
      local event, at, value = exchange.parser:feed(exchange.data, exchange.at)
      if not event then return nil, at, value == "body_too_large" and "too_large" or value end
      if event ~= "more" then
        exchange.at = at
        return event, value
      end
      exchange.data = nil
    end
    local left = exchange.deadline - now()
    local data, why, code
    if left > 0 then data, why, code = exchange.connection:read("any", math.ceil(left)) end
    if data then
      exchange.data, exchange.at, exchange.answered = data, 1, true
    elseif left <= 0 or code == "timeout" then
      return too_slow(exchange.phase .. "_timeout", exchange.parts,
        exchange.phase == "head" and "no response" or "not all of the response")
    else
      local event, text = exchange.parser:finish()
      if event == "end" then return "end" end
      return nil, event == nil and text or why, "closed"
    end
  end
end

---@async
local function read_head(exchange)
  exchange.phase = "head"
  while true do
    local event, head, code = next_event(exchange)
    if not event then return nil, head, code end
    if event == "head" and (head.status >= 200 or head.status == 101) then return head end
  end
end

---@async
local function read_body(exchange, head, on_body)
  exchange.phase = "body"
  local parts = {}
  while true do
    local event, value, code = next_event(exchange)
    if not event then return nil, value, code end
    if event == "end" then
      head.trailers = value
      break
    elseif on_body then
      on_body(value)
    else
      parts[#parts + 1] = value
    end
  end
  head.body = table.concat(parts)
  return head
end

---@async
local function exchange_on(connection, request, settings, deadline)
  local parts = request.parts
  local exchange = {
    connection = connection, deadline = deadline, phase = "head", parts = parts,
    parser = native.parser("response", { body_bytes = settings.max_body, header_bytes = 65536 }),
  }
  if request.method == "HEAD" then exchange.parser:expect_no_body() end
  local head = make_head(request.method, parts, request.headers)
  local sent, text, failed = message.transmit(connection, head .. request.body, deadline)
  local answer, why, code
  if sent or connection.closed then -- a server may answer and close before it has read all
    answer, why, code = read_head(exchange)
  elseif failed == "timeout" then
    answer, why, code = too_slow("send_timeout", parts, "not all of the request was taken")
  else
    why, code = text, failed
  end
  if answer then answer, why, code = read_body(exchange, answer, settings.on_body) end
  local reusable = answer and answer.keep_alive and answer.status ~= 101 and
    (not exchange.data or exchange.at > #exchange.data)
  return answer, why, code, reusable, exchange.answered
end

---@async
local function on_fresh(pool, request, settings, deadline)
  local connection, why, code = connect(request.parts, settings, deadline)
  if not connection then return nil, why, code end
  local answer, text, failed, reusable = exchange_on(connection, request, settings, deadline)
  if reusable then
    keep(pool, connection, settings)
  elseif not connection.closed then
    connection:abort()
  end
  return answer, text, failed
end

-- By a connection that waited, or else a new one. A server may close one just when it is used:
-- then nothing was answered, and what can be repeated is.
---@async
local function on_pool(pool, request, settings, deadline)
  local connection = settings.keep_alive and take_idle(pool)
  if connection then
    local answer, why, code, reusable, answered =
      exchange_on(connection, request, settings, deadline)
    if reusable then
      keep(pool, connection, settings)
      return answer
    end
    if not connection.closed then connection:abort() end
    if answer then return answer end
    if answered or code ~= "closed" or not IDEMPOTENT[request.method] then
      return nil, why, code
    end
  end
  return on_fresh(pool, request, settings, deadline)
end

---@async
local function exchange_once(request, settings, deadline)
  local pool = pool_for(request.parts, request.parts.scheme == "https" and settings.tls or nil)
  if not enter(pool, settings.max_per_host, deadline) then
    return too_slow("connect_timeout", request.parts,
      ("none of %d connections was free"):format(settings.max_per_host))
  end
  local ok, answer, why, code = xpcall(on_pool, debug.traceback, pool, request, settings, deadline)
  leave(pool)
  if not ok then error(answer, 0) end -- on_body raised
  return answer, why, code
end

-- Requests -------------------------------------------------------------------------------------

local function make_request(method, parts, settings)
  if not METHODS[method] then
    error(("http.request: %q is no method that can be sent: GET, POST, ..."):format(
      tostring(method)), 3)
  end
  local headers = message.check_headers(settings.headers, 3)
  for _, name in ipairs { "content-length", "transfer-encoding" } do
    if headers[name] then error("http.request: " .. name .. " is set by the body", 3) end
  end
  local body, kind = message.encode_body(settings.body, 3)
  if settings.form then
    body, kind = url.build_query(settings.form), "application/x-www-form-urlencoded"
  end
  if kind and not headers["content-type"] then headers["content-type"] = kind end
  if body or method == "POST" or method == "PUT" or method == "PATCH" then
    headers["content-length"] = tostring(#(body or ""))
  end
  if not settings.keep_alive then headers.connection = "close" end
  if not headers["user-agent"] then headers["user-agent"] = "perilune" end
  headers.host = headers.host or parts.authority
  return { method = method, parts = parts, headers = headers, body = body or "" }
end

-- The request that a redirect asks for. nil, message, code when it can't be.
local function follow(request, answer)
  local location = answer.headers.location
  local parts, why, code = url.resolve(request.parts, location)
  if not parts then return nil, why, code end
  if parts.scheme ~= "http" and parts.scheme ~= "https" then
    return nil, "a redirect to " .. parts.scheme .. ":", "invalid"
  end
  local headers = {}
  for name, value in pairs(request.headers) do headers[name] = value end
  local before = request.parts
  if parts.host ~= before.host or parts.port ~= before.port or parts.scheme ~= before.scheme then
    for _, name in ipairs(SECRETS) do headers[name] = nil end
  end
  headers.host = parts.authority
  local status, method, body = answer.status, request.method, request.body
  local becomes_get = (status == 303 and method ~= "HEAD") or (status < 303 and method == "POST")
  if becomes_get then
    method, body = "GET", ""
    headers["content-length"], headers["content-type"] = nil, nil
  end
  return { method = method, parts = parts, headers = headers, body = body }
end

local function finish(answer, request)
  answer.url = request.parts.scheme .. "://" .. request.parts.authority .. request.parts.target
  return setmetatable(answer, Answer)
end

local function read_url(target, settings)
  local parts, why, code = url.parse(target)
  if not parts then return nil, why, code end
  if parts.scheme ~= "http" and parts.scheme ~= "https" then
    return nil, ("%s: http:// or https:// expected"):format(target:sub(1, 200)), "invalid"
  end
  if settings.query then
    parts.target = parts.target .. (parts.query and "&" or "?") .. url.build_query(settings.query)
  end
  return parts
end

---See http.request.
---@async
---@param method string
---@param target string
---@param given perilune.http.RequestOptions?
---@return perilune.http.Answer? answer
---@return string? message
---@return string? code
function client.request(method, target, given)
  if type(target) ~= "string" then
    error("http.request: a URL expected, got " .. type(target), 2)
  end
  local settings = options.read_for("http.request", OPTIONS, given)
  local parts, problem, kind = read_url(target, settings)
  if not parts then return nil, problem, kind end
  local request = make_request(method, parts, settings)
  local deadline = now() + settings.timeout_ms
  for _ = 0, settings.redirects do
    local answer, why, code = exchange_once(request, settings, deadline)
    if not answer then return nil, why, code end
    if not REDIRECTS[answer.status] or not answer.headers.location or settings.redirects == 0 then
      return finish(answer, request)
    end
    request, why, code = follow(request, answer)
    if not request then return nil, why, code end
  end
  return nil, ("more than %d redirects"):format(settings.redirects), "too_many_redirects"
end

---Closes the connections of this service that wait for their next request.
function client.close_idle()
  for key, pool in pairs(pools_of_service()) do
    local idle = pool.idle
    pool.idle = {}
    for _, connection in ipairs(idle) do
      connection.on_close = nil
      connection:close()
    end
    if pool.used == 0 then pools_of_service()[key] = nil end
  end
end

return client
