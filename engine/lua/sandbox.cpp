#include "lua/sandbox.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "lua/lua_require.h"
#include "lua/registry_keys.h"
#include "lua/vm.h"

namespace perilune {

namespace {

constexpr const char* kFrozenMark = "read-only: shared by light services";  // its __metatable
const char kFailureMark = 0;  // its address marks a failure among the arguments of core.finish

constexpr std::size_t kMaxErrorText = 4096;

void* key_of(const char& key) { return const_cast<char*>(&key); }

// --- functions that may recurse on the stack of C ---

// Calls the function of C in the upvalue, unless the stack is deep already.
int guarded_call(lua_State* L) {
    if (Vm::of(L).is_deep()) return luaL_error(L, "stack overflow (nested too deep)");
    void* function = lua_touserdata(L, lua_upvalueindex(1));
    return reinterpret_cast<lua_CFunction>(function)(L);
}

// --- functions that replace those of the base library ---

// load and loadstring: text only, in the caller's environment. Bytecode is unverified and
// would crash the process.
int sandbox_load(lua_State* L) {
    const char* mode = "t";
    if (lua_isstring(L, 1)) {
        std::size_t size = 0;
        const char* text = lua_tolstring(L, 1, &size);
        const char* name = luaL_optstring(L, 2, text);
        if (luaL_loadbufferx(L, text, size, name, mode) != 0) {
            lua_pushnil(L);
            lua_insert(L, -2);
            return 2;
        }
    } else {
        luaL_checktype(L, 1, LUA_TFUNCTION);
        if (Vm::of(L).is_deep()) return luaL_error(L, "stack overflow (nested too deep)");
        luaL_Buffer text;
        luaL_buffinit(L, &text);
        for (;;) {
            lua_pushvalue(L, 1);
            lua_call(L, 0, 1);
            std::size_t size = 0;
            const char* part = lua_isstring(L, -1) ? lua_tolstring(L, -1, &size) : nullptr;
            if (part == nullptr || size == 0) {
                lua_pop(L, 1);
                break;
            }
            luaL_addvalue(&text);
        }
        luaL_pushresult(&text);
        std::size_t size = 0;
        const char* bytes = lua_tolstring(L, -1, &size);
        if (luaL_loadbufferx(L, bytes, size, luaL_optstring(L, 2, "=(load)"), mode) != 0) {
            lua_pushnil(L);
            lua_insert(L, -2);
            return 2;
        }
    }
    if (lua_istable(L, 4)) {
        lua_pushvalue(L, 4);
    } else {
        Vm& vm = Vm::of(L);
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm.service(L).environment);
    }
    lua_setfenv(L, -2);
    return 1;
}

int sandbox_collectgarbage(lua_State* L) {
    const char* what = luaL_optstring(L, 1, "count");
    if (std::strcmp(what, "count") == 0) {
        lua_pushnumber(L, lua_gc(L, LUA_GCCOUNT, 0) + lua_gc(L, LUA_GCCOUNTB, 0) / 1024.0);
    } else if (std::strcmp(what, "step") == 0) {
        lua_pushboolean(L, lua_gc(L, LUA_GCSTEP, static_cast<int>(luaL_optinteger(L, 2, 0))));
    } else {
        return luaL_error(L, "collectgarbage: services may use \"count\" and \"step\"");
    }
    return 1;
}

// Pushes the function that the argument names: itself, or the one at a level of the stack.
void push_function_argument(lua_State* L) {
    if (lua_isfunction(L, 1)) {
        lua_pushvalue(L, 1);
        return;
    }
    const int level = static_cast<int>(luaL_optinteger(L, 1, 1));
    lua_Debug record;
    luaL_argcheck(L, level >= 1, 1, "a function, or a level of at least 1");
    if (lua_getstack(L, level, &record) == 0) luaL_argerror(L, 1, "there is no such level");
    lua_getinfo(L, "f", &record);
}

// True when the function on top of the stack belongs to the running service: not a library's,
// whose environment would open what the sandbox closes.
bool is_own_function(lua_State* L) {
    if (lua_iscfunction(L, -1)) return false;
    lua_getfenv(L, -1);
    Vm& vm = Vm::of(L);
    const Service& service = vm.service(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.environment);
    const bool light_base = service.light && lua_rawequal(L, -2, LUA_GLOBALSINDEX) != 0;
    lua_pop(L, 2);
    return !light_base;
}

int sandbox_getfenv(lua_State* L) {
    push_function_argument(L);
    if (is_own_function(L)) {
        lua_getfenv(L, -1);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, Vm::of(L).service(L).environment);
    }
    return 1;
}

