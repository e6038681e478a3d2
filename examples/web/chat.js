// A room in which tabs talk: each tab is a guest of its own.
import { connect, newKey, status } from "./client/index.js";

const MAX_LINES = 500;
const WHY_NOT = {
  [status.too_fast]: "too fast, wait a moment",
  [status.invalid_params]: "this line can't be sent",
};
const state = document.getElementById("state");
const lines = document.getElementById("lines");
const line = document.getElementById("line");

function show(text, kind = "") {
  const item = document.createElement("li");
  item.textContent = text; // never as HTML: others wrote it
  item.className = kind;
  lines.append(item);
  while (lines.children.length > MAX_LINES) lines.firstChild.remove();
  lines.scrollTop = lines.scrollHeight;
}

// Where the gateway is; a page behind a proxy says so itself: ?gateway=wss://example.com/game
async function gatewayUrl() {
  const given = new URLSearchParams(location.search).get("gateway");
  if (given) return given;
  const { port, tls } = await (await fetch("gateway")).json();
  return `${tls ? "wss" : "ws"}://${location.hostname}:${port}/`;
}

function guestKey() {
  let key = sessionStorage.getItem("key");
  if (!key) sessionStorage.setItem("key", key = newKey());
  return key;
}

const client = connect(await gatewayUrl());

async function enter() {
  const { unick, usex } = client.profile;
  // Sent before anything else, so what waits to be said is said in the room.
  const entered = await client.request("talkroom.enter", { uname: unick, usex });
  if (entered.status !== status.ok) throw new Error(`can't enter the room: ${entered.status}`);
  state.textContent = `you are ${unick}`;
}

client.on("talkroom.user_arrived", ({ uname }) => show(`${uname} arrives`, "note"));
client.on("talkroom.user_left", ({ uname }) => show(`${uname} leaves`, "note"));
client.on("talkroom.user_message", ({ uname, text }) => show(`${uname}: ${text}`));
client.on("close", ({ reason, text }) => { state.textContent = `not connected: ${text || reason}`; });
client.on("resumed", ({ fresh }) => {
  state.textContent = `you are ${client.profile.unick}`;
  if (fresh) enter().catch((error) => show(error.message, "note"));
});

document.getElementById("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = line.value.trim();
  if (!text) return;
  line.value = "";
  try {
    const reply = await client.request("talkroom.send_message", text);
    if (reply.status === status.ok) show(`${client.profile.unick}: ${text}`);
    else show(WHY_NOT[reply.status] ?? `refused: ${reply.status}`, "note");
  } catch (error) {
    show(`not sent: ${error.message}`, "note");
  }
});

try {
  await client.login(guestKey());
  await enter();
} catch (error) {
  state.textContent = error.message;
}
