---@class perilune.http.files
-- Files below the data folder as responses: types, ETag, conditions, one range.
local files = {}

local file = require "perilune.file"
local message = require "perilune.http.message"

local PART = 64 * 1024

local TYPES = {
  html = "text/html; charset=utf-8", htm = "text/html; charset=utf-8",
  css = "text/css; charset=utf-8", js = "text/javascript; charset=utf-8",
  mjs = "text/javascript; charset=utf-8", json = "application/json", map = "application/json",
  txt = "text/plain; charset=utf-8", md = "text/plain; charset=utf-8",
  xml = "application/xml", csv = "text/csv; charset=utf-8", svg = "image/svg+xml",
  png = "image/png", jpg = "image/jpeg", jpeg = "image/jpeg", gif = "image/gif",
  webp = "image/webp", avif = "image/avif", ico = "image/x-icon", wasm = "application/wasm",
  mp3 = "audio/mpeg", ogg = "audio/ogg", wav = "audio/wav", mp4 = "video/mp4",
  webm = "video/webm", woff = "font/woff", woff2 = "font/woff2", ttf = "font/ttf",
  otf = "font/otf", pdf = "application/pdf", zip = "application/zip", gz = "application/gzip",
}

---The content type of a file's name.
---@param path string
---@return string type
function files.type_of(path)
  local extension = path:match "%.(%w+)$"
  return TYPES[(extension or ""):lower()] or "application/octet-stream"
end

local function etag_of(info)
  return ('"%x-%x"'):format(info.size, math.floor(info.modified * 1000))
end

-- Whether a list of tags has ours. "W/" makes no difference for GET.
local function matches(list, etag)
  for tag in list:gmatch '[^,]+' do
    tag = tag:match "^%s*(.-)%s*$":gsub("^W/", "")
    if tag == "*" or tag == etag then return true end
  end
  return false
end

local function is_unchanged(request, info, etag)
  local tags = request.headers["if-none-match"]
  if tags then return matches(tags, etag) end
  local since = request.headers["if-modified-since"]
  local seconds = since and message.parse_date(since)
  return seconds ~= nil and math.floor(info.modified) <= seconds
end

-- The part that a request asks for: first and last byte; nothing for all of it; false when the
-- file has no such part.
local function range_of(request, info, etag)
  local range, condition = request.headers.range, request.headers["if-range"]
  if not range or request.method ~= "GET" then return nil end
  local is_same = condition == etag or condition == message.date(info.modified)
  if condition and not is_same then return nil end
  local from, to = range:match "^bytes=(%d*)%-(%d*)$"
  if not from or (from == "" and to == "") or #from > 15 or #to > 15 then return nil end
  from, to = tonumber(from), tonumber(to)
  if not from then -- the last bytes
    if to == 0 then return false end
    return math.max(0, info.size - to), info.size - 1
  end
  if to and to < from then return nil end
  if from >= info.size then return false end
  return from, math.min(to or info.size - 1, info.size - 1)
end

-- In parts, since a file may be larger than what may wait to be sent.
local function send_parts(response, path, info, from, count)
  while count > 0 do
    local data = file.read_part(path, from, math.min(count, PART))
    local now = file.info(path)
    local is_same = now and now.size == info.size and now.modified == info.modified
    if not data or data == "" or not is_same then
      -- The length was promised: only the connection's end can tell that this isn't it.
      response:_abort()
      return nil, path .. " changed while it was sent", "unavailable"
    end
    local ok, why, code = response:write(data)
    if not ok then return nil, why, code end
    from, count = from + #data, count - #data
  end
  return response:finish()
end

local function send_content(request, response, path, info, from, count)
  if count <= PART or request.method == "HEAD" then
    local data = request.method == "HEAD" and "" or file.read_part(path, from, count)
    if request.method ~= "HEAD" and (not data or #data ~= count) then
      return nil, path .. " changed while it was read", "unavailable"
    end
    response:set("content-length", count)
    return response:send(data)
  end
  response:set("content-length", count)
  return send_parts(response, path, info, from, count)
end

---Answers with a file.
---@async
---@param request perilune.http.Request
---@param response perilune.http.Response
---@param path string below the data folder
---@return true? ok
---@return string? message
---@return string? code "not_found", "invalid", ...: nothing was sent
function files.send(request, response, path)
  local info, why, code = file.info(path)
  if not info then return nil, why, code end
  if info.kind ~= "file" then return nil, path .. " is a folder", "not_found" end
  local etag = etag_of(info)
  response:set("etag", etag):set("last-modified", message.date(info.modified))
  if is_unchanged(request, info, etag) then return response:send(nil, 304) end
  response:set("accept-ranges", "bytes"):set("x-content-type-options", "nosniff")
  if not response:get "content-type" then response:set("content-type", files.type_of(path)) end
  local first, last = range_of(request, info, etag)
  if first == false then
    response:set("content-range", ("bytes */%.0f"):format(info.size))
    return response:send("", 416)
  end
  if first then
    response.status = 206
    response:set("content-range", ("bytes %.0f-%.0f/%.0f"):format(first, last, info.size))
  end
  first, last = first or 0, last or info.size - 1
  return send_content(request, response, path, info, first, last - first + 1)
end

-- Names that a visitor may ask for: no way up, no hidden files, nothing that isn't a name.
local function is_safe(path)
  for segment in (path .. "/"):gmatch "([^/]*)/" do
    if segment == "" or segment:sub(1, 1) == "." or segment:find "[%c\\]" then return false end
  end
  return true
end

---@class perilune.http.Mount
---@field folder string below the data folder
---@field cache_control string? default "no-cache": ask again, by ETag

---A handler of the files of a folder, for a route that ends in "*path".
---@param mount string|perilune.http.Mount
---@return fun(request: perilune.http.Request, response: perilune.http.Response)
function files.mount(mount)
  local settings = type(mount) == "table" and mount or { folder = mount }
  local folder, cache = settings.folder, settings.cache_control or "no-cache"
  if type(folder) ~= "string" or not is_safe(folder) then
    error(("static: a folder below the data folder expected, got %s"):format(tostring(folder)), 0)
  end
  return function(request, response)
    local path = request.params.path or ""
    local is_folder = path == "" or path:sub(-1) == "/"
    local name = is_folder and path .. "index.html" or path
    if not is_safe(name) then return response:send("Not Found", 404) end
    response:set("cache-control", cache)
    local kind = select(2, file.exists(folder .. "/" .. name))
    if kind == "folder" then -- so that links within it lead where they should
      local query = request.query_string and "?" .. request.query_string or ""
      -- Not "//host", which would lead to another one.
      return response:redirect("/" .. request.path:gsub("^/+", "") .. "/" .. query, 308)
    end
    local ok = files.send(request, response, folder .. "/" .. name)
    if not ok and not response.closed then
      response.status = 404
      response:_forget()
      response:send("Not Found")
    end
  end
end

return files
