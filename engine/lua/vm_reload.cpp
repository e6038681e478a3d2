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

// Pushes {debug, util, flush, dump}: what the library needs and services must not have.
void push_privileged(lua_State* L, bool jit_on) {
    lua_createtable(L, 0, 4);
    // The openers set globals, which are put back; what is loaded already they would leave out.
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "_LOADED");
    for (const char* name : {LUA_DBLIBNAME, LUA_JITLIBNAME}) {
        lua_pushstring(L, name);
        lua_rawget(L, LUA_GLOBALSINDEX);
        lua_pushcfunction(L, name == std::string_view(LUA_DBLIBNAME) ? luaopen_debug : luaopen_jit);
        lua_pushstring(L, name);
        lua_call(L, 1, 0);
        lua_pushstring(L, name);
        lua_rawget(L, LUA_GLOBALSINDEX);
        if (name == std::string_view(LUA_DBLIBNAME)) {
            lua_setfield(L, -3, "debug");
        } else {
            lua_getfield(L, -1, "flush");
            lua_setfield(L, -4, "flush");
            lua_pop(L, 1);
        }
        lua_pushstring(L, name);
        lua_insert(L, -2);
        lua_rawset(L, LUA_GLOBALSINDEX);
    }
    // Opening it has turned the compiler on.
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | (jit_on ? LUAJIT_MODE_ON : LUAJIT_MODE_OFF));
    lua_getfield(L, LUA_REGISTRYINDEX, "_PRELOAD");
    lua_getfield(L, -1, "jit.util");
    lua_remove(L, -2);
    lua_pushliteral(L, "jit.util");
    lua_call(L, 1, 1);
    lua_setfield(L, -2, "util");
    lua_pushliteral(L, "");
    lua_getfield(L, -1, "dump");
    lua_setfield(L, -3, "dump");
    lua_pop(L, 1);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "_LOADED");
}

void require(lua_State* L, const char* name) {
    lua_pushliteral(L, "require");
    lua_rawget(L, LUA_GLOBALSINDEX);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
}

}  // namespace

// What one reload works with. The Lua values live on the stack of reload_protected.
struct Vm::Reloading {
    Vm& vm;
    Service& service;
    std::shared_ptr<const Script> script;  // the new one, or the same
    std::vector<std::pair<std::string, std::shared_ptr<const Script>>>
        modules;  // those that are new
    std::string problem;
};

