---@class perilune.http
-- HTTP/1.1: servers and requests. `local http = require "perilune.http"`.
--
--   local server = assert(http.listen {
--     port = 8080,
--     routes = {
--       ["GET /users/:id"] = function(request) return { id = request.params.id } end,
--       ["POST /users"] = function(request, response)
--         local user = request:json()
--         if not user then return 400, "not JSON" end
--         response:set("location", "/users/7")
--         return 201, user
--       end,
--     },
--     static = { ["/"] = "www" },
--   })
--
--   local answer = assert(http.get "http://127.0.0.1:8080/users/5")
--   print(answer.status, answer.body)
--
-- A handler returns a body, or a status, a body and headers: a table becomes JSON, nothing is 204.
-- Or it uses its response: send(), or write() and finish() for what comes in parts. A handler that
-- raises is answered 500; the log has the traceback. Handlers wait like any task: requests of
-- other connections run meanwhile, those of one connection are answered in their order.
--
-- What can fail returns nil, message, code; options and headers that can't be are raised.
local http = {}

local server = require "perilune.http.server"
local url = require "perilune.http.url"

---Answers requests of a port. Raises for options that can't be.
---@param options perilune.http.ListenOptions
---@return perilune.http.Server? server
---@return string? message
---@return string? code "exists" (the port is in use), "invalid", "unavailable"
function http.listen(options) return server.listen(options) end

---Sends a request and waits for the response. A redirect is followed; a request whose
---connection broke is sent again only if its method can't do harm twice.
---@async
---@param method string "GET"
---@param target string "https://example.com/a?b=c"
---@param options perilune.http.RequestOptions?
---@return perilune.http.Answer? answer any status is one
---@return string? message
---@return string? code "invalid" (the URL), "unavailable" (no connection), "connect_timeout",
---"send_timeout", "head_timeout", "body_timeout", "closed" (before the response was complete),
---"too_large" (the response), "malformed", "too_many_redirects", "overloaded" (names)
function http.request(method, target, options)
  return require("perilune.http.client").request(method, target, options)
end

---http.request("GET", ...)
---@async
---@param target string
---@param options perilune.http.RequestOptions?
---@return perilune.http.Answer? answer
---@return string? message
---@return string? code as of http.request
function http.get(target, options) return http.request("GET", target, options) end

---http.request("POST", ...)
---@async
---@param target string
---@param body string|table|nil a table becomes JSON
---@param options perilune.http.RequestOptions?
---@return perilune.http.Answer? answer
---@return string? message
---@return string? code as of http.request
function http.post(target, body, options)
  local settings = {}
  for name, value in pairs(options or {}) do settings[name] = value end
  settings.body = body
  return http.request("POST", target, settings)
end

---Closes the connections of this service that wait for their next request.
function http.close_idle() require("perilune.http.client").close_idle() end

---Takes a URL apart.
---@param text string
---@return perilune.http.Url? parts
---@return string? message
---@return string? code "invalid"
function http.parse_url(text) return url.parse(text) end

---Percent-encodes all but letters, digits and "-._~".
---@param text string
---@return string encoded
function http.encode(text) return url.encode(text) end

---Decodes %XX.
---@param text string
---@return string? decoded
---@return string? message
---@return string? code "invalid"
function http.decode(text) return url.decode(text) end

---Reads a query or a form.
---@param text string
---@return table<string, string>? fields by name; of a repeated name the first
---@return table|string list {name, value} of all; or a message
---@return string? code "invalid", "too_large"
function http.parse_query(text) return url.parse_query(text) end

---Makes a query or a form.
---@param fields table<string, string|number|boolean>
---@return string query
function http.build_query(fields) return url.build_query(fields) end

return http
