#include "lua/lua_sqlite.h"

#include <utility>
#include <vector>

#include "data/databases.h"
#include "lua/lua_rows.h"
#include "lua/vm.h"

namespace perilune {

namespace {

// The database ends a statement at its limit and says so; who waits does so longer, in case its
// thread is stuck in the system.
constexpr std::int64_t kGraceMs = 1000;

Sqlite& sqlite_of(lua_State* L) { return Vm::of(L).host().databases()->sqlite(); }

SqlResult refused(const Status& status) {
    switch (status.code()) {
        case StatusCode::overloaded:
            return SqlResult::failure(SqlCode::overloaded, status.message());
        case StatusCode::invalid: return SqlResult::failure(SqlCode::invalid, status.message());
        default: return SqlResult::failure(SqlCode::unavailable, status.message());
    }
}

// open(path, busy_ms, sync, statements) -> an answer, whose last value is the id
int sqlite_open(lua_State* L) {
    std::size_t size = 0;
    const char* path = luaL_checklstring(L, 1, &size);
    const auto busy_ms = static_cast<int>(luaL_checkinteger(L, 2));
    const bool sync = lua_toboolean(L, 3) != 0;
    const auto statements = static_cast<std::size_t>(luaL_checkinteger(L, 4));
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "sqlite.open");
    const std::uint64_t session = vm.begin_wait(task, WaitKind::call, {}, 0);
    if (session == 0) {
        return push_answer(L, SqlResult::failure(SqlCode::overloaded, "too many tasks wait"),
                           nullptr);
    }
    SqliteOptions options;
    options.busy_ms = busy_ms;
    options.sync = sync;
    options.statements = statements;
    const Result<std::uint64_t> id =
        sqlite_of(L).open(task.service->handle, {path, size}, std::move(options), session);
    if (!id.ok()) {
        vm.drop_wait(session);
        return push_answer(L, refused(id.status()), nullptr);
    }
    task.rows = std::make_unique<LuaRows>(vm.state(), LuaRows::Shape::none);
    lua_settop(L, 0);  // room for the answer
    return lua_yield(L, 0);
}

// What of a statement is on the stack of execute().
enum Argument { kId = 1, kLimit, kMaxRows, kMaxBytes, kShape, kWithin, kSql, kFirstValue };

SqliteRequest read_request(lua_State* L, std::uint64_t session) {
    std::vector<SqlValue> values;
    for (int i = kFirstValue; i <= lua_gettop(L); ++i) {
        SqlValue& value = values.emplace_back();
        (void)read_value(L, i, value);  // check() has
    }
    std::size_t size = 0;
    const char* sql = lua_tolstring(L, kSql, &size);
    SqliteRequest request;
    request.sql.assign(sql, size);
    request.values = SqlValues(values);
    request.limits.rows = static_cast<std::uint64_t>(lua_tonumber(L, kMaxRows));
    request.limits.bytes = static_cast<std::uint64_t>(lua_tonumber(L, kMaxBytes));
    request.within = lua_toboolean(L, kWithin) != 0;
    request.deadline_ns =
        saturating_add(Vm::of(L).kernel().clock().now_ns(),
                       ms_to_ns(static_cast<std::int64_t>(lua_tonumber(L, kLimit))));
    request.session = session;
    return request;
}

// execute(id, ms, max_rows, max_bytes, shape, within, sql, ...) -> an answer | a failed wait
int sqlite_execute(lua_State* L) {
    const auto id = static_cast<std::uint64_t>(luaL_checknumber(L, kId));
    const auto limit_ms = static_cast<std::int64_t>(luaL_checknumber(L, kLimit));
    const auto shape = static_cast<LuaRows::Shape>(luaL_checkinteger(L, kShape));
    luaL_checktype(L, kSql, LUA_TSTRING);
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "a query");
    const std::uint64_t session = vm.begin_wait(task, WaitKind::call, {}, limit_ms + kGraceMs);
    if (session == 0) {
        return push_answer(L, SqlResult::failure(SqlCode::overloaded, "too many tasks wait"),
                           nullptr);
    }
    const Status status = sqlite_of(L).submit(id, task.service->handle, read_request(L, session));
    if (!status.ok()) {
        vm.drop_wait(session);
        return push_answer(L, refused(status), nullptr);
    }
    task.rows = std::make_unique<LuaRows>(vm.state(), shape);
    lua_settop(L, 0);  // room for the answer
    return lua_yield(L, 0);
}

// close(id)
int sqlite_close(lua_State* L) {
    const auto id = static_cast<std::uint64_t>(luaL_checknumber(L, 1));
    sqlite_of(L).close(id, Vm::of(L).service(L).handle);
    return 0;
}

const luaL_Reg kFunctions[] = {
    {"open", sqlite_open},      {"execute", sqlite_execute}, {"close", sqlite_close},
    {"check", check_statement}, {nullptr, nullptr},
};

}  // namespace

void push_sqlite_library(lua_State* L) {
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
