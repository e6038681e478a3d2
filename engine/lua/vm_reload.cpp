// Vm: a service runs a new text of its script.
//
// The rules of joining are lualib/perilune/reload.lua; here is what surrounds them: which texts
// are new, running them in a scratch environment, and the swap. All of it happens while the
// control message is handled, between two messages, so no other code of the service runs.

#include "lua/lua_require.h"
#include "lua/sandbox.h"
#include "lua/vm.h"

namespace perilune {

namespace {

// --- the library ---
//
// It needs debug, jit.util and string.dump, and nothing that it calls may be a script's: one that
// is alone in its state can put functions of its own in the place of `require`, `pcall` or
// `string.byte`. So it has globals of its own, with libraries opened anew, and a `require` of its
// own; nobody else gets at them, and they are dropped when the reload is done.

void forget_opened(lua_State* L) {
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "_LOADED");
}

// For a thread of its own: opens libraries in new globals. Returns these, and jit.util.
int open_libraries(lua_State* L) {
    constexpr luaL_Reg kOpeners[] = {
        {"", luaopen_base},
        {LUA_TABLIBNAME, luaopen_table},
        {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, luaopen_math},
        {LUA_DBLIBNAME, luaopen_debug},
        {LUA_JITLIBNAME, luaopen_jit},
    };
    lua_newtable(L);
    lua_replace(L, LUA_GLOBALSINDEX);
    forget_opened(L);  // what is open already would be left out
    for (const luaL_Reg& opener : kOpeners) {
        lua_pushcfunction(L, opener.func);
        lua_pushstring(L, opener.name);
        lua_call(L, 1, 0);
    }
    forget_opened(L);
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    lua_getfield(L, LUA_REGISTRYINDEX, "_PRELOAD");
    lua_getfield(L, -1, "jit.util");
    lua_pushliteral(L, "jit.util");
    lua_call(L, 1, 1);
    lua_remove(L, -2);
    lua_pushnil(L);  // would keep the globals
    lua_setfield(L, LUA_REGISTRYINDEX, "_PRELOAD");
    return 2;
}

// Pushes what open_libraries() returns.
void push_libraries(lua_State* L, bool jit_on) {
    const int text = lua_gettop(L) + 1;
    lua_pushliteral(L, "");
    lua_getmetatable(L, text);
    lua_State* thread = lua_newthread(L);
    lua_pushcfunction(L, open_libraries);
    lua_xmove(L, thread, 1);
    const int status = lua_pcall(thread, 0, 2, 0);
    // Opening them has given strings other methods, and turned the compiler on.
    lua_pushvalue(L, text + 1);
    lua_setmetatable(L, text);
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | (jit_on ? LUAJIT_MODE_ON : LUAJIT_MODE_OFF));
    if (status != 0) {
        lua_xmove(thread, L, 1);
        lua_error(L);
    }
    lua_xmove(thread, L, 2);
    lua_replace(L, text + 1);
    lua_replace(L, text);
    lua_settop(L, text + 1);
}

// The library's require. Upvalues: its globals; its modules, by name.
int require_own(lua_State* L) {
    const char* name = luaL_checkstring(L, 1);
    lua_getfield(L, lua_upvalueindex(2), name);
    if (!lua_isnil(L, -1)) return 1;
    Vm& vm = Vm::of(L);
    const Result<std::shared_ptr<const Script>> script = vm.host().library().get(name);
    const Status status = script.ok()
                              ? vm.push_script(L, script.value(), lua_upvalueindex(1), false)
                              : script.status();
    if (!status.ok()) return luaL_error(L, "%s", status.message());
    lua_call(L, 0, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, lua_upvalueindex(2), name);
    return 1;
}

// Pushes lualib/perilune/reload.lua: {scratch, plan, apply, undo}.
void push_reload_library(lua_State* L, bool jit_on) {
    push_libraries(L, jit_on);
    lua_newtable(L);
    lua_insert(L, -2);
    lua_setfield(L, -2, "jit.util");
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_pushcclosure(L, require_own, 2);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "require");
    lua_remove(L, -2);
    lua_pushliteral(L, "perilune.reload");
    lua_call(L, 1, 1);
}

