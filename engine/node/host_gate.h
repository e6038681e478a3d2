// HostGate: where the answers to a host program's threads arrive.
//
// Purpose:   a reply needs somebody to come to. The gate has a handle, that of a small actor of its
//            own; each request of a host thread has a session, and what comes back ends it.
// Threads:   all functions, any thread. Callbacks run on the worker that runs the actor, or on the
//            thread that ended the session: by close(), or by finish().
// Ownership: the engine owns the gate, which goes before the kernel; the kernel owns the actor.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "core/kernel.h"
#include "perilune/call.h"

namespace perilune {

class HostGate {
  public:
    // Launches the actor.
    explicit HostGate(Kernel& kernel);
    ~HostGate();
    HostGate(const HostGate&) = delete;
    HostGate& operator=(const HostGate&) = delete;

    Handle handle() const { return handle_; }

    // A session whose end `done` is told. 0 when the gate is closed: then `done` isn't called.
    std::uint64_t open(CallDone done);
    // Ends a session as `timeout` after `limit_ms` > 0, if it lasts that long. After its request
    // was sent: virtual time may pass as soon as there is a timer and nothing else to do.
    void limit(std::uint64_t session, std::int64_t limit_ms);
    // Ends a session. False when it has ended already.
    bool finish(std::uint64_t session, CallResult result);
    // Ends all sessions as `cancelled`; none can be opened any more.
    void close(std::string_view reason);

  private:
    class Receptionist;
    struct Session {
        CallDone done;
        TimerId limit;
    };

    void receive(MessagePtr message);
    void tell(const CallDone& done, CallResult result);

    Kernel& kernel_;
    const Handle handle_;

    std::mutex mutex_;
    // Guarded by mutex_.
    std::unordered_map<std::uint64_t, Session> sessions_;
    std::uint64_t next_session_ = 1;
    bool closed_ = false;
    OwnerTimers timers_;
};

}  // namespace perilune
