// perilune.native.http: the parser of HTTP messages for lualib/perilune/http.
//
// Purpose:   checks, calls HttpParser, pushes. lualib/meta/http.lua says what is in it.
// Threads:   the worker that runs the VM.
// Ownership: a parser lives in memory that Lua collects, what it holds doesn't: a VM that has
//            made one must be closed.
#pragma once

#include "lua.hpp"

namespace perilune {

// Pushes the table of native functions.
void push_http_library(lua_State* L);

}  // namespace perilune
