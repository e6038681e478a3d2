-- Raises error values of every type.

local perilune = require "perilune"

local errors = {}

-- Only made when asked for: some are of no use to anybody.
local values = {
  ["nil"] = function() return nil end,
  boolean = function() return false end,
  number = function() return 42 end,
  text = function() return "just text" end,
  empty = function() return "" end,
  binary = function() return "\0\255\27[31m" end,
  table = function() return { code = 5, list = { 1, 2 } } end,
  message = function() return { message = "says why", code = 5 } end,
  tostring = function()
    return setmetatable({}, { __tostring = function() return "its own text" end })
  end,
  bad_tostring = function()
    return setmetatable({}, { __tostring = function() error "no text" end })
  end,
  endless_tostring = function()
    return setmetatable({}, { __tostring = function() while true do end end }) -- luacheck: ignore
  end,
  index = function()
    return setmetatable({}, { __index = function() error "no field" end })
  end,
  unsendable = function() return { message = "with a function", body = print } end,
  cycle = function()
    local cycle = { message = "a cycle" }
    cycle.own = cycle
    return cycle
  end,
  huge_table = function()
    local huge = { message = "huge" }
    for i = 1, 50000 do huge[i] = "some text " .. i end
    return huge
  end,
  ["function"] = function() return function() end end,
  coroutine = function() return coroutine.create(function() end) end,
  userdata = function() return perilune.shared("for errors", { 1 }) end,
  long = function() return ("x"):rep(100000) end,
  huge = function() return ("x"):rep(2 ^ 24) end,
}

function errors.raise(kind) error(values[kind]()) end
function errors.good(value) return value end

-- Whose frames are many.
local function deep(n)
  if n == 0 then error "deep down" end
  return (deep(n - 1))
end
function errors.deep() deep(5000) end

function errors.nested() perilune.call(perilune.self(), "raise", "message") end
function errors.in_pcall(kind) return (pcall(errors.raise, kind)) end
function errors.runtime() return nil + 1 end -- luacheck: ignore
function errors.call_nil() return perilune.no_such_function() end

function errors.on_start(kind)
  if kind then errors.raise(kind) end
end

return errors
