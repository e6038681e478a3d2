-- bots: players that load a server and check what it answers. `perilune bots chat --count 50`.
--
-- DESIGN
-- A mode is a function that runs bots and returns what it found. In `chat` all enter the talkroom
-- first, then talk for a while, then wait for what is under way. So every line that was accepted
-- must reach every other bot once, in the order of its numbers; what doesn't is counted as lost,
-- repeated or out of order. With `echo_ms` each asks for something besides, and every request has
-- one reply. Anything else makes the run a failure, and so does a connection that ends early.
local perilune = require "perilune"
local bot = require "perilune.bot"
local options = require "perilune.options"
local protocol = require "perilune.protocol"
local game = require "protocol" ---@type perilune.Protocol

local bots = {}
local modes = {}

bots.options = {
  mode = { type = "string", default = "chat", choices = { "chat" }, meaning = "what bots do" },
  count = { type = "integer", default = 50, min = 1, max = 100000, meaning = "bots" },
  host = { type = "string", default = "127.0.0.1", meaning = "the gateway's address" },
  port = { type = "integer", default = 6080, min = 1, max = 65535, meaning = "and port" },
  url = { type = "string",
    meaning = "instead of both: ws://host:port, wss://, tcp+tls:// or tcp+encrypted://" },
  url_share = { type = "number", default = 1, min = 0, max = 1,
    meaning = "share of the bots that use url where there is one" },
  server_key = { type = "string",
    meaning = "which an encrypting gateway must have, 64 hexadecimal digits" },
  udp = { type = "number", default = 0, min = 0, max = 1,
    meaning = "share of the bots that send by UDP" },
  seconds = { type = "number", default = 10, min = 0.1, max = 86400, meaning = "how long" },
  rate = { type = "number", default = 1, min = 0, max = 1000000,
    meaning = "lines a second of each bot" },
  echo_ms = { type = "integer", default = 0, min = 0, max = 86400000, unit = "ms",
    meaning = "pause between two requests of a bot that are answered to it alone; 0: none" },
  buf = { type = "number", default = 0.5, min = 0, max = 1,
    meaning = "share of the bots that use BUF instead of JSON" },
  at_once = { type = "integer", default = 16, min = 1, max = 1000,
    meaning = "bots that log in at the same time" },
  drain_ms = { type = "integer", default = 10000, min = 0, max = 600000, unit = "ms",
    meaning = "how long lines under way may take" },
}

local STATUS = protocol.status
local MAX_SAMPLES = 100000

-- To the terminal where that is allowed, else into the log.
local function say(format, ...)
  local text = format:format(...)
  if not io then return perilune.log.info("%s", text) end
  io.stdout:write(text, "\n")
  io.stdout:flush()
end

-- ---- latency ----

