// Blocking work of a task: what a native function has done on the pool while its coroutine waits.
//
// Purpose:   one way from a worker to the blocking pool and back.
// Threads:   the worker that runs the VM; the work on a thread of the pool.
// Ownership: the work owns what it needs: it may end after who asked for it.
#pragma once

#include <cstdint>
#include <functional>

#include "core/message.h"
#include "lua.hpp"

namespace perilune {

class Vm;
struct Task;

// Argument `index` of `function`: how long to wait, in ms. Raises when it is none.
std::int64_t check_limit_ms(lua_State* L, const char* function, int index);

// Has `work` done; the payload that it writes to its message is what the Lua function returns, if
// the task yields now. False: the pool is full, or too much waits in this VM; don't yield.
bool begin_blocking(Vm& vm, Task& task, std::int64_t limit_ms, std::function<void(Message&)> work);

}  // namespace perilune
