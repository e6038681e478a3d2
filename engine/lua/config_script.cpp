#include "lua/config_script.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "core/clock.h"
#include "lua.hpp"
#include "lua/lua_codec.h"

namespace perilune {

namespace {

constexpr int kHookInstructions = 1000;
constexpr int kMaxDepth = 32;     // tables inside each other
constexpr int kMaxIncludes = 16;  // files that include each other

// Taken out of the standard libraries: what reads files or bytecode, and what could catch the
// error that ends a file which runs for too long, as coroutine.resume does.
constexpr const char* kRemoved = R"(
    dofile, loadfile, load, loadstring, require, module, print, newproxy = nil
    collectgarbage, gcinfo, getfenv, setfenv, pcall, xpcall, coroutine = nil
    string.dump = nil
)";

// Stands for everything that the engine would give: any use of it gives itself.
constexpr const char* kStandIn = R"(
    local find_module, run_file = ...
    local stand_in = {}
    local function self() return stand_in end
    local meta = { __index = self, __newindex = function() end, __call = self, __concat = self,
        __add = self, __sub = self, __mul = self, __div = self, __mod = self, __pow = self,
        __unm = self, __lt = function() return false end, __le = function() return false end }
    setmetatable(stand_in, meta)
    local loaded = {}
    function require(name)
        if loaded[name] == nil then
            loaded[name] = stand_in
            local path = find_module(name)
            if path then loaded[name] = run_file(path) end
        end
        return loaded[name]
    end
    setmetatable(_G, { __index = self })
    return stand_in
)";

class BareState {
  public:
    explicit BareState(const ScriptLimits& limits)
        : limits_(limits), deadline_ns_(RealClock::monotonic() + limits.time_ms * kNsPerMs) {
        L = lua_newstate(allocate, this);
    }
    ~BareState() {
        if (L != nullptr) lua_close(L);
    }
    BareState(const BareState&) = delete;
    BareState& operator=(const BareState&) = delete;

    static BareState& of(lua_State* L) {
        void* self = nullptr;
        lua_getallocf(L, &self);
        return *static_cast<BareState*>(self);
    }

    // Calls `body` with this state, protected. Empty, or the error's text.
    std::string run(lua_CFunction body, void* context) {
        if (L == nullptr) return "not enough memory";
        if (lua_cpcall(L, body, context) == 0) return {};
        const char* text = lua_tostring(L, -1);
        if (text == nullptr) return "an error that is no text";
        if (std::string_view(text) != "not enough memory") return text;
        return "it needs more than " + std::to_string(limits_.memory_bytes >> 20) + " MB of memory";
    }

    // Opens the libraries. Protected.
    void open() {
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
        constexpr luaL_Reg kLibraries[] = {{"", luaopen_base},
                                           {"string", luaopen_string},
                                           {"table", luaopen_table},
                                           {"math", luaopen_math},
                                           {"bit", luaopen_bit}};
        for (const luaL_Reg& library : kLibraries) {
            lua_pushcfunction(L, library.func);
            lua_pushstring(L, library.name);
            lua_call(L, 1, 0);
        }
        if (luaL_loadstring(L, kRemoved) != 0) lua_error(L);
        lua_call(L, 0, 0);
        lua_sethook(L, check_limits, LUA_MASKCOUNT, kHookInstructions);
    }

    std::string folder;
    std::function<std::string(const std::string&)> find;
    int includes = 0;

    lua_State* L = nullptr;

  private:
    static void* allocate(void* context, void* block, std::size_t old_size, std::size_t size) {
        auto& self = *static_cast<BareState*>(context);
        if (block == nullptr) old_size = 0;
        if (size == 0) {
            self.used_ -= old_size;
            std::free(block);
            return nullptr;
        }
        // Without the compiler it is safe to refuse.
        if (size > old_size && self.used_ + size - old_size > self.limits_.memory_bytes) {
            return nullptr;
        }
        void* moved = std::realloc(block, size);
        if (moved != nullptr) self.used_ += size - old_size;
        return moved;
    }

    static void check_limits(lua_State* state, lua_Debug*) {
        BareState& self = of(state);
        if (RealClock::monotonic() < self.deadline_ns_) return;
        luaL_error(state, "it runs for more than %d ms. Is there a loop without end?",
                   self.limits_.time_ms);
    }

    const ScriptLimits limits_;
    const std::int64_t deadline_ns_;
    std::size_t used_ = 0;
};

