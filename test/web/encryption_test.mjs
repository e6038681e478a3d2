// The encryption for TCP clients, by a client that was written from docs/protocol.md alone, with
// Node's own cryptography: it logs in at a gateway and chats.
import assert from "node:assert/strict";
import {
  createCipheriv, createDecipheriv, createPublicKey, diffieHellman, generateKeyPairSync, hkdfSync,
  timingSafeEqual,
} from "node:crypto";
import { connect as connectTcp } from "node:net";
import { after, test } from "node:test";
import { BUF_FORM, JSON_FORM, declare, newKey, services }
  from "../../examples/web/client/index.js";
import { sleep, startNode, stopNodes } from "./node.mjs";

const MAGIC = Buffer.from([0x50, 0x4c, 0x45, 0x01]);
const MAX_TEXT = 4096;
const protocol = declare(services);

after(stopNodes);

function frame(...parts) {
  const body = Buffer.concat(parts);
  const head = Buffer.alloc(2);
  head.writeUInt16LE(body.length + 2);
  return Buffer.concat([head, body]);
}

const rawKey = (key) => Buffer.from(key.export({ format: "jwk" }).x, "base64url");
const keyOf = (raw) => createPublicKey({
  format: "jwk", key: { kty: "OKP", crv: "X25519", x: Buffer.from(raw).toString("base64url") },
});

// Cuts frames out of a socket's bytes.
class Frames {
  constructor(socket) {
    this.bytes = Buffer.alloc(0);
    this.ended = false;
    this.wake = () => {};
    socket.on("data", (data) => { this.bytes = Buffer.concat([this.bytes, data]); this.wake(); });
    socket.on("close", () => { this.ended = true; this.wake(); });
    socket.on("error", () => {});
  }
  // A frame with its length, or null at the end.
  async next() {
    for (;;) {
      if (this.bytes.length >= 2 && this.bytes.length >= this.bytes.readUInt16LE()) {
        const size = this.bytes.readUInt16LE();
        const whole = this.bytes.subarray(0, size);
        this.bytes = this.bytes.subarray(size);
        return whole;
      }
      if (this.ended) return null;
      await new Promise((resolve) => { this.wake = resolve; });
    }
  }
}

class EncryptedClient {
  constructor(port) {
    this.socket = connectTcp(port, "127.0.0.1");
    this.records = new Frames(this.socket);
    this.sealed = 0n;
    this.opened = 0n;
    this.text = Buffer.alloc(0);
  }

  async shakeHands(wantedKey) {
    const { privateKey, publicKey } = generateKeyPairSync("x25519");
    const hello = frame(MAGIC, rawKey(publicKey));
    this.socket.write(hello);
    const answer = await this.records.next();
    assert.equal(answer.length, 102);
    assert.deepEqual(answer.subarray(2, 6), MAGIC);
    const [theirs, own, proof] = [6, 38, 70].map((at) => answer.subarray(at, at + 32));
    if (wantedKey !== undefined) assert.equal(own.toString("hex"), wantedKey);
    const secrets = [diffieHellman({ privateKey, publicKey: keyOf(theirs) })];
    if (own.some((byte) => byte !== 0)) {
      secrets.push(diffieHellman({ privateKey, publicKey: keyOf(own) }));
    }
    const salt = Buffer.concat([hello, answer.subarray(0, 70)]);
    const keys = Buffer.from(
      hkdfSync("sha256", Buffer.concat(secrets), salt, "perilune encryption 1", 96));
    assert.ok(timingSafeEqual(keys.subarray(64), proof));
    this.clientKey = keys.subarray(0, 32);
    this.serverKey = keys.subarray(32, 64);
  }

  static nonce(number) {
    const nonce = Buffer.alloc(12);
    nonce.writeBigUInt64LE(number, 4);
    return nonce;
  }

  seal(text) {
    const head = Buffer.alloc(2);
    head.writeUInt16LE(2 + text.length + 16);
    const cipher = createCipheriv("chacha20-poly1305", this.clientKey,
      EncryptedClient.nonce(this.sealed++), { authTagLength: 16 });
    cipher.setAAD(head);
    const body = Buffer.concat([cipher.update(text), cipher.final()]);
    return Buffer.concat([head, body, cipher.getAuthTag()]);
  }

  open(record) {
    const cipher = createDecipheriv("chacha20-poly1305", this.serverKey,
      EncryptedClient.nonce(this.opened++), { authTagLength: 16 });
    cipher.setAAD(record.subarray(0, 2));
    cipher.setAuthTag(record.subarray(-16));
    return Buffer.concat([cipher.update(record.subarray(2, -16)), cipher.final()]);
  }

  send(name, form, body, requestId, pieces = MAX_TEXT) {
    const bytes = frame(Buffer.from(protocol.encodeRequest(name, form, body, requestId)));
    for (let at = 0; at < bytes.length; at += pieces) {
      this.socket.write(this.seal(bytes.subarray(at, at + pieces)));
    }
  }

  async receive() {
    while (this.text.length < 2 || this.text.length < this.text.readUInt16LE()) {
      const record = await this.records.next();
      if (record === null) return null;
      this.text = Buffer.concat([this.text, this.open(record)]);
    }
    const packet = this.text.subarray(2, this.text.readUInt16LE());
    this.text = this.text.subarray(packet.length + 2);
    return protocol.decodeReply(new Uint8Array(packet));
  }

  // The body of the next packet of this name.
  async expect(name) {
    for (;;) {
      const packet = await this.receive();
      assert.ok(packet, `${name} was to come`);
      if (packet.command.name === name) return packet.body;
    }
  }
}

// What the node logs.
const ENCRYPTED = /tcp with encryption, server key ([0-9a-f]{64}), at [\d.]+:(\d+)/;

test("a client of docs/protocol.md logs in and chats, encrypted", async () => {
  const node = await startNode("test/web/game/config.lua");
  while (!ENCRYPTED.test(node.log())) await sleep(5);
  const [, key, port] = ENCRYPTED.exec(node.log());
  const ada = new EncryptedClient(Number(port));
  await ada.shakeHands(key);
  const bob = new EncryptedClient(Number(port));
  await bob.shakeHands();
  for (const [client, form, uname] of [[ada, JSON_FORM, "Ada"], [bob, BUF_FORM, "Bob"]]) {
    client.send("auth.guest_login", form, newKey(), undefined, uname === "Ada" ? 7 : MAX_TEXT);
    assert.equal((await client.expect("auth.guest_login")).status, 1);
    client.send("talkroom.enter", form, { uname, usex: 1 });
    assert.equal((await client.expect("talkroom.enter")).status, 1);
  }
  for (let i = 0; i < 20; i++) {
    const text = `line ${i} ${"x".repeat(i * 10)}`;
    ada.send("talkroom.send_message", JSON_FORM, text, i + 1);
    assert.equal((await bob.expect("talkroom.user_message")).text, text);
    assert.equal((await ada.expect("talkroom.send_message")).status, 1);
  }
  // A record that was changed ends that connection alone.
  const record = ada.seal(frame(Buffer.from(protocol.encodeRequest("protocol.ping", JSON_FORM))));
  record[5] ^= 1;
  ada.socket.write(record);
  assert.equal(await ada.receive(), null);
  bob.send("protocol.ping", JSON_FORM);
  await bob.expect("protocol.pong");
  bob.socket.destroy();
  await node.stop();
});
