-- What the tests of Redis share: servers, a server that says what it is told, and how to wait.

local native = require "perilune.native.redis"
local perilune = require "perilune"
local redis = require "perilune.redis"
local servers = require "servers"
local sizes = require "sizes"
local socket = require "perilune.socket"
local test = require "perilune.test"

local helper = {}

helper.is_soak, helper.scale = sizes.is_soak, sizes.scale

---Registers a test where Redis is installed, and says elsewhere that it is skipped.
---@param name string
---@param body async fun()
function helper.test(name, body)
  local why = servers.missing "redis"
  if why then return test.skip(name, why) end
  test(name, body, 120000)
end

local running

---The server that the tests of a file share, empty.
---@async
---@return test.Server
function helper.server()
  running = running or servers.start("redis", { "enable-debug-command yes" })
  local db = assert(redis.connect("redis://127.0.0.1:" .. running.port))
  assert(db:flushall())
  db:close()
  return running
end

---Runs a test with a database, which is closed at its end.
---@async
---@param options perilune.redis.Options?
---@param body async fun(db: perilune.redis.Database, server: test.Server)
function helper.with_db(options, body)
  local server = helper.server()
  local db = assert(redis.connect("redis://127.0.0.1:" .. server.port, options))
  local ok, problem = xpcall(body, debug.traceback, db, server)
  db:close()
  if not ok then error(problem, 0) end
end

-- What is said to the commands that begin a connection.
local GREETINGS = { PING = "+PONG\r\n", CLIENT = "+OK\r\n", SELECT = "+OK\r\n", AUTH = "+OK\r\n" }

---A server whose replies are a function's: bytes, or nil for none. It gets each command as a list, and
---the connection.
---@param answer fun(command: string[], connection: perilune.socket.Connection): string?
---@return perilune.socket.Listener listener
---@return perilune.socket.Connection[] connections
function helper.fake(answer)
  local readers, connections = {}, {}
  local listener = assert(socket.listen {
    on_open = function(connection)
      readers[connection] = native.reader(2 ^ 20, 1000)
      connections[#connections + 1] = connection
    end,
    on_data = function(connection, data)
      local position = 1
      while position do
        local next_position, command = readers[connection]:next(data, position)
        position = next_position
        if position then
          local reply = answer(command, connection) or GREETINGS[command[1]]
          if reply then connection:write(reply) end
        end
      end
    end,
  })
  return listener, connections
end

---Ends a server of fake().
function helper.close_fake(listener, connections)
  listener:close()
  for _, connection in ipairs(connections) do connection:abort() end
end

---Runs a test with a server of fake() and a database on it.
---@async
---@param answer fun(command: string[], connection: perilune.socket.Connection): string?
---@param options perilune.redis.Options?
---@param body async fun(db: perilune.redis.Database, connections: perilune.socket.Connection[])
function helper.with_fake(answer, options, body)
  local listener, connections = helper.fake(answer)
  local db, why = redis.connect("redis://127.0.0.1:" .. listener.port, options)
  local ok, problem = xpcall(function() body(assert(db, why), connections) end, debug.traceback)
  if db then db:close() end
  helper.close_fake(listener, connections)
  if not ok then error(problem, 0) end
end

---Runs functions at the same time and returns what they returned, as lists.
---@async
---@param count integer
---@param body async fun(index: integer): any
---@return any[][] results
function helper.at_once(count, body)
  local bodies = {}
  local results = {}
  for index = 1, count do
    bodies[index] = function() results[index] = { body(index) } end
  end
  for _, result in ipairs(perilune.wait_all(bodies)) do
    if not result[1] then error(result[2], 0) end
  end
  return results
end

---Starts several servers at the same time.
---@async
---@param kind "redis"|"sentinel"
---@param count integer
---@param lines string[]
---@return test.Server[]
function helper.servers(kind, count, lines)
  local results = helper.at_once(count, function() return servers.start(kind, lines) end)
  local list = {}
  for index, result in ipairs(results) do list[index] = result[1] end
  return list
end

---The third value that a failed request returns.
---@param ... any
---@return string? code
function helper.code(...) return (select(3, ...)) end

return helper
