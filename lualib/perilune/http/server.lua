---@class perilune.http.server
-- Connections of an HTTP server: a task for each reads requests, one for each request answers.
local server = {}

local callback = require "perilune.callback"
local core = require "perilune.core"
local files = require "perilune.http.files"
local message = require "perilune.http.message"
local native = require "perilune.native.http"
local options = require "perilune.options"
local perilune = require "perilune"
local requests = require "perilune.http.request"
local responses = require "perilune.http.response"
local routes = require "perilune.http.routes"
local socket = require "perilune.socket"

local now = core.native "now"
local new_token, wait, wake, watch =
  core.native "core_token", core.native "core_wait", core.native "core_wake",
  core.native "core_watch"

---@class perilune.http.ListenOptions
---@field host string? as of socket.listen; default "127.0.0.1"
---@field port integer? default 0: the system chooses
---@field tls perilune.socket.TlsOptions? certificate and key
---@field routes table<string, perilune.http.Route|perilune.Callback>? "GET /users/:id" = f
---@field on_request perilune.Callback? for what no route takes; default: 404
---@field static table<string, string|perilune.http.Mount>? path = folder below the data folder
---@field max_body integer? bytes of a request's body; default 1 MB
---@field max_bodies integer? bytes of the bodies of all requests that are under way, then 503;
---default 64 MB
---@field max_header_bytes integer? of a request; default 16384
---@field max_headers integer? default 100
---@field max_target integer? bytes of path and query; default 8192
---@field header_ms integer? how long all of the head may take, and TLS before the first; default
---10000
---@field body_ms integer? the same of the body; default 30000
---@field handler_ms integer? the same of a handler, then 503; default 30000; 0: as long as it likes
---@field keep_alive_ms integer? how long a connection waits for a request; default 60000; 0: each
---has one
---@field max_connections integer? as of socket.listen, like the ones below
---@field max_per_address integer?
---@field max_handshakes integer?
---@field max_handshakes_per_address integer?
---@field handshake_ms integer?
---@field until_upgrade boolean?
---@field exempt string[]?
---@field backlog integer?
---@field stall_ms integer?

local function number(default) return { type = "integer", min = 0, default = default } end

local OPTIONS = {
  host = { type = "string" }, port = number(), tls = { type = "table" },
  routes = { type = "table" }, on_request = { type = "callback" }, static = { type = "table" },
  max_body = number(1024 * 1024), max_bodies = number(64 * 1024 * 1024),
  max_header_bytes = number(16 * 1024), max_headers = number(100), max_target = number(8 * 1024),
  header_ms = number(10000), body_ms = number(30000), handler_ms = number(30000),
  keep_alive_ms = number(60000), max_connections = number(), max_per_address = number(),
  max_handshakes = number(), max_handshakes_per_address = number(), handshake_ms = number(),
  until_upgrade = { type = "boolean" }, exempt = { type = "table" }, backlog = number(),
  stall_ms = number(),
}
local OF_THE_SOCKET = {
  "host", "port", "tls", "max_connections", "max_per_address", "max_handshakes",
  "max_handshakes_per_address", "handshake_ms", "until_upgrade", "exempt", "backlog", "stall_ms",
}

local INTERNAL_ERROR = 1011 -- RFC 6455: a server can't go on

-- Sessions: what a connection is while it speaks HTTP ------------------------------------------

-- The next event of the parser; reads what it takes. nil, message, code, status when it can't be.
---@async
local function next_event(session, deadline)
  while true do
    if session.data then
      local event, at, value, status = session.parser:feed(session.data, session.at)
      if not event then return nil, at, value, status end
      if event ~= "more" then
        session.at = at
        return event, value
      end
      session.data = nil
    end
    local left = deadline - now()
    if left <= 0 then return nil, "too slow", "timeout", 408 end
    local data, why, code = session.connection:read("any", math.ceil(left))
    if not data then return nil, why, code, code == "timeout" and 408 or nil end
    session.data, session.at = data, 1
  end
end

-- Waits for the first byte of a request. False when none comes.
---@async
local function await_request(session, ms)
  if session.data then return true end
  session.idle = true
  local data = session.connection:read("any", ms)
  session.idle = false
  if not data then return false end
  session.data, session.at = data, 1
  return true
end

-- Counts what is held of bodies: many that are small enough could still be too much together.
local function has_room(session, count)
  local settings = session.settings
  session.held, settings.held = session.held + count, settings.held + count
  return settings.held <= settings.max_bodies
end

local function give_room_back(session)
  session.settings.held = session.settings.held - session.held
  session.held = 0
