// Services: spawn, stop, names, monitors, shared data, what is known of the node.

#include <cmath>
#include <cstdlib>

#include "lua/lua_codec.h"
#include "lua/lua_core.h"
#include "lua/lua_shared.h"
#include "lua/sandbox.h"
#include "lua/value_stack.h"
#include "lua/vm.h"

namespace perilune {

namespace {

// Reads an optional field of the table at `index`; raises when it has another type.
std::string_view optional_text(lua_State* L, const char* function, int index,
                               std::string_view fallback) {
    return lua_isnoneornil(L, index) ? fallback : check_text(L, function, index);
}

std::string string_field(lua_State* L, int index, const char* name) {
    lua_getfield(L, index, name);
    std::string value;
    if (!lua_isnil(L, -1)) {
        if (lua_type(L, -1) != LUA_TSTRING) {
            misuse(L, "perilune.spawn: `%s` is a string, this is a %s", name, luaL_typename(L, -1));
        }
        std::size_t size = 0;
        const char* text = lua_tolstring(L, -1, &size);
        value.assign(text, size);
    }
    lua_pop(L, 1);
    return value;
}

// A whole number from 1 to `most`; 0 where there is none.
std::uint32_t number_field(lua_State* L, int index, const char* name, std::uint32_t most) {
    lua_getfield(L, index, name);
    std::uint32_t value = 0;
    if (!lua_isnil(L, -1)) {
        if (lua_type(L, -1) != LUA_TNUMBER) {
            misuse(L, "perilune.spawn: `%s` is a number, this is a %s", name, luaL_typename(L, -1));
        }
        const lua_Number number = lua_tonumber(L, -1);
        if (!(number >= 1 && number <= most) || number != std::floor(number)) {
            misuse(L, "perilune.spawn: `%s` is a whole number from 1 to %d, this is %f", name,
                   static_cast<int>(most), number);
        }
        value = static_cast<std::uint32_t>(number);
    }
    lua_pop(L, 1);
    return value;
}

void check_spawn_keys(lua_State* L, int index) {
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pop(L, 1);
        const std::string_view key =
            lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : std::string_view();
        if (key != "name" && key != "group" && key != "memory_mb" && key != "mailbox" &&
            key != "monitor") {
            misuse(L,
                   "perilune.spawn: unknown option \"%s\" (name, group, memory_mb, mailbox, "
                   "monitor; the options of the service itself come before)",
                   lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?");
        }
    }
}

// core_spawn(script, options, spawn_options) -> handle, or a failure for core.finish
int service_spawn(lua_State* L) {
    const std::string_view script = check_text(L, "perilune.spawn", 1);
    lua_settop(L, 3);
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "perilune.spawn");
    if (!lua_isnil(L, 3)) {
        if (!lua_istable(L, 3)) {
            return argument_error(L, "perilune.spawn", 3, "a table of options expected");
        }
        check_spawn_keys(L, 3);
    }
    std::uint64_t session = 0;
    int failure = 0;
    {
        SpawnRequest request;
        request.script = script;
        request.from = task.service->handle;
        if (!lua_isnil(L, 3)) {
            request.name = string_field(L, 3, "name");
            request.group = string_field(L, 3, "group");
            request.memory_bytes = std::size_t{number_field(L, 3, "memory_mb", 65536)} << 20;
            request.mailbox = number_field(L, 3, "mailbox", 1'000'000);
            lua_getfield(L, 3, "monitor");
            request.monitor = lua_toboolean(L, -1) != 0;
            lua_pop(L, 1);
        }
        PayloadWriter out;
        Status packed = pack(L, 2, 2, out, "options");
        if (packed.ok() && request.monitor) packed = vm.check_monitors(*task.service);
        if (!packed.ok()) return misuse(L, "perilune.spawn: %s", packed.message());
        request.options.assign(out.data(), out.size());
        session = vm.begin_wait(task, WaitKind::call, {}, 0);
        if (session == 0) return misuse(L, "over a million tasks wait here");
        request.session = session;
        const Result<Handle> handle = vm.host().spawn(request);
        if (!handle.ok()) {
            vm.drop_wait(session);
            failure = push_failure(L, Outcome::error, handle.status().message());
            lua_pushnil(L);
            lua_pushstring(L, status_code_name(handle.status().code()));
            failure += 2;
        } else if (request.monitor) {
            (void)vm.add_monitor(*task.service, handle.value());  // there is room for it
        }
    }
    return failure != 0 ? failure : lua_yield(L, 0);
}

// core_stop(to, reason) -> true | false, or a failure
int service_stop(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1, "perilune.stop");
    const std::string_view reason = optional_text(L, "perilune.stop", 2, "stop");
    Task& task = vm.yieldable_task(L, "perilune.stop");
    if (to == task.service->handle) {
        return misuse(L, "perilune.stop: a service ends itself with perilune.exit");
    }
    const std::uint64_t session =
        vm.begin_wait(task, WaitKind::call, to, vm.host().options().stop_limit_ms + 5000);
    if (session == 0 || !vm.host().stop(to, task.service->handle, session, reason)) {
        if (session != 0) vm.drop_wait(session);
        lua_pushboolean(L, 0);
        return 1;
    }
    return lua_yield(L, 0);
}

