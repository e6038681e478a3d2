---@class perilune.mysql
-- MySQL and MariaDB: `local mysql = require "perilune.mysql"`.
--
--   local db = mysql.connect "mysql://game:secret@127.0.0.1:3306/game?pool=8"
--   local row = db:one("SELECT name FROM player WHERE uid = ?", uid)
--
-- What a database can be asked, what its values are and how it fails: perilune.sql. Here:
--
-- Connections are made when they are needed, and again after they were lost; requests wait for that
-- within their own limit. A statement with values is prepared, once on each connection; one without
-- is sent as text. A statement that isn't done in time costs its connection, so that its late
-- answer reaches nobody, and the server is told to end it, by KILL. The connection's character set
-- is utf8mb4.
--
-- FLOAT comes as the shortest number that stands for it. BIT is a number. "0000-00-00" is what it
-- is. Variables of a session belong to a connection, and so to nobody: set them within a
-- transaction, where at all. What changes tables ends a transaction in MySQL.
--
-- Passwords are proven by mysql_native_password, caching_sha2_password, sha256_password or ed25519,
-- never sent in the clear. Without TLS a server that is not yet known to caching_sha2_password is
-- trusted to say which key the password is encrypted with: use tls=on over networks of others.
local mysql = {}

local core = require "perilune.core"
local native = require "perilune.native.mysql"
local options = require "perilune.options"
local pool = require "perilune.sql.pool"
local sql = require "perilune.sql"
local url = require "perilune.http.url"

local on_event = core.on_event

local DECLARED = {
  pool = { type = "integer", default = 8, min = 1, max = 256, meaning = "connections at most" },
  connect_ms = { type = "integer", default = 5000, min = 1, max = 600000, unit = "ms",
    meaning = "limit of connecting" },
  statements = { type = "integer", default = 64, min = 0, max = 1000,
    meaning = "prepared ones that a connection keeps" },
  tls = { type = "string", default = "off", choices = { "off", "on", "unverified" },
    meaning = "on: the certificate has to be the host's" },
  ca = { type = "string", default = "", meaning = "file of certificates that are trusted" },
  certificate = { type = "string", default = "", meaning = "file of our own certificate" },
  key = { type = "string", default = "", meaning = "file of its key" },
}
for name, option in pairs(sql.limit_options) do DECLARED[name] = option end

-- The pools of the running service by their connections' ids: a file of the library is shared by
-- the services of a VM.
local function state_of_service()
  local state = native.state()
  if state then return state end
  state = { pools = {} }
  on_event("mysql", function(id)
    local owner = state.pools[id]
    if owner then owner:forget(id) end
  end)
  native.set_state(state)
  return state
end

-- ---- connections ----

local function new_pool(target, settings)
  local state = state_of_service()
  local own
  -- A wait that is longer than the attempt itself, which then says why it failed.
  local patience = settings.connect_ms + 1000
  local function open()
    local id = native.reserve()
    state.pools[id] = own
    local ok, a, b, c, d, e = native.connect(id, target, patience)
    if ok == true then return id end
    state.pools[id] = nil
    if ok ~= false then native.close(id) end
    local problem = sql.problem(patience, ok, a, b, c, d, e)
    problem.outcome = "not_applied"
    return nil, problem
  end
  local function close(id)
    state.pools[id] = nil
    native.close(id)
  end
  own = pool.new({ open = open, close = close, ended = native.ended }, settings.pool)
  return own
end

-- What each function does: perilune.sql.Driver.
---@type perilune.sql.Driver
local Driver = {
  begin = "START TRANSACTION", begin_reading = "START TRANSACTION READ ONLY",
  check = native.check,
}
Driver.__index = Driver

function Driver:take(deadline) return self._pool:take(deadline) end
function Driver:give(id) self._pool:give(id) end
function Driver:drop(id) self._pool:drop(id) end
function Driver:close() self._pool:close() end
function Driver:stats() return self._pool:stats() end

---@async
function Driver:execute(id, ms, limits, shape, prepared, text, ...)
  return native.execute(id, ms, limits.max_rows, limits.max_bytes, shape, prepared, text, ...)
end

-- ---- addresses ----

-- What an address says: nil and what is wrong, which repeats nothing of it; it may hold a password.
local function read_target(address)
  if type(address) ~= "string" then return nil, "an address expected, got " .. type(address) end
  local scheme, authority, rest = address:match "^(%a+)://([^/?#]*)(.*)$"
  if scheme ~= "mysql" and scheme ~= "mariadb" then return nil, "its scheme has to be mysql" end
  local login, place = authority:match "^(.-)@([^@]*)$"
  local name, secret = (login or ""):match "^([^:]*):?(.*)$"
  local user, password = url.decode(name), url.decode(secret)
  if user == "" then return nil, "a user is missing" end
  local host, digits = (place or ""):match "^%[([%x:.]+)%]:?(%d*)$"
  if not host then
    host, digits = (place or ""):match "^([%w%-._]+):?(%d*)$"
  end
  local port = digits == "" and 3306 or tonumber(digits)
  if not host or port < 1 or port > 65535 then return nil, "its host or port can't be" end
  local path, query = rest:match "^([^?#]*)%??([^#]*)$"
  local database = url.decode(path and path:match "^/?([^/]*)$" or "%")
  if not user or not password or not database or (user .. password .. database):find "%z" then
    return nil, "its user, password or database can't be read"
  end
  return { host = host, port = port, user = user, password = password, database = database }, query
end

-- Options of an address are texts.
local function read_query(query)
  local fields = url.parse_query(query)
  if not fields then return nil end
  for name, text in pairs(fields) do
    local option = DECLARED[name]
    if option and option.type == "integer" then fields[name] = tonumber(text) or text end
  end
  return fields
end

---@class perilune.mysql.Options: perilune.sql.Limits
---@field pool integer? connections at most; default 8
---@field connect_ms integer? limit of connecting; default 5000
---@field statements integer? prepared ones that a connection keeps; default 64
---@field tls ("off"|"on"|"unverified")? default "off"; on: the certificate has to be the host's
---@field ca string? file of certificates that are trusted; default: the system's
---@field certificate string? file of our own certificate, for a server that asks for one
---@field key string? file of its key

---A database. Connects when it is used: db:ping() says whether that works. Raises when the address
---or an option can't be. The connections are closed with the service, if not by db:close().
---@param address string "mysql://user:password@host:port/database?pool=8&tls=on"
---@param given perilune.mysql.Options? they come before those of the address
---@return perilune.sql.Database
function mysql.connect(address, given)
  local target, query = read_target(address)
  local all = target and read_query(query)
  if not all then
    error(("mysql.connect: %s (mysql://user:password@host:port/database?option=value, " ..
      "percent-encoded)"):format(target and "its options can't be read" or query), 2)
  end
  for name, value in pairs(given or {}) do all[name] = value end
  local settings = options.read_for("mysql.connect", DECLARED, all)
  for name in pairs(DECLARED) do target[name] = settings[name] end
  local driver = setmetatable({ _pool = new_pool(target, settings) }, Driver)
  return sql.new(driver, settings)
end

mysql.json = sql.json
mysql.binary = sql.binary

return mysql
