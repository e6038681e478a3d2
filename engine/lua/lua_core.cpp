#include "lua/lua_core.h"

#include <cmath>
#include <cstdarg>
#include <cstring>
#include <optional>
#include <string>

#include "lua/lua_shared.h"
#include "lua/sandbox.h"
#include "lua/service_packets.h"
#include "lua/vm.h"

namespace perilune {

namespace {

bool is_library(lua_State* L, std::string_view source) {
    const std::string_view folder = Vm::of(L).host().options().library_folder;
    return source.substr(0, 1) == "@" && source.substr(1, folder.size()) == folder;
}

// Pushes "<file>:<line>: " of the script that runs, below functions of the library.
void push_where(lua_State* L) {
    lua_Debug record = {};
    for (int level = 1; lua_getstack(L, level, &record) != 0; ++level) {
        lua_getinfo(L, "Sl", &record);
        if (record.currentline <= 0 || is_library(L, record.source)) continue;
        lua_pushfstring(L, "%s:%d: ", record.short_src, record.currentline);
        return;
    }
    lua_pushliteral(L, "");
}

}  // namespace

int misuse(lua_State* L, const char* format, ...) {
    push_where(L);
    va_list arguments;
    va_start(arguments, format);
    lua_pushvfstring(L, format, arguments);
    va_end(arguments);
    lua_concat(L, 2);
    return lua_error(L);
}

int argument_error(lua_State* L, const char* function, int index, const char* text) {
    return misuse(L, "bad argument #%d to '%s' (%s)", index, function, text);
}

std::string_view check_text(lua_State* L, const char* function, int index) {
    // No number either: as a name, 7 would be another service than the handle 7.
    if (lua_type(L, index) != LUA_TSTRING) {
        argument_error(L, function, index, "string expected");
    }
    std::size_t size = 0;
    const char* text = lua_tolstring(L, index, &size);
    return {text, size};
}

std::string_view check_bytes(lua_State* L, int index) {
    std::size_t size = 0;
    const char* bytes = luaL_checklstring(L, index, &size);
    return {bytes, size};
}

int push_error(lua_State* L, const Status& status) {
    lua_pushnil(L);
    lua_pushstring(L, status.message());
    lua_pushstring(L, status_code_name(status.code()));
    return 3;
}

int push_status(lua_State* L, const Status& status) {
    if (!status.ok()) return push_error(L, status);
    lua_pushboolean(L, 1);
    return 1;
}

int push_service_state(lua_State* L, const char* key) {
    const Service& service = Vm::of(L).service(L);
    if (service.events == LUA_NOREF) return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.events);
    lua_getfield(L, -1, key);
    return 1;
}

int keep_service_state(lua_State* L, const char* key) {
    luaL_checktype(L, 1, LUA_TTABLE);
    const Service& service = Vm::of(L).service(L);
    if (service.events == LUA_NOREF) return luaL_error(L, "set_state: on_event first");
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.events);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, key);
    return 0;
}

Handle check_address(lua_State* L, int index, const char* function) {
    if (lua_type(L, index) == LUA_TNUMBER) {
        const lua_Number number = lua_tonumber(L, index);
        if (number >= 0 && number < 9007199254740992.0 && number == std::floor(number)) {
            return Handle{static_cast<std::uint64_t>(number)};
        }
    } else if (lua_type(L, index) == LUA_TSTRING) {
        std::size_t size = 0;
        const char* name = lua_tolstring(L, index, &size);
        return Vm::of(L).kernel().registry().find_name({name, size});
    }
    const char* text = "a handle or the name of a service expected";
    function == nullptr ? luaL_argerror(L, index, text) : argument_error(L, function, index, text);
    return {};
}

