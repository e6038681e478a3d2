-- A node for test/web: the standard services and one that answers strangely.
return {
  paths = { "." },
  services = {
    { script = "dbproxy", options = { database = "sqlite::memory:" } },
    { script = "auth" },
    { script = "talkroom", options = { rate = 1000, burst = 1000 } },
    { script = "lab" },
    { script = "gateway", options = { listen = {
      { kind = "websocket", port = env("GAME_PORT", 0), origins = { "*" } },
      { port = 0, encrypt = { key = "../../lua/tls/x25519.pem" } },
    } } },
  },
}
