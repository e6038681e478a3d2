// LuaRows: the rows of an answer, as a Lua table that grows.
//
// Purpose:   what a task that waits for a database gets in the end. Rows go into the table as they
//            come, and nowhere else.
// Threads:   the worker that runs the VM.
// Ownership: the task owns it; it keeps the table by references of Lua's registry.
#pragma once

#include <string>
#include <utility>

#include "data/sql.h"
#include "lua.hpp"
#include "lua/sandbox.h"

namespace perilune {

class LuaRows final : public RowSink {
  public:
    enum class Shape : std::uint8_t {
        none,    // nobody wants them
        arrays,  // {value, ...}, and the names of the columns
        maps,    // {name = value, ...}
    };

    // `main`: the VM's own state, which outlives it.
    LuaRows(lua_State* main, Shape shape) : main_(main), shape_(shape) {}
    ~LuaRows() override;
    LuaRows(const LuaRows&) = delete;
    LuaRows& operator=(const LuaRows&) = delete;

    // Rows may come from here on, until leave(): they use the stack of `L`, which is protected,
    // as its errors jump out of what told them.
    void enter(lua_State* L);
    void leave();
    // Pushes the rows and the names of the columns, or two nils.
    void push(lua_State* L) const;
    // They could not be kept; "" where they could.
    const std::string& problem() const { return problem_; }
    void set_problem(std::string text) { problem_ = std::move(text); }

    void columns(std::span<const std::string_view> names) override;
    void begin_row() override;
    void null() override { ++column_; }
    void integer(std::int64_t value) override;
    void natural(std::uint64_t value) override;
    void real(double value) override;
    void text(std::string_view bytes) override;
    void end_row() override;

  private:
    void push_tables();
    void put();
    void forget();

    lua_State* const main_;
    const Shape shape_;
    lua_State* L_ = nullptr;  // between enter() and leave()
    int base_ = 0;            // its top at enter()
    int rows_ = LUA_NOREF;
    int names_ = LUA_NOREF;
    int width_ = 0;   // columns
    int count_ = 0;   // rows
    int column_ = 0;  // of the row that is being told, from 1
    std::string problem_;
};

// Runs `body(state)` where errors of Lua's are caught: their text, or "".
template <typename Body>
std::string run_protected(lua_State* L, Body& body) {
    struct Runner {
        static int run(lua_State* state) {
            (*static_cast<Body*>(lua_touserdata(state, 1)))(state);
            return 0;
        }
    };
    if (lua_cpcall(L, Runner::run, &body) == 0) return {};
    std::string text = error_text(L, lua_gettop(L));
    lua_pop(L, 1);
    return text;
}

// Pushes what a native function of a database returns: true, rows, columns, affected, insert id,
// whether a transaction is open; or false, code, message, number, SQLSTATE, unknown, lost.
int push_answer(lua_State* L, const SqlResult& result, const LuaRows* rows);

// Pushes an integer: a number, or its digits where a number would not be exact.
void push_integer(lua_State* L, std::int64_t value);
void push_natural(lua_State* L, std::uint64_t value);

// The value at `index` as a parameter; it refers to the string there. False when it can't be one.
bool read_value(lua_State* L, int index, SqlValue& value);
// check(sql, ...): raises, with the line of the script, unless they can be sent and waited for.
int check_statement(lua_State* L);

}  // namespace perilune
