---@meta perilune.gate

-- The sessions of a gateway in C++: `local gate = require "perilune.gate"`. Native.
--
-- A packet that comes from a connection with a session goes to the service of its stype without a
-- script, and what services send (perilune.gateway) goes to the session's connection. The script
-- hears of what is unusual, by two functions of its first table:
--
--   on_packet(key, why, packet, by_udp)
--                                why: "itself" (stype 0), "login", "too_fast", "malformed", "full",
--                                "reserved", "not_logged_in", "unknown_service", "dead" and
--                                "overloaded" (the service) of a client's packet; "login_reply" of
--                                one for a client, whose utag is 0 by then
--   on_lost(key)                 a session that is kept misses what nobody has sent
--
-- A session is named by its key, from 2^31 to 2^32 - 1. All functions raise for a key that no
-- session has. A gate belongs to the running service and lives as long, over reloads, too.

---@class perilune.gate
local gate = {}

---@class perilune.gate.Options
---@field rate number packets of a session a second, on average
---@field burst number and at once
---@field address_rate number packets of all sessions of an address a second, on average
---@field address_burst number and at once
---@field ring_packets integer last packets of a session that are kept, where they are numbered
---@field ring_bytes integer of these, in bytes
---@field total_ring_bytes integer the same of all sessions together, each having an equal share

---Opens the gate of the running service. Raises for options out of range, and for a second one.
---@param options perilune.gate.Options
function gate.open(options) end

---Packets of a stype go to a service, from now on.
---@param stype integer
---@param service string its name; who has it may die and come back
function gate.route(stype, service) end

---The commands that may come before login, and no others.
---@param numbers integer[] stype and ctype of each, one after the other
function gate.logins(numbers) end

---A session for a connection of the running service.
---@param key integer
---@param connection integer id of it
---@param address string? whose packets count together; nil: without limits an address
---@return boolean added false when the key has a session, or the connection
function gate.add(key, connection, address) end

---Forgets a session.
---@param key integer
function gate.remove(key) end

---The session belongs to a player from now on.
---@param key integer
---@param uid integer from 1 to 2^31 - 1
---@return boolean entered false when it belongs to one, or the player has a session
function gate.enter(key, uid) end

---The session belongs to nobody any more.
---@param key integer
---@return table<integer, string> seen the services that have had packets of the player, by stype
function gate.leave(key) end

---The session of a player.
---@param uid integer
---@return integer? key nil when the player isn't here
function gate.key_of_user(uid) end

---Nothing is forwarded from the session or delivered to it any more.
---@param key integer
function gate.close(key) end

---The session may do nothing but send packets of stype 0.
---@param key integer
function gate.only_resumes(key) end

---What the session's last packet was: 1, JSON, or 2, BUF.
---@param key integer
---@return integer proto_type
function gate.form(key) end

---When the session's last packet came.
---@param key integer
---@return number ms on the clock of perilune.now(), at most 4 behind
function gate.heard_at(key) end

---A packet that on_packet was called with, and which may pass by now: routes have changed.
---@param key integer
---@param packet string
---@return string? why it still doesn't pass; nil: it has been forwarded
function gate.again(key, packet) end

---Writes a packet, numbered where the session's packets are; it stays in the ring alone where the
---session is kept.
---@param key integer
---@param packet string
---@return boolean useful false when the session misses by now what nobody has sent
function gate.write(key, packet) end

---Writes a packet that isn't numbered. Nothing happens where the session is kept.
---@param key integer
---@param packet string
function gate.write_once(key, packet) end

---A peer of perilune.enet belongs to a player's session: its packets are the session's, and what
---may be lost (gateway.push_unreliable) goes to it. One peer at a time; it ends by close_udp, or
---when the player leaves, the session is kept or moves: the script closes the peer itself.
---@param key integer
---@param peer integer id of it
---@return boolean opened false when the session is nobody's, kept or closing
function gate.open_udp(key, peer) end

---The session has no peer any more.
---@param key integer
function gate.close_udp(key) end

---Brings a packet of a service to the client that its utag names, or to all that a broadcast names.
---@param packet string
---@param key integer? the session that asked, and no other, gets it
---@return { [1]: integer, [2]: string?, [3]: string? }[]? unusual key, why and packet of on_packet;
---the key alone of on_lost; nil when there is nothing to do
function gate.deliver(packet, key) end

---Packets to the session are numbered from here on, the next is 1, and the last are kept.
---@param key integer
function gate.number_packets(key) end

---They are no longer.
---@param key integer
function gate.forget_packets(key) end

---The numbers of the packets that are kept.
---@param key integer
---@return integer? first last + 1 when none is kept; nil when packets aren't numbered
---@return integer? last that was sent
function gate.numbers(key) end

---The session's connection is broken. What is written from now on stays in the ring alone.
---@param key integer
function gate.keep(key) end

---The session goes on by the connection of another one, which is removed.
---@param key integer
---@param other integer
function gate.move(key, other) end

---Writes again what is kept.
---@param key integer
---@param number integer of the first packet
function gate.write_again(key, number) end

---Forgets what is over the share of each ring, which gets smaller the more there are.
---@return integer[] lost keys of the sessions that on_lost would be called for
function gate.trim() end

---Counters: packets_in, forwarded, packets_out, undeliverable; udp_packets_in (of these),
---udp_packets_out, and udp_fallbacks, which were too large for a peer or couldn't be given to it;
---as it is now: users, resume_bytes.
---@return table<string, integer> numbers
function gate.stats() end

return gate
