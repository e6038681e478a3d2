---@class perilune.http.message
-- What servers and clients of HTTP share: headers that are safe to send, dates, bodies.
local message = {}

local core = require "perilune.core"
local json = require "cjson.safe"
local native = require "perilune.native.http"

local now, time = core.native "now", core.native "time"

-- Written in one go, and what may wait to be sent before the writer waits.
local SLICE = 128 * 1024

local status_lines = {}

---The first line of a response.
---@param status integer
---@return string line
function message.status_line(status)
  local line = status_lines[status]
  if not line then
    local text = native.status_text(status)
    line = ("HTTP/1.1 %d %s\r\n"):format(status, text)
    if text ~= "" then status_lines[status] = line end
  end
  return line
end

---The words of a status.
---@param status integer
---@return string text "Not Found"; "" when it has none
function message.status_text(status) return native.status_text(status) end

local function check_value(name, value, level)
  local kind = type(value)
  if kind == "number" then return tostring(value) end
  if kind ~= "string" then
    error(("header %s: a string expected, got %s"):format(name, kind), level + 1)
  end
  if value:find "[%z\1-\8\10-\31\127]" then
    error(("header %s: its value has a line end or another control character"):format(name),
      level + 1)
  end
  return value
end

---Raises unless a header can be sent as it is: a line end in it would begin a header of its own.
---@param name string
---@param value string|number|(string|number)[]
---@param level integer? of error()
---@return string name in lower case
---@return string|string[] value
function message.check_header(name, value, level)
  level = (level or 1) + 1
  if type(name) ~= "string" or not name:find "^[%w!#$%%&'*+%-.^_`|~]+$" then
    error(("%q can't be the name of a header: letters, digits and \"-\" can be in one"):format(
      tostring(name)), level)
  end
  if type(value) ~= "table" then return name:lower(), check_value(name, value, level) end
  local values = {}
  for index, each in ipairs(value) do values[index] = check_value(name, each, level) end
  return name:lower(), values
end

---All headers of a table, checked, under lower-case names.
---@param headers table<string, string|number|string[]>?
---@param level integer? of error()
---@return table<string, string|string[]> checked
function message.check_headers(headers, level)
  level = (level or 1) + 1
  local checked = {}
  for name, value in pairs(headers or {}) do
    local key, good = message.check_header(name, value, level)
    checked[key] = good
  end
  return checked
end

---Appends lines of checked headers.
---@param parts string[]
---@param headers table<string, string|string[]>
function message.add_headers(parts, headers)
  local count = #parts
  for name, value in pairs(headers) do
    if type(value) == "table" then
      for _, each in ipairs(value) do
        parts[count + 1], parts[count + 2] = name, ": "
        parts[count + 3], parts[count + 4] = each, "\r\n"
        count = count + 4
      end
    else
      parts[count + 1], parts[count + 2], parts[count + 3], parts[count + 4] =
        name, ": ", value, "\r\n"
      count = count + 4
    end
  end
end

---Whether a header that is a list has an element.
---@param value string?
---@param wanted string in lower case
---@return boolean found
function message.has_token(value, wanted)
  for token in (value or ""):lower():gmatch "[^,]+" do
    if token:match "^%s*(.-)%s*$" == wanted then return true end
  end
  return false
end

---A body as bytes: a table becomes JSON.
---@param body string|number|table|nil
---@param level integer? of error()
---@return string? text
---@return string? content_type of a table
function message.encode_body(body, level)
  if body == nil or type(body) == "string" then return body end
  if type(body) == "number" then return tostring(body) end
  if type(body) ~= "table" then
    error("a body is a string, or a table that becomes JSON; got " .. type(body), (level or 1) + 1)
  end
  local text, problem = json.encode(body)
  if not text then error("a body that can't be JSON: " .. problem, (level or 1) + 1) end
  return text, "application/json"
end

---Reads JSON.
---@param text string
---@return any value
---@return string? message
---@return string? code "invalid"
function message.decode_json(text)
  local value, problem = json.decode(text)
  if value == nil then return nil, "not JSON: " .. tostring(problem), "invalid" end
  return value
end

---Sends bytes, waiting while much is unsent, so that a slow peer isn't closed as "slow".
---@async
---@param connection perilune.socket.Connection
---@param data string
---@param deadline number? as of now(); otherwise the connection's own limits hold alone
---@return true? ok
---@return string? message
---@return string? code "timeout", or as of write and drain
function message.transmit(connection, data, deadline)
  for from = 1, #data, SLICE do
    local part = #data <= SLICE and data or data:sub(from, from + SLICE - 1)
    local ok, why, code = connection:write(part)
    if not ok then return nil, why, code end
    if connection:unsent() >= SLICE then
      ok, why, code = connection:drain(deadline and math.max(1, math.ceil(deadline - now())))
      if not ok then return nil, why, code end
    end
  end
  return true
end

-- Dates -----------------------------------------------------------------------------------------

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9,
  Oct = 10, Nov = 11, Dec = 12 }

local date_second, date_text

---A date as headers have it.
---@param seconds number? since 1970; default: now
---@return string date "Sun, 06 Nov 1994 08:49:37 GMT"
function message.date(seconds)
  local second = math.floor(seconds or time())
  if seconds or second ~= date_second then
    local text = os.date("!%a, %d %b %Y %H:%M:%S GMT", second)
    if seconds then return text --[[@as string]] end
    date_second, date_text = second, text
  end
  return date_text
end

-- Days from 1970-01-01 to a date of the Gregorian calendar.
local function days_to(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  local leaps = math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
  return 365 * year + leaps + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

---Reads a date of a header.
---@param text string
---@return integer? seconds since 1970; nil when it is another form
function message.parse_date(text)
  local day, name, year, hour, minute, second =
    text:match "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  local month = MONTHS[name]
  if not month then return nil end
  return days_to(tonumber(year), month, tonumber(day)) * 86400 + tonumber(hour) * 3600 +
    tonumber(minute) * 60 + tonumber(second)
end

return message