// Pushes the function of a file's text, or raises.
void push_chunk(lua_State* L, const std::string& name, const std::string& text) {
    if (!text.empty() && text[0] == LUA_SIGNATURE[0]) {
        luaL_error(L, "%s:1: this is bytecode, and only text is loaded", name.c_str());
    }
    const std::string chunk = "@" + name;
    if (luaL_loadbufferx(L, text.data(), text.size(), chunk.c_str(), "t") != 0) lua_error(L);
}

// env(name, default)
int config_env(lua_State* L) {
    const char* name = luaL_checkstring(L, 1);
    const char* value = std::getenv(name);
    if (value == nullptr) {
        lua_settop(L, 2);
        return 1;
    }
    lua_pushstring(L, value);
    if (lua_type(L, 2) == LUA_TNUMBER) {
        if (!lua_isnumber(L, -1)) {
            return luaL_error(L, "the environment's %s is \"%s\", which is no number", name, value);
        }
        lua_pushnumber(L, lua_tonumber(L, -1));
    } else if (lua_type(L, 2) == LUA_TBOOLEAN) {
        const std::string_view text(value);
        const bool is_true = text == "1" || text == "true" || text == "yes" || text == "on";
        if (!is_true && text != "0" && text != "false" && text != "no" && text != "off") {
            return luaL_error(L, "the environment's %s is \"%s\", which is neither true nor false",
                              name, value);
        }
        lua_pushboolean(L, is_true);
    }
    return 1;
}

// include(file)
int config_include(lua_State* L) {
    const char* file = luaL_checkstring(L, 1);
    BareState& state = BareState::of(L);
    if (++state.includes > kMaxIncludes) return luaL_error(L, "too many files are included");
    const std::string path =
        *file == '/' || state.folder.empty() ? file : state.folder + "/" + file;
    std::string text;
    if (!read_text(path, text)) return luaL_error(L, "%s can't be read", path.c_str());
    push_chunk(L, path, text);
    lua_call(L, 0, 1);
    return 1;
}

// A Lua value as a Value, with notes on what can't be one.
class Reader {
  public:
    Reader(lua_State* L, const void* stand_in, std::vector<ConfigScriptResult::LeftOut>& left_out)
        : L_(L), stand_in_(stand_in), left_out_(left_out) {}

    Value read(int index, const std::string& path) {
        switch (lua_type(L_, index)) {
            case LUA_TNIL: return {};
            case LUA_TBOOLEAN: return Value(lua_toboolean(L_, index) != 0);
            case LUA_TNUMBER: return Value(lua_tonumber(L_, index));
            case LUA_TSTRING: return Value(text_at(index));
            case LUA_TTABLE: return read_table(index, path);
            default: leave_out(path, std::string("is a ") + luaL_typename(L_, index)); return {};
        }
    }

  private:
    std::string text_at(int index) {
        std::size_t size = 0;
        const char* text = lua_tolstring(L_, index, &size);
        return {text, size};
    }

    void leave_out(const std::string& path, const std::string& what) {
        left_out_.push_back({path, what});
    }

    Value read_table(int index, const std::string& path) {
        const void* const self = lua_topointer(L_, index);
        if (self == stand_in_) return {};
        for (const void* outer : open_) {
            if (outer != self) continue;
            leave_out(path, "contains itself");
            return {};
        }
        if (open_.size() == kMaxDepth) {
            leave_out(path, "is nested too deep");
            return {};
        }
        luaL_checkstack(L_, 4, "nested too deep");
        open_.push_back(self);
        Table table;
        lua_pushvalue(L_, index);
        const auto count = static_cast<int>(lua_objlen(L_, -1));
        for (int i = 1; i <= count; ++i) {
            lua_rawgeti(L_, -1, i);
            Value item = read(lua_gettop(L_), path + path_step(i));
            table.emplace_back(i, std::move(item));
            lua_pop(L_, 1);
        }
        lua_pushnil(L_);
        while (lua_next(L_, -2) != 0) {
            read_entry(table, path, count);
            lua_pop(L_, 1);
        }
        lua_pop(L_, 1);
        open_.pop_back();
        return Value(std::move(table));
    }

    // The entry whose key and value lie on top.
    void read_entry(Table& table, const std::string& path, int count) {
        const int value = lua_gettop(L_);
        const int key = value - 1;
        if (lua_type(L_, key) == LUA_TSTRING) {
            std::string name = text_at(key);
            Value item = read(value, path + path_step(name));
            table.emplace_back(std::move(name), std::move(item));
        } else if (lua_type(L_, key) == LUA_TNUMBER) {
            const double number = lua_tonumber(L_, key);
            if (number >= 1 && number <= count && number == std::floor(number)) return;
            Value item = read(value, path + path_step(number));
            table.emplace_back(number, std::move(item));
        } else {
            leave_out(path, std::string("has a ") + luaL_typename(L_, key) + " as a key");
        }
    }

