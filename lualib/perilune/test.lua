---@class perilune.test
-- Tests of services, run by `perilune test <files>`: a file ending in _test.lua is started as a
-- service in a node of its own, and its command `run` runs what the file has registered.
--
--   local perilune = require "perilune"
--   local test = require "perilune.test"
--
--   test("call to a dead service raises", function()
--     local handle = perilune.spawn "counter"
--     perilune.kill(handle)
--     test.raises(function() perilune.call(handle, "add", 1) end, "dead")
--   end)
--
--   return test
--
-- A name is a sentence that the test makes true. Each test runs in a task, so it may wait. What it
-- leaves behind fails it: services, timers, connections, listeners, UDP sockets, databases. The
-- table that the file returns may have commands and on_ functions of the test's own: `function
-- test.on_down(...)`.
local test = {}

local perilune = require "perilune"
local core = require "perilune.core"
local enet = require "perilune.enet"
local socket = require "perilune.socket"
local udp = require "perilune.udp"

local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"
local watch = core.native "core_watch"

-- Far more than anything takes: where others use the machine too, a second proves nothing.
local SETTLE_MS = 10000

local registered = {}

---Registers a test: `test("a sentence", function() ... end)`.
---@param name string
---@param body async fun()
---@param limit_ms integer? how long it may take; default 30000
function test.add(name, body, limit_ms)
  registered[#registered + 1] = { name = name, body = body, limit_ms = limit_ms or 30000 }
end

---Registers a test that isn't run: it is reported as skipped, not as passed.
---@param name string
---@param why string
function test.skip(name, why)
  registered[#registered + 1] = { name = name, skipped = why }
end

setmetatable(test, { __call = function(_, ...) test.add(...) end })

-- ---- values ----

local function show_string(text)
  if #text > 200 then text = text:sub(1, 200) .. "..." end
  return ("%q"):format(text):gsub("[%z\1-\9\11-\31\127-\255]", function(byte)
    return ("\\%03d"):format(byte:byte())
  end)
end

local function show(value, depth)
  if type(value) == "string" then return (show_string(value)) end
  if type(value) ~= "table" or depth > 4 or getmetatable(value) then return tostring(value) end
  local keys, parts = {}, {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(keys) do
    local name = type(key) == "string" and key .. " = " or ("[%s] = "):format(tostring(key))
    parts[#parts + 1] = (keys[#keys] == #value and "" or name) .. show(value[key], depth + 1)
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local function is_equal(a, b)
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" then return false end
  for key, value in pairs(a) do
    if not is_equal(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function fail(message, text)
  error(message and message .. ": " .. text or text, 3)
end

---Fails unless both are equal; tables are compared by what is in them.
---@param got any
---@param wanted any
---@param message string?
function test.equal(got, wanted, message)
  if not is_equal(got, wanted) then
    fail(message, ("got %s, wanted %s"):format(show(got, 0), show(wanted, 0)))
  end
end

---Fails unless the value is true.
---@param value any
---@param message string?
---@return any value
function test.ok(value, message)
  if not value then fail(message, "got " .. tostring(value)) end
  return value
end

---Fails unless the function raises something in whose text the pattern is found.
---@param body fun()
---@param pattern string? of string.find; default: any
---@return any raised
function test.raises(body, pattern)
  local ok, raised = pcall(body)
  if ok then fail(nil, "nothing was raised") end
  if pattern and not tostring(raised):find(pattern) then
    fail(nil, ("%q isn't in what was raised: %s"):format(pattern, tostring(raised)))
  end
  return raised
end

---Waits until the function returns something true, and returns that.
---@async
---@param condition fun(): any
---@param ms integer? limit; default 10000
---@param message string? what is waited for
---@return any value
function test.eventually(condition, ms, message)
  local limit = perilune.now() + (ms or SETTLE_MS)
  repeat
    local value = condition()
    if value then return value end
    perilune.sleep(5)
  until perilune.now() > limit
  fail(message, "didn't happen in time")
end

-- ---- what a test leaves ----

local function present()
  local network, node = socket.stats(), perilune.node()
  return {
    services = node.services, timers = perilune.stats().timers,
    connections = network.open, listeners = network.listeners,
    ["UDP sockets"] = udp.stats().udp_sockets, ["ENet hosts"] = enet.stats().enet_hosts,
    ["connections to MySQL"] = node.counters.mysql_connections,
    ["SQLite databases"] = node.counters.sqlite_databases,
  }
end

-- What ends by itself, such as connections that deliver their last, gets a moment.
local function leftovers(before, settle_ms)
  local limit = perilune.now() + settle_ms
  while true do
    local texts = {}
    for name, count in pairs(present()) do
      local more = count - (before[name] or 0)
      if more > 0 then texts[#texts + 1] = ("%d %s"):format(more, name) end
    end
    if #texts == 0 then return nil end
    if perilune.now() > limit then return "left behind: " .. table.concat(texts, ", ") end
    perilune.sleep(10)
  end
end

-- ---- running ----

local function add_traceback(message)
  message = tostring(message)
  return message:find("\nstack traceback:", 1, true) and message or debug.traceback(message, 2)
end

-- Runs a function in a task of its own. true, or false and why.
local function run_within(body, ms)
  local done = new_token()
  perilune.fork(function()
    watch(done)
    wake(done, xpcall(body, add_traceback))
  end)
  local ok, message = wait(done, ms)
  if ok then return true end
  if ok == nil and message == "timeout" then return false, ("took longer than %d ms"):format(ms) end
  return false, tostring(message)
end

local function run_one(entry, settle_ms)
  if entry.skipped then
    return { name = entry.name, ok = true, message = entry.skipped, skipped = true }
  end
  local before = present()
  local ok, message = run_within(entry.body, entry.limit_ms)
  if ok then
    message = leftovers(before, settle_ms)
    ok = message == nil
  end
  perilune.cancel_all()
  return { name = entry.name, ok = ok, message = message }
end

---Runs the tests of the file, in their order;
---filter: only tests whose names contain it; settle_ms: how long a test's leftovers may take to
---end by themselves, default 10000.
---@async
---@param options {filter: string?, settle_ms: integer?}?
---@return {name: string, ok: boolean, skipped: boolean?, message: string?}[] results
function test.run(options)
  options = options or {}
  local filter, results = options.filter or "", {}
  for _, entry in ipairs(registered) do
    if entry.name:find(filter, 1, true) then
      results[#results + 1] = run_one(entry, options.settle_ms or SETTLE_MS)
    end
  end
  return results
end

return test
