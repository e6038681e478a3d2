// Packets, byte for byte, without a server.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { BUF_FORM, JSON_FORM, PacketError, declare, services }
  from "../../examples/web/client/index.js";
import { all, game } from "./game.mjs";

const standard = declare(services);
const hex = (bytes) => Buffer.from(bytes).toString("hex");
const unhex = (text) => new Uint8Array(Buffer.from(text.replace(/\s+/g, ""), "hex"));
const KEY = "mcPYQPcNY66HWNBNy8GTdcmAtPGHdMHQ";
const LOGIN = "02000100000000000100" + "2800" +
  "7b2230223a226d6350595150634e59363648574e424e7938475464636d4174504748644d4851227d";

test("the declaration in the package's page is one", async () => {
  const page = readFileSync(new URL("../../examples/web/client/README.md", import.meta.url), "utf8");
  const [text] = page.match(/declare\(\{[^]*?\n\}\)/);
  const declared = new Function("declare", "services", `return ${text}`)(declare, services);
  assert.notEqual(declared.hash, standard.hash);
});

// A declaration of one command with these fields.
const lab = (fields, messages = {}) =>
  declare({ messages, lab: { stype: 4, run: { ctype: 1, request: fields, reply: fields } } });
const bodyOf = (fields, value, messages) =>
  hex(lab(fields, messages).encodeRequest("lab.run", BUF_FORM, value)).slice(20);
const decode = (fields, body, form = BUF_FORM) =>
  lab(fields).decodeReply(unhex(`0400010000000000 0${form}00 ${body}`)).body;
const json = (text) => {
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.from([bytes.length & 255, bytes.length >> 8]), bytes]).toString("hex");
};

test("golden: guest login in JSON, the WebSocket message of 52 bytes", () => {
  const data = standard.encodeRequest("auth.guest_login", JSON_FORM, KEY);
  assert.equal(hex(data), LOGIN);
  assert.equal(data.length, 52);
  const { command, body, requestId } = standard.decodeRequest(unhex(LOGIN));
  assert.deepEqual([command.name, body, requestId], ["auth.guest_login", KEY, null]);
});

test("golden: talkroom send_message as a gateway stamped it for uid 7", () => {
  const stamped = unhex("01000500070000000100 0a00 7b2230223a226869227d");
  assert.equal(standard.decodeRequest(stamped).body, "hi");
  stamped[4] = 0; // a client sends 0
  assert.equal(hex(standard.encodeRequest("talkroom.send_message", JSON_FORM, "hi")), hex(stamped));
});

test("golden: talkroom enter in BUF, without the length of TCP", () => {
  const data = standard.encodeRequest("talkroom.enter", BUF_FORM, { uname: "a", usex: 1 });
  assert.equal(hex(data), "01000100000000000200" + "0100" + "61" + "0100");
  assert.equal(data.length + 2, 17);
  assert.deepEqual(standard.decodeRequest(data).body, { uname: "a", usex: 1 });
});

test("golden: an empty body is {\"0\":null} in JSON and nothing in BUF", () => {
  assert.equal(hex(standard.encodeRequest("talkroom.exit", JSON_FORM)).slice(20),
    json('{"0":null}'));
  assert.equal(hex(standard.encodeRequest("talkroom.exit", BUF_FORM)), "01000200000000000200");
});

test("a request_id stands behind the value", () => {
  assert.equal(hex(standard.encodeRequest("talkroom.send_message", JSON_FORM, "hi", 7)).slice(20),
    json('{"0":"hi","1":7}'));
});

test("the hash is that of the server's declaration", () => {
  assert.match(standard.hash, /^[0-9a-f]{8}$/);
  assert.notEqual(standard.hash, game.hash);
  assert.notEqual(lab("a i8").hash, lab("a u8").hash);
  assert.equal(lab("a  i8").hash, lab("a i8").hash);
});

const VECTORS = [
  ["i8", -128, "80"], ["i8", 127, "7f"], ["u8", 255, "ff"],
  ["i16", -2, "feff"], ["u16", 65535, "ffff"],
  ["i32", -2147483648, "00000080"], ["u32", 4294967295, "ffffffff"],
  ["i64", -1, "ffffffffffffffff"], ["i64", 2 ** 53, "0000000000002000"],
  ["i64", -(2n ** 63n), "0000000000000080"], ["u64", 2n ** 64n - 1n, "ffffffffffffffff"],
  ["u64", 0, "0000000000000000"],
  ["f32", 1.5, "0000c03f"], ["f64", 0.1, "9a9999999999b93f"],
  ["bool", true, "01"], ["bool", false, "00"],
  ["string", "", "0000"], ["string", "😀", "0400f09f9880"], ["string", "\ufeffa", "0400efbbbf61"],
  ["bytes", new Uint8Array([1, 2]), "020000000102"],
  ["i16[]", [1, -1], "02000100ffff"], ["string[][]", [["a"], []], "0200" + "0100010061" + "0000"],
];

