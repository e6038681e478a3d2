// Poller: waits for sockets and timers, for whichever worker has nothing else to do.
//
// Purpose:   asio's io_context without a thread of its own.
// Threads:   wait() and poll() by one thread at a time (the scheduler sees to it, whoever it
//            is); wake() and work posted to context() from any.
// Ownership: owns the io_context; sockets made on it must be closed before it goes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace asio {
class io_context;
}

namespace perilune {

class Poller {
  public:
    Poller();
    ~Poller();

    asio::io_context& context();

    // Blocks until something is ready, `deadline_ns` of the monotonic clock has come, or
    // wake() was called; then handles what is ready. INT64_MAX: no deadline.
    void wait(std::int64_t deadline_ns);

    // Handles what is ready now: all of it, if nobody calls enough().
    void poll();

    // A handler has made so much work that services should do it before more comes: what else
    // is ready waits for the next wait() or poll(). Only from a handler.
    void enough();

    // Makes a wait() return that blocks now or is about to. Any thread.
    void wake();

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace perilune
