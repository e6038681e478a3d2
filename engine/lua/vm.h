// Vm: a Lua state as an actor, with the service or the light services that live in it.
//
// Purpose:   unpacks messages onto coroutines, runs them, packs what they return; keeps their
//            limits: memory, time, who may wait for what.
// Threads:   the worker that runs it, except interrupt() (a signal on that worker).
// Ownership: its cell owns it; it owns the Lua state, the services and their tasks.
//
// Lua code is entered in one place, resume(), always in a coroutine: so a hook that yields ends
// it, whatever it does, and no C++ frame lies between.
#pragma once

#include <array>
#include <atomic>
#include <csignal>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/kernel.h"
#include "game/packet.h"
#include "lua.hpp"
#include "lua/arena.h"
#include "lua/host.h"
#include "lua/service_gate.h"
#include "lua/task.h"

namespace perilune {

class Vm final : public Actor {
  public:
    // `group`: "" for the VM of one isolated service.
    Vm(LuaHost& host, std::string group, std::size_t memory_bytes);
    ~Vm() override;

    // The VM of a Lua state. Any of its coroutines.
    static Vm& of(lua_State* L) {
        void* arena = nullptr;
        lua_getallocf(L, &arena);
        return *static_cast<VmArena*>(static_cast<Arena*>(arena))->vm;
    }

    // Set once, before the cell is launched. `own`: the handle of a group's VM itself.
    void set_cell(ActorCell* cell, Handle own);
    // When it ran last, on the coarse clock. Any thread.
    std::int64_t last_active_ns() const { return last_active_ns_.load(std::memory_order_relaxed); }
    // A service to which a control message for the whole VM may be sent. Any thread.
    Handle control_handle() const { return Handle{control_handle_.load()}; }
    ActorCell* cell() const { return cell_; }

    void receive(MessagePtr message) override;
    void turn_ends(std::uint64_t cycles) override;
    void expect_timer(const Message& next) override;
    void interrupt(InterruptLevel level) override;
    Handle running_service() const override;

    // --- for bindings ---

    LuaHost& host() { return host_; }
    Kernel& kernel() { return host_.kernel(); }
    lua_State* state() { return L_; }
    const std::string& group() const { return group_; }

    // The service and the task that run now. Raises outside of a task.
    Service& service(lua_State* L);
    // The same, and `L` is the task's own coroutine, so that it may yield. Raises when `what`
    // is called in a coroutine that the script made.
    Task& yieldable_task(lua_State* L, const char* what);
    Task* current() { return current_; }

    // A session for `task`, which is about to yield. `limit_ms` 0: none; only for calls.
    std::uint64_t begin_wait(Task& task, WaitKind kind, Handle target, std::int64_t limit_ms);
    // The same for a pause of `ms`, which a timer ends. False: too many wait already.
    bool begin_sleep(Task& task, std::int64_t ms);
    // Takes a wait back that is not to be.
    void drop_wait(std::uint64_t session);
    std::uint64_t make_token(Service& service);
    // -2: too many timers; -1: unknown or used; 0: the task has to yield; 1: woken before, the
    // values are pushed.
    int wait_on(lua_State* L, Task& task, std::uint64_t token, std::int64_t limit_ms, int* values);
    // Wakes with the `count` values on top of L's stack, which are popped.
    bool wake(lua_State* L, Service& service, std::uint64_t token, int count);

    // Runs the function below `arguments` values on top of L's stack in a new task later.
    void fork(lua_State* L, Service& service, int arguments);
    // The running task lets others run: it is resumed with nothing.
    void make_ready(Task& task);

    // Timers that call; the numbers are what perilune.cancel takes.
    std::uint64_t add_callback(lua_State* L, Service& service, std::int64_t delay_ms, bool repeats,
                               int function_index, int first_argument);
    bool cancel_callback(Service& service, std::uint64_t id);
    int cancel_callbacks(Service& service);

