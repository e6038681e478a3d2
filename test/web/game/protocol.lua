-- The same as game.mjs.
local protocol = require "perilune.protocol"

return protocol.declare {
  messages = {
    item = "id u32, name string",
    all = "a i8, b i16, c i32, d i64, e u8, f u16, g u32, h u64, i f32, j f64, k bool, l string, "
      .. "m bytes, n i32[], o item[], p item, q item?, r string[][], s u64?",
    line = "id u32, uid u32, uname string, usex i16, text string, time u32",
  },

  talkroom = {
    stype = 1,
    enter = { 1, request = "uname string, usex i16", reply = "status i16" },
    user_arrived = { 3, push = "uid u32, uname string, usex i16" },
    user_left = { 4, push = "uid u32, uname string, usex i16" },
    send_message = { 5, request = "string", reply = "status i16, id u32" },
    user_message = { 6, push = "line" },
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
  },

  lab = {
    stype = 4,
    echo = { 1, request = "all", reply = "all" },
    wait = { 2, request = "ms u32, number u32", reply = "number u32" },
    fail = { 3, reply = "status i16" },
    push = { 4, request = "all" },
    pushed = { 5, push = "all" },
    kick = { 6, request = "reason string, text string" },
  },
}
