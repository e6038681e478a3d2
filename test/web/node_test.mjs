// The client and a real node.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { JSON_FORM, newKey } from "../../examples/web/client/index.js";
import { all, game } from "./game.mjs";
import { WebSocket, closeClients, connect, next, sleep, startNode, stopNodes, webcrypto }
  from "./node.mjs";

const CONFIG = "test/web/game/config.lua";
const FORMS = ["json", "buf"];

let node;
before(async () => { node = await startNode(CONFIG); });
afterEach(closeClients);
after(stopNodes);

const join = (options) => connect(node.url, { protocol: game, ...options });

// A client that is in the room.
async function talker(options, name) {
  const client = join(options);
  const profile = await client.login();
  const uname = name ?? profile.unick;
  const entered = await client.request("talkroom.enter", { uname, usex: 1 });
  assert.deepEqual(entered, { status: 1 });
  return client;
}

// A WebSocket without the client: send, and how it ended.
async function raw() {
  const socket = new WebSocket(node.url);
  socket.binaryType = "arraybuffer";
  const packets = [];
  socket.on("message", (data) => packets.push(game.decodeReply(new Uint8Array(data))));
  const closed = new Promise((resolve) => socket.on("close", (code) => resolve(code)));
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  return { socket, packets, closed, hex: (text) => socket.send(Buffer.from(text, "hex")) };
}

test("hello tells version, limits and the declaration", async () => {
  const client = join();
  const hello = await next(client, "hello");
  assert.equal(hello.version, 1);
  assert.equal(hello.schema, game.hash);
  assert.deepEqual(Object.keys(hello.limits),
    ["frame_bytes", "packets_per_second", "burst", "login_ms", "ping_ms"]);
  assert.ok(await client.ping() >= 0); // without a login
});

for (const form of FORMS) {
  test(`two clients chat: ${form}`, async () => {
    const [ada, bob] = [await talker({ form }, "Ada 😀"), await talker({ form }, "Bob")];
    for (const text of ["hello", "안녕 😀", "\"'\\<b>", "é".repeat(500)]) {
      const heard = next(bob, "talkroom.user_message");
      const { status, id } = await ada.request("talkroom.send_message", text);
      assert.equal(status, 1);
      const line = await heard;
      assert.ok(Math.abs(line.time - Date.now() / 1000) < 60);
      assert.deepEqual({ ...line, time: 0 },
        { id, uid: ada.profile.uid, uname: "Ada 😀", usex: 1, text, time: 0 });
    }
    const left = next(bob, "talkroom.user_left");
    ada.close();
    assert.equal((await left).uname, "Ada 😀");
  });

  test(`all types go there and back: ${form}`, async () => {
    const client = join({ form });
    await client.login();
    assert.deepEqual(await client.request("lab.echo", all), all);
    const { q, s, ...some } = all;
    assert.deepEqual(await client.request("lab.echo", { ...some, o: [], n: [], l: "" }),
      { ...some, o: [], n: [], l: "", q: { id: 0, name: "" }, s: 0 });
    const pushed = next(client, "lab.pushed");
    client.send("lab.push", all);
    assert.deepEqual(await pushed, all);
  });

  test(`a request times out, and later ones get their own replies: ${form}`, async () => {
    const client = join({ form });
    await client.login();
    await assert.rejects(client.request("lab.wait", { ms: 400, number: 1 }, { timeout: 50 }),
      { code: "timeout" });
    const replies = [2, 3].map((number) => client.request("lab.wait", { ms: 1, number }));
    assert.deepEqual(await Promise.all(replies), [{ number: 2 }, { number: 3 }]);
    await sleep(500);
    assert.deepEqual(await client.request("lab.wait", { ms: 1, number: 4 }), { number: 4 });
  });

  test(`errors of the server reject: ${form}`, async () => {
    const client = join({ form });
    await next(client, "hello");
    await assert.rejects(client.request("talkroom.enter", { uname: "x", usex: 1 }),
      { code: "not_logged_in" });
    await client.login();
    assert.deepEqual(await client.request("lab.fail"), { status: -100 }); // system_error
    assert.deepEqual(await client.request("talkroom.send_message", "hi"), { status: -105, id: 0 });
  });
}

test("one client's JSON and the other's BUF meet in a room", async () => {
  const [ada, bob] = [await talker({ form: "json" }), await talker({ form: "buf" })];
  for (const [from, to] of [[ada, bob], [bob, ada]]) {
    const heard = next(to, "talkroom.user_message");
    await from.request("talkroom.send_message", "😀");
    assert.equal((await heard).text, "😀");
  }
});

test("many requests at once are answered each by its own reply", async () => {
  const client = join();
  await client.login();
  const numbers = Array.from({ length: 40 }, (_, i) => i + 1);
  const replies = await Promise.all(numbers.map((number) =>
    client.request("lab.wait", { ms: (number * 7) % 50, number })));
  assert.deepEqual(replies.map(({ number }) => number), numbers);
});

test("who logs in elsewhere ends the first connection, which doesn't come back", async () => {
  const first = join();
  const { uid } = await first.login(newKey(webcrypto));
  const key = newKey(webcrypto);
  const one = join();
  const profile = await one.login(key);
  const told = next(one, "auth.relogin");
  const closing = next(one, "closing");
  const close = next(one, "close");
  const two = join();
  assert.equal((await two.login(key)).uid, profile.uid);
  assert.notEqual(profile.uid, uid);
  await told;
  assert.equal((await closing).reason, "relogin");
  const event = await close;
  assert.deepEqual([event.reason, event.reconnect, one.state], ["relogin", false, "closed"]);
  await sleep(300);
  assert.equal(two.state, "ready");
  assert.equal(first.state, "ready");
});

