#include "lua/lua_blocking.h"

#include <utility>

#include "lua/lua_core.h"
#include "lua/vm.h"

namespace perilune {

std::int64_t check_limit_ms(lua_State* L, const char* function, int index) {
    const lua_Number ms = luaL_checknumber(L, index);
    if (!(ms >= 1 && ms <= 2147483647.0)) {
        argument_error(L, function, index, "a limit from 1 to 2147483647 ms expected");
    }
    return static_cast<std::int64_t>(ms);
}

bool begin_blocking(Vm& vm, Task& task, std::int64_t limit_ms, std::function<void(Message&)> work) {
    const std::uint64_t session = vm.begin_wait(task, WaitKind::call, {}, limit_ms);
    if (session == 0) return false;
    MessagePtr done = make_message(MessageKind::work, task.service->handle, {}, session);
    if (vm.kernel().run_blocking(std::move(work), std::move(done))) return true;
    vm.drop_wait(session);
    return false;
}

}  // namespace perilune
