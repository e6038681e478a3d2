---@meta perilune.native.mysql

-- Connections to MySQL and MariaDB, for lualib/perilune/mysql.lua, which is what services use.
--
-- What waits returns an answer: true, rows, columns, affected, insert id, whether a transaction is
-- open; or false, code, message, the server's number, SQLSTATE, whether it is unknown if it took
-- effect, whether the connection is lost, whether a transaction is open. After its limit it returns
-- something else than true and false. on_event "mysql": id of a connection that the server has
-- closed while it was idle.

---@class perilune.native.mysql
local native = {}

---An id for a connection, never used again.
---@return integer id
function native.reserve() end

---Makes a connection.
---@async
---@param id integer
---@param options table host, port, user, password, database, tls, ca, certificate, key, connect_ms,
---statements
---@param ms integer limit of the wait
---@return any ... true, id; or an answer that is a failure
function native.connect(id, options, ms) end

---Runs a statement. check() has seen it.
---@async
---@param id integer
---@param ms integer limit of the wait; then the connection has to be closed
---@param max_rows integer
---@param max_bytes integer
---@param shape integer of rows: 0 none, 1 lists, 2 by the names of columns
---@param prepared boolean also without values
---@param text string
---@param ... any values
---@return any ... an answer
function native.execute(id, ms, max_rows, max_bytes, shape, prepared, text, ...) end

---Raises, with the line of the script, unless the statement and its values can be sent.
---@param text string
---@param ... any values
function native.check(text, ...) end

---Whether the server has closed a connection, or it isn't there.
---@param id integer
---@return boolean ended
function native.ended(id) end

---Closes a connection, whatever it does; also one that is being made.
---@param id integer
function native.close(id) end

---What the library keeps for the running service.
---@return table? state
function native.state() end

---Keeps it.
---@param state table
function native.set_state(state) end

return native
