// Bodies of packets: what lualib/perilune/packet does for services, byte for byte.
//
// DESIGN
// Fields are compiled once into a tree of nodes { type, minSize, item, fields }. Four walkers
// follow the tree: `write` appends BUF bytes, `toJson` and `fromJson` turn a value into what JSON
// holds and back, `read` takes BUF bytes apart. What doesn't fit throws a FieldError that names
// the field. Integers of 64 bits are numbers up to 2^53 and BigInts beyond.

const MAX_EXACT = 2 ** 53;
const MAX_LIST = 65535;
const MAX_STRING = 65535;
export const MAX_BODY = 65523;

// Range and bytes of the integers below 64 bits.
const SMALL = {
  i8: [-128, 127, 1], i16: [-32768, 32767, 2], i32: [-2147483648, 2147483647, 4],
  u8: [0, 255, 1], u16: [0, 65535, 2], u32: [0, 4294967295, 4],
};
const BIG = {
  i64: [-(2n ** 63n), 2n ** 63n - 1n],
  u64: [0n, 2n ** 64n - 1n],
};
const MIN_SIZES = {
  i8: 1, i16: 2, i32: 4, i64: 8, u8: 1, u16: 2, u32: 4, u64: 8, f32: 4, f64: 8, bool: 1,
  string: 2, bytes: 4,
};
export const PRIMITIVES = new Set(Object.keys(MIN_SIZES));

const utf8 = new TextEncoder();
// ignoreBOM keeps a BOM, which is a character like any other.
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const LONE_SURROGATE = /[\ud800-\udfff]/u;

/** A value that doesn't fit its declaration, or bytes that don't. */
export class FieldError extends Error {
  constructor(reason) {
    super(reason);
    this.name = "FieldError";
    this.reason = reason;
    this.path = "";
  }

  within(step) {
    this.path = step + this.path;
    return this;
  }

  // "talkroom.enter: field uname is not a string but null"
  titled(title) {
    const field = this.path ? `field ${this.path.replace(/^\./, "")}` : "it";
    this.message = `${title}: ${field} ${this.reason}`;
    return this;
  }
}

function fail(reason) {
  throw new FieldError(reason);
}

function kindOf(value) {
  return value === null ? "null" : Array.isArray(value) ? "a list" : typeof value;
}

// ---- descriptions ----

/** Bytes that a node takes at least: what an optional field that isn't there looks like. */
export function primitive(type) {
  return { type, minSize: MIN_SIZES[type] };
}

export function list(item) {
  if (item.minSize === 0) throw new Error("a list of a message without fields");
  return { type: "list", minSize: 2, item };
}

/** @param fields [{ name, node, optional }] */
export function record(fields) {
  return { type: "record", minSize: fields.reduce((sum, { node }) => sum + node.minSize, 0), fields };
}

// ---- values that are checked ----

function checkSmall(type, value) {
  const [first, last] = SMALL[type];
  if (typeof value === "bigint" && value >= first && value <= last) return Number(value);
  if (typeof value !== "number") fail(`is not an integer but ${kindOf(value)}`);
  if (!Number.isInteger(value)) fail(`is not an integer but ${value}`);
  if (value < first || value > last) fail(`is out of the range of ${type}: ${value}`);
  return value;
}

function checkBig(type, value) {
  let big = value;
  if (typeof value === "number") {
    if (!Number.isInteger(value)) fail(`is not an integer but ${value}`);
    if (Math.abs(value) > MAX_EXACT) fail(`is no exact integer: beyond 2^53 a BigInt is needed`);
    big = BigInt(value);
  } else if (typeof value === "string" && /^-?\d{1,20}$/.test(value)) {
    big = BigInt(value); // as JSON has those beyond 2^53
  }
  if (typeof big !== "bigint") fail(`is not an integer but ${kindOf(value)}`);
  const [first, last] = BIG[type];
  if (big < first || big > last) fail(`is out of the range of ${type}`);
  return big;
}

function simplest(big) {
  return big >= -MAX_EXACT && big <= MAX_EXACT ? Number(big) : big;
}

function checkReal(type, value) {
  if (typeof value !== "number") fail(`is not a number but ${kindOf(value)}`);
  if (!Number.isFinite(value)) fail("is not a finite number");
  if (type === "f32" && !Number.isFinite(Math.fround(value))) {
    fail(`is out of the range of f32: ${value}`);
  }
  return value;
}

function checkBool(value) {
  if (typeof value !== "boolean") fail(`is not a boolean but ${kindOf(value)}`);
  return value;
}

