// Transport: the network as the engine sees it, so that a seeded run can replace it.
//
// Purpose:   streams with the non-blocking calls of a socket and a way to hear that they are
//            ready. SystemTransport is the machine's TCP, MemoryTransport pairs of queues.
// Threads:   send() of one descriptor from any thread that holds its connection's lock; post()
//            from any; open and bind calls from any; close(), receive() and accept() on the
//            polling thread alone, so that none of them meets a descriptor that was reused.
// Ownership: whoever got a descriptor closes it. All calls that can fail return -errno.
//
// Readiness is edge triggered: the handler is told when a descriptor becomes readable or
// writable after a call on it returned -EAGAIN or less than was asked for.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "net/address.h"

namespace perilune {

inline constexpr std::uint32_t kReadable = 1;
inline constexpr std::uint32_t kWritable = 2;
inline constexpr std::uint32_t kEnded = 4;   // the peer sends no more
inline constexpr std::uint32_t kBroken = 8;  // reset, or both ends are done

class Transport {
  public:
    // What watch() was given, and what is ready. On the polling thread.
    using ReadyHandler = std::function<void(std::uint64_t token, std::uint32_t ready)>;

    virtual ~Transport() = default;

    // Once, before anything else. Errors: unavailable (no descriptor).
    virtual Status start(ReadyHandler handler) = 0;
    // No handler is called and no posted task runs any more. Not while a thread polls.
    virtual void stop() = 0;

    // Runs `task` on the polling thread, soon, in order.
    virtual void post(std::function<void()> task) = 0;

    // A listening descriptor. `address` becomes the one that it has (port 0: chosen).
    virtual int listen(Address& address, int backlog) = 0;
    // The next connection of `listener`, -EAGAIN when none waits.
    virtual int accept(int listener, Address& peer) = 0;
    // Listeners are level triggered; `wanted` false: no events until it is true again.
    virtual int watch_listener(int listener, std::uint64_t token, bool wanted) = 0;

    // A descriptor that is connecting: watch() says when it is writable or broken.
    virtual int connect(const Address& peer) = 0;
    // 0 when it is connected, or -errno.
    virtual int connect_result(int descriptor) = 0;

    // From now on the handler is called with `token` when something becomes ready (edge
    // triggered). 0 or -errno.
    virtual int watch(int descriptor, std::uint64_t token) = 0;
    // Whether small writes leave at once instead of waiting for more.
    virtual void set_no_delay(int descriptor, bool on) = 0;
    // Bytes read or sent, perhaps fewer than wanted; -EAGAIN: watch() tells when it is worth trying
    // again. 0 bytes read: the end.
    virtual ssize_t receive(int descriptor, char* data, std::size_t size) = 0;
    virtual ssize_t send(int descriptor, const iovec* pieces, int count) = 0;
    virtual void end_sending(int descriptor) = 0;  // the peer reads what was sent, then the end
    // `reset`: what is not yet sent is dropped, and the peer hears of an error.
    virtual void close(int descriptor, bool reset) = 0;

    virtual Address local_address(int descriptor) = 0;
};

}  // namespace perilune
