// Clock: what time it is, for timers and for people.
//
// Purpose:   an interface, so that a test or a seeded run can own time. Timers, limits and
//            deadlines use the monotonic times alone; wall time is only shown (time(), logs,
//            rows of a database), so a wall clock that jumps by a year moves no timer.
// Threads:   all functions, any thread.
// Ownership: the node owns its clock; others hold a reference that the node outlives.
//
// All times are nanoseconds: a signed 64-bit count holds 292 years.
#pragma once

#include <atomic>
#include <cstdint>

namespace perilune {

inline constexpr std::int64_t kNsPerUs = 1'000;
inline constexpr std::int64_t kNsPerMs = 1'000'000;
inline constexpr std::int64_t kNsPerSecond = 1'000'000'000;

// Sums and products of times that end at the end of time instead of beyond it.
constexpr std::int64_t saturating_add(std::int64_t time_ns, std::int64_t more_ns) {
    std::int64_t sum = 0;
    return __builtin_add_overflow(time_ns, more_ns, &sum) ? INT64_MAX : sum;
}
constexpr std::int64_t ms_to_ns(std::int64_t ms) {
    std::int64_t ns = 0;
    return __builtin_mul_overflow(ms, kNsPerMs, &ns) ? INT64_MAX : ns;
}

class Clock {
  public:
    virtual ~Clock() = default;

    // Monotonic time since an unspecified start. Never goes back, never jumps.
    virtual std::int64_t now_ns() const = 0;

    // The same time line, cheaper: up to 4 ms behind now_ns(), never ahead of it. For
    // idle stamps and rate limits; not for computing when a timer is due.
    virtual std::int64_t coarse_ns() const = 0;

    // Nanoseconds since 1970-01-01 UTC. Follows the machine's clock at once, so it may jump
    // either way; a difference of two wall times says nothing.
    virtual std::int64_t wall_ns() const = 0;
};

// The machine's clocks. The static functions are the same without a virtual call.
class RealClock final : public Clock {
  public:
    std::int64_t now_ns() const override { return monotonic(); }
    std::int64_t coarse_ns() const override { return monotonic_coarse(); }
    std::int64_t wall_ns() const override { return wall(); }

    static std::int64_t monotonic();         // CLOCK_MONOTONIC
    static std::int64_t monotonic_coarse();  // CLOCK_MONOTONIC_COARSE
    static std::int64_t wall();              // CLOCK_REALTIME
};

// Time that stands still until someone advances it.
class VirtualClock final : public Clock {
  public:
    // 2024-01-01 00:00:00 UTC: the wall time at now_ns() == 0, the same in every run.
    static constexpr std::int64_t kWallStart = 1'704'067'200 * kNsPerSecond;

    std::int64_t now_ns() const override { return now_.load(); }
    std::int64_t coarse_ns() const override { return now_.load(); }
    std::int64_t wall_ns() const override { return kWallStart + now_.load() + wall_jump_.load(); }

    // Moves to `time_ns`; a time that has passed already changes nothing.
    void advance_to(std::int64_t time_ns);
    // Moves on by `delta_ns` >= 0.
    void advance_by(std::int64_t delta_ns) { advance_to(now_.load() + delta_ns); }
    // Lets wall time alone jump by `delta_ns`, either way, as an operator's `date -s` does.
    void jump_wall_by(std::int64_t delta_ns) { wall_jump_.fetch_add(delta_ns); }

  private:
    std::atomic<std::int64_t> now_{0};
    std::atomic<std::int64_t> wall_jump_{0};
};

}  // namespace perilune
