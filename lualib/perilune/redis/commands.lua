---@class perilune.redis.commands
-- What has to be known of commands: where their keys are, which wait, which only read, and which
-- would change the connection that others use, too.
local commands = {}

local native = require "perilune.native.redis"

local function set(text)
  local words = {}
  for word in text:gmatch "%S+" do words[word] = true end
  return words
end

-- Commands whose first argument isn't a key. Those without a rule below have none at all.
local KEYLESS = set [[
  ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER COMMAND CONFIG DBSIZE DEBUG DISCARD ECHO EXEC
  FAILOVER FLUSHALL FLUSHDB FUNCTION HELLO INFO KEYS LASTSAVE LATENCY LOLWUT MODULE MONITOR MULTI
  PFSELFTEST PING PSUBSCRIBE PUBLISH PUBSUB PUNSUBSCRIBE QUIT RANDOMKEY READONLY READWRITE
  REPLICAOF RESET ROLE SAVE SCAN SCRIPT SELECT SHUTDOWN SLAVEOF SLOWLOG SUBSCRIBE SWAPDB TIME
  UNSUBSCRIBE UNWATCH WAIT WAITAOF
]]

-- {first, last, step}; a negative last counts from the end.
local SPANS = {}
local function spans(text, first, last, step)
  for word in text:gmatch "%S+" do SPANS[word] = { first, last, step } end
end
spans("DEL UNLINK EXISTS TOUCH MGET WATCH PFCOUNT PFMERGE", 1, -1, 1)
spans("SINTER SUNION SDIFF SINTERSTORE SUNIONSTORE SDIFFSTORE", 1, -1, 1)
spans("MSET MSETNX", 1, -1, 2)
spans("BLPOP BRPOP BZPOPMIN BZPOPMAX", 1, -2, 1)
spans("RENAME RENAMENX SMOVE LMOVE BLMOVE RPOPLPUSH BRPOPLPUSH COPY GEOSEARCHSTORE ZRANGESTORE LCS",
  1, 2, 1)
spans("BITOP", 2, -1, 1)
spans("OBJECT MEMORY XGROUP XINFO PFDEBUG", 2, 2, 1)

-- Where the number of keys stands, which follow it; and the one that stands before them.
local COUNTED = {
  EVAL = { 2 }, EVALSHA = { 2 }, EVAL_RO = { 2 }, EVALSHA_RO = { 2 }, FCALL = { 2 },
  FCALL_RO = { 2 }, ZUNION = { 1 }, ZINTER = { 1 }, ZDIFF = { 1 }, ZINTERCARD = { 1 },
  SINTERCARD = { 1 }, LMPOP = { 1 }, ZMPOP = { 1 }, BLMPOP = { 2 }, BZMPOP = { 2 },
  ZUNIONSTORE = { 2, 1 }, ZINTERSTORE = { 2, 1 }, ZDIFFSTORE = { 2, 1 },
}

-- Commands that wait for something to happen, and where the limit is that they are given: an index,
-- or a negative one from the end.
local WAITING = {
  BLPOP = -1, BRPOP = -1, BLMOVE = -1, BRPOPLPUSH = -1, BZPOPMIN = -1, BZPOPMAX = -1, BLMPOP = 1,
  BZMPOP = 1,
}

local READ_ONLY = set [[
  BITCOUNT BITFIELD_RO BITPOS DBSIZE DUMP ECHO EVALSHA_RO EVAL_RO EXISTS EXPIRETIME FCALL_RO
  GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HEXISTS
  HGET HGETALL HKEYS HLEN HMGET HRANDFIELD HSCAN HSTRLEN HVALS INFO KEYS LCS LINDEX LLEN LPOS
  LRANGE MGET PEXPIRETIME PFCOUNT PING PTTL RANDOMKEY SCAN SCARD SDIFF SINTER SINTERCARD SISMEMBER
  SMEMBERS SMISMEMBER SORT_RO SRANDMEMBER SSCAN STRLEN SUBSTR SUNION TIME TTL TYPE XLEN XPENDING
  XRANGE XREAD XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE
  ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE
  ZUNION
]]