// kill(to) -> boolean
int service_kill(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1);
    const std::string_view reason = optional_text(L, "perilune.kill", 2, "kill");
    lua_pushboolean(L, vm.host().kill(to, reason) ? 1 : 0);
    return 1;
}

// exit(reason)
int service_exit(lua_State* L) {
    const std::string_view reason = optional_text(L, "perilune.exit", 1, "exit");
    Vm& vm = Vm::of(L);
    vm.want_exit(vm.service(L), reason);
    return 0;
}

int service_self(lua_State* L) {
    lua_pushnumber(L, static_cast<lua_Number>(Vm::of(L).service(L).handle.value));
    return 1;
}

int service_sender(lua_State* L) {
    Vm& vm = Vm::of(L);
    vm.service(L);
    lua_pushnumber(L, static_cast<lua_Number>(vm.current()->sender.value));
    return 1;
}

// name(name)
int service_name(lua_State* L) {
    const std::string_view name = check_text(L, "perilune.name", 1);
    Vm& vm = Vm::of(L);
    const Status status = vm.kernel().registry().set_name(name, vm.service(L).handle);
    if (!status.ok()) return luaL_error(L, "perilune.name: %s", status.message());
    return 0;
}

// find(name) -> handle | nil
int service_find(lua_State* L) {
    const std::string_view name = check_text(L, "perilune.find", 1);
    const Handle handle = Vm::of(L).kernel().registry().find_name(name);
    if (handle) {
        lua_pushnumber(L, static_cast<lua_Number>(handle.value));
    } else {
        lua_pushnil(L);
    }
    return 1;
}

// monitor(to) -> boolean
int service_monitor(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1);
    const Status status = vm.add_monitor(vm.service(L), to);
    if (status.code() == StatusCode::too_large) {
        return misuse(L, "perilune.monitor: %s", status.message());
    }
    lua_pushboolean(L, status.ok() ? 1 : 0);
    return 1;
}

// unmonitor(to) -> boolean
int service_unmonitor(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1);
    lua_pushboolean(L, vm.remove_monitor(vm.service(L), to) ? 1 : 0);
    return 1;
}

// The other is stopped when the running service dies in bad order. Its mailbox may be full.
PostResult tie(Vm& vm, const Service& service, Handle to) {
    if (!vm.kernel().registry().alive(to)) return PostResult::dead;
    MessagePtr message = make_message(MessageKind::link, to, service.handle, 0);
    vm.kernel().registry().monitor(to, service.handle);
    const PostResult result = vm.kernel().post(message);
    if (result != PostResult::ok) vm.kernel().registry().unmonitor(to, service.handle);
    return result;
}

