// Tasks, time and locks: fork, sleep, timers, tokens.

#include <new>

#include "lua/lua_core.h"
#include "lua/sandbox.h"
#include "lua/vm.h"

namespace perilune {

namespace {

constexpr lua_Number kMaxMs = 9007199254740992.0;  // 2^53

std::int64_t check_ms(lua_State* L, int index, lua_Number least) {
    const lua_Number ms = luaL_checknumber(L, index);
    if (!(ms >= least && ms <= kMaxMs)) {
        luaL_argerror(L, index, least > 0 ? "at least 1 ms expected" : "milliseconds expected");
    }
    // Never early: a fraction counts as a whole millisecond.
    const auto whole = static_cast<std::int64_t>(ms);
    return static_cast<lua_Number>(whole) < ms ? whole + 1 : whole;
}

int too_many(lua_State* L) {
    return luaL_error(L, "over a million tasks or timers wait here, or too many in the whole node");
}

// fork(body, ...)
int time_fork(lua_State* L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    Vm& vm = Vm::of(L);
    vm.fork(L, vm.service(L), lua_gettop(L) - 1);
    return 0;
}

// sleep(ms)
int time_sleep(lua_State* L) {
    const std::int64_t ms = check_ms(L, 1, 0);
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "perilune.sleep");
    if (ms == 0) {
        vm.make_ready(task);
    } else if (!vm.begin_sleep(task, ms)) {
        return too_many(L);
    }
    return lua_yield(L, 0);
}

// yield()
int time_yield(lua_State* L) {
    Vm& vm = Vm::of(L);
    vm.make_ready(vm.yieldable_task(L, "perilune.yield"));
    return lua_yield(L, 0);
}

int add_timer(lua_State* L, bool repeats) {
    const std::int64_t ms = check_ms(L, 1, repeats ? 1 : 0);
    const int type = lua_type(L, 2);
    luaL_argcheck(L, type == LUA_TFUNCTION || type == LUA_TSTRING, 2,
                  "a function, or the name of one of this service, expected");
    Vm& vm = Vm::of(L);
    const std::uint64_t id = vm.add_callback(L, vm.service(L), ms, repeats, 2, 3);
    if (id == 0) return too_many(L);
    lua_pushnumber(L, static_cast<lua_Number>(id));
    return 1;
}

// timeout(ms, command, ...) -> timer
int time_timeout(lua_State* L) { return add_timer(L, false); }
// every(ms, command, ...) -> timer
int time_every(lua_State* L) { return add_timer(L, true); }

// cancel(timer) -> boolean
int time_cancel(lua_State* L) {
    const lua_Number id = luaL_checknumber(L, 1);
    Vm& vm = Vm::of(L);
    const bool known =
        id >= 0 && id < kMaxMs && vm.cancel_callback(vm.service(L), static_cast<std::uint64_t>(id));
    lua_pushboolean(L, known ? 1 : 0);
    return 1;
}

// cancel_all() -> count
int time_cancel_all(lua_State* L) {
    Vm& vm = Vm::of(L);
    lua_pushinteger(L, vm.cancel_callbacks(vm.service(L)));
    return 1;
}

// now() -> ms
int time_now(lua_State* L) {
    lua_pushnumber(L, static_cast<lua_Number>(Vm::of(L).kernel().clock().now_ns()) / 1e6);
    return 1;
}

// time() -> seconds
int time_time(lua_State* L) {
    lua_pushnumber(L, static_cast<lua_Number>(Vm::of(L).kernel().clock().wall_ns()) / 1e9);
    return 1;
}

// --- tokens ---

// core token() -> token
int time_token(lua_State* L) {
    Vm& vm = Vm::of(L);
    const std::uint64_t token = vm.make_token(vm.service(L));
    if (token == 0) return too_many(L);
    lua_pushnumber(L, static_cast<lua_Number>(token));
    return 1;
}

// core wait(token, ms) -> ...
int time_wait(lua_State* L) {
    const lua_Number token = luaL_checknumber(L, 1);
    const std::int64_t ms = lua_isnoneornil(L, 2) ? 0 : check_ms(L, 2, 0);
    luaL_argcheck(L, token >= 0 && token < kMaxMs, 1, "a token expected");
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "this function");
    lua_settop(L, 0);
    int values = 0;
    switch (vm.wait_on(L, task, static_cast<std::uint64_t>(token), ms, &values)) {
        case 0: return lua_yield(L, 0);
        case 1: return values;
        case -2: return too_many(L);
        default: return luaL_error(L, "core.wait: this token is unknown or was used before");
    }
}

