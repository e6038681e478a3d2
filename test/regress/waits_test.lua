-- Waits where nothing can wait: in functions that table.sort or string.gsub call.

local perilune = require "perilune"
local test = require "perilune.test"

-- What each raises when it is called from C.
local function from_c(body)
  local texts = {}
  for _, call in ipairs {
    function() table.sort({ 1, 2 }, body) end,
    function() string.gsub("a", "a", body) end,
  } do
    local ok, problem = pcall(call)
    test.equal(ok, false)
    texts[#texts + 1] = tostring(problem)
  end
  return texts
end

test("what can't wait says so, and no other wait gets its answer", function()
  local echo = perilune.spawn "services.echo"
  for _, body in ipairs {
    function() perilune.call(echo, "echo", "wrong") end,
    function() perilune.sleep(1) end,
    function() perilune.yield() end,
    function() perilune.spawn "services.echo" end,
    function() perilune.stop(echo) end,
    function() perilune.timeout(1, print) perilune.wait_all { function() end } end,
  } do
    for _, text in ipairs(from_c(body)) do
      test.ok(text:find "waits, which it can't in a function that table.sort", text)
    end
    perilune.sleep(2)
    test.equal(perilune.call(echo, "echo", "right"), "right")
  end
  perilune.cancel_all()
  perilune.stop(echo)
end)

return test
