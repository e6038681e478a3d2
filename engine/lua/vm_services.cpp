// Vm: how services begin, change and end.

#include <algorithm>

#include "core/cycles.h"
#include "data/databases.h"
#include "lua/lua_codec.h"
#include "lua/sandbox.h"
#include "lua/service_gate.h"
#include "lua/service_packets.h"
#include "lua/vm.h"
#include "net/network.h"
#include "net/udp.h"

namespace perilune {

Service::Service(Handle own) : handle(own), timers(own) {}
Service::~Service() = default;

namespace {

struct Reader {
    const char* data;
    std::size_t left;
};

const char* read_bytecode(lua_State*, void* reader, std::size_t* size) {
    auto& source = *static_cast<Reader*>(reader);
    *size = std::exchange(source.left, 0);
    return *size == 0 ? nullptr : source.data;
}

}  // namespace

bool Vm::push_library(lua_State* L, const char* name) {
    lua_getfield(L, LUA_GLOBALSINDEX, "require");
    lua_pushstring(L, name);
    return lua_pcall(L, 1, 1, 0) == 0;
}

void Vm::start_service(MessagePtr message) {
    const Handle handle = message->to;
    Registry::Slot* slot = kernel().registry().find(handle);
    if (slot == nullptr || slot->cell.load() != cell_) {
        kernel().refuse(std::move(message), Outcome::dead);
        return;
    }
    if (L_ == nullptr) open_state();
    auto* service = new Service(handle);
    service->light = !group_.empty();
    service->bounded = slot->max_messages.load(std::memory_order_relaxed) != 0;
    slot->local = service;
    service->next = services_;
    if (services_ != nullptr) services_->previous = service;
    services_ = service;
    ++service_count_;
    if (!service->light) only_ = service;
    if (limit_timer_ == nullptr) {  // it is alone in its VM
        control_handle_.store(handle.value);
        limit_timer_ = std::make_unique<OwnerTimers>(handle);
    }
    running_handle_.store(handle.value, std::memory_order_relaxed);
    if (service->light) charge_to(service);

    std::string_view name;
    std::size_t consumed = 0;
    if (!read_string(message->data(), message->size, &name, &consumed)) name = "";
    const Result<std::shared_ptr<const Script>> script = host_.scripts().get(name);
    service->start_request = std::move(message);
    if (L_ == nullptr) {
        fail_start(*service, "there is no memory for a Lua state");
        return;
    }
    if (!script.ok()) {
        fail_start(*service, script.status().message());
        return;
    }
    service->script = script.value();
    push_environment(L_, service->light, host_.is_trusted(service->script->name));
    const Status status = push_script(L_, service->script, lua_gettop(L_), service->light);
    if (!status.ok()) {
        lua_settop(L_, 0);
        fail_start(*service, status.message());
        return;
    }
    Task* task = take_task(*service, service->script->name);
    task->purpose = Purpose::load;
    lua_xmove(L_, task->thread, 1);
    service->environment = luaL_ref(L_, LUA_REGISTRYINDEX);
    resume(task, 0);
}

Status Vm::push_script(lua_State* L, const std::shared_ptr<const Script>& script, int environment,
                       bool shared) {
    // The bytecode is a chunk that returns the function which holds the text. Light services
    // share the chunk, so that each costs only closures.
    const auto chunk = chunks_.find(script);
    if (chunk != chunks_.end()) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, chunk->second);
    } else {
        Reader reader{script->bytecode.data(), script->bytecode.size()};
        if (lua_loadx(L, read_bytecode, &reader, "=script", "b") != 0) {
            const Status status = Status::error(StatusCode::internal, "%s: %s",
                                                script->path.c_str(), lua_tostring(L, -1));
            lua_pop(L, 1);
            return status;
        }
        if (shared) {
            lua_pushvalue(L, -1);
            chunks_.emplace(script, luaL_ref(L, LUA_REGISTRYINDEX));
        }
    }
    lua_call(L, 0, 1);  // only makes a closure
    lua_pushvalue(L, environment);
    lua_setfenv(L, -2);
    return {};
}

