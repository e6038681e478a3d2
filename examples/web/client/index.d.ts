/** How bodies travel: JSON carries a request_id, BUF is smaller. */
export type Form = "json" | "buf";

/** Fields are "name type", in the order of their BUF form; a single type is a bare value. */
export interface CommandDeclaration {
  ctype: number;
  /** What a client sends. */
  request?: string;
  /** What it is answered. */
  reply?: string;
  /** What a server sends by itself; "" for nothing but its number. */
  push?: string;
  /** Allowed before login. */
  login?: boolean;
}

export type ServiceDeclaration =
  { stype: number } & { [command: string]: CommandDeclaration | number };

/** The same names, numbers and fields as the server's service/protocol.lua. */
export interface Declaration {
  messages?: { [name: string]: string };
  [service: string]: ServiceDeclaration | { [name: string]: string } | undefined;
}

export interface Command {
  readonly name: string;
  readonly stype: number;
  readonly ctype: number;
  readonly login: boolean;
  readonly isPush: boolean;
}

export interface Packet {
  command: Command;
  body: any;
  requestId: number | null;
  form: 1 | 2;
}

/** A declaration that has been compiled. */
export class Protocol {
  constructor(declaration: Declaration);
  /** Of all names, numbers and fields: the `schema` of a server with the same declaration. */
  readonly hash: string;
  find(name: string): Command | null;
  byNumber(stype: number, ctype: number): Command | null;
  /** Throws, naming the field, for a body that doesn't fit; so does encodeReply. */
  encodeRequest(name: string, form: 1 | 2, body?: any, requestId?: number): Uint8Array;
  encodeReply(name: string, form: 1 | 2, body?: any, requestId?: number): Uint8Array;
  /** Throws a PacketError; so does decodeReply. */
  decodeRequest(data: Uint8Array): Packet;
  decodeReply(data: Uint8Array): Packet;
}

/** Compiles a declaration. Throws for one that is wrong, saying where. */
export function declare(declaration: Declaration): Protocol;

/** The packets of the standard services: talkroom and auth. */
export const services: Declaration;

export const JSON_FORM: 1;
export const BUF_FORM: 2;

/** What a reply's `status` says. */
export const status: Readonly<{
  ok: 1; system_error: -100; invalid_params: -101; invalid_operation: -102;
  illegal_account: -103; in_room: -104; not_in_room: -105; too_fast: -106; busy: -107;
}>;

export class PacketError extends Error {
  readonly code: "malformed" | "unknown_command";
  readonly command: Command | null;
  readonly requestId: number | null;
}

/**
 * Why something failed. `code` is "timeout", "closed", "overloaded" (too much waits here),
 * "too_large", "refused" (a login; see `status`), "malformed" (the reply), "invalid" (not now), or
 * the server's: "not_logged_in", "too_fast", "busy", "service_unavailable", "invalid_params", ...
 */
export class PeriluneError extends Error {
  readonly code: string;
  /** Of a login that was refused. */
  readonly status?: number;
  /** Of "closed": why the connection ended. */
  readonly reason?: string;
  /** Of an error that the server sent. */
  readonly command?: string;
}

/** A key of a new guest: 32 letters and digits, a secret. */
export function newKey(crypto?: { getRandomValues(array: Uint8Array): Uint8Array }): string;

export interface Options {
  /** Default: the global one. In Node before 22 pass that of `ws`. */
  WebSocket?: new (url: string) => any;
  /** Default: the global one. In Node before 19 pass `webcrypto` of node:crypto, or a key. */
  crypto?: { getRandomValues(array: Uint8Array): Uint8Array };
  /** Default: the standard services. */
  protocol?: Protocol | Declaration;
  /** Default "json". Requests and packets may choose another. */
  form?: Form;
  /** ms, of a request; default 5000. */
  timeout?: number;
  /** ms, of login(), reconnections included; default 15000. */
  loginTimeout?: number;
  /** ms, of a socket and of each step until it is ready; default 10000. */
  connectTimeout?: number;
  /** ms of silence after which the server is pinged; default 20000. */
  pingInterval?: number;
  /** ms of silence after that, then the connection is "silent"; default 10000. */
  pongTimeout?: number;
  /** Packets that wait for a connection; default 64. */
  queue?: number;
  /** Requests that wait for replies; default 1024. */
  requests?: number;
  /** Bytes that the socket has not sent yet; default 1 MB. */
  buffered?: number;
  /** Attempts to connect in a row; default: no limit. */
  attempts?: number;
  /** False for an old server that doesn't know hello. */
  hello?: boolean;
  /** Default true: after the reasons that may pass. A function decides by the reason. */
  reconnect?: boolean | ((reason: string) => boolean);
}

