-- Promise 8: first-in first-out for each sender and receiver.

local perilune = require "perilune"
local file = require "perilune.file"
local support = require "support"
local test = require "perilune.test"

local RECEIVER = [[
local perilune = require "perilune"
local receiver = {}
local VERSION = %d
local last, received, inverted, versions = {}, 0, 0, {}

function receiver.take(number)
  local sender = perilune.sender()
  if number ~= (last[sender] or 0) + 1 then inverted = inverted + 1 end
  last[sender] = number
  received = received + 1
  versions[VERSION] = (versions[VERSION] or 0) + 1
  if received %% 1000 == 0 then collectgarbage("step", 100) end
end

function receiver.result()
  local count = 0
  for _ in pairs(versions) do count = count + 1 end
  return received, inverted, count
end

return receiver
]]

test("50 senders' messages arrive in order, each once, through reloads and collections", function()
  local count, senders, receivers = support.scale(20000, 200000), {}, {}
  local version = 1
  test.ok(file.write("order_receiver.lua", RECEIVER:format(version)))
  for i = 1, 4 do
    receivers[i] = perilune.spawn("order_receiver", nil, {
      group = i > 2 and "receivers" or nil, mailbox = i % 2 == 0 and 5000 or nil,
    })
  end
  for i = 1, 50 do
    senders[i] = perilune.spawn("services.numbers", nil, { group = i > 25 and "senders" or nil })
  end
  local tasks, done = {}, false
  for i, sender in ipairs(senders) do
    tasks[i] = function()
      -- Two receivers each, one isolated, one light.
      local mine = { receivers[i % 2 + 1], receivers[i % 2 + 3] }
      return perilune.call_within(0, sender, "run", mine, count)
    end
  end
  local reloads = 0
  perilune.fork(function()
    while not done do
      version = version + 1
      test.ok(file.write("order_receiver.lua", RECEIVER:format(version)))
      local services, problems = perilune.reload "order_receiver"
      test.equal({ services, problems }, { 4, {} })
      reloads = reloads + 1
      perilune.sleep(20)
    end
    done = "stopped"
  end)
  for _, result in ipairs(perilune.wait_all(tasks)) do test.ok(result[1], tostring(result[2])) end
  done = true
  test.eventually(function() return done == "stopped" end)
  for _, receiver in ipairs(receivers) do
    local received, inverted, versions = perilune.call_within(0, receiver, "result")
    test.equal({ received, inverted }, { 25 * count, 0 })
    if not support.sanitizer then test.ok(versions > 1, versions) end
    perilune.kill(receiver)
  end
  for _, sender in ipairs(senders) do perilune.kill(sender) end
  test.ok(reloads > 0)
  file.remove "order_receiver.lua"
end, support.is_soak and 3600000 or support.patience(60000))

return test
