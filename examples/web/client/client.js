// A client of the gateway over WebSocket.
//
// DESIGN
// One Client outlives many sockets. Its state says what may be sent:
//
//   connecting  a socket is being opened, or hello is not answered yet
//   open        connected; not logged in, or logging in
//   ready       logged in
//   waiting     between two sockets: the next one is tried after a pause
//   closed      for good
//
// What can't be sent yet waits in a queue. What was sent when a socket breaks is rejected as
// "closed": nobody knows whether the server has done it, so it is not sent twice.
//
// Replies carry the request_id in JSON. BUF has none, so a reply there belongs to the oldest
// request of its command. A BUF request that timed out keeps its place, so that its late reply
// isn't taken for the next one's; until it comes, the command's requests go as JSON, by id.
//
// A handler of a socket or a timer does nothing once its socket isn't `#socket` any more.

import { newKey } from "./key.js";
import { BUF_FORM, JSON_FORM, MAX_PACKET, PacketError, Protocol, declare, status }
  from "./protocol.js";
import { services } from "./services.js";

const VERSION = 1;
const FIRST_PAUSE_MS = 200; // half of it at least
const LAST_PAUSE_MS = 5000;

const DEFAULTS = {
  form: "json",
  timeout: 5000, // of a request
  loginTimeout: 15000, // of login(), reconnections included
  connectTimeout: 10000, // of a socket, and of each step until it is ready
  pingInterval: 20000, // silence after which the server is pinged
  pongTimeout: 10000, // silence after that, then the connection counts as lost
  queue: 64, // packets that wait for a connection; below the gateway's burst of 100
  requests: 1024, // that wait for their replies
  buffered: 1024 * 1024, // bytes that the socket has not sent yet
  attempts: Infinity, // to connect, in a row
  hello: true,
  reconnect: true,
};

// Why a connection ended, where trying again makes sense. After "relogin" it would not: two
// clients of one player would end each other's sessions for ever.
const TRANSIENT = new Set([
  "lost", "unreachable", "timeout", "silent", "unavailable", "shutdown", "full", "idle",
  "login_timeout",
]);
// The server doesn't take what this client sends.
const REFUSED_BY_SOCKET = new Set([1002, 1003, 1007, 1008, 1009, 1010]);
const BUSY_CODES = new Set(["service_unavailable", "busy", "too_fast", "timeout"]);
const BUSY_STATUSES = new Set([status.system_error, status.too_fast, status.busy]);

/**
 * Why something failed. `code`: "timeout", "closed", "overloaded", "too_large", "refused" (a login;
 * `status` says more), "malformed" (the reply), "invalid" (not now), or what the server's error
 * said: "not_logged_in", "too_fast", "service_unavailable", ...
 */
export class PeriluneError extends Error {
  constructor(code, message, details = {}) {
    super(message);
    this.name = "PeriluneError";
    this.code = code;
    Object.assign(this, details);
  }
}

// Reports what a listener threw as the platform does, without disturbing the connection.
function report(error) {
  if (typeof globalThis.reportError === "function") return globalThis.reportError(error);
  return queueMicrotask(() => { throw error; });
}

const now = () => performance.now();

// What auth is asked: { key } or { uname, upwd }.
function loginRequest(credentials) {
  if (credentials.key !== undefined) return ["auth.guest_login", credentials.key];
  return ["auth.account_login", { uname: credentials.uname, upwd: credentials.upwd }];
}

class Client {
  #options;
  #WebSocket;
  #protocol;
  #listeners = new Map(); // event -> set of functions
  #state = "connecting";
  #socket = null;
  #isOpen = false; // the socket is
  #closing = null; // { reason, text } that the server, or we, gave
  #attempt = 0; // to connect, since it last was ready
  #timer = null; // of the step that runs: connecting, or the pause between two sockets
  #lifeTimer = null;
  #heardAt = 0;
  #isPinged = false;
  #waiting = new Map(); // number -> request, in the order of sending
  #alive = 0; // of these, without those that timed out
  #queue = []; // requests and packets that aren't sent
  #lastNumber = 0;
  #credentials = null; // of the player who is, or was, logged in
  #login = null; // login() that waits: { credentials, resolve, reject, timer }
  #token = null; // to resume with
  #numbered = 0; // packets that the server numbers, since its token came
  #resumedAt = 0; // the same before this connection
  #hello = null;
  #profile = null;
  #closed = null;

