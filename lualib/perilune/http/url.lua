---@class perilune.http.url
-- URLs, percent coding, queries and forms: `local url = require "perilune.http.url"`.
local url = {}

local MAX_FIELDS = 1000

---@class perilune.http.Url
---@field scheme string lower case
---@field host string without the brackets of an IPv6 address, lower case
---@field port integer as given, or what the scheme has
---@field path string "/" at least, as it was encoded
---@field query string? what follows the "?"
---@field fragment string? what follows the "#"
---@field target string path and query: what a request line has
---@field authority string host and port as a Host header has them

local DEFAULT_PORTS = { http = 80, https = 443, ws = 80, wss = 443 }

local function escape_byte(byte) return ("%%%02X"):format(byte:byte()) end

---Encodes all but letters, digits and "-._~", so that the text can stand anywhere in a URL.
---@param text string
---@return string encoded
function url.encode(text)
  return (text:gsub("[^%w%-._~]", escape_byte))
end

---Decodes %XX.
---@param text string
---@return string? decoded nil when a "%" isn't followed by two hexadecimal digits
---@return string? message
---@return string? code "invalid"
function url.decode(text)
  if not text:find("%", 1, true) then return text end
  local good = true
  local decoded = text:gsub("%%(.?.?)", function(digits)
    local byte = digits:find "^%x%x$" and tonumber(digits, 16)
    if not byte then
      good = false
      return nil
    end
    return string.char(byte)
  end)
  if good then return decoded end
  return nil, 'a "%" without two hexadecimal digits', "invalid"
end

local function decode_field(text) return url.decode((text:gsub("%+", " "))) end

---Reads a query, or a form of the type application/x-www-form-urlencoded.
---@param text string "a=1&b=two%20words"
---@return table<string, string>? fields by name; of a repeated name the first
---@return {[1]: string, [2]: string}[]|string list all of them in their order; or a message
---@return string? code "invalid", "too_large" (more than 1000 fields)
function url.parse_query(text)
  local fields, list = {}, {}
  for part in text:gmatch "[^&]+" do
    local raw_name, raw_value = part:match "^([^=]*)=?(.*)$"
    local name, message = decode_field(raw_name)
    local value, also = decode_field(raw_value)
    if not name or not value then return nil, message or also or "", "invalid" end
    if #list == MAX_FIELDS then return nil, "more than 1000 fields", "too_large" end
    list[#list + 1] = { name, value }
    if fields[name] == nil then fields[name] = value end
  end
  return fields, list
end

---The reverse of parse_query, in the order of names.
---@param fields table<string, string|number|boolean>
---@return string query
function url.build_query(fields)
  local names, parts = {}, {}
  for name in pairs(fields) do names[#names + 1] = name end
  table.sort(names)
  for index, name in ipairs(names) do
    parts[index] = url.encode(name) .. "=" .. url.encode(tostring(fields[name]))
  end
  return table.concat(parts, "&")
end

local function refuse(text, why)
  return nil, ("%s is no URL that can be used: %s"):format(text:sub(1, 200), why), "invalid"
end

-- host, port (a text, or nil) of "example.com:80" or "[::1]:80".
local function split_authority(authority)
  local host, rest = authority:match "^%[([%x:.]+)%](.*)$"
  if not host then
    host, rest = authority:match "^([%w%-._~]+)(.*)$"
  end
  if not host then return nil end
  if rest == "" or rest == ":" then return host end
  local port = rest:match "^:(%d+)$"
  if port then return host, port end
end

---Takes a URL apart.
---@param text string "https://example.com:8443/a/b?c=d#e"
---@return perilune.http.Url? parts
---@return string? message
---@return string? code "invalid"
function url.parse(text)
  if text:find "[%z\1-\32\127-\255]" then
    return refuse(text:gsub("[%z\1-\32\127-\255]", escape_byte),
      "spaces, control characters and bytes over 127 have to be percent-encoded")
  end
  local scheme, authority, rest = text:match "^(%a[%w+.-]*)://([^/?#]*)(.*)$"
  if not scheme then return refuse(text, "it has to begin with a scheme, such as http://") end
  if authority:find("@", 1, true) then
    return refuse("it", "a name or password belongs into the header authorization")
  end
  local host, digits = split_authority(authority)
  if not host then return refuse(text, "its host or port can't be") end
  scheme, host = scheme:lower(), host:lower()
  local port = tonumber(digits) or DEFAULT_PORTS[scheme]
  if not port or port < 1 or port > 65535 then return refuse(text, "it needs a port to 65535") end
  local before, fragment = rest:match "^([^#]*)#?(.*)$"
  local path, query = before:match "^([^?]*)%??(.*)$"
  if path == "" then path = "/" end
  local has_query = before:find("?", 1, true) ~= nil
  local name = host:find(":", 1, true) and "[" .. host .. "]" or host
  return {
    scheme = scheme, host = host, port = port, path = path,
    query = has_query and query or nil,
    fragment = rest:find("#", 1, true) and fragment or nil,
    target = has_query and path .. "?" .. query or path,
    authority = port == DEFAULT_PORTS[scheme] and name or name .. ":" .. port,
  }
end

-- "/a/b/../c/./d" -> "/a/c/d"
local function remove_dots(path)
  local kept = {}
  for segment in path:gmatch "/([^/]*)" do
    if segment == ".." then
      kept[#kept] = nil
    elseif segment ~= "." then
      kept[#kept + 1] = segment
    end
  end
  local ends_open = path:find "/%.%.?$"
  return "/" .. table.concat(kept, "/") .. (ends_open and #kept > 0 and "/" or "")
end

---Where a reference in a document leads, such as the location of a redirect.
---@param base perilune.http.Url
---@param reference string "https://example.com/", "/path", "file?query", ...
---@return perilune.http.Url? parts
---@return string? message
---@return string? code "invalid"
function url.resolve(base, reference)
  if reference:find "^%a[%w+.-]*:" then return url.parse(reference) end
  if reference:find "^//" then return url.parse(base.scheme .. ":" .. reference) end
  local origin = base.scheme .. "://" .. base.authority
  if reference == "" or reference:find "^#" then
    return url.parse(origin .. base.target .. reference)
  end
  if reference:find "^%?" then return url.parse(origin .. base.path .. reference) end
  local path, rest = reference:match "^([^?#]*)(.*)$"
  if path:sub(1, 1) ~= "/" then path = base.path:match "^(.*/)" .. path end
  return url.parse(origin .. remove_dots(path) .. rest)
end

return url
