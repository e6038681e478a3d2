#include "lua/value_stack.h"

namespace perilune {

void push_value(lua_State* L, const Value& value) {
    if (value.is_boolean()) {
        lua_pushboolean(L, value.boolean() ? 1 : 0);
    } else if (value.is_number()) {
        lua_pushnumber(L, value.number());
    } else if (value.is_string()) {
        lua_pushlstring(L, value.string().data(), value.string().size());
    } else if (value.is_table()) {
        luaL_checkstack(L, 4, "a table nested too deeply");
        lua_createtable(L, 0, static_cast<int>(value.table().size()));
        for (const auto& [key, item] : value.table()) {
            if (key.is_nil()) continue;
            push_value(L, key);
            push_value(L, item);
            lua_rawset(L, -3);
        }
    } else {
        lua_pushnil(L);
    }
}

}  // namespace perilune
