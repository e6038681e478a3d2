---@meta perilune.native.http

-- The parser of HTTP/1.0 and 1.1, for lualib/perilune/http.lua, which is what services use. What
-- could be read in two ways is an error: both a length and chunks, two lengths, folded lines,
-- lines that end in LF alone, spaces before a colon, NUL.

---@class perilune.native.http
local native = {}

---@class perilune.native.http.Parser
local Parser = {}

---@class perilune.native.http.Limits
---@field header_bytes integer? of a head, and again of trailers; default 16384, at most 65536
---@field headers integer? default 100
---@field target_bytes integer? default 8192
---@field body_bytes integer? default 1 MB

---@class perilune.native.http.Head
---@field method string of a request
---@field target string
---@field status integer of a response
---@field reason string
---@field version "1.0"|"1.1"
---@field headers table<string, string> names in lower case; repeated ones joined by ", ", cookie
---by "; "; set-cookie is a list
---@field keep_alive boolean the connection may carry further messages
---@field upgrade boolean it asks for another protocol, or has agreed to it
---@field chunked boolean
---@field length integer? of the body, when it is declared

---A parser of a stream of messages.
---@param kind "request"|"response"
---@param limits perilune.native.http.Limits?
---@return perilune.native.http.Parser
function native.parser(kind, limits) end

---The words of a status.
---@param status integer
---@return string text "" when it has none
function native.status_text(status) end

---Reads on until something has come. "more": all of the data was taken. After "end" the next
---message begins.
---@param data string
---@param from integer? position of the first byte that it hasn't taken; default 1
---@return "more"|"head"|"body"|"end"|nil event
---@return integer|string next position of the first byte that is left; or a message
---@return table|string|nil value Head, the piece of the body, trailers; or the error: "malformed",
---"target_too_long", "headers_too_large", "too_many_headers", "body_too_large", "unknown_method",
---"unknown_coding", "unknown_version"
---@return integer? status that answers the error
function Parser:feed(data, from) end

---The peer sends no more.
---@return "end"|"more"|nil event "end" of a body that lasts until then, "more" between messages
---@return integer|string position or message
---@return string? error
---@return integer? status
function Parser:finish() end

---After "head": the largest body of this message.
---@param bytes integer
function Parser:limit_body(bytes) end

---Before the response to HEAD.
function Parser:expect_no_body() end

---Whether no byte of the next message has come.
---@return boolean
function Parser:is_between() end

return native
