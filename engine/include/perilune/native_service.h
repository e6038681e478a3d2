// NativeService: a service written in C++.
//
// Purpose:   what a host program registers with Node::register_service() and Lua services then
//            call like any other service.
// Threads:   an instance runs on one worker at a time, never twice at once, so its members need
//            no locks; its functions must not block. Promise may be used from any thread; all
//            else only from the service's own functions and callbacks.
// Ownership: the node owns instances. A Request lives for the one call; its Promise may outlive
//            it, the service and even the node.
//
//     class Adder : public perilune::NativeService {
//         perilune::Result<perilune::Values> on_message(perilune::Request& request) override {
//             if (request.command() != "add") return request.unknown();
//             total_ += request.argument(1).number();
//             return perilune::Values{total_};
//         }
//         double total_ = 0;
//     };
//
// Exceptions that leave a function of a service are caught and become its error.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "perilune/call.h"
#include "perilune/status.h"
#include "perilune/value.h"

namespace perilune {

class NativeActor;

// The answer to a request, given later; from Request::defer().
class Promise {
  public:
    Promise();   // of nothing: answers nobody
    ~Promise();  // not kept: the caller gets an error that says so
    Promise(Promise&& other) noexcept;
    Promise& operator=(Promise&& other) noexcept;

    // The caller's call returns `values`, or raises `message`. Any thread; only the first counts,
    // and nothing happens when the node has stopped meanwhile.
    void resolve(const Values& values = {});
    void fail(std::string_view message);

  private:
    friend class NativeActor;
    struct State;
    explicit Promise(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// A command that somebody sent.
class Request {
  public:
    std::string_view command() const { return command_; }
    // Argument number 1 and so on, as in Lua; nil beyond the last.
    const Value& argument(std::size_t number) const;
    const Values& arguments() const { return arguments_; }
    // Handle of who sent it; 0 for a host thread.
    std::uint64_t sender() const { return sender_; }
    // Whether somebody waits for the answer.
    bool is_call() const { return is_call_; }

    // The answer comes later, from the Promise; what on_message returns is ignored.
    Promise defer();
    // What to return for a command that the service doesn't have.
    Status unknown() const;

  private:
    friend class NativeActor;
    Request(NativeActor& actor, std::string_view command, Values arguments, std::uint64_t sender,
            bool is_call)
        : actor_(actor),
          command_(command),
          arguments_(std::move(arguments)),
          sender_(sender),
          is_call_(is_call) {}

    NativeActor& actor_;
    const std::string command_;
    const Values arguments_;
    const std::uint64_t sender_;
    const bool is_call_;
};

class NativeService {
  public:
    virtual ~NativeService() = default;

    // The first call. An error means that the service never was: whoever started it gets it.
    virtual Status on_start(const Value& options) {
        (void)options;
        return {};
    }

    // A command. What it returns is the reply; an error is what the caller's call raises.
    virtual Result<Values> on_message(Request& request) = 0;

    // A service that this one monitors has died: "exit", "stop", "kill", "error", ... `orderly`:
    // by its own exit, or stopped.
    virtual void on_down(std::uint64_t handle, std::string_view reason, bool orderly) {
        (void)handle;
        (void)reason;
        (void)orderly;
    }

    // The last call before an orderly end; not after a kill.
    virtual void on_stop(std::string_view reason) { (void)reason; }

  protected:
    // What a service can do. Not in the constructor: the service begins with on_start.

    std::uint64_t self() const;

    // Sends a command that nobody waits for. Errors: dead, overloaded; unsupported or too_large
    // where `arguments` can't be sent.
    Status send(const Receiver& to, std::string_view command, const Values& arguments = {});

    // Sends a request; `done` is called on this service's turn, once. `limit_ms` 0: no limit;
    // below 0: call_limit_ms of the config. When this service ends first, the outcome is
    // `cancelled`.
    void call(const Receiver& to, std::string_view command, const Values& arguments, CallDone done,
              std::int64_t limit_ms = -1);

    // Calls `action` once, or each `period_ms` (1 at least), on this service's turn, never early.
    // Returns what cancel() wants; 0 when there are too many timers. When the service is late, a
    // timer that repeats is called once, not for each period that has passed.
    std::uint64_t timeout(std::int64_t delay_ms, std::function<void()> action);
    std::uint64_t every(std::int64_t period_ms, std::function<void()> action);
    // False when it was gone already.
    bool cancel(std::uint64_t timer);

    // on_down is called once when the service dies. False when it is dead already.
    bool monitor(const Receiver& service);
    // The service of that name, or 0.
    std::uint64_t find(std::string_view name) const;
    // Ends this service after the function that runs now, on_stop first.
    void exit(std::string_view reason = "exit");

    // Monotonic time of the node in ms, with fractions.
    double now_ms() const;

    // Lines of the node's log under this service's name.
    void log_debug(std::string_view text) const;
    void log_info(std::string_view text) const;
    void log_warn(std::string_view text) const;
    void log_error(std::string_view text) const;

  private:
    friend class NativeActor;
    NativeActor* actor_ = nullptr;  // set before on_start
};

using NativeServiceFactory = std::function<std::unique_ptr<NativeService>()>;

}  // namespace perilune
