// Lua module perilune.gate: the sessions of a gateway in C++. lualib/meta/gate.lua documents it.
//
// Threads:   the worker that runs the VM.
// Ownership: a service's gate is its ServiceGate; sessions are named by their keys.
#pragma once

#include "lua.hpp"

namespace perilune {

// Pushes the library table. Needs a protected call.
void push_gate_library(lua_State* L);

}  // namespace perilune
