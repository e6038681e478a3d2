---@meta perilune.native.udp

-- The engine's datagrams, for lualib/perilune/udp.lua, which is what services use. Ids are integers
-- below 2^53. What fails returns nil, message, code.

---@class perilune.native.udp
local network = {}

---Opens a socket; its datagrams are events of the running service.
---@param host string
---@param port integer
---@param max_datagram integer
---@param broadcast boolean
---@return integer? socket
---@return string host or message
---@return integer|string port or code
function network.open(host, port, max_datagram, broadcast) end

---Opens a socket for one address.
---@param host string
---@param port integer
---@param max_datagram integer
---@param broadcast boolean
---@return integer? socket
---@return string host or message
---@return integer|string port or code
function network.connect(host, port, max_datagram, broadcast) end

---Queues a datagram; it leaves at the end of the turn.
---@param socket integer
---@param data string
---@param host string?
---@param port integer?
---@return true? ok
---@return string? message
---@return string? code
function network.send(socket, data, host, port) end

---Closes the socket.
---@param socket integer
---@return true? ok
function network.close(socket) end

---What the library keeps for the running service.
---@return table? state what set_state() was given by the running service
function network.state() end

---Keeps a table for the running service.
---@param state table
function network.set_state(state) end

---What the node counts of datagrams.
---@return table<string, integer> counters
function network.stats() end

return network
