// What a VM costs on the arena and on LuaJIT's own allocator: time to create and close, memory
// when idle, and the speed of Lua that allocates much. Prints `RESULT name value unit`.
#include <time.h>
#include <unistd.h>
#include <lua.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lua/arena.h"

namespace perilune {
namespace {

const bool kSmoke = std::getenv("BENCH_SMOKE") != nullptr;

// As a minimal service: a module table, some state and a coroutine that waits.
const char kService[] = R"(
    local counter, total = {}, 0
    function counter.add(n) total = total + n return total end
    function counter.get() return total end
    waiting = coroutine.create(function() while true do coroutine.yield() end end)
    coroutine.resume(waiting)
    commands = counter
)";

const char kObjects[] = R"(
    local rounds = ...
    local kept = {}
    for i = 1, rounds do
        local player = { id = i, name = "player" .. i, position = { x = i, y = i }, items = {} }
        for j = 1, i % 8 do player.items[j] = { j, function() return i end } end
        kept[i % 5000 + 1] = player
    end
)";

const char kStrings[] = R"(
    local rounds = ...
    local parts = {}
    for i = 1, rounds do
        parts[i % 50 + 1] = ("item %d of %s"):format(i, "somebody")
        if i % 50 == 0 then parts = { table.concat(parts, ",") } end
    end
)";

const char kCoroutines[] = R"(
    local rounds = ...
    local kept = {}
    for i = 1, rounds do
        local co = coroutine.create(function(a) local b = coroutine.yield(a) return { b } end)
        coroutine.resume(co, i)
        kept[i % 1000 + 1] = co
    end
)";

// A hundred services' tables that grow, and are dropped in another order.
const char kTables[] = R"(
    local rounds = ...
    local kept = {}
    for i = 1, rounds do
        local list = kept[i % 100] or {}
        kept[i % 100] = list
        for j = 1, 20 do list[#list + 1] = i end
        list["key" .. i % 300] = i
        if #list > (i * 7919) % 20000 then kept[i % 100] = nil end
    end
)";

void open_libraries(lua_State* L) {
    static const luaL_Reg kLibraries[] = {{"", luaopen_base},       {"string", luaopen_string},
                                          {"table", luaopen_table}, {"math", luaopen_math},
                                          {"bit", luaopen_bit},     {"debug", luaopen_debug},
                                          {"os", luaopen_os},       {"jit", luaopen_jit}};
    for (const luaL_Reg& library : kLibraries) {
        lua_pushcfunction(L, library.func);
        lua_pushstring(L, library.name);
        lua_call(L, 1, 0);
    }
}

void run(lua_State* L, const char* source, int argument) {
    if (luaL_loadstring(L, source) != 0) std::abort();
    lua_pushinteger(L, argument);
    if (lua_pcall(L, 1, 0, 0) != 0) {
        std::fprintf(stderr, "%s\n", lua_tostring(L, -1));
        std::abort();
    }
}

// A VM on the arena, or (without a pool) on LuaJIT's own allocator.
class Vm {
  public:
    explicit Vm(PagePool* pool) {
        if (pool != nullptr) arena_ = std::make_unique<Arena>(pool);
        L_ = pool == nullptr ? luaL_newstate() : lua_newstate(Arena::lua_allocate, arena_.get());
        lua_gc(L_, LUA_GCSTOP, 0);
        open_libraries(L_);
        lua_gc(L_, LUA_GCRESTART, 0);
    }
    ~Vm() {
        if (arena_ != nullptr) arena_->close();
        lua_close(L_);
    }
    lua_State* state() { return L_; }
    Arena* arena() { return arena_.get(); }

  private:
    std::unique_ptr<Arena> arena_;
    lua_State* L_ = nullptr;
};

double resident_kib() {
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    long size = 0;
    long resident = 0;
    if (file == nullptr || std::fscanf(file, "%ld %ld", &size, &resident) != 2) std::abort();
    std::fclose(file);
    return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1024;
}

