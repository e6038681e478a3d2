#include "core/stack_thread.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace perilune {

StackThread::~StackThread() {
    if (joinable_) std::abort();
}

void* StackThread::run(void* argument) {
    auto& self = *static_cast<StackThread*>(argument);
    self.body_();
    const std::lock_guard lock(self.mutex_);
    self.runs_ = false;
    self.ended_.notify_all();
    return nullptr;
}

Status StackThread::start(std::function<void()> body) {
    body_ = std::move(body);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    int error = 0;
    {
        // Nobody sees the thread before its id is written.
        const std::lock_guard lock(mutex_);
        error = pthread_create(&thread_, &attributes, run, this);
        runs_ = error == 0;
    }
    pthread_attr_destroy(&attributes);
    joinable_ = error == 0;
    if (joinable_) return {};
    return Status::error(StatusCode::unavailable, "the system has no thread left: %s",
                         std::strerror(error));
}

bool StackThread::join(std::int64_t deadline_ns) {
    {
        std::unique_lock lock(mutex_);
        const auto ended = [this] { return !runs_; };
        if (deadline_ns == kNoDeadline) {
            ended_.wait(lock, ended);
        } else {
            const std::chrono::steady_clock::time_point deadline{
                std::chrono::nanoseconds(deadline_ns)};
            if (!ended_.wait_until(lock, deadline, ended)) return false;
        }
    }
    pthread_join(thread_, nullptr);
    joinable_ = false;
    return true;
}

void StackThread::interrupt(int signal) {
    const std::lock_guard lock(mutex_);
    if (runs_) pthread_kill(thread_, signal);
}

}  // namespace perilune
