// The client against a server that does what a real one seldom does.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { WebSocketServer } from "ws";
import { BUF_FORM, JSON_FORM, declare, newKey, services }
  from "../../examples/web/client/index.js";
import { closeClients, connect, next, sleep, webcrypto } from "./node.mjs";

const protocol = declare(services);
const LIMITS = { frame_bytes: 65533, packets_per_second: 50, burst: 100, login_ms: 1, ping_ms: 1 };
const PROFILE = { status: 1, uid: 7, unick: "guest7", usex: 0, uface: 1, uvip: 0 };

// What a gateway answers. Each is (say, body) -> nothing; `say(name, body, requestId?)`.
const ANSWERS = {
  "protocol.hello": (say) => say("protocol.hello", { version: 1, schema: "", limits: LIMITS }),
  "protocol.ping": (say) => say("protocol.pong"),
  "auth.guest_login": (say) => say("auth.guest_login", PROFILE),
  "talkroom.exit": (say) => say("talkroom.exit", { status: 1 }),
};

let server = null;

// A server that answers by ANSWERS and what is given; everything that comes is in `seen`.
async function serve(answers = {}, port = 0) {
  const wss = new WebSocketServer({ host: "127.0.0.1", port });
  await new Promise((resolve) => wss.on("listening", resolve));
  server = {
    url: `ws://127.0.0.1:${wss.address().port}/`, port: wss.address().port, seen: [], sockets: [],
    answers: { ...ANSWERS, ...answers },
    names() { return this.seen.map(({ command }) => command.name); },
    end() {
      for (const socket of wss.clients) socket.terminate();
      return new Promise((resolve) => wss.close(resolve));
    },
  };
  const self = server;
  wss.on("connection", (socket) => {
    self.sockets.push(socket);
    socket.binaryType = "arraybuffer";
    socket.on("message", (data) => {
      const packet = protocol.decodeRequest(new Uint8Array(data));
      self.seen.push(packet);
      const say = (name, body, requestId = packet.requestId, form = packet.form) =>
        socket.send(protocol.encodeReply(name, form, body, requestId ?? undefined));
      self.answers[packet.command.name]?.(say, packet, socket);
    });
  });
  return self;
}

afterEach(async () => {
  closeClients();
  await server?.end();
  server = null;
});

const say = (socket, name, body) => socket.send(protocol.encodeReply(name, JSON_FORM, body));
async function until(condition, ms = 10000) {
  for (const limit = Date.now() + ms; !condition(); await sleep(5)) {
    if (Date.now() > limit) throw new Error(`not in time: ${condition}`);
  }
}

test("a key has 32 letters and digits, another one each time", () => {
  const keys = new Set(Array.from({ length: 100 }, () => newKey(webcrypto)));
  assert.equal(keys.size, 100);
  for (const key of keys) assert.match(key, /^[A-Za-z0-9]{32}$/);
});

test("options that can't be are refused at once", () => {
  assert.throws(() => connect("ws://127.0.0.1:1/", { form: "xml" }), /"json" or "buf"/);
  assert.throws(() => connect("ws://127.0.0.1:1/", { WebSocket: 5 }), /pass \{ WebSocket \}/);
  assert.throws(() => connect("no url"));
});

test("requests made before the connection wait for the login", async () => {
  await serve();
  const client = connect(server.url);
  const login = client.login("k".repeat(32));
  const reply = client.request("talkroom.exit");
  assert.deepEqual(await login, PROFILE);
  assert.deepEqual(await reply, { status: 1 });
  assert.deepEqual(server.names(), ["protocol.hello", "auth.guest_login", "talkroom.exit"]);
  assert.equal(server.seen[1].body, "k".repeat(32));
  assert.deepEqual(client.hello.limits, LIMITS);
  assert.deepEqual([client.state, client.key], ["ready", "k".repeat(32)]);
  const other = connect(server.url);
  await other.login();
  assert.match(other.key, /^[A-Za-z0-9]{32}$/);
  assert.equal(server.seen.at(-1).body, other.key);
});

