// perilune.native.password: hashes of passwords, for lualib/perilune/password.lua.
//
// Purpose:   argon2id, which takes tens of milliseconds by design, on a thread of the blocking
// pool. Threads:   the worker that runs the VM; the hashing on the pool's thread. Ownership: none.
#pragma once

#include "lua.hpp"

namespace perilune {

// Pushes the table of native functions.
void push_password_library(lua_State* L);

}  // namespace perilune
