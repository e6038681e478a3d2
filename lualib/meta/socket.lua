---@meta perilune.native.socket

-- The engine's connections, for lualib/perilune/socket.lua, which is what services use. Ids are
-- integers below 2^53. What fails returns nil, message, code.

---@class perilune.native.socket
local network = {}

---@param options table the options of perilune.socket.listen without functions
---@return integer? listener
---@return string host or message
---@return integer|string port or code
function network.listen(options) end

---@param listener integer
---@return true? ok
function network.close_listener(listener) end

---The events "connected" or "failed" follow.
---@param host string
---@param port integer
---@param options table?
---@return integer? connection
---@return string? message
---@return string? code
function network.connect(host, port, options) end

---@param connection integer
---@param data string
---@return true? ok
---@return string? message
---@return string? code
function network.write(connection, data) end

---@param connection integer
---@param data string
---@return true? ok
---@return string? message
---@return string? code
function network.write_raw(connection, data) end

---@param connections integer[]
---@param data string
---@return integer count how many took it
function network.write_many(connections, data) end

---@param connection integer
---@return integer bytes that wait to be sent
function network.unsent(connection) end

---The event "drained" follows once nothing waits.
---@param connection integer
---@return true? ok
function network.notify_drained(connection) end

---@param connection integer
---@return true? ok
function network.close(connection) end

---@param connection integer
---@return true? ok
function network.abort(connection) end

---@param connection integer
---@param to integer|string
---@return true? ok
function network.hand_over(connection, to) end

---@param connection integer
---@return true? ok
function network.pause(connection) end

---@param connection integer
---@return true? ok
function network.resume(connection) end

---@param connection integer
---@param bytes integer
---@return true? ok
function network.set_max_frame(connection, bytes) end

---@param connection integer
---@param ms integer
---@return true? ok
function network.set_idle(connection, ms) end

---@param connection integer
---@return string? host
---@return integer|string port
function network.peer(connection) end

---@param connection integer
---@return string? host
---@return integer|string port
function network.local_address(connection) end

---@param connection integer
---@return string? name
function network.framing(connection) end

---@return integer group
function network.group_create() end

---@param group integer
---@return true? ok
function network.group_close(group) end

---@param group integer
---@param connection integer
---@return true? ok
function network.group_add(group, connection) end

---@param group integer
---@param connection integer
---@return boolean? was_member
function network.group_remove(group, connection) end

---@param group integer
---@return integer? count
function network.group_size(group) end

---@param group integer
---@param data string
---@param except integer?
---@return integer? count
function network.group_write(group, data, except) end

---@return table? state what set_state() was given by the running service
function network.state() end

---@param state table
function network.set_state(state) end

---@return table<string, integer> counters of the node
function network.stats() end

return network
