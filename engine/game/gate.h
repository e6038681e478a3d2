// Gate: the sessions of a gateway, and what becomes of each packet.
//
// Purpose:   decides, from its header alone, where a packet of a client goes and to whom one of a
//            service; keeps what that takes: who a session is, its token bucket, which services
//            have seen it, the ring of packets to resume it with. Sends nothing itself.
// Threads:   one owner.
// Ownership: owns its sessions; a Session& is good until remove() or move(). A path is whatever
//            its owner reaches a client by, as a number; 0 is none.
//
// A packet of a client passes, in this order: rates, header, reserved numbers, login, route.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "game/packet.h"
#include "game/packet_ring.h"
#include "game/token_bucket.h"

namespace perilune {

struct GateOptions {
    Rate rate;          // packets of a session
    Rate address_rate;  // of all sessions of an address
    // What a ring holds at most, and all rings together, each having an equal share.
    std::uint32_t ring_packets = 256;
    std::size_t ring_bytes = 64 * 1024;
    std::uint64_t total_ring_bytes = 64 << 20;
};

class Gate {
  public:
    enum class Verdict : std::uint8_t {
        forward,
        stranger,  // no session has this path
        ignored,   // the session is closing
        too_fast,
        malformed,  // no header, or neither JSON nor BUF
        itself,     // stype 0
        full,       // it may only resume another session
        reserved,
        login,  // a command that is allowed before login
        not_logged_in,
        unknown_service,
    };
    // What becomes of a packet for a client.
    enum class Fate : std::uint8_t {
        write,  // to the session's path
        kept,   // in the ring alone: there is no path now
        lost,   // the same, and the ring has lost what nobody has sent: the session is of no use
    };

    struct Session {
        Session(std::uint32_t key_, std::uint64_t path_, const Rate& rate, std::int64_t now_ns)
            : key(key_), path(path_), bucket(rate, now_ns), heard_ns(now_ns) {}

        const std::uint32_t key;
        std::uint32_t uid = 0;        // 0: not logged in
        std::uint64_t path = 0;       // 0: kept without one
        std::uint64_t side_path = 0;  // besides, of a player; 0: none
        TokenBucket bucket;
        std::int64_t heard_ns;          // when its last packet came
        std::int16_t form = kJsonForm;  // of its last packet
        bool closing = false;
        bool resumes_only = false;
        std::unique_ptr<PacketRing> ring;  // since it was given a token
        std::uint64_t written = 0;         // while it is kept: number of the last packet before
        AddressBuckets::Entry* address = nullptr;  // null: its address has no limits
        std::vector<std::size_t> seen;             // routes that have had a packet of the uid
    };

    struct Counters {
        std::uint64_t packets_in = 0;
        std::uint64_t undeliverable = 0;
    };

    explicit Gate(const GateOptions& options);
    ~Gate();
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;

    // --- what there is ---

    // Packets of that stype have somewhere to go. Returns the route's number: 0, 1, 2 ...
    std::size_t add_route(std::int16_t stype) {
        return routes_.try_emplace(stype, routes_.size()).first->second;
    }
    // A command that is allowed before login.
    void add_login(std::int16_t stype, std::int16_t ctype) { logins_.insert(number(stype, ctype)); }
    void forget_logins() { logins_.clear(); }

    // --- sessions ---

    // `address`: "" for one without limits. Null when the key or the path is in use.
    Session* add(std::uint32_t key, std::uint64_t path, std::string_view address,
                 std::int64_t now_ns);
    void remove(Session& session, std::int64_t now_ns);
    Session* by_key(std::uint32_t key) const;
    Session* by_uid(std::uint32_t uid) const;
    Session* by_path(std::uint64_t path) const;
    std::size_t size() const { return by_key_.size(); }
    std::size_t users() const { return by_uid_.size(); }

    // The session is this player from now on. False when it, or another, is a player already.
    bool enter(Session& session, std::uint32_t uid);
    // It is nobody's any more. Returns whom to tell: the routes that have seen the player.
    std::vector<std::size_t> leave(Session& session);
    // A player's packets may come by that path, too, until it leaves, or its own path is broken or
    // replaced. There is one at a time. False when it is no player's, kept, or the path is in use.
    bool open_side_path(Session& session, std::uint64_t path);
    void close_side_path(Session& session);

    // --- packets ---

    // A packet that has come by a path. `forward`: give it to the route, with utag_of() the
    // session, and then call forwarded().
    struct Decision {
        Verdict verdict;
        Session* session = nullptr;  // null for a stranger
        bool by_side_path = false;
        std::size_t route = 0;
    };
    Decision decide(std::uint64_t path, std::string_view packet, std::int64_t now_ns);
    // The same of one that has passed the rates before.
    Decision decide_again(Session& session, std::string_view packet);
    static std::uint32_t utag_of(const Session& session) {
        return session.uid != 0 ? session.uid : session.key;
    }
    void forwarded(Session& session, std::size_t route);

    // For whom a packet of a service is. `key` of a reply: the session that asked, and no other;
    // 0 of what is pushed. Nobody: counted.
    Session* receiver(const PacketHeader& header, std::uint32_t key);
    bool is_login(const PacketHeader& header) const {
        return logins_.count(number(header.stype, header.ctype)) != 0;
    }
    // Numbers a packet, whose utag is 0 by now, where the session has a ring.
    Fate remember(Session& session, std::string_view packet);

    // --- going on by another path ---

    // What goes to it is numbered, from 1 on.
    void number_packets(Session& session);
    void forget_ring(Session& session);
    // Its path is broken. What was remembered before counts as sent.
    void keep(Session& session);
    // Goes on by the path of another, which is removed.
    void move(Session& session, Session& other, std::int64_t now_ns);
    // Forgets what is over a ring's share. Returns the keys of kept sessions that are lost by it.
    std::vector<std::uint32_t> trim();
    std::size_t ring_bytes() const { return ring_bytes_; }

    const Counters& counters() const { return counters_; }

  private:
    static std::uint32_t number(std::int16_t stype, std::int16_t ctype) {
        return std::uint32_t{static_cast<std::uint16_t>(stype)} << 16 |
               static_cast<std::uint16_t>(ctype);
    }
    static bool is_reserved(const PacketHeader& header);
    Verdict judge(Session& session, std::string_view packet, std::size_t& route);
    bool is_too_fast(Session& session, std::int64_t now_ns);
    std::size_t ring_room() const;
    void push(PacketRing& ring, std::string_view packet);
    bool is_lost(const Session& session) const;

    const GateOptions options_;
    std::unordered_map<std::int16_t, std::size_t> routes_;  // by stype
    std::unordered_set<std::uint32_t> logins_;              // stype and ctype
    std::unordered_map<std::uint32_t, std::unique_ptr<Session>> by_key_;
    std::unordered_map<std::uint32_t, Session*> by_uid_;
    std::unordered_map<std::uint64_t, Session*> by_path_;
    AddressBuckets addresses_;
    std::size_t rings_ = 0;
    std::size_t ring_bytes_ = 0;  // in all of them
    Counters counters_;
};

}  // namespace perilune
