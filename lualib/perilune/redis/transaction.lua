---@class perilune.redis.transaction
-- MULTI and EXEC on a connection of their own, so that WATCH is about one transaction alone.
local transaction = {}

local core = require "perilune.core"
local native = require "perilune.native.redis"
local queue = require "perilune.redis.queue"

local fork, watch = core.native "fork", core.native "core_watch"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local MAX_REDIRECTS = 5
local DEFAULT_RETRIES = 10

---@class perilune.redis.TransactionOptions
---@field retries integer? how often the function is run again when a watched key was changed by
---others; default 10

---What db:transaction() gives to its function. Its commands are collected and done together at the
---end; between watch() and multi() they are done at once, for reading what is watched.
---@class perilune.redis.Transaction
---@field [string] fun(self: perilune.redis.Transaction, ...: string|number|table): any
local Transaction = {}
local METATABLE = { __index = queue.methods(Transaction) }

-- It can't be done any more, whatever the function goes on to do.
local function fail(self, message, code)
  self._failure = self._failure or { message, code }
  return nil, message, code
end

-- The connection, which is made when it is needed first: the keys say to which server.
---@async
local function connect(self)
  if self._link then return self._link end
  local link, pool, code = self._router:own(self._limit_ms, self._slot)
  if not link then return fail(self, pool, code) end
  self._link, self._pool = link, pool
  return link
end

---@async
local function ask(self, name, ...)
  local link, why, kind = connect(self)
  if not link then return nil, why, kind end
  local reply, message, code = link:request(self._limit_ms, name, ...)
  if not code then return reply end
  -- The watch is of no use when the connection isn't, or another server has the keys.
  if name == "WATCH" or not code:find "^%u" or self._router:is_redirection(code) then
    return fail(self, message, code)
  end
  return nil, message, code
end

local function see_slot(self, slot)
  if slot and self._slot and slot ~= self._slot then
    native.misuse "redis: the keys of a transaction have to be in one slot: the same {tag}"
  end
  self._slot = slot or self._slot
end

---Has the transaction fail when another changes one of the keys before its end. From here on
---commands are done at once, until multi().
---@async
---@param ... string|number|table keys
---@return true? ok
---@return string? message
---@return string? code
function Transaction:watch(...)
  if self._count > 0 then native.misuse "redis: watch() comes before the commands" end
  local _, slot = queue.encode(self._router.has_slots, "TOUCH", ...)
  see_slot(self, slot)
  self._is_direct = true
  local reply, message, code = ask(self, "WATCH", ...)
  if not reply then return nil, message, code end
  self._has_watched = true
  return true
end

---Commands are collected again, after watch().
function Transaction:multi() self._is_direct = false end

---A command. tx:set(key, value) is tx:command("SET", key, value).
---@async
---@param name string
---@param ... string|number|table
---@return any reply after watch(); else which of the results will be its own
---@return string? message
---@return string? code
function Transaction:command(name, ...)
  local bytes, slot = queue.encode(self._router.has_slots, name, ...)
  see_slot(self, slot)
  if self._is_direct then return ask(self, name:upper(), ...) end
  self._count = self._count + 1
  self._commands[self._count + 1] = bytes
  return self._count
end

local function new_transaction(router, limit_ms)
  return setmetatable({
    _router = router, _limit_ms = limit_ms, _commands = { assert(native.format "MULTI") },
    _count = 0, _is_direct = false,
  }, METATABLE)
end

local function give_back(self)
  local link, pool = self._link, self._pool
  self._link, self._pool = nil, nil
  if link then pool:give(link) end
end

-- The connection may watch something: nobody else gets it.
local function drop(self)
  if self._link then self._link:close() end
  give_back(self)
end

-- What went wrong when the commands were collected, if anything.
local function first_error(answers)
  for index = 1, #answers - 1 do
    if getmetatable(answers[index]) == "perilune.redis.Error" then return answers[index] end
  end
end

---@async
local function execute(self)
  if self._count == 0 then
    if self._has_watched then ask(self, "UNWATCH") end
    give_back(self)
    return {}
  end
  local link, why, kind = connect(self)
  if not link then return nil, why, kind end
  self._commands[#self._commands + 1] = assert(native.format "EXEC")
  local batch, message, code = link:send_batch(self._limit_ms, self._commands)
  local answers = batch and batch:wait()
  give_back(self)
  if not answers then return nil, message, code end
  local results = answers[#answers]
  if results == native.null then return nil, "a watched key was changed by others", "conflict" end
  if getmetatable(results) == "perilune.redis.Error" then
    local cause = results.code == "EXECABORT" and first_error(answers) or results
    return nil, cause.message, cause.code
  end
  return results
end

-- The function has a task of its own: should that be killed, the connection is still given back.
---@async
local function try(self, body)
  local ended = new_token()
  fork(function()
    watch(ended)
    wake(ended, pcall(body, self))
  end)
  local ok, result = wait(ended)
  local failure = self._failure
  if ok and result ~= false and not failure then return execute(self) end
  drop(self)
  if failure then return nil, failure[1], failure[2] end
  if not ok then error(result, 0) end
  return nil, "the function has returned false", "discarded"
end

---See db:transaction().
---@async
---@param router table
---@param limit_ms number
---@param body async fun(tx: perilune.redis.Transaction): any
---@param options perilune.redis.TransactionOptions?
---@return any[]? results
---@return string? message
---@return string? code
function transaction.run(router, limit_ms, body, options)
  local retries = options and options.retries or DEFAULT_RETRIES
  local redirects = 0
  while true do
    local results, message, code = try(new_transaction(router, limit_ms), body)
    if code == "conflict" and retries > 0 then
      retries = retries - 1
    elseif code and redirects < MAX_REDIRECTS and router:follows(code, message) then
      redirects = redirects + 1
    else
      return results, message, code
    end
  end
end

return transaction
