// Cycles: the cheapest clock there is, for measuring how long a turn has run.
//
// Purpose:   10 ns a reading, where a clock of the system costs 26 (measured); it is compared
//            with spans that cycles_per_ms() converts once.
// Threads:   any. Readings of different cores agree to well under a microsecond on processors
//            with an invariant counter, which all that run x86-64 servers today have.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#else
#include <ctime>
#endif

namespace perilune {

inline std::uint64_t cycles_now() {
#if defined(__x86_64__)
    return __rdtsc();
#else
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000000000u +
           static_cast<std::uint64_t>(now.tv_nsec);
#endif
}

// How many cycles make a millisecond, measured once a process, in a few ms of real time.
std::uint64_t cycles_per_ms();

}  // namespace perilune