test("a request without a reply times out, and a late reply is nobody's", async () => {
  await serve({ "talkroom.exit": () => {} });
  const client = connect(server.url);
  await client.login();
  await assert.rejects(client.request("talkroom.exit", null, { timeout: 30 }),
    { code: "timeout", message: "talkroom.exit: no reply in time" });
  const late = server.seen.at(-1);
  const second = client.request("talkroom.exit");
  await until(() => server.seen.at(-1) !== late);
  const [socket] = server.sockets;
  for (const [{ requestId }, status] of [[late, -100], [server.seen.at(-1), 1]]) {
    socket.send(protocol.encodeReply("talkroom.exit", JSON_FORM, { status }, requestId));
  }
  assert.deepEqual(await second, { status: 1 });
});

test("a BUF reply that comes late isn't taken for the next one's", async () => {
  await serve({ "talkroom.exit": () => {} });
  const client = connect(server.url, { form: "buf" });
  await client.login();
  await assert.rejects(client.request("talkroom.exit", null, { timeout: 30 }), { code: "timeout" });
  assert.equal(server.seen.at(-1).form, BUF_FORM);
  const second = client.request("talkroom.exit");
  await until(() => server.names().filter((name) => name === "talkroom.exit").length === 2);
  assert.equal(server.seen.at(-1).form, JSON_FORM);
  const [socket] = server.sockets;
  socket.send(protocol.encodeReply("talkroom.exit", BUF_FORM, { status: -100 }));
  socket.send(protocol.encodeReply("talkroom.exit", JSON_FORM, { status: 1 },
    server.seen.at(-1).requestId));
  assert.deepEqual(await second, { status: 1 });
  server.answers["talkroom.exit"] = ANSWERS["talkroom.exit"];
  await client.request("talkroom.exit");
  assert.equal(server.seen.at(-1).form, BUF_FORM);
});

test("BUF replies are told apart by their order", async () => {
  let count = 0;
  await serve({ "talkroom.exit": (answer) => answer("talkroom.exit", { status: ++count }) });
  const client = connect(server.url, { form: "buf" });
  await client.login();
  const replies = await Promise.all([1, 2, 3].map(() => client.request("talkroom.exit")));
  assert.deepEqual(replies.map(({ status }) => status), [1, 2, 3]);
});

test("an error of the server rejects its request, by id or by command", async () => {
  await serve({
    "talkroom.exit": (_, { requestId }, socket) => socket.send(protocol.encodeReply(
      "protocol.error", JSON_FORM,
      { code: "too_fast", message: "wait", stype: 1, ctype: 2 }, requestId ?? undefined)),
  });
  const client = connect(server.url);
  await client.login();
  const wanted = { code: "too_fast", message: "wait", command: "talkroom.exit" };
  await assert.rejects(client.request("talkroom.exit"), wanted);
  await assert.rejects(client.request("talkroom.exit", null, { form: "buf" }), wanted);
  const error = next(client, "error");
  client.send("talkroom.exit");
  assert.deepEqual(await error, wanted);
});

test("a reply that can't be read rejects its request", async () => {
  await serve({
    "talkroom.exit": (_, { requestId, form }, socket) => {
      const data = protocol.encodeReply("talkroom.exit", form, { status: 1 }, requestId ?? undefined);
      socket.send(form === BUF_FORM ? data.subarray(0, 11)
        : Buffer.from(Buffer.from(data).toString("latin1").replace(":1}", ":x}"), "latin1"));
    },
    "talkroom.members": (answer) => answer("talkroom.exit", { status: 1 }),
  });
  const client = connect(server.url);
  await client.login();
  await assert.rejects(client.request("talkroom.exit", null, { form: "buf" }),
    { code: "malformed", message: /talkroom.exit: field status is cut off/ });
  const event = next(client, "malformed");
  await assert.rejects(client.request("talkroom.exit", null, { timeout: 50 }), { code: "timeout" });
  assert.equal((await event).code, "malformed");
});

