// HostGate: the actor that stands for the threads of a host program.
//
// Purpose:   a reply needs somebody to come to. The gate has a handle; each request of a host
//            thread has a session of it, and what comes back ends that session.
// Threads:   all functions, any thread. Callbacks run on the worker that runs the gate, or on the
//            thread that ended the session: by cancel_all(), or a send that failed.
// Ownership: the kernel's cell owns the gate; the node refers to it as long as the kernel lives.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "core/kernel.h"
#include "perilune/call.h"

namespace perilune {

class HostGate final : public Actor {
  public:
    // Creates the gate in a cell of its own and launches it.
    static HostGate* create(Kernel& kernel);

    explicit HostGate(Kernel& kernel) : kernel_(kernel) {}
    ~HostGate() override;

    Handle handle() const { return handle_; }

    // A session whose end `done` is told. `limit_ms` <= 0: none. 0 when the gate is closed: then
    // `done` isn't called.
    std::uint64_t open(CallDone done, std::int64_t limit_ms);
    // Ends a session. False when it has ended already.
    bool finish(std::uint64_t session, CallResult result);
    // Ends all sessions as `cancelled`; none can be opened any more.
    void close(std::string_view reason);

    void receive(MessagePtr message) override;
    Handle running_service() const override { return handle_; }

  private:
    struct Session {
        CallDone done;
        TimerId limit;
    };

    Kernel& kernel_;
    Handle handle_;  // constant after create()

    std::mutex mutex_;
    // Guarded by mutex_.
    std::unordered_map<std::uint64_t, Session> sessions_;
    std::uint64_t next_session_ = 1;
    bool closed_ = false;
    std::unique_ptr<OwnerTimers> timers_;  // cancelled when the gate is closed
};

}  // namespace perilune
