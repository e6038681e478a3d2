-- Every function of the API does what its documentation says, in isolated and in light services.

local test = require "perilune.test"
local support = require "support"

for _, module in ipairs { "messages", "tasks", "life", "data" } do
  support.run_cases("cases." .. module)
end

return test
