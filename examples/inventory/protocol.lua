-- The packets of this game. It takes the place of the engine's service/protocol.lua.
local protocol = require "perilune.protocol"

return protocol.declare {
  messages = { stack = "item u16, count u32" },

  auth = {
    stype = 2,
    guest_login = {
      1, login = true, request = "string",
      reply = "status i16, uid u32, unick string, usex i16, uface i16, uvip i16",
    },
  },

  inventory = {
    stype = 100,
    list = { 1, reply = "status i16, coins i64, stacks stack[]" },
    -- `ticket`: of the client's choice, a new one for each purchase, and the same one where it asks
    -- again because it hasn't heard.
    buy = { 2, request = "item u16, count u16, ticket string", reply = "status i16, coins i64" },
    give = { 3, request = "item u16, count u16, to u32", reply = "status i16" },
  },
}
