-- Promise 5, as scripts see it: what messages carry, what they refuse and how they say so.

local perilune = require "perilune"
local support = require "support"
local test = require "perilune.test"

local MB = 2 ^ 20

local function with_target(body)
  for _, group in ipairs { false, "payloads" } do
    local target = perilune.spawn("services.target", nil, { group = group or nil })
    local ok, problem = pcall(body, target)
    perilune.kill(target)
    if not ok then error(problem, 0) end
  end
end

test("values of every kind arrive as they were", function()
  with_target(function(target)
    local values = {
      0, -0.0, 1, -1, 255, 256, 65536, 2 ^ 31, -2 ^ 31, 2 ^ 32, 2 ^ 53, -2 ^ 53, 2 ^ 53 - 1, 0.1,
      1e308, 5e-324, math.huge, -math.huge, true, false, "", "\0", ("\255"):rep(300), "名字 🎲",
      {}, { {} }, { 1, 2, 3 }, { [1] = 1, [3] = 3 }, { a = { b = { c = 1 } } }, { [0.5] = 1 },
      { [true] = 1, [false] = 2 }, { [-1] = 1, [2 ^ 40] = 2 }, { 1, 2, x = 3 },
    }
    for i, value in ipairs(values) do
      local back = perilune.call(target, "echo", value)
      test.equal(type(back), type(value))
      test.equal(back, value, "value " .. i)
    end
    test.equal(1 / perilune.call(target, "echo", -0.0), -math.huge)
    local nan = perilune.call(target, "echo", 0 / 0)
    test.ok(nan ~= nan)
    local holes = perilune.call(target, "echo", { 1, nil, 3, nil, 5 })
    test.equal({ holes[1], holes[3], holes[5] }, { 1, 3, 5 })
    local null = require("cjson").null
    test.equal(perilune.call(target, "echo", { null })[1], null)
  end)
end)

test("metatables and methods are left behind, not called", function()
  with_target(function(target)
    local object = setmetatable({ 1, x = 2 }, {
      __index = function() error "called" end, __len = function() error "called" end,
      __pairs = function() error "called" end, __tostring = function() error "called" end,
      __metatable = "hidden",
    })
    local back = perilune.call(target, "echo", object)
    test.equal(back, { 1, x = 2 })
    test.equal(getmetatable(back), nil)
  end)
end)

test("a table that is there twice arrives twice", function()
  with_target(function(target)
    local one = { 1 }
    local back = perilune.call(target, "echo", { one, one })
    test.equal(back, { { 1 }, { 1 } })
    test.ok(back[1] ~= back[2])
  end)
end)

-- What can't be sent, and what is said about it.
local function refused()
  local cycle = { name = "x" }
  cycle.self = { cycle }
  local deep = {}
  for _ = 1, 64 do deep = { deep } end
  local co = coroutine.create(function() end)
  return {
    { print, "argument 2 is a function" },
    { { callback = print }, "argument 2: .callback is a function, which cannot be sent" },
    { { items = { 1, 2, { on = { co } } } }, "argument 2: .items%[3%].on%[1%] is a thread" },
    { { [2.5] = print }, "argument 2: %[2.5%] is a function" },
    { { [true] = print }, "argument 2: %[true%] is a function" },
    { { ["two words"] = print }, 'argument 2: %["two words"%] is a function' },
    { { a = { [{}] = 1 } }, "argument 2: .a has a table as a key" },
    { { [print] = 1 }, "argument 2 has a function as a key" },
    { cycle, "argument 2: .*%[1%] is a table that contains itself 2 levels up" },
    { deep, "is nested deeper than 64 tables" },
    { io.stdout, "argument 2 is a userdata" },
    { require("ffi").new("int64_t", 5), "argument 2 is a cdata" },
  }
end

test("what can't be sent is refused with the path to it, and nothing is sent", function()
  with_target(function(target)
    local before = perilune.stats(target).messages
    for _, entry in ipairs(refused()) do
      local value, pattern = entry[1], entry[2]
      for _, way in ipairs { perilune.send, perilune.call } do
        test.raises(function() way(target, "note", 1, value) end, '"note": ' .. pattern:gsub("^is",
          ".*is"))
      end
    end
    test.equal(perilune.stats(target).messages, before)
    test.equal(perilune.call(target, "received"), {})
  end)
end)

test("a result that can't be sent fails the call with the path to it", function()
  with_target(function(target)
    test.raises(function() perilune.call(target, "unsendable") end, "no command")
  end)
  local target = perilune.spawn "services.payloads"
  for kind, pattern in pairs {
    ["function"] = "result 1 is a function, which cannot be sent",
    nested = "result 2: .list%[2%].code is a function",
    key = "result 1: .x has a table as a key",
    cycle = "result 1: .*.own is a table that contains itself 1 level",
  } do
    local raised = test.raises(function() perilune.call(target, "result", kind) end, pattern)
    test.equal(raised.code, "error")
    test.equal(perilune.call(target, "result", "fine"), "fine")
  end
  test.raises(function() perilune.call(target, "later", "nested") end, "result 2: .list%[2%].code")
  perilune.kill(target)
end)

test("options of spawn that can't be sent are refused", function()
  test.raises(function() perilune.spawn("services.target", { a = { print } }) end,
    ".a%[1%] is a function")
end)

test("1 MB and 15 MB are sent, 17 MB refused", function()
  with_target(function(target)
    for _, size in ipairs { MB, 15 * MB } do
      local text = ("0123456789abcdef"):rep(size / 16)
      test.equal(perilune.call_within(30000, target, "echo", text) == text, true)
    end
    local list = {}
    for i = 1, 100000 do list[i] = { id = i, name = "entity" } end
    local back = perilune.call_within(30000, target, "echo", list)
    test.equal({ #back, back[100000] }, { 100000, { id = 100000, name = "entity" } })
    local large = ("x"):rep(17 * MB)
    for _, value in ipairs { large, { a = { large } }, { ("x"):rep(9 * MB), ("y"):rep(9 * MB) } } do
      test.raises(function() perilune.call(target, "echo", value) end,
        "makes the message larger than 16 MB")
      test.raises(function() perilune.send(target, "echo", value) end, "larger than 16 MB")
    end
    test.equal(perilune.call(target, "echo", 1), 1)
  end)
end, support.patience(60000))

test("a large result that is refused fails the call alone", function()
  local target = perilune.spawn "services.payloads"
  test.raises(function() perilune.call(target, "result", "huge") end, "larger than 16 MB")
  test.equal(#perilune.call(target, "result", "large"), 15 * MB)
  perilune.kill(target)
end, support.patience(30000))

test("a large message that its receiver has no memory for ends that receiver alone", function()
  local target = perilune.spawn("services.target", nil, { memory_mb = 8 })
  local ok, raised = pcall(perilune.call_within, 30000, target, "count", ("x"):rep(15 * MB))
  test.equal(ok, false)
  test.ok(raised.code == "error" or raised.code == "dead", tostring(raised))
  local list = {}
  for i = 1, 300000 do list[i] = { i } end
  ok, raised = pcall(perilune.call_within, 30000, target, "count", list)
  test.equal(ok, false)
  test.ok(raised.code == "error" or raised.code == "dead", tostring(raised))
  perilune.kill(target)
end, support.patience(60000))

return test