    // The running command of `task` doesn't answer; somebody else will.
    MessagePtr take_request(Task& task) { return std::move(task.request); }
    // Keeps a request that will be answered later, under a number; and gives it out again
    // (null: answered already).
    std::uint64_t defer(Service& service, MessagePtr request);
    MessagePtr take_deferred(Service& service, std::uint64_t number);
    // Answers `request` with the values first..top of L's stack, or with why that can't be.
    void reply(MessagePtr request, lua_State* L, int first);
    void reply_error(MessagePtr request, std::string_view text);

    // The service hears of the other's death, once. Errors: dead (already), too_large (it monitors
    // kMaxMonitors others).
    Status add_monitor(Service& service, Handle target);
    Status check_monitors(const Service& service);
    bool remove_monitor(Service& service, Handle target);
    // It ends when the other, which it monitors by now, dies in bad order.
    void add_link(Service& service, Handle other);

    void lock_enter(Task& task, Lock& lock) {
        lock.owner = &task;
        lock.depth = 1;
        lock.next = task.locks;
        task.locks = &lock;
    }
    void lock_leave(Lock& lock);

    // Ends the service after the current dispatch.
    void want_exit(Service& service, std::string_view reason);

    // Pushes a function that, called, runs the text of `script` in the environment at that
    // absolute index. `shared`: the VM keeps the prototypes for the next instance.
    Status push_script(lua_State* L, const std::shared_ptr<const Script>& script, int environment,
                       bool shared);
    // Pushes what require(name) gives the running service. False: pushes why it can't be had.
    bool push_library(lua_State* L, const char* name);

    // True when what a task runs is nested so deep in C that there may be no room for more.
    bool is_deep() const {
        constexpr std::ptrdiff_t kDeep = 8 << 20;
        return entry_frame_ - static_cast<const char*>(__builtin_frame_address(0)) > kDeep;
    }

    // How logs and errors call a service: its name, or its script and handle.
    std::string describe(const Service& service);
    // The latter, whatever its name.
    static std::string handle_name(const Service& service);
    Values stats(Service& service);
    // Something lives in the VM that only lua_close can free.
    void needs_close() { needs_close_ = true; }
    Service* find_service(Handle handle);

  private:
    // While it lives Lua is protected, so that huge requests may be refused. See Arena.
    class Protected {
      public:
        explicit Protected(Arena& arena) : arena_(arena), before_(arena.may_refuse(true)) {}
        ~Protected() { arena_.may_refuse(before_); }
        Protected(const Protected&) = delete;
        Protected& operator=(const Protected&) = delete;

      private:
        Arena& arena_;
        const bool before_;
    };

    struct VmArena : Arena {
        VmArena(PagePool* pool, Vm* owner) : Arena(pool), vm(owner) {}
        Vm* const vm;
    };
    // Tasks' calls with one limit, earliest deadline first (all have the same limit).
    struct LimitList {
        std::int64_t limit_ms = 0;
        std::uint32_t first = 0;
        std::uint32_t last = 0;
    };
    enum class Ending { yielded, error, killed };
    // Timer sessions of the host's own; those of waits begin at 2^20.
    static constexpr std::uint64_t kLimitsSession = 1;
    static constexpr std::uint64_t kStartSession = 2;
    static constexpr std::uint64_t kStopSession = 3;
    static constexpr std::uint64_t kIdleSession = 4;
    // A service that has died, and who is told.
    struct Ended {
        Handle handle;
        std::vector<Handle> watchers;
        std::string reason;
        bool orderly;
    };

    void open_state();
    static void over_limit(void* context);
    static void on_hook(lua_State* L, lua_Debug* record);
    void hook(lua_State* L);
    void disarm_hook();
    // No Lua runs any more: an interrupt that came too late, or a limit passed in C++, is
    // settled here.
    void settle_hook();
    void settle_kill();
    // The task that ran on `co` was told to end while it was in a loop of C, which raised.
    void interrupted_in_c(lua_State* co);
    std::string interrupt_text() const;
    std::string memory_text() const;
    std::string memory_limit_text() const;
    Service* largest_service();
    void end_for_memory(Service& service);
    // Ends others of the group as long as one of them has most. True when that was enough.
    bool end_largest_others();
    // Collects garbage; true when the VM is within its limit again.
    bool collect();
    void shrink();

