// perilune.native.sqlite: databases for lualib/perilune/sqlite.lua.
//
// Purpose:   one function for each entry of lualib/meta/sqlite.lua: checks, calls Sqlite, waits.
// Threads:   the worker that runs the VM.
// Ownership: none; ids are Lua numbers.
#pragma once

#include "lua.hpp"

namespace perilune {

// Pushes the table of native functions.
void push_sqlite_library(lua_State* L);

}  // namespace perilune
