// perilune.native.socket: the engine's connections for lualib/perilune/socket.lua.
//
// Purpose:   one function for each entry of lualib/meta/socket.lua: checks, calls Network,
//            pushes. What users see is lualib/perilune/socket.lua.
// Threads:   the worker that runs the VM.
// Ownership: none; ids are Lua numbers.
#pragma once

#include "core/ids.h"
#include "lua.hpp"
#include "net/connection.h"

namespace perilune {

// Pushes the table of native functions.
void push_socket_library(lua_State* L);

// For the bindings of protocols on top of connections.
ConnectionId check_connection(lua_State* L, int index);
// Reads the fields of StreamOptions from the table at `index`. Raises, naming `function` and
// the option. Functions among the values are left alone.
StreamOptions check_stream_options(lua_State* L, int index, const char* function);

}  // namespace perilune
