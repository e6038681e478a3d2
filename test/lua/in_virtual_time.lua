-- Times to the millisecond, in isolated and light services. In virtual time only sleeps and limits
-- pass time, so its bounds hold on every machine: run with a seed by seeded_test.lua.

local support = require "support"
local test = require "perilune.test"

support.run_cases "cases.times"

return test
