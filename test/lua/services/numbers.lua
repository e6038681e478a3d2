-- Sends numbers that rise to receivers, and says what didn't go.

local perilune = require "perilune"

local numbers = {}

---Sends 1..count to each of `receivers`, in messages of different sizes, some as calls.
function numbers.run(receivers, count)
  local refused = 0
  for number = 1, count do
    for _, to in ipairs(receivers) do
      local filler = number % 50 == 0 and ("x"):rep(2000) or nil
      if number % 97 == 0 then
        perilune.call_within(0, to, "take", number, filler)
      else
        while not perilune.send(to, "take", number, filler) do
          refused = refused + 1
          perilune.sleep(1)
        end
      end
    end
    if number % 64 == 0 then perilune.yield() end
  end
  return refused
end

return numbers