test("pings are answered, and a server that is silent counts as lost", async () => {
  await serve();
  const client = connect(server.url, { pingInterval: 60, pongTimeout: 100 });
  await client.login();
  say(server.sockets[0], "protocol.ping");
  await until(() => server.names().includes("protocol.pong"));
  await until(() => server.names().includes("protocol.ping"));
  await sleep(300); // pongs keep it
  assert.equal(client.state, "ready");
  server.answers["protocol.ping"] = () => {};
  const event = await next(client, "close");
  assert.deepEqual([event.reason, event.reconnect], ["silent", true]);
  server.answers["protocol.ping"] = ANSWERS["protocol.ping"];
  assert.equal((await next(client, "resumed")).fresh, true);
});

test("what was sent is rejected when the connection breaks, what was not is sent later", async () => {
  await serve({ "talkroom.exit": () => {} });
  const client = connect(server.url);
  await client.login("k".repeat(32));
  const sent = client.request("talkroom.exit");
  await until(() => server.names().includes("talkroom.exit"));
  server.answers["talkroom.exit"] = ANSWERS["talkroom.exit"];
  server.sockets[0].terminate();
  await assert.rejects(sent, { code: "closed", reason: "lost" });
  const waits = client.request("talkroom.exit");
  client.on("resumed", () => client.send("talkroom.members"));
  assert.deepEqual(await waits, { status: 1 });
  assert.deepEqual(server.names().slice(3), ["protocol.hello", "auth.guest_login",
    "talkroom.members", "talkroom.exit"]);
  assert.equal(server.seen[4].body, "k".repeat(32));
});

test("with the token of hello a session is resumed", async () => {
  let hellos = 0;
  await serve({
    "protocol.hello": (answer) => answer("protocol.hello",
      { version: 1, schema: "", limits: LIMITS, resume: `token${++hellos}` }),
    "protocol.resume": (answer, { body }) =>
      answer("protocol.resume", {
        // The reply to its login is all that counts.
        status: body.token === `token${hellos - 1}` && body.received === 1 ? 1 : -101,
      }),
  });
  const client = connect(server.url);
  await client.login();
  server.sockets[0].terminate();
  assert.deepEqual(await next(client, "resumed"), { profile: PROFILE, fresh: false });
  assert.deepEqual(server.names().slice(2), ["protocol.hello", "protocol.resume"]);
  assert.deepEqual(await client.request("talkroom.exit"), { status: 1 });
});

test("a token that has expired is followed by a login", async () => {
  await serve({
    "protocol.hello": (answer) => answer("protocol.hello",
      { version: 1, schema: "", limits: LIMITS, resume: "token" }),
    "protocol.resume": (answer) => answer("protocol.error",
      { code: "expired", message: "gone", stype: 0, ctype: 4 }),
  });
  const client = connect(server.url);
  await client.login();
  server.sockets[0].terminate();
  assert.equal((await next(client, "resumed")).fresh, true);
  assert.deepEqual(server.names().slice(2),
    ["protocol.hello", "protocol.resume", "auth.guest_login"]);
});