    // Messages.
    void dispatch(Service& service, MessagePtr message);
    void start_service(MessagePtr message);
    void run_held(Service& service, MessagePtr message);
    void run_command(Service& service, MessagePtr message);
    void refuse_command(Service& service, MessagePtr message, std::string_view name);
    void run_event(Service& service, MessagePtr message);
    void run_datagram(Service& service, MessagePtr message);
    void run_database(Service& service, MessagePtr message);
    void mysql_connected(Service& service, const Message& message);
    void mysql_ready(Service& service, std::uint64_t id);
    void mysql_ended(Service& service, std::uint64_t id);
    void sqlite_answers(Service& service, const Message& message);
    void run_down(Service& service, MessagePtr message);
    void run_timer(Service& service, MessagePtr message);
    void finish_wait(Service& service, MessagePtr message);
    void stop_service(Service& service, MessagePtr request, std::string_view reason);
    struct Reloading;
    void reload_service(Service& service, MessagePtr request);
    void run_reload(Reloading& reloading);
    static int reload_protected(lua_State* L);
    void drop_unused_chunks();
    void inspect_service(Service& service, MessagePtr request);
    void hold(Service& service, MessagePtr message);

    // Packets.
    bool take_at_gate(Service& service, MessagePtr& message);
    void deliver_at_gate(Service& service, MessagePtr message);
    void run_unusual(Service& service, const ServiceGate::Unusual& unusual,
                     std::string_view packet);
    void run_packet(Service& service, MessagePtr message);
    void run_packet_command(Service& service, MessagePtr message, std::string_view name);
    void run_sent_packet(Service& service, MessagePtr message, std::size_t consumed);
    void run_request(Service& service, MessagePtr message, std::string_view address);
    void finish_packet(Task* task);
    void refuse_packet(Service& service, const Message& message, const char* code,
                       std::string_view why, std::uint64_t request_id);
    void fail_packet(Service& service, const Message& message, const PacketHeader& header,
                     std::string_view text);
    bool meets_another_gateway(int table, const PacketHeader& header, Handle gateway);
    Task* take_packet_task(Service& service, int place, const char* name, Handle sender);
    void open_packets(Service& service);
    void close_packets(Service& service);

    // Tasks.
    Task* take_task(Service& service, std::string_view name);
    void give_task(Task* task, bool reusable);
    void resume(Task* task, int arguments);
    void finish_task(Task* task);
    void fail_task(Task* task, Ending ending);
    void run_ready();
    void loaded(Task* task);
    void started(Service& service);
    void fail_start(Service& service, std::string_view text);
    void run_callback(Callback& callback);
    void begin_stop(Service& service, std::string_view reason);
    void end_service(Service& service, std::string_view reason);
    // The same before its start message has come: control messages overtake it.
    void end_unstarted(Handle handle, std::string_view reason);
    void tell_ended(Handle handle, std::vector<Handle> watchers, std::string_view reason,
                    bool orderly);
    void own_message(MessagePtr message);
    void tell_next_ended();
    void arm_idle(std::int64_t due_ns);
    void sweep_dead();
    // `ends`: the text says why the whole service ends.
    void report_error(Service& service, const char* what, std::string_view text,
                      std::string_view traceback, bool ends = false);
    void write_failure(Message& message, std::string_view text, std::string_view traceback,
                       lua_State* L, int value_index);
    bool unpack_onto(lua_State* L, const char* data, std::size_t size, int* count,
                     std::string* error);
    bool push_command(Service& service, std::string_view name);
    // Pushes the name of a command as a string.
    void push_name(std::string_view name);