function checkString(value) {
  if (typeof value !== "string") fail(`is not a string but ${kindOf(value)}`);
  if (LONE_SURROGATE.test(value)) fail("is not Unicode: half of a pair of surrogates");
  const bytes = utf8.encode(value);
  if (bytes.length > MAX_STRING) fail(`is ${bytes.length} bytes, ${MAX_STRING} at most`);
  return bytes;
}

function checkBytes(value) {
  const bytes = value instanceof ArrayBuffer ? new Uint8Array(value)
    : ArrayBuffer.isView(value)
      ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength) : null;
  if (!bytes) fail(`is not a Uint8Array but ${kindOf(value)}`);
  if (bytes.length > MAX_BODY) fail(`is ${bytes.length} bytes, ${MAX_BODY} at most`);
  return bytes;
}

function checkList(value) {
  if (!Array.isArray(value)) fail(`is not a list but ${kindOf(value)}`);
  if (value.length > MAX_LIST) fail(`has ${value.length} items, ${MAX_LIST} at most`);
  return value;
}

function checkRecord(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    fail(`is not an object but ${kindOf(value)}`);
  }
  return value;
}

function fieldOf(value, name) {
  const field = Object.hasOwn(value, name) ? value[name] : undefined;
  return field === null ? undefined : field;
}

function inItem(index, f) {
  try {
    return f();
  } catch (error) {
    throw error instanceof FieldError ? error.within(`[${index}]`) : error;
  }
}

function inField(name, f) {
  try {
    return f();
  } catch (error) {
    throw error instanceof FieldError ? error.within(`.${name}`) : error;
  }
}

// ---- BUF out ----

class Writer {
  constructor() {
    this.bytes = new Uint8Array(256);
    this.view = new DataView(this.bytes.buffer);
    this.size = 0;
  }

  // Makes room for `count` more bytes and returns where they go.
  take(count) {
    const at = this.size;
    const size = at + count;
    if (size > MAX_BODY) fail(`makes the body larger than ${MAX_BODY} bytes`);
    if (size > this.bytes.length) {
      const larger = new Uint8Array(Math.max(size, this.bytes.length * 2));
      larger.set(this.bytes.subarray(0, at));
      this.bytes = larger;
      this.view = new DataView(larger.buffer);
    }
    this.size = size;
    return at;
  }

  small(type, value) {
    const at = this.take(SMALL[type][2]);
    switch (type) {
      case "i8": return this.view.setInt8(at, value);
      case "u8": return this.view.setUint8(at, value);
      case "i16": return this.view.setInt16(at, value, true);
      case "u16": return this.view.setUint16(at, value, true);
      case "i32": return this.view.setInt32(at, value, true);
      default: return this.view.setUint32(at, value, true);
    }
  }

  raw(bytes) {
    const at = this.take(bytes.length);
    this.bytes.set(bytes, at);
  }

  value(node, value) {
    switch (node.type) {
      case "i64": {
        const big = checkBig("i64", value);
        return this.view.setBigInt64(this.take(8), big, true);
      }
      case "u64": {
        const big = checkBig("u64", value);
        return this.view.setBigUint64(this.take(8), big, true);
      }
      case "f32": {
        const real = checkReal("f32", value);
        return this.view.setFloat32(this.take(4), real, true);
      }
      case "f64": {
        const real = checkReal("f64", value);
        return this.view.setFloat64(this.take(8), real, true);
      }
      case "bool": return this.small("u8", checkBool(value) ? 1 : 0);
      case "string": {
        const bytes = checkString(value);
        this.small("u16", bytes.length);
        return this.raw(bytes);
      }
      case "bytes": {
        const bytes = checkBytes(value);
        this.small("u32", bytes.length);
        return this.raw(bytes);
      }
      case "list":
        this.small("u16", checkList(value).length);
        for (let i = 0; i < value.length; i++) inItem(i, () => this.value(node.item, value[i]));
        return undefined;
      case "record":
        checkRecord(value);
        for (const field of node.fields) inField(field.name, () => this.field(field, value));
        return undefined;
      default: return this.small(node.type, checkSmall(node.type, value));
    }
  }

  field({ name, node, optional }, value) {
    const given = fieldOf(value, name);
    if (given !== undefined || !optional) return this.value(node, given);
    const at = this.take(node.minSize); // all types begin with that many zero bytes
    return this.bytes.fill(0, at, this.size);
  }
}

export function write(node, value) {
  const writer = new Writer();
  writer.value(node, value);
  return writer.bytes.slice(0, writer.size);
}

