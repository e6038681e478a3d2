---@class perilune.connecting
-- How a task waits for a connection that it has begun, over TCP or ENet: the native module answers
-- with an event, "connected" or "failed". For perilune.socket and perilune.enet.
local connecting = {}

local core = require "perilune.core"

local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

---Waits until a connection is made.
---@async
---@param connection table one of those that the events below are given
---@return true? connected
---@return string? message why not
---@return string? code "unavailable"
function connecting.wait(connection)
  connection._connecting = new_token()
  local connected, why = wait(connection._connecting)
  connection._connecting = nil
  if not connected then return nil, why, "unavailable" end
  return true
end

---Handles "connected".
---@param connections table<integer, table> by id
---@param id integer
---@param address string of the peer
function connecting.connected(connections, id, address)
  local connection = connections[id]
  if not connection then return end
  connection.address = address
  wake(connection._connecting, true)
end

---Handles "failed".
---@param connections table<integer, table> by id
---@param id integer
---@param text string why
function connecting.failed(connections, id, text)
  local connection = connections[id]
  if not connection then return end
  connections[id] = nil
  connection.closed = "failed"
  wake(connection._connecting, false, text)
end

return connecting
