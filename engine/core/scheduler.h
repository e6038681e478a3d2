// Scheduler: decides which actor runs next, and on which thread.
//
// Purpose:   the interface that a seeded single-threaded run replaces.
// Threads:   schedule() from any; start() and stop() from the thread that owns the node.
// Ownership: refers to cells; a cell is in one run queue at most.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/actor.h"
#include "perilune/status.h"

namespace perilune {

// A turn is at most this many messages, or this long.
inline constexpr int kTurnMessages = 64;
inline constexpr int kTurnMs = 1;

struct SchedulerCounters {
    std::uint64_t turns = 0;
    std::uint64_t messages = 0;
    std::uint64_t steals = 0;
    std::uint64_t wakes = 0;  // parked workers and sleeping pollers that were woken
    std::uint64_t spares_started = 0;
    std::uint64_t spares_refused = 0;   // attempts for which the system had no thread
    std::uint64_t long_dispatches = 0;  // reported by the watchdog
    std::uint64_t interrupts = 0;       // ended by the watchdog
    std::int64_t mailbox_bytes = 0;     // in all mailboxes, but for small sums of the workers
    int workers = 0;
    int spares = 0;
};

class Scheduler {
  public:
    virtual ~Scheduler() = default;

    // Errors: unavailable (threads), and then none runs.
    [[nodiscard]] virtual Status start() = 0;
    // Ends all workers and joins them. What waits in mailboxes stays there. False when one is
    // still in a dispatch at `deadline_ns` of the monotonic clock; then it may be called again.
    [[nodiscard]] virtual bool stop(std::int64_t deadline_ns) = 0;

    // `cell` has something to do and is in no queue (PushResult::wake_actor). Any thread.
    virtual void schedule(ActorCell* cell) = 0;

    // A message of `bytes` is put into a mailbox. False when it is `bounded` and all mailboxes of
    // the node hold too much; then nothing is counted. Any thread; workers keep small sums to
    // themselves.
    virtual bool message_posted(std::int64_t bytes, bool bounded) = 0;
    // Messages of `bytes` in all were taken out of a mailbox.
    virtual void messages_taken(std::int64_t bytes) = 0;

    // A timer was added: who sleeps longer than until then must sleep less.
    virtual void timer_added(std::int64_t due_ns) = 0;

    // True on a thread that runs services of this scheduler.
    virtual bool on_worker() const = 0;

    virtual SchedulerCounters counters() const = 0;
};

}  // namespace perilune
