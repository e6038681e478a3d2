-- How large tests of databases are: in `make test`, in `make soak`, and under a sanitizer.
local perilune = require "perilune"

local sizes = {}

local build = tostring(perilune.env "PERILUNE_BUILD")
local is_slow = build:match "asan" or build:match "tsan"

---True where `make soak` runs the tests.
sizes.is_soak = perilune.env "PERILUNE_SOAK" ~= nil

---How many: `ci` usually, `soak` where there is time, a tenth of `ci` under a sanitizer.
---@param ci integer
---@param soak integer? default: ci
---@return integer count
function sizes.scale(ci, soak)
  if sizes.is_soak then return soak or ci end
  return is_slow and math.ceil(ci / 10) or ci
end

return sizes
