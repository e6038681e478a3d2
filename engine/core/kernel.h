// Kernel: the parts of a node that know neither Lua nor games, put together.
//
// Purpose:   actors, their mailboxes and handles; post() as the one way in; outcomes of calls;
//            death; timers; blocking work; shared data; the log.
// Threads:   any, except where a function says otherwise.
// Ownership: owns all parts below it. The environment (clock, random, log) is lent by the
//            node and outlives the kernel.
//
// Which lock may be taken while another is held: "Locks" in ARCHITECTURE.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/actor.h"
#include "core/blocking_pool.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/message.h"
#include "core/poller.h"
#include "core/random.h"
#include "core/registry.h"
#include "core/scheduler.h"
#include "core/shared_tree.h"
#include "core/stack_thread.h"
#include "core/timer_wheel.h"

namespace perilune {

struct KernelOptions {
    int workers = 0;      // threads that run services; 0: one a core
    int max_spares = 4;   // more threads while all workers are stuck in long dispatches
    bool seeded = false;  // one thread, virtual time, an order that `seed` decides
    std::uint64_t seed = 1;
    std::uint64_t mailbox_messages = kMailboxMessages;
    std::uint64_t mailbox_bytes = kMailboxBytes;
    std::uint64_t node_mailbox_bytes = 1u << 30;
    int report_ms = 100;       // a dispatch that takes longer is reported
    int interrupt_ms = 5000;   // ... and ended
    int interrupt_signal = 0;  // the real-time signal that interrupts; 0: SIGRTMIN + 4
    int blocking_threads = 0;  // 0: min(cores, 4)
    int blocking_queue = 256;
    std::uint32_t node_number = 0;
};

enum class PostResult : std::uint8_t { ok, dead, overloaded };

// What an operator sees. Each is counted once, where it happens.
struct KernelCounters {
    std::atomic<std::uint64_t> dead_letters{0};        // sends to services that had died
    std::atomic<std::uint64_t> refused_dead{0};        // posts refused: no such service
    std::atomic<std::uint64_t> refused_overloaded{0};  // posts refused: a mailbox was full
    std::atomic<std::uint64_t> late_replies{0};        // answers that nobody waited for any more
    std::atomic<std::uint64_t> calls_failed{0};        // outcomes other than ok and error
    std::atomic<std::uint64_t> services_started{0};
    std::atomic<std::uint64_t> services_ended{0};
};

class Kernel {
  public:
    struct Environment {
        Clock& clock;
        Random& random;
        Log& log;
        VirtualClock* virtual_clock = nullptr;  // the same clock, where the run is seeded
    };

    Kernel(const KernelOptions& options, const Environment& environment);
    ~Kernel();
    Kernel(const Kernel&) = delete;
    Kernel& operator=(const Kernel&) = delete;

    // Errors: unavailable (threads), and then nothing runs.
    [[nodiscard]] Status start();
    // Ends the threads. Actors that still live are destroyed without further messages: who
    // wants an orderly stop asks the services first. False when a thread is still in a C or C++
    // function at `deadline_ns` of the monotonic clock: then everything stays as it is, and it
    // may be called again.
    bool stop(std::int64_t deadline_ns = kNoDeadline);

    // --- actors and services ---

    // A cell for `actor`, with an open mailbox, as running: call launch() once its services
    // are registered. Any thread.
    ActorCell* create_cell(std::unique_ptr<Actor> actor);
    // Lets the scheduler have it.
    void launch(ActorCell* cell);

    Result<Handle> add_service(ActorCell* cell, void* local, std::uint32_t max_messages = 0,
                               std::uint8_t tag = 0);
    // The service is dead: its handle and names are gone at once. Returns who monitored it, for
    // tell_down(). What waits for it is answered `dead` when its actor meets it (see refuse);
    // its timers, sockets and open requests are its actor's to release.
    std::vector<Handle> remove_service(Handle handle);
    // The last act of a service: each monitor gets one `down` message with the reason, its
    // detail 1 where the service ended in good order.
    void tell_down(Handle handle, const std::vector<Handle>& watchers, std::string_view reason,
                   bool orderly = false);

    // --- messages ---

    // Gives `message` to its receiver. Takes it only when the result is ok.
    PostResult post(MessagePtr& message);
    // The same on the control list.
    PostResult post_control(MessagePtr message);

