-- A service whose client commands do what they should not. It stands in for the talkroom.
local perilune = require "perilune"
local gateway = require "perilune.gateway"

local broken = {}
local client = {}
local seen = {}

function client.enter(_, body)
  if body.uname == "raise" then error("on purpose") end
  if body.uname == "wrong" then return { status = "a string" } end
  if body.uname == "wait" then
    perilune.sleep(20)
    return { status = 2 }
  end
  if body.uname == "nothing" then return nil end
  if body.uname == "late" then
    perilune.sleep(5)
    error("on purpose, late")
  end
  if body.uname == "endless" then while true do end end -- luacheck: ignore
  return { status = 1 }
end

-- Declared without a reply.
function client.exit() return { status = 1, extra = "is not sent" } end

function client.on_disconnect(uid) seen[#seen + 1] = uid end

function broken.disconnected() return seen end

function broken.push(uid, name, body) return gateway.push(uid, name, body) end

function broken.kick(uid) return gateway.kick(uid, "test", "because") end

return broken, client
