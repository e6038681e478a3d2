// How fast the codec is: the player table of workload W8, and an integer with a short string.
// Each figure is the median of seven rounds, in CPU time of the thread, with the JIT off.
// LuaJIT's string.buffer runs beside it, on the same VM and the same table, as the reference; its
// table changes at each run, or the string that it makes would be there already.
//
//   codec_bench [seconds a round]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "core/shared_tree.h"
#include "lua/lua_codec.h"
#include "lua/lua_shared.h"

namespace {

using namespace perilune;

const char* const kPlayer = R"(
    return {
        id = 10000123, uid = "u-7f3a9c21", name = "小明·Zoë✨", level = 57, exp = 1234567,
        vip = 3, gold = 99887766, gem = 4321, hp = 1820.5, mp = 640.25, x = 1023.125,
        y = -77.5, z = 3.0625, scene = 1001, online = true, guild = "龙之谷",
        title = "Grand Marshal", created = 1700000000, last_login = 1731900000, lang = "zh-CN",
        attr = { str = 101, agi = 88, int = 45, vit = 130, luk = 12, crit = 0.175,
                 dodge = 0.0825, haste = 1.35 },
        equip = {
            { id = 30001, lv = 12, star = 5, name = "破军之剑", gems = { 11, 12, 13 } },
            { id = 30002, lv = 10, star = 4, name = "Aegis", gems = { 21, 22 } },
            { id = 30003, lv = 11, star = 3, name = "Boots of Ünïcode", gems = { 31 } },
        },
        bag = { 1001, 1002, 1003, 1004, 1005, 2001, 2002, 2003, 70001, 70002, 70003, 70004,
                123456, 654321, 1, 2, 3 },
        skills = { 501, 502, 503, 504, 505, 506 },
        quests = { { id = 9001, step = 2, done = false }, { id = 9002, step = 5, done = true } },
        friends = { "alice", "bob", "张三", "李四" },
        settings = { music = 0.8, sound = 0.5, push = true, quality = "high" },
    }
)";

double round_seconds = 0.2;

double cpu_seconds() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Runs of `operation` a second, the median of seven rounds. It is called with a number of runs.
double rate(const std::function<void(int)>& operation) {
    const auto seconds = [&](int runs) {
        const double start = cpu_seconds();
        operation(runs);
        return cpu_seconds() - start;
    };
    int runs = 64;
    while (std::min(seconds(runs), seconds(runs)) < round_seconds / 8) runs *= 2;
    runs *= 8;
    std::vector<double> rates;
    for (int round = 0; round < 7; ++round) rates.push_back(runs / seconds(runs));
    std::sort(rates.begin(), rates.end());
    return rates[3];
}

void result(const std::string& name, double value, const char* unit) {
    std::printf("RESULT %s %.6g %s\n", name.c_str(), value, unit);
    std::fflush(stdout);
}

void check(bool condition, const char* what) {
    if (condition) return;
    std::printf("FAIL %s\n", what);
    std::exit(1);
}

// The values on the stack of `L` through pack and unpack.
void measure_codec(lua_State* L, const std::string& name, const char* unit) {
    const int top = lua_gettop(L);
    char area[4096];
    std::string bytes;
    {
        PayloadWriter out(area, sizeof area);
        check(pack(L, 1, top, out).ok(), "pack");
        bytes.assign(out.data(), out.size());
    }
    result(name + "_bytes", static_cast<double>(bytes.size()), "bytes");
    const double encoded = rate([&](int runs) {
        for (int i = 0; i < runs; ++i) {
            PayloadWriter out(area, sizeof area);
            check(pack(L, 1, top, out).ok(), "pack");
        }
    });
    const double decoded = rate([&](int runs) {
        for (int i = 0; i < runs; ++i) {
            int count = 0;
            check(unpack(L, bytes.data(), bytes.size(), &count).ok(), "unpack");
            lua_settop(L, top);
        }
    });
    const bool is_rate = std::string(unit) == "ops/s";
    result(name + "_enc", is_rate ? encoded : 1e9 / encoded, unit);
    result(name + "_dec", is_rate ? decoded : 1e9 / decoded, unit);
}

// A Lua function of a number of runs.
double rate_of_lua(lua_State* L, const char* code) {
    check(luaL_loadstring(L, code) == 0, "a chunk of Lua");
    lua_insert(L, 1);
    check(lua_pcall(L, lua_gettop(L) - 1, 1, 0) == 0, "a chunk of Lua");
    lua_gc(L, LUA_GCCOLLECT, 0);  // what the measurement before has left
    const double found = rate([&](int runs) {
        lua_pushvalue(L, 1);
        lua_pushinteger(L, runs);
        check(lua_pcall(L, 1, 0, 0) == 0, "a function of Lua");
    });
    lua_settop(L, 0);
    return found;
}

void push_player(lua_State* L) {
    lua_settop(L, 0);
    check(luaL_dostring(L, kPlayer) == 0, "the player table");
}

void measure_shared(lua_State* L) {
    push_player(L);
    PayloadWriter out;
    check(pack(L, 1, 1, out).ok(), "pack");
    const auto tree = SharedTree::build(out.data(), out.size());
    check(tree.ok(), "SharedTree::build");
    lua_settop(L, 0);
    push_shared_tree(L, tree.value());
    lua_setglobal(L, "shared");
    const auto nanoseconds = [&](const char* code) { return 1e9 / rate_of_lua(L, code); };
    result("shared_number",
           nanoseconds("local t = shared return function(n) local s = 0 "
                       "for i = 1, n do s = s + t.level end end"),
           "ns");
    result("shared_string",
           nanoseconds("local t = shared return function(n) local s "
                       "for i = 1, n do s = t.title end end"),
           "ns");
    result("shared_table",
           nanoseconds("local t = shared return function(n) local s = 0 "
                       "for i = 1, n do s = s + t.attr.str end end"),
           "ns");
}

}  // namespace

int main(int count, char** arguments) {
    if (count > 1) round_seconds = std::atof(arguments[1]);
    if (std::getenv("BENCH_SMOKE") != nullptr) round_seconds = 0.01;
    lua_State* L = luaL_newstate();
    luaL_openlibs(L);
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);

    push_player(L);
    measure_codec(L, "W8_pack", "ops/s");

    lua_settop(L, 0);
    lua_pushinteger(L, 123456);
    lua_pushliteral(L, "sixteen bytes...");
    measure_codec(L, "pack_int_string", "ns");

    push_player(L);
    result("W8_string_buffer_enc",
           rate_of_lua(L,
                       "local player, encode = ..., require('string.buffer').encode "
                       "return function(n) for i = 1, n do player.exp = i encode(player) end end"),
           "ops/s");
    push_player(L);
    result("W8_string_buffer_dec",
           rate_of_lua(L,
                       "local buffer = require('string.buffer') "
                       "local bytes, decode = buffer.encode((...)), buffer.decode "
                       "return function(n) for i = 1, n do decode(bytes) end end"),
           "ops/s");
    measure_shared(L);
    lua_close(L);
    return 0;
}
