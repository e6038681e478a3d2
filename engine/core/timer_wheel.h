// TimerWheel: calls back at a time, never early.
//
// Purpose:   any number of timers at a constant cost each: a hierarchical timing wheel
//            (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 7).
//            Ticks of 0.25 ms; one wheel of 1,024 slots and six of 64 cover 2^46 of them, which is
//            all that a signed 64-bit count of nanoseconds can say: nothing wraps.
// Threads:   all functions, any thread; one small mutex inside. Callbacks run without it, on
//            the thread that called advance().
// Ownership: a timer's state lives in the wheel. Who adds timers owns an OwnerTimers, which
//            knows their ids, so that all can be cancelled at once; it may be destroyed only when
//            it is empty, that is after cancel_all().
//
// Times are Clock::now_ns() of the node's clock, in nanoseconds.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/clock.h"
#include "core/ids.h"

namespace perilune {

// The timers of one owner. An expiry touches only the count here: ids of timers that are gone
// stay until room is needed for others, or no timer is left.
class OwnerTimers {
  public:
    // `owner` is handed to the callback; none (zero) is allowed.
    explicit OwnerTimers(Handle owner = {}) : owner_(owner) {}
    OwnerTimers(const OwnerTimers&) = delete;
    OwnerTimers& operator=(const OwnerTimers&) = delete;
    ~OwnerTimers();  // Stops the process if a timer is left.

  private:
    friend class TimerWheel;
    const Handle owner_;
    std::uint32_t count_ = 0;   // guarded by the wheel's mutex, as ids_
    std::vector<TimerId> ids_;  // of all its timers, and of some that were
};

// Who is told. The wheel holds no lock meanwhile, so it may add, cancel or post.
class TimerSink {
  public:
    virtual ~TimerSink() = default;

    // Timer `id` of `owner`, added with `session`, is due. A timer that does not repeat is
    // gone already. `due_ns` is the time that was asked for.
    virtual void expired(Handle owner, std::uint64_t session, TimerId id, std::int64_t due_ns) = 0;

    // The same for a timer that repeats. False: somebody will handle it later; until then, which
    // handled() tells, the timer is not called back: what is due meanwhile is skipped.
    virtual bool repeated(Handle owner, std::uint64_t session, TimerId id, std::int64_t due_ns) {
        expired(owner, session, id, due_ns);
        return true;
    }
};

struct TimerWheelOptions {
    std::int64_t start_ns = 0;          // now; the clock's time when the wheel is made
    std::uint64_t seed = 0;             // the generations of ids start at a number drawn from it
    std::uint32_t slots = kMaxSlots;    // timers at a time, at most
    std::uint32_t free_slots = 65'536;  // a slot is used again after so many others at least
    std::uint32_t generations = kMaxGeneration;  // uses of a slot until it retires
    // Of timers that are bounded: how many an owner may have, and how many slots are not for them.
    std::uint32_t per_owner = (1u << 20) - 1;
    std::uint32_t reserved = 1u << 18;
};

class TimerWheel {
  public:
    using Options = TimerWheelOptions;
    // The resolution. Finer than what is promised (1 ms), so that timers of several ticks may share
    // a wake-up (WorkScheduler) and are still in time.
    static constexpr std::int64_t kTickNs = kNsPerMs / 4;
    struct Counters {
        std::uint64_t added, expired, cancelled;  // since the start; a repetition is an expiry
        std::uint64_t skipped;  // repetitions that were due before the last one was handled
        std::uint64_t refused;  // adds that found no slot, or were over a limit
        std::uint32_t waiting;  // timers now
        std::uint32_t retired;  // slots that are used up
    };

    explicit TimerWheel(const Options& options = {});
    ~TimerWheel();
    TimerWheel(const TimerWheel&) = delete;
    TimerWheel& operator=(const TimerWheel&) = delete;

    // now + delay, saturating: negative delays count as 0, those beyond 292 years as the end
    // of time. A delay may be any integer that Lua has (2^53 ms).
    static std::int64_t due_after(std::int64_t now_ns, std::int64_t delay_ms);

    // Adds a timer that expires in the first tick whose time is at or after `due_ns`, and in
    // the next one when that is past. With `period_ns` > 0 it repeats at due_ns + n *
    // period_ns, exactly (no drift); expiries that were missed are skipped, not made up for.
    // Returns its id, or none when all slots are taken; with `bounded` also when its owner has
    // too many, or when the others' share of the slots is used up (see counters().refused).
    // next_due_ns() accounts for it when add() returns: who sleeps until an earlier
    // next_due_ns() needs waking if `due_ns` is before that.
    TimerId add(OwnerTimers& owner, std::uint64_t session, std::int64_t due_ns,
                std::int64_t period_ns = 0, bool bounded = false);