// core_tie(to) -> true, or false, "dead"|"overloaded"
int service_tie(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1);
    const PostResult result = tie(vm, vm.service(L), to);
    lua_pushboolean(L, result == PostResult::ok ? 1 : 0);
    if (result == PostResult::ok) return 1;
    lua_pushstring(L, result == PostResult::dead ? "dead" : "overloaded");
    return 2;
}

// link(to)
int service_link(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1);
    Service& service = vm.service(L);
    const bool monitored = service.monitors != nullptr && service.monitors->count(to) != 0;
    if (monitored && service.links != nullptr && service.links->count(to) != 0) return 0;
    Status status = vm.add_monitor(service, to);
    if (status.ok()) {
        const PostResult result = tie(vm, service, to);
        if (result == PostResult::dead) {
            status = Status::error(StatusCode::dead, "the service is dead");
        } else if (result == PostResult::overloaded) {
            status = Status::error(StatusCode::overloaded,
                                   "the service is overloaded: its mailbox is full");
        }
        if (!status.ok() && !monitored) vm.remove_monitor(service, to);
    }
    if (!status.ok()) return misuse(L, "perilune.link: %s", status.message());
    vm.add_link(service, to);
    return 0;
}

// core_claim(name) -> handle | nil (the caller starts it), or waits for who does
int service_claim(lua_State* L) {
    const std::string_view name = check_text(L, "perilune.unique", 1);
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "perilune.unique");
    const std::uint64_t session = vm.begin_wait(task, WaitKind::call, {}, 0);
    if (session == 0) return misuse(L, "over a million tasks wait here");
    Handle existing;
    switch (vm.host().claim(name, task.service->handle, session, &existing)) {
        case LuaHost::Claim::waiting: return lua_yield(L, 0);
        case LuaHost::Claim::exists:
            vm.drop_wait(session);
            lua_pushnumber(L, static_cast<lua_Number>(existing.value));
            return 1;
        case LuaHost::Claim::taken: break;
    }
    vm.drop_wait(session);
    return 0;
}

// core_settle(name, handle | nil, error): what became of a claim
int service_settle(lua_State* L) {
    std::size_t size = 0;
    const char* name = luaL_checklstring(L, 1, &size);
    const Handle handle{static_cast<std::uint64_t>(luaL_optnumber(L, 2, 0))};
    const char* error = luaL_optstring(L, 3, "");
    Vm& vm = Vm::of(L);
    vm.host().settle_claim({name, size}, vm.service(L).handle, handle, error);
    return 0;
}

// core_reload(name) -> services, problems; comes back when each service has answered
int service_reload(lua_State* L) {
    const std::string_view name =
        lua_isnoneornil(L, 1) ? std::string_view() : check_text(L, "perilune.reload", 1);
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "perilune.reload");
    const std::uint64_t session = vm.begin_wait(task, WaitKind::call, {}, 0);
    if (session == 0) return misuse(L, "over a million tasks wait here");
    if (!vm.host().reload(name, task.service->handle, session)) {
        vm.drop_wait(session);
        return misuse(L, "perilune.reload: another reload is under way");
    }
    return lua_yield(L, 0);
}

// shared(name, value) -> data | nil
int service_shared(lua_State* L) {
    const std::string_view name = check_text(L, "perilune.shared", 1);
    SharedStore& store = Vm::of(L).kernel().shared();
    if (lua_gettop(L) >= 2) {
        luaL_checktype(L, 2, LUA_TTABLE);
        PayloadWriter out;
        Status status = pack(L, 2, 2, out);
        if (status.ok()) status = store.put(name, out.data(), out.size());
        if (!status.ok()) {
            out = PayloadWriter();
            return misuse(L, "perilune.shared: %s", status.message());
        }
    }
    std::shared_ptr<const SharedTree> tree = store.get(name);
    if (tree == nullptr) {
        lua_pushnil(L);
        return 1;
    }
    Vm::of(L).needs_close();
    push_shared_tree(L, std::move(tree));
    return 1;
}

