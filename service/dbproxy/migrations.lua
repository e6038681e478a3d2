-- Changes of the database's tables: files migrations/<dialect>/<number>_<name>.sql beside scripts,
-- each applied once, in the order of their numbers. Numbers below 1000 are the engine's. What has
-- been applied is in the table `migrations`, with a digest: a file that was changed afterwards
-- refuses the start, since nobody knows then what the tables are like.
--
-- Several nodes that start at once do it one after the other. SQLite applies all that is new in one
-- transaction. MySQL ends a transaction with each change of a table: a file that breaks off there
-- stays marked as begun, and refuses the start until somebody has looked.
local migrations = {}

local core = require "perilune.core"
local crypto = require "perilune.crypto"
local perilune = require "perilune"

local texts = core.native "core_texts"

local LOCK = "perilune_migrations"
local LOCK_SECONDS = 60
local NONE = { n = 0 }

local MAKE_TABLE = [[CREATE TABLE IF NOT EXISTS migrations (
  number INTEGER NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL, digest VARCHAR(64) NOT NULL,
  done INTEGER NOT NULL)]]

-- Where a quoted string ends that begins at `at`.
local function skip_string(text, at, quote, dialect)
  local last = at
  while true do
    last = text:find(quote, last + 1, true)
    if not last then return #text + 1 end
    local is_escaped = dialect == "mysql" and quote ~= "`"
      and #text:sub(at, last - 1):match "\\*$" % 2 == 1
    if not is_escaped then return last + 1 end
  end
end

-- Where the text goes on behind what stands at `at`: a quoted string, a comment, or plain text.
local function skip(text, at, dialect)
  local quote = text:match("^[\"'`]", at)
  if quote then return skip_string(text, at, quote, dialect) end
  if text:find("^%-%-", at) or dialect == "mysql" and text:find("^#", at) then
    return (text:find("\n", at, true) or #text) + 1, true
  end
  if text:find("^/%*", at) then
    local _, last = text:find("*/", at + 2, true)
    return (last or #text) + 1, true
  end
  return (text:find("[\"'`;/#%-]", at + 1) or #text + 1)
end

-- Whether a ; belongs to a statement: in one that is CREATE ... BEGIN ... END.
local function goes_on(statement)
  local upper = statement:upper()
  return upper:find "^%s*CREATE%f[%W].*%f[%w]BEGIN%f[%W]" and not upper:find "%f[%w]END%s*$"
end

---The statements of a file: they end with ; and comments are left out.
---@param text string
---@param dialect "sqlite"|"mysql"
---@return string[] statements
function migrations.split(text, dialect)
  local statements, parts, at = {}, {}, 1
  local function finish()
    local statement = table.concat(parts)
    if statement:find "%S" then statements[#statements + 1] = statement:match "^%s*(.-)%s*$" end
    parts = {}
  end
  while at <= #text do
    if text:sub(at, at) == ";" then
      if goes_on(table.concat(parts)) then parts[#parts + 1] = ";" else finish() end
      at = at + 1
    else
      local next_at, is_comment = skip(text, at, dialect)
      parts[#parts + 1] = is_comment and " " or text:sub(at, next_at - 1)
      at = next_at
    end
  end
  finish()
  return statements
end

-- The files of a dialect, in their order.
local function read_files(dialect)
  local listed, files, by_number = texts("migrations." .. dialect, ".sql"), {}, {}
  for i = 1, #listed, 2 do
    local name, text = listed[i], listed[i + 1]:gsub("\r\n", "\n") -- as some editors have it
    local number = tonumber(name:match "^(%d%d%d%d)_[%w_]+%.sql$")
    if not number then
      error(("migration %s: it is called 0001_name.sql"):format(name), 0)
    end
    if by_number[number] then
      error(("migrations %s and %s have one number"):format(by_number[number], name), 0)
    end
    by_number[number] = name
    files[#files + 1] = {
      number = number, name = name, text = text, digest = crypto.hex(crypto.sha256(text)),
    }
  end
  return files
end

-- The files that aren't applied yet. Fails for one that was changed, or began and never ended.
local function find_new(transaction, files)
  local applied, new = {}, {}
  for _, row in ipairs(transaction:read("SELECT * FROM migrations", NONE)) do
    applied[row.number] = row
  end
  for _, file in ipairs(files) do
    local row = applied[file.number]
    if row and row.done ~= 1 then
      transaction:fail(("migration %s broke off: see what of it is in the database, then set done"
        .. " to 1 in the table migrations, or delete its row to apply it again"):format(row.name),
        "invalid")
    elseif row and row.digest ~= file.digest then
      transaction:fail(("migration %s isn't what was applied as %s: a change is a file of its own")
        :format(file.name, row.name), "invalid")
    elseif not row then
      new[#new + 1] = file
    end
  end
  return new
end

-- The connection may have been lost, and made again without the lock.
local function check_lock(connection)
  local row = connection:read("SELECT IS_USED_LOCK(?) AS holder, CONNECTION_ID() AS own",
    { n = 1, LOCK })[1]
  if row.holder ~= row.own then
    connection:fail("the connection was lost while the tables were changed", "unavailable")
  end
end

local function apply(transaction, file, dialect)
  perilune.log.info("migration %s", file.name)
  transaction:write("INSERT INTO migrations (number, name, digest, done) VALUES (?, ?, ?, 0)",
    { n = 3, file.number, file.name, file.digest })
  for _, statement in ipairs(migrations.split(file.text, dialect)) do
    transaction:write(statement, NONE)
  end
  transaction:write("UPDATE migrations SET done = 1 WHERE number = ?", { n = 1, file.number })
end

local function apply_new(transaction, files, dialect)
  transaction:write(MAKE_TABLE, NONE)
  local new = find_new(transaction, files)
  for _, file in ipairs(new) do
    if dialect == "mysql" then check_lock(transaction) end
    apply(transaction, file, dialect)
  end
  return #new
end

-- With a lock of the server, which lasts as long as the connection.
local function apply_locked(connection, files)
  local got = connection:read("SELECT GET_LOCK(?, ?) AS got", { n = 2, LOCK, LOCK_SECONDS })
  if got[1].got ~= 1 then
    connection:fail("another node has been changing the tables for too long", "busy")
  end
  return apply_new(connection, files, "mysql")
end

---Applies what is new. Raises where that can't be.
---@async
---@param on dbproxy.Database
---@return integer count of files that were applied
function migrations.apply(on)
  local files = read_files(on.dialect)
  local count, message
  if on.dialect == "sqlite" then
    count, message = on:transact(function(transaction) return apply_new(transaction, files) end)
  else
    count, message = on:alone(function(connection) return apply_locked(connection, files) end)
  end
  if not count then error(message, 0) end
  return count
end

return migrations