int sandbox_setfenv(lua_State* L) {
    luaL_checktype(L, 2, LUA_TTABLE);
    push_function_argument(L);
    if (!is_own_function(L)) return luaL_error(L, "setfenv: only on functions of the service");
    lua_pushvalue(L, 2);
    lua_setfenv(L, -2);
    return 1;
}

int sandbox_rawset(lua_State* L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    luaL_checkany(L, 3);
    // The libraries that light services share are empty tables over the real ones.
    if (lua_getmetatable(L, 1)) {
        lua_getfield(L, -1, "__frozen");
        if (lua_toboolean(L, -1)) return luaL_error(L, "rawset: this table is read-only");
    }
    lua_settop(L, 3);
    lua_rawset(L, 1);
    return 1;
}

// Those of the library write past __newindex. In Lua, so that they are compiled with their callers.
constexpr const char* kGuardedWrites = R"(
    local insert, move, getmetatable, error, mark = ...
    local function check(name, list)
        if getmetatable(list) == mark then
            error("table." .. name .. ": this table is read-only", 3)
        end
    end
    return function(list, ...)
        check("insert", list)
        return insert(list, ...)
    end, function(from, first, last, at, ...)
        check("move", ... or from)
        return move(from, first, last, at, ...)
    end
)";

// Replaces table.insert and table.move, once in a VM of light services.
void guard_writes(lua_State* L) {
    lua_getglobal(L, LUA_TABLIBNAME);
    if (luaL_loadbuffer(L, kGuardedWrites, std::strlen(kGuardedWrites), "=table") != 0) {
        lua_error(L);
    }
    lua_getfield(L, -2, "insert");
    lua_getfield(L, -3, "move");
    lua_getglobal(L, "getmetatable");
    lua_getglobal(L, "error");
    lua_pushstring(L, kFrozenMark);
    lua_call(L, 5, 2);
    lua_setfield(L, -3, "move");
    lua_setfield(L, -2, "insert");
    lua_pop(L, 1);
}

int frozen_newindex(lua_State* L) {
    return luaL_error(L, "\"%s\" can't be set: light services share this library",
                      lua_tostring(L, 2));
}

// pairs() of a stand-in: the upvalue is the table behind it, which nobody gets.
int frozen_next(lua_State* L) {
    lua_settop(L, 2);
    return lua_next(L, lua_upvalueindex(1)) != 0 ? 2 : 0;
}

int frozen_pairs(lua_State* L) {
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, frozen_next, 1);
    lua_insert(L, 1);
    lua_pushnil(L);
    return 3;
}

int sandbox_print(lua_State* L) {
    const int count = lua_gettop(L);
    std::string line;
    for (int i = 1; i <= count; ++i) {
        if (i > 1) line += '\t';
        if (luaL_callmeta(L, i, "__tostring") != 0) {
            line += lua_isstring(L, -1) ? lua_tostring(L, -1) : "?";
            lua_pop(L, 1);
        } else if (lua_isstring(L, i)) {
            std::size_t size = 0;
            const char* text = lua_tolstring(L, i, &size);
            line.append(text, size);
        } else if (lua_isboolean(L, i)) {
            line += lua_toboolean(L, i) != 0 ? "true" : "false";
        } else if (lua_isnil(L, i)) {
            line += "nil";
        } else {
            line += luaL_typename(L, i);
        }
    }
    Vm& vm = Vm::of(L);
    vm.kernel().log().write(LogLevel::info, vm.describe(vm.service(L)), line);
    return 0;
}