// core_data(script) -> what the script returns, run anew in an empty environment
int service_data(lua_State* L) {
    std::size_t size = 0;
    const char* name = luaL_checklstring(L, 1, &size);
    Vm& vm = Vm::of(L);
    vm.service(L);
    lua_settop(L, 1);
    lua_newtable(L);
    const Result<std::shared_ptr<const Script>> script = vm.host().scripts().refresh({name, size});
    Status status = script.status();
    if (script.ok()) status = vm.push_script(L, script.value(), 2, false);
    if (!status.ok()) return misuse(L, "%s", status.message());
    lua_call(L, 0, 1);
    return 1;
}

// core_texts(folder, ending) -> { name, text, name, text, ... } of the files beside scripts
int service_texts(lua_State* L) {
    const std::string_view folder = check_text(L, "core_texts", 1);
    const std::string_view ending = check_text(L, "core_texts", 2);
    const Result<std::vector<TextFile>> files = Vm::of(L).host().scripts().texts(folder, ending);
    if (!files.ok()) return misuse(L, "%s", files.status().message());
    lua_createtable(L, static_cast<int>(2 * files.value().size()), 0);
    int index = 0;
    for (const TextFile& file : files.value()) {
        lua_pushlstring(L, file.name.data(), file.name.size());
        lua_rawseti(L, -2, ++index);
        lua_pushlstring(L, file.text.data(), file.text.size());
        lua_rawseti(L, -2, ++index);
    }
    return 1;
}

// env(name) -> value
int service_env(lua_State* L) {
    const std::string_view name = check_text(L, "perilune.env", 1);
    for (const auto& [key, value] : Vm::of(L).host().options().env) {
        if (key.is_string() && key.string() == name) {
            push_value(L, value);
            return 1;
        }
    }
    const bool is_text = name.find('\0') == std::string_view::npos;
    lua_pushstring(L, is_text ? std::getenv(name.data()) : nullptr);  // nil of null
    return 1;
}

// core_inspect(to) -> stats, or a failure
int service_inspect(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1, "perilune.stats");
    Task& task = vm.yieldable_task(L, "perilune.stats");
    const std::uint64_t session = vm.begin_wait(task, WaitKind::call, to, 5000);
    if (session == 0) return misuse(L, "over a million tasks wait here");
    MessagePtr message = make_message(MessageKind::inspect, to, task.service->handle, session);
    if (vm.kernel().post_control(std::move(message)) != PostResult::ok) {
        vm.drop_wait(session);
        return push_failure(L, Outcome::dead, "the service is dead or never was");
    }
    return lua_yield(L, 0);
}

// core_inspect_self() -> stats
int service_inspect_self(lua_State* L) {
    Vm& vm = Vm::of(L);
    for (const Value& value : vm.stats(vm.service(L))) push_value(L, value);
    return 1;
}

// node() -> stats of the node
int service_node(lua_State* L) {
    push_value(L, Value(Vm::of(L).host().node_stats()));
    return 1;
}

}  // namespace

const luaL_Reg kServiceFunctions[] = {
    {"core_spawn", service_spawn},
    {"core_stop", service_stop},
    {"kill", service_kill},
    {"exit", service_exit},
    {"self", service_self},
    {"sender", service_sender},
    {"name", service_name},
    {"find", service_find},
    {"monitor", service_monitor},
    {"unmonitor", service_unmonitor},
    {"link", service_link},
    {"core_tie", service_tie},
    {"core_claim", service_claim},
    {"core_settle", service_settle},
    {"core_reload", service_reload},
    {"core_shared", service_shared},
    {"core_data", service_data},
    {"core_texts", service_texts},
    {"env", service_env},
    {"core_inspect", service_inspect},
    {"core_inspect_self", service_inspect_self},
    {"node", service_node},
    {nullptr, nullptr},
};

}  // namespace perilune
