---@class perilune.redis.url
-- URLs of Redis, and the options in them.
local url = {}

local http_url = require "perilune.http.url"

---@class perilune.redis.Options
---@field timeout_ms integer? how long a request may take, with the time that it waits for a
---connection; default 5000
---@field connect_ms integer? how long connecting and logging in may take; default 5000
---@field silence_ms integer? a connection is closed when requests wait and nothing has come for so
---long; default 10000; 0: never
---@field ping_ms integer? after so much silence without requests a PING asks whether the server is
---still there; default 30000; 0: never
---@field max_pending integer? requests that may wait for one server, then "busy"; default 10000
---@field max_connections integer? those besides the shared one, for commands that wait and for
---transactions; more of these wait for one, up to timeout_ms, then "busy"; default 64
---@field idle_ms integer? how long one of those is kept for the next use; default 30000
---@field max_reply integer? bytes of a reply, then "too_large"; default 64 MB, at most 1 GB
---@field max_elements integer? values of a reply, then "too_many"; default 1048576
---@field retry_reads boolean? commands that only read are given again when their connection was
---lost; default false: the outcome is "unknown"
---@field lazy boolean? connect() returns at once; requests wait for the connection; default false
---@field name string? what CLIENT LIST calls the connections; default "perilune"; "": nothing
---@field tls perilune.socket.TlsOptions? ca, verify, server_name, certificate, key; of a URL that
---begins with rediss
---@field user string? instead of the one in the URL
---@field password string? the same
---@field sentinel_user string? of the sentinels
---@field sentinel_password string?

---@class perilune.redis.Place
---@field kind "single"|"sentinel"|"cluster"
---@field is_tls boolean
---@field hosts {[1]: string, [2]: integer}[] hosts and ports
---@field primary string? what the sentinels call it

-- Type, default, least and most of each option.
local OPTIONS = {
  timeout_ms = { "integer", 5000, 1, 2 ^ 31 - 1 },
  connect_ms = { "integer", 5000, 1, 2 ^ 31 - 1 },
  silence_ms = { "integer", 10000, 0, 2 ^ 31 - 1 },
  ping_ms = { "integer", 30000, 0, 2 ^ 31 - 1 },
  max_pending = { "integer", 10000, 1, 2 ^ 20 },
  max_connections = { "integer", 64, 1, 10000 },
  idle_ms = { "integer", 30000, 1, 2 ^ 31 - 1 },
  max_reply = { "integer", 64 * 2 ^ 20, 1024, 2 ^ 30 },
  max_elements = { "integer", 2 ^ 20, 1, 2 ^ 26 },
  retry_reads = { "boolean", false },
  lazy = { "boolean", false },
  name = { "string", "perilune" },
  tls = { "table" },
  user = { "string" }, password = { "string" },
  sentinel_user = { "string" }, sentinel_password = { "string" },
}
local TLS_OPTIONS = {
  ca = "string", verify = "boolean", server_name = "string", certificate = "string", key = "string",
}
local DEFAULT_PORTS = { single = 6379, sentinel = 26379, cluster = 6379 }

-- What is wrong with the value, in words that don't repeat it: it may be a secret.
local function problem_of(name, value)
  local option = OPTIONS[name]
  if not option then return ("there is no option %q"):format(name) end
  local kind, _, least, most = unpack(option, 1, 4)
  if kind == "integer" then
    if type(value) ~= "number" or value % 1 ~= 0 or value < least or value > most then
      return ("%s has to be an integer from %d to %d"):format(name, least, most)
    end
  elseif type(value) ~= kind then
    return ("%s has to be a %s, not a %s"):format(name, kind, type(value))
  end
  if name == "name" and value:find "[^\33-\126]" then
    return "name has to be of printable characters without spaces"
  end
end

-- The value of an option in a URL, which is a text.
local function from_text(kind, text)
  if kind == "integer" then return tonumber(text) end
  if kind == "boolean" then
    if text == "true" or text == "1" then return true end
    if text == "false" or text == "0" then return false end
    return nil
  end
  return text
end

local function read_query(query, options)
  local fields, list = http_url.parse_query(query)
  if not fields then return list end
  for name, text in pairs(fields) do
    if TLS_OPTIONS[name] then
      options.tls = options.tls or {}
      options.tls[name] = from_text(TLS_OPTIONS[name], text)
      if options.tls[name] == nil then return name .. " has to be true or false" end
    else
      local kind = OPTIONS[name] and OPTIONS[name][1]
      if name == "tls" then return "tls is no option of a URL: begin it with rediss" end
      options[name] = from_text(kind, text)
      local problem = problem_of(name, options[name])
      if problem then return problem end
    end
  end