test("pauses grow from 0.1 s to 5 s, each a little different", async () => {
  await serve();
  const { url } = server;
  await server.end();
  const delays = [];
  const random = Math.random;
  const later = globalThis.setTimeout;
  globalThis.setTimeout = (f, ms, ...rest) => later(f, ms <= 5000 ? ms / 100 : ms, ...rest);
  try {
    for (const value of [0, 0.999999]) {
      Math.random = () => value;
      const client = connect(url);
      const seen = [];
      client.on("reconnecting", ({ attempt, delay }) => {
        assert.equal(attempt, seen.length + 1);
        seen.push(delay);
      });
      await until(() => seen.length >= 8);
      client.close();
      delays.push(seen.slice(0, 8));
    }
  } finally {
    globalThis.setTimeout = later;
    Math.random = random;
  }
  assert.deepEqual(delays[0], [100, 200, 400, 800, 1600, 2500, 2500, 2500]);
  assert.deepEqual(delays[1], [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
});

test("reasons that won't pass end it, those that may don't", async () => {
  for (const [reason, reconnects] of [["relogin", false], ["version", false], ["frozen", false],
    ["flooding", false], ["malformed", false], ["shutdown", true], ["full", true], ["idle", true],
    ["login_timeout", true]]) {
    await serve();
    const client = connect(server.url);
    await client.login();
    const closing = next(client, "closing");
    const close = next(client, "close");
    say(server.sockets[0], "protocol.closing", { reason, text: "why" });
    server.sockets[0].close();
    assert.deepEqual(await closing, { reason, text: "why" });
    const event = await close;
    assert.deepEqual([event.reason, event.text, event.reconnect], [reason, "why", reconnects]);
    assert.deepEqual(client.closed, reconnects ? null : { reason, text: "why" });
    if (!reconnects) {
      await assert.rejects(client.request("talkroom.exit"), { code: "closed", reason });
      await assert.rejects(client.login(), { code: "closed", reason });
      assert.equal(client.send("talkroom.exit"), false);
    }
    closeClients();
    await server.end();
  }
});

test("a program may decide by the reason", async () => {
  await serve();
  const reasons = [];
  const client = connect(server.url, { reconnect: (reason) => reasons.push(reason) < 2 });
  await client.login();
  say(server.sockets[0], "protocol.closing", { reason: "relogin", text: "" });
  server.sockets[0].close();
  await next(client, "resumed");
  server.sockets[1].terminate();
  assert.equal((await next(client, "close")).reconnect, false);
  assert.deepEqual(reasons, ["relogin", "lost"]);
});

test("a login that is refused says so; again after a reconnection it is the end", async () => {
  await serve({
    "auth.guest_login": (answer) => answer("auth.guest_login", { status: -103 }),
  });
  const client = connect(server.url);
  await assert.rejects(client.login(), { code: "refused", status: -103 });
  assert.equal(client.state, "open");
  server.answers["auth.guest_login"] = ANSWERS["auth.guest_login"];
  await client.login();
  await assert.rejects(client.login(), { code: "invalid" });
  server.answers["auth.guest_login"] = (answer) => answer("auth.guest_login", { status: -107 });
  server.sockets[0].terminate();
  assert.equal((await next(client, "close")).reason, "lost");
  assert.deepEqual(
    await next(client, "close").then(({ reason, reconnect }) => [reason, reconnect]),
    ["unavailable", true]); // busy: it tries again
  server.answers["auth.guest_login"] = (answer) => answer("auth.guest_login", { status: -103 });
  const event = await next(client, "close");
  assert.deepEqual([event.reason, event.reconnect], ["refused", false]);
});

test("login gives up in time, and close() ends everything that waits", async () => {
  await serve({ "auth.guest_login": () => {} });
  const client = connect(server.url, { loginTimeout: 80 });
  await assert.rejects(client.login(), { code: "timeout" });
  const other = connect(server.url);
  const login = other.login();
  const request = other.request("talkroom.exit");
  await until(() => server.names().filter((name) => name === "auth.guest_login").length === 2);
  const event = next(other, "close");
  other.close();
  other.close();
  await assert.rejects(login, { code: "closed", reason: "closed" });
  await assert.rejects(request, { code: "closed", reason: "closed" });
  assert.deepEqual([(await event).reason, other.state], ["closed", "closed"]);
});

test("queues are bounded", async () => {
  await serve({ "talkroom.exit": () => {} });
  const client = connect(server.url, { queue: 2, requests: 3 });
  const login = client.login();
  const first = client.request("talkroom.exit");
  assert.equal(client.send("talkroom.exit"), true);
  assert.equal(client.send("talkroom.exit"), false);
  await assert.rejects(client.request("talkroom.exit"), { code: "overloaded" });
  await login;
  const more = [client.request("talkroom.exit"), client.request("talkroom.exit")];
  await assert.rejects(client.request("talkroom.exit"), { code: "overloaded" });
  server.sockets[0].terminate(); // the own login isn't one of the requests
  for (const request of [first, ...more]) await assert.rejects(request, { code: "closed" });
  await next(client, "resumed");
});

test("what is larger than the server takes isn't sent", async () => {
  await serve({
    "protocol.hello": (answer) => answer("protocol.hello",
      { version: 1, schema: "", limits: { ...LIMITS, frame_bytes: 200 } }),
  });
  const client = connect(server.url);
  await client.login();
  await assert.rejects(client.request("talkroom.send_message", "x".repeat(200)),
    { code: "too_large" });
  assert.equal(client.send("talkroom.send_message", "x".repeat(200)), false);
  await assert.rejects(client.request("talkroom.enter", { uname: 1 }), /field uname/);
  assert.equal(client.state, "ready");
});

test("a text message of the server ends the connection", async () => {
  await serve();
  const client = connect(server.url);
  await client.login();
  server.sockets[0].send("hello");
  assert.deepEqual(await next(client, "close").then(({ reason, reconnect }) => [reason, reconnect]),
    ["malformed", false]);
});

test("a WebSocket that reports an error and no close counts as closed", async () => {
  class Forgetful {
    constructor() {
      this.readyState = 0;
      setTimeout(() => this.onerror({}));
    }

    close() { this.readyState = 3; }
  }
  const client = connect("ws://127.0.0.1:1/", { WebSocket: Forgetful, attempts: 1 });
  await assert.rejects(client.login(), { code: "closed", reason: "unreachable" });
});

test("a listener that throws disturbs nothing, and one that is taken off hears nothing", async () => {
  await serve();
  const thrown = [];
  globalThis.reportError = (error) => thrown.push(error.message);
  try {
    const client = connect(server.url);
    const heard = [];
    client.on("talkroom.user_left", () => { throw new Error("oops"); });
    const off = client.on("talkroom.user_left", ({ uid }) => heard.push(uid));
    client.once("push", (name) => heard.push(name));
    await client.login();
    for (const uid of [1, 2]) {
      say(server.sockets[0], "talkroom.user_left", { uid, uname: "", usex: 0 });
      await next(client, "push");
      off();
    }
    assert.deepEqual(heard, [1, "talkroom.user_left"]);
    assert.deepEqual(thrown, ["oops", "oops"]);
  } finally {
    delete globalThis.reportError;
  }
});

test("an old server without hello, and without request_ids, is understood", async () => {
  const plain = (name, body) => (answer, { form }, socket) =>
    socket.send(protocol.encodeReply(name, form, body));
  await serve({
    "protocol.hello": () => assert.fail("hello was sent"),
    "auth.guest_login": plain("auth.guest_login", PROFILE),
    "talkroom.exit": plain("talkroom.exit", { status: 1 }),
  });
  const client = connect(server.url, { hello: false });
  assert.deepEqual(await client.login(), PROFILE);
  assert.deepEqual(await client.request("talkroom.exit"), { status: 1 });
});

test("after register it logs in again as the account, after logout not at all", async () => {
  await serve({
    "auth.register": (answer) => answer("auth.register", { status: 1 }),
    "auth.account_login": (answer) => answer("auth.account_login", PROFILE),
    "auth.logout": (answer) => answer("auth.logout", { status: 1 }),
  });
  const client = connect(server.url);
  await client.login();
  await client.request("auth.register", { uname: "ada", upwd: "secret" });
  server.sockets[0].terminate();
  await next(client, "resumed");
  assert.deepEqual(server.seen.at(-1).body, { uname: "ada", upwd: "secret" });
  await client.request("auth.logout");
  assert.deepEqual([client.state, client.profile], ["open", null]);
  server.sockets[1].terminate();
  await next(client, "hello");
  await sleep(20);
  assert.equal(server.names().at(-1), "protocol.hello");
  assert.deepEqual(await client.login({ uname: "ada", upwd: "secret" }), PROFILE);
});