end

---@async
local function read_body(session, request, limit, deadline)
  session.parser:limit_body(limit)
  local parts = {}
  while true do
    local event, value, code, status = next_event(session, deadline)
    if not event then return nil, value, code, status end
    if event == "end" then
      request.trailers = value
      break
    end
    if not has_room(session, #value) then
      return nil, "too much is sent at the same time: try again later", "overloaded", 503
    end
    parts[#parts + 1] = value
  end
  if session.at > #session.data then session.data = nil end
  request.body = table.concat(parts)
  return true
end

-- A request that can't be answered by a handler ends the connection, since what follows it
-- can't be told apart.
local function refuse(session, status, text)
  local request = { method = "GET", version = "1.1" }
  local response = responses.new(request, session.connection, false)
  response:send(text or message.status_text(status), status)
end

-- "100-continue" is answered; 417 for other expectations.
local function meet_expectation(session, request, limit)
  local expectation = request.headers.expect
  if not expectation or request.version == "1.0" then return true end
  if expectation:lower() ~= "100-continue" then return nil, "only 100-continue is known", 417 end
  if request.length and request.length > limit then
    return nil, ("a body of %.0f bytes: the limit is %.0f"):format(request.length, limit), 413
  end
  if request.chunked or (request.length or 0) > 0 then
    session.connection:write "HTTP/1.1 100 Continue\r\n\r\n"
  end
  return true
end

-- What handles a request: a route, or the status of a refusal.
local function find_route(settings, request)
  if request.path == "*" then return nil, request.method == "OPTIONS" and 204 or 400 end
  local route, parameters, allow = settings.tree:find(request.method, request.path)
  if route then
    request.params = parameters
    return route
  end
  if parameters == "invalid" then return nil, 400 end
  if settings.fallback then return settings.fallback end
  if parameters == "not_allowed" then
    return nil, request.method == "OPTIONS" and 204 or 405, allow
  end
  return nil, 404
end

local function traceback(problem) return debug.traceback(tostring(problem), 2) end

-- A handler that goes on with an upgraded connection has nobody who waits for its end.
local function fail_upgraded(request, problem)
  perilune.log.error("%s %s: %s", request.method, request.path, problem)
  if not request.connection.closed then
    request.connection:close_websocket(INTERNAL_ERROR, "internal error")
  end
end

-- In a task of its own, so that one that never ends doesn't take the connection with it.
local function run_handler(token, handler, request, response)
  watch(token)
  local ok, body, also, headers = xpcall(callback.call, traceback, handler, request, response)
  if not ok and request._upgraded then fail_upgraded(request, body) end
  wake(token, ok, body, also, headers)
end

-- Sends what a handler returned, unless it has sent a response by itself.
---@async
local function send_returned(response, body, also, headers)
  if response.closed then return end
  if response._begun then
    response:finish()
    return
  end
  if type(body) == "number" then
    response.status = body
    body = also
    for name, value in pairs(headers or {}) do response:set(name, value) end
  elseif body == nil and response.status == 200 then
    response.status = 204
  end
  response:send(body)
end

-- The handler failed: a response that has begun can only be cut off.
---@async
local function send_failure(response, status)
  if response.closed and not response._begun then return end
  if response._begun then
    if not response.closed then response:_abort() end
    return
  end
  response:_forget()
  response:close_after()
  response:send(message.status_text(status), status)
end

---@async
local function handle(session, request, response, route)
  local token = new_token()
  perilune.fork(run_handler, token, route.handler, request, response)
  local ok, body, also, headers = wait(token, route.handler_ms or session.settings.handler_ms)
  if request._upgraded then return end
  if ok then
    ok, body = xpcall(send_returned, traceback, response, body, also, headers)
    if ok then return end
  elseif ok == nil and body == "timeout" then
    perilune.log.error("%s %s: took too long", request.method, request.path)
    send_failure(response, 503)
    response.closed = true
    return
  end
  perilune.log.error("%s %s: %s", request.method, request.path, tostring(body))
  send_failure(response, 500)
end

-- Reads a request with its body. nil: the connection is to be closed, after a refusal if there is
-- somebody to read it.
---@async
local function read_request(session, deadline)
  local settings = session.settings
  local event, head, _, status = next_event(session, deadline)
  if not event then return status and refuse(session, status, status ~= 408 and head or nil) end
  local request = requests.new(session, head)
  if not request then return refuse(session, 400, "the target is no path") end
  local route, refusal, allow = find_route(settings, request)
  local limit = route and route.max_body or settings.max_body
  local expected, why, code = meet_expectation(session, request, limit)
  if not expected then return refuse(session, code, why) end
  local read, text, _, problem =
    read_body(session, request, limit, now() + settings.body_ms)
  if not read then return problem and refuse(session, problem, problem ~= 408 and text or nil) end
  return request, route, refusal, allow
end

-- When a head must be here, of which nothing is yet; nil when nothing has come in time. The first
-- one's time begins with the connection.
---@async
local function head_deadline(session, first)
  local settings = session.settings
  if first then
    local left = settings.header_ms - (session.connection:age() or 0)
    local deadline = now() + left
    return left > 0 and await_request(session, left) and deadline or nil
  end
  return await_request(session, settings.keep_alive_ms) and now() + settings.header_ms or nil
end

-- Answers one request. Whether the connection goes on.
---@async
local function serve_one(session, first)
  local settings = session.settings
  local deadline = head_deadline(session, first)
  if not deadline then return false end
  local request, route, refusal, allow = read_request(session, deadline)
  if not request then return false end
  local keeps = request.keep_alive and settings.keep_alive_ms > 0 and not settings.closing
  local response = responses.new(request, session.connection, keeps)
  request._response = response
  if route then
    handle(session, request, response, route)
  else
    if allow then response:set("allow", allow) end
    response:send(refusal ~= 204 and message.status_text(refusal) or nil, refusal)
  end
  if request._upgraded then return false end
  return response._keep_alive and not session.connection.closed
end

---@async
local function serve(session)
  local first = true
  local goes_on
  repeat
    goes_on = serve_one(session, first)
    give_room_back(session)
    first = false
  until not goes_on
  session.settings.sessions[session.connection.id] = nil
  if session.connection.framing == "raw" and not session.connection.closed then
    session.connection:close()
  end
end

local function begin(settings, connection)
  local session = {
    connection = connection, settings = settings, held = 0,
    parser = native.parser("request", settings.limits),
  }
  settings.sessions[connection.id] = session
  connection.on_close = function() settings.sessions[connection.id] = nil end
  return serve(session)
end

-- Listening ------------------------------------------------------------------------------------

---@class perilune.http.Server
---@field host string
---@field port integer
---@field private _listener perilune.socket.Listener
---@field private _settings table
local Server = {}
Server.__index = Server

---Accepts no more, closes connections that wait for a request, lets the others finish theirs.
---WebSockets stay open.
---@return true? ok
---@return string? message
---@return string? code "dead": it is closed already
function Server:close()
  self._settings.closing = true
  for _, session in pairs(self._settings.sessions) do
    if session.idle then session.connection:close() end
  end
  return self._listener:close()
end

---How many connections there are.
---@return integer count
function Server:connections()
  local count = 0
  for _ in pairs(self._settings.sessions) do count = count + 1 end
  return count
end

local function make_tree(settings)
  local tree = routes.new(settings.routes)
  for path, mount in pairs(settings.static or {}) do
    local base = type(path) == "string" and path:match "^(/.-)/*$"
    if not base then
      error(("static: a path such as \"/assets\" expected, got %s"):format(tostring(path)), 0)
    end
    tree:add("GET " .. (base == "/" and "" or base) .. "/*path", files.mount(mount))
  end
  return tree
end

---Answers requests. Raises for options that can't be.
---@param given perilune.http.ListenOptions
---@return perilune.http.Server? server
---@return string? message
---@return string? code "exists" (the port is in use), "invalid", "unavailable"
function server.listen(given)
  local settings = options.read_for("http.listen", OPTIONS, given)
  settings.sessions, settings.held = {}, 0
  local ok, tree = pcall(make_tree, settings)
  if not ok then error("http.listen: " .. tostring(tree), 2) end
  settings.tree = tree
  settings.fallback = settings.on_request and { handler = settings.on_request }
  settings.limits = {
    header_bytes = settings.max_header_bytes, headers = settings.max_headers,
    target_bytes = settings.max_target, body_bytes = settings.max_body,
  }
  native.parser("request", settings.limits) -- raises now rather than for each connection
  -- A client may send its end before it has read the answer.
  local native_options = { half_open = true }
  for _, name in ipairs(OF_THE_SOCKET) do native_options[name] = settings[name] end
  native_options.on_open = function(connection) return begin(settings, connection) end
  local listener, why, code = socket.listen(native_options)
  if not listener then return nil, why, code end
  return setmetatable({
    host = listener.host, port = listener.port, _listener = listener, _settings = settings,
  }, Server)
end

return server
