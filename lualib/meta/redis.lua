---@meta perilune.native.redis

-- Replies and commands of Redis, for lualib/perilune/redis.lua, which is what services use.

---@class perilune.native.redis
---@field null lightuserdata stands for nothing in lists
---@field slots integer 16384, of a cluster
local native = {}

---Replies of a stream. Each is taken as a whole: texts as strings, integers as numbers (beyond 2^53
---as strings), arrays as lists with `null` for nothing and error objects for errors.
---@class perilune.native.redis.Reader
local Reader = {}

---A reader of a connection's replies.
---@param bytes integer of the texts of one reply, 1 to 2^30
---@param elements integer values of one reply, 1 to 2^26
---@return perilune.native.redis.Reader
function native.reader(bytes, elements) end

---Reads on until there is a reply. Nothing is returned when all of the data was taken before; when
---what came is no reply or over a limit: nil, message, code "malformed", "too_large", "too_many" or
---"too_deep" (8 arrays), and then the stream is of no use.
---@param data string
---@param from integer position of the first byte that it hasn't taken
---@return integer? next position of the first byte that is left
---@return any value nil for nothing, and for an error; or a message
---@return string? message of an error
---@return string? code of an error: WRONGTYPE, ...
function Reader:next(data, from) end

---Sends a command over a connection. Parts are strings, numbers and lists of these, which are
---spread. Raises for others.
---@param connection integer
---@param ... string|number|table
---@return integer? bytes
---@return string? message
---@return string? code "dead" (closed), "too_large" (over 64 MB or 1048576 parts)
function native.write(connection, ...) end

---A command as bytes.
---@param ... string|number|table
---@return string? bytes
---@return string? message
---@return string? code "too_large"
function native.format(...) end

---An error object, as those in a list of results.
---@param code string
---@param message string
---@return perilune.redis.Error error
function native.error(code, message) end

---The slot that a key has in a cluster.
---@param key string|number
---@return integer slot 0 to 16383
function native.slot(key) end

---Raises, with the line of the script that called the library.
---@param text string
function native.misuse(text) end

return native
