// MemoryTransport: a network inside the process, for seeded runs.
//
// Purpose:   connections are pairs of byte queues; what is sent arrives after a fixed latency of
//            virtual time, in the order of sending. Any address may be listened at; each is the
//            machine's own. Names are not looked up.
// Threads:   as Transport. The polling thread is whichever turn of its own actor hands out what
//            has arrived, so the seed decides about the order among connections and services.
// Ownership: owns all streams; must go before the kernel.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/kernel.h"
#include "net/transport.h"

namespace perilune {

class MemoryTransport final : public Transport {
  public:
    static constexpr std::size_t kCapacity = 256 * 1024;  // unread bytes of a direction

    explicit MemoryTransport(Kernel& kernel, std::int64_t latency_ns = kNsPerMs / 10);
    ~MemoryTransport() override;

    Status start(ReadyHandler handler) override;
    void stop() override;
    void post(std::function<void()> task) override;
    int listen(Address& address, int backlog) override;
    int accept(int listener, Address& peer) override;
    int watch_listener(int listener, std::uint64_t token, bool wanted) override;
    int connect(const Address& peer) override;
    int connect_result(int descriptor) override;
    int watch(int descriptor, std::uint64_t token) override;
    void set_no_delay(int, bool) override {}
    ssize_t receive(int descriptor, char* data, std::size_t size) override;
    ssize_t send(int descriptor, const iovec* pieces, int count) override;
    void end_sending(int descriptor) override;
    void close(int descriptor, bool reset) override;
    Address local_address(int descriptor) override;

  private:
    class Hand;
    struct Stream {
        int peer = -1;  // -1: refused, or gone
        Address local, remote;
        std::string inbox;  // arrived and unread, from `read` on
        std::size_t read = 0;
        std::size_t coming = 0;   // bytes on their way to it
        std::uint64_t token = 0;  // 0: not watched
        bool connected = false;
        bool refused = false;
        bool ended = false;  // the peer's end has arrived
        bool reset = false;
        bool full = false;  // a send didn't fit: its owner wants to hear of room
    };
    struct Listener {
        Address address;
        std::uint64_t token = 0;
        bool wanted = false;
        std::size_t backlog = 0;
        std::deque<int> waiting;
    };
    enum class What { bytes, end, reset, connected, refused, room, arrival, watched };
    struct Delivery {
        std::int64_t due_ns;
        What what;
        int to;
        std::string bytes;
    };

    // All private functions but hand_out() want the mutex held.
    void deliver(What what, int to, std::string bytes = {});
    void wake();
    void hand_out();
    std::uint32_t apply(const Delivery& delivery, std::uint64_t& token);
    void close_locked(int descriptor, bool reset);
    int find_listener(const Address& address) const;

    Kernel& kernel_;
    const std::int64_t latency_ns_;
    ReadyHandler handler_;
    ActorCell* cell_ = nullptr;
    Handle self_;
    std::unique_ptr<OwnerTimers> timers_;

    std::mutex mutex_;
    // Guarded by mutex_.
    bool woken_ = false;
    int next_descriptor_ = 1;
    std::uint16_t next_port_ = 32768;
    std::map<int, Stream> streams_;      // by descriptor
    std::map<int, Listener> listeners_;  // by descriptor
    std::deque<std::function<void()>> tasks_;
    std::deque<Delivery> deliveries_;  // in the order of `due_ns`
};

}  // namespace perilune
