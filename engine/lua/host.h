// LuaHost: the Lua side of a node.
//
// Purpose:   starts services in VMs (alone, or many light ones in the VM of a group), keeps
//            what VMs share: scripts, memory pages, the budget of the JIT compiler, topics.
// Threads:   any, except where a function says otherwise.
// Ownership: refers to the kernel and what is outside, which outlive it; VMs belong to their cells.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/kernel.h"
#include "lua/page_pool.h"
#include "lua/script_cache.h"
#include "perilune/value.h"

struct lua_State;

namespace perilune {

class Databases;
class Network;
class Udp;
class Vm;

// Message::detail of a send whose command is the receiver's own choice (a topic): on_... may be.
inline constexpr std::uint8_t kOwnCommand = 1;
// Registry tag of services that are scripts.
inline constexpr std::uint8_t kLuaService = 1;
// Topics that one service may subscribe to; how long the name of one may be, and of its command.
inline constexpr std::size_t kMaxSubscriptions = 10'000;
inline constexpr std::size_t kMaxTopic = 128;
// How long a group without services keeps a VM for the next one: making one costs twenty times as
// much as a light service.
inline constexpr int kGroupIdleMs = 60'000;
// What a service that uses none of the changed scripts answers to a reload.
inline constexpr std::string_view kReloadSkipped = "-";

struct LuaHostOptions {
    std::vector<std::string> script_folders;  // services and the game's modules
    std::string library_folder;               // lualib
    std::string data_folder = "data";         // perilune.file stays below it
    std::string base_folder = ".";            // where relative paths of certificates start
    std::size_t memory_bytes = 256u << 20;  // soft limit of an isolated service, or of a group's VM
    int call_limit_ms = 5000;
    int start_limit_ms = 30000;
    int stop_limit_ms = 10000;
    bool jit = true;
    int jit_after_ms = 50;             // processor time after which a VM gets the compiler
    int jit_vms = 256;                 // VMs that may have it at a time
    int group_services = 512;          // light services a VM
    std::vector<std::string> trusted;  // scripts that get all of Lua: io, os, debug, ffi, jit
    Table env;                         // perilune.env(name)

    // A path that may be relative to base_folder; "" stays "".
    std::string from_base(std::string_view path) const;
};

struct SpawnRequest {
    std::string script;
    std::string options;           // a payload of one value, or empty
    std::string name;              // "" for none
    std::string group;             // "" for an isolated service
    std::size_t memory_bytes = 0;  // 0: the default
    std::uint32_t mailbox = 0;     // 0: the default
    // Who gets the reply, the handle, once on_start has returned; or the failure.
    Handle from;
    std::uint64_t session = 0;
    bool monitor = false;  // `from` monitors it
};

struct LuaHostCounters {
    std::atomic<std::uint64_t> services{0};  // scripts that run now
    std::atomic<std::uint64_t> vms{0};
    std::atomic<std::uint64_t> jit_vms{0};
    std::atomic<std::uint64_t> jit_promotions{0};
    std::atomic<std::uint64_t> lua_errors{0};
    std::atomic<std::uint64_t> monitors_refused{0};       // over kMaxMonitors
    std::atomic<std::uint64_t> subscriptions{0};          // of topics
    std::atomic<std::uint64_t> subscriptions_refused{0};  // over kMaxSubscriptions
    std::atomic<std::uint64_t> memory_kills{0};
    std::atomic<std::uint64_t> interrupted_requests{0};
    std::atomic<std::uint64_t> reloads{0};
    std::atomic<std::uint64_t> reload_refusals{0};
};

class LuaHost {
  public:
    using Opener = std::function<void(lua_State*)>;  // pushes the module's table

    // What services may use of the outside; each may be missing.
    struct Outside {
        Network* network = nullptr;
        Udp* udp = nullptr;
        Databases* databases = nullptr;
    };

    // Errors: unavailable (no addresses for the memory of VMs).
    static Result<std::unique_ptr<LuaHost>> create(Kernel& kernel, const Outside& outside,
                                                   LuaHostOptions options);
    ~LuaHost();

    // Registers a service and has it started; the reply goes to `from`. Fails at once, and then
    // nothing is sent, when the script isn't there or doesn't parse, the name is taken or all
    // handles are in use.
    Result<Handle> spawn(const SpawnRequest& request);

    // Asks a service to stop, on_stop first; the reply (true) goes to `from` when it is dead.
    // False when it is dead already: then no reply comes.
    bool stop(Handle handle, Handle from, std::uint64_t session, std::string_view reason = "stop");
    bool kill(Handle handle, std::string_view reason = "kill");

    // Has services load their script again: those of that name or of that script, or, with "",
    // all whose scripts have changed. When each has, `from` and `session` get the reply
    // {count, {problem, ...}}. False when a reload is under way already.
    bool reload(std::string_view name, Handle from, std::uint64_t session);

