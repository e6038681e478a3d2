#include "lua/lua_rows.h"

#include <cmath>
#include <cstdio>

#include "core/utf8.h"
#include "lua/lua_core.h"
#include "lua/vm.h"

namespace perilune {

namespace {

constexpr double kMaxInteger = 9007199254740992.0;  // 2^53
constexpr int kRowsIndex = 1;                       // on the stack, counted from base_
constexpr int kNamesIndex = 2;                      // ... and then the names themselves

}  // namespace

void push_integer(lua_State* L, std::int64_t value) {
    const auto number = static_cast<double>(value);
    if (number >= -kMaxInteger && number <= kMaxInteger &&
        static_cast<std::int64_t>(number) == value) {
        lua_pushnumber(L, number);
        return;
    }
    char digits[24];
    const int size = std::snprintf(digits, sizeof digits, "%lld", static_cast<long long>(value));
    lua_pushlstring(L, digits, static_cast<std::size_t>(size));
}

void push_natural(lua_State* L, std::uint64_t value) {
    if (value <= static_cast<std::uint64_t>(INT64_MAX)) {
        return push_integer(L, static_cast<std::int64_t>(value));
    }
    char digits[24];
    const int size =
        std::snprintf(digits, sizeof digits, "%llu", static_cast<unsigned long long>(value));
    lua_pushlstring(L, digits, static_cast<std::size_t>(size));
}

LuaRows::~LuaRows() { forget(); }

void LuaRows::forget() {
    for (int* reference : {&rows_, &names_}) {
        if (*reference != LUA_NOREF) luaL_unref(main_, LUA_REGISTRYINDEX, *reference);
        *reference = LUA_NOREF;
    }
}

void LuaRows::enter(lua_State* L) {
    L_ = L;
    base_ = lua_gettop(L);
    if (rows_ != LUA_NOREF) push_tables();
}

void LuaRows::leave() {
    lua_settop(L_, base_);
    L_ = nullptr;
}

void LuaRows::push_tables() {
    luaL_checkstack(L_, width_ + 8, "too many columns");
    lua_rawgeti(L_, LUA_REGISTRYINDEX, rows_);
    lua_rawgeti(L_, LUA_REGISTRYINDEX, names_);
    if (shape_ != Shape::maps) return;
    for (int i = 1; i <= width_; ++i) lua_rawgeti(L_, base_ + kNamesIndex, i);
}

void LuaRows::push(lua_State* L) const {
    if (rows_ == LUA_NOREF) {
        lua_pushnil(L);
        lua_pushnil(L);
        return;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, rows_);
    lua_rawgeti(L, LUA_REGISTRYINDEX, names_);
}

void LuaRows::columns(std::span<const std::string_view> names) {
    if (shape_ == Shape::none) return;
    forget();
    count_ = 0;
    width_ = static_cast<int>(names.size());
    luaL_checkstack(L_, 8, "too many columns");
    lua_newtable(L_);
    rows_ = luaL_ref(L_, LUA_REGISTRYINDEX);
    lua_createtable(L_, width_, 0);
    for (int i = 0; i < width_; ++i) {
        const std::string_view name = names[static_cast<std::size_t>(i)];
        lua_pushlstring(L_, name.data(), name.size());
        lua_rawseti(L_, -2, i + 1);
    }
    names_ = luaL_ref(L_, LUA_REGISTRYINDEX);
    push_tables();
}

void LuaRows::begin_row() {
    if (shape_ == Shape::none) return;
    column_ = 0;
    if (shape_ == Shape::maps) {
        lua_createtable(L_, 0, width_);
    } else {
        lua_createtable(L_, width_, 0);
    }
}

// The value on top goes into the row below it.
void LuaRows::put() {
    ++column_;
    if (shape_ == Shape::arrays) {
        lua_rawseti(L_, -2, column_);
        return;
    }
    lua_pushvalue(L_, base_ + kNamesIndex + column_);
    lua_insert(L_, -2);
    lua_rawset(L_, -3);
}

void LuaRows::integer(std::int64_t value) {
    if (shape_ == Shape::none) return;
    push_integer(L_, value);
    put();
}

void LuaRows::natural(std::uint64_t value) {
    if (shape_ == Shape::none) return;
    push_natural(L_, value);
    put();
}

void LuaRows::real(double value) {
    if (shape_ == Shape::none) return;
    lua_pushnumber(L_, value);
    put();
}

void LuaRows::text(std::string_view bytes) {
    if (shape_ == Shape::none) return;
    lua_pushlstring(L_, bytes.data(), bytes.size());
    put();
}

void LuaRows::end_row() {
    if (shape_ == Shape::none) return;
    lua_rawseti(L_, base_ + kRowsIndex, ++count_);
}

int push_answer(lua_State* L, const SqlResult& result, const LuaRows* rows) {
    lua_checkstack(L, 8);
    lua_pushboolean(L, result.ok());
    if (result.ok()) {
        if (rows != nullptr) {
            rows->push(L);
        } else {
            lua_pushnil(L);
            lua_pushnil(L);
        }
        push_natural(L, result.affected);
        push_integer(L, static_cast<std::int64_t>(result.insert_id));
        lua_pushboolean(L, result.in_transaction);
        return 6;
    }
    lua_pushstring(L, sql_code_name(result.code));
    lua_pushlstring(L, result.message.data(), result.message.size());
    lua_pushinteger(L, result.native);
    lua_pushstring(L, result.sqlstate);
    lua_pushboolean(L, result.unknown);
    lua_pushboolean(L, result.lost);
    lua_pushboolean(L, result.in_transaction);
    return 8;
}

bool read_value(lua_State* L, int index, SqlValue& value) {
    switch (lua_type(L, index)) {
        case LUA_TNIL: value.kind = SqlValue::Kind::null; return true;
        case LUA_TLIGHTUSERDATA:  // cjson.null
            value.kind = SqlValue::Kind::null;
            return lua_touserdata(L, index) == nullptr;
        case LUA_TBOOLEAN:
            value.kind = SqlValue::Kind::integer;
            value.integer = lua_toboolean(L, index);
            return true;
        case LUA_TNUMBER: {
            const double number = lua_tonumber(L, index);
            if (number >= -kMaxInteger && number <= kMaxInteger && number == std::floor(number)) {
                value.kind = SqlValue::Kind::integer;
                value.integer = static_cast<std::int64_t>(number);
            } else {
                value.kind = SqlValue::Kind::real;
                value.real = number;
            }
            return std::isfinite(number);
        }
        case LUA_TSTRING: {
            std::size_t size = 0;
            const char* bytes = lua_tolstring(L, index, &size);
            value.bytes = {bytes, size};
            value.kind = is_utf8(value.bytes) ? SqlValue::Kind::text : SqlValue::Kind::bytes;
            return true;
        }
        default: return false;
    }
}

int check_statement(lua_State* L) {
    (void)Vm::of(L).yieldable_task(L, "a query");  // before a connection is taken for it
    if (lua_type(L, 1) != LUA_TSTRING) {
        return misuse(L, "the SQL of a statement has to be a string, not a %s",
                      luaL_typename(L, 1));
    }
    std::size_t size = 0;
    const char* sql = lua_tolstring(L, 1, &size);
    if (std::string_view(sql, size).find('\0') != std::string_view::npos) {
        return misuse(L, "the SQL of a statement has a zero byte: give values as parameters");
    }
    for (int i = 2; i <= lua_gettop(L); ++i) {
        SqlValue value;
        if (read_value(L, i, value)) continue;
        if (lua_istable(L, i)) {
            return misuse(L,
                          "value %d is a table: give db.json(value) for a column of JSON, or "
                          "db.binary(value) for one of bytes",
                          i - 1);
        }
        if (lua_type(L, i) == LUA_TNUMBER) {
            return misuse(L, "value %d is a number that no database has: NaN or infinity", i - 1);
        }
        return misuse(L, "value %d is a %s, which can't be stored", i - 1, luaL_typename(L, i));
    }
    return 0;
}

}  // namespace perilune