void Vm::reload_service(Service& service, MessagePtr request) {
    // Only some of what scripts_ has may be new for this service, or nothing.
    std::string problem(kReloadSkipped);
    std::vector<std::string> scripts;
    if (service.state == Service::State::running && service.script != nullptr) {
        Reloading reloading{*this, service, nullptr, {}, {}};
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
    reloading.vm.reload_here(L, reloading);
    return 0;
}

// push_script(), raising when that fails.
void Vm::push_text(lua_State* L, const std::shared_ptr<const Script>& script, int environment,
                   bool shared) {
    const Status status = push_script(L, script, environment, shared);
    if (!status.ok()) luaL_error(L, "%s", status.message());
}

// Pushes {main = function, value = module} of each of `modules`, by name; the values are in the
// table at `loaded`.
void Vm::push_modules(lua_State* L, const Service::Modules& modules, int loaded, int environment) {
    lua_newtable(L);
    for (const auto& [name, script] : modules) {
        lua_createtable(L, 0, 2);
        push_text(L, script, environment);
        lua_setfield(L, -2, "main");
        lua_getfield(L, loaded, name.c_str());
        lua_setfield(L, -2, "value");
        lua_setfield(L, -2, name.c_str());
    }
}

void Vm::reload_here(lua_State* L, Reloading& reloading) {
    Service& service = reloading.service;
    enum { kReload = 1, kOld, kNew, kEnvironment, kScratch, kOldLoaded, kNewLoaded };
    require(L, "perilune.reload");
    push_privileged(L, jit_on_);
    lua_call(L, 1, 1);
    lua_newtable(L);                                         // kOld
    lua_newtable(L);                                         // kNew
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.environment);  // kEnvironment
    lua_getfield(L, kReload, "scratch");
    lua_pushvalue(L, kEnvironment);
    lua_call(L, 1, 1);  // kScratch
    if (service.loaded == LUA_NOREF) {
        lua_newtable(L);
        lua_pushvalue(L, -1);
        service.loaded = luaL_ref(L, LUA_REGISTRYINDEX);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, service.loaded);  // kOldLoaded
    }
    lua_newtable(L);  // kNewLoaded
    lua_pushnil(L);
    while (lua_next(L, kOldLoaded) != 0) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, kNewLoaded);
    }
    for (const auto& [name, script] : reloading.modules) {
        lua_pushnil(L);
        lua_setfield(L, kNewLoaded, name.c_str());
    }

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

    // What the new text requires, and sets, goes to the scratch tables.
    const int old_loaded = service.loaded;
    const int old_environment = service.environment;
    lua_pushvalue(L, kNewLoaded);
    service.loaded = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushvalue(L, kScratch);
    service.environment = luaL_ref(L, LUA_REGISTRYINDEX);
    for (const auto& [name, script] : reloading.modules) {
        require(L, name.c_str());
        lua_pop(L, 1);
    }
    push_text(L, reloading.script, kScratch, service.light);
    lua_pushvalue(L, -1);
    lua_setfield(L, kNew, "main");
    lua_call(L, 0, 2);
    lua_setfield(L, kNew, "client");
    lua_setfield(L, kNew, "commands");
    luaL_unref(L, LUA_REGISTRYINDEX, service.environment);
    luaL_unref(L, LUA_REGISTRYINDEX, service.loaded);
    service.environment = old_environment;
    service.loaded = old_loaded;

    // Modules that the new text is the first to require are new as well.
    if (service.modules != nullptr) {
        for (const auto& [name, script] : *service.modules) {
            lua_getfield(L, kOldLoaded, name.c_str());
            if (lua_isnil(L, -1)) reloading.modules.emplace_back(name, script);
            lua_pop(L, 1);
        }
    }

    lua_pushvalue(L, kScratch);
    lua_setfield(L, kNew, "env");
    push_modules(L, reloading.modules, kNewLoaded, kScratch);
    lua_setfield(L, kNew, "modules");
    push_vm_modules(L);
    lua_newtable(L);
    for (const int source : {lua_gettop(L) - 1, static_cast<int>(kNewLoaded)}) {
        lua_pushnil(L);
        while (lua_next(L, source) != 0) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            lua_rawset(L, -4);
        }
    }
    lua_setfield(L, kNew, "loaded");
    lua_pop(L, 1);

    // From here on nothing may come between.
    masked_ = true;
    lua_getfield(L, kReload, "plan");
    lua_pushvalue(L, kOld);
    lua_pushvalue(L, kNew);
    lua_call(L, 2, 2);
    if (!lua_istable(L, -2)) {
        for (int i = 1;; ++i) {
            lua_rawgeti(L, -1, i);
            if (!lua_isstring(L, -1)) break;
            reloading.problem += (i > 1 ? "\n" : "") + std::string(lua_tostring(L, -1));
            lua_pop(L, 1);
        }
        if (reloading.problem.empty()) reloading.problem = "it can't be joined";
        masked_ = false;
        return;
    }
    lua_pop(L, 1);
    lua_getfield(L, kReload, "apply");
    lua_insert(L, -2);
    lua_call(L, 1, 1);
    const int now = lua_gettop(L);
    lua_getfield(L, now, "commands");
    lua_rawseti(L, LUA_REGISTRYINDEX, service.commands);
    lua_getfield(L, now, "client");
    if (lua_istable(L, -1)) {
        if (service.clients == LUA_NOREF) {
            service.clients = luaL_ref(L, LUA_REGISTRYINDEX);
        } else {
            lua_rawseti(L, LUA_REGISTRYINDEX, service.clients);
        }
    }
    lua_getfield(L, now, "vanished");
    if (lua_isstring(L, -1)) {
        kernel().log().write(LogLevel::warn, describe(service),
                             std::string("its new text has no longer: ") + lua_tostring(L, -1));
    }
    lua_settop(L, now);
    lua_getfield(L, now, "modules");
    for (const auto& [name, script] : reloading.modules) {
        lua_getfield(L, -1, name.c_str());
        lua_setfield(L, kOldLoaded, name.c_str());
        for (auto& [known, old] : *service.modules) {
            if (known == name) old = script;
        }
    }
    service.script = reloading.script;
    masked_ = false;
}

}  // namespace perilune
