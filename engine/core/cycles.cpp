#include "core/cycles.h"

#include <chrono>
#include <thread>

namespace perilune {

std::uint64_t cycles_per_ms() {
    // A constant of the machine, measured once a process: not state of a node.
    static const std::uint64_t measured = [] {
        using clock = std::chrono::steady_clock;
        const auto began = clock::now();
        const std::uint64_t from = cycles_now();
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        const std::uint64_t to = cycles_now();
        const auto span =
            std::chrono::duration_cast<std::chrono::nanoseconds>(clock::now() - began);
        return (to - from) * 1000000 / static_cast<std::uint64_t>(span.count());
    }();
    return measured;
}

}  // namespace perilune