void Vm::loaded(Task* task) {
    Service& service = *task->service;
    lua_State* co = task->thread;
    const int results = lua_gettop(co);
    if (results < 1 || !lua_istable(co, 1) || (results >= 2 && !lua_istable(co, 2))) {
        lua_settop(co, 0);
        give_task(task, true);
        fail_start(service, service.script->path +
                                ": a service's script returns its table of commands, and "
                                "possibly a second one of client commands");
        return;
    }
    lua_settop(co, 2);
    if (results >= 2) {
        service.clients = luaL_ref(co, LUA_REGISTRYINDEX);
    } else {
        lua_pop(co, 1);
    }
    service.commands = luaL_ref(co, LUA_REGISTRYINDEX);
    if (!push_command(service, "on_start")) {
        give_task(task, true);
        started(service);
        return;
    }
    lua_xmove(L_, co, 1);
    std::string_view name;
    std::size_t consumed = 0;
    int count = 0;
    std::string error;
    const Message& request = *service.start_request;
    if (!read_string(request.data(), request.size, &name, &consumed) ||
        !unpack_onto(co, request.data() + consumed, request.size - consumed, &count, &error)) {
        lua_settop(co, 0);
        give_task(task, true);
        fail_start(service, "the options can't be read: " + error);
        return;
    }
    task->purpose = Purpose::start;
    task->sender = request.from;
    std::snprintf(task->name, sizeof task->name, "on_start");
    const Handle handle = service.handle;
    resume(task, count);
    // Only one that waits can take too long; a loop is the watchdog's.
    Service* still = find_service(handle);
    if (still != nullptr && still->state == Service::State::starting) {
        const TimerId limit = kernel().add_timer(
            still->timers, kStartSession,
            TimerWheel::due_after(kernel().clock().now_ns(), host_.options().start_limit_ms));
        if (!limit) fail_start(*still, "there are too many timers in the node");
    }
}

void Vm::started(Service& service) {
    service.state = Service::State::running;
    MessagePtr request = std::move(service.start_request);
    if (request != nullptr && request->session != 0) {
        PayloadWriter out = request->writer();
        wire::write_number(out, static_cast<double>(service.handle.value));
        request->finish(out);
        kernel().answer(std::move(request), MessageKind::reply, Outcome::ok);
    }
    const std::unique_ptr<std::vector<MessagePtr>> held = std::move(service.held);
    if (held == nullptr) return;
    const Handle handle = service.handle;
    for (MessagePtr& message : *held) {
        Service* still = find_service(handle);
        if (still == nullptr || still->state == Service::State::dead) {
            kernel().refuse(std::move(message), Outcome::dead);
        } else {
            run_held(*still, std::move(message));
        }
    }
}

void Vm::fail_start(Service& service, std::string_view text) {
    kernel().log().write(LogLevel::error, describe(service), "did not start: " + std::string(text),
                         LogText::lines);
    MessagePtr request = std::move(service.start_request);
    end_service(service, "error");
    reply_error(std::move(request), text);  // now, when the service never was
}

void Vm::want_exit(Service& service, std::string_view reason) {
    service.orderly = true;
    service.exit_reason = reason.empty() ? "exit" : std::string(reason);
}

void Vm::stop_service(Service& service, MessagePtr request, std::string_view reason) {
    if (service.stop_requests == nullptr) {
        service.stop_requests = std::make_unique<std::vector<MessagePtr>>();
    }
    service.stop_requests->push_back(std::move(request));
    service.orderly = true;
    begin_stop(service, reason);
}

void Vm::begin_stop(Service& service, std::string_view reason) {
    if (service.state == Service::State::stopping || service.state == Service::State::dead) return;
    const bool was_running = service.state == Service::State::running;
    service.state = Service::State::stopping;
    service.end_reason = reason;
    if (!was_running || !push_command(service, "on_stop")) {
        end_service(service, reason);
        return;
    }
    const TimerId limit = kernel().add_timer(
        service.timers, kStopSession,
        TimerWheel::due_after(kernel().clock().now_ns(), host_.options().stop_limit_ms));
    if (!limit) {
        lua_pop(L_, 1);
        end_service(service, reason);
        return;
    }
    Task* task = take_task(service, "on_stop");
    task->purpose = Purpose::stop;
    lua_xmove(L_, task->thread, 1);
    lua_pushlstring(task->thread, reason.data(), reason.size());
    task->ready = true;
    // Not resumed here: who called may be in the middle of another task's end.
    ready_.emplace_back(task, 1);
}