    // Cancels `id`. True: no callback of it happens any more. False: it isn't a waiting timer
    // (expired, cancelled, never was), or its callback is being handed out at this moment; a
    // repeating one stops after that. With `owner`, timers of all others count as unknown.
    bool cancel(TimerId id, const OwnerTimers* owner = nullptr);

    // Cancels all timers of `owner` in O(the most there were); those being handed out at this
    // moment still call back. Returns how many there were.
    std::size_t cancel_all(OwnerTimers& owner);

    // The last repetition of `id`, which TimerSink::repeated() left waiting, is handled.
    void handled(TimerId id);

    // When advance() has something to do, at the earliest: exact within the current 256 ms,
    // else a lower bound (the start of a slot of a larger wheel). INT64_MAX without timers.
    // One atomic load.
    std::int64_t next_due_ns() const { return next_due_ns_.load(); }

    // Hands all timers due at `now_ns` to `sink`, in order of their ticks and, within a tick,
    // of adding (a repetition counts as added when the one before expired). A call while
    // another is in progress, also from a callback, returns 0 at once: the first does its work.
    // Returns how many expired.
    std::size_t advance(std::int64_t now_ns, TimerSink& sink);

    Counters counters() const;

  private:
    static constexpr std::uint32_t kNone = 0xffffffff;
    static constexpr int kLevels = 7;
    static constexpr int kFirstBits = 10;  // slots of level 0: 2^10
    static constexpr int kBits = 6;        // of each other level: 2^6
    static constexpr int kLists = (1 << kFirstBits) + (kLevels - 1) * (1 << kBits);
    static constexpr std::uint32_t kChunkSize = 1024;  // timers to an allocation
    static constexpr std::size_t kSpareChunks = 64;    // empty chunks kept for use
    static constexpr std::uint32_t kBatch = 256;       // expiries, and
    static constexpr std::uint32_t kMoveBatch = 4096;  // moves, in one go under the mutex
    static constexpr std::size_t kKeptIds = 512;       // room that an owner without timers keeps

    struct Timer;    // a waiting timer
    struct Slot;     // what stays of it: the generation; and the next in its list
    struct Chunk;    // kChunkSize of both
    struct Expired;  // what a callback is given
    struct Unmap {
        void operator()(Timer* timers) const;
    };
    using Timers = std::unique_ptr<Timer[], Unmap>;
    struct List {
        std::uint32_t first = kNone;
        std::uint32_t last = kNone;
    };
    struct Place {  // a slot of a wheel that has timers, and the tick at which it begins
        int level;
        std::uint32_t list;
        std::int64_t tick;
    };

    static Timers map_timers();
    Timer& timer(std::uint32_t index);
    Slot& slot(std::uint32_t index);
    std::uint32_t first_generation(std::uint32_t index) const;
    std::uint32_t take_slot();
    bool only_reserve_left() const;
    void free_slot(std::uint32_t index);
    static std::uint32_t list_index(int level, std::int64_t tick);
    std::uint32_t list_for(std::int64_t tick) const;
    void append(std::uint32_t list, std::uint32_t index);
    void schedule(std::uint32_t index);
    void unlink(std::uint32_t index);
    void begin_list_at(std::uint32_t list, std::uint32_t index);
    bool is_live(TimerId id);
    void remember(OwnerTimers& owner, TimerId id);
    void remove(std::uint32_t index);
    bool find_first(Place& place) const;
    void publish_next_due();
    void spread(const Place& place);
    Expired expire(std::uint32_t index);
    void repeat(std::uint32_t index);
    std::uint32_t take_expired(const Place& place, Expired* batch);

    const std::uint64_t seed_;
    const std::uint32_t max_slots_;
    const std::uint32_t min_free_;
    const std::uint32_t per_owner_;
    const std::uint32_t reserved_;
    const std::uint32_t generations_;

    mutable std::mutex mutex_;
    // Guarded by mutex_.
    std::int64_t tick_;       // all ticks before it are done; itself unless its list has timers
    std::int64_t target_ns_;  // as far as advance() has been asked to go
    bool advancing_ = false;  // somebody is in advance()
    int moving_level_ = 0;    // > 0: the slot of tick_ there is being spread to lower levels
    std::array<List, kLists> lists_;
    std::array<std::uint64_t, kLists / 64> used_{};  // a bit for each list: has timers
    std::vector<Chunk> chunks_;
    std::vector<Timers> spare_chunks_;
    std::uint32_t slots_made_ = 0;
    List free_;  // first-in first-out
    std::uint32_t free_count_ = 0;
    Counters counters_{};

    std::atomic<std::int64_t> next_due_ns_;  // written under mutex_
};

}  // namespace perilune
