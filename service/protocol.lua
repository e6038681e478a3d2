-- The packets of the standard services: numbers, fields and direction. A game adds its own here,
-- a line each; perilune.protocol says how. Numbers are never reused; services below 100 are the
-- engine's.
local protocol = require "perilune.protocol"

return protocol.declare {
  messages = {
    member = "uid u32, uname string, usex i16",
    line = "id u32, uid u32, uname string, usex i16, text string, time u32",
    listener = "kind string, host string, port u16, tls bool, encrypt bool",
  },

  talkroom = {
    stype = 1,
    enter = { 1, request = "uname string, usex i16", reply = "status i16" },
    exit = { 2, reply = "status i16" },
    user_arrived = { 3, push = "uid u32, uname string, usex i16" },
    user_left = { 4, push = "uid u32, uname string, usex i16" },
    send_message = { 5, request = "string", reply = "status i16, id u32" },
    user_message = { 6, push = "line" },
    history = { 7, request = "count u16?", reply = "status i16, lines line[]" },
    members = { 8, request = "after u32?", reply = "status i16, total u32, members member[]" },
  },

  auth = {
    stype = 2,
    guest_login = {
      1, login = true, request = "string",
      reply = "status i16, uid u32, unick string, usex i16, uface i16, uvip i16",
    },
    relogin = { 2, push = "" },
    account_login = {
      3, login = true, request = "uname string, upwd string",
      reply = "status i16, uid u32, unick string, usex i16, uface i16, uvip i16",
    },
    register = { 4, request = "uname string, upwd string", reply = "status i16" },
    logout = { 5, reply = "status i16" },
    edit_profile = { 6, request = "unick string, usex i16, uface i16", reply = "status i16" },
  },

  system = {
    stype = 3, service = "center",
    server_info = {
      1, login = true, reply = "status i16, listeners listener[], maintenance string",
    },
    announcement = { 2, push = "text string" },
  },

  game = {
    stype = 4, service = "player",
    enter = { 1, reply = "status i16, uexp i32, uchip i64, uvip i32" },
  },
}
