// Vm: what its services hear of their databases.

#include "data/databases.h"
#include "data/row_batch.h"
#include "lua/lua_mysql.h"
#include "lua/lua_rows.h"
#include "lua/vm.h"

namespace perilune {

// The task of the service that waits under `session`, if it still does.
Task* Vm::waiting_task(Service& service, std::uint64_t session) {
    const Wait* wait = find_wait(session);
    if (wait == nullptr || wait->kind != WaitKind::call || wait->service != &service)
        return nullptr;
    return wait->task;
}

// Its answer, `count` values, is on its stack.
void Vm::finish_task_wait(Task* task, int count) {
    free_wait(task->wait);
    task->wait = 0;
    task->rows.reset();
    resume(task, count);
}

void Vm::run_database(Service& service, MessagePtr message) {
    switch (static_cast<DatabaseEvent>(message->detail)) {
        case DatabaseEvent::mysql_connected:
        case DatabaseEvent::mysql_failed: mysql_connected(service, *message); break;
        case DatabaseEvent::mysql_ready: mysql_ready(service, message->id); break;
        case DatabaseEvent::mysql_ended: mysql_ended(service, message->id); break;
        case DatabaseEvent::sqlite_rows:
        case DatabaseEvent::sqlite_done: sqlite_answers(service, *message); break;
    }
}

void Vm::mysql_connected(Service& service, const Message& message) {
    Task* task = waiting_task(service, message.session);
    if (task == nullptr) {
        // Whoever asked for it has given up.
        host_.databases()->mysql().close(message.id, service.handle);
        return;
    }
    lua_State* co = task->thread;
    if (static_cast<DatabaseEvent>(message.detail) == DatabaseEvent::mysql_connected) {
        lua_pushboolean(co, 1);
        lua_pushnumber(co, static_cast<lua_Number>(message.id));
        finish_task_wait(task, 2);
        return;
    }
    LuaRows none(L_, LuaRows::Shape::none);
    SqlResult why;
    (void)replay(message.payload(), none, &why);
    finish_task_wait(task, push_answer(co, why, nullptr));
}

void Vm::mysql_ready(Service& service, std::uint64_t id) {
    Mysql& mysql = host_.databases()->mysql();
    if (mysql.state(id, service.handle) != Mysql::State::busy) return;
    // One that waits no more will close it.
    Task* task = waiting_task(service, mysql.session_of(id));
    if (task == nullptr || task->rows == nullptr) return;
    bool done = false;
    {
        const Protected is_protected(arena_);
        done = proceed_mysql(*this, L_, id, *task->rows);
    }
    if (!done) return;
    finish_task_wait(task, push_answer(task->thread, mysql.result(id), task->rows.get()));
}

void Vm::mysql_ended(Service& service, std::uint64_t id) {
    if (service.events == LUA_NOREF) return;
    lua_rawgeti(L_, LUA_REGISTRYINDEX, service.events);
    lua_getfield(L_, -1, "mysql");
    if (!lua_isfunction(L_, -1)) {
        lua_pop(L_, 2);
        return;
    }
    Task* task = take_task(service, "mysql event");
    lua_xmove(L_, task->thread, 1);
    lua_pop(L_, 1);
    lua_pushnumber(task->thread, static_cast<lua_Number>(id));
    resume(task, 1);
}

void Vm::sqlite_answers(Service& service, const Message& message) {
    Task* task = waiting_task(service, message.session);
    if (task == nullptr || task->rows == nullptr) return;
    LuaRows& rows = *task->rows;
    SqlResult result;
    if (rows.problem().empty()) {
        const Protected is_protected(arena_);
        auto body = [&](lua_State* state) {
            rows.enter(state);
            (void)replay(message.payload(), rows, &result);
            rows.leave();
        };
        rows.set_problem(run_protected(L_, body));
    }
    if (static_cast<DatabaseEvent>(message.detail) == DatabaseEvent::sqlite_rows) return;
    lua_State* co = task->thread;
    if (!rows.problem().empty()) {
        SqlResult failed = SqlResult::failure(SqlCode::error, rows.problem());
        failed.unknown = true;
        finish_task_wait(task, push_answer(co, failed, nullptr));
        return;
    }
    int count = push_answer(co, result, &rows);
    lua_pushnumber(co, static_cast<lua_Number>(message.id));
    finish_task_wait(task, count + 1);
}

}  // namespace perilune