// core wake(token, ...) -> boolean
int time_wake(lua_State* L) {
    const lua_Number token = luaL_checknumber(L, 1);
    Vm& vm = Vm::of(L);
    const int values = lua_gettop(L) - 1;
    const bool woken = token >= 0 && token < kMaxMs &&
                       vm.wake(L, vm.service(L), static_cast<std::uint64_t>(token), values);
    lua_pushboolean(L, woken ? 1 : 0);
    return 1;
}

// core watch(token, index): the token is woken with (index, false, why) should the running task
// be killed, without index where that is nil
int time_watch(lua_State* L) {
    const lua_Number token = luaL_checknumber(L, 1);
    Vm& vm = Vm::of(L);
    vm.service(L);
    Task& task = *vm.current();
    task.watcher = token >= 0 && token < kMaxMs ? static_cast<std::uint64_t>(token) : 0;
    task.watcher_index = static_cast<int>(luaL_optinteger(L, 2, 0));
    return 0;
}

// --- locks ---

constexpr const char* kLockType = "perilune.lock";

// core lock() -> lock
int time_lock(lua_State* L) {
    Vm& vm = Vm::of(L);
    vm.service(L);
    new (lua_newuserdata(L, sizeof(Lock))) Lock;
    if (luaL_newmetatable(L, kLockType)) {
        lua_pushcfunction(L, [](lua_State* state) {
            static_cast<Lock*>(lua_touserdata(state, 1))->~Lock();
            return 0;
        });
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    vm.needs_close();
    return 1;
}

// core enter(lock)
int time_enter(lua_State* L) {
    auto& lock = *static_cast<Lock*>(luaL_checkudata(L, 1, kLockType));
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "perilune.queue");
    if (lock.owner == &task) {
        ++lock.depth;
        return 0;
    }
    if (lock.owner == nullptr) {
        vm.lock_enter(task, lock);
        return 0;
    }
    const std::uint64_t token = vm.make_token(*task.service);
    if (token == 0) return too_many(L);
    lock.waiting.push_back(token);
    int values = 0;
    vm.wait_on(L, task, token, 0, &values);
    return lua_yield(L, 0);
}

// core leave(lock)
int time_leave(lua_State* L) {
    auto& lock = *static_cast<Lock*>(luaL_checkudata(L, 1, kLockType));
    Vm& vm = Vm::of(L);
    if (lock.owner == nullptr || lock.owner != vm.current()) {
        return luaL_error(L, "core.leave: the running task doesn't hold this lock");
    }
    vm.lock_leave(lock);
    return 0;
}

}  // namespace

const luaL_Reg kTimeFunctions[] = {
    {"fork", time_fork},
    {"sleep", time_sleep},
    {"yield", time_yield},
    {"timeout", time_timeout},
    {"every", time_every},
    {"cancel", time_cancel},
    {"cancel_all", time_cancel_all},
    {"now", time_now},
    {"time", time_time},
    {"core_token", time_token},
    {"core_wait", time_wait},
    {"core_wake", time_wake},
    {"core_watch", time_watch},
    {"core_lock", time_lock},
    {"core_enter", time_enter},
    {"core_leave", time_leave},
    {nullptr, nullptr},
};

}  // namespace perilune
