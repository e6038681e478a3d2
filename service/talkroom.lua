-- talkroom: a room in which players talk.
--
-- DESIGN
-- Members are kept twice: by uid, and as a list that broadcasts go to. A line gets a number, goes
-- to all members but its author, who gets the number as the answer, and stays in the history.
-- Lines are numbered and sent in one go, without yielding, so each member gets them in order.
local perilune = require "perilune"
local gateway = require "perilune.gateway"
local limits = require "perilune.limits"
local options = require "perilune.options"
local protocol = require "perilune.protocol"

local talkroom = {}
local client = {}

talkroom.options = {
  max_members = { type = "integer", default = 5000, min = 1, max = 1000000,
    meaning = "players in the room" },
  name_bytes = { type = "integer", default = 64, min = 1, max = 1000, unit = "bytes",
    meaning = "longest name" },
  line_bytes = { type = "integer", default = 1000, min = 1, max = 8000, unit = "bytes",
    meaning = "longest line" },
  rate = { type = "number", default = 2, min = 0.01, max = 10000,
    meaning = "lines a second of a player, on average" },
  burst = { type = "integer", default = 5, min = 1, max = 10000,
    meaning = "lines of a player at once" },
  history = { type = "integer", default = 50, min = 0, max = 10000, meaning = "lines kept" },
}

local STATUS = protocol.status
local MEMBERS_A_PAGE = 200
local HISTORY_BYTES = 16000 -- of text in one answer, which as JSON may be three times as long

local settings
local members = {} -- uid -> { uid, uname, usex, place in the list, bucket }
local uids = {} -- of the members, in no order
local lines = {} -- id -> line, the last of them
local last_id = 0

-- No control characters: what clients show stays on its line.
local function is_text(text, max_bytes)
  return #text > 0 and #text <= max_bytes and not text:find("%c")
end

local function public(member)
  return { uid = member.uid, uname = member.uname, usex = member.usex }
end

local function leave(uid)
  local member = members[uid]
  if not member then return false end
  local last = uids[#uids]
  uids[member.place], members[last].place = last, member.place
  uids[#uids], members[uid] = nil, nil
  gateway.broadcast(uids, "talkroom.user_left", public(member))
  return true
end

function client.enter(uid, body)
  if members[uid] then return { status = STATUS.in_room } end
  if not is_text(body.uname, settings.name_bytes) then return { status = STATUS.invalid_params } end
  if #uids >= settings.max_members then return { status = STATUS.busy } end
  local member = {
    uid = uid, uname = body.uname, usex = body.usex, place = #uids + 1,
    bucket = limits.bucket(settings.rate, settings.burst, perilune.now()),
  }
  gateway.broadcast(uids, "talkroom.user_arrived", public(member))
  members[uid], uids[member.place] = member, uid
  return { status = STATUS.ok }
end

function client.exit(uid)
  return { status = leave(uid) and STATUS.ok or STATUS.not_in_room }
end

function client.on_disconnect(uid) leave(uid) end

function client.send_message(uid, text)
  local member = members[uid]
  if not member then return { status = STATUS.not_in_room } end
  if not is_text(text, settings.line_bytes) then return { status = STATUS.invalid_params } end
  if not member.bucket:take(perilune.now()) then return { status = STATUS.too_fast } end
  last_id = last_id + 1
  local line = {
    id = last_id, uid = uid, uname = member.uname, usex = member.usex, text = text,
    time = math.floor(perilune.time()),
  }
  lines[last_id] = line
  lines[last_id - settings.history] = nil
  gateway.broadcast(uids, "talkroom.user_message", line, uid)
  return { status = STATUS.ok, id = line.id }
end

-- The last lines, oldest first, that fit into one answer.
function client.history(uid, body)
  if not members[uid] then return { status = STATUS.not_in_room } end
  local wanted = body and body.count > 0 and body.count or settings.history
  local found, bytes = {}, 0
  for id = last_id, math.max(1, last_id - wanted + 1), -1 do
    local line = lines[id]
    bytes = bytes + (line and #line.text + #line.uname + 50 or 0)
    if not line or bytes > HISTORY_BYTES then break end
    table.insert(found, 1, line)
  end
  return { status = STATUS.ok, lines = found }
end

-- A page of the members: those with the smallest uids after `after`.
function client.members(uid, body)
  if not members[uid] then return { status = STATUS.not_in_room } end
  local after, found = body and body.after or 0, {}
  for _, other in ipairs(uids) do
    if other > after then found[#found + 1] = other end
  end
  table.sort(found)
  local page = {}
  for i = 1, math.min(#found, MEMBERS_A_PAGE) do page[i] = public(members[found[i]]) end
  return { status = STATUS.ok, total = #uids, members = page }
end

---What an operator wants to know.
---@return table numbers
function talkroom.stats() return { members = #uids, lines = last_id } end

function talkroom.on_start(given) settings = options.read(talkroom.options, given) end

return talkroom, client
