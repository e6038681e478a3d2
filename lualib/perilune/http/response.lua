---@class perilune.http.response
-- What a server answers with: as a whole, or in parts while they come.
local response = {}

local message = require "perilune.http.message"

---@class perilune.http.Response
---@field status integer default 200
---@field closed boolean nothing can be sent any more: it is complete, or the peer has gone
---@field private _request perilune.http.Request
---@field private _connection perilune.socket.Connection
---@field private _headers table<string, string|string[]>
---@field private _begun boolean?
---@field private _chunked boolean?
---@field private _keep_alive boolean
local Response = {}
Response.__index = Response

local NO_BODY = { [204] = true, [304] = true }

---A response that nothing has been sent of.
---@param request perilune.http.Request
---@param connection perilune.socket.Connection
---@param keep_alive boolean
---@return perilune.http.Response
function response.new(request, connection, keep_alive)
  return setmetatable({
    status = 200, closed = false, _request = request, _connection = connection, _headers = {},
    _keep_alive = keep_alive,
  }, Response)
end

---Sets a header, in place of one of that name. Raises for a value with line ends.
---@param name string
---@param value string|number|(string|number)[] a list: one header for each
---@return perilune.http.Response self
function Response:set(name, value)
  local key, checked = message.check_header(name, value, 2)
  self._headers[key] = checked
  return self
end

---A header that was set.
---@param name string
---@return string|string[]|nil value
function Response:get(name) return self._headers[name:lower()] end

---The connection ends after this response.
---@return perilune.http.Response self
function Response:close_after()
  self._keep_alive = false
  return self
end

local function check_status(status)
  if type(status) ~= "number" or status < 200 or status > 599 or status % 1 ~= 0 then
    error(("a status from 200 to 599 expected, got %s"):format(tostring(status)), 3)
  end
end

-- The head as bytes. `length` of the body: nil where it isn't known yet.
local function make_head(self, length)
  local headers, status = self._headers, self.status
  local parts = { message.status_line(status) }
  if not headers.date then headers.date = message.date() end
  if length and not NO_BODY[status] and not headers["content-length"] then
    headers["content-length"] = tostring(length)
  end
  if not self._keep_alive then
    headers.connection = "close"
  elseif self._request.version == "1.0" then
    headers.connection = "keep-alive"
  end
  message.add_headers(parts, headers)
  parts[#parts + 1] = "\r\n"
  return table.concat(parts)
end

local function has_body(self) return self._request.method ~= "HEAD" and not NO_BODY[self.status] end

-- Sends; a peer that has gone ends the response.
local function put(self, data)
  local ok, why, code = message.transmit(self._connection, data)
  if not ok then self.closed = true end
  return ok, why, code
end

local function refuse_closed() return nil, "the response has ended", "closed" end

---Sends the response as a whole.
---@async
---@param body string|number|table|nil a table becomes JSON
---@param status integer? default: self.status
---@return true? ok
---@return string? message
---@return string? code "closed", or as of the connection
function Response:send(body, status)
  if self.closed then return refuse_closed() end
  if self._begun then error("send: the response has been begun with write", 2) end
  self.status = status or self.status
  check_status(self.status)
  local text, kind = message.encode_body(body, 2)
  text = text or ""
  local headers = self._headers
  if not headers["content-type"] and text ~= "" then
    headers["content-type"] = kind or "text/plain; charset=utf-8"
  end
  local head = make_head(self, #text)
  self._begun, self.closed = true, true
  if not has_body(self) then return put(self, head) end
  if #text < 16384 then return put(self, head .. text) end
  local ok, why, code = put(self, head)
  if not ok then return nil, why, code end
  return put(self, text)
end

-- Sends the head of a response whose parts follow.
local function begin(self)
  check_status(self.status)
  self._begun = true
  if has_body(self) and not self._headers["content-length"] then
    -- HTTP/1.0 knows no chunks: there the end of the connection is that of the body.
    self._chunked = self._request.version ~= "1.0"
    if self._chunked then
      self._headers["transfer-encoding"] = "chunked"
    else
      self._keep_alive = false
    end
  end
  return put(self, make_head(self))
end

---Sends a part of the body, at once; before the first the head. Waits while the peer doesn't keep
---up.
---@async
---@param data string
---@return true? ok
---@return string? message
---@return string? code "closed", or why the connection was closed
function Response:write(data)
  if self.closed then return refuse_closed() end
  if type(data) ~= "string" then error("write: a string expected, got " .. type(data), 2) end
  if not self._begun then
    local ok, why, code = begin(self)
    if not ok then return nil, why, code end
  end
  if data == "" or not has_body(self) then return true end
  if self._chunked then data = ("%x\r\n%s\r\n"):format(#data, data) end
  return put(self, data)
end

---Ends a response that was begun with write.
---@async
---@param data string? the last part
---@return true? ok
---@return string? message
---@return string? code "closed", or why the connection was closed
function Response:finish(data)
  if self.closed then return refuse_closed() end
  if not self._begun or data then
    local ok, why, code = self:write(data or "")
    if not ok then return nil, why, code end
  end
  local ok, why, code = true, nil, nil
  if self._chunked then ok, why, code = put(self, "0\r\n\r\n") end
  self.closed = true
  return ok, why, code
end

---Sends the client elsewhere.
---@async
---@param location string
---@param status integer? default 302
---@return true? ok
---@return string? message
---@return string? code "closed", or why the connection was closed
function Response:redirect(location, status)
  self:set("location", location)
  return self:send(nil, status or 302)
end

---Sends a file below the data folder, or the part of it that the request asks for.
---@async
---@param path string as perilune.file has it
---@return true? ok
---@return string? message
---@return string? code "not_found", ...: nothing was sent
function Response:send_file(path)
  return require("perilune.http.files").send(self._request, self, path)
end

-- Headers that were set for what isn't sent after all.
function Response:_forget() self._headers = {} end

-- Ends the connection in the middle: the peer sees that something is missing.
function Response:_abort()
  self.closed, self._keep_alive = true, false
  self._connection:abort()
end

return response