double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void result(const std::string& name, double value, const char* unit) {
    std::printf("RESULT %s %.2f %s\n", name.c_str(), value, unit);
}

// Runs `body` with LuaJIT's allocator (null) and with `pool` in turn, and prints the least CPU
// time of each: what disturbs only adds.
void compare(const std::string& name, PagePool* pool, double scale, const char* unit,
             const std::function<void(PagePool*)>& body) {
    double best[2] = {1e9, 1e9};
    const int runs = kSmoke ? 1 : 7;
    for (int i = 0; i < runs; ++i) {
        for (PagePool* with : {static_cast<PagePool*>(nullptr), pool}) {
            const double start = cpu_seconds();
            body(with);
            double& least = best[with == pool];
            least = std::min(least, cpu_seconds() - start);
        }
    }
    result(name + "_luajit", best[0] * scale, unit);
    result(name + "_arena", best[1] * scale, unit);
}

void measure_creation(PagePool* pool) {
    const int vms = kSmoke ? 5 : 500;
    compare("vm_create_close", pool, 1e6 / vms, "us", [&](PagePool* with) {
        for (int i = 0; i < vms; ++i) Vm vm(with);
    });
    compare("vm_create_service_close", pool, 1e6 / vms, "us", [&](PagePool* with) {
        for (int i = 0; i < vms; ++i) {
            Vm vm(with);
            run(vm.state(), kService, 0);
        }
    });
}

void measure_idle(const std::string& suffix, PagePool* pool) {
    const int vms = kSmoke ? 20 : 2000;
    const double before = resident_kib();
    std::vector<std::unique_ptr<Vm>> idle;
    for (int i = 0; i < vms; ++i) {
        idle.push_back(std::make_unique<Vm>(pool));
        run(idle.back()->state(), kService, 0);
    }
    result("vm_rss_" + suffix, (resident_kib() - before) / vms, "KiB");
    lua_State* L = idle[0]->state();
    const double live = lua_gc(L, LUA_GCCOUNT, 0) + lua_gc(L, LUA_GCCOUNTB, 0) / 1024.0;
    result("vm_live_" + suffix, live, "KiB");
}

void measure_workloads(PagePool* pool) {
    struct Workload {
        const char* name;
        const char* source;
        int rounds;
    };
    const Workload workloads[] = {{"objects", kObjects, 200000},
                                  {"strings", kStrings, 1000000},
                                  {"coroutines", kCoroutines, 300000},
                                  {"tables", kTables, 200000}};
    for (const Workload& workload : workloads) {
        const int rounds = kSmoke ? workload.rounds / 1000 : workload.rounds;
        for (const bool jit : {true, false}) {
            const std::string name = std::string(workload.name) + (jit ? "_jit" : "_interpreted");
            compare(name, pool, 1e3, "ms", [&](PagePool* with) {
                Vm vm(with);
                if (!jit) luaJIT_setmode(vm.state(), 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
                run(vm.state(), workload.source, rounds);
            });
        }
        for (PagePool* with : {static_cast<PagePool*>(nullptr), pool}) {
            if (with != nullptr) with->purge();
            const double before = resident_kib();
            Vm vm(with);
            luaJIT_setmode(vm.state(), 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
            run(vm.state(), workload.source, rounds);
            lua_gc(vm.state(), LUA_GCCOLLECT, 0);
            const std::string suffix = with == nullptr ? "_luajit" : "_arena";
            result(workload.name + ("_rss" + suffix), resident_kib() - before, "KiB");
            result(workload.name + ("_live" + suffix), lua_gc(vm.state(), LUA_GCCOUNT, 0), "KiB");
        }
    }
}

}  // namespace
}  // namespace perilune

int main() {
    using perilune::PagePool;
    auto pool = PagePool::create({});
    if (!pool.ok()) {
        std::fprintf(stderr, "%s\n", pool.status().message());
        return 1;
    }
    perilune::measure_workloads(pool.value().get());
    perilune::measure_creation(pool.value().get());
    perilune::measure_idle("luajit", nullptr);
    perilune::measure_idle("arena", pool.value().get());
}