  constructor(url, options) {
    this.url = String(url);
    for (const [name, value] of Object.entries(DEFAULTS)) {
      if (options[name] === undefined) options[name] = value;
    }
    if (options.form !== "json" && options.form !== "buf") {
      throw new TypeError(`form: "json" or "buf" expected, got ${options.form}`);
    }
    this.#options = options;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (typeof this.#WebSocket !== "function") {
      throw new TypeError("there is no WebSocket here: pass { WebSocket }, such as that of `ws`");
    }
    const given = options.protocol ?? services;
    this.#protocol = given instanceof Protocol ? given : declare(given);
    this.#dial();
  }

  get state() { return this.#state; }
  get hello() { return this.#hello; }
  get profile() { return this.#profile; }
  get key() { return (this.#login?.credentials ?? this.#credentials)?.key ?? null; }
  get closed() { return this.#closed; }
  get protocol() { return this.#protocol; }

  // ---- events ----

  on(event, listener) {
    if (typeof listener !== "function") throw new TypeError("a listener is a function");
    let listeners = this.#listeners.get(event);
    if (!listeners) this.#listeners.set(event, listeners = new Set());
    listeners.add(listener);
    return () => this.off(event, listener);
  }

  once(event, listener) {
    const off = this.on(event, (...values) => {
      off();
      listener(...values);
    });
    return off;
  }

  off(event, listener) {
    const listeners = this.#listeners.get(event);
    listeners?.delete(listener);
    if (listeners?.size === 0) this.#listeners.delete(event);
  }

  #emit(event, ...values) {
    for (const listener of [...this.#listeners.get(event) ?? []]) {
      try {
        listener(...values);
      } catch (error) {
        report(error);
      }
    }
  }

  // ---- what a program asks for ----

  login(credentials = {}) {
    const given = typeof credentials === "string" ? { key: credentials } : { ...credentials };
    if (given.key === undefined && given.uname === undefined) {
      given.key = newKey(this.#options.crypto);
    }
    if (this.#state === "closed") return Promise.reject(this.#closedError());
    if (this.#login || this.#credentials) {
      return Promise.reject(new PeriluneError("invalid", "logged in, or logging in, already"));
    }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#endLogin()?.reject(new PeriluneError("timeout", "no login in time"));
        this.#flush();
      }, this.#options.loginTimeout);
      this.#login = { credentials: given, resolve, reject, timer };
      if (this.#state === "open") this.#authenticate(this.#socket);
    });
  }

  request(name, body, options = {}) {
    return new Promise((resolve, reject) => {
      const form = options.form ?? this.#options.form;
      this.#start(name, body, { form, timeout: options.timeout, resolve, reject });
    });
  }

  send(name, body, options = {}) {
    const isBuf = (options.form ?? this.#options.form) === "buf" && !name.startsWith("protocol.");
    const data = this.#protocol.encodeRequest(name, isBuf ? BUF_FORM : JSON_FORM, body);
    if (this.#state === "closed" || data.length > this.#maxPacket()) return false;
    return this.#post({ command: this.#protocol.find(name), data });
  }

  async ping(options) {
    const begin = now();
    await this.request("protocol.ping", null, options);
    return now() - begin;
  }

  close() {
    if (this.#state === "closed") return;
    // Else the server would keep the player for a while, who might come back.
    if (this.#state === "ready" && this.#token !== null
        && this.#protocol.find("auth.logout")) {
      this.#answer("auth.logout");
    }
    this.#closing = { reason: "closed", text: "closed by this side" };
    this.#finishSocket(1000, "", false);
  }

  // ---- requests ----

  #maxPacket() { return this.#hello?.limits.frame_bytes ?? MAX_PACKET; }

  #closedError() {
    const { reason, text } = this.#closed ?? this.#closing ?? { reason: "closed", text: "closed" };
    return new PeriluneError("closed", `the connection is closed: ${text || reason}`, { reason });
  }

  // True while a late reply of this command, without a request_id, may come.
  #isUncertain(name) {
    for (const waiting of this.#waiting.values()) {
      if (waiting.isDead && waiting.command.name === name) return true;
    }
    return false;
  }

  #start(name, body, { form, timeout = this.#options.timeout, isOwn = false, resolve, reject }) {
    if (this.#state === "closed") return reject(this.#closedError());
    if (!isOwn && this.#alive >= this.#options.requests) {
      return reject(new PeriluneError("overloaded", "too many requests wait for replies"));
    }
    const isBuf = form === "buf" && !name.startsWith("protocol.") && !this.#isUncertain(name);
    const number = ++this.#lastNumber;
    let data;
    try {
      data = this.#protocol.encodeRequest(name, isBuf ? BUF_FORM : JSON_FORM, body, number);
    } catch (error) {
      return reject(error);
    }
    if (data.length > this.#maxPacket()) {
      return reject(new PeriluneError("too_large",
        `${name} makes ${data.length} bytes, ${this.#maxPacket()} at most`));
    }
    const command = this.#protocol.find(name);
    const request = {
      number, command, data, body, form: isBuf ? BUF_FORM : JSON_FORM, isSent: false,
      isDead: false, resolve, reject, timer: null,
    };
    this.#waiting.set(number, request);
    this.#alive++;
    request.timer = setTimeout(() => this.#expire(request), timeout);
    if (!this.#post(request)) {
      this.#take(request);
      reject(new PeriluneError("overloaded", "too much waits to be sent"));
    }
    return undefined;
  }

  #expire(request) {
    const { command, reject } = request;
    if (request.isSent && request.form === BUF_FORM) {
      this.#abandon(request);
    } else {
      this.#take(request);
    }
    reject(new PeriluneError("timeout", `${command.name}: no reply in time`));
  }

  // Nobody waits for it, but its reply may come.
  #abandon(request) {
    clearTimeout(request.timer);
    request.isDead = true;
    this.#alive--;
  }

  // It doesn't wait any more.
  #take(request) {
    clearTimeout(request.timer);
    this.#waiting.delete(request.number);
    if (!request.isDead) this.#alive--;
    if (!request.isSent) this.#queue = this.#queue.filter((entry) => entry !== request);
    return request;
  }

  // The request that a packet answers, which doesn't wait any more; null when there is none.
  #takeAnswered(requestId, command, form) {
    if (requestId !== null) {
      const request = this.#waiting.get(requestId);
      return request?.isSent && request.form === JSON_FORM ? this.#take(request) : null;
    }
    for (const request of this.#waiting.values()) {
      if (request.isSent && request.command === command && request.form === form) {
        return this.#take(request);
      }
    }
    return null;
  }

  // ---- what goes out ----

  #maySend(command) {
    if (!this.#isOpen) return false;
    if (command.stype === 0 || command.login) return true;
    return this.#state === "ready" || (this.#state === "open" && !this.#isLoggingIn());
  }

  #isLoggingIn() { return this.#login !== null || this.#credentials !== null; }

  // Sends an entry, or puts it into the queue. False when there is no room.
  #post(entry) {
    if (this.#maySend(entry.command)) return this.#write(entry);
    if (this.#queue.length >= this.#options.queue) return false;
    this.#queue.push(entry);
    return true;
  }

  #write(entry) {
    if (this.#socket.bufferedAmount > this.#options.buffered) return false;
    this.#socket.send(entry.data);
    entry.isSent = true;
    return true;
  }

  #flush() {
    const entries = this.#queue;
    this.#queue = [];
    for (const entry of entries) {
      if (!this.#post(entry) && entry.reject) {
        this.#take(entry);
        entry.reject(new PeriluneError("overloaded", "too much waits to be sent"));
      }
    }
  }

  // ---- sockets ----

  #dial() {
    this.#state = "connecting";
    this.#closing = null;
    const socket = new this.#WebSocket(this.url);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    const ifCurrent = (f) => (event) => { if (this.#socket === socket) f(event); };
    socket.onopen = ifCurrent(() => this.#opened(socket));
    socket.onmessage = ifCurrent((event) => this.#received(event.data));
    socket.onclose = ifCurrent((event) => this.#finishSocket(event.code, event.reason, true));
    // onclose follows; some WebSockets forget it when they can't connect.
    socket.onerror = () => setTimeout(ifCurrent(() => {
      if (!this.#isOpen || socket.readyState === 3) this.#finishSocket(1006, "", true);
    }));
    this.#timer = setTimeout(() => this.#drop("timeout", "not connected in time"),
      this.#options.connectTimeout);
  }

  #drop(reason, text, code = 1000) {
    this.#closing ??= { reason, text };
    this.#finishSocket(code, text, true);
  }

  // The socket has ended, or is ended here without waiting for the other side: one that is gone
  // would never answer.
  #finishSocket(code, text, mayReconnect) {
    const socket = this.#socket;
    const wasOpen = this.#isOpen;
    this.#socket = null;
    this.#isOpen = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#lifeTimer);
    if (socket && socket.readyState < 2) {
      socket.close(code === 1003 ? 4003 : 1000); // programs may give 1000 and 3000 to 4999
    }
    this.#closing ??= {
      reason: !wasOpen ? "unreachable" : REFUSED_BY_SOCKET.has(code) ? "malformed" : "lost",
      text: text || (wasOpen ? `the connection was lost (${code})` : `no connection to ${this.url}`),
    };
    const { reason } = this.#closing;
    const again = mayReconnect && this.#attempt < this.#options.attempts
      && this.#wantsReconnect(reason);
    this.#state = again ? "waiting" : "closed";
    if (!again) this.#closed = this.#closing;
    const error = this.#closedError();
    for (const request of [...this.#waiting.values()]) {
      if (again && request.isSent && request.form === BUF_FORM && this.#token !== null) {
        // Its reply, which has no number, may still come when the session is resumed.
        if (!request.isDead) this.#abandon(request);
        request.reject(error);
      } else if (!again || request.isSent) {
        this.#take(request).reject(error);
      }
    }
    if (!again) {
      this.#queue = [];
      this.#endLogin()?.reject(error);
      this.#profile = null;
    }
    this.#emit("close", { ...this.#closing, code, reconnect: again });
    if (again && this.#state === "waiting") this.#pause();
  }

  #wantsReconnect(reason) {
    const { reconnect } = this.#options;
    if (typeof reconnect === "function") return Boolean(reconnect(reason));
    return reconnect && TRANSIENT.has(reason);
  }

  #pause() {
    const full = Math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(this.#attempt, 10));
    const delay = Math.round(full / 2 + Math.random() * full / 2);
    this.#attempt++;
    this.#timer = setTimeout(() => this.#dial(), delay);
    this.#emit("reconnecting", { attempt: this.#attempt, delay });
  }

  // ---- becoming ready ----

  #opened(socket) {
    clearTimeout(this.#timer);
    this.#isOpen = true;
    this.#heardAt = now();
    this.#isPinged = false;
    this.#watch(this.#options.pingInterval);
    this.#emit("open");
    if (this.#socket === socket) this.#greet(socket);
  }

  // A request of this client's own, which the program's limits don't count.
  #ask(name, body) {
    const timeout = this.#options.connectTimeout;
    return new Promise((resolve, reject) => {
      this.#start(name, body, { form: "json", timeout, isOwn: true, resolve, reject });
    });
  }

  async #greet(socket) {
    const token = this.#token; // of the connection before
    this.#resumedAt = this.#numbered;
    if (this.#options.hello) {
      try {
        await this.#ask("protocol.hello", { version: VERSION, schema: this.#protocol.hash });
      } catch (error) {
        if (this.#socket !== socket) return;
        if (error.code === "timeout") return this.#drop("timeout", error.message);
        // A server that doesn't know hello is one without limits to tell.
      }
      if (this.#socket !== socket) return;
    }
    this.#state = "open";
    if (this.#isLoggingIn()) return this.#authenticate(socket, token);
    this.#attempt = 0;
    this.#flush();
  }

  async #authenticate(socket, token = null) {
    const login = this.#login;
    const isAgain = login === null;
    const credentials = login?.credentials ?? this.#credentials;
    let profile = null;
    let isFresh = true;
    try {
      if (isAgain && token !== null && await this.#resume(socket, token)) {
        profile = this.#profile;
        isFresh = false;
      }
      if (this.#socket !== socket) return;
      if (isFresh) this.#forgetAbandoned();
      profile ??= await this.#askLogin(credentials);
    } catch (error) {
      if (this.#socket === socket) this.#loginFailed(error, login);
      return; // else the next connection tries again
    }
    if (this.#socket !== socket) return;
    if (this.#login !== login) return this.#drop("timeout", "the login came too late");
    this.#endLogin();
    this.#credentials = credentials;
    this.#profile = profile;
    this.#state = "ready";
    this.#attempt = 0;
    login?.resolve(profile);
    // Listeners first: what they send, such as entering a room, precedes what has waited.
    if (isAgain) this.#emit("resumed", { profile, fresh: isFresh });
    if (this.#socket === socket) this.#flush();
  }

  #forgetAbandoned() {
    for (const request of [...this.#waiting.values()]) {
      if (request.isDead) this.#take(request);
    }
  }

  async #resume(socket, token) {
    try {
      const reply = await this.#ask("protocol.resume", { token, received: this.#resumedAt });
      return reply.status === status.ok;
    } catch (error) {
      if (this.#socket !== socket) throw error;
      return false; // "expired": log in
    }
  }

  async #askLogin(credentials) {
    const [name, body] = loginRequest(credentials);
    const reply = await this.#ask(name, body);
    if (reply.status !== status.ok) {
      throw new PeriluneError("refused", `the login was refused: ${reply.status}`,
        { status: reply.status });
    }
    return reply;
  }

  // `login`: what login() waits for, null when it is a login again.
  #loginFailed(error, login) {
    if (this.#login !== login) return; // it gave up
    if (login) {
      this.#endLogin().reject(error);
      return this.#flush();
    }
    const isBusy = BUSY_CODES.has(error.code) || BUSY_STATUSES.has(error.status);
    if (isBusy) return this.#drop("unavailable", error.message);
    return this.#drop("refused", error.message);
  }

  #endLogin() {
    const login = this.#login;
    this.#login = null;
    clearTimeout(login?.timer);
    return login;
  }

  // ---- life ----

  #watch(delay) {
    clearTimeout(this.#lifeTimer);
    this.#lifeTimer = setTimeout(() => this.#checkLife(), delay);
  }

  #checkLife() {
    const { pingInterval, pongTimeout } = this.#options;
    const left = pingInterval - (now() - this.#heardAt);
    if (left > 0) return this.#watch(left);
    if (this.#isPinged) return this.#drop("silent", "nothing heard from the server");
    this.#isPinged = true;
    this.#answer("protocol.ping");
    return this.#watch(pongTimeout);
  }

  #answer(name) {
    const command = this.#protocol.find(name);
    this.#write({ command, data: this.#protocol.encodeRequest(name, JSON_FORM, null) });
  }

  // ---- what comes in ----

  #received(data) {
    if (typeof data === "string") {
      return this.#drop("malformed", "the server sent a text message", 1003);
    }
    this.#heardAt = now();
    this.#isPinged = false;
    let packet;
    const bytes = new Uint8Array(data);
    if (isNumbered(bytes)) this.#numbered++;
    try {
      packet = this.#protocol.decodeReply(bytes);
    } catch (error) {
      return this.#unreadable(error);
    }
    const handler = HANDLERS[packet.command.name];
    if (handler) return this.#handle(handler, packet);
    const { command, body, requestId, form } = packet;
    if (command.isPush) {
      this.#emit(command.name, body);
      return this.#emit("push", command.name, body);
    }
    return this.#reply(requestId, command, form, body);
  }

  #unreadable(error) {
    if (!(error instanceof PacketError)) throw error;
    const { code, message, command, requestId } = error;
    const request = command && this.#takeAnswered(requestId, command, requestId ? 0 : BUF_FORM);
    if (request && !request.isDead) request.reject(new PeriluneError("malformed", message));
    this.#emit("malformed", { code, message });
  }

  #reply(requestId, command, form, body) {
    const request = this.#takeAnswered(requestId, command, form);
    if (!request || request.isDead) return; // it came too late
    this.#follow(request, body);
    request.resolve(body);
  }

  // What a reply changes: who will log in again.
  #follow({ command, body: asked }, body) {
    if (body?.status !== status.ok) return;
    if (command.name === "auth.register") {
      this.#credentials = { uname: asked.uname, upwd: asked.upwd };
    } else if (command.name === "auth.logout") {
      this.#credentials = this.#profile = this.#token = null;
      this.#state = "open";
    }
  }

  #handle(kind, { command, body, requestId, form }) {
    switch (kind) {
      case "hello":
        this.#hello = body;
        this.#token = body.resume || null;
        this.#numbered = 0;
        this.#emit("hello", body);
        return this.#reply(requestId, command, form, body);
      case "resume": // what was missed may follow before the request's promise goes on
        if (body?.status === status.ok) {
          this.#token = body.token || this.#token;
          this.#numbered = this.#resumedAt;
        }
        return this.#reply(requestId, command, form, body);
      case "ping": return this.#answer("protocol.pong");
      case "pong": return this.#reply(requestId, command, form, null);
      case "closing":
        this.#closing = body;
        return this.#emit("closing", body);
      default: return this.#failed(requestId, body);
    }
  }

  // The server refuses a request.
  #failed(requestId, body) {
    const named = this.#protocol.byNumber(body.stype, body.ctype);
    let request = requestId !== null || named
      ? this.#takeAnswered(requestId, named, BUF_FORM) : null;
    if (!request && requestId === null && body.stype === 0 && body.ctype === 0) {
      // The service that was asked for a login has died.
      for (const waiting of this.#waiting.values()) {
        if (waiting.isSent && waiting.command.login) request = this.#take(waiting);
      }
    }
    if (request?.isDead) return;
    if (request) {
      request.reject(new PeriluneError(body.code, body.message, { command: request.command.name }));
    } else {
      this.#emit("error", {
        code: body.code, message: body.message, command: named?.name ?? null,
      });
    }
  }
}

// The server counts all packets but those of the protocol itself, of which it counts errors.
const isNumbered = (bytes) =>
  bytes.length >= 4 && (bytes[0] !== 0 || bytes[1] !== 0 || (bytes[2] === 6 && bytes[3] === 0));

// Packets of the protocol itself that are no plain replies.
const HANDLERS = {
  "protocol.hello": "hello",
  "protocol.ping": "ping",
  "protocol.pong": "pong",
  "protocol.resume": "resume",
  "protocol.closing": "closing",
  "protocol.error": "error",
};

/** Connects to a gateway's WebSocket. Returns at once; requests wait for the connection. */
export function connect(url, options = {}) {
  return new Client(url, { ...options });
}