-- Commands that change a connection, and what is there instead.
local REFUSED = {}
local function refuse(text, instead)
  for word in text:gmatch "%S+" do REFUSED[word] = instead end
end
refuse("MULTI EXEC DISCARD WATCH UNWATCH", "use db:transaction()")
refuse("SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE",
  "use db:subscribe() and db:psubscribe()")
refuse("AUTH HELLO SELECT", "user, password and database belong into the URL")
refuse("QUIT RESET", "use db:close()")
refuse("MONITOR SYNC PSYNC REPLCONF ASKING READONLY READWRITE", "it would take the connection over")

---Why a command can't be given as such.
---@param name string in upper case
---@return string? instead what to do
function commands.refused(name) return REFUSED[name] end

---Whether a command reads and does no more: a second time does no harm.
---@param name string in upper case
---@return boolean
function commands.is_read_only(name) return READ_ONLY[name] == true end

-- How long XREAD and XREADGROUP wait; nil: not at all.
local function block_of(list)
  for index = 1, math.min(#list, 8) do
    local word = list[index]
    if type(word) == "string" then
      local upper = word:upper()
      if upper == "STREAMS" then return nil end
      if upper == "BLOCK" then return tonumber(list[index + 1]) end
    end
  end
end

---How long a command may wait by itself, for which it needs a connection of its own.
---@param name string in upper case
---@param list (string|number)[] arguments
---@return number? ms nil: it doesn't wait; math.huge: for ever
function commands.waits(name, list)
  local ms
  if name == "XREAD" or name == "XREADGROUP" then
    ms = block_of(list)
  elseif WAITING[name] then
    local seconds = tonumber(list[WAITING[name] < 0 and #list or WAITING[name]])
    ms = seconds and seconds * 1000
  end
  if not ms then return nil end
  return ms > 0 and ms or math.huge
end

---Whether a command may be one of those.
---@param name string in upper case
---@return boolean
function commands.may_wait(name)
  return name == "XREAD" or name == "XREADGROUP" or WAITING[name] ~= nil
end

-- Where the keys of XREAD are: the first half of what follows STREAMS.
local function stream_keys(list)
  for index, word in ipairs(list) do
    if type(word) == "string" and word:upper() == "STREAMS" then
      return index + 1, index + math.floor((#list - index) / 2), 1
    end
  end
end

-- Where the keys are: first, last and step, and one more.
local function key_span(name, list)
  if KEYLESS[name] then return nil end
  local span, counted = SPANS[name], COUNTED[name]
  if span then
    return span[1], span[2] < 0 and #list + 1 + span[2] or math.min(span[2], #list), span[3]
  elseif counted then
    local keys = tonumber(list[counted[1]]) or 0
    return counted[1] + 1, math.min(counted[1] + keys, #list), 1, counted[2]
  elseif name == "XREAD" or name == "XREADGROUP" then
    return stream_keys(list)
  end
  return 1, math.min(1, #list), 1
end

---The slot of a cluster that the keys of a command belong to.
---@param name string in upper case
---@param list (string|number)[] arguments
---@return integer? slot nil when it has no keys
---@return string? message
---@return string? code "CROSSSLOT": its keys belong to several
function commands.slot(name, list)
  local first, last, step, one_more = key_span(name, list)
  if not first then return nil end
  local slot = one_more and list[one_more] and native.slot(list[one_more])
  for index = first, last, step do
    local other = native.slot(list[index])
    if slot and slot ~= other then
      local text = "CROSSSLOT the keys of %s have to be in one slot: give them the same {tag}"
      return nil, text:format(name), "CROSSSLOT"
    end
    slot = other
  end
  return slot
end

---The arguments of a command as one list; lists among them are spread.
---@param ... string|number|table
---@return (string|number)[] list
function commands.list(...)
  local list, count = {}, 0
  for index = 1, select("#", ...) do
    local value = select(index, ...)
    if type(value) ~= "table" then
      count = count + 1
      list[count] = value
    else
      for position = 1, #value do
        count = count + 1
        list[count] = value[position]
      end
    end
  end
  return list
end

return commands
