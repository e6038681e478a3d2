-- What the tests of MySQL and SQLite share: databases to talk to, and a wire to them that can be cut.

local mysql = require "perilune.mysql"
local perilune = require "perilune"
local servers = require "servers"
local sizes = require "sizes"
local socket = require "perilune.socket"
local sqlite = require "perilune.sqlite"
local test = require "perilune.test"

local helper = {}

helper.is_soak, helper.scale = sizes.is_soak, sizes.scale

local LIMIT_MS = 180000
local running

---The MySQL server that the tests of a file share.
---@async
---@return test.Server
function helper.server()
  running = running or servers.start "mysql"
  return running
end

---The address of a server's database.
---@param port integer
---@param user string? "name:password", encoded
---@param database string? default "test"
---@return string
function helper.address(port, user, database)
  return ("mysql://%s@127.0.0.1:%d/%s"):format(user or "tester:p%40ss%3Aw%2Frd%23%3F%25", port,
    database or "test")
end

local function close_after(db, body, ...)
  local ok, problem = xpcall(body, debug.traceback, db, ...)
  db:close()
  if not ok then error(problem, 0) end
end

---Registers a test with a database of MySQL, closed at its end; where there is no server it is
---skipped.
---@param name string
---@param options perilune.mysql.Options?
---@param body async fun(db: perilune.sql.Database, server: test.Server)
function helper.mysql(name, options, body)
  local why = servers.missing "mysql"
  if why then return test.skip("mysql: " .. name, why) end
  test("mysql: " .. name, function()
    local server = helper.server()
    close_after(mysql.connect(helper.address(server.port), options), body, server)
  end, LIMIT_MS)
end

---The same without a database.
---@param name string
---@param body async fun(server: test.Server)
function helper.with_server(name, body)
  local why = servers.missing "mysql"
  if why then return test.skip("mysql: " .. name, why) end
  test("mysql: " .. name, function() body(helper.server()) end, LIMIT_MS)
end

local files = 0

---Registers a test with a new database of SQLite, closed at its end.
---@param name string
---@param options perilune.sqlite.Options?
---@param body async fun(db: perilune.sql.Database, path: string)
function helper.sqlite(name, options, body)
  test("sqlite: " .. name, function()
    files = files + 1
    local path = ("db%d.sqlite"):format(files)
    close_after(sqlite.open(path, options), body, path)
  end, LIMIT_MS)
end

---Registers a test once for each.
---@param name string
---@param options table?
---@param body async fun(db: perilune.sql.Database, kind: "mysql"|"sqlite")
function helper.both(name, options, body)
  helper.mysql(name, options, function(db) body(db, "mysql") end)
  helper.sqlite(name, options, function(db) body(db, "sqlite") end)
end

---Makes a table anew.
---@async
---@param db perilune.sql.Database
---@param name string
---@param columns string
function helper.make_table(db, name, columns)
  db:execute("DROP TABLE IF EXISTS " .. name)
  db:execute(("CREATE TABLE %s (%s)"):format(name, columns))
end

---Fails unless the function raises a perilune.sql.Error of that code, and returns it.
---@async
---@param code perilune.sql.Code
---@param body async fun()
---@return perilune.sql.Error
function helper.fails(code, body)
  local problem = test.raises(body)
  if type(problem) ~= "table" then error("not an Error: " .. tostring(problem), 2) end
  if problem.code ~= code then error(("not %q: %s"):format(code, tostring(problem)), 2) end
  return problem
end

---Waits until nobody uses a connection of the database, or waits for one.
---@async
---@param db perilune.sql.Database
function helper.idle_again(db)
  test.eventually(function()
    local stats = db:stats()
    return stats.idle == stats.open and stats.waiting == 0
  end)
end

---Runs a function in many tasks at the same time.
---@async
---@param count integer
---@param body async fun(index: integer): any
---@return {[1]: boolean, [2]: any}[] results as of perilune.wait_all
function helper.at_once(count, body)
  local bodies = {}
  for index = 1, count do bodies[index] = function() return body(index) end end
  return perilune.wait_all(bodies)
end

-- ---- a wire that can be cut ----

---@class test.Wire
---@field port integer
---@field on_client fun(data: string, cut: fun()): string? what passes on to the server
---@field on_server fun(data: string, cut: fun()): string? what passes back
local Wire = {}
Wire.__index = Wire

---A listener that passes all on to a port, both ways.
---@param port integer
---@return test.Wire
function helper.wire(port)
  local wire = setmetatable({ _ends = {} }, Wire)
  local function same(data) return data end
  wire.on_client, wire.on_server = same, same
  wire._listener = assert(socket.listen {
    framing = "raw",
    on_open = function(client)
      local server, early = nil, {}
      local function cut()
        client:abort()
        if server then server:abort() end
      end
      local function pass(to, data)
        if data and data ~= "" and not to.closed then to:write(data) end
      end
      client.on_data = function(_, data)
        if not server then
          early[#early + 1] = data
        else
          pass(server, wire.on_client(data, cut))
        end
      end
      -- At once: a server that is busy would keep a connection that is closed.
      client.on_close = function() if server and not server.closed then server:abort() end end
      wire._ends[client] = true
      server = socket.connect("127.0.0.1", port, {
        framing = "raw",
        on_data = function(_, data) pass(client, wire.on_server(data, cut)) end,
        on_close = function() if not client.closed then client:close() end end,
      })
      if not server then return client:abort() end
      wire._ends[server] = true
      for _, data in ipairs(early) do pass(server, wire.on_client(data, cut)) end
    end,
  })
  wire.port = wire._listener.port
  return wire
end

---Cuts all connections, and takes no more.
function Wire:close()
  self._listener:close()
  for connection in pairs(self._ends) do
    if not connection.closed then connection:abort() end
  end
end

return helper