    // A module that scripts get by require(name). Before the first service.
    void add_module(const std::string& name, Opener opener);
    const Opener* find_module(std::string_view name) const;
    bool is_trusted(std::string_view script) const;

    // Topics. publish() returns to how many services it was sent.
    // Errors: invalid (the name of the topic or command is empty or over kMaxTopic), too_large
    // (the service has kMaxSubscriptions).
    Status subscribe(std::string_view topic, Handle handle, std::string_view command);
    void unsubscribe(std::string_view topic, Handle handle);
    int publish(std::string_view topic, Handle from, std::string_view payload);

    // unique(): who may start the service of a name. `started` answers those who wait.
    enum class Claim { taken, waiting, exists };
    Claim claim(std::string_view name, Handle from, std::uint64_t session, Handle* existing);
    void settle_claim(std::string_view name, Handle from, Handle started, std::string_view error);

    // --- for VMs ---

    // What becomes of a VM that has lost a service.
    enum class Remains { used, idle, nothing };
    // The service is gone: its topics and claims go, and its place in its group. `nothing`: its
    // VM has no service left and gets no new one; `idle`: it has none, and may get one.
    Remains service_ended(Handle handle, Vm* vm, bool was_light);
    // The VM of a group has been idle for kGroupIdleMs. True when it gets no new service.
    bool retire(Vm* vm);
    // One service of the reload under way is done; `problem` is "" when it runs the new script.
    void reload_done(std::string_view problem, const std::vector<std::string>& scripts = {});
    // True when `vm` may turn its compiler on now; the one that had it and was idle for longest
    // is told to give it up.
    bool promote(Vm* vm);
    void demoted(Vm* vm);
    void vm_ended(Vm* vm);

    Kernel& kernel() { return kernel_; }
    Network* network() { return outside_.network; }
    Udp* udp() { return outside_.udp; }
    Databases* databases() { return outside_.databases; }
    PagePool& pages() { return *pages_; }
    ScriptCache& scripts() { return scripts_; }
    ScriptCache& library() { return library_; }
    const LuaHostOptions& options() const { return options_; }
    LuaHostCounters& counters() { return counters_; }
    // What an operator sees of the node: perilune.NodeStats.
    Table node_stats();
    // Different for each VM; fixed by the seed in a seeded run.
    std::uint64_t next_vm_seed() { return kernel_.random().next() | 1; }

  private:
    // A VM of a group.
    struct Member {
        ActorCell* cell;
        Vm* vm;
        int services;
    };
    // A new service that its VM knows nothing of yet; a new VM has to be launched.
    struct Placed {
        Handle handle;
        ActorCell* cell;
        bool launch;
    };
    struct Subscriber {
        Handle handle;
        std::string command;
    };
    struct Claimed {
        Handle by;
        std::vector<std::pair<Handle, std::uint64_t>> waiting;
    };

    // What a reload that is under way waits for.
    struct Reload {
        int waiting = 0;
        int reloaded = 0;
        std::vector<std::string> problems;
        std::set<std::string> scripts;  // whose new text runs
        Handle from;
        std::uint64_t session = 0;
    };

    LuaHost(Kernel& kernel, const Outside& outside, LuaHostOptions options,
            std::unique_ptr<PagePool> pages);
    // A VM that nobody runs yet. Errors: unavailable (no handle for it).
    Result<Member> create_vm(const std::string& group, std::size_t memory_bytes);
    // Has a VM freed that was never launched.
    void discard(ActorCell* cell);
    Result<Placed> place_alone(const SpawnRequest& request);
    Result<Placed> place_in_group(const SpawnRequest& request);
    void answer(Handle to, std::uint64_t session, const Values& values);

    Kernel& kernel_;
    const Outside outside_;
    const LuaHostOptions options_;
    std::unique_ptr<PagePool> pages_;
    ScriptCache scripts_;
    ScriptCache library_;
    LuaHostCounters counters_;
    std::map<std::string, Opener, std::less<>> modules_;  // constant after start

    std::mutex groups_mutex_;
    // Guarded by groups_mutex_. None is without a VM.
    std::unordered_map<std::string, std::vector<Member>> groups_;

    std::mutex topics_mutex_;
    std::map<std::string, std::vector<Subscriber>, std::less<>> topics_;  // guarded by it
    std::unordered_map<Handle, std::vector<std::string>> topics_of_;      // guarded by it

    std::mutex claims_mutex_;
    std::map<std::string, Claimed, std::less<>> claims_;  // guarded by it

    std::mutex reload_mutex_;
    std::unique_ptr<Reload> reload_;  // guarded by reload_mutex_; null: none is under way

    std::mutex jit_mutex_;
    std::vector<Vm*> jit_vms_;  // guarded by jit_mutex_
};

}  // namespace perilune