export interface Hello {
  version: number;
  /** Another than `client.protocol.hash`: the two sides declare different packets. */
  schema: string;
  limits: {
    frame_bytes: number; packets_per_second: number; burst: number; login_ms: number;
    ping_ms: number;
  };
  /** Token to resume with, which the client does by itself; "" where the server can't. */
  resume: string;
}

export interface Profile {
  status: number;
  uid: number;
  unick: string;
  usex: number;
  uface: number;
  uvip: number;
}

/**
 * Why a connection ended. Of the server: "login_timeout", "idle", "flooding", "malformed",
 * "relogin", "full", "version", "shutdown", or what a service gave. Of this side: "closed" (by
 * close()), "lost", "unreachable", "timeout" (connecting), "silent", "refused" and "unavailable"
 * (logging in again).
 */
export interface CloseEvent {
  reason: string;
  text: string;
  /** Of the WebSocket. */
  code: number;
  /** Whether another attempt follows. */
  reconnect: boolean;
}

export interface Events {
  open: () => void;
  hello: (hello: Hello) => void;
  /** The server says why it is going to close. */
  closing: (event: { reason: string; text: string }) => void;
  close: (event: CloseEvent) => void;
  reconnecting: (event: { attempt: number; delay: number }) => void;
  /** Logged in again. `fresh`: as a new session, so rooms have to be entered again. */
  resumed: (event: { profile: Profile; fresh: boolean }) => void;
  /** Every push; each one is an event of its own name, too. */
  push: (name: string, body: any) => void;
  /** The server refused something that nothing waits for. */
  error: (event: { code: string; message: string; command: string | null }) => void;
  /** A packet that can't be read. */
  malformed: (event: { code: string; message: string }) => void;
}

export type Credentials = string | { key?: string } | { uname: string; upwd: string };

export interface Client {
  readonly url: string;
  readonly state: "connecting" | "open" | "ready" | "waiting" | "closed";
  readonly protocol: Protocol;
  /** Of the last connection. */
  readonly hello: Hello | null;
  /** Of the player who is logged in. */
  readonly profile: Profile | null;
  /** Of the guest who is logged in, or logging in: keep it, it is who they are. */
  readonly key: string | null;
  /** Why it is closed for good. */
  readonly closed: { reason: string; text: string } | null;

  /** Logs in: a guest by key, an account, or, without an argument, a new guest. */
  login(credentials?: Credentials): Promise<Profile>;
  /** Sends a request; resolves with the body of its reply, null where it has none. */
  request(name: string, body?: any, options?: { timeout?: number; form?: Form }): Promise<any>;
  /**
   * Sends a packet that nothing is waited for. False when it is closed or too much waits. Throws
   * for a body that doesn't fit.
   */
  send(name: string, body?: any, options?: { form?: Form }): boolean;
  /** ms to the server and back. */
  ping(options?: { timeout?: number }): Promise<number>;
  /** Closes for good. What waits is rejected. */
  close(): void;

  /** Calls `listener` at each event; returns a function that ends that. */
  on<E extends keyof Events>(event: E, listener: Events[E]): () => void;
  on(push: `${string}.${string}`, listener: (body: any) => void): () => void;
  once<E extends keyof Events>(event: E, listener: Events[E]): () => void;
  once(push: `${string}.${string}`, listener: (body: any) => void): () => void;
  off(event: string, listener: (...values: any[]) => void): void;
}

/** Connects to a gateway's WebSocket. Returns at once; requests wait for the connection. */
export function connect(url: string, options?: Options): Client;
