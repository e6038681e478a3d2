// LuaJIT on the arena, with the JIT on: same results as on its own allocator, and memory bombs
// that end near the limit when the host does what arena.h says.
#include <gtest/gtest.h>

#include <algorithm>
#include <lua.hpp>
#include <memory>
#include <string>

#include "lua/arena.h"

namespace perilune {
namespace {

std::unique_ptr<PagePool> make_pool() {
    auto pool = PagePool::create({});
    EXPECT_TRUE(pool.ok()) << pool.status().message();
    return std::move(pool.value());
}

void open_libraries(lua_State* L) {
    luaL_openlibs(L);
#ifdef PERILUNE_TSAN
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);  // as the host does there
#endif
}

const char kChurn[] = R"(
    local sum, kept = 0, {}
    for round = 1, 20 do
        for i = 1, 3000 do
            local item = { id = i, name = "n" .. i * round, list = { i, i + 1 } }
            kept[i * round % 997] = item
            item.call = function(a) return a + item.id end
            sum = sum + item.call(round) + #item.name
        end
        local parts = {}
        for i = 0, 996 do parts[i + 1] = kept[i] and kept[i].name:rep(3) or '' end
        table.sort(parts)
        sum = sum + #table.concat(parts, ",")
        local co = coroutine.wrap(function() for i = 1, 500 do coroutine.yield({ i }) end end)
        for i = 1, 500 do sum = sum + co()[1] end
        if round % 7 == 0 then kept = {} collectgarbage() end
    end
    return sum
)";

double run_churn(lua_State* L) {
    open_libraries(L);
    EXPECT_EQ(luaL_dostring(L, kChurn), 0) << lua_tostring(L, -1);
    return lua_tonumber(L, -1);
}

TEST(ArenaVm, ComputesWhatLuajitsOwnAllocatorDoes) {
    lua_State* plain = luaL_newstate();
    const double expected = run_churn(plain);
    lua_close(plain);
    const auto pool = make_pool();
    Arena arena(pool.get());
    lua_State* L = lua_newstate(Arena::lua_allocate, &arena);
    ASSERT_NE(L, nullptr);
    EXPECT_EQ(run_churn(L), expected);
    arena.close();
    lua_close(L);
    EXPECT_EQ(arena.used(), 0u);
}

TEST(ArenaVm, IsTornDownWithoutClosingTheVm) {
    const auto pool = make_pool();
    for (int i = 0; i < 3; ++i) {
        Arena arena(pool.get());
        lua_State* L = lua_newstate(Arena::lua_allocate, &arena);
        luaL_openlibs(L);
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);  // no machine code to free
        EXPECT_EQ(luaL_dostring(L, "kept = {} for i = 1, 1e5 do kept[i] = {} end"), 0);
    }
    EXPECT_EQ(pool->stats().chunks_used, 0u);
    EXPECT_EQ(pool->stats().span_bytes_used, 0u);
}

// What a host does: the callback arms a count hook; the hook collects; if that does not
// help, it ends the coroutine, by a yield where it can, since an error can be caught.
struct Host {
    Arena* arena = nullptr;
    lua_State* L = nullptr;
    bool killed = false;
    std::size_t peak = 0;

    static Host* of(lua_State* L) {
        lua_getfield(L, LUA_REGISTRYINDEX, "host");
        Host* host = static_cast<Host*>(lua_touserdata(L, -1));
        lua_pop(L, 1);
        return host;
    }

    static void on_over_limit(void* context) {
        Host* host = static_cast<Host*>(context);
        lua_sethook(host->L, on_count, LUA_MASKCOUNT, 1);
    }

    static void on_count(lua_State* L, lua_Debug*) {
        Host* host = of(L);
        host->peak = std::max(host->peak, host->arena->used());
        if (!host->killed) {
            lua_gc(L, LUA_GCCOLLECT, 0);
            if (host->arena->refused() < 3 && host->arena->has_room(0)) {
                lua_sethook(L, nullptr, 0, 0);
                host->arena->rearm();
                return;
            }
            host->killed = true;
        }
        if (lua_isyieldable(L)) {
            lua_yield(L, 0);
        } else {
            luaL_error(L, "out of memory");
        }
    }
};

