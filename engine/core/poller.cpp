#include "core/poller.h"

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>

namespace perilune {

struct Poller::State {
    // One thread at a time runs the context, which asio may know: it saves locking.
    asio::io_context context{1};
    asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
    asio::steady_timer alarm{context};
    std::int64_t armed_for = INT64_MAX;    // thread that waits
    bool alarm_moved = false;              // thread that waits
    std::atomic<bool> wake_posted{false};  // any
};

Poller::Poller() : state_(std::make_unique<State>()) {}
Poller::~Poller() = default;

asio::io_context& Poller::context() { return state_->context; }

void Poller::wait(std::int64_t deadline_ns) {
    State& state = *state_;
    // Re-arming costs a system call, so an alarm that rings earlier than needed is left: it
    // ends one wait for nothing.
    if (deadline_ns < state.armed_for) {
        state.armed_for = deadline_ns;
        state.alarm.expires_at(std::chrono::steady_clock::time_point(
            std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                std::chrono::nanoseconds(deadline_ns))));
        state.alarm.async_wait([&state](const std::error_code& error) {
            if (error) {
                state.alarm_moved = true;
            } else {
                state.armed_for = INT64_MAX;
            }
        });
    }
    state.context.restart();
    // Moving the alarm completes its former wait, which is no reason to return.
    do {
        state.alarm_moved = false;
        state.context.run_one();
    } while (state.alarm_moved);
    state.context.poll();
}

void Poller::poll() {
    state_->context.restart();
    state_->context.poll();
}

void Poller::enough() { state_->context.stop(); }

void Poller::wake() {
    State& state = *state_;
    if (state.wake_posted.exchange(true)) return;
    asio::post(state.context, [&state] { state.wake_posted.store(false); });
}

}  // namespace perilune
