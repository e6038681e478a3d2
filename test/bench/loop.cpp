// The references of the benchmarks: what LuaJIT costs without an engine.
//
//   loop           a bare loop that resumes a coroutine with an integer and 16 bytes and takes
//                  two results, interpreted and compiled: what W1 and W2 are held against
//   loop <script>  a script in a Lua state with all of LuaJIT's libraries and lua-cjson
//
// BENCH_N: how many resumes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "lua.hpp"

extern "C" int luaopen_cjson(lua_State* L);

namespace {

// What a dispatcher of an engine is at least.
const char* const kDispatcher = R"(
    local function echo(number, text) return number + 1, text end
    local yield = coroutine.yield
    local number, text = ...
    while true do number, text = yield(echo(number, text)) end
)";

constexpr char kPayload[] = "sixteen bytes...";

void check(bool condition, const char* what) {
    if (condition) return;
    std::printf("FAIL %s\n", what);
    std::exit(1);
}

double cpu_seconds() {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void resume(lua_State* co, int count) {
    for (int i = 1; i <= count; ++i) {
        lua_pushinteger(co, i);
        lua_pushlstring(co, kPayload, sizeof kPayload - 1);
        check(lua_resume(co, 2) == LUA_YIELD && lua_gettop(co) == 2, "the coroutine ended");
        std::size_t size = 0;
        check(lua_tointeger(co, 1) == i + 1 && lua_tolstring(co, 2, &size) != nullptr &&
                  size == sizeof kPayload - 1,
              "a wrong answer");
        lua_settop(co, 0);
    }
}

// Nanoseconds a resume, the median of five rounds.
double measure(bool jit, int count) {
    lua_State* L = luaL_newstate();
    luaL_openlibs(L);
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | (jit ? LUAJIT_MODE_ON : LUAJIT_MODE_OFF));
    lua_State* co = lua_newthread(L);
    check(luaL_loadstring(co, kDispatcher) == 0, "the dispatcher doesn't compile");
    resume(co, count / 10);
    std::vector<double> rounds;
    for (int round = 0; round < 5; ++round) {
        const double begin = cpu_seconds();
        resume(co, count / 5);
        rounds.push_back((cpu_seconds() - begin) * 1e9 / (count / 5));
    }
    lua_close(L);
    std::sort(rounds.begin(), rounds.end());
    return rounds[2];
}

void run_script(const std::string& path) {
    lua_State* L = luaL_newstate();
    luaL_openlibs(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, luaopen_cjson);
    lua_setfield(L, -2, "cjson");
    lua_pushstring(L, (path.substr(0, path.find_last_of('/') + 1) + "?.lua").c_str());
    lua_setfield(L, -3, "path");
    lua_settop(L, 0);
    if (luaL_dofile(L, path.c_str()) != 0) check(false, lua_tostring(L, -1));
    lua_close(L);
}

}  // namespace

int main(int argument_count, char** arguments) {
    if (argument_count > 1) {
        run_script(arguments[1]);
        return 0;
    }
    const char* wanted = std::getenv("BENCH_N");
    const int count = wanted == nullptr ? 5'000'000 : std::max(100, std::atoi(wanted));
    std::printf("RESULT loop_interpreted %.4g ns\n", measure(false, count));
    std::printf("RESULT loop_compiled %.4g ns\n", measure(true, count));
    return 0;
}
