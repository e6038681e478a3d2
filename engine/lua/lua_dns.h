// perilune.native.dns: addresses of host names, for lualib/perilune/dns.lua.
//
// Purpose:   has the system look a name up on a thread of the blocking pool.
// Threads:   the worker that runs the VM; the look-up on the pool's thread.
// Ownership: none.
#pragma once

#include "lua.hpp"

namespace perilune {

// Pushes the table of native functions. lualib/meta/dns.lua says what is in it.
void push_dns_library(lua_State* L);

}  // namespace perilune
