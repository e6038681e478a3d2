---@class perilune.redis
-- Redis: `local redis = require "perilune.redis"`.
--
--   local db = assert(redis.connect "redis://127.0.0.1:6379/0")
--   assert(db:set("greeting", "hello"))
--   print(db:get "greeting")                    --> hello
--   print(db:incr "visits")                     --> 1
--
-- Every command is a method, in lower case; its arguments are strings, numbers and lists of these.
-- All tasks of a service share one connection: what they ask for in one turn leaves in one write,
-- and each waits for its own reply. A value comes as Redis has it: texts are strings, integers are
-- numbers (beyond 2^53 strings), nothing is nil, lists are tables, in which redis.null stands for
-- nothing.
--
-- What fails returns nil, message, code. The code is that of the server, in upper case (WRONGTYPE,
-- OOM, ...), or one of these:
--
--   "busy"         too many requests wait already          nothing was done
--   "unavailable"  no connection in time                   nothing was done
--   "closed"       db:close() was called                   nothing was done
--   "too_large"    the command; or its reply, and then the command has been done
--   "timeout"      no reply in time                        unknown whether it was done
--   "unknown"      the connection was lost before a reply  unknown whether it was done
--   "malformed", "too_many", "too_deep"                    done, but the reply can't be taken
--
-- A lost connection is made again after 0.1 s to 5 s. Nothing is given twice by itself, unless
-- `retry_reads` allows it for commands that only read.
local redis = {}

local callbacks = require "perilune.callback"
local commands = require "perilune.redis.commands"
local core = require "perilune.core"
local crypto = require "perilune.crypto"
local native = require "perilune.native.redis"
local pools = require "perilune.redis.pool"
local queue = require "perilune.redis.queue"
local subscribers = require "perilune.redis.subscriber"
local urls = require "perilune.redis.url"

local now = core.native "now"
local is_read_only, may_wait, refused = commands.is_read_only, commands.may_wait, commands.refused

-- A pipeline has so many commands under way at a time.
local WINDOW = 1000
local MAX_TRIES = 3
local MAX_REDIRECTS = 5

---Stands for nothing in lists, where nil can't be. The same as cjson.null.
redis.null = native.null

---What stands in a list for a command that failed.
---@class perilune.redis.Error
---@field code string WRONGTYPE, ...
---@field message string

---A database, or a view of it with options of its own.
---@class perilune.redis.Database
---@field [string] async fun(self: perilune.redis.Database, ...: any): any, string?, string?
local Database = {}

-- What all views of a database share.
---@class perilune.redis.Core
---@field router perilune.redis.Single|perilune.redis.Cluster
---@field settings perilune.redis.Settings
---@field subscriber perilune.redis.Subscriber?

local COUNTERS = {
  "requests", "timeouts", "late_replies", "unknown", "unavailable", "busy", "lost", "reconnects",
  "silent", "refused_replies", "retried", "dropped", "redirected", "maps",
}

-- Commands -------------------------------------------------------------------------------------

-- For a command that waits, on a connection that nobody else has.
---@async
local function run_waiting(self, name, ms, list, redirects)
  local router, limit_ms = self._core.router, self._timeout_ms
  local slot, problem, kind
  if router.has_slots then
    slot, problem, kind = commands.slot(name, list)
    if kind then return nil, problem, kind end
  end
  local link, pool, code = router:own(limit_ms, slot)
  if not link then return nil, pool, code end
  link:allow_silence(0)
  local value, why, kind_of_failure = link:request(ms + limit_ms, name, list)
  link:allow_silence(self._core.settings.silence_ms)
  pool:give(link)
  redirects = redirects or 0
  if kind_of_failure and redirects < MAX_REDIRECTS and router:follows(kind_of_failure, why) then
    return run_waiting(self, name, ms, list, redirects + 1)
  end
  if why then return nil, why, kind_of_failure end
  return value
end

---@async
local function run_again(self, name, ...)
  local deadline = now() + self._timeout_ms
  for try = 1, MAX_TRIES do
    local value, message, code =
      self._core.router:request(math.max(1, deadline - now()), name, ...)
    if code ~= "unknown" or try == MAX_TRIES or now() >= deadline then
      if message then return nil, message, code end
      return value
    end
    local counters = self._core.settings.counters
    counters.retried = counters.retried + 1
  end
end

local function misused(name, instead)
  native.misuse(("redis: not %s: %s"):format(name, instead))
end