test("each type has its bytes, and back", () => {
  for (const [type, value, bytes] of VECTORS) {
    assert.equal(bodyOf(type, value), bytes, `${type} ${value}`);
    assert.deepEqual(decode(type, bytes), value, `${type} ${bytes}`);
  }
});

test("BigInts and numbers are the same on the wire; what is exact comes back as a number", () => {
  assert.equal(bodyOf("u64", 5n), bodyOf("u64", 5));
  assert.equal(decode("i64", "0000000000002000"), 2 ** 53);
  assert.equal(decode("i64", "0100000000002000"), 2n ** 53n + 1n);
  assert.equal(bodyOf("i32", 5n), "05000000");
});

test("in JSON real numbers beyond 2^53 have an exponent, and texts that look so are texts", () => {
  const one = (type, value) =>
    Buffer.from(lab(type).encodeRequest("lab.run", JSON_FORM, value)).subarray(12).toString();
  assert.equal(one("f64", 2 ** 53), '{"0":9007199254740992}');
  assert.equal(one("f64", -(2 ** 64)), '{"0":-1.8446744073709552e+19}');
  assert.equal(one("f64", 1e300), '{"0":1e+300}');
  assert.equal(one("f64", 0.12345678901234568), '{"0":0.12345678901234568}');
  const text = '\\" 12345678901234567890 "';
  assert.equal(JSON.parse(one("string", text))[0], text);
});

test("in JSON what is beyond 2^53 is digits in a string", () => {
  const data = lab("u64").encodeRequest("lab.run", JSON_FORM, 2n ** 63n);
  assert.equal(hex(data).slice(20), json('{"0":"9223372036854775808"}'));
  assert.equal(decode("u64", json('{"0":"9223372036854775808"}'), JSON_FORM), 2n ** 63n);
  assert.equal(decode("u64", json('{"0":7}'), JSON_FORM), 7);
});

test("fields that may be left out are zeros in BUF and missing in JSON", () => {
  const messages = { item: "id u32, name string" };
  const fields = "a i16?, b string?, c item?, d u8[]?";
  assert.equal(bodyOf(fields, {}, messages), "0000" + "0000" + "000000000000" + "0000");
  const protocol = lab(fields, messages);
  assert.equal(hex(protocol.encodeRequest("lab.run", JSON_FORM, { a: 1, b: null })).slice(20),
    json('{"0":{"a":1}}'));
  const zeros = { a: 0, b: "", c: { id: 0, name: "" }, d: [] };
  for (const form of [JSON_FORM, BUF_FORM]) {
    const data = protocol.encodeReply("lab.run", form, {});
    assert.deepEqual(protocol.decodeReply(data).body, zeros);
  }
});

test("a refusal is its status alone", () => {
  const data = unhex("02000100000000000100" + json('{"0":{"status":-103},"1":4}'));
  const { body, requestId } = standard.decodeReply(data);
  assert.deepEqual(body, { status: -103, uid: 0, unick: "", usex: 0, uface: 0, uvip: 0 });
  assert.equal(requestId, 4);
});

test("all types survive both forms", () => {
  for (const form of [JSON_FORM, BUF_FORM]) {
    const data = game.encodeRequest("lab.echo", form, all);
    assert.deepEqual(game.decodeRequest(data).body, all);
  }
});

test("a body that doesn't fit names the field", () => {
  const wrong = [
    ["i8", 128, /it is out of the range of i8: 128/], ["u8", -1, /range/], ["u16", 1.5, /integer/],
    ["i32", "1", /not an integer but string/], ["i64", 2 ** 53 + 2, /BigInt/],
    ["i64", 2n ** 63n, /range/], ["u64", -1, /range/], ["u64", -1n, /range/],
    ["f32", 1e39, /range/], ["f64", NaN, /finite/], ["f64", Infinity, /finite/],
    ["bool", 1, /boolean/], ["string", "\ud800", /surrogate/], ["string", null, /not a string/],
    ["string", "x".repeat(65536), /65535 at most/], ["string", "é".repeat(32768), /65536 bytes/],
    ["bytes", "x", /Uint8Array/], ["i8[]", {}, /list/], ["i8[]", new Array(65536).fill(0), /items/],
    ["a i8", [], /object/], ["a string", {}, /field a is not a string/],
    ["a string, b i8[]", { a: "", b: [1, 999] }, /field b\[1\] is out of the range/],
    ["string[]", ["x".repeat(40000), "x".repeat(40000)], /larger than 65523/],
  ];
  for (const [fields, value, message] of wrong) {
    for (const form of [BUF_FORM, JSON_FORM]) {
      assert.throws(() => lab(fields).encodeRequest("lab.run", form, value),
        { message }, `${fields} ${form}`);
    }
  }
  assert.throws(() => standard.encodeRequest("talkroom.enter", JSON_FORM, { uname: 5, usex: 1 }),
    { message: "talkroom.enter: field uname is not a string but number" });
  assert.throws(() => standard.encodeRequest("talkroom.exit", JSON_FORM, {}), /declares no request/);
  assert.throws(() => standard.encodeRequest("talkroom.fly", JSON_FORM), /has no "talkroom.fly"/);
});

