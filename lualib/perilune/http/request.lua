---@class perilune.http.request
-- What a server is asked.
local request = {}

local message = require "perilune.http.message"
local url = require "perilune.http.url"

---@class perilune.http.Request
---@field method string
---@field target string as it came
---@field path string of the target, encoded
---@field query_string string? of the target, encoded
---@field version "1.0"|"1.1"
---@field headers table<string, string> by lower-case name; set-cookie is a list
---@field body string "" when there is none
---@field trailers table<string, string>? headers behind a chunked body
---@field params table<string, string> of the route, decoded
---@field address string of the peer
---@field keep_alive boolean
---@field upgrade boolean it asks for another protocol
---@field connection perilune.socket.Connection
---@field private _session table
---@field private _response perilune.http.Response
---@field private _upgraded boolean?
local Request = {}
Request.__index = Request

---The fields of the query.
---@return table<string, string>? fields of a repeated name the first
---@return table|string list all of them in their order; or a message
---@return string? code "invalid", "too_large"
function Request:query() return url.parse_query(self.query_string or "") end

---The fields of a form that was posted.
---@return table<string, string>? fields of a repeated name the first
---@return table|string list all of them in their order; or a message
---@return string? code "unsupported" (another content type), "invalid", "too_large"
function Request:form()
  local kind = (self.headers["content-type"] or ""):lower():match "^%s*([^;%s]*)"
  if kind ~= "application/x-www-form-urlencoded" then
    return nil, ("a form is application/x-www-form-urlencoded, not %q"):format(kind), "unsupported"
  end
  return url.parse_query(self.body)
end

---The body as JSON.
---@return any value nil when it isn't JSON
---@return string? message
---@return string? code "invalid"
function Request:json() return message.decode_json(self.body) end

---The cookies.
---@return table<string, string> values by name; of a repeated one the first
function Request:cookies()
  local cookies = {}
  for name, value in (self.headers.cookie or ""):gmatch "%s*([^=;%s]+)=([^;]*)" do
    if cookies[name] == nil then cookies[name] = value:match '^"?(.-)"?%s*$' end
  end
  return cookies
end

-- Where path and query are in a target; nil for one that is neither a path nor a URL.
local function split_target(target)
  if target:sub(1, 1) ~= "/" and target ~= "*" then
    local parts = url.parse(target)
    if not parts then return nil end
    return parts.path, parts.query
  end
  local path, mark, query = target:match "^([^?]*)(%??)(.*)$"
  return path, mark ~= "" and query or nil
end

-- For websocket.accept: the connection stops being HTTP's. False when something has come behind the
-- request: who asks for an upgrade has to wait for the answer.
function Request:_upgrade()
  local session = self._session
  local connection = session.connection
  if session.data or connection._frames or connection._text then return false end
  self._upgraded = true
  session.settings.sessions[connection.id] = nil
  return true
end

---Makes the request whose head the parser has read; its body is to come.
---@param session table of the server
---@param head perilune.native.http.Head
---@return perilune.http.Request? request nil when its target can't be
function request.new(session, head)
  local path, query = split_target(head.target)
  if not path then return nil end
  head.path, head.query_string, head.params, head.body = path, query, {}, ""
  head.connection, head.address = session.connection, session.connection.address
  head._session = session
  return setmetatable(head, Request)
end

return request
