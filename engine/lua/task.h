// Task: a coroutine that handles a message; Service: whose tasks they are; Wait: what a task
// that yielded waits for.
//
// Purpose:   the plain data of a VM, shared by vm.cpp and the bindings.
// Threads:   the worker that runs the VM.
// Ownership: the VM owns all of them; tasks and waits are pooled.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/message.h"
#include "core/timer_wheel.h"
#include "lua.hpp"
#include "lua/lua_rows.h"
#include "lua/script_cache.h"

namespace perilune {

class ServiceGate;
class ServicePackets;
struct Lock;
struct Service;

inline constexpr std::size_t kMaxMonitors = 100'000;  // of one service, links among them

// What a task is for, which decides what happens when it ends.
enum class Purpose : std::uint8_t {
    command,  // answer its request, if any
    packet,   // answer the client
    load,     // the script's text has run: it returned its tables
    start,    // on_start has run
    stop,     // on_stop has run
};

struct Task {
    lua_State* thread = nullptr;
    int reference = LUA_NOREF;  // of the thread, in Lua's registry
    Service* service = nullptr;
    Task* next = nullptr;  // among the service's tasks, or the free ones
    Task* previous = nullptr;
    MessagePtr request;      // the call that it answers; null: nobody waits for it
    MessagePtr packet;       // of a client, which it answers; `session` is its request_id, or 0
    Handle sender;           // who sent what it handles
    std::uint32_t wait = 0;  // what it waits for, 0 if nothing
    bool ready = false;      // in the VM's list of tasks to be resumed
    Purpose purpose = Purpose::command;
    Lock* locks = nullptr;          // locks that it holds
    std::unique_ptr<LuaRows> rows;  // while it waits for a database
    // Woken with {watcher_index unless 0, false, why} when the task is killed; 0: none.
    std::uint64_t watcher = 0;
    int watcher_index = 0;
    char name[24] = {};  // what it runs, for reports
};

enum class WaitKind : std::uint8_t { free, call, timer, token };

// One of these for each task that waits; its session names it together with a generation.
struct Wait {
    std::uint32_t generation = 0;
    WaitKind kind = WaitKind::free;
    Task* task = nullptr;  // null: a token that nobody waits on yet
    Service* service = nullptr;
    Handle target;  // whom a call went to
    TimerId timer;
    std::int64_t deadline_ns = 0;  // of a call with a limit
    std::uint32_t list = 0;        // the limit's list, 0 if none
    std::uint32_t next = 0;        // in that list, or among the free
    std::uint32_t previous = 0;
    int woken_with = LUA_NOREF;  // a token woken before it was waited on: its values
};

// A timer that calls a function. Lua's side of it is in a table of the VM, at the same index:
// the function or its name; or where there are arguments a table {function, argument...}.
struct Callback {
    std::uint32_t generation = 0;
    std::uint32_t next = 0;  // among the free
    Service* service = nullptr;
    TimerId timer;
    const void* object = nullptr;  // what is in the table: only ever prefetched
    int argument_count = 0;
    bool repeats = false;
};

struct Lock {
    Task* owner = nullptr;
    int depth = 0;
    Lock* next = nullptr;               // among the owner's
    std::deque<std::uint64_t> waiting;  // tokens, in the order of coming
};

struct Service {
    enum class State : std::uint8_t { starting, running, stopping, dead };

    explicit Service(Handle own);
    ~Service();

    const Handle handle;
    State state = State::starting;
    bool light = false;
    bool has_level = false;  // of logging, its own
    bool bounded = false;    // its slot in the registry counts what waits for it
    OwnerTimers timers;
    std::shared_ptr<const Script> script;
    int environment = LUA_NOREF;
    int commands = LUA_NOREF;
    int clients = LUA_NOREF;
    int loaded = LUA_NOREF;  // modules of the game that it required
    using Modules = std::vector<std::pair<std::string, std::shared_ptr<const Script>>>;
    std::unique_ptr<Modules> modules;   // the texts of these modules
    int events = LUA_NOREF;             // kind -> function
    std::unique_ptr<ServiceGate> gate;  // of a gateway
    // Of one that has a second table; null until the first packet comes.
    std::unique_ptr<ServicePackets> packets;
    Task* tasks = nullptr;
    Service* next = nullptr;  // among the VM's
    Service* previous = nullptr;
    std::unique_ptr<std::vector<MessagePtr>> held;  // that came before on_start returned
    MessagePtr start_request;
    std::unique_ptr<std::vector<std::pair<std::uint64_t, MessagePtr>>> deferred;  // by number
    std::unique_ptr<std::vector<MessagePtr>> stop_requests;
    using Handles = std::unordered_set<Handle>;
    std::unique_ptr<Handles> monitors;  // services that it monitors
    std::unique_ptr<Handles> links;     // those of them that it is bound to
    std::size_t held_bytes = 0;
    bool orderly = false;     // it ends because it wants to, or was asked to
    std::string end_reason;   // while stopping
    std::string exit_reason;  // it wants to stop; "" while it doesn't
    std::int64_t memory = 0;  // light: bytes charged to it
    std::uint64_t messages = 0;
    std::uint32_t errors = 0;
    std::uint32_t task_count = 0;
    std::uint32_t timer_count = 0;
    std::uint32_t token_count = 0;
    std::uint32_t long_turns = 0;        // light: how often it held its group up
    std::uint64_t long_turns_since = 0;  // cycles
    std::uint64_t cycles = 0;
};

}  // namespace perilune
