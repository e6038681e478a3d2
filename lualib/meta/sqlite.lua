---@meta perilune.native.sqlite

-- SQLite databases, for lualib/perilune/sqlite.lua, which is what services use. What an answer is:
-- lualib/meta/mysql.lua.

---@class perilune.native.sqlite
local native = {}

---Opens a database, which gets a thread of its own.
---@async
---@param path string below the data folder, or ":memory:"
---@param busy_ms integer how long a statement waits for others that hold the file
---@param sync boolean a commit waits for the disk
---@param statements integer prepared ones that are kept
---@return any ... an answer, and behind it the id
function native.open(path, busy_ms, sync, statements) end

---Has its thread run a statement. check() has seen it.
---@async
---@param id integer
---@param ms integer limit, which the thread keeps
---@param max_rows integer
---@param max_bytes integer
---@param shape integer of rows: 0 none, 1 lists, 2 by the names of columns
---@param within boolean a transaction: else one that is begun is rolled back
---@param text string
---@param ... any values
---@return any ... an answer
function native.execute(id, ms, max_rows, max_bytes, shape, within, text, ...) end

---Raises, with the line of the script, unless the statement and its values can be sent.
---@param text string
---@param ... any values
function native.check(text, ...) end

---Ends what it does, and closes it.
---@param id integer
function native.close(id) end

return native
