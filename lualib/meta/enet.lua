---@meta perilune.native.enet

-- The engine's ENet, for lualib/perilune/enet.lua, which is what services use. Ids are integers
-- below 2^53. What fails returns nil, message, code.

---@class perilune.native.enet
local network = {}

---Opens a port; its peers are the running service's.
---@param host string
---@param port integer
---@param settings table<string, integer> every option that is a number
---@return integer? listener
---@return string host or message
---@return integer|string port or code
function network.listen(host, port, settings) end

---Accepts no more; the peers it has accepted stay.
---@param listener integer
---@return true? ok
function network.close_listener(listener) end

---The event "connected" or "failed" follows.
---@param host string an address
---@param port integer
---@param settings table<string, integer>
---@param data integer
---@return integer? peer
---@return string? message
---@return string? code
function network.connect(host, port, settings, data) end

---Queues a packet; it leaves at the end of the turn.
---@param peer integer
---@param data string
---@param channel integer?
---@param mode string?
---@return true? ok
---@return string? message
---@return string? code
function network.write(peer, data, channel, mode) end

---Sends what waits, then closes.
---@param peer integer
---@param code integer?
---@return true? ok
function network.close(peer, code) end

---Closes now; what waits is dropped.
---@param peer integer
---@return true? ok
function network.abort(peer) end

---The address of the other end.
---@param peer integer
---@return string? host
---@return integer|string port
function network.address(peer) end

---What ENet measures.
---@param peer integer
---@return integer? ms
function network.round_trip(peer) end

---How far the peer is behind.
---@param peer integer
---@return integer bytes
function network.unsent(peer) end

---What the library keeps for the running service.
---@return table? state what set_state() was given by the running service
function network.state() end

---Keeps a table for the running service.
---@param state table
function network.set_state(state) end

---What the node counts of ENet and of cookies.
---@return table<string, integer> counters
function network.stats() end

return network
