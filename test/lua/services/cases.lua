-- Runs a case of a module inside itself, see support.run_cases. What the host calls by name is
-- handed to the case: set `cases.on.down = function(handle, reason) ... end`.

local support = require "support"

local service = {}
local cases

function service.on_start(options)
  support.group = options.group
  cases = require(options.module)
end

function service.run(index)
  cases[index][2](service)
end

-- A case may add commands of its own: `service.ping = function() ... end`.
return service
