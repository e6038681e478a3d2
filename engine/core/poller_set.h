// PollerSet: descriptors of others that the poller watches for them.
//
// Purpose:   an epoll set of its own, whose readiness the poller's context waits for.
// Threads:   add(), change() and post(), any. The handler and posted tasks run on the polling
//            thread. start() and stop() once, stop() when no handler runs.
// Ownership: owns the set, not the descriptors; a descriptor that is closed leaves it. Must go
//            before the poller.
//
// Why a set: asio reads either into a buffer that each idle connection would have to hold, or after
// async_wait, which costs an epoll_ctl for each read (0.84 us of about 12 for an echo). One wait on
// the set costs that once for all that are ready together, arms reading and writing once for
// ever, and needs no memory for each operation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "core/poller.h"
#include "perilune/status.h"

namespace perilune {

class PollerSet {
  public:
    // `events`: flags of epoll.
    using Handler = std::function<void(std::uint64_t token, std::uint32_t events)>;

    explicit PollerSet(Poller& poller);
    ~PollerSet();

    // Errors: unavailable (no descriptor for the set).
    Status start(Handler handler);
    // No handler and no posted task is called any more.
    void stop();

    // 0 or -errno. `events`: flags of epoll; without EPOLLET they are reported until they end.
    int add(int descriptor, std::uint32_t events, std::uint64_t token);
    int change(int descriptor, std::uint32_t events, std::uint64_t token);

    // Runs `task` on the polling thread, unless stop() comes first.
    void post(std::function<void()> task);

  private:
    struct State;
    std::shared_ptr<State> state_;  // shared with what waits in the context
};

}  // namespace perilune