    // Turns a call into its failure and sends it back; a dead letter is counted where nobody
    // waits. `outcome` is not ok; a failure's payload is a text that says why, or empty.
    void refuse(MessagePtr message, Outcome outcome, std::string_view text = {});
    // Sends `message`, a call, back as its reply; its payload has been replaced.
    void answer(MessagePtr message, MessageKind kind, Outcome outcome);

    // --- time ---

    // Posts a timer message with `session` to the owner's service at `due_ns` (and every
    // `period_ns` from then on, if that is not 0; the next one only when this one was taken out
    // of the mailbox). An empty id: too many timers; nobody may go on as if there were one.
    TimerId add_timer(OwnerTimers& owner, std::uint64_t session, std::int64_t due_ns,
                      std::int64_t period_ns = 0) {
        return add_timer(owner, session, due_ns, period_ns, false);
    }
    // The same for what a service asks for at will: a limit for each owner, and a reserve that
    // is left for the engine's own timers, so that those of calls and connections never fail.
    TimerId add_bounded_timer(OwnerTimers& owner, std::uint64_t session, std::int64_t due_ns,
                              std::int64_t period_ns = 0) {
        return add_timer(owner, session, due_ns, period_ns, true);
    }
    bool cancel_timer(OwnerTimers& owner, TimerId timer) { return timers_.cancel(timer, &owner); }
    // Posts what is due. Returns the time when something was, else 0. The thread that polls.
    std::int64_t advance_timers();

    // Runs `work` on a thread of the blocking pool; then `done` is posted, with the payload
    // that `work` wrote into it. False when the pool is full ("busy"): then nothing happens and
    // `done` is freed. When the node stops first, `done` is posted with detail `cancelled`.
    bool run_blocking(std::function<void(Message& done)> work, MessagePtr done);

    // --- turns, for schedulers ---

    enum class TurnEnd { idle, again, buried };
    struct TurnStats {
        int messages = 0;
        std::uint64_t ended_at = 0;  // cycles
    };
    // Runs a turn of `cell` that began at `began_at` cycles (0: no limit of time).
    // `serial` is odd while a message is being handled.
    TurnEnd run_turn(ActorCell* cell, std::uint64_t began_at, std::atomic<std::uint64_t>& serial,
                     TurnStats& stats);

    // Called with each control message that is dropped because its receiver has died.
    void set_on_control_dropped(std::function<void(const Message&)> callback) {
        on_control_dropped_ = std::move(callback);
    }
    // Called on the worker whose turn made room in the mailbox of a cell that wanted it.
    void set_on_drained(std::function<void(ActorCell*)> callback) {
        on_drained_ = std::move(callback);
    }

    // Called on the worker at the end of each turn, also where an actor died in it: what the
    // turn wrote to connections leaves now.
    void add_on_turn_end(std::function<void()> callback) {
        on_turn_end_.push_back(std::move(callback));
    }

    const KernelOptions& options() const { return options_; }
    Clock& clock() { return environment_.clock; }
    Random& random() { return environment_.random; }
    Log& log() { return environment_.log; }
    Registry& registry() { return registry_; }
    Poller& poller() { return poller_; }
    TimerWheel& timers() { return timers_; }
    BlockingPool& blocking() { return blocking_; }
    SharedStore& shared() { return shared_; }
    Scheduler& scheduler() { return *scheduler_; }
    KernelCounters& counters() { return counters_; }
    bool seeded() const { return options_.seeded; }

  private:
    class TimerPoster;
    TimerId add_timer(OwnerTimers& owner, std::uint64_t session, std::int64_t due_ns,
                      std::int64_t period_ns, bool bounded);
    void bury(ActorCell* cell);
    void tell_drained(ActorCell* cell);
    void post_again(MessagePtr messages);
    std::int64_t now_ns() { return environment_.clock.now_ns(); }

    const KernelOptions options_;
    Environment environment_;
    KernelCounters counters_;
    Registry registry_;
    TimerWheel timers_;
    BlockingPool blocking_;
    SharedStore shared_;
    Poller poller_;
    std::function<void(ActorCell*)> on_drained_;              // constant after start
    std::function<void(const Message&)> on_control_dropped_;  // constant after start
    std::vector<std::function<void()>> on_turn_end_;          // constant after start
    std::uint64_t turn_cycles_ = 0;                           // constant

    std::mutex cells_mutex_;
    std::vector<std::unique_ptr<ActorCell>> cells_;  // guarded by cells_mutex_
    std::vector<ActorCell*> free_cells_;             // guarded by cells_mutex_

    std::unique_ptr<Scheduler> scheduler_;  // last: its threads use all of the above
};

}  // namespace perilune
