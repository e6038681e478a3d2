// What test/web/game/protocol.lua declares.
import { declare, services } from "../../examples/web/client/index.js";

const { talkroom, auth } = services;

export const game = declare({
  messages: {
    item: "id u32, name string",
    all: "a i8, b i16, c i32, d i64, e u8, f u16, g u32, h u64, i f32, j f64, k bool, l string, " +
      "m bytes, n i32[], o item[], p item, q item?, r string[][], s u64?",
    line: services.messages.line,
  },
  talkroom: {
    stype: 1, enter: talkroom.enter, user_arrived: talkroom.user_arrived,
    user_left: talkroom.user_left, send_message: talkroom.send_message,
    user_message: talkroom.user_message,
  },
  auth: {
    stype: 2, guest_login: auth.guest_login, relogin: auth.relogin,
    account_login: auth.account_login, register: auth.register, logout: auth.logout,
  },
  lab: {
    stype: 4,
    echo: { ctype: 1, request: "all", reply: "all" },
    wait: { ctype: 2, request: "ms u32, number u32", reply: "number u32" },
    fail: { ctype: 3, reply: "status i16" },
    push: { ctype: 4, request: "all" },
    pushed: { ctype: 5, push: "all" },
    kick: { ctype: 6, request: "reason string, text string" },
  },
});

// A body with values at the edges of all types.
export const all = {
  a: -128, b: -32768, c: -2147483648, d: -(2n ** 63n), e: 255, f: 65535, g: 4294967295,
  h: 2n ** 64n - 1n, i: 1.5, j: 0.1, k: true, l: "안녕 😀\u0000\ufeff", m: new Uint8Array([0, 255, 7]),
  n: [-1, 0, 1], o: [{ id: 1, name: "é" }, { id: 2, name: "" }], p: { id: 3, name: "x" },
  q: { id: 0, name: "" }, r: [["a"], [], ["b", "c"]], s: 2 ** 53,
};
