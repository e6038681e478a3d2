#include "core/poller_set.h"

#include <sys/epoll.h>

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <cerrno>
#include <system_error>
#include <utility>

namespace perilune {

namespace {

// Descriptors that are handed out before services run: what they read should still be in the
// processor's cache then.
constexpr int kBatch = 128;

}  // namespace

struct PollerSet::State {
    explicit State(Poller& poller_) : poller(poller_), context(poller_.context()), set(context) {}

    // Polling thread.
    void arm(const std::shared_ptr<State>& self) {
        set.async_wait(asio::posix::stream_descriptor::wait_read,
                       [self](const std::error_code& error) {
                           if (error || self->stopped) return;
                           self->hand_out();
                           self->arm(self);
                       });
    }
    void hand_out() {
        epoll_event events[kBatch];
        const int count = ::epoll_wait(set.native_handle(), events, kBatch, 0);
        for (int i = 0; i < count; ++i) handler(events[i].data.u64, events[i].events);
        if (count == kBatch) poller.enough();
    }
    int control(int operation, int descriptor, std::uint32_t events, std::uint64_t token) {
        epoll_event event{};
        event.events = events;
        event.data.u64 = token;
        return ::epoll_ctl(set.native_handle(), operation, descriptor, &event) == 0 ? 0 : -errno;
    }

    Poller& poller;
    asio::io_context& context;
    asio::posix::stream_descriptor set;
    Handler handler;
    bool stopped = false;
};

PollerSet::PollerSet(Poller& poller) : state_(std::make_shared<State>(poller)) {}

PollerSet::~PollerSet() { stop(); }

Status PollerSet::start(Handler handler) {
    const int set = ::epoll_create1(EPOLL_CLOEXEC);
    std::error_code error;
    if (set >= 0) state_->set.assign(set, error);
    if (set < 0 || error) {
        return Status::error(StatusCode::unavailable, "no descriptor for the set of sockets");
    }
    state_->handler = std::move(handler);
    state_->arm(state_);
    return {};
}

void PollerSet::stop() {
    state_->stopped = true;
    std::error_code ignored;
    state_->set.close(ignored);
    state_->handler = nullptr;
}

int PollerSet::add(int descriptor, std::uint32_t events, std::uint64_t token) {
    return state_->control(EPOLL_CTL_ADD, descriptor, events, token);
}

int PollerSet::change(int descriptor, std::uint32_t events, std::uint64_t token) {
    return state_->control(EPOLL_CTL_MOD, descriptor, events, token);
}

void PollerSet::post(std::function<void()> task) {
    asio::post(state_->context, [state = state_, task = std::move(task)] {
        if (!state->stopped) task();
    });
}

}  // namespace perilune