// ---- BUF in ----

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  get left() { return this.bytes.length - this.at; }

  // Where the next `count` bytes are.
  take(count) {
    if (this.left < count) fail(`is cut off: ${this.left} of ${count} bytes`);
    const at = this.at;
    this.at += count;
    return at;
  }

  raw(count) {
    const at = this.take(count);
    return this.bytes.subarray(at, at + count);
  }

  finite(value) {
    if (!Number.isFinite(value)) fail("is not a finite number");
    return value;
  }

  value(node) {
    const { view } = this;
    switch (node.type) {
      case "i8": return view.getInt8(this.take(1));
      case "u8": return view.getUint8(this.take(1));
      case "i16": return view.getInt16(this.take(2), true);
      case "u16": return view.getUint16(this.take(2), true);
      case "i32": return view.getInt32(this.take(4), true);
      case "u32": return view.getUint32(this.take(4), true);
      case "i64": return simplest(view.getBigInt64(this.take(8), true));
      case "u64": return simplest(view.getBigUint64(this.take(8), true));
      case "f32": return this.finite(view.getFloat32(this.take(4), true));
      case "f64": return this.finite(view.getFloat64(this.take(8), true));
      case "bool": {
        const flag = view.getUint8(this.take(1));
        if (flag > 1) fail(`is not a boolean but ${flag}`);
        return flag === 1;
      }
      case "string": return this.text(view.getUint16(this.take(2), true));
      case "bytes": return this.raw(view.getUint32(this.take(4), true)).slice();
      case "list": return this.list(node.item, view.getUint16(this.take(2), true));
      default: {
        const value = {};
        for (const { name, node: field } of node.fields) {
          value[name] = inField(name, () => this.value(field));
        }
        return value;
      }
    }
  }

  text(count) {
    const bytes = this.raw(count);
    try {
      return strictUtf8.decode(bytes);
    } catch {
      return fail("is not UTF-8");
    }
  }

  list(item, count) {
    // Before anything is made: a few bytes can't ask for a list of 65535.
    if (this.left / item.minSize < count) fail(`is cut off: ${count} items`);
    const items = [];
    for (let i = 0; i < count; i++) items.push(inItem(i, () => this.value(item)));
    return items;
  }
}

export function read(node, bytes) {
  const reader = new Reader(bytes);
  const value = reader.value(node);
  if (reader.left > 0) fail(`is followed by ${reader.left} bytes too many`);
  return value;
}

// ---- JSON ----

function toBase64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function fromBase64(text) {
  if (typeof text !== "string") fail(`is not a string but ${kindOf(text)}`);
  const isBase64 = text.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(text);
  if (!isBase64) fail("is not base64");
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** What JSON.stringify takes; fields in the order of their declaration. */
export function toJson(node, value) {
  switch (node.type) {
    case "i64":
    case "u64": {
      const big = simplest(checkBig(node.type, value));
      return typeof big === "bigint" ? String(big) : big;
    }
    case "f32": return Math.fround(checkReal("f32", value));
    case "f64": return checkReal("f64", value);
    case "bool": return checkBool(value);
    case "string": return checkString(value) && value;
    case "bytes": return toBase64(checkBytes(value));
    case "list": return checkList(value).map((item, i) => inItem(i, () => toJson(node.item, item)));
    case "record": {
      checkRecord(value);
      const copy = {};
      for (const { name, node: field, optional } of node.fields) {
        const given = fieldOf(value, name);
        if (given === undefined && optional) continue;
        copy[name] = inField(name, () => toJson(field, given));
      }
      return copy;
    }
    default: return checkSmall(node.type, value);
  }
}

function zero(node) {
  switch (node.type) {
    case "bool": return false;
    case "string": return "";
    case "bytes": return new Uint8Array(0);
    case "list": return [];
    case "record": return Object.fromEntries(node.fields.map((f) => [f.name, zero(f.node)]));
    default: return 0;
  }
}

/** The value that a BUF body of the same content gives: with all declared fields and no other. */
export function fromJson(node, value) {
  switch (node.type) {
    case "i64":
    case "u64": return simplest(checkBig(node.type, value));
    case "f32": return Math.fround(checkReal("f32", value));
    case "f64": return checkReal("f64", value);
    case "bool": return checkBool(value);
    case "string": return checkString(value) && value;
    case "bytes": return fromBase64(value);
    case "list": {
      // cjson, which can't tell them apart, writes an empty list as {}.
      if (kindOf(value) === "object" && Object.keys(value).length === 0) return [];
      return checkList(value).map((item, i) => inItem(i, () => fromJson(node.item, item)));
    }
    case "record": {
      checkRecord(value);
      const copy = {};
      for (const { name, node: field, optional } of node.fields) {
        const given = fieldOf(value, name);
        copy[name] = given === undefined && optional ? zero(field)
          : inField(name, () => fromJson(field, given));
      }
      return copy;
    }
    default: return checkSmall(node.type, value);
  }
}
