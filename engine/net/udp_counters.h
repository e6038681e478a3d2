// UdpCounters: what an operator sees of datagrams and ENet peers.
//
// Threads:   any.
#pragma once

#include <atomic>
#include <cstdint>

namespace perilune {

// Each is counted once, where it happens.
struct UdpCounters {
    using Count = std::atomic<std::uint64_t>;
    // Plain datagrams.
    Count udp_sockets{0};  // now
    Count udp_in{0}, udp_out{0}, udp_bytes_in{0}, udp_bytes_out{0};
    Count udp_dropped_full{0};     // received, but the owner's mailbox was half full
    Count udp_dropped_large{0};    // received, over max_datagram
    Count udp_dropped_blocked{0};  // not sent: the system had no room
    Count udp_send_failed{0};      // not sent: no route, refused, ...
    // ENet.
    Count enet_hosts{0};  // now: listeners, and what connect() has made
    Count enet_peers{0};  // now: those whose opened or connected has been posted
    Count enet_accepted{0}, enet_connected{0}, enet_connect_failed{0};
    Count enet_datagrams_in{0}, enet_datagrams_out{0};
    Count enet_bytes_in{0}, enet_bytes_out{0};
    Count enet_packets_in{0}, enet_packets_out{0};
    Count enet_receive_pauses{0};      // the owner's mailbox was half full
    Count enet_refused_full{0};        // over max_peers
    Count enet_refused_address{0};     // over max_per_address
    Count enet_dropped_unreliable{0};  // over send_bytes or send_packets
    Count enet_closed{0};              // all; of these, because ...
    Count enet_closed_timeout{0}, enet_closed_slow{0}, enet_closed_late{0};
    // The exchange of cookies.
    Count cookie_requests{0};  // answered
    Count cookie_proofs{0};    // good ones
    Count cookie_malformed{0}, cookie_forged{0}, cookie_old{0};
    Count cookie_evicted{0};          // good, and the table full: the oldest had to go
    Count cookie_refused{0};          // good, but too many of that address
    Count enet_dropped_unproven{0};   // datagrams of ENet from addresses that show no cookie
    Count enet_dropped_stranger{0};   // for a peer that isn't there, or is somebody else
    Count enet_dropped_malformed{0};  // too short, or too long

    // Calls visit(name, value) for each.
    template <typename Visit>
    void each(Visit visit) const {
#define PERILUNE_COUNTER(name) visit(#name, name.load())
        PERILUNE_COUNTER(udp_sockets);
        PERILUNE_COUNTER(udp_in);
        PERILUNE_COUNTER(udp_out);
        PERILUNE_COUNTER(udp_bytes_in);
        PERILUNE_COUNTER(udp_bytes_out);
        PERILUNE_COUNTER(udp_dropped_full);
        PERILUNE_COUNTER(udp_dropped_large);
        PERILUNE_COUNTER(udp_dropped_blocked);
        PERILUNE_COUNTER(udp_send_failed);
        PERILUNE_COUNTER(enet_hosts);
        PERILUNE_COUNTER(enet_peers);
        PERILUNE_COUNTER(enet_accepted);
        PERILUNE_COUNTER(enet_connected);
        PERILUNE_COUNTER(enet_connect_failed);
        PERILUNE_COUNTER(enet_datagrams_in);
        PERILUNE_COUNTER(enet_datagrams_out);
        PERILUNE_COUNTER(enet_bytes_in);
        PERILUNE_COUNTER(enet_bytes_out);
        PERILUNE_COUNTER(enet_packets_in);
        PERILUNE_COUNTER(enet_packets_out);
        PERILUNE_COUNTER(enet_receive_pauses);
        PERILUNE_COUNTER(enet_refused_full);
        PERILUNE_COUNTER(enet_refused_address);
        PERILUNE_COUNTER(enet_dropped_unreliable);
        PERILUNE_COUNTER(enet_closed);
        PERILUNE_COUNTER(enet_closed_timeout);
        PERILUNE_COUNTER(enet_closed_slow);
        PERILUNE_COUNTER(enet_closed_late);
        PERILUNE_COUNTER(cookie_requests);
        PERILUNE_COUNTER(cookie_proofs);
        PERILUNE_COUNTER(cookie_malformed);
        PERILUNE_COUNTER(cookie_forged);
        PERILUNE_COUNTER(cookie_old);
        PERILUNE_COUNTER(cookie_evicted);
        PERILUNE_COUNTER(cookie_refused);
        PERILUNE_COUNTER(enet_dropped_unproven);
        PERILUNE_COUNTER(enet_dropped_stranger);
        PERILUNE_COUNTER(enet_dropped_malformed);
#undef PERILUNE_COUNTER
    }
};

inline void count(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) {
    counter.fetch_add(by, std::memory_order_relaxed);
}

}  // namespace perilune