end

-- user:password, of which each part may be missing.
local function read_login(login, options)
  local user, password = login:match "^([^:]*):?(.*)$"
  user, password = http_url.decode(user), http_url.decode(password)
  if not user or not password then return 'a "%" without two hexadecimal digits' end
  if not login:find(":", 1, true) then password = "" end
  if user ~= "" then options.user = user end
  if password ~= "" then options.password = password end
end

local function read_hosts(text, port, hosts)
  for part in (text .. ","):gmatch "([^,]*)," do
    local host, rest = part:match "^%[([%x:.]+)%](.*)$"
    if not host then
      host, rest = part:match "^([%w%-._]+)(.*)$"
    end
    if not host then return "a host is missing, or can't be" end
    local digits = rest:match "^:(%d+)$"
    local number = rest == "" and port or tonumber(digits)
    if not number or number < 1 or number > 65535 then return "a port has to be 1 to 65535" end
    hosts[#hosts + 1] = { host, number }
  end
end

local function read_path(path, place, options)
  local parts = {}
  for part in path:gmatch "[^/]+" do
    local text = http_url.decode(part)
    if not text then return 'a "%" without two hexadecimal digits' end
    parts[#parts + 1] = text
  end
  if place.kind == "sentinel" then
    place.primary = table.remove(parts, 1)
    if not place.primary then return "the name of the primary is missing: /name" end
  end
  local digits = table.remove(parts, 1)
  if parts[1] then return "too much follows the hosts" end
  if not digits then return nil end
  if not digits:find "^%d%d?%d?%d?%d?$" then return "a database has a number" end
  options.database = tonumber(digits)
  if place.kind == "cluster" and options.database ~= 0 then
    return "a cluster has database 0 alone"
  end
end

-- The parts of the URL, or nil and what is wrong.
local function take_apart(text)
  if text:find "[%z\1-\32\127-\255]" then
    return nil, "spaces, control characters and bytes over 127 have to be percent-encoded"
  end
  local scheme, authority, rest = text:match "^(%a[%w+]*)://([^/?#]*)(.*)$"
  if not scheme then return nil, "it has to begin with redis:// or rediss://" end
  local base, kind = scheme:lower():match "^(rediss?)%+?(%a*)$"
  if not base or (kind ~= "" and kind ~= "sentinel" and kind ~= "cluster") then
    return nil, "redis, rediss, redis+sentinel and redis+cluster are what it may begin with"
  end
  local path, query = rest:match "^([^?]*)%??(.*)$"
  return {
    kind = kind == "" and "single" or kind, is_tls = base == "rediss",
    -- The last one: a password may have been written with another.
    login = authority:match "^(.*)@", hosts = authority:match "([^@]*)$", path = path,
    query = query,
  }
end

local function read_url(text)
  local parts, problem = take_apart(text)
  if not parts then return nil, problem end
  local options = { database = 0 }
  local place = { kind = parts.kind, is_tls = parts.is_tls, hosts = {} }
  problem = (parts.login and read_login(parts.login, options))
    or read_hosts(parts.hosts, DEFAULT_PORTS[place.kind], place.hosts)
    or read_path(parts.path, place, options)
    or read_query(parts.query, options)
  if problem then return nil, problem end
  if place.kind == "single" and #place.hosts > 1 then
    return nil, "several hosts are for redis+sentinel and redis+cluster"
  end
  return place, options
end

-- The options of connect(), which come before those of the URL. Raises.
local function add_given(given, options, level)
  for name, value in pairs(given) do
    local problem = problem_of(tostring(name), value)
    if problem then error("redis.connect: " .. problem, level + 1) end
    options[name] = value
  end
end

---Reads a URL and what is given besides. No error of it repeats a part of the URL, which may have a
---password.
---@param text string
---@param given perilune.redis.Options?
---@param level integer of the script that is told of a mistake in `given`
---@return perilune.redis.Place? place
---@return table|string options by name, with the defaults; or a message
---@return string? code "invalid"
function url.read(text, given, level)
  local place, options = read_url(text)
  if not place then return nil, "the URL of Redis can't be used: " .. options, "invalid" end
  add_given(given or {}, options, level + 1)
  for name, option in pairs(OPTIONS) do
    if options[name] == nil then options[name] = option[2] end
  end
  if options.user and not options.password then
    return nil, "the URL of Redis can't be used: a user without a password", "invalid"
  end
  if options.tls and not place.is_tls then
    return nil, "the URL of Redis can't be used: options of TLS need rediss://", "invalid"
  end
  options.tls = place.is_tls and (options.tls or true) or nil
  return place, options
end

return url
