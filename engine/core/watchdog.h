// Watchdog: the thread that notices dispatches which do not end.
//
// Purpose:   keeps sockets, timers and other services going while a worker computes, reports a
//            dispatch over 100 ms, and interrupts one over 5 s.
// Threads:   one of its own, asleep while no worker runs; wake() from any.
// Ownership: part of the scheduler, whose workers it looks at.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "core/actor.h"
#include "perilune/status.h"

namespace perilune {

class WorkScheduler;
struct Worker;

class Watchdog {
  public:
    explicit Watchdog(WorkScheduler& scheduler);
    ~Watchdog();

    // Errors: unavailable, when the system has no thread left.
    [[nodiscard]] Status start();
    void stop();

    // The calling thread is `worker` from now on (null: none), for the signal's handler.
    static void adopt_thread(Worker* worker);

    // Takes the interrupt that waits for the dispatch which the calling thread is in. For
    // builds under ThreadSanitizer, which defers signals for as long as a loop runs: an actor
    // polls there.
    static bool take_request(InterruptLevel& level);

    // A worker begins to run. Costs one load unless the watchdog sleeps.
    void notice() {
        if (asleep_.load()) wake();
    }

    std::uint64_t long_dispatches() const { return long_dispatches_.load(); }
    std::uint64_t interrupts() const { return interrupts_.load(); }

  private:
    // What is known of one worker's running dispatch.
    struct Sight {
        std::uint64_t serial = 0;
        std::int64_t since_ns = 0;
        bool reported = false;
        bool asked_spare = false;
        std::int64_t interrupted_ns = 0;
    };

    void run();
    void wake();
    // Returns true while some dispatch is worth a look in 1 ms.
    bool look(std::int64_t now_ns);
    bool look_at(Worker& worker, Sight& sight, std::int64_t now_ns);
    void interrupt(Worker& worker, std::uint64_t serial, InterruptLevel level);

    WorkScheduler& scheduler_;
    int signal_ = 0;
    std::vector<Sight> sights_;  // watchdog's thread
    std::atomic<bool> asleep_{false};
    std::atomic<bool> stopping_{false};
    std::atomic<std::uint64_t> long_dispatches_{0};
    std::atomic<std::uint64_t> interrupts_{0};
    std::mutex mutex_;
    std::condition_variable signal_wake_;
    std::thread thread_;
};

}  // namespace perilune