const luaL_Reg kBaseFunctions[] = {{"load", sandbox_load},
                                   {"loadstring", sandbox_load},
                                   {"collectgarbage", sandbox_collectgarbage},
                                   {"getfenv", sandbox_getfenv},
                                   {"setfenv", sandbox_setfenv},
                                   {"rawset", sandbox_rawset},
                                   {"print", sandbox_print},
                                   {"require", lua_require},
                                   {nullptr, nullptr}};

// Of the base library, what a service must not have.
const char* const kRemoved[] = {"dofile", "loadfile", "newproxy", "gcinfo", "module", nullptr};

void open_library(lua_State* L, lua_CFunction opener, const char* name) {
    lua_pushcfunction(L, opener);
    lua_pushstring(L, name);
    lua_call(L, 1, 0);
}

// Replaces a library by one with only the named functions of it.
void keep_only(lua_State* L, const char* library, std::initializer_list<const char*> names) {
    lua_getglobal(L, library);
    lua_createtable(L, 0, static_cast<int>(names.size()));
    for (const char* name : names) {
        lua_getfield(L, -2, name);
        lua_setfield(L, -2, name);
    }
    lua_setglobal(L, library);
    lua_pop(L, 1);
}

// __index of the globals: opens a library when a script first names it. The upvalue seeds
// math.random, differently in each VM.
int open_missing(lua_State* L) {
    const std::string_view name =
        lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : std::string_view();
    if (name == LUA_MATHLIBNAME) {
        open_library(L, luaopen_math, LUA_MATHLIBNAME);
        lua_getglobal(L, LUA_MATHLIBNAME);
        lua_getfield(L, -1, "randomseed");
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_call(L, 1, 0);
    } else if (name == "bit") {
        open_library(L, luaopen_bit, "bit");
    } else if (name == LUA_OSLIBNAME) {
        open_library(L, luaopen_os, LUA_OSLIBNAME);
        keep_only(L, LUA_OSLIBNAME, {"time", "date", "clock"});
    } else if (name == LUA_DBLIBNAME) {
        // Only the traceback: the rest reaches into others' functions.
        open_library(L, luaopen_debug, LUA_DBLIBNAME);
        keep_only(L, LUA_DBLIBNAME, {"traceback"});
    } else {
        return 0;
    }
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_settop(L, 2);
    lua_rawget(L, LUA_GLOBALSINDEX);
    return 1;
}

int call_error_tostring(lua_State* L) {
    lua_settop(L, 1);
    lua_getfield(L, 1, "message");
    lua_getfield(L, 1, "traceback");
    if (lua_isstring(L, 2) && lua_isstring(L, 3)) {
        // Not lua_pushfstring, which would end at a NUL.
        lua_pushliteral(L, "\n");
        lua_insert(L, 3);
        lua_concat(L, 3);
    } else {
        lua_settop(L, 2);
    }
    return 1;
}

// Pushes what light services find where their own environment has nothing.
void push_light_base(lua_State* L) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, kBaseKey);
    if (lua_istable(L, -1)) return;
    lua_pop(L, 1);
    for (const char* name : {LUA_MATHLIBNAME, "bit", LUA_OSLIBNAME, LUA_DBLIBNAME}) {
        lua_getglobal(L, name);
        lua_pop(L, 1);
    }
    guard_writes(L);
    lua_newtable(L);
    lua_pushnil(L);
    while (lua_next(L, LUA_GLOBALSINDEX) != 0) {
        if (lua_rawequal(L, -1, LUA_GLOBALSINDEX)) {  // _G: each has its own
            lua_pop(L, 1);
            continue;
        }
        if (lua_istable(L, -1)) push_frozen(L);
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
    // One metatable serves all their environments.
    lua_createtable(L, 0, 2);
    lua_insert(L, -2);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, kBaseKey);
}

}  // namespace

void guard_depth(lua_State* L, const char* name) {
    lua_getfield(L, -1, name);
    lua_pushlightuserdata(L, reinterpret_cast<void*>(lua_tocfunction(L, -1)));
    lua_pushcclosure(L, guarded_call, 1);
    lua_setfield(L, -3, name);
    lua_pop(L, 1);
}