test("a login that the server doesn't take", async () => {
  const client = join();
  await assert.rejects(client.login("short"), { code: "refused", status: -101 });
  await assert.rejects(client.login({ uname: "nobody", upwd: "nothing" }),
    { code: "refused", status: -101 });
  assert.equal((await client.login()).status, 1);
});

test("a guest becomes an account, logs out, and in again", async () => {
  const client = join();
  const { uid } = await client.login();
  const account = { uname: `ada${uid}`, upwd: "correct horse" };
  assert.deepEqual(await client.request("auth.register", account, { timeout: 20000 }),
    { status: 1 });
  assert.deepEqual(await client.request("auth.logout"), { status: 1 });
  await sleep(50);
  assert.equal((await client.login(account)).uid, uid);
});

test("a service ends a connection, and the program reads why", async () => {
  const client = join();
  await client.login();
  const close = next(client, "close");
  client.send("lab.kick", { reason: "cheating", text: "no flying here" });
  const { reason, text, reconnect } = await close;
  assert.deepEqual({ reason, text, reconnect },
    { reason: "cheating", text: "no flying here", reconnect: false });
});

test("a text message closes with 1003", async () => {
  const { socket, closed } = await raw();
  socket.send("{}");
  assert.equal(await closed, 1003);
});

test("bad packets cost their sender the connection, and nobody else", async () => {
  const bystander = await talker();
  for (const bad of [
    "", "00", "020001000000000001", // no header
    "02000100000000000300", // proto_type 3
    "00000100000000000100" + "0500" + "7b", // hello, cut off
  ]) {
    const { closed, packets, hex } = await raw();
    hex(bad);
    await closed;
    assert.equal(packets.at(-1).command.name, "protocol.closing", bad);
    assert.equal(packets.at(-1).body.reason, "malformed", bad);
  }
  const { socket, packets, hex } = await raw();
  const login = game.encodeRequest("auth.guest_login", JSON_FORM, newKey(webcrypto), 1);
  socket.send(login);
  for (let i = 0; i < 1000 && packets.length < 1; i++) await sleep(10);
  hex("4d000100000000000100" + "0a00" + Buffer.from('{"0":null}').toString("hex")); // stype 77
  hex("10270100000000000200"); // stype 10000
  hex("ffff0100000000000200"); // stype -1
  const errors = () => packets.filter(({ command }) => command.name === "protocol.error");
  for (let i = 0; i < 1000 && errors().length < 3; i++) await sleep(10);
  assert.deepEqual(errors().map(({ body }) => body.code),
    ["unknown_service", "reserved", "reserved"]);
  socket.close();
  assert.deepEqual(await bystander.request("talkroom.send_message", "still here").then(
    ({ status }) => status), 1);
});

test("the connection breaks: what was missed comes, in order and once", async () => {
  for (const form of FORMS) {
    const sockets = [];
    class Socket extends WebSocket {
      constructor(...given) { super(...given); sockets.push(this); }
    }
    const [ada, bob] = [await talker({ form, WebSocket: Socket }), await talker({ form })];
    const heard = [], left = [];
    ada.on("talkroom.user_message", ({ text }) => heard.push(text));
    bob.on("talkroom.user_left", () => left.push("Ada"));
    for (let round = 1; round <= 3; round++) {
      const resumed = next(ada, "resumed");
      sockets.at(-1).terminate();
      await bob.request("talkroom.send_message", `${round}`);
      const { fresh, profile } = await resumed;
      assert.deepEqual([fresh, profile], [false, ada.profile]);
      assert.equal((await ada.request("talkroom.send_message", "here")).status, 1);
    }
    for (let i = 0; i < 1000 && heard.length < 3; i++) await sleep(10);
    assert.deepEqual(heard, ["1", "2", "3"]);
    assert.deepEqual(left, []);
    const leaves = next(bob, "talkroom.user_left");
    ada.close();
    await leaves;
  }
});

test("the server restarts: clients come back, log in again and go on", async () => {
  const client = await talker();
  let entered = null;
  client.on("resumed", ({ fresh }) => {
    assert.equal(fresh, true);
    entered = client.request("talkroom.enter", { uname: "back", usex: 1 });
  });
  const close = next(client, "close");
  const ports = { game: node.game };
  await node.stop();
  const { reason, reconnect } = await close;
  assert.deepEqual([reason, reconnect], ["shutdown", true]);
  const waits = client.request("talkroom.send_message", "said while it was away",
    { timeout: 60000 });
  const resumed = next(client, "resumed", undefined, 60000);
  node = await startNode(CONFIG, ports);
  const { profile } = await resumed;
  assert.equal(profile.status, 1);
  assert.deepEqual(await entered, { status: 1 });
  assert.equal((await waits).status, 1); // behind the entering
});

test("the node is killed: requests are rejected, and clients come back", async () => {
  const client = join();
  await client.login();
  const sent = client.request("lab.wait", { ms: 60000, number: 1 }, { timeout: 60000 });
  const rejected = assert.rejects(sent, { code: "closed", reason: "lost" });
  await client.ping();
  const ports = { game: node.game };
  const close = next(client, "close");
  await node.kill();
  await rejected;
  assert.deepEqual(await close.then(({ reason, reconnect }) => [reason, reconnect]),
    ["lost", true]);
  const { reason } = await next(client, "close"); // and while it is away
  assert.equal(reason, "unreachable");
  const resumed = next(client, "resumed", undefined, 60000);
  node = await startNode(CONFIG, ports);
  assert.equal((await resumed).fresh, true);
  assert.deepEqual(await client.request("lab.wait", { ms: 1, number: 2 }), { number: 2 });
});
