// NativeActor: a native service as the kernel runs it.
//
// Purpose:   turns messages into calls of a NativeService and what these return into answers;
//            keeps its open calls, timers and monitors.
// Threads:   the worker that runs it, except where a function says otherwise.
// Ownership: its cell owns it; it owns the service. Promises share the Door, which they find
//            shut when the node has stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/kernel.h"
#include "perilune/native_service.h"

namespace perilune {

// The way back into a node for what may outlive it. Any thread.
class Door {
  public:
    explicit Door(Kernel& kernel) : kernel_(&kernel) {}
    // Calls `enter` with the kernel, unless the door is shut.
    template <typename Function>
    void pass(Function enter) {
        const std::lock_guard lock(mutex_);
        if (kernel_ != nullptr) enter(*kernel_);
    }
    void shut() {
        const std::lock_guard lock(mutex_);
        kernel_ = nullptr;
    }

  private:
    std::mutex mutex_;
    Kernel* kernel_;  // guarded by mutex_
};

// The tag of native services in the registry; kLuaService is that of the others.
inline constexpr std::uint8_t kNativeService = 2;

// What native services need of their node.
struct NativeWorld {
    Kernel& kernel;
    std::shared_ptr<Door> door;
    int call_limit_ms = 5000;
};

struct NativeStart {
    std::string script;
    std::string name;  // "" for none
    Value options;
    std::uint32_t mailbox = 0;
    // Who gets the handle once on_start has returned, or the failure.
    Handle from;
    std::uint64_t session = 0;
};

// Starts `service`. Errors, and then nothing is sent: exists (the name), unavailable (no slot).
Result<Handle> start_native(NativeWorld& world, std::unique_ptr<NativeService> service,
                            const NativeStart& start);

class NativeActor final : public Actor {
  public:
    NativeActor(NativeWorld& world, std::unique_ptr<NativeService> service, std::string script);
    ~NativeActor() override;

    void set_cell(ActorCell* cell, Handle handle);
    void set_options(Value options) { options_ = std::move(options); }

    void receive(MessagePtr message) override;
    Handle running_service() const override { return handle_; }

    // --- for NativeService, Request and Promise ---

    Kernel& kernel() { return world_.kernel; }
    Handle handle() const { return handle_; }
    std::string name() const;
    Status send(const Receiver& to, std::string_view command, const Values& arguments);
    void call(const Receiver& to, std::string_view command, const Values& arguments, CallDone done,
              std::int64_t limit_ms);
    std::uint64_t add_timer(std::int64_t delay_ms, std::int64_t period_ms,
                            std::function<void()> action);
    bool cancel(std::uint64_t timer);
    bool monitor(const Receiver& service);
    void exit(std::string_view reason) { exit_reason_ = reason; }
    Promise defer();

  private:
    enum class State : std::uint8_t { starting, running, dead };
    struct OpenCall {
        CallDone done;
        TimerId limit;
    };
    struct Timer {
        std::shared_ptr<std::function<void()>> action;  // it may cancel itself while it runs
        TimerId id;
        bool repeats;
    };

    void start(MessagePtr message);
    void command(MessagePtr message);
    void packet(MessagePtr message);
    void serve(MessagePtr message, const std::string& command, Values arguments);
    void timer(std::uint64_t session);
    void finish_call(std::uint64_t session, CallResult result);
    void stop(MessagePtr request);
    void stats(MessagePtr request);
    void down(const Message& message);
    void leave(std::string_view reason);
    void end(std::string_view reason, bool orderly);
    // Calls into the service; what it throws is logged and told. "" when it threw nothing.
    template <typename Function>
    std::string guarded(const char* what, Function body);

    NativeWorld& world_;
    const std::unique_ptr<NativeService> service_;
    const std::string script_;
    ActorCell* cell_ = nullptr;  // constant once launched, as handle_
    Handle handle_;
    std::unique_ptr<OwnerTimers> timers_;

    State state_ = State::starting;
    Value options_;
    std::vector<MessagePtr> held_;  // that came before on_start
    MessagePtr request_;            // the call being handled; null: nobody waits
    std::string exit_reason_;
    std::uint64_t next_session_ = 1;
    std::unordered_map<std::uint64_t, OpenCall> calls_;
    std::unordered_map<std::uint64_t, Timer> timer_actions_;
    std::unordered_set<Handle> monitored_;
    std::unordered_set<Handle> links_;  // whose death in bad order ends this one, too
    std::vector<Handle> watchers_;      // told when the mailbox has been answered
    std::string end_reason_;
    bool end_orderly_ = false;
    std::uint64_t messages_ = 0;
    std::uint64_t errors_ = 0;
};

}  // namespace perilune
