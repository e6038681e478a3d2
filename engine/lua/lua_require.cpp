#include "lua/lua_require.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "lua/registry_keys.h"
#include "lua/sandbox.h"
#include "lua/vm.h"

extern "C" {
int luaopen_cjson(lua_State* L);
int luaopen_cjson_safe(lua_State* L);
int luaopen_lpeg(lua_State* L);
}

namespace perilune {

namespace {

const char kLoadingKey = 0;  // stands for a module that is being loaded

void* key_of(const char& key) { return const_cast<char*>(&key); }

}  // namespace

void push_vm_modules(lua_State* L) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, kModulesKey);
    if (lua_istable(L, -1)) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, kModulesKey);
}

namespace {

void push_service_modules(lua_State* L, Service& service) {
    if (service.loaded == LUA_NOREF) {
        lua_newtable(L);
        lua_pushvalue(L, -1);
        service.loaded = luaL_ref(L, LUA_REGISTRYINDEX);
        return;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.loaded);
}

void open_with(lua_State* L, lua_CFunction opener, const char* name) {
    lua_pushcfunction(L, opener);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
}

// cjson takes NaN and hexadecimal for numbers unless told not to.
void open_cjson(lua_State* L, lua_CFunction opener, const char* name) {
    open_with(L, opener, name);
    lua_getfield(L, -1, "decode_invalid_numbers");
    lua_pushboolean(L, 0);
    lua_call(L, 1, 0);
    Vm::of(L).needs_close();
}

// string.buffer without the methods that hand out raw memory: a pointer of ref() that was
// indexed has crashed the process.
void open_string_buffer(lua_State* L) {
    open_with(L, luaopen_string_buffer, "string.buffer");
    lua_getfield(L, -1, "new");
    lua_call(L, 0, 1);
    if (lua_getmetatable(L, -1)) {
        lua_getfield(L, -1, "__index");
        for (const char* name : {"ref", "reserve", "commit", "set"}) {
            if (!lua_istable(L, -1)) break;
            lua_pushnil(L);
            lua_setfield(L, -2, name);
        }
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
}

// Pushes a standard library; false when the allow-list has none of that name.
bool push_standard(lua_State* L, std::string_view name) {
    for (const char* global : {"string", "table", "math", "bit", "coroutine", "os", "debug"}) {
        if (name == global) {
            lua_getglobal(L, global);
            return true;
        }
    }
    if (name == "cjson") {
        open_cjson(L, luaopen_cjson, "cjson");
    } else if (name == "cjson.safe") {
        open_cjson(L, luaopen_cjson_safe, "cjson.safe");
    } else if (name == "lpeg") {
        open_with(L, luaopen_lpeg, "lpeg");
        guard_depth(L, "match");  // 10 KB of the stack of C
        Vm::of(L).needs_close();
    } else if (name == "string.buffer") {
        open_string_buffer(L);
        Vm::of(L).needs_close();
    } else {
        return false;
    }
    return true;
}

// Runs the script on top of the stack's ... pushes what it returns, true when that is nothing.
void run_module(lua_State* L, const char* name) {
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
}

[[noreturn]] void raise(lua_State* L, const Status& status) {
    // The text is copied by Lua before the error leaves this frame.
    luaL_error(L, "%s", status.message());
    std::abort();
}

// The engine's module of that name, at the VM's cost; false when there is none.
bool push_engine_module(lua_State* L, Vm& vm, const char* name) {
    if (const LuaHost::Opener* opener = vm.host().find_module(name)) {
        (*opener)(L);
        return true;
    }
    if (push_standard(L, name)) return true;
    if (std::strncmp(name, "perilune", 8) != 0) return false;
    const Result<std::shared_ptr<const Script>> script = vm.host().library().get(name);
    if (!script.ok()) {
        if (script.status().code() == StatusCode::not_found) return false;
        raise(L, script.status());
    }
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    const Status status = vm.push_script(L, script.value(), lua_gettop(L), false);
    if (!status.ok()) raise(L, status);
    lua_remove(L, -2);
    run_module(L, name);
    return true;
}

// True when require was called by a light service's own code, not by a library's.
bool light_code_calls(lua_State* L, Vm& vm) {
    lua_Debug record = {};
    if (vm.group().empty() || lua_getstack(L, 1, &record) == 0) return false;
    lua_getinfo(L, "f", &record);
    lua_getfenv(L, -1);
    const bool is_library = lua_rawequal(L, -1, LUA_GLOBALSINDEX) != 0;
    lua_pop(L, 2);
    return !is_library;
}

// Raises when the module on top is one that is being loaded.
void check_not_loading(lua_State* L, const char* name) {
    if (lua_touserdata(L, -1) == key_of(kLoadingKey)) {
        luaL_error(L, "module \"%s\" requires itself, directly or through another", name);
    }
}

}  // namespace

int lua_require(lua_State* L) {
    std::size_t size = 0;
    const char* name = luaL_checklstring(L, 1, &size);
    if (std::strlen(name) != size) return luaL_argerror(L, 1, "the name of a module expected");
    lua_settop(L, 1);
    Vm& vm = Vm::of(L);
    if (std::strncmp(name, "cjson", 5) == 0 && light_code_calls(L, vm)) {
        // It can be configured, so each light service has one of its own.
        push_service_modules(L, vm.service(L));
        lua_getfield(L, 2, name);
        if (!lua_isnil(L, -1)) return 1;
        if (push_standard(L, name)) {
            lua_pushvalue(L, -1);
            lua_setfield(L, 2, name);
            return 1;
        }
        lua_settop(L, 1);
    }
    push_vm_modules(L);  // 2
    lua_getfield(L, 2, name);
    if (!lua_isnil(L, -1)) return 1;
    lua_pop(L, 1);
    if (push_engine_module(L, vm, name)) {
        if (!vm.group().empty() && lua_istable(L, -1)) push_frozen(L);
        lua_pushvalue(L, -1);
        lua_setfield(L, 2, name);
        return 1;
    }
    Service& service = vm.service(L);
    const bool trusted = service.script != nullptr && vm.host().is_trusted(service.script->name);
    if (std::strcmp(name, "ffi") == 0 || std::strcmp(name, "jit") == 0) {
        if (trusted) {
            lua_getglobal(L, name);
            if (!lua_isnil(L, -1)) return 1;
        }
        return luaL_error(L,
                          "\"%s\" could crash the whole process: only services that config.lua "
                          "lists under `trusted` may have it",
                          name);
    }
    push_service_modules(L, service);  // 3
    lua_getfield(L, 3, name);
    if (!lua_isnil(L, -1)) {
        check_not_loading(L, name);
        return 1;
    }
    lua_pop(L, 1);
    const Result<std::shared_ptr<const Script>> script = vm.host().scripts().get(name);
    if (!script.ok()) raise(L, script.status());
    lua_pushlightuserdata(L, key_of(kLoadingKey));
    lua_setfield(L, 3, name);
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.environment);
    const Status status = vm.push_script(L, script.value(), lua_gettop(L), service.light);
    if (!status.ok()) raise(L, status);
    lua_remove(L, -2);
    lua_pushvalue(L, 1);
    // A module that fails to load may be tried again.
    if (lua_pcall(L, 1, 1, 0) != 0) {
        lua_pushnil(L);
        lua_setfield(L, 3, name);
        return lua_error(L);
    }
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, 3, name);
    if (service.modules == nullptr) service.modules = std::make_unique<Service::Modules>();
    Service::Modules& known = *service.modules;
    const auto entry = std::find_if(known.begin(), known.end(),
                                    [&](const auto& other) { return other.first == name; });
    if (entry == known.end()) known.emplace_back(name, script.value());
    return 1;
}

}  // namespace perilune
