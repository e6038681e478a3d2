// StackThread: a thread with room on its stack for deep recursion of services.
//
// Purpose:   std::thread can't choose the size of a stack, and the system's usual 8 MB, or less,
//            are not enough for coroutines in coroutines. Only what is touched is memory.
// Threads:   the one that owns it.
// Ownership: whoever starts it joins it.
#pragma once

#include <pthread.h>

#include <functional>

namespace perilune {

class StackThread {
  public:
    static constexpr std::size_t kStackBytes = 64u << 20;

    StackThread() = default;
    ~StackThread();
    StackThread(const StackThread&) = delete;
    StackThread& operator=(const StackThread&) = delete;

    // Not while it is joinable. Stops the process when the system has no thread left.
    void start(std::function<void()> body);
    bool joinable() const { return started_; }
    void join();
    pthread_t native_handle() const { return thread_; }

  private:
    pthread_t thread_{};
    bool started_ = false;
};

}  // namespace perilune