namespace {

// core.native(name) -> function | nil
int core_native(lua_State* L) {
    const char* name = luaL_checkstring(L, 1);
    for (const luaL_Reg* functions : {kMessageFunctions, kServiceFunctions, kTimeFunctions}) {
        for (const luaL_Reg* entry = functions; entry->name != nullptr; ++entry) {
            if (std::strcmp(entry->name, name) == 0) {
                lua_pushcfunction(L, entry->func);
                return 1;
            }
        }
    }
    if (std::strcmp(name, "log") == 0) {
        push_log_library(L);
        if (!Vm::of(L).group().empty()) push_frozen(L);
        return 1;
    }
    return 0;
}

int log_write(lua_State* L, LogLevel level) {
    Vm& vm = Vm::of(L);
    Log& log = vm.kernel().log();
    if (!log.enabled(level)) return 0;
    const int count = lua_gettop(L);
    luaL_checkany(L, 1);
    if (count > 1) {
        // string.format of the state's own library, which a script can't replace.
        luaL_checkstring(L, 1);
        lua_pushliteral(L, "");
        lua_getfield(L, -1, "format");
        lua_replace(L, -2);
        lua_insert(L, 1);
        lua_call(L, count, 1);
    } else if (!lua_isstring(L, 1)) {
        lua_getglobal(L, "tostring");
        lua_insert(L, 1);
        lua_call(L, 1, 1);
    }
    std::size_t size = 0;
    const char* text = lua_tolstring(L, -1, &size);
    if (text == nullptr) return 0;
    log.write(level, vm.describe(vm.service(L)), {text, size});
    return 0;
}

int log_debug(lua_State* L) { return log_write(L, LogLevel::debug); }
int log_info(lua_State* L) { return log_write(L, LogLevel::info); }
int log_warn(lua_State* L) { return log_write(L, LogLevel::warn); }
int log_error(lua_State* L) { return log_write(L, LogLevel::error); }

int log_level(lua_State* L) {
    const std::optional<LogLevel> level = parse_log_level(check_bytes(L, 1));
    if (!level) return luaL_argerror(L, 1, "trace, debug, info, warn, error or off expected");
    Vm& vm = Vm::of(L);
    Service& service = vm.service(L);
    service.has_level = true;
    vm.kernel().log().set_level(vm.describe(service), *level);
    return 0;
}

// core.on_event(kind, handler)
int core_on_event(lua_State* L) {
    luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    Service& service = Vm::of(L).service(L);
    if (service.events == LUA_NOREF) {
        lua_newtable(L);
        service.events = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.events);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_rawset(L, -3);
    return 0;
}

// core.clients() -> the second table of the running service | nil
int core_clients(lua_State* L) {
    const Service& service = Vm::of(L).service(L);
    if (service.clients == LUA_NOREF) return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.clients);
    return 1;
}

// core.commands() -> the first table of the running service
int core_commands(lua_State* L) {
    const Service& service = Vm::of(L).service(L);
    if (service.commands == LUA_NOREF) return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.commands);
    return 1;
}

// core.serve(commands, gateways, forms, refuse, failed, gone, moved): see ServicePackets
int core_serve(lua_State* L) {
    Service& service = Vm::of(L).service(L);
    if (service.packets != nullptr) return luaL_error(L, "core.serve: packets are served already");
    service.packets.reset(ServicePackets::create(L));
    return 0;
}

// core.form() -> proto_type of the packet that the running task answers | nil
int core_form(lua_State* L) {
    Vm& vm = Vm::of(L);
    vm.service(L);
    const Message* packet = vm.current()->packet.get();
    if (packet == nullptr) return 0;
    lua_pushinteger(L, read_header(packet->payload())->form);
    return 1;
}

const luaL_Reg kCoreFunctions[] = {{"native", core_native},   {"on_event", core_on_event},
                                   {"clients", core_clients}, {"commands", core_commands},
                                   {"serve", core_serve},     {"form", core_form},
                                   {"finish", finish_call},   {nullptr, nullptr}};

}  // namespace

void push_log_library(lua_State* L) {
    static const luaL_Reg kLogFunctions[] = {{"debug", log_debug}, {"info", log_info},
                                             {"warn", log_warn},   {"error", log_error},
                                             {"level", log_level}, {nullptr, nullptr}};
    lua_createtable(L, 0, 5);
    luaL_register(L, nullptr, kLogFunctions);
}

void push_core_library(lua_State* L) {
    lua_createtable(L, 0, 8);
    luaL_register(L, nullptr, kCoreFunctions);
}

}  // namespace perilune