-- The function for a command, which knows what is special about it.
local function runner(name)
  local instead = refused(name)
  if instead then return function() misused(name, instead) end end
  if name == "CLIENT" then
    return function(self, word, ...)
      local upper = tostring(word):upper()
      if upper == "REPLY" or upper == "TRACKING" then
        misused("CLIENT " .. upper, "others use the connection, too")
      end
      return self._core.router:request(self._timeout_ms, "CLIENT", word, ...)
    end
  end
  if may_wait(name) then
    return function(self, ...)
      local list = commands.list(...)
      local ms = commands.waits(name, list)
      if ms then return run_waiting(self, name, ms, list) end
      return self._core.router:request(self._timeout_ms, name, list)
    end
  end
  local reads = is_read_only(name)
  return function(self, ...)
    if reads and self._retry_reads then return run_again(self, name, ...) end
    return self._core.router:request(self._timeout_ms, name, ...)
  end
end

local METATABLE = {
  __index = function(self, key)
    local method = Database[key]
    if method == nil and type(key) == "string" and key:find "^%a[%w_]*$" then
      method = runner(key:upper())
    end
    if method ~= nil then rawset(self, key, method) end
    return method
  end,
  __tostring = function(self) return "redis database " .. self._core.what end,
}

---Gives a command by its name: db:command("JSON.SET", key, path, text). db:set(key, value) is
---db:command("SET", key, value).
---@async
---@param name string
---@param ... string|number|table arguments; lists among them are spread
---@return any reply
---@return string? message
---@return string? code
function Database:command(name, ...)
  if type(name) ~= "string" then
    native.misuse("redis: the name of a command expected, got " .. type(name))
  end
  local upper = name:upper()
  local runners = self._runners
  local run = runners[upper]
  if not run then
    run = runner(upper)
    runners[upper] = run
  end
  return run(self, ...)
end

local function new_view(shared, timeout_ms, retry_reads)
  return setmetatable({
    _core = shared, _timeout_ms = timeout_ms, _retry_reads = retry_reads, _runners = {},
  }, METATABLE)
end

---@class perilune.redis.ViewOptions
---@field timeout_ms integer? how long a request may take
---@field retry_reads boolean? commands that only read are given again when their connection was
---lost

---The same database, with other options for the requests that are made by what is returned:
---local quick = db:with { timeout_ms = 100 }
---@param options perilune.redis.ViewOptions
---@return perilune.redis.Database view
function Database:with(options)
  local timeout_ms, retry_reads = self._timeout_ms, self._retry_reads
  for name, value in pairs(options) do
    if name == "timeout_ms" and type(value) == "number" and value >= 1 then
      timeout_ms = value
    elseif name == "retry_reads" and type(value) == "boolean" then
      retry_reads = value
    else
      native.misuse(("db:with: %s can't be %s"):format(tostring(name), tostring(value)))
    end
  end
  return new_view(self._core, timeout_ms, retry_reads)
end

-- Pipelines ------------------------------------------------------------------------------------

---Collects commands: what db:pipeline() gives to its function.
---@class perilune.redis.Pipeline
---@field [string] fun(self: perilune.redis.Pipeline, ...: string|number|table): integer
local Pipeline = {}
local PIPELINE = { __index = queue.methods(Pipeline) }

---Adds a command.
---@param name string
---@param ... string|number|table
---@return integer index which of the results will be its own
function Pipeline:command(name, ...)
  local index = #self._bytes + 1
  self._bytes[index], self._slots[index] = queue.encode(self._has_slots, name, ...)
  return index
end

local function new_pipeline(has_slots)
  return setmetatable({ _has_slots = has_slots, _bytes = {}, _slots = {} }, PIPELINE)
end

-- Commands first to last of a list.
local function part_of(list, first, last)
  if first == 1 and last == #list then return list end
  return { unpack(list, first, last) }
end

