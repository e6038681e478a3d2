-- What the gateway of W11 serves: logins, and an echo.
local protocol = require "perilune.protocol"

local ECHO = "number u32, text string"

return protocol.declare {
  auth = {
    stype = 2,
    guest_login = {
      1, login = true, request = "string",
      reply = "status i16, uid u32, unick string, usex i16, uface i16, uvip i16",
    },
  },
  game = {
    stype = 4,
    service = "w11_echo",
    echo = { 1, request = ECHO, reply = ECHO },
  },
}
