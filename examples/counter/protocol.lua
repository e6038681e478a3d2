-- The packets of this game. It takes the place of the engine's service/protocol.lua.
local protocol = require "perilune.protocol"

return protocol.declare {
  auth = {
    stype = 2,
    guest_login = {
      1, login = true, request = "string",
      reply = "status i16, uid u32, unick string, usex i16, uface i16, uvip i16",
    },
  },

  counter = {
    stype = 100,
    add = { 1, request = "n i32", reply = "status i16, total i64" },
  },
}
