#include "lua/lua_native_module.h"

#include <cmath>
#include <cstdlib>
#include <exception>

#include "core/codec.h"
#include "lua/lua_codec.h"
#include "lua/value_stack.h"
#include "lua/vm.h"

namespace perilune {

namespace {

lua_State* lua(void* state) { return static_cast<lua_State*>(state); }

[[noreturn]] void raise_argument(lua_State* L, int number, const char* text) {
    luaL_argerror(L, number, text);
    std::abort();  // it doesn't return
}

[[noreturn]] void raise_type(lua_State* L, int number, const char* wanted) {
    luaL_typerror(L, number, wanted);
    std::abort();
}

// The function of a module: calls it and pushes its results.
int call_native(lua_State* L) {
    const auto& function =
        *static_cast<const NativeFunction*>(lua_touserdata(L, lua_upvalueindex(1)));
    // Errors of Lua pass through here as what they are: no handler matches them.
    try {
        Call call(L);
        const Values results = function(call);
        luaL_checkstack(L, static_cast<int>(results.size()), "too many results");
        for (const Value& result : results) push_value(L, result);
        return static_cast<int>(results.size());
    } catch (const std::exception& failure) {
        luaL_where(L, 1);
        lua_pushstring(L, failure.what());
        lua_concat(L, 2);
    }
    return lua_error(L);
}

}  // namespace

int Call::count() const { return lua_gettop(lua(state_)); }

bool Call::has(int number) const { return !lua_isnoneornil(lua(state_), number); }

bool Call::boolean(int number) const {
    lua_State* L = lua(state_);
    if (!lua_isboolean(L, number)) raise_type(L, number, "boolean");
    return lua_toboolean(L, number) != 0;
}

double Call::number(int number) const {
    lua_State* L = lua(state_);
    if (lua_type(L, number) != LUA_TNUMBER) raise_type(L, number, "number");
    return lua_tonumber(L, number);
}

std::int64_t Call::integer(int number, std::int64_t minimum, std::int64_t maximum) const {
    lua_State* L = lua(state_);
    if (lua_type(L, number) != LUA_TNUMBER) raise_type(L, number, "integer");
    const double value = lua_tonumber(L, number);
    if (value != std::floor(value)) raise_argument(L, number, "an integer expected");
    if (!(value >= static_cast<double>(minimum) && value <= static_cast<double>(maximum))) {
        lua_pushfstring(L, "an integer from %f to %f expected, got %f",
                        static_cast<lua_Number>(minimum), static_cast<lua_Number>(maximum), value);
        raise_argument(L, number, lua_tostring(L, -1));
    }
    return static_cast<std::int64_t>(value);
}

std::string_view Call::string(int number) const {
    lua_State* L = lua(state_);
    if (lua_type(L, number) != LUA_TSTRING) raise_type(L, number, "string");
    std::size_t size = 0;
    const char* text = lua_tolstring(L, number, &size);
    return {text, size};
}

Value Call::table(int number) const {
    // Data shared by the node's services reads like a table, too.
    lua_State* L = lua(state_);
    const bool shared = lua_isuserdata(L, number);
    if (!lua_istable(L, number) && !shared) raise_type(L, number, "table");
    Value copy = value(number);
    if (!copy.is_table()) raise_type(L, number, "table");
    return copy;
}

Value Call::value(int number) const {
    lua_State* L = lua(state_);
    if (!has(number)) return {};
    PayloadWriter out;
    Status status = pack(L, number, number, out);
    if (status.ok()) {
        Result<Values> values = decode(out.data(), out.size());
        if (values.ok() && values.value().size() == 1) return std::move(values.value()[0]);
        status = values.status();
    }
    raise_argument(L, number, status.message());
}

bool Call::boolean_or(int number, bool fallback) const {
    return has(number) ? boolean(number) : fallback;
}

double Call::number_or(int index, double fallback) const {
    return has(index) ? number(index) : fallback;
}

std::int64_t Call::integer_or(int number, std::int64_t fallback, std::int64_t minimum,
                              std::int64_t maximum) const {
    return has(number) ? integer(number, minimum, maximum) : fallback;
}

std::string_view Call::string_or(int number, std::string_view fallback) const {
    return has(number) ? string(number) : fallback;
}

std::uint64_t Call::service() const { return Vm::of(lua(state_)).running_service().value; }

void Call::argument_error(int number, std::string_view text) const {
    lua_State* L = lua(state_);
    lua_pushlstring(L, text.data(), text.size());
    raise_argument(L, number, lua_tostring(L, -1));
}

void Call::error(std::string_view text) const {
    lua_State* L = lua(state_);
    luaL_where(L, 1);
    lua_pushlstring(L, text.data(), text.size());
    lua_concat(L, 2);
    lua_error(L);
    std::abort();
}

LuaHost::Opener native_module_opener(std::shared_ptr<const NativeModule> module) {
    return [module = std::move(module)](lua_State* L) {
        lua_createtable(L, 0, static_cast<int>(module->size()));
        for (const auto& [name, function] : *module) {
            lua_pushlightuserdata(L, const_cast<NativeFunction*>(&function));
            lua_pushcclosure(L, call_native, 1);
            lua_setfield(L, -2, name.c_str());
        }
    };
}

}  // namespace perilune
