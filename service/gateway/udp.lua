-- UDP, a player's second way: for what may come late or not at all.
--
-- DESIGN
-- Nobody logs in over UDP. A player who is logged in asks for a ticket, connects by ENet, and shows
-- the ticket in the first packet, signed with the secret that came with it, so that the secret
-- never travels over UDP. The cookie of the exchange before ENet is signed, too: the signature is
-- of no use from another address. Any other first packet ends that peer. The gateway answers with
-- a signature of its own, from which the client knows whom it has found.
--
-- From then on the peer is the session's in the gate, until its player leaves or its connection
-- ends, is broken or replaced. A peer that ends takes nothing with it.
local perilune = require "perilune"
local crypto = require "perilune.crypto"
local enet = require "perilune.enet"
local gate = require "perilune.gate"
local limits = require "perilune.limits"
local protocol = require "perilune.protocol"
local tickets = require "perilune.ticket"
local counters = require "gateway.counters"
local crowd = require "gateway.crowd"
local settings = require "gateway.settings"

local udp = {}

---@class gateway.Ticket
---@field id string
---@field secret string
---@field expires_at number

-- A peer that hasn't shown its ticket, or is a session's.
---@class gateway.UdpPeer
---@field peer perilune.enet.Peer
---@field address string as limits go by it
---@field session gateway.Session? nil: it has until its timer to show a ticket
---@field timer integer?

local listener, entry -- the one there may be
local sessions = {} -- by the id of their ticket
local peers = {} -- by the id of the peer
local waiting, joined = 0, 0
local by_address, waiting_by_address = {}, {}

local function add(map, key, number)
  local sum = (map[key] or 0) + number
  map[key] = sum ~= 0 and sum or nil
end

local function count_waiting(address, number)
  waiting = waiting + number
  add(waiting_by_address, address, number)
end

-- ---- ends ----

-- Forgets a peer, which may have been closed.
local function forget(known)
  if not peers[known.peer.id] then return end
  peers[known.peer.id] = nil
  add(by_address, known.address, -1)
  if known.session then
    joined = joined - 1
    known.session.udp = nil
    gate.close_udp(known.session.key)
  else
    perilune.cancel(known.timer)
    count_waiting(known.address, -1)
  end
end

local function drop(known, why)
  counters.add(why)
  forget(known)
  known.peer:abort()
end

local function forget_ticket(session)
  if session.ticket then sessions[session.ticket.id] = nil end
  session.ticket = nil
end

---A session has no ticket and no peer any more.
---@param session gateway.Session
function udp.leave(session)
  forget_ticket(session)
  if session.udp then drop(session.udp, "udp_ended") end
end

---A session goes on without the peer that sent what it may not send.
---@param session gateway.Session
---@param why string counter
function udp.expel(session, why)
  if session.udp then drop(session.udp, why) end
end

-- ---- tickets ----

---What a player needs to connect; the ticket before this one is void.
---@param session gateway.Session
---@return table body of protocol.udp
function udp.ticket(session)
  if not session.uid or not listener then
    return { status = protocol.status.invalid_operation }
  end
  if waiting + joined >= entry.max_peers then return { status = protocol.status.busy } end
  forget_ticket(session)
  local id, secret = tickets.new()
  session.ticket = {
    id = id, secret = secret, expires_at = perilune.now() + settings.udp_ticket_ms,
  }
  sessions[id] = session
  counters.add "udp_tickets"
  return {
    status = protocol.status.ok, port = entry.public_port or listener.port,
    ticket = crypto.hex(id), secret = crypto.hex(secret), expires_ms = settings.udp_ticket_ms,
  }
end

-- The session whose ticket a first packet shows, and the answer to it; or nil and the counter.
local function check(peer, data, channel)
  local id, period, signature = tickets.read(data)
  if not id or channel ~= tickets.CHANNEL then return nil, "udp_no_ticket" end
  local session = sessions[id]
  local given = session and session.ticket
  if not given or perilune.now() >= given.expires_at then return nil, "udp_bad_ticket" end
  local secret, cookie = given.secret, peer:cookie(period)
  if not cookie or not tickets.is_signed(id, secret, cookie, signature) then
    return nil, "udp_bad_signature"
  end
  return session, tickets.answer(id, secret, cookie)
end

-- ---- events of peers ----

local function has_room(address)
  if crowd.is_exempt(address) then return true end
  return (waiting_by_address[address] or 0) < settings.max_pending
    and (by_address[address] or 0) < settings.max_per_address
end

---@param peer perilune.enet.Peer
---@param address string
function udp.on_open(peer, address)
  address = limits.address(address)
  if not has_room(address) then
    counters.add "udp_full"
    peer:abort()
    return
  end
  peers[peer.id] = {
    peer = peer, address = address,
    timer = perilune.timeout(settings.udp_first_ms, "on_udp_late", peer.id),
  }
  add(by_address, address, 1)
  count_waiting(address, 1)
end

---A peer hasn't shown its ticket in time.
---@param id integer
function udp.on_late(id)
  if peers[id] and not peers[id].session then drop(peers[id], "udp_late") end
end

---The first packet of a peer: all others come to the gate.
---@param peer perilune.enet.Peer
---@param data string
---@param channel integer
function udp.on_data(peer, data, channel)
  local known = peers[peer.id]
  if not known or known.session then return end
  local session, answer = check(peer, data, channel)
  if not session then return drop(known, answer) end
  forget_ticket(session)
  udp.expel(session, "udp_replaced")
  if not gate.open_udp(session.key, peer.id) then return drop(known, "udp_bad_ticket") end
  perilune.cancel(known.timer)
  count_waiting(known.address, -1)
  known.session, session.udp = session, known
  joined = joined + 1
  counters.add "udp_joined"
  peer:write(answer, { channel = tickets.CHANNEL })
end

---@param peer perilune.enet.Peer
function udp.on_close(peer)
  local known = peers[peer.id]
  if not known then return end
  counters.add(known.session and "udp_ended" or "udp_no_ticket")
  forget(known)
end

-- ---- life ----

---Receives as an entry of the option `listen` says.
---@param given table
---@return perilune.enet.Listener?
---@return string? message why not
function udp.listen(given)
  if listener then return nil, "there is a listener of UDP already" end
  local message
  listener, message = enet.listen {
    host = given.host, port = given.port, max_peers = given.max_peers,
    max_per_address = 0, -- counted here, where some are exempt
    max_packet = settings.frame, timeout_ms = given.timeout_ms,
    on_open = "on_udp_open", on_data = "on_udp_data", on_close = "on_udp_close",
  }
  entry = given
  return listener, message
end

---Adds what there is now to a table.
---@param to table<string, any>
function udp.copy(to) to.udp_peers, to.udp_waiting = joined, waiting end

return udp
