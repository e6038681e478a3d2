// StackThread: a thread with room on its stack for deep recursion of services.
//
// Purpose:   std::thread can't choose the size of a stack, and the system's usual 8 MB, or less,
//            are not enough for coroutines in coroutines. Only what is touched is memory. Nor can
//            it wait for an end with a limit, or signal a thread that may just be ending.
// Threads:   start() and join(): the one that owns it. interrupt(): any.
// Ownership: whoever starts it joins it.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

#include "perilune/status.h"

namespace perilune {

// The deadline of who waits for as long as it takes.
inline constexpr std::int64_t kNoDeadline = INT64_MAX;

class StackThread {
  public:
    static constexpr std::size_t kStackBytes = 64u << 20;

    StackThread() = default;
    ~StackThread();  // Stops the process if it is joinable, as std::thread does.
    StackThread(const StackThread&) = delete;
    StackThread& operator=(const StackThread&) = delete;

    // Not while it is joinable. Errors: unavailable, when the system has no thread left.
    [[nodiscard]] Status start(std::function<void()> body);
    bool joinable() const { return joinable_; }
    // Waits until the body has returned. False when it hasn't at `deadline_ns` of the monotonic
    // clock: then it is still joinable.
    [[nodiscard]] bool join(std::int64_t deadline_ns);
    // Sends `signal` to the thread, unless its body has returned.
    void interrupt(int signal);

  private:
    static void* run(void* self);

    pthread_t thread_{};
    std::function<void()> body_;
    bool joinable_ = false;  // the owner's thread

    std::mutex mutex_;
    std::condition_variable ended_;
    bool runs_ = false;  // guarded by mutex_
};

}  // namespace perilune