void open_sandbox(lua_State* L, std::uint64_t seed) {
    lua_gc(L, LUA_GCSTOP, 0);
    open_library(L, luaopen_base, "");
    open_library(L, luaopen_table, LUA_TABLIBNAME);
    open_library(L, luaopen_string, LUA_STRLIBNAME);
    for (const char* const* name = kRemoved; *name != nullptr; ++name) {
        lua_pushnil(L);
        lua_setglobal(L, *name);
    }
    for (const luaL_Reg* entry = kBaseFunctions; entry->name != nullptr; ++entry) {
        lua_pushcfunction(L, entry->func);
        lua_setglobal(L, entry->name);
    }
    // LuaJIT bounds the stack of Lua alone. gsub takes 8 KB of that of C; a coroutine has a stack
    // of Lua of its own, so that only memory would bound how deep they nest.
    lua_getglobal(L, LUA_STRLIBNAME);
    guard_depth(L, "gsub");
    lua_getglobal(L, LUA_COLIBNAME);
    guard_depth(L, "create");
    guard_depth(L, "wrap");
    lua_pop(L, 2);
    // Strings share one metatable whose __index is the string library itself.
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    // Libraries that many services never touch are opened at their first use.
    lua_createtable(L, 0, 2);
    lua_pushnumber(L, static_cast<lua_Number>(seed >> 12));
    lua_pushcclosure(L, open_missing, 1);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, LUA_GLOBALSINDEX);
    lua_settop(L, 0);
    // Would keep reachable what was removed above.
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_gc(L, LUA_GCRESTART, 0);
}

void push_environment(lua_State* L, bool light, bool trusted) {
    if (!light) {
        lua_pushvalue(L, LUA_GLOBALSINDEX);
        if (trusted) {
            open_library(L, luaopen_io, LUA_IOLIBNAME);
            open_library(L, luaopen_os, LUA_OSLIBNAME);
            open_library(L, luaopen_debug, LUA_DBLIBNAME);
            lua_pushcfunction(L, luaopen_ffi);
            lua_pushliteral(L, "ffi");
            lua_call(L, 1, 1);
            lua_setglobal(L, "ffi");
            // Which turns the compiler on; that is the host's to do.
            open_library(L, luaopen_jit, LUA_JITLIBNAME);
            luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
        }
        return;
    }
    lua_createtable(L, 0, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "_G");
    push_light_base(L);
    lua_setmetatable(L, -2);
}

void push_frozen(lua_State* L) {
    lua_newtable(L);
    lua_createtable(L, 0, 5);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, frozen_newindex);
    lua_setfield(L, -2, "__newindex");
    lua_pushvalue(L, -3);
    lua_pushcclosure(L, frozen_pairs, 1);
    lua_setfield(L, -2, "__pairs");
    lua_pushstring(L, kFrozenMark);
    lua_setfield(L, -2, "__metatable");
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "__frozen");
    lua_setmetatable(L, -2);
    lua_replace(L, -2);
}

void enable_jit(lua_State* L) {
    lua_getglobal(L, "jit");
    const bool opened = lua_istable(L, -1);
    lua_pop(L, 1);
    if (!opened) {
        open_library(L, luaopen_jit, LUA_JITLIBNAME);
        lua_pushnil(L);
        lua_setglobal(L, LUA_JITLIBNAME);
    }
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_ON);
}