    // Waits.
    Wait* find_wait(std::uint64_t session);
    Task* waiting_task(Service& service, std::uint64_t session);
    void finish_task_wait(Task* task, int count);
    std::uint32_t take_wait_slot();
    void free_wait(std::uint32_t index);
    std::uint64_t session_of(std::uint32_t index) const;
    void link_limit(std::uint32_t index, std::int64_t limit_ms);
    void unlink_limit(std::uint32_t index);
    void check_limits();
    void arm_limits();
    Callback* find_callback(std::uint64_t id);
    void free_callback(Callback& callback);
    // Pushes the table of what timers call.
    void push_callbacks(lua_State* L);
    // Puts a function, or its name, and its arguments there. Returns what now keeps them.
    const void* keep_callback(lua_State* L, std::uint32_t index, int function_index,
                              int first_argument, int count);

    void charge_to(Service* service);
    void consider_jit();

    LuaHost& host_;
    const std::string group_;
    ActorCell* cell_ = nullptr;
    VmArena arena_;
    lua_State* L_ = nullptr;

    Service* services_ = nullptr;
    int service_count_ = 0;
    Service* only_ = nullptr;     // the service of an isolated VM
    std::vector<Service*> dead_;  // to be freed when no dispatch runs
    Task* current_ = nullptr;
    const char* entry_frame_ = nullptr;  // the stack's end where Lua was entered
    Service* running_ = nullptr;         // whose dispatch it is
    std::atomic<std::uint64_t> running_handle_{0};
    Task* free_tasks_ = nullptr;
    std::vector<std::unique_ptr<Task>> tasks_;
    std::deque<std::pair<Task*, int>> ready_;  // and how many values they are resumed with
    bool ready_posted_ = false;

    std::vector<Wait> waits_{1};  // [0] is none
    std::uint32_t free_waits_ = 0;
    // Names of commands as strings of Lua's, which needn't be interned for each message.
    struct KnownName {
        char text[15];
        std::uint8_t size = 0;
        int reference = LUA_NOREF;
    };
    std::array<KnownName, 8> known_names_;
    std::vector<Callback> callbacks_{1};
    std::uint32_t free_callbacks_ = 0;
    int callback_values_ = LUA_NOREF;  // the table of what they call
    std::vector<LimitList> limits_{1};
    std::unique_ptr<OwnerTimers> limit_timer_;  // of the VM: the earliest of all limits
    TimerId limit_timer_id_;
    Handle own_handle_;  // a group's VM: what its own timers and messages are sent to
    TimerId idle_timer_id_;
    std::int64_t idle_since_ns_ = 0;  // a group's VM: when its last service died
    std::int64_t limit_timer_due_ = INT64_MAX;

    // Light: chunks whose prototypes the instances share.
    std::unordered_map<std::shared_ptr<const Script>, int> chunks_;

    // Written by a signal handler on this thread.
    volatile std::sig_atomic_t interrupt_level_ = 0;
    volatile std::sig_atomic_t over_limit_ = 0;
    bool masked_ = false;   // the hook has to wait: a reload is swapping
    bool killing_ = false;  // the hook ends the running task
    bool kill_for_memory_ = false;
    std::size_t limit_to_restore_ = 0;  // while the hook makes allocations fail
    std::string kill_text_;             // why
    std::string kill_traceback_;        // where it was

    // In the order of their deaths. Their monitors are told once what waited for them has been
    // answered: by a message behind it in a group, else by the destructor.
    std::deque<Ended> ended_;
    std::uint64_t next_deferred_ = 1;
    std::uint64_t charge_began_ = 0;  // light: cycles when charged_ began
    Service* charged_ = nullptr;
    bool needs_close_ = false;

    std::atomic<std::int64_t> last_active_ns_{0};
    std::atomic<std::uint64_t> control_handle_{0};

    std::uint64_t cycles_ = 0;  // since the start
    std::uint64_t cycles_at_jit_ = 0;
    bool jit_on_ = false;
};

}  // namespace perilune
