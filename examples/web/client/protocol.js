// What packets are called and what is in them: the JavaScript side of lualib/perilune/protocol.lua.
//
//   const game = declare({
//     messages: { line: "id u32, uname string, text string" },
//     talkroom: {
//       stype: 1,
//       enter: { ctype: 1, request: "uname string, usex i16", reply: "status i16" },
//       user_arrived: { ctype: 3, push: "uid u32, uname string" },
//     },
//   });
//
// Names, numbers and fields are those of the server's service/protocol.lua; `game.hash` is the
// `schema` of its hello when both are the same.

import { FieldError, MAX_BODY, PRIMITIVES, fromJson, list, primitive, read, record, toJson, write }
  from "./codec.js";

export const JSON_FORM = 1; // proto_type of a packet
export const BUF_FORM = 2;
export const HEADER_BYTES = 10;
export const MAX_PACKET = HEADER_BYTES + MAX_BODY;

/** What a reply's `status` says. */
export const status = Object.freeze({
  ok: 1, system_error: -100, invalid_params: -101, invalid_operation: -102,
  illegal_account: -103, in_room: -104, not_in_room: -105, too_fast: -106, busy: -107,
});

const MAX_NUMBER = 9999; // of a stype or ctype
const MAX_DEPTH = 8; // of messages inside each other
const SERVICE_KEYS = new Set(["stype", "service"]);
const COMMAND_KEYS = new Set(["ctype", "login", "request", "reply", "push"]);

const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// ---- fields ----

// "line[][]" -> node
function parseType(text, messages, path, depth) {
  const [, name, brackets] = /^([A-Za-z_]\w*)((?:\[\])*)$/.exec(text) ?? [];
  if (!name) throw new Error(`${path}: "${text}" is no type`);
  let node;
  if (PRIMITIVES.has(name)) {
    node = primitive(name);
  } else {
    if (!messages.has(name)) throw new Error(`${path}: unknown type "${name}"`);
    if (depth > MAX_DEPTH) throw new Error(`${path}: ${name} contains itself`);
    node = parseFields(messages.get(name), messages, path, depth + 1);
  }
  for (let i = 0; i < brackets.length; i += 2) node = list(node);
  return node;
}

// "uname string, usex i16?" -> node of a record; "string" -> node of a bare value
function parseFields(text, messages, path, depth = 1) {
  if (typeof text !== "string") throw new Error(`${path}: fields are a string`);
  const bare = /^\s*([\w[\]]+)\s*$/.exec(text);
  if (bare) return parseType(bare[1], messages, path, depth);
  const fields = [];
  for (const part of text.split(",")) {
    const [, name, type, mark] = /^\s*([A-Za-z_]\w*)\s+([\w[\]]+)(\??)\s*$/.exec(part) ?? [];
    if (!name || name === "__proto__") throw new Error(`${path}: "${part.trim()}" is not "name type"`);
    if (fields.some((field) => field.name === name)) {
      throw new Error(`${path}: two fields are called ${name}`);
    }
    fields.push({ name, node: parseType(type, messages, path, depth), optional: mark === "?" });
  }
  return record(fields);
}

// ---- declarations ----

function checkNumber(number, path, what) {
  if (!Number.isInteger(number) || number < 1 || number > MAX_NUMBER) {
    throw new Error(`${path}: ${what} is an integer from 1 to ${MAX_NUMBER}`);
  }
}

function compileCommand(service, key, declared, messages) {
  const name = `${service.name}.${key}`;
  if (!/^[A-Za-z_]\w*$/.test(key) || key.startsWith("on_")) {
    throw new Error(
      `${name}: a command's name has letters, digits and _, and doesn't begin with on_`);
  }
  if (typeof declared !== "object" || declared === null) {
    throw new Error(`${name}: a command is { ctype, request: fields, reply: fields }`);
  }
  for (const field of Object.keys(declared)) {
    if (!COMMAND_KEYS.has(field)) throw new Error(`${name}: unknown key ${field}`);
  }
  const { ctype, login = false, request, reply, push } = declared;
  checkNumber(ctype, name, "ctype");
  const isPush = push !== undefined;
  if (isPush && (request || reply)) {
    throw new Error(`${name}: what is pushed has neither request nor reply`);
  }
  const command = {
    name, stype: service.stype, ctype, login, isPush, takesNothing: false,
    request: null, reply: null,
  };
  if (request) {
    command.request = parseFields(request, messages, `${name}: request`);
    const { fields } = command.request;
    command.takesNothing = fields?.every((field) => field.optional) ?? false;
  }
  const answer = reply ?? push;
  if (answer) {
    command.reply = parseFields(answer, messages, `${name}: ${reply ? "reply" : "push"}`);
    const { fields } = command.reply;
    // A refusal is its status alone: all other fields may be missing.
    if (reply && fields?.[0]?.name === "status") {
      for (const field of fields.slice(1)) field.optional = true;
    }
  }
  return command;
}

