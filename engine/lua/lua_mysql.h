// perilune.native.mysql: connections for lualib/perilune/mysql.lua.
//
// Purpose:   one function for each entry of lualib/meta/mysql.lua: checks, calls Mysql, waits.
// Threads:   the worker that runs the VM.
// Ownership: none; ids are Lua numbers.
#pragma once

#include <cstdint>

#include "lua.hpp"

namespace perilune {

class LuaRows;
class Vm;

// Pushes the table of native functions.
void push_mysql_library(lua_State* L);

// Goes on with the statement of a connection; true when it is done. `L`: a state whose stack may be
// used meanwhile.
bool proceed_mysql(Vm& vm, lua_State* L, std::uint64_t id, LuaRows& rows);

}  // namespace perilune
