// WorkScheduler: the scheduler of a running node.
//
// Purpose:   workers with a queue each that steal from one another; the one that finds nothing
//            to run becomes the poller, the others park.
// Threads:   schedule() from any.
// Ownership: owns the workers and the watchdog's thread.
//
// How a cell comes to run:
//   - woken by the running service: it goes to its worker's "next" slot, and what was there to
//     the worker's queue. So a call and its reply stay on one core and nobody is woken. After
//     16 in a row the queue gets its turn. A dispatch that sends very much gives its next slot
//     away, so that consumer and producer run side by side.
//   - woken otherwise (timers, sockets, other threads): to a queue, and one parked worker, or
//     the sleeping poller, is woken.
// A sleeper announces itself, then looks at the queues once more; a waker fills the queue,
// then looks for sleepers. All of it is sequentially consistent, so one of them sees the other.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "core/scheduler.h"
#include "core/watchdog.h"
#include "core/worker.h"

namespace perilune {

class Kernel;

class WorkScheduler final : public Scheduler {
  public:
    explicit WorkScheduler(Kernel& kernel);
    ~WorkScheduler() override;

    Status start() override;
    bool stop(std::int64_t deadline_ns) override;
    void schedule(ActorCell* cell) override;
    bool message_posted(std::int64_t bytes, bool bounded) override;
    void messages_taken(std::int64_t bytes) override;
    void timer_added(std::int64_t due_ns) override;
    bool on_worker() const override;
    SchedulerCounters counters() const override;

  private:
    friend class Watchdog;

    Worker* current() const;
    void run(Worker& worker);
    ActorCell* take(Worker& worker);
    ActorCell* steal(Worker& worker);
    void run_one(Worker& worker, ActorCell* cell);
    void poll_if_due(Worker& worker, std::uint64_t now);
    void handle_events();
    std::int64_t alarm_for(std::int64_t due_ns) const;
    // False when a spare has been idle long enough to retire.
    bool idle(Worker& worker);
    bool park(Worker& worker);
    bool work_waits() const;
    void wake_somebody();
    bool unpark_one();
    Status start_worker(Worker& worker);
    bool start_spare();
    void requeue(Worker& worker, ActorCell* cell);
    void charge(Worker* worker, std::int64_t bytes);

    Kernel& kernel_;
    std::vector<std::unique_ptr<Worker>> workers_;  // constant after construction: all slots
    const int base_workers_;
    RunQueue injected_;  // from threads that are no workers

    std::atomic<bool> stopping_{false};
    std::atomic<bool> poller_taken_{false};
    std::atomic<bool> poller_sleeps_{false};
    std::atomic<std::int64_t> sleeps_until_{0};
    std::int64_t timers_handled_ns_ = 0;  // when some were due last; who has the poller's place
    std::atomic<int> running_{0};  // workers that are neither parked nor waiting in the poller
    std::atomic<std::int64_t> mailbox_bytes_{0};
    std::atomic<std::uint64_t> wakes_{0};
    std::atomic<std::uint64_t> spares_started_{0};
    std::atomic<std::uint64_t> spares_refused_{0};

    std::mutex parked_mutex_;
    std::vector<Worker*> parked_;  // guarded by parked_mutex_
    std::atomic<int> parked_count_{0};

    std::mutex spare_mutex_;  // guards starting and joining of spares

    Watchdog watchdog_;
};

}  // namespace perilune
