---@meta perilune.crypto

-- Random bytes, digests and encodings: `local crypto = require "perilune.crypto"`. By OpenSSL.
-- Strings are bytes; digests are raw, `crypto.hex(crypto.sha256(text))` is readable. An argument
-- may have 16 MB. Passwords need a slow hash, which these are not: perilune.password.

---@class perilune.crypto
local crypto = {}

---Bytes that nobody can guess: for tokens, keys and salts. They don't depend on the seed of a
---seeded run.
---@param count integer 0 to 1048576
---@return string bytes
function crypto.random_bytes(count) end

---16 bytes. Broken: only for what others demand.
---@param data string
---@return string digest
function crypto.md5(data) end

---20 bytes. Broken, too, but still part of protocols such as WebSocket's.
---@param data string
---@return string digest
function crypto.sha1(data) end

---32 bytes.
---@param data string
---@return string digest
function crypto.sha256(data) end

---20 bytes that only who knows the key can make.
---@param key string
---@param data string
---@return string code
function crypto.hmac_sha1(key, data) end

---32 bytes that only who knows the key can make.
---@param key string
---@param data string
---@return string code
function crypto.hmac_sha256(key, data) end

---Compares secrets: the time it takes doesn't tell where they differ, only whether their
---lengths do.
---@param a string
---@param b string
---@return boolean equal
function crypto.equal(a, b) end

---Hexadecimal, for logs and addresses.
---@param data string
---@return string text two lower-case digits a byte
function crypto.hex(data) end

---The bytes of a hexadecimal text.
---@param text string digits of either case
---@return string? data
---@return string? message
---@return "invalid"? code
function crypto.unhex(text) end

---Base64 of RFC 4648, on one line.
---@param data string
---@return string text with + and /, filled up with =
function crypto.base64_encode(data) end

---Takes exactly what base64_encode gives: no spaces, no missing =.
---@param text string
---@return string? data
---@return string? message
---@return "invalid"? code
function crypto.base64_decode(text) end

---For addresses and file names.
---@param data string
---@return string text with - and _, not filled up
function crypto.base64url_encode(data) end

---Takes what base64url_encode gives.
---@param text string may be filled up with =
---@return string? data
---@return string? message
---@return "invalid"? code
function crypto.base64url_decode(text) end

return crypto