test("fields of a prototype aren't fields", () => {
  const fields = Object.create({ a: 1 });
  assert.throws(() => lab("a i8").encodeRequest("lab.run", BUF_FORM, fields), /field a is not/);
  assert.deepEqual(decode("a i8", json('{"0":{"a":1,"__proto__":{"b":2}}}'), JSON_FORM), { a: 1 });
});

test("packets that are cut off, too long or not what they say are malformed", () => {
  const packet = (bytes) => () => standard.decodeReply(unhex(bytes));
  const malformed = { name: "PacketError", code: "malformed" };
  for (const bytes of ["", "0100", "010001000000000001", // no header
    "0100060000000000 0300", // proto_type 3
    "0100060000000000 0100", "0100060000000000 0100 0500 7b", // JSON cut off
    "0100060000000000 0100 0100 7b7d", // longer than it says
    `0100060000000000 0100 ${json("[")}`, `0100060000000000 0100 ${json("5")}`,
    `0100060000000000 0100 ${json("null")}`, `0100060000000000 0100 ${json('{"0":{}}')}`,
    `0100060000000000 0100 ${json('{"0":null,"1":0}')}`,
    `0100060000000000 0100 ${json('{"0":null,"1":1.5}')}`,
    "0100060000000000 0100 0300 22ff22", // not UTF-8
    "0100060000000000 0200 00", // BUF cut off
    "0100010000000000 0200 0100 00", // BUF too long
    "0200020000000000 0200 00", // a body where there is none
  ]) {
    assert.throws(packet(bytes), malformed, bytes);
  }
  assert.throws(packet("4d00010000000000 0200"), { code: "unknown_command" });
  assert.throws(() => decode("bool", "02"), /not a boolean but 2/);
  assert.throws(() => decode("f64", "000000000000f07f"), /finite/);
  assert.throws(() => decode("string", "0100ff"), /not UTF-8/);
  assert.throws(() => decode("string", "0500ff"), /cut off/);
  assert.throws(() => decode("u32[]", "ffff00000000"), /cut off: 65535 items/);
});

test("any bytes are read or refused, and never anything else", () => {
  let seed = 1;
  const random = (below) => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 8) % below;
  };
  const start = game.encodeReply("lab.echo", BUF_FORM, all);
  const text = game.encodeReply("lab.echo", JSON_FORM, all);
  for (let run = 0; run < 4000; run++) {
    const data = (run % 2 ? start : text).slice(0, run % 7 ? undefined : 10 + random(100));
    for (let i = 0; i < 3; i++) data[10 + random(data.length - 10 || 1)] = random(256);
    try {
      game.decodeReply(data);
    } catch (error) {
      assert.ok(error instanceof PacketError, String(error.stack));
    }
  }
});

test("a declaration that is wrong says where", () => {
  const wrong = [
    [{ a: { stype: 0 } }, /a: stype is an integer from 1/],
    [{ a: { stype: 1 }, b: { stype: 1 } }, /b: the number 1/],
    [{ a: { stype: 1, b: { ctype: 1 }, c: { ctype: 1 } } }, /a.c: a.b has the number 1/],
    [{ a: { stype: 1, b: { ctype: 10000 } } }, /a.b: ctype is an integer from 1 to 9999/],
    [{ a: { stype: 1, b: { ctype: 1, request: "x thing" } } }, /unknown type "thing"/],
    [{ a: { stype: 1, b: { ctype: 1, request: "x i8, x i8" } } }, /two fields are called x/],
    [{ a: { stype: 1, b: { ctype: 1, request: "x i8 y" } } }, /is not "name type"/],
    [{ a: { stype: 1, b: { ctype: 1, push: "", reply: "i8" } } }, /neither request nor reply/],
    [{ a: { stype: 1, b: { ctype: 1, replies: "i8" } } }, /unknown key replies/],
    [{ a: { stype: 1, on_b: { ctype: 1 } } }, /doesn't begin with on_/],
    [{ messages: { i8: "a u8" } }, /message i8: the name is taken/],
    [{ messages: { m: "m m[]" }, a: { stype: 1, b: { ctype: 1, request: "m" } } }, /itself/],
    [{ protocol: { stype: 9 } }, /taken/],
  ];
  for (const [declaration, message] of wrong) {
    assert.throws(() => declare(declaration), { message });
  }
});
