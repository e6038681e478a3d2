#include "lua/lua_mysql.h"

#include <string>
#include <vector>

#include "data/databases.h"
#include "lua/lua_core.h"
#include "lua/lua_rows.h"
#include "lua/vm.h"

namespace perilune {

namespace {

constexpr const char* kStateKey = "mysql state";

Mysql& mysql_of(lua_State* L) { return Vm::of(L).host().databases()->mysql(); }
Handle owner_of(lua_State* L) { return Vm::of(L).service(L).handle; }
std::uint64_t check_id(lua_State* L) { return static_cast<std::uint64_t>(luaL_checknumber(L, 1)); }

const char* field_of(lua_State* L, int table, const char* name) {
    lua_getfield(L, table, name);
    const char* text = lua_tostring(L, -1);
    lua_pop(L, 1);  // the table keeps it
    return text == nullptr ? "" : text;
}

int number_of(lua_State* L, int table, const char* name) {
    lua_getfield(L, table, name);
    const int number = static_cast<int>(lua_tointeger(L, -1));
    lua_pop(L, 1);
    return number;
}

MysqlTls tls_of(std::string_view name) {
    if (name == "on") return MysqlTls::on;
    return name == "unverified" ? MysqlTls::unverified : MysqlTls::off;
}

MysqlOptions read_options(lua_State* L, int table) {
    MysqlOptions options;
    options.host = field_of(L, table, "host");
    options.port = static_cast<std::uint16_t>(number_of(L, table, "port"));
    options.user = field_of(L, table, "user");
    options.password = field_of(L, table, "password");
    options.database = field_of(L, table, "database");
    options.tls = tls_of(field_of(L, table, "tls"));
    const LuaHostOptions& host = Vm::of(L).host().options();
    options.ca = host.from_base(field_of(L, table, "ca"));
    options.certificate = host.from_base(field_of(L, table, "certificate"));
    options.key = host.from_base(field_of(L, table, "key"));
    options.connect_ms = number_of(L, table, "connect_ms");
    options.statements = static_cast<std::size_t>(number_of(L, table, "statements"));
    return options;
}

SqlResult refused(const Status& status) {
    const SqlCode code =
        status.code() == StatusCode::overloaded ? SqlCode::overloaded : SqlCode::unavailable;
    return SqlResult::failure(code, status.message());
}

// reserve() -> id
int mysql_reserve(lua_State* L) {
    lua_pushnumber(L, static_cast<lua_Number>(mysql_of(L).reserve()));
    return 1;
}

// connect(id, options, ms) -> true, id | an answer that is a failure | a failed wait
int mysql_connect(lua_State* L) {
    const std::uint64_t id = check_id(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    const auto limit_ms = static_cast<std::int64_t>(luaL_checknumber(L, 3));
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "mysql.connect");
    const std::uint64_t session = vm.begin_wait(task, WaitKind::call, {}, limit_ms);
    if (session == 0) {
        return push_answer(L, SqlResult::failure(SqlCode::overloaded, "too many tasks wait"),
                           nullptr);
    }
    const Status status =
        mysql_of(L).connect(id, task.service->handle, read_options(L, 2), session);
    if (!status.ok()) {
        vm.drop_wait(session);
        return push_answer(L, refused(status), nullptr);
    }
    lua_settop(L, 0);  // room for the answer
    return lua_yield(L, 0);
}

// What of a statement is on the stack of execute().
enum Argument { kId = 1, kLimit, kMaxRows, kMaxBytes, kShape, kPrepared, kSql, kFirstValue };

void begin_statement(lua_State* L, std::uint64_t id) {
    std::vector<SqlValue> values;
    for (int i = kFirstValue; i <= lua_gettop(L); ++i) {
        SqlValue& value = values.emplace_back();
        (void)read_value(L, i, value);  // check() has
    }
    std::size_t size = 0;
    const char* sql = lua_tolstring(L, kSql, &size);
    MysqlStatement statement;
    statement.sql = {sql, size};
    statement.values = values;
    statement.prepared = lua_toboolean(L, kPrepared) != 0;
    statement.limits.rows = static_cast<std::uint64_t>(lua_tonumber(L, kMaxRows));
    statement.limits.bytes = static_cast<std::uint64_t>(lua_tonumber(L, kMaxBytes));
    mysql_of(L).begin(id, statement);
}

// execute(id, ms, max_rows, max_bytes, shape, prepared, sql, ...) -> an answer | a failed wait
int mysql_execute(lua_State* L) {
    const std::uint64_t id = check_id(L);
    const auto limit_ms = static_cast<std::int64_t>(luaL_checknumber(L, kLimit));
    const auto shape = static_cast<LuaRows::Shape>(luaL_checkinteger(L, kShape));
    luaL_checktype(L, kSql, LUA_TSTRING);
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, "a query");
    Mysql& mysql = mysql_of(L);
    switch (mysql.state(id, task.service->handle)) {
        case Mysql::State::idle: break;
        case Mysql::State::busy: return luaL_error(L, "the connection has a statement already");
        case Mysql::State::none:
            SqlResult gone = SqlResult::failure(SqlCode::unavailable, "the connection is closed");
            gone.lost = true;
            return push_answer(L, gone, nullptr);
    }
    begin_statement(L, id);
    task.rows = std::make_unique<LuaRows>(vm.state(), shape);
    if (proceed_mysql(vm, L, id, *task.rows)) {
        const int count = push_answer(L, mysql.result(id), task.rows.get());
        task.rows.reset();
        return count;
    }
    const std::uint64_t session = vm.begin_wait(task, WaitKind::call, {}, limit_ms);
    if (session == 0) {
        task.rows.reset();
        SqlResult full = SqlResult::failure(SqlCode::overloaded, "too many tasks wait");
        full.unknown = full.lost = true;  // it is on its way
        return push_answer(L, full, nullptr);
    }
    mysql.set_session(id, session);
    lua_settop(L, 0);  // room for the answer
    return lua_yield(L, 0);
}

int mysql_state(lua_State* L) { return push_service_state(L, kStateKey); }
int mysql_set_state(lua_State* L) { return keep_service_state(L, kStateKey); }

// ended(id) -> whether the server has closed it
int mysql_ended(lua_State* L) {
    lua_pushboolean(L, mysql_of(L).ended(check_id(L)));
    return 1;
}

// close(id)
int mysql_close(lua_State* L) {
    mysql_of(L).close(check_id(L), owner_of(L));
    return 0;
}

const luaL_Reg kFunctions[] = {
    {"reserve", mysql_reserve}, {"connect", mysql_connect},     {"execute", mysql_execute},
    {"ended", mysql_ended},     {"close", mysql_close},         {"check", check_statement},
    {"state", mysql_state},     {"set_state", mysql_set_state}, {nullptr, nullptr},
};

}  // namespace

bool proceed_mysql(Vm& vm, lua_State* L, std::uint64_t id, LuaRows& rows) {
    Mysql& mysql = vm.host().databases()->mysql();
    bool done = false;
    auto body = [&](lua_State* state) {
        rows.enter(state);
        done = mysql.proceed(id, rows);
        rows.leave();
    };
    const std::string problem = run_protected(L, body);
    if (problem.empty()) return done;
    mysql.refuse_rows(id, problem);
    return true;
}

void push_mysql_library(lua_State* L) {
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
