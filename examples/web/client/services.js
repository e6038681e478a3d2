// The packets of the standard services, as service/protocol.lua declares them.
export const services = {
  messages: {
    member: "uid u32, uname string, usex i16",
    line: "id u32, uid u32, uname string, usex i16, text string, time u32",
    listener: "kind string, host string, port u16, tls bool, encrypt bool",
  },

  talkroom: {
    stype: 1,
    enter: { ctype: 1, request: "uname string, usex i16", reply: "status i16" },
    exit: { ctype: 2, reply: "status i16" },
    user_arrived: { ctype: 3, push: "uid u32, uname string, usex i16" },
    user_left: { ctype: 4, push: "uid u32, uname string, usex i16" },
    send_message: { ctype: 5, request: "string", reply: "status i16, id u32" },
    user_message: { ctype: 6, push: "line" },
    history: { ctype: 7, request: "count u16?", reply: "status i16, lines line[]" },
    members: {
      ctype: 8, request: "after u32?", reply: "status i16, total u32, members member[]",
    },
  },

  auth: {
    stype: 2,
    guest_login: {
      ctype: 1, login: true, request: "string",
      reply: "status i16, uid u32, unick string, usex i16, uface i16, uvip i16",
    },
    relogin: { ctype: 2, push: "" },
    account_login: {
      ctype: 3, login: true, request: "uname string, upwd string",
      reply: "status i16, uid u32, unick string, usex i16, uface i16, uvip i16",
    },
    register: { ctype: 4, request: "uname string, upwd string", reply: "status i16" },
    logout: { ctype: 5, reply: "status i16" },
    edit_profile: {
      ctype: 6, request: "unick string, usex i16, uface i16", reply: "status i16",
    },
  },

  system: {
    stype: 3, service: "center",
    server_info: {
      ctype: 1, login: true, reply: "status i16, listeners listener[], maintenance string",
    },
    announcement: { ctype: 2, push: "text string" },
  },

  game: {
    stype: 4, service: "player",
    enter: { ctype: 1, reply: "status i16, uexp i32, uchip i64, uvip i32" },
  },
};