// Sets in the table at `to` what the table at `from` has; both absolute.
void copy_fields(lua_State* L, int from, int to) {
    lua_pushnil(L);
    while (lua_next(L, from) != 0) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, to);
    }
}

// Where on the stack the values of a reload are.
enum Slot { kLibrary = 1, kOld, kNew, kEnvironment, kScratch, kOldLoaded, kNewLoaded };

}  // namespace

// One reload of one service: what it works with, and its steps.
struct Vm::Reloading {
    Vm& vm;
    Service& service;
    std::shared_ptr<const Script> script = nullptr;  // the new one, or the same
    Service::Modules modules = {};                   // those that are new
    std::string problem = {};                        // why it can't be; "" while it can

    // All of it, on an empty stack. Raises what the new text raises.
    void run(lua_State* L);

  private:
    void push_environments(lua_State* L);
    void push_loaded(lua_State* L);
    void push_text(lua_State* L, const std::shared_ptr<const Script>& text, int environment,
                   bool shared = false);
    void push_modules(lua_State* L, const Service::Modules& list, int loaded, int environment);
    void describe_old(lua_State* L);
    void run_new(lua_State* L);
    void describe_new(lua_State* L);
    bool plan(lua_State* L);
    void apply(lua_State* L);
    void take_commands(lua_State* L, int now);
};

void Vm::reload_service(Service& service, MessagePtr request) {
    // Only some of what scripts_ has may be new for this service, or nothing.
    std::string problem(kReloadSkipped);
    std::vector<std::string> scripts;
    if (service.state == Service::State::running && service.script != nullptr) {
        Reloading reloading{*this, service};
        const bool named = request->detail != 0;
        ScriptCache& cache = host_.scripts();
        const auto newest = [&](const Script& script) {
            return named ? cache.refresh(script.name) : cache.get(script.name);
        };
        bool changed = false;
        const auto look = [&](const std::shared_ptr<const Script>& script) {
            const Result<std::shared_ptr<const Script>> found = newest(*script);
            if (!found.ok()) {
                reloading.problem += found.status().message();
                return script;
            }
            if (found.value() != script) changed = true;
            return found.value();
        };
        reloading.script = look(service.script);
        if (service.modules != nullptr) {
            for (const auto& [name, script] : *service.modules) {
                std::shared_ptr<const Script> found = look(script);
                if (found != script) reloading.modules.emplace_back(name, std::move(found));
            }
        }
        if (!reloading.problem.empty()) {
            problem = reloading.problem;
        } else if (changed) {
            if (reloading.script != service.script) scripts.push_back(reloading.script->name);
            for (const auto& [name, script] : reloading.modules) scripts.push_back(script->name);
            run_reload(reloading);
            problem = reloading.problem.empty() ? "" : describe(service) + ": " + reloading.problem;
        }
    }
    drop_unused_chunks();
    host_.reload_done(problem, scripts);
}

// Of texts that only chunks_ has still: no service runs them, and none will.
void Vm::drop_unused_chunks() {
    std::erase_if(chunks_, [this](const auto& entry) {
        if (entry.first.use_count() > 1) return false;
        luaL_unref(L_, LUA_REGISTRYINDEX, entry.second);
        return true;
    });
}

