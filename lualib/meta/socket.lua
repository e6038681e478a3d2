---@meta perilune.native.socket

-- The engine's connections, for lualib/perilune/socket.lua, which is what services use. Ids are
-- integers below 2^53. What fails returns nil, message, code.

---@class perilune.native.socket
local network = {}

---Opens a port; its connections and their events belong to the running service.
---@param options table the options of perilune.socket.listen without functions
---@return integer? listener
---@return string host or message
---@return integer|string port or code
function network.listen(options) end

---Reads the certificate and the key again, for connections that come from now on.
---@param listener integer
---@return true? ok
function network.reload_certificate(listener) end

---Accepts no more; the connections it has accepted stay.
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

---Queues a packet, framed as the connection is; it leaves at the end of the turn.
---@param connection integer
---@param data string
---@return true? ok
---@return string? message
---@return string? code
function network.write(connection, data) end

---Queues a text message of a WebSocket.
---@param connection integer
---@param text string UTF-8
---@return true? ok
---@return string? message
---@return string? code
function network.write_text(connection, text) end

---Queues bytes as they are, whatever the framing.
---@param connection integer
---@param data string
---@return true? ok
---@return string? message
---@return string? code
function network.write_raw(connection, data) end

---Queues one packet, framed once, to many connections.
---@param connections integer[]
---@param data string
---@return integer count how many took it
function network.write_many(connections, data) end

---How far the peer is behind.
---@param connection integer
---@return integer bytes that wait to be sent
function network.unsent(connection) end

---The event "drained" follows once nothing waits.
---@param connection integer
---@return true? ok
function network.notify_drained(connection) end

---Sends what waits, then closes.
---@param connection integer
---@return true? ok
function network.close(connection) end

---Closes now; what waits is dropped.
---@param connection integer
---@return true? ok
function network.abort(connection) end

---From now on it carries messages of WebSocket.
---@param connection integer
---@param max_message integer bytes, all fragments together
---@return true? ok
function network.upgrade(connection, max_message) end

---Sends what waits and a close frame, then closes a WebSocket.
---@param connection integer
---@param code integer
---@param reason string UTF-8
---@return true? ok
---@return string? message
---@return string? kind
function network.close_websocket(connection, code, reason) end

---Gives the connection to another service, which gets all events from then on.
---@param connection integer
---@param to integer|string
---@return true? ok
function network.hand_over(connection, to) end

---Reads no more until resume().
---@param connection integer
---@return true? ok
function network.pause(connection) end

---Reads again after pause().
---@param connection integer
---@return true? ok
function network.resume(connection) end

---Sets the largest frame that may arrive; a larger one closes the connection.
---@param connection integer
---@param bytes integer
---@return true? ok
function network.set_max_frame(connection, bytes) end

---Sets after how many milliseconds without a byte from the peer it is closed; 0: never.
---@param connection integer
---@param ms integer
---@return true? ok
function network.set_idle(connection, ms) end

---How long ago it was accepted, or was to connect.
---@param connection integer
---@return integer? ms
function network.age(connection) end

---The address of the other end.
---@param connection integer
---@return string? host
---@return integer|string port
function network.peer(connection) end

---The address of this end.
---@param connection integer
---@return string? host
---@return integer|string port
function network.local_address(connection) end

---How the stream is cut: "packet", "u16be", "u32be", "line" or "raw".
---@param connection integer
---@return string? name
function network.framing(connection) end

---Makes an empty set of connections, of the running service. Raises when it has 16384.
---@return integer group
function network.group_create() end

---Frees a group; its members stay open.
---@param group integer
---@return true? ok
function network.group_close(group) end

---Puts a connection into a group; it leaves by itself when it closes.
---@param group integer
---@param connection integer
---@return true? ok
function network.group_add(group, connection) end

---Takes a connection out of a group.
---@param group integer
---@param connection integer
---@return boolean? was_member
function network.group_remove(group, connection) end

---Counts the members, also those that have closed since the last write.
---@param group integer
---@return integer? count
function network.group_size(group) end

---Queues one packet, framed once, to all members but one.
---@param group integer
---@param data string
---@param except integer?
---@return integer? count
function network.group_write(group, data, except) end

---What the library keeps for the running service.
---@return table? state what set_state() was given by the running service
function network.state() end

---Keeps a table for the running service.
---@param state table
function network.set_state(state) end

---What the network counts: connections, bytes, refusals by limit.
---@return table<string, integer> counters of the node
function network.stats() end

return network