void Vm::end_service(Service& service, std::string_view why) {
    if (service.state == Service::State::dead) return;
    const std::string reason(why);
    service.state = Service::State::dead;
    // Whatever it is called now; a level set under a name is for the next one of that name, too.
    if (service.has_level) kernel().log().clear_level(handle_name(service));
    // For those who wait for it; by the name that goes in the next line.
    std::string died;
    if (service.tasks != nullptr || service.deferred != nullptr || service.held != nullptr) {
        died = "the service " + describe(service) + " died (" + reason + ") before it answered";
    }
    std::vector<Handle> watchers = kernel().remove_service(service.handle);
    kernel().timers().cancel_all(service.timers);
    if (host_.network() != nullptr) host_.network()->release_owner(service.handle);
    if (host_.udp() != nullptr) host_.udp()->release_owner(service.handle);
    if (host_.databases() != nullptr) host_.databases()->release_owner(service.handle);
    if (service.monitors != nullptr) {
        for (const Handle target : *service.monitors) {
            kernel().registry().unmonitor(service.handle, target);
        }
    }
    for (auto& entry : ready_) {
        if (entry.first != nullptr && entry.first->service == &service) entry.first = nullptr;
    }
    // Those who wait for it hear that it is dead.
    while (service.tasks != nullptr) {
        Task* task = service.tasks;
        if (task->request != nullptr) {
            kernel().refuse(std::move(task->request), Outcome::dead, died);
        }
        if (task->wait != 0) {
            free_wait(task->wait);
            task->wait = 0;
        }
        task->locks = nullptr;
        give_task(task, false);
    }
    if (service.deferred != nullptr) {
        for (auto& [number, request] : *service.deferred) {
            kernel().refuse(std::move(request), Outcome::dead, died);
        }
        service.deferred->clear();
    }
    if (service.start_request != nullptr) {
        kernel().refuse(std::move(service.start_request), Outcome::dead, reason);
    }
    if (service.held != nullptr) {
        for (MessagePtr& message : *service.held) {
            kernel().refuse(std::move(message), Outcome::dead, died);
        }
        service.held.reset();
    }
    if (service.token_count > 0) {
        for (std::uint32_t i = 1; i < waits_.size(); ++i) {
            if (waits_[i].kind == WaitKind::token && waits_[i].service == &service) free_wait(i);
        }
    }
    if (service.timer_count > 0) {
        for (Callback& callback : callbacks_) {
            if (callback.service == &service) free_callback(callback);
        }
    }
    if (service.stop_requests != nullptr) {
        for (MessagePtr& request : *service.stop_requests) {
            if (request->session == 0) continue;
            PayloadWriter out = request->writer();
            wire::write_boolean(out, true);
            request->finish(out);
            kernel().answer(std::move(request), MessageKind::reply, Outcome::ok);
        }
    }
    close_packets(service);
    for (const int reference :
         {service.environment, service.commands, service.clients, service.loaded, service.events}) {
        if (reference != LUA_NOREF) luaL_unref(L_, LUA_REGISTRYINDEX, reference);
    }
    if (charged_ == &service) charge_to(nullptr);
    (service.previous == nullptr ? services_ : service.previous->next) = service.next;
    if (service.next != nullptr) service.next->previous = service.previous;
    --service_count_;
    dead_.push_back(&service);
    only_ = nullptr;
    tell_ended(service.handle, std::move(watchers), reason, service.orderly);
}

void Vm::end_unstarted(Handle handle, std::string_view reason) {
    const Registry::Slot* slot = kernel().registry().find(handle);
    if (slot == nullptr || slot->cell.load() != cell_) return;
    tell_ended(handle, kernel().remove_service(handle), reason, false);
}

