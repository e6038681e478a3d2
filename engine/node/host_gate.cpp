#include "node/host_gate.h"

#include <exception>
#include <utility>
#include <vector>

#include "node/calls.h"

namespace perilune {

// The gate's actor.
class HostGate::Receptionist final : public Actor {
  public:
    explicit Receptionist(HostGate& gate) : gate_(gate) {}
    // The first service of a kernel: it gets a handle.
    static Handle launch(HostGate& gate, Kernel& kernel) {
        ActorCell* cell = kernel.create_cell(std::make_unique<Receptionist>(gate));
        const Result<Handle> handle = kernel.add_service(cell, nullptr);
        kernel.launch(cell);
        return handle.ok() ? handle.value() : Handle{};
    }
    void receive(MessagePtr message) override { gate_.receive(std::move(message)); }
    Handle running_service() const override { return gate_.handle(); }

  private:
    HostGate& gate_;
};

HostGate::HostGate(Kernel& kernel)
    : kernel_(kernel), handle_(Receptionist::launch(*this, kernel)), timers_(handle_) {}

HostGate::~HostGate() { close("the node has stopped"); }

std::uint64_t HostGate::open(CallDone done) {
    const std::lock_guard lock(mutex_);
    if (closed_) return 0;
    const std::uint64_t session = next_session_++;
    sessions_.emplace(session, Session{std::move(done), {}});
    return session;
}

void HostGate::limit(std::uint64_t session, std::int64_t limit_ms) {
    if (limit_ms <= 0) return;
    {
        const std::lock_guard lock(mutex_);
        const auto found = sessions_.find(session);
        if (found == sessions_.end()) return;
        const std::int64_t due = TimerWheel::due_after(kernel_.clock().now_ns(), limit_ms);
        found->second.limit = kernel_.add_timer(timers_, session, due);
        if (found->second.limit) return;
    }
    (void)finish(session,
                 failed_call(Outcome::overloaded, "there are too many timers in the node"));
}

// An exception of the host's function ends nothing but that function.
void HostGate::tell(const CallDone& done, CallResult result) {
    try {
        done(std::move(result));
    } catch (const std::exception& failure) {
        kernel_.log().error("node", "error in the end of a call: %s", failure.what());
    } catch (...) {
        kernel_.log().error("node", "error in the end of a call: %s",
                            "an exception that is no std::exception");
    }
}

bool HostGate::finish(std::uint64_t session, CallResult result) {
    CallDone done;
    {
        const std::lock_guard lock(mutex_);
        const auto found = sessions_.find(session);
        if (found == sessions_.end()) return false;
        done = std::move(found->second.done);
        if (found->second.limit) kernel_.cancel_timer(timers_, found->second.limit);
        sessions_.erase(found);
    }
    tell(done, std::move(result));
    return true;
}

void HostGate::close(std::string_view reason) {
    std::unordered_map<std::uint64_t, Session> sessions;
    {
        const std::lock_guard lock(mutex_);
        closed_ = true;
        sessions.swap(sessions_);
        kernel_.timers().cancel_all(timers_);
    }
    for (auto& [session, entry] : sessions) {
        tell(entry.done, failed_call(Outcome::cancelled, std::string(reason)));
    }
}

void HostGate::receive(MessagePtr message) {
    switch (message->kind) {
        case MessageKind::reply:
        case MessageKind::failure:
            if (!finish(message->session, result_of(*message))) {
                kernel_.counters().late_replies.fetch_add(1, std::memory_order_relaxed);
            }
            return;
        case MessageKind::timer:
            (void)finish(message->session,
                         failed_call(Outcome::timeout, "no answer within the limit"));
            return;
        default: answer_error(kernel_, std::move(message), "this is a host program, not a service");
    }
}

}  // namespace perilune
