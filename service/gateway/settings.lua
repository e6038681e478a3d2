-- The options of a gateway, and what they are set to.
local options = require "perilune.options"

-- By name, once `read` was called.
local settings = {}

-- What an entry of `listen` may have.
local LISTEN = {
  kind = { type = "string", default = "tcp", choices = { "tcp", "websocket", "udp" },
    meaning = "how packets come; by UDP of those alone who are logged in" },
  host = { type = "string", default = "127.0.0.1", meaning = "address; \"*\": all" },
  port = { type = "integer", required = true, min = 0, max = 65535,
    meaning = "port; 0: any free one" },
  tls = { type = "table", meaning = "{ certificate = file, key = file }: then TLS, or wss://" },
  encrypt = { type = "any",
    meaning = "true, or { key = file }: encryption of our own, for TCP without TLS" },
  path = { type = "string", meaning = "of a WebSocket's URL; default: any" },
  origins = { type = "table",
    meaning = "pages that may connect by WebSocket, { \"*\" }: all; default: those of this host" },
  max_peers = { type = "integer", default = 1024, min = 1, max = 4095,
    meaning = "of UDP, at a time" },
  timeout_ms = { type = "integer", default = 10000, min = 100, max = 3600000, unit = "ms",
    meaning = "of UDP: without an acknowledgement, then the peer is given up" },
  public_port = { type = "integer", min = 1, max = 65535,
    meaning = "of UDP: the port that clients are told; default: port" },
}

settings.DECLARED = {
  listen = { type = "table", items = LISTEN, default = { { port = 6080 } },
    meaning = "where clients connect, a table each" },
  max_connections = { type = "integer", default = 10000, min = 1, max = 1000000,
    meaning = "connections at a time" },
  max_per_address = { type = "integer", default = 200, min = 1, max = 1000000,
    meaning = "of these, from one address" },
  max_pending = { type = "integer", default = 32, min = 1, max = 1000000,
    meaning = "of these, not logged in, and as many handshakes" },
  pending_share = { type = "number", default = 0.25, min = 0.001, max = 1,
    meaning = "share of max_connections that may be not logged in, and as many handshakes" },
  exempt = { type = "table", default = { "127.0.0.1", "::1" },
    meaning = "addresses, such as a proxy's, without limits an address" },
  login_ms = { type = "integer", default = 10000, min = 10, max = 3600000, unit = "ms",
    meaning = "time for handshake and login; waiting for auth doesn't count" },
  login_wait_ms = { type = "integer", default = 30000, min = 10, max = 3600000, unit = "ms",
    meaning = "how long one answer of auth may take" },
  ping_ms = { type = "integer", default = 60000, min = 10, max = 3600000, unit = "ms",
    meaning = "silence after which a client is pinged" },
  missed_pings = { type = "integer", default = 2, min = 1, max = 100,
    meaning = "pings without an answer, then it is closed" },
  rate = { type = "number", default = 50, min = 0.1, max = 100000,
    meaning = "packets a second of a session, on average" },
  burst = { type = "integer", default = 100, min = 1, max = 1000000,
    meaning = "packets of a session at once" },
  address_rate = { type = "number", default = 1000, min = 0.1, max = 1000000,
    meaning = "packets a second of an address, on average" },
  address_burst = { type = "integer", default = 2000, min = 1, max = 10000000,
    meaning = "packets of an address at once" },
  max_strikes = { type = "integer", default = 200, min = 1, max = 1000000,
    meaning = "packets over the rate, without a second of peace, then it is closed" },
  frame_before_login = { type = "integer", default = 4096, min = 64, max = 65533, unit = "bytes",
    meaning = "largest packet before login" },
  frame = { type = "integer", default = 65533, min = 64, max = 65533, unit = "bytes",
    meaning = "largest packet after login" },
  key_rest_ms = { type = "integer", default = 60000, min = 0, max = 3600000, unit = "ms",
    meaning = "how long the key of a dead session isn't used again" },
  keys = { type = "integer", default = 2 ^ 31, min = 2, max = 2 ^ 31,
    meaning = "how many keys there are" },
  resume_ms = { type = "integer", default = 30000, min = 0, max = 3600000, unit = "ms",
    meaning = "how long a session is kept whose connection broke; 0: not at all" },
  resume_packets = { type = "integer", default = 256, min = 1, max = 65536,
    meaning = "last packets of a session that are kept for a client to resume" },
  resume_bytes = { type = "integer", default = 65536, min = 64, max = 16777216, unit = "bytes",
    meaning = "of these, in bytes" },
  resume_total_bytes = { type = "integer", default = 67108864, min = 64, max = 2 ^ 40,
    unit = "bytes", meaning = "the same of all sessions together, each having an equal share" },
  center = { type = "string", default = "center",
    meaning = "who sends clients here; \"\": nobody" },
  report_ms = { type = "integer", default = 1000, min = 10, max = 3600000, unit = "ms",
    meaning = "pause between two reports to it" },
  public_host = { type = "string", default = "",
    meaning = "this gateway's address for clients; \"\": where they reached the center" },
  udp_ticket_ms = { type = "integer", default = 10000, min = 10, max = 3600000, unit = "ms",
    meaning = "how long a ticket for UDP is good" },
  udp_first_ms = { type = "integer", default = 5000, min = 10, max = 3600000, unit = "ms",
    meaning = "time that a peer of UDP has to show its ticket" },
  routes = { type = "table", default = {},
    meaning = "who serves a service of the protocol: { scene = \"scene1\" }; default: its name" },
}

---Takes the options that on_start was given. Raises for wrong ones.
---@param given table?
function settings.read(given)
  for name, value in pairs(options.read(settings.DECLARED, given)) do settings[name] = value end
end

return settings