void Vm::tell_ended(Handle handle, std::vector<Handle> watchers, std::string_view reason,
                    bool orderly) {
    const LuaHost::Remains remains = host_.service_ended(handle, this, !group_.empty());
    if (!watchers.empty()) {
        ended_.push_back({handle, std::move(watchers), std::string(reason), orderly});
        if (own_handle_) {
            // Behind what waits for it in the mailbox. If that is closed, the destructor tells.
            MessagePtr message = make_message(MessageKind::ready, own_handle_, {}, 0);
            (void)kernel().post(message);
        }
    }
    if (remains == LuaHost::Remains::nothing) {
        cell_->finished = true;
    } else if (remains == LuaHost::Remains::idle) {
        idle_since_ns_ = kernel().clock().now_ns();
        if (!idle_timer_id_) arm_idle(idle_since_ns_ + kGroupIdleMs * kNsPerMs);
    }
}

void Vm::tell_next_ended() {
    const Ended ended = std::move(ended_.front());
    ended_.pop_front();
    kernel().tell_down(ended.handle, ended.watchers, ended.reason, ended.orderly);
}

void Vm::arm_idle(std::int64_t due_ns) {
    idle_timer_id_ = kernel().add_timer(*limit_timer_, kIdleSession, due_ns);
}

Status Vm::check_monitors(const Service& service) {
    if (service.monitors == nullptr || service.monitors->size() < kMaxMonitors) return {};
    host_.counters().monitors_refused.fetch_add(1, std::memory_order_relaxed);
    return Status::error(StatusCode::too_large,
                         "a service monitors %zu others at most, and this one does: let several "
                         "services share the work",
                         kMaxMonitors);
}

Status Vm::add_monitor(Service& service, Handle target) {
    if (service.monitors == nullptr || service.monitors->count(target) == 0) {
        const Status status = check_monitors(service);
        if (!status.ok()) return status;
    }
    if (!kernel().registry().monitor(service.handle, target)) {
        return Status::error(StatusCode::dead, "the service is dead");
    }
    if (service.monitors == nullptr) service.monitors = std::make_unique<Service::Handles>();
    service.monitors->insert(target);
    return {};
}

bool Vm::remove_monitor(Service& service, Handle target) {
    if (service.monitors != nullptr) service.monitors->erase(target);
    return kernel().registry().unmonitor(service.handle, target);
}

void Vm::add_link(Service& service, Handle other) {
    // Its monitoring ends with it, so it has to know of it.
    if (service.monitors == nullptr) service.monitors = std::make_unique<Service::Handles>();
    service.monitors->insert(other);
    if (service.links == nullptr) service.links = std::make_unique<Service::Handles>();
    service.links->insert(other);
}

void Vm::sweep_dead() {
    for (const Service* service : dead_) delete service;
    dead_.clear();
}

Values Vm::stats(Service& service) {
    Table table;
    const auto put = [&](const char* key, Value value) {
        table.emplace_back(key, std::move(value));
    };
    const std::string name = kernel().registry().name_of(service.handle);
    if (!name.empty()) put("name", name);
    put("script", service.script == nullptr ? "" : service.script->name);
    if (service.light) put("group", group_);
    put("version", service.script == nullptr ? 0 : service.script->version);
    put("messages", service.messages);
    put("errors", service.errors);
    put("tasks", service.task_count);
    put("timers", service.timer_count);
    Registry::Slot* slot = kernel().registry().find(service.handle);
    put("mailbox",
        service.bounded && slot != nullptr ? slot->load.count() : cell_->mailbox.load().count());
    put("memory", service.light
                      ? static_cast<std::size_t>(std::max<std::int64_t>(service.memory, 0))
                      : arena_.used());
    put("cpu_ms", static_cast<double>(service.light ? service.cycles : cycles_) /
                      static_cast<double>(cycles_per_ms()));
    put("jit", jit_on_);
    return {Value(std::move(table))};
}

}  // namespace perilune