local function percentile(sorted, share)
  return sorted[math.max(1, math.ceil(#sorted * share))] or 0
end

local function new_samples() return { count = 0, slowest = 0 } end

-- Beyond MAX_SAMPLES each has the same chance to be kept.
local function add_sample(samples, ms)
  samples.count = samples.count + 1
  samples.slowest = math.max(samples.slowest, ms)
  local at = samples.count <= MAX_SAMPLES and samples.count or math.random(samples.count)
  if at <= MAX_SAMPLES then samples[at] = ms end
end

local function summarize(samples)
  table.sort(samples)
  return {
    p50 = percentile(samples, 0.5), p95 = percentile(samples, 0.95),
    p99 = percentile(samples, 0.99), max = samples.slowest, count = samples.count,
  }
end

-- ---- chat ----

local function new_run(settings)
  return {
    settings = settings, players = {}, by_uid = {}, sent = 0, refused = 0, received = 0,
    repeated = 0, disordered = 0, broken = 0, errors = {}, lines = new_samples(),
    echoes = new_samples(),
  }
end

local function note_error(run, text)
  run.broken = run.broken + 1
  if #run.errors < 10 then run.errors[#run.errors + 1] = text end
end

local function on_line(run, player, line)
  local sender = run.by_uid[line.uid]
  if not sender then return end -- somebody else is in the room
  local sent_at = tonumber(line.text:match("at ([%d.]+)$"))
  local last = player.last_id[line.uid] or 0
  if line.id == last then
    run.repeated = run.repeated + 1
  elseif line.id < last then
    run.disordered = run.disordered + 1
  end
  player.last_id[line.uid] = line.id
  player.heard[line.uid] = (player.heard[line.uid] or 0) + 1
  run.received = run.received + 1
  if sent_at then add_sample(run.lines, perilune.now() - sent_at) end
end

-- What no request waits for: a line, or a reply too many.
local function on_push(run, player, name, body)
  if name == "talkroom.user_message" then return on_line(run, player, body) end
  local command = game.commands[name]
  if command and command.is_push and name ~= "protocol.error" then return end
  local text = type(body) == "table" and body.message or type(body) == "string" and body or ""
  note_error(run, ("bot %d: %s for no request %s"):format(player.number, name, text))
end

-- Of the first `number` bots floor(number * share) are in the share, so they are spread evenly.
local function in_share(number, share)
  return math.floor(number * share) > math.floor((number - 1) * share)
end

local function join_udp(run, player)
  local joined, why, code = player:join_udp()
  if not joined then
    note_error(run, ("bot %d: UDP: %s (%s)"):format(player.number, why, tostring(code)))
  end
  player.by_udp = true
end

local function start_player(run, number)
  local settings = run.settings
  local form = number <= settings.count * settings.buf and protocol.BUF or protocol.JSON
  local player, message = bot.connect {
    host = settings.host, port = settings.port, form = form,
    url = in_share(number, settings.url_share) and settings.url or nil,
    encrypt = settings.server_key and { server_key = settings.server_key },
  }
  if not player then return note_error(run, ("bot %d: connect: %s"):format(number, message)) end
  player.number, player.said, player.heard, player.last_id = number, 0, {}, {}
  function player:on_push(name, body) on_push(run, self, name, body) end
  local profile, why = player:login()
  if not profile then
    player:close()
    return note_error(run, ("bot %d: login: %s"):format(number, tostring(why)))
  end
  run.players[#run.players + 1] = player
  run.by_uid[profile.uid] = player
  local uname = ("bot%d"):format(number)
  local reply, failure = player:request("talkroom.enter", { uname = uname, usex = number % 2 })
  if not reply or reply.status ~= STATUS.ok then
    note_error(run, ("bot %d: enter: %s"):format(number, failure or tostring(reply.status)))
  end
  if in_share(number, settings.udp) then join_udp(run, player) end
end

local function start_players(run)
  local next_number, workers = 0, {}
  for i = 1, run.settings.at_once do
    workers[i] = function()
      while next_number < run.settings.count do
        next_number = next_number + 1
        start_player(run, next_number)
      end
    end
  end
  for _, result in ipairs(perilune.wait_all(workers)) do
    if not result[1] then note_error(run, tostring(result[2])) end
  end
end

local function say_line(run, player)
  local text = ("bot %d line %d at %.3f"):format(player.number, player.said + 1, perilune.now())
  local reply, message = player:request("talkroom.send_message", text)
  if reply and reply.status == STATUS.ok then
    player.said = player.said + 1
    run.sent = run.sent + 1
  elseif reply and reply.status == STATUS.too_fast then
    run.refused = run.refused + 1
  else
    note_error(run, ("bot %d: say: %s"):format(player.number, message or tostring(reply.status)))
    player.broken = true
  end
end

local function echo(run, player)
  local began = perilune.now()
  local reply, message = player:request("talkroom.history", { count = 1 })
  if reply and reply.status == STATUS.ok then
    add_sample(run.echoes, perilune.now() - began)
  else
    note_error(run, ("bot %d: echo: %s"):format(player.number, message or tostring(reply.status)))
    player.broken = true
  end
end

-- Calls act(run, player) every pause_ms, beginning somewhere within the first.
local function keep_on(act, pause_ms, run, player, until_ms)
  local due = perilune.now() + math.random() * pause_ms
  while due < until_ms and not player.broken do
    perilune.sleep(math.max(0, math.ceil(due - perilune.now())))
    act(run, player)
    due = math.max(due + pause_ms, perilune.now())
  end
end

-- What all players do at the same time, as functions. One keeps them there until the end.
local function activities(run, until_ms)
  local rate, echo_ms = run.settings.rate, run.settings.echo_ms
  local bodies = { function() perilune.sleep(math.ceil(until_ms - perilune.now())) end }
  local function add(act, pause_ms, player)
    bodies[#bodies + 1] = function() keep_on(act, pause_ms, run, player, until_ms) end
  end
  for _, player in ipairs(run.players) do
    if rate > 0 then add(say_line, 1000 / rate, player) end
    if echo_ms > 0 then add(echo, echo_ms, player) end
  end
  return bodies
end

-- Lines that should have come and didn't.
local function count_lost(run)
  local lost = 0
  for _, player in ipairs(run.players) do
    for uid, sender in pairs(run.by_uid) do
      if sender ~= player then
        local missing = sender.said - (player.heard[uid] or 0)
        if missing > 0 then lost = lost + missing end
      end
    end
  end
  return lost
end

local function report_progress(run, started)
  local received = 0
  return perilune.every(1000, function()
    say("%4.0f s  %d bots  sent %d  received %d (+%d)  refused %d  errors %d",
      (perilune.now() - started) / 1000, #run.players, run.sent, run.received,
      run.received - received, run.refused, run.broken)
    received = run.received
  end)
end

local function report(run, result)
  say("%d bots sent %d lines and received %d of %d; %d were refused as too fast", #run.players,
    run.sent, run.received, run.sent * (#run.players - 1), run.refused)
  say("lost %d, repeated %d, out of order %d, errors %d", result.lost, run.repeated,
    run.disordered, run.broken)
  for _, text in ipairs(run.errors) do say("  %s", text) end
  for _, what in ipairs { "latency", "echo" } do
    local ms = result[what]
    if ms.count > 0 then
      say("%s ms: p50 %.2f  p95 %.2f  p99 %.2f  max %.2f", what, ms.p50, ms.p95, ms.p99, ms.max)
    end
  end
  say("%s", result.ok and "all right" or "WRONG")
end

function modes.chat(settings)
  local run, started = new_run(settings), perilune.now()
  local progress = report_progress(run, started)
  start_players(run)
  local bodies = activities(run, perilune.now() + settings.seconds * 1000)
  for _, ended in ipairs(perilune.wait_all(bodies)) do
    if not ended[1] then note_error(run, tostring(ended[2])) end
  end
  local limit = perilune.now() + settings.drain_ms
  while count_lost(run) > 0 and perilune.now() < limit do perilune.sleep(50) end
  perilune.cancel(progress)
  for _, player in ipairs(run.players) do
    if player.closed then
      local why = player.closing and player.closing.reason or player.closed
      note_error(run, ("bot %d lost its connection: %s"):format(player.number, why))
    end
    player:close()
  end
  local result = {
    bots = #run.players, sent = run.sent, received = run.received, refused = run.refused,
    lost = count_lost(run), repeated = run.repeated, disordered = run.disordered,
    errors = run.broken, latency = summarize(run.lines),
    echo = summarize(run.echoes),
  }
  result.ok = result.lost == 0 and run.repeated == 0 and run.disordered == 0 and run.broken == 0
    and #run.players == settings.count
  report(run, result)
  return result
end

---Runs the bots and returns what they found; `ok` says whether all was right.
---@async
---@param given table? options
---@return table result
function bots.run(given)
  local settings = options.read(bots.options, given)
  return modes[settings.mode](settings)
end

function bots.on_start(given)
  options.read(bots.options, given)
  perilune.log.level "info"
end

return bots
