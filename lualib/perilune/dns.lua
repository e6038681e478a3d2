---@class perilune.dns
-- Addresses of host names, as the system knows them (its hosts file, its resolvers):
--
--   local dns = require "perilune.dns"
--   for _, address in ipairs(assert(dns.resolve "example.com")) do print(address) end
--
-- The look-up runs on a thread of the blocking pool, so that no worker waits. socket.connect and
-- http.request look names up by themselves.
local dns = {}

local blocking = require "perilune.blocking"
local native = require "perilune.native.dns"

local LIMIT_MS = 5000

---Looks a name up. An address is its own.
---@async
---@param name string
---@param timeout_ms integer? default 5000; the look-up goes on without anybody who waits for it
---@return string[]? addresses of IPv4 and IPv6, the one to be tried first first
---@return string? message
---@return string? code "not_found" (no such name, or one without addresses), "unavailable" (no
---resolver answers), "timeout", "overloaded" (256 names wait already), "invalid" (not a name)
function dns.resolve(name, timeout_ms)
  if type(name) ~= "string" then
    error("dns.resolve: a name expected, got " .. type(name), 2)
  end
  local addresses = { blocking.finish(native.resolve(name, timeout_ms or LIMIT_MS)) }
  if addresses[1] then return addresses end
  return nil, ("%s: %s"):format(name, addresses[2]), addresses[3]
end

return dns
