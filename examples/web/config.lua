-- perilune examples/web/config.lua: a chat in the browser. Its page is at http://127.0.0.1:8082/.
local page_port = env("PAGE_PORT", 8082)
local game_port = env("GAME_PORT", 6081)

return {
  paths = { "." },
  data = ".", -- where the page is
  services = {
    { script = "dbproxy", options = { database = "sqlite::memory:" } }, -- accounts don't stay
    { script = "auth" },
    { script = "talkroom" },
    { script = "gateway", options = { listen = { {
      kind = "websocket", port = game_port,
      -- The page comes from another port, so it is another origin.
      origins = page_port == 0 and { "*" }
        or { "http://127.0.0.1:" .. page_port, "http://localhost:" .. page_port },
    } } } },
    { script = "page", options = { port = page_port } },
  },
}
