// require: where a script's modules come from.
//
// Purpose:   standard libraries of the allow-list, the engine's own modules (once a VM), and
//            the game's modules (once a service, so that light services share no state).
// Threads:   the worker that runs the VM.
// Ownership: none.
#pragma once

#include "lua.hpp"

namespace perilune {

// require(name) -> module. Raises when there is none, naming every place that was looked at.
int lua_require(lua_State* L);

// Pushes the table of modules that the whole VM shares, by name.
void push_vm_modules(lua_State* L);

}  // namespace perilune
