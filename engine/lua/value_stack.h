// Values of a C++ program on a Lua stack.
//
// Purpose:   what native services and host programs exchange with scripts.
// Threads:   the worker that runs the VM.
// Ownership: copies.
#pragma once

#include "lua.hpp"
#include "perilune/value.h"

namespace perilune {

// Pushes `value`. May raise when memory runs out.
void push_value(lua_State* L, const Value& value);

}  // namespace perilune
