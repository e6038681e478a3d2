// perilune.native.redis: replies and commands of Redis for lualib/perilune/redis.
//
// Purpose:   checks, calls RedisReader and RedisCommand, pushes. lualib/meta/redis.lua says what is
//            in it.
// Threads:   the worker that runs the VM.
// Ownership: a reader lives in memory that Lua collects, what it holds doesn't: a VM that has made
//            one must be closed.
#pragma once

#include "lua.hpp"

namespace perilune {

// Pushes the table of native functions.
void push_redis_library(lua_State* L);

}  // namespace perilune
