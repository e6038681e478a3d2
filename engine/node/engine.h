// Engine: what a Node is made of.
//
// Purpose:   puts clock, log, kernel, network and Lua host together, and takes them apart again.
// Threads:   as Node. What a thread of the host does with the kernel happens under a shared lock of
//            life_mutex_, never while it waits; ending the kernel takes the lock alone.
// Ownership: owns all parts. They are destroyed with the node, so that who comes late finds a
//            stopped kernel and no dangling one.
//
// DESIGN of the stop
//   1. The services of the config, last first, each with its on_stop: a gateway, which is last,
//      stops accepting and tells its clients before what lies behind it goes.
//   2. All other services at once, and again what they started meanwhile.
//   3. What still lives when the time is over is killed.
//   4. Connections deliver what waits and close.
//   5. Calls of host threads that still wait end as cancelled; databases close; the workers end;
//      the log is flushed.
//   Nothing can end a thread in a C or C++ function that doesn't return. When the time is over it
//   is left behind, with all that it may still use: the engine is not destroyed then.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/kernel.h"
#include "core/log.h"
#include "core/random.h"
#include "data/databases.h"
#include "lua/host.h"
#include "net/network.h"
#include "net/udp.h"
#include "node/host_gate.h"
#include "node/native_actor.h"
#include "perilune/node.h"

namespace perilune {

class Node::Engine {
  public:
    explicit Engine(Config config);
    ~Engine();

    void register_service(const std::string& script, NativeServiceFactory factory);
    void register_module(const std::string& name, NativeModule module);
    void on_stopped(std::function<void()> callback) { on_stopped_ = std::move(callback); }

    Status start();
    bool stop(int limit_ms);
    bool wait(int limit_ms);
    bool running() const { return state_.load() == State::running; }
    // False when stop() had to leave a thread behind: then the engine must not be destroyed.
    bool threads_ended() const { return !threads_left_.load(); }

    Result<std::uint64_t> spawn(const ServiceConfig& service, int limit_ms);
    bool stop_service(const Receiver& service, int limit_ms);
    std::uint64_t find(std::string_view name) const;
    Status send(const Receiver& to, std::string_view command, const Values& arguments);
    CallResult call(const Receiver& to, std::string_view command, const Values& arguments,
                    int limit_ms);
    void call_async(const Receiver& to, std::string_view command, const Values& arguments,
                    CallDone done, int limit_ms);
    Result<ReloadResult> reload(const std::string& name);

    Value stats() const;
    std::vector<std::string> addresses() const;
    const Config& config() const { return config_; }
    void log(LogLevel level, std::string_view text);

  private:
    enum class State : std::uint8_t { fresh, starting, running, stopping, stopped };
    // Sends a request of the session; what it returns is why that failed.
    using Begin = std::function<std::optional<CallResult>(std::uint64_t session)>;

    Status check_config();
    Status open_log();
    Status build();
    Status start_services();
    std::optional<CallResult> begin_spawn(const ServiceConfig& service, std::uint64_t session,
                                          Handle* handle);
    CallResult spawn_and_wait(const ServiceConfig& service, int limit_ms, Handle* handle);
    std::optional<CallResult> begin_call(const Receiver& to, std::string_view command,
                                         const Values& arguments, std::uint64_t session);
    CallResult wait_for(const Begin& begin, std::int64_t limit_ms);

    bool shut_down(int limit_ms);
    bool end_threads(std::int64_t deadline_ns);
    bool stop_and_wait(Handle handle, std::int64_t deadline_ns);
    bool stop_others(std::int64_t deadline_ns);
    std::vector<Handle> others() const;
    void kill_others();
    void close_connections(std::int64_t deadline_ns);
    void end(State state);

    bool on_worker() const {
        Kernel* kernel = started_kernel_.load();
        return kernel != nullptr && kernel->scheduler().on_worker();
    }
    bool seeded() const { return config_.seed != 0; }
    bool is_native(const std::string& script) const { return factories_.count(script) != 0; }

    // Constant after start().
    Config config_;
    std::map<std::string, NativeServiceFactory> factories_;
    std::map<std::string, std::shared_ptr<const NativeModule>> modules_;
    std::function<void()> on_stopped_;

    // Made in this order, destroyed in reverse.
    std::unique_ptr<VirtualClock> virtual_clock_;
    std::unique_ptr<Clock> real_clock_;
    std::unique_ptr<Random> random_;
    std::unique_ptr<Log> log_;
    std::unique_ptr<Kernel> kernel_;
    std::unique_ptr<Network> network_;
    std::unique_ptr<Udp> udp_;
    std::unique_ptr<Databases> databases_;
    std::unique_ptr<LuaHost> host_;
    std::unique_ptr<NativeWorld> natives_;
    std::unique_ptr<HostGate> gate_;

    std::atomic<Kernel*> started_kernel_{nullptr};  // once its workers run
    std::atomic<State> state_{State::fresh};        // written under state_mutex_
    mutable std::shared_mutex life_mutex_;          // shared: the kernel runs on meanwhile

    std::mutex state_mutex_;
    std::condition_variable state_changed_;
    // Guarded by state_mutex_.
    std::uint64_t starting_session_ = 0;  // of the spawn that start() waits for
    bool stop_wanted_ = false;            // while it starts

    std::mutex end_mutex_;                   // one thread at a time ends those of the kernel
    std::atomic<bool> threads_left_{false};  // from the kernel's start; written under end_mutex_

    std::vector<Handle> started_;  // services of the config; the thread that starts or stops
};

}  // namespace perilune
