// Udp: datagrams and ENet peers of a node.
//
// Purpose:   what both share: an epoll set beside that of the streams, a service of the kernel
//            that gets timers, counters.
// Threads:   all functions, any thread, unless they say otherwise.
// Ownership: owns both. Made before the kernel starts, destroyed after it has stopped and before
//            it is destroyed.
//
// A seeded node has none of it: what strangers send can't be repeated.
#pragma once

#include <atomic>
#include <memory>

#include "core/kernel.h"
#include "net/datagrams.h"
#include "net/enet.h"
#include "net/transport.h"

namespace perilune {

class Udp {
  public:
    explicit Udp(Kernel& kernel);
    ~Udp();
    Udp(const Udp&) = delete;
    Udp& operator=(const Udp&) = delete;

    // Before the kernel starts. Errors: unavailable.
    Status start();
    // Sockets close; peers get what waits and are closed: counters().enet_peers falls to 0.
    void begin_stop();

    // Whether anything can be opened. Errors: unsupported (a seeded node), unavailable (it stops).
    Status usable() const;
    Datagrams& datagrams() { return datagrams_; }
    Enet& enet() { return enet_; }
    const UdpCounters& counters() const { return counters_; }

    void release_owner(Handle owner);

  private:
    class Helper;
    void on_ready(std::uint64_t token);

    Kernel& kernel_;
    const std::unique_ptr<Transport> transport_;  // null in a seeded node
    UdpCounters counters_;
    Datagrams datagrams_;
    Enet enet_;
    std::unique_ptr<OwnerTimers> timers_;  // constant after start
    std::atomic<bool> stopping_{false};
};

}  // namespace perilune
