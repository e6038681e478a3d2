-- What a service that isn't trusted can't do, and what light services can't see of each other.

local perilune = require "perilune"
local test = require "perilune.test"

for _, group in ipairs { false, "prison" } do
  local way = group and "light" or "isolated"
  group = group or nil

  test(("no way out of the sandbox is found (%s)"):format(way), function()
    local prisoner = perilune.spawn("services.prisoner", nil, { group = group })
    local found = {}
    for _, name in ipairs(perilune.call(prisoner, "attempts")) do
      local ok, out, how = pcall(perilune.call, prisoner, "try", name)
      if not ok or out then
        found[#found + 1] = name .. ": " .. tostring(ok and how or out)
      end
    end
    perilune.kill(prisoner)
    test.equal(found, {})
  end)
end

test("light services see nothing of each other's globals, modules and libraries", function()
  local group = 0
  local found = {}
  local first = perilune.spawn "services.prisoner"
  local names = perilune.call(first, "writes")
  perilune.kill(first)
  for _, name in ipairs(names) do
    group = group + 1
    local settings = { group = "cell" .. group }
    local writer = perilune.spawn("services.prisoner", nil, settings)
    local before = perilune.spawn("services.prisoner", nil, settings)
    perilune.call(writer, "write", name)
    local after = perilune.spawn("services.prisoner", nil, settings)
    for _, reader in ipairs { before, after } do
      local ok, where, what = pcall(perilune.call, reader, "read")
      if not ok or where then
        found[#found + 1] = ("%s: %s %s"):format(name, tostring(where), tostring(what))
        break
      end
    end
    for _, service in ipairs { writer, before, after } do perilune.kill(service) end
  end
  test.equal(found, {})
end)

test("a light service has its own globals, and others' writes don't change them", function()
  local text = [[
    local service = {}
    function service.set(value) shared_name = value _G.other = value end
    function service.get() return shared_name, _G.shared_name, other, rawget(_G, "other") end
    return service]]
  test.ok(require("perilune.file").write("globals.lua", text))
  local first = perilune.spawn("globals", nil, { group = "globals" })
  local second = perilune.spawn("globals", nil, { group = "globals" })
  perilune.call(first, "set", 1)
  perilune.call(second, "set", 2)
  test.equal({ perilune.call(first, "get") }, { 1, 1, 1, 1 })
  test.equal({ perilune.call(second, "get") }, { 2, 2, 2, 2 })
  perilune.kill(first)
  perilune.kill(second)
end)

test("a trusted script has the whole of Lua, alone", function()
  -- This one is.
  test.ok(io and os.execute and debug.sethook and require "ffi")
  test.equal(require("jit").version, jit.version)
  test.equal((jit.status()), perilune.stats().jit) -- opening it is no way to turn it on
  test.raises(function() perilune.spawn("sandbox_test", nil, { group = "x" }) end, "trusted")
end)

test("a million names of scripts are refused as such", function()
  for _, name in ipairs { "a/b", "a\\b", "a b", "a..b", ".a", "a.", "a\0b", "é", ("a"):rep(201) } do
    test.raises(function() perilune.spawn(name) end, "is no name of a script")
  end
end)

return test