constexpr std::size_t kLimit = 16 << 20;

const struct {
    const char* name;
    const char* source;
} kBombs[] = {
    {"array", "local t = {} while true do t[#t + 1] = 1 end"},
    {"hash", "local t = {} local i = 0 while true do i = i + 1 t['k' .. i] = i end"},
    {"tables", "local t = {} while true do t = { t } end"},
    {"doubling", "local s = 'x' while true do s = s .. s end"},
    {"rep", "local t = {} while true do t[#t + 1] = ('x'):rep(900000 + #t) end"},
    {"closures", "local f while true do local g = f f = function() return g end end"},
    {"coroutines", "local t = {} while true do t[#t + 1] = coroutine.create(print) end"},
    {"buffer", "local b = require('string.buffer').new() while true do b:put('xxxxxxxx') end"},
    {"nested", R"(local function go(t) while true do t[#t + 1] = {}
        if #t % 1000 == 0 then coroutine.wrap(go)({}) end end end go({}))"},
    {"sort", "local t = {} table.sort({1, 2, 3}, function() while true do t[#t + 1] = {} end end)"},
    {"garbage", "local n = 0 for i = 1, 3e5 do local t = { {}, {}, i } n = n + #t end return n"},
};

void explode(PagePool* pool, const std::string& name, const std::string& source) {
    SCOPED_TRACE(name + ": " + source);
    Arena arena(pool);
    lua_State* L = lua_newstate(Arena::lua_allocate, &arena);
    open_libraries(L);
    Host host;
    host.arena = &arena;
    host.L = L;
    lua_pushlightuserdata(L, &host);
    lua_setfield(L, LUA_REGISTRYINDEX, "host");
    arena.on_over_limit(Host::on_over_limit, &host);
    arena.set_limit(kLimit);

    lua_State* co = lua_newthread(L);
    ASSERT_EQ(luaL_loadstring(co, source.c_str()), 0);
    const int status = lua_resume(co, 0);
    if (name == "garbage") {
        EXPECT_EQ(status, 0);
        EXPECT_FALSE(host.killed);
    } else {
        EXPECT_NE(status, 0);
        EXPECT_TRUE(host.killed || status == LUA_ERRMEM || status == LUA_ERRRUN);
    }
    EXPECT_LT(host.peak, 2 * kLimit);
    EXPECT_LT(arena.footprint(), 4 * kLimit);
    // The VM can be used still, once the coroutine is dropped.
    lua_sethook(L, nullptr, 0, 0);
    lua_settop(L, 0);
    lua_gc(L, LUA_GCCOLLECT, 0);
    EXPECT_LT(arena.used(), kLimit / 2);  // LuaJIT halves its string buffer at each collection
    arena.rearm();
    EXPECT_EQ(luaL_dostring(L, "local t = {} for i = 1, 1000 do t[i] = { i } end return #t"), 0);
    arena.close();
    lua_close(L);
}

TEST(ArenaVm, EndsMemoryBombsNearTheLimit) {
    const auto pool = make_pool();
    for (const auto& bomb : kBombs) {
        explode(pool.get(), bomb.name, bomb.source);
    }
}

TEST(ArenaVm, EndsMemoryBombsThatCatchErrors) {
    const auto pool = make_pool();
    for (const auto& bomb : kBombs) {
        if (bomb.name == std::string("garbage") || bomb.name == std::string("sort")) continue;
        const std::string body = std::string("local function bomb() ") + bomb.source + " end ";
        explode(pool.get(), bomb.name, body + "while true do pcall(bomb) end");
        explode(pool.get(), bomb.name, body + "while true do xpcall(bomb, bomb) end");
    }
}

}  // namespace
}  // namespace perilune
