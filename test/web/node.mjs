// Starts nodes and clients for tests, and ends them.
import { spawn } from "node:child_process";
import { webcrypto } from "node:crypto";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";
import { connect as connectClient } from "../../examples/web/client/index.js";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const PROGRAM = process.env.PERILUNE ?? "build/release/perilune";
const START_MS = 30000;

const running = new Set();
const clients = new Set();

// What a node prints, on two streams in any order, when it is ready.
const READY = /runs \d+ services/;
const GAME = /websocket at [\d.]+:(\d+)/;
const PAGE = /http:\/\/[\d.]+:(\d+)\//;

/**
 * A node of a config.lua. `ports`: those it had before, default: the system chooses. `hasPage`: it
 * serves one.
 */
export async function startNode(config, ports = {}, hasPage = false) {
  const child = spawn(PROGRAM, [config], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, GAME_PORT: ports.game ?? 0, PAGE_PORT: ports.page ?? 0 },
  });
  const ended = new Promise((resolve) => child.on("exit", (code, signal) => {
    running.delete(child);
    resolve({ code, signal });
  }));
  running.add(child);
  let log = "";
  await new Promise((resolve, reject) => {
    const limit = setTimeout(() => reject(new Error(`the node didn't start:\n${log}`)), START_MS);
    const read = (bytes) => {
      log += bytes;
      if (!READY.test(log) || !GAME.test(log) || (hasPage && !PAGE.test(log))) return;
      clearTimeout(limit);
      resolve();
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    ended.then(() => reject(new Error(`the node ended:\n${log}`)));
  });
  const game = Number(GAME.exec(log)[1]);
  return {
    game,
    page: hasPage ? Number(PAGE.exec(log)[1]) : null,
    url: `ws://127.0.0.1:${game}/`,
    log: () => log,
    stop() {
      child.kill("SIGTERM");
      return ended;
    },
    kill() {
      child.kill("SIGKILL");
      return ended;
    },
  };
}

/** A client that ends with the test. */
export function connect(url, options = {}) {
  const client = connectClient(url, { WebSocket, crypto: webcrypto, ...options });
  clients.add(client);
  client.on("close", ({ reconnect }) => { if (!reconnect) clients.delete(client); });
  return client;
}

/** For afterEach: no client may outlive its test. */
export function closeClients() {
  for (const client of [...clients]) client.close();
}

/** For after: no node may outlive its file. */
export async function stopNodes() {
  await Promise.all([...running].map((child) => new Promise((resolve) => {
    child.on("exit", resolve);
    child.kill("SIGKILL");
  })));
}

/** What the next event of a client gives. */
export function next(client, event, wanted = () => true, ms = 20000) {
  return new Promise((resolve, reject) => {
    const limit = setTimeout(() => {
      off();
      reject(new Error(`no ${event} in ${ms} ms`));
    }, ms);
    const off = client.on(event, (...values) => {
      if (!wanted(...values)) return;
      clearTimeout(limit);
      off();
      resolve(values.length > 1 ? values : values[0]);
    });
  });
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export { webcrypto, WebSocket };