void Vm::run_reload(Reloading& reloading) {
    Service& service = reloading.service;
    // The new text runs as this service, on the main state, where it can't wait.
    Task task;
    task.service = &service;
    const int loaded = service.loaded;
    const int environment = service.environment;
    const auto modules =
        service.modules == nullptr ? nullptr : std::make_unique<Service::Modules>(*service.modules);
    current_ = &task;
    entry_frame_ = static_cast<const char*>(__builtin_frame_address(0));
    arena_.may_refuse(true);
    const int status = lua_cpcall(L_, reload_protected, &reloading);
    arena_.may_refuse(false);
    current_ = nullptr;
    masked_ = false;
    if (status != 0) {
        reloading.problem = killing_ ? kill_text_ : error_text(L_, lua_gettop(L_));
        lua_settop(L_, 0);
        if (killing_) settle_kill();
        // Whatever the new text required is forgotten with it.
        if (service.loaded != loaded) luaL_unref(L_, LUA_REGISTRYINDEX, service.loaded);
        if (service.environment != environment) {
            luaL_unref(L_, LUA_REGISTRYINDEX, service.environment);
        }
        service.loaded = loaded;
        service.environment = environment;
        service.modules =
            modules == nullptr ? nullptr : std::make_unique<Service::Modules>(*modules);
    }
    lua_settop(L_, 0);
}

int Vm::reload_protected(lua_State* L) {
    auto& reloading = *static_cast<Reloading*>(lua_touserdata(L, 1));
    lua_settop(L, 0);
    reloading.run(L);
    return 0;
}

void Vm::Reloading::run(lua_State* L) {
    push_reload_library(L, vm.jit_on_);  // kLibrary
    lua_newtable(L);                     // kOld
    lua_newtable(L);                     // kNew
    push_environments(L);                // kEnvironment, kScratch
    push_loaded(L);                      // kOldLoaded, kNewLoaded
    describe_old(L);
    run_new(L);
    describe_new(L);
    vm.masked_ = true;  // from here on nothing may come between
    if (plan(L)) apply(L);
    vm.masked_ = false;
}

void Vm::Reloading::push_environments(lua_State* L) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.environment);
    lua_getfield(L, kLibrary, "scratch");
    lua_pushvalue(L, kEnvironment);
    lua_call(L, 1, 1);
}

// Pushes the modules that the service has required, and the same without those that are new.
void Vm::Reloading::push_loaded(lua_State* L) {
    if (service.loaded == LUA_NOREF) {
        lua_newtable(L);
        lua_pushvalue(L, -1);
        service.loaded = luaL_ref(L, LUA_REGISTRYINDEX);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, service.loaded);
    }
    lua_newtable(L);
    copy_fields(L, kOldLoaded, kNewLoaded);
    for (const auto& [name, text] : modules) {
        lua_pushnil(L);
        lua_setfield(L, kNewLoaded, name.c_str());
    }
}

// Vm::push_script(), raising when that fails.
void Vm::Reloading::push_text(lua_State* L, const std::shared_ptr<const Script>& text,
                              int environment, bool shared) {
    const Status status = vm.push_script(L, text, environment, shared);
    if (!status.ok()) luaL_error(L, "%s", status.message());
}

// Pushes {main = function, value = module} of each in `list`, by name; the values are in the
// table at `loaded`.
void Vm::Reloading::push_modules(lua_State* L, const Service::Modules& list, int loaded,
                                 int environment) {
    lua_newtable(L);
    for (const auto& [name, text] : list) {
        lua_createtable(L, 0, 2);
        push_text(L, text, environment);
        lua_setfield(L, -2, "main");
        lua_getfield(L, loaded, name.c_str());
        lua_setfield(L, -2, "value");
        lua_setfield(L, -2, name.c_str());
    }
}

// Fills kOld, as the library's plan() takes it.
void Vm::Reloading::describe_old(lua_State* L) {
    push_text(L, service.script, kEnvironment);
    lua_setfield(L, kOld, "main");
    lua_pushvalue(L, kEnvironment);
    lua_setfield(L, kOld, "env");
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.commands);
    lua_setfield(L, kOld, "commands");
    if (service.clients != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, service.clients);
        lua_setfield(L, kOld, "client");
    }
    const Service::Modules none;
    push_modules(L, service.modules == nullptr ? none : *service.modules, kOldLoaded, kEnvironment);
    lua_setfield(L, kOld, "modules");
}