// FNV-1a of what both sides must agree on.
function hashOf(declaration) {
  const lines = [];
  const plain = (text) => text.replace(/\s+/g, " ");
  for (const [name, service] of Object.entries(declaration)) {
    for (const [key, command] of Object.entries(service)) {
      if (name === "messages") {
        lines.push(`${key}=${plain(command)}`);
      } else if (!SERVICE_KEYS.has(key)) {
        const fields = [command.request ?? "", command.reply ?? "", command.push ?? ""].join("|");
        lines.push(`${service.stype}.${command.ctype} ${name}.${key} ${plain(fields)}`);
      }
    }
  }
  let hash = 0x811c9dc5;
  for (const byte of utf8.encode(lines.sort().join("\n"))) {
    hash = Math.imul(hash ^ byte, 0x01000193);
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}

// Messages of stype 0, the protocol itself; always JSON.
const ITSELF = {
  hello: {
    ctype: 1, request: "version u16?, schema string?",
    reply: "version u16, schema string, limits limits, resume string?",
  },
  ping: { ctype: 2 },
  pong: { ctype: 3 },
  resume: {
    ctype: 4, request: "token string?, received u32?", reply: "status i16, token string?",
  },
  closing: { ctype: 5, push: "reason string, text string" },
  error: { ctype: 6, push: "code string, message string, stype i16, ctype i16" },
  udp: {
    ctype: 7, reply: "status i16, port u16, ticket string, secret string, expires_ms u32",
  },
};
const LIMITS = "frame_bytes u32, packets_per_second u32, burst u32, login_ms u32, ping_ms u32";

/** Compiles a declaration. Throws for one that is wrong, saying where. */
export function declare(declaration) {
  return new Protocol(declaration);
}

// ---- packets ----

/** A packet that can't be read. */
export class PacketError extends Error {
  constructor(code, message, command = null, requestId = null) {
    super(message);
    this.name = "PacketError";
    this.code = code; // "malformed", "unknown_command"
    this.command = command; // of the packet, when that is known
    this.requestId = requestId;
  }
}

/** The numbers at the start of a packet. Throws for bytes that are no packet. */
export function header(data) {
  if (data.length < HEADER_BYTES) {
    throw new PacketError("malformed", "packet is shorter than its header");
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return {
    stype: view.getInt16(0, true), ctype: view.getInt16(2, true), utag: view.getUint32(4, true),
    form: view.getInt16(8, true),
  };
}

function makePacket({ stype, ctype }, form, body) {
  const data = new Uint8Array(HEADER_BYTES + body.length);
  const view = new DataView(data.buffer);
  view.setInt16(0, stype, true);
  view.setInt16(2, ctype, true);
  view.setInt16(8, form, true); // between them utag, which is 0 from and to a client
  data.set(body, HEADER_BYTES);
  return data;
}

// Real numbers beyond 2^53 get an exponent: digits alone are an integer, which servers refuse there.
function stringify(value) {
  return JSON.stringify(value).replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]{15,}/g, (token) =>
    /[".e]/.test(token) || Math.abs(token) <= 2 ** 53 ? token : Number(token).toExponential());
}

function wrapJson(value, requestId) {
  const id = requestId ? `,"1":${requestId}` : "";
  const text = utf8.encode(`{"0":${stringify(value)}${id}}`);
  if (text.length + 2 > MAX_BODY) throw new FieldError(`makes the body larger than ${MAX_BODY} bytes`);
  const body = new Uint8Array(2 + text.length);
  new DataView(body.buffer).setUint16(0, text.length, true);
  body.set(text, 2);
  return body;
}

function unwrapJson(body) {
  const malformed = (why) => new PacketError("malformed", `JSON body ${why}`);
  if (body.length < 2) throw malformed("is cut off");
  const size = new DataView(body.buffer, body.byteOffset).getUint16(0, true);
  if (body.length - 2 < size) throw malformed("is cut off");
  if (body.length - 2 > size) throw malformed("is longer than it says");
  let content;
  try {
    content = JSON.parse(strictUtf8.decode(body.subarray(2)));
  } catch (error) {
    throw malformed(`can't be read: ${error.message}`);
  }
  if (typeof content !== "object" || content === null) throw malformed("is no object");
  const id = content["1"] ?? null;
  if (id !== null && !(Number.isSafeInteger(id) && id >= 1)) {
    throw malformed("has a request_id that is no positive integer");
  }
  return { value: content["0"] ?? null, requestId: id };
}

export class Protocol {
  #byName = new Map();
  #byNumber = new Map(); // "stype.ctype" -> command

  constructor(declaration) {
    const messages = new Map([["limits", LIMITS]]);
    for (const [name, fields] of Object.entries(declaration.messages ?? {})) {
      if (PRIMITIVES.has(name) || name === "limits") {
        throw new Error(`message ${name}: the name is taken`);
      }
      messages.set(name, fields);
    }
    const stypes = new Set();
    this.#add("protocol", { ...ITSELF, stype: 0 }, messages);
    for (const [name, service] of Object.entries(declaration)) {
      if (name === "messages") continue;
      if (typeof service !== "object" || service === null) {
        throw new Error(`${name}: a service is an object`);
      }
      checkNumber(service.stype, name, "stype");
      if (stypes.has(service.stype) || name === "protocol") {
        throw new Error(`${name}: the number ${service.stype} or its name is taken`);
      }
      stypes.add(service.stype);
      this.#add(name, service, messages);
    }
    this.hash = hashOf(declaration);
  }

  #add(name, declared, messages) {
    for (const [key, fields] of Object.entries(declared)) {
      if (SERVICE_KEYS.has(key)) continue;
      const command = compileCommand({ name, stype: declared.stype }, key, fields, messages);
      const number = `${command.stype}.${command.ctype}`;
      const other = this.#byNumber.get(number);
      if (other) {
        throw new Error(`${command.name}: ${other.name} has the number ${command.ctype} already`);
      }
      this.#byNumber.set(number, command);
      this.#byName.set(command.name, command);
    }
  }

  /** The command of a name, or null. */
  find(name) { return this.#byName.get(name) ?? null; }

  /** The command of two numbers, or null. */
  byNumber(stype, ctype) { return this.#byNumber.get(`${stype}.${ctype}`) ?? null; }

  /** A packet to a server. Throws, naming the field, for a body that doesn't fit. */
  encodeRequest(name, form, body, requestId) {
    return this.#encode("request", name, form, body, requestId);
  }

  /** A packet to a client: a reply, or what is pushed. */
  encodeReply(name, form, body, requestId) {
    return this.#encode("reply", name, form, body, requestId);
  }

  /** Reads a packet from a client: { command, body, requestId, form }. Throws a PacketError. */
  decodeRequest(data) { return this.#decode("request", data); }

  /** Reads a packet from a server. */
  decodeReply(data) { return this.#decode("reply", data); }

  #encode(side, name, form, body, requestId) {
    const command = this.find(name);
    if (!command) throw new Error(`the protocol has no "${name}"`);
    const node = command[side];
    let value = body ?? null;
    if (!node && value !== null) throw new Error(`${name} declares no ${side}`);
    if (value === null && side === "request" && command.takesNothing) value = {};
    try {
      const bytes = form === BUF_FORM
        ? node ? write(node, value) : new Uint8Array(0)
        : wrapJson(node ? toJson(node, value) : null, requestId);
      return makePacket(command, form, bytes);
    } catch (error) {
      throw error instanceof FieldError ? error.titled(name) : error;
    }
  }

  #decode(side, data) {
    const { stype, ctype, form } = header(data);
    const bytes = data.subarray(HEADER_BYTES);
    if (form !== JSON_FORM && form !== BUF_FORM) {
      throw new PacketError("malformed", `proto_type ${form} is neither JSON nor BUF`);
    }
    const command = this.byNumber(stype, ctype);
    if (!command) {
      throw new PacketError("unknown_command", `there is no command ${ctype} of service ${stype}`);
    }
    let requestId = null;
    try {
      const node = command[side];
      if (form === BUF_FORM) {
        if (!node && bytes.length > 0) throw new FieldError("is not empty");
        return { command, body: node ? read(node, bytes) : null, requestId, form };
      }
      const content = unwrapJson(bytes);
      requestId = content.requestId;
      const value = content.value === null && side === "request" && command.takesNothing
        ? {} : content.value;
      return { command, body: node ? fromJson(node, value) : null, requestId, form };
    } catch (error) {
      const message = error instanceof FieldError ? error.titled(command.name).message
        : error.message;
      throw new PacketError("malformed", message, command, requestId);
    }
  }
}
