// examples/web in headless Chromium: two pages chat.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { startNode, stopNodes } from "./node.mjs";

const CONFIG = "examples/web/config.lua";
const WAIT = { timeout: 30000 };
const PROGRAM = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path));

let node;
let browser;
const start = (ports) => startNode(CONFIG, ports, true);

before(async () => {
  node = await start();
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? PROGRAM,
    chromiumSandbox: process.getuid() !== 0, // root can't have one
    timeout: 60000,
  });
});
after(async () => {
  await browser?.close();
  await stopNodes();
});

// A tab that is in the room, a guest of its own. What goes wrong in it is in `errors`.
async function openTab() {
  const context = await browser.newContext();
  const tab = await context.newPage();
  tab.errors = [];
  tab.on("pageerror", (error) => tab.errors.push(error.message));
  await tab.goto(`http://127.0.0.1:${node.page}/`, WAIT);
  await isIn(tab);
  return tab;
}

const isIn = (tab) => tab.waitForFunction(() =>
  document.getElementById("state").textContent.startsWith("you are"), null, WAIT);
const nameOf = async (tab) => (await tab.textContent("#state")).replace("you are ", "");
const shows = (tab, text) => tab.waitForFunction((wanted) =>
  [...document.querySelectorAll("#lines li")].some((item) => item.textContent === wanted), text,
  WAIT);

async function say(tab, text) {
  await tab.fill("#line", text);
  await tab.press("#line", "Enter");
}

test("two pages chat", async () => {
  const [ada, bob] = [await openTab(), await openTab()];
  const [adasName, bobsName] = [await nameOf(ada), await nameOf(bob)];
  await shows(ada, `${bobsName} arrives`);
  for (const [from, name, text] of [
    [ada, adasName, "hello 안녕 😀"],
    [bob, bobsName, "<img src=x onerror=alert(1)><b>bold</b>"],
  ]) {
    await say(from, text);
    for (const tab of [ada, bob]) await shows(tab, `${name}: ${text}`);
  }
  assert.equal(await ada.locator("#lines img, #lines b").count(), 0);
  await bob.close();
  await shows(ada, `${bobsName} leaves`);
  assert.deepEqual(ada.errors, []);
  await ada.context().close();
});

test("a page that is loaded again is the same guest", async () => {
  const tab = await openTab();
  const name = await nameOf(tab);
  await tab.reload(WAIT);
  await isIn(tab);
  assert.equal(await nameOf(tab), name);
  await tab.context().close();
});

test("the same guest in two tabs: the first is told and stays away", async () => {
  const first = await openTab();
  const key = await first.evaluate(() => sessionStorage.getItem("key"));
  const second = await first.context().newPage();
  await second.addInitScript((given) => sessionStorage.setItem("key", given), key);
  await second.goto(`http://127.0.0.1:${node.page}/`, WAIT);
  await isIn(second);
  await first.waitForFunction(() =>
    document.getElementById("state").textContent === "not connected: logged in elsewhere",
  null, WAIT);
  await say(second, "me again");
  await shows(second, `${await nameOf(second)}: me again`);
  await first.context().close();
});

test("after a restart of the server pages chat again", async () => {
  const [ada, bob] = [await openTab(), await openTab()];
  await node.stop();
  await ada.waitForFunction(() =>
    document.getElementById("state").textContent.startsWith("not connected"), null, WAIT);
  node = await start(node);
  for (const tab of [ada, bob]) await isIn(tab);
  await say(ada, "still here?");
  await shows(bob, `${await nameOf(ada)}: still here?`);
  for (const tab of [ada, bob]) {
    assert.deepEqual(tab.errors, []);
    await tab.context().close();
  }
});

test("a page of another origin may not connect", async () => {
  const ports = { page: node.page, game: node.game };
  await node.stop();
  node = await start(ports); // now it knows the page's port, so it names the origins
  const context = await browser.newContext();
  const tab = await context.newPage();
  const tries = (host) => tab.goto(`http://${host}:${node.page}/`, WAIT).then(() =>
    tab.evaluate((url) => new Promise((resolve) => {
      const socket = new WebSocket(url);
      socket.onopen = () => resolve("open");
      socket.onclose = () => resolve("refused");
    }), node.url));
  assert.equal(await tries("127.0.0.1"), "open");
  assert.equal(await tries("localhost"), "open");
  await tab.goto("data:text/html,other");
  assert.equal(await tab.evaluate((url) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve("open");
    socket.onclose = () => resolve("refused");
  }), node.url), "refused");
  await context.close();
});

test("the page gives its files and no others", async () => {
  const status = async (path) => (await fetch(`http://127.0.0.1:${node.page}${path}`)).status;
  for (const path of ["/", "/chat.js", "/client/index.js", "/gateway"]) {
    assert.equal(await status(path), 200, path);
  }
  for (const path of ["/config.lua", "/page.lua", "/client/..%2fconfig.lua", "/nothing"]) {
    assert.equal(await status(path), 404, path);
  }
});
