// eventually(): waits until a condition holds, instead of for a while.
//
// Purpose:   tests of what happens on other threads, also on a busy machine.
// Threads:   any; the condition is asked on the caller's.
// Ownership: none.
#pragma once

#include <chrono>
#include <thread>

namespace perilune::test {

// Whether the condition holds within `limit`, far more than anything takes.
template <typename Condition>
bool eventually(Condition condition, std::chrono::milliseconds limit = std::chrono::seconds(20)) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

}  // namespace perilune::test