// {code = "no_gold", need = 5}: the plain fields of a table without a message, by name. Raw, so
// that no code of the script runs here.
static std::string fields_text(lua_State* L, int table) {
    constexpr std::size_t kMost = 8;
    constexpr std::size_t kMaxField = 80;
    std::map<std::string, std::string> fields;
    bool more = false;
    if (lua_checkstack(L, 4) == 0) return "(an error value of type table)";
    lua_pushnil(L);
    for (; lua_next(L, table) != 0; lua_pop(L, 1)) {
        if (fields.size() == kMost) {
            more = true;
            lua_pop(L, 2);
            break;
        }
        if (lua_type(L, -2) != LUA_TSTRING) {
            more = true;
            continue;
        }
        std::size_t size = 0;
        std::string text;
        switch (lua_type(L, -1)) {
            case LUA_TSTRING: {
                const char* bytes = lua_tolstring(L, -1, &size);
                text = '"' + std::string(bytes, std::min(size, kMaxField)) +
                       (size > kMaxField ? "..." : "") + '"';
                break;
            }
            case LUA_TNUMBER:
                lua_pushvalue(L, -1);
                text = lua_tostring(L, -1);
                lua_pop(L, 1);
                break;
            case LUA_TBOOLEAN: text = lua_toboolean(L, -1) != 0 ? "true" : "false"; break;
            default: text = std::string("(") + luaL_typename(L, -1) + ")"; break;
        }
        const char* key = lua_tolstring(L, -2, &size);
        fields[std::string(key, std::min(size, kMaxField))] = std::move(text);
    }
    std::string list;
    for (const auto& [key, value] : fields) {
        list += (list.empty() ? "" : ", ") + key + " = " + value;
    }
    if (list.empty()) return "(an error value of type table)";
    return "{" + list + (more ? ", ...}" : "}");
}

std::string error_text(lua_State* L, int index) {
    std::size_t size = 0;
    std::string text;
    if (lua_type(L, index) == LUA_TSTRING || lua_type(L, index) == LUA_TNUMBER) {
        lua_pushvalue(L, index);
        const char* bytes = lua_tolstring(L, -1, &size);
        text.assign(bytes, std::min(size, kMaxErrorText));
        lua_pop(L, 1);
        return text;
    }
    if (lua_istable(L, index)) {
        // Raw, so that no code of the script runs here.
        lua_pushliteral(L, "message");
        lua_rawget(L, index < 0 ? index - 1 : index);
        if (lua_type(L, -1) == LUA_TSTRING) {
            const char* bytes = lua_tolstring(L, -1, &size);
            text.assign(bytes, std::min(size, kMaxErrorText));
        }
        lua_pop(L, 1);
        if (!text.empty()) return text;
    }
    if (lua_istable(L, index)) return fields_text(L, index < 0 ? lua_gettop(L) + index + 1 : index);
    return std::string("(an error value of type ") + luaL_typename(L, index) + ")";
}

int push_failure_head(lua_State* L, Outcome outcome) {
    lua_pushlightuserdata(L, key_of(kFailureMark));
    lua_pushinteger(L, static_cast<int>(outcome));
    return 2;
}

int push_failure(lua_State* L, Outcome outcome, std::string_view text) {
    push_failure_head(L, outcome);
    lua_pushlstring(L, text.data(), text.size());
    return 3;
}

int finish_call(lua_State* L) {
    if (lua_touserdata(L, 1) != key_of(kFailureMark)) return lua_gettop(L);
    const auto outcome = static_cast<Outcome>(lua_tointeger(L, 2));
    lua_settop(L, 5);
    lua_createtable(L, 0, 4);
    lua_pushstring(L, outcome_name(outcome));
    lua_setfield(L, -2, "code");
    if (lua_isstring(L, 3) && lua_objlen(L, 3) > 0) {
        lua_pushvalue(L, 3);
    } else {
        lua_pushfstring(L, "the call ended as %s", outcome_name(outcome));
    }
    lua_setfield(L, -2, "message");
    lua_pushvalue(L, 4);
    lua_setfield(L, -2, "traceback");
    lua_pushvalue(L, 5);
    lua_setfield(L, -2, "value");
    lua_rawgeti(L, LUA_REGISTRYINDEX, kErrorMetaKey);
    if (!lua_istable(L, -1)) {
        lua_pop(L, 1);
        lua_createtable(L, 0, 2);
        lua_pushcfunction(L, call_error_tostring);
        lua_setfield(L, -2, "__tostring");
        lua_pushliteral(L, "perilune.CallError");
        lua_setfield(L, -2, "__name");
        lua_pushvalue(L, -1);
        lua_rawseti(L, LUA_REGISTRYINDEX, kErrorMetaKey);
    }
    lua_setmetatable(L, -2);
    return lua_error(L);
}

}  // namespace perilune
