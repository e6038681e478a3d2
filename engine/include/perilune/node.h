// Node: a process's engine, or one of several in it.
//
// Purpose:   starts services, exchanges messages with them from the threads of a host program,
//            and stops them again. This header and those that it includes are all that a host
//            program sees: no Lua, nothing of the core.
// Threads:   register_*() and on_stopped() before start(), on one thread. After that all functions
//            from any thread that is not one of the node's own. Those that wait (spawn, call,
//            stop, wait, reload) refuse on the node's workers, where they would wait for
//            themselves; send, call_async and stats may be used there. Their limits are real
//            time, also where the node's own time is virtual.
// Ownership: a Node owns everything of the engine. Values are copied in and out. Nothing is
//            global: nodes in one process don't know of each other.
//
//     perilune::ConfigCheck check = perilune::load_config("config.lua");
//     perilune::Node node(check.config);
//     if (perilune::Status status = node.start(); !status.ok()) return fail(status.message());
//     perilune::CallResult sum = node.call("counter", "add", {5});
//     node.stop();
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "perilune/call.h"
#include "perilune/config.h"
#include "perilune/native_module.h"
#include "perilune/native_service.h"
#include "perilune/status.h"
#include "perilune/value.h"

namespace perilune {

// The engine's version, "0.1.0".
const char* version();

// Whether the engine was built with Debian's own LuaJIT, which can't interrupt compiled code:
// then services run interpreted.
bool stock_luajit();

struct ReloadResult {
    int services = 0;                   // that run a new script now
    std::vector<std::string> problems;  // a line for each that keeps the old one, with the reason
};

class Node {
  public:
    explicit Node(Config config = {});
    // Stops the node, within stop_limit_ms of the config. Where stop() had to leave a thread
    // behind, the memory of the node is left to it, with the native services in it.
    ~Node();
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    // --- before start() ---

    // A service written in C++. `script` is what it is spawned by, in config.services and with
    // spawn(), before a script of that name; `factory` makes an instance, on the thread that
    // spawns it.
    void register_service(const std::string& script, NativeServiceFactory factory);

    // A module that scripts get by require(name).
    void register_module(const std::string& name, NativeModule module);

    // Called once when the node has stopped, whoever stopped it, on the thread that did.
    void on_stopped(std::function<void()> callback);

    // --- life ---

    // Checks the config, starts the engine and then the services of the config, one after the
    // other. After an error nothing runs, and the node can't be started again; the message names
    // the option or the service: "config.lua:12: services[3] (gateway): ...".
    // Errors: invalid (config), unavailable (threads, files, a service that didn't start).
    Status start();

    // Stops the services of the config, last first, then all others, each with its on_stop; then
    // closes connections, delivering what waits, and ends the threads. What takes longer than
    // `limit_ms` in all is killed; below 0: stop_limit_ms of the config. Calls of host threads
    // that are still waiting end as `cancelled`. Returns when the node has stopped; true: all
    // services ended by themselves. Within 4 s after the limit it returns in any case: a thread
    // that is in a C or C++ function which doesn't return (of a native service, or of the system,
    // looking for a host name) is left behind then, and stop() may be called again to wait for it.
    bool stop(int limit_ms = -1);

    // Waits until the node has stopped; `limit_ms` 0: only asks, below 0: for ever. True when it
    // has.
    bool wait(int limit_ms = -1);

    bool running() const;

    // --- services and messages ---

    // Starts a service and waits until its on_start has returned. `name`: "" for none.
    // `limit_ms` 0: no limit; below 0: start_limit_ms of the config.
    // Errors: not_found (script), exists (name), invalid (it doesn't parse), unavailable (its
    // on_start failed, with its text; or the node doesn't run), timeout.
    Result<std::uint64_t> spawn(const std::string& script, const Value& options = {},
                                const std::string& name = {}, int limit_ms = -1);
    // The same with all that a config can say of a service.
    Result<std::uint64_t> spawn(const ServiceConfig& service, int limit_ms = -1);

    // Asks a service to end, on_stop first, and waits until it is dead. False when it was dead
    // already, or still isn't after `limit_ms`; 0: no limit.
    bool stop_service(const Receiver& service, int limit_ms = 10'000);

    // The service of that name, or 0.
    std::uint64_t find(std::string_view name) const;

    // Sends a command that nobody waits for.
    // Errors: dead, overloaded; unsupported or too_large where `arguments` can't be sent.
    Status send(const Receiver& to, std::string_view command, const Values& arguments = {});

    // Sends a request and waits for its result; `limit_ms` 0: no limit, below 0: call_limit_ms of
    // the config. On a worker it refuses with `cancelled`.
    CallResult call(const Receiver& to, std::string_view command, const Values& arguments = {},
                    int limit_ms = -1);

    // Sends a request; `done` is called once, on a worker (or on this thread, when the request
    // could not be sent): it must not block, and hands over to the program's own thread what
    // takes longer. An exception that leaves it is logged.
    void call_async(const Receiver& to, std::string_view command, const Values& arguments,
                    CallDone done, int limit_ms = -1);

    // Loads scripts again: those of the services of that name or script; "": all that changed.
    // Waits until every service runs the new one or has refused it. Errors: unavailable (the node
    // doesn't run, or another reload is under way), timeout (10 s).
    Result<ReloadResult> reload(const std::string& name = {});

    // --- what an operator sees ---

    // { services = count, counters = { name = number }, names = { name = handle } }
    Value stats() const;

    // Where the node listens: "0.0.0.0:6080".
    std::vector<std::string> addresses() const;

    const Config& config() const;

    // A line in the node's log, as "info" or "error".
    void log_info(std::string_view text);
    void log_error(std::string_view text);

  private:
    class Engine;
    std::unique_ptr<Engine> engine_;
};

}  // namespace perilune