---Sends several commands together and waits for all of them. They are no transaction: others'
---commands may come in between.
---
---  local results = db:pipeline(function(p)
---    p:incr "visits"
---    p:get "greeting"
---  end)
---  local same = db:pipeline { { "INCR", "visits" }, { "GET", "greeting" } }
---@async
---@param what (fun(pipeline: perilune.redis.Pipeline))|table[]
---@return any[]? results in the order of the commands; redis.null for nothing, an error object for
---what failed
---@return string? message
---@return string? code "busy", "unavailable", "closed": then nothing was sent
function Database:pipeline(what)
  local router = self._core.router
  local collected = new_pipeline(router.has_slots)
  if type(what) == "function" then
    what(collected)
  elseif type(what) == "table" then
    for _, command in ipairs(what) do collected:command(unpack(command)) end
  else
    native.misuse("db:pipeline: a function or a list expected, got " .. type(what))
  end
  local bytes, results = collected._bytes, {}
  for first = 1, #bytes, WINDOW do
    local last = math.min(first + WINDOW - 1, #bytes)
    local part, message, code = router:batch(self._timeout_ms, part_of(bytes, first, last),
      part_of(collected._slots, first, last))
    if not part and first == 1 then return nil, message, code end
    for index = first, last do
      results[index] = part and part[index - first + 1] or native.error(code, message)
    end
  end
  return results
end

---Has commands done all together or not at all, with no others in between.
---
---  local results = db:transaction(function(tx)
---    tx:decrby("gold:1", 10)
---    tx:incrby("gold:2", 10)
---  end)
---
---What depends on what is there is watched first; should another change it before the end, the
---function is run again:
---
---  db:transaction(function(tx)
---    tx:watch "gold:1"
---    local gold = tonumber(tx:get "gold:1") or 0   -- done at once
---    if gold < 10 then return false end            -- nothing is done
---    tx:multi()                                    -- from here on they are collected
---    tx:set("gold:1", gold - 10)
---  end)
---@async
---@param body async fun(tx: perilune.redis.Transaction): any false: nothing is done. It may run
---several times
---@param options perilune.redis.TransactionOptions?
---@return any[]? results in the order of the commands; an error object for one that failed, which
---doesn't undo the others
---@return string? message
---@return string? code "conflict" (watched keys were changed again and again), "discarded" (the
---function returned false), of the server when a command can't be, ...
function Database:transaction(body, options)
  if type(body) ~= "function" then
    native.misuse("db:transaction: a function expected, got " .. type(body))
  end
  local transactions = require "perilune.redis.transaction"
  return transactions.run(self._core.router, self._timeout_ms, body, options)
end

-- Scripts --------------------------------------------------------------------------------------

---A Lua script that the server runs. It is called with a list of keys and then its arguments.
---@class perilune.redis.Script
---@field sha string its name on the server
---@overload async fun(keys: (string|number)[], ...: string|number): any, string?, string?
local Script = {}
Script.__index = Script

---Runs it.
---@async
---@param keys (string|number)[]
---@param ... string|number
---@return any reply
---@return string? message
---@return string? code
function Script:run(keys, ...)
  if type(keys) ~= "table" then
    native.misuse("redis: a script wants a list of its keys, got " .. type(keys))
  end
  local view = self._view
  local value, message, code = view:evalsha(self.sha, #keys, keys, ...)
  -- The server doesn't know it yet, so it has done nothing.
  if code == "NOSCRIPT" then value, message, code = view:eval(self._text, #keys, keys, ...) end
  if message then return nil, message, code end
  return value
end

Script.__call = function(self, ...) return self:run(...) end

---A script, which is sent to a server when that doesn't know it:
---
---  local take = db:script [[
---    if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end
---    return 0
---  ]]
---  print(take({ "lock" }, "me"))
---@param text string
---@return perilune.redis.Script script
function Database:script(text)
  if type(text) ~= "string" then
    native.misuse("db:script: a text expected, got " .. type(text))
  end
  return setmetatable({ sha = crypto.hex(crypto.sha1(text)), _text = text, _view = self }, Script)
end

-- Subscriptions --------------------------------------------------------------------------------

local function check_names(names)
  if type(names) == "string" then names = { names } end
  if type(names) ~= "table" or #names == 0 then
    native.misuse "db:subscribe: a name or a list of names expected"
  end
  local known, list = {}, {}
  for _, name in ipairs(names) do
    if type(name) ~= "string" then
      native.misuse("db:subscribe: a name expected, got " .. type(name))
    end
    if not known[name] then list[#list + 1] = name end
    known[name] = true
  end
  return list
end

---@async
local function subscribe(self, names, is_pattern, callback, on_gap)
  for _, given in ipairs { callback or "", on_gap or "" } do
    if not callbacks.is(given) then
      native.misuse("db:subscribe: a function or the name of one expected, got " .. type(given))
    end
  end
  local shared = self._core
  if shared.closed then return nil, "redis: closed here", "closed" end
  shared.subscriber = shared.subscriber
    or subscribers.new(shared.router.dial, shared.settings)
  return shared.subscriber:subscribe(self._timeout_ms, check_names(names), is_pattern, callback,
    on_gap)
end

---Gets what others publish, from now on until its close(). With a callback, which gets one message
---after the other; without, by subscription:next() or each(). After a lost connection it goes on by
---itself; what was published meanwhile is missed, which on_gap is told.
---@async
---@param names string|string[] channels
---@param callback perilune.Callback? (message, channel)
---@param on_gap perilune.Callback? (subscription)
---@return perilune.redis.Subscription? subscription when the server has it
---@return string? message
---@return string? code "unavailable", "busy" (over 100000 names), "closed", of the server
function Database:subscribe(names, callback, on_gap)
  return subscribe(self, names, false, callback, on_gap)
end

---The same for all channels whose names match a pattern: "room.*".
---@async
---@param names string|string[] patterns
---@param callback perilune.Callback? (message, channel)
---@param on_gap perilune.Callback? (subscription)
---@return perilune.redis.Subscription? subscription
---@return string? message
---@return string? code
function Database:psubscribe(names, callback, on_gap)
  return subscribe(self, names, true, callback, on_gap)
end

-- The rest -------------------------------------------------------------------------------------

---A member of a group that shares the entries of a stream.
---@param options perilune.redis.ConsumerOptions
---@return perilune.redis.Consumer consumer
function Database:consumer(options)
  return require("perilune.redis.consumer").new(self, options)
end

---Calls a function for each primary of a cluster, and for the one server there is otherwise: for
---what is to be done everywhere, such as SCAN and FLUSHALL.
---@async
---@param visit async fun(request: (async fun(name: string, ...: any): any), address: string)
function Database:each_server(visit)
  self._core.router:each(visit, self._timeout_ms)
end

---@class perilune.redis.Stats
---@field pending integer requests that wait now
---@field connected integer servers that there is a connection to
---@field requests integer sent so far
---@field timeouts integer "timeout"
---@field late_replies integer that came after it, and were dropped
---@field unknown integer "unknown"
---@field unavailable integer "unavailable", for want of a connection
---@field busy integer "busy"
---@field lost integer connections that ended by themselves
---@field reconnects integer and were made again
---@field silent integer connections that were closed because the server didn't answer
---@field refused_replies integer that couldn't be taken
---@field retried integer commands that were given again
---@field dropped integer messages of subscriptions that nobody took in time
---@field redirected integer requests that a node of a cluster sent on
---@field maps integer how often the map of a cluster was learned

---What has happened so far.
---@return perilune.redis.Stats stats
function Database:stats()
  local stats = {}
  for name, value in pairs(self._core.settings.counters) do stats[name] = value end
  stats.pending, stats.connected = self._core.router:state()
  return stats
end

---Closes all its connections and subscriptions. Requests under way fail with "unknown".
function Database:close()
  local shared = self._core
  if shared.closed then return end
  shared.closed = true
  if shared.subscriber then shared.subscriber:close() end
  shared.router:close()
end

local function new_settings(options)
  local settings = { counters = {} }
  for name, value in pairs(options) do settings[name] = value end
  settings.places = pools.places(settings.max_connections, settings.max_pending)
  if settings.name == "" then settings.name = nil end
  for _, name in ipairs(COUNTERS) do settings.counters[name] = 0 end
  return settings
end

-- For people: nothing that is secret.
local function describe(place)
  local hosts = {}
  for index, host in ipairs(place.hosts) do hosts[index] = host[1] .. ":" .. host[2] end
  return table.concat(hosts, ",")
end

---Connects to a server, to a primary by its sentinels, or to a cluster:
---
---  redis://user:password@host:6379/0            rediss:// with TLS
---  redis+sentinel://host1,host2:26379/name/0    the primary that the sentinels call "name"
---  redis+cluster://host1,host2:6379
---
---Everything but the host may be left out. Options may follow in the URL (`?timeout_ms=200`), or in
---a table. The connection belongs to the running service and ends with it, or by db:close().
---@async
---@param url string
---@param options perilune.redis.Options?
---@return perilune.redis.Database? database
---@return string? message
---@return string? code "invalid" (the URL), "unavailable", of the server: WRONGPASS, NOAUTH, ...
function redis.connect(url, options)
  if type(url) ~= "string" then
    error("redis.connect: a URL expected, got " .. type(url), 2)
  end
  local place, found, kind = urls.read(url, options, 2)
  if not place then return nil, found, kind end
  local settings = new_settings(found)
  local routers = require("perilune.redis." .. (place.kind == "cluster" and "cluster" or "single"))
  local router, message, code = routers.new(place, settings)
  if not router then return nil, message, code end
  local shared = { router = router, settings = settings, what = describe(place) }
  return new_view(shared, settings.timeout_ms, settings.retry_reads)
end

---Whether something in a list of results stands for a command that failed: a perilune.redis.Error.
---@param value any
---@return boolean
function redis.is_error(value) return getmetatable(value) == "perilune.redis.Error" end

---Names and values of a flat list, as HGETALL, CONFIG GET and XRANGE's entries have them.
---@param list any[] {name, value, name, value, ...}
---@return table<string, any> fields
function redis.fields(list)
  local fields = {}
  for index = 1, #list, 2 do fields[list[index]] = list[index + 1] end
  return fields
end

return redis
