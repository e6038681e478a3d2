// Enet: the ENet hosts and peers of a node.
//
// DESIGN
//   A listener is one ENet host, a connection made here another with a single peer. Each has a
//   mutex: the polling thread holds it while it receives, a worker while it writes; what a turn
//   writes leaves at its end. A timer of the kernel stands for all that ENet has to do by itself
//   (acknowledge, send again, ping, give up); there is none while a host has no peers.
//
// Threads:   all functions, any thread, unless they say otherwise.
// Ownership: owns hosts and peers. A listener and its peers die with their owner; peers outlive
//            the listener that accepted them. Hosts and peers are pooled and never freed while
//            this lives: a stale pointer meets another id.
// Locks:     their order is in ARCHITECTURE.md.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "net/enet_host.h"
#include "net/id_table.h"
#include "net/owned_ids.h"
#include "net/transport.h"
#include "net/udp_event.h"
#include "net/udp_socket.h"

namespace perilune {

class Enet {
  public:
    Enet(Kernel& kernel, Transport& transport, UdpCounters& counters);
    ~Enet();
    Enet(const Enet&) = delete;
    Enet& operator=(const Enet&) = delete;

    // Before the kernel starts: who gets the timers.
    void set_timers(OwnerTimers* timers) { timers_ = timers; }

    // Errors: invalid (host), exists (the port is in use), unavailable.
    Result<EnetHostId> listen(Handle owner, const EnetOptions& options);
    Result<Address> listener_address(EnetHostId id);
    // Its peers stay. Errors: dead.
    Status close_listener(EnetHostId id);
    // `connected` or `failed` follows. Errors: invalid (IPv6), unavailable.
    Result<EnetPeerId> connect(Handle owner, const Address& server, const EnetOptions& options,
                               std::uint32_t data);

    // As in EnetHost; dead also for an unknown id.
    Status write(EnetPeerId id, std::string_view data, std::uint8_t channel, EnetMode mode);
    Status close(EnetPeerId id, std::uint32_t code = 0);
    Status abort(EnetPeerId id);
    Result<Address> address(EnetPeerId id);
    Result<std::uint32_t> round_trip_ms(EnetPeerId id);
    // The cookie by which the peer's address has proven itself, or this side's at a listener. Of a
    // listener's peer: that of a period. Errors: dead, not_found (too long ago).
    Result<Cookie> cookie(EnetPeerId id, std::uint32_t period);
    std::size_t unsent(EnetPeerId id);  // 0 for a dead one

    // The polling thread: its socket is readable.
    void on_ready(EnetHostId id);
    // A timer of `timers`: its session is a host.
    void on_timer(EnetHostId id);
    // The end of a turn, on its worker.
    void flush_turn();
    void release_owner(Handle owner);
    // No more peers: those there are get what waits and are closed with reason stopping.
    void begin_stop();

  private:
    struct Host;
    struct Peer {
        std::atomic<std::uint64_t> id{0};
        std::atomic<Host*> host{nullptr};
        // Guarded by the host's mutex.
        std::size_t index = 0;
        Address address;
    };
    struct Unflushed {
        const Enet* enet;
        EnetHostId id;
    };
    struct LockedHost {
        Host* host = nullptr;
        std::unique_lock<std::mutex> lock;
        explicit operator bool() const { return host != nullptr; }
        Host* operator->() const { return host; }
        Host& operator*() const { return *host; }
    };
    struct LockedPeer {
        Peer* peer = nullptr;
        LockedHost host;
        explicit operator bool() const { return peer != nullptr; }
    };

    static thread_local std::vector<Unflushed> unflushed_;

    LockedHost find(EnetHostId id);
    LockedPeer find(EnetPeerId id);
    LockedHost take_host(Handle owner, const EnetOptions& options);
    Status start(Host& host);
    Peer* take_peer(Host& host, std::size_t index, const Address& address);
    void end_peer(EnetPeerId id);
    void written(Host& host);
    void close_peers(Host& host, EnetReason reason);
    void settle(LockedHost host);
    void retire(LockedHost host);
    void arm(Host& host);

    Kernel& kernel_;
    Transport& transport_;
    UdpCounters& counters_;
    OwnerTimers* timers_ = nullptr;
    IdTable<EnetHostId, Host> hosts_;
    IdTable<EnetPeerId, Peer> peers_;
    OwnedIds owned_;  // hosts

    std::mutex pool_mutex_;
    // Guarded by pool_mutex_.
    std::vector<std::unique_ptr<Host>> all_hosts_;
    std::vector<Host*> free_hosts_;
    std::vector<std::unique_ptr<Peer>> all_peers_;
    std::vector<Peer*> free_peers_;
};

}  // namespace perilune