    lua_State* const L_;
    const void* const stand_in_;
    std::vector<ConfigScriptResult::LeftOut>& left_out_;
    std::vector<const void*> open_;
};

struct ConfigJob {
    BareState& state;
    const std::string& name;
    const std::string& text;
    ConfigScriptResult& result;
};

int config_body(lua_State* L) {
    auto& job = *static_cast<ConfigJob*>(lua_touserdata(L, 1));
    job.state.open();
    lua_pushcfunction(L, config_env);
    lua_setglobal(L, "env");
    lua_pushcfunction(L, config_include);
    lua_setglobal(L, "include");
    push_chunk(L, job.name, job.text);
    lua_call(L, 0, 1);
    if (!lua_istable(L, -1)) {
        return luaL_error(L, "%s:1: the file has to return a table, not %s. Write: return { ... }",
                          job.name.c_str(), lua_isnil(L, -1) ? "nothing" : luaL_typename(L, -1));
    }
    job.result.value = Reader(L, nullptr, job.result.left_out).read(lua_gettop(L), "");
    return 0;
}

int stand_in_find(lua_State* L) {
    const std::string path = BareState::of(L).find(luaL_checkstring(L, 1));
    if (path.empty()) return 0;
    lua_pushlstring(L, path.data(), path.size());
    return 1;
}

int stand_in_run(lua_State* L) {
    const std::string path = luaL_checkstring(L, 1);
    std::string text;
    if (!read_text(path, text)) return luaL_error(L, "%s can't be read", path.c_str());
    push_chunk(L, path, text);
    lua_call(L, 0, 1);
    return 1;
}

int options_body(lua_State* L) {
    auto& job = *static_cast<ConfigJob*>(lua_touserdata(L, 1));
    job.state.open();
    if (luaL_loadstring(L, kStandIn) != 0) return lua_error(L);
    lua_pushcfunction(L, stand_in_find);
    lua_pushcfunction(L, stand_in_run);
    lua_call(L, 2, 1);
    const void* const stand_in = lua_topointer(L, -1);
    push_chunk(L, job.name, job.text);
    lua_call(L, 0, 1);
    if (!lua_istable(L, -1)) return 0;
    lua_pushliteral(L, "options");
    lua_rawget(L, -2);
    if (!lua_istable(L, -1) || lua_topointer(L, -1) == stand_in) return 0;
    job.result.value = Reader(L, stand_in, job.result.left_out).read(lua_gettop(L), "");
    return 0;
}

struct ParseJob {
    const std::string& name;
    const std::string& text;
};

int parse_body(lua_State* L) {
    const auto& job = *static_cast<ParseJob*>(lua_touserdata(L, 1));
    push_chunk(L, job.name, job.text);
    return 0;
}

}  // namespace

ConfigScriptResult run_config(const std::string& name, const std::string& text,
                              const std::string& folder, const ScriptLimits& limits) {
    ConfigScriptResult result;
    BareState state(limits);
    state.folder = folder;
    ConfigJob job{state, name, text, result};
    result.error = state.run(config_body, &job);
    return result;
}

std::string check_syntax(const std::string& name, const std::string& text) {
    BareState state({});
    ParseJob job{name, text};
    return state.run(parse_body, &job);
}

Value declared_options(const std::string& path, const std::string& text,
                       const std::function<std::string(const std::string& module)>& find) {
    ConfigScriptResult result;
    BareState state({300, std::size_t{64} << 20});
    state.find = find;
    ConfigJob job{state, path, text, result};
    // An error means that the script needs the real engine: then nothing is known.
    if (!state.run(options_body, &job).empty()) return {};
    return result.value;
}

bool read_text(const std::string& path, std::string& text) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return false;
    std::ostringstream content;
    content << file.rdbuf();
    text = content.str();
    return !file.bad() && !(text.empty() && file.fail() && !file.eof());
}

std::string path_step(std::string_view key) {
    if (is_identifier(key)) return "." + std::string(key);
    return "[\"" + std::string(key) + "\"]";
}

std::string path_step(double key) {
    char text[40];
    std::snprintf(text, sizeof text, "[%.14g]", key);
    return text;
}

}  // namespace perilune