// Runs the new text. What it requires, and sets, goes to kNewLoaded and kScratch.
void Vm::Reloading::run_new(lua_State* L) {
    const int old_loaded = service.loaded;
    const int old_environment = service.environment;
    lua_pushvalue(L, kNewLoaded);
    service.loaded = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushvalue(L, kScratch);
    service.environment = luaL_ref(L, LUA_REGISTRYINDEX);
    for (const auto& [name, text] : modules) {
        lua_pushcfunction(L, lua_require);
        lua_pushstring(L, name.c_str());
        lua_call(L, 1, 0);
    }
    push_text(L, script, kScratch, service.light);
    lua_pushvalue(L, -1);
    lua_setfield(L, kNew, "main");
    lua_call(L, 0, 2);
    lua_setfield(L, kNew, "client");
    lua_setfield(L, kNew, "commands");
    luaL_unref(L, LUA_REGISTRYINDEX, service.environment);
    luaL_unref(L, LUA_REGISTRYINDEX, service.loaded);
    service.environment = old_environment;
    service.loaded = old_loaded;
}

// Fills what else plan() takes into kNew.
void Vm::Reloading::describe_new(lua_State* L) {
    // Modules that the new text is the first to require are new as well.
    if (service.modules != nullptr) {
        for (const auto& [name, text] : *service.modules) {
            lua_getfield(L, kOldLoaded, name.c_str());
            if (lua_isnil(L, -1)) modules.emplace_back(name, text);
            lua_pop(L, 1);
        }
    }
    lua_pushvalue(L, kScratch);
    lua_setfield(L, kNew, "env");
    push_modules(L, modules, kNewLoaded, kScratch);
    lua_setfield(L, kNew, "modules");
    lua_newtable(L);
    push_vm_modules(L);
    const int loaded = lua_gettop(L) - 1;
    copy_fields(L, loaded + 1, loaded);
    copy_fields(L, kNewLoaded, loaded);
    lua_pop(L, 1);
    lua_setfield(L, kNew, "loaded");
}

// Pushes the plan; false, and `problem` is set, when there is none.
bool Vm::Reloading::plan(lua_State* L) {
    lua_getfield(L, kLibrary, "plan");
    lua_pushvalue(L, kOld);
    lua_pushvalue(L, kNew);
    lua_call(L, 2, 2);
    if (lua_istable(L, -2)) {
        lua_pop(L, 1);
        return true;
    }
    for (int i = 1;; ++i) {
        lua_rawgeti(L, -1, i);
        if (!lua_isstring(L, -1)) break;
        problem += (i > 1 ? "\n" : "") + std::string(lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    if (problem.empty()) problem = "it can't be joined";
    return false;
}

// Carries out the plan on top of the stack.
void Vm::Reloading::apply(lua_State* L) {
    lua_getfield(L, kLibrary, "apply");
    lua_insert(L, -2);
    lua_call(L, 1, 1);
    const int now = lua_gettop(L);
    take_commands(L, now);
    lua_getfield(L, now, "vanished");
    if (lua_isstring(L, -1)) {
        vm.kernel().log().write(LogLevel::warn, vm.describe(service),
                                std::string("its new text has no longer: ") + lua_tostring(L, -1));
    }
    lua_getfield(L, now, "modules");
    for (const auto& [name, text] : modules) {
        lua_getfield(L, -1, name.c_str());
        lua_setfield(L, kOldLoaded, name.c_str());
        for (auto& [known, running] : *service.modules) {
            if (known == name) running = text;
        }
    }
    service.script = script;
    vm.close_packets(service);  // the next one asks what is declared by now
}

// The tables of commands in what apply() has returned are the service's from now on.
void Vm::Reloading::take_commands(lua_State* L, int now) {
    lua_getfield(L, now, "commands");
    lua_rawseti(L, LUA_REGISTRYINDEX, service.commands);
    lua_getfield(L, now, "client");
    if (!lua_istable(L, -1)) {
        lua_pop(L, 1);
    } else if (service.clients == LUA_NOREF) {
        service.clients = luaL_ref(L, LUA_REGISTRYINDEX);
    } else {
        lua_rawseti(L, LUA_REGISTRYINDEX, service.clients);
    }
}

}  // namespace perilune
