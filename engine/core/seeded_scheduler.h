// SeededScheduler: a whole node on one thread, in an order that a seed decides.
//
// Purpose:   tests that fail can be run again: same seed, same order of events. Time is
//            virtual and jumps to the next timer when nothing else is left to do.
// Threads:   one of its own between start() and stop(); schedule() from any, but only what that
//            thread does itself is reproducible.
// Ownership: refers to cells.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "core/clock.h"
#include "core/random.h"
#include "core/scheduler.h"
#include "core/stack_thread.h"

namespace perilune {

class Kernel;

class SeededScheduler final : public Scheduler {
  public:
    SeededScheduler(Kernel& kernel, VirtualClock& clock, std::uint64_t seed);
    ~SeededScheduler() override;

    Status start() override;
    bool stop(std::int64_t deadline_ns) override;
    void schedule(ActorCell* cell) override;
    bool message_posted(std::int64_t bytes, bool bounded) override;
    void messages_taken(std::int64_t bytes) override;
    void timer_added(std::int64_t due_ns) override;
    bool on_worker() const override;
    SchedulerCounters counters() const override;

  private:
    void run();
    // One thing: a turn, a piece of blocking work, or the next timer. False: nothing to do.
    bool step();

    Kernel& kernel_;
    VirtualClock& clock_;
    SeededRandom random_;

    std::vector<ActorCell*> runnable_;  // the scheduler's thread
    int steps_of_patience_ = 0;         // the scheduler's thread
    std::atomic<std::uint64_t> serial_{0};
    std::atomic<std::uint64_t> turns_{0};
    std::atomic<std::uint64_t> messages_{0};
    std::atomic<std::int64_t> mailbox_bytes_{0};

    std::mutex mutex_;
    std::condition_variable signal_;
    std::deque<ActorCell*> injected_;  // guarded by mutex_
    bool stopping_ = false;            // guarded by mutex_
    StackThread thread_;
};

}  // namespace perilune
