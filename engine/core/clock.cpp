#include "core/clock.h"

#include <time.h>

namespace perilune {

static std::int64_t read_clock(clockid_t id) {
    timespec time;
    clock_gettime(id, &time);  // cannot fail: these clocks exist on every Linux
    return std::int64_t{time.tv_sec} * kNsPerSecond + time.tv_nsec;
}

std::int64_t RealClock::monotonic() { return read_clock(CLOCK_MONOTONIC); }

std::int64_t RealClock::monotonic_coarse() { return read_clock(CLOCK_MONOTONIC_COARSE); }

std::int64_t RealClock::wall() { return read_clock(CLOCK_REALTIME); }

void VirtualClock::advance_to(std::int64_t time_ns) {
    std::int64_t now = now_.load();
    while (now < time_ns && !now_.compare_exchange_weak(now, time_ns)) {
    }
}

}  // namespace perilune
