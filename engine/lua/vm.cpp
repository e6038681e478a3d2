#include "lua/vm.h"

#include <algorithm>
#include <cstring>

#include "core/cycles.h"
#include "lua/lua_codec.h"
#include "lua/lua_enet.h"
#include "lua/lua_udp.h"
#include "lua/sandbox.h"
#include "lua/service_gate.h"
#include "net/network.h"
#include "net/udp_event.h"

namespace perilune {

namespace {

constexpr std::size_t kProtectedUnpack = 64 * 1024;  // larger payloads may run out of memory
constexpr std::size_t kMaxErrorText = 4096;

int panic(lua_State* L) {
    // Every way into Lua is protected; this is a bug of the host.
    std::fprintf(stderr, "perilune: unprotected error in Lua: %s\n", lua_tostring(L, -1));
    std::abort();
}

std::string_view capped(std::string_view text) { return text.substr(0, kMaxErrorText); }

}  // namespace

// --- life ---

Vm::Vm(LuaHost& host, std::string group, std::size_t memory_bytes)
    : host_(host), group_(std::move(group)), arena_(&host.pages(), this) {
    arena_.set_limit(memory_bytes);
    arena_.on_over_limit(over_limit, this);
    host_.counters().vms.fetch_add(1);
}

Vm::~Vm() {
    while (services_ != nullptr) end_service(*services_, "node stops");
    sweep_dead();
    if (limit_timer_ != nullptr) kernel().timers().cancel_all(*limit_timer_);
    if (own_handle_) (void)kernel().remove_service(own_handle_);
    // The arena frees all memory at once; closing the state is for finalizers and compiled code.
    if (L_ != nullptr && (needs_close_ || jit_on_)) {
        arena_.close();
        lua_close(L_);
    }
    host_.vm_ended(this);
    host_.counters().vms.fetch_sub(1);
    while (!ended_.empty()) tell_next_ended();
}

void Vm::set_cell(ActorCell* cell, Handle own) {
    cell_ = cell;
    own_handle_ = own;
    if (!own) return;
    control_handle_.store(own.value);
    limit_timer_ = std::make_unique<OwnerTimers>(own);
}

void Vm::open_state() {
#if !defined(PERILUNE_STOCK_LUAJIT)
    if (kernel().seeded()) luaJIT_setseed(host_.next_vm_seed());
#endif
    L_ = lua_newstate(Arena::lua_allocate, static_cast<Arena*>(&arena_));
#if !defined(PERILUNE_STOCK_LUAJIT)
    if (kernel().seeded()) luaJIT_setseed(0);
#endif
    if (L_ == nullptr) return;
    arena_.may_refuse(false);
    lua_atpanic(L_, panic);
    open_sandbox(L_, host_.next_vm_seed());
    disarm_hook();
}

Service* Vm::find_service(Handle handle) {
    if (group_.empty()) return only_ != nullptr && only_->handle == handle ? only_ : nullptr;
    Registry::Slot* slot = kernel().registry().find(handle);
    if (slot == nullptr || slot->cell.load() != cell_) return nullptr;
    return static_cast<Service*>(slot->local);
}

std::string Vm::describe(const Service& service) {
    const std::string name = kernel().registry().name_of(service.handle);
    return name.empty() ? handle_name(service) : name;
}

std::string Vm::handle_name(const Service& service) {
    return (service.script == nullptr ? "?" : service.script->name) + "#" +
           std::to_string(service.handle.value);
}

Handle Vm::running_service() const { return Handle{running_handle_.load()}; }

// --- messages ---

void Vm::receive(MessagePtr message) {
    // Also where the service that it was addressed to has died meanwhile.
    if (message->kind == MessageKind::ready && message->to != own_handle_) ready_posted_ = false;
    Service* service = find_service(message->to);
    if (service != nullptr) {
        dispatch(*service, std::move(message));
    } else if (message->kind == MessageKind::start) {
        start_service(std::move(message));
    } else if (message->kind == MessageKind::shrink) {
        shrink();
    } else if (message->to == own_handle_) {
        own_message(std::move(message));
    } else {
        if (message->kind == MessageKind::kill || message->kind == MessageKind::stop) {
            const std::string_view usual = message->kind == MessageKind::kill ? "kill" : "stop";
            end_unstarted(message->to, message->size == 0 ? usual : message->payload());
        }
        kernel().refuse(std::move(message), Outcome::dead);
    }
    if (!ready_.empty()) run_ready();
    if ((interrupt_level_ | over_limit_) != 0) settle_hook();
    if (!dead_.empty()) sweep_dead();
}

// What a group's VM has sent to itself.
void Vm::own_message(MessagePtr message) {
    if (message->kind == MessageKind::ready) {
        tell_next_ended();
    } else if (message->kind != MessageKind::timer) {
        kernel().refuse(std::move(message), Outcome::dead);  // it is no service
    } else if (message->session == kLimitsSession) {
        check_limits();
    } else if (message->session == kIdleSession) {
        idle_timer_id_ = {};
        if (service_count_ > 0) return;
        const std::int64_t due = idle_since_ns_ + kGroupIdleMs * kNsPerMs;
        if (kernel().clock().now_ns() < due) {
            arm_idle(due);  // it had a service meanwhile
        } else if (host_.retire(this)) {
            cell_->finished = true;
        }
    }
}

void Vm::dispatch(Service& service, MessagePtr message) {
    running_handle_.store(service.handle.value, std::memory_order_relaxed);
    if (service.light && charged_ != &service) charge_to(&service);
    switch (message->kind) {
        case MessageKind::send:
        case MessageKind::call:
        case MessageKind::packet:
            if (service.state == Service::State::starting) {
                hold(service, std::move(message));
            } else {
                run_held(service, std::move(message));
            }
            break;
        case MessageKind::reply:
        case MessageKind::failure: finish_wait(service, std::move(message)); break;
        case MessageKind::timer: run_timer(service, std::move(message)); break;
        case MessageKind::socket: run_event(service, std::move(message)); break;
        case MessageKind::datagram: run_datagram(service, std::move(message)); break;
        case MessageKind::work: finish_wait(service, std::move(message)); break;
        case MessageKind::database: run_database(service, std::move(message)); break;
        case MessageKind::down: run_down(service, std::move(message)); break;
        case MessageKind::link: add_link(service, message->from); break;
        case MessageKind::ready: break;
        case MessageKind::stop: {
            const std::string reason(message->payload());
            stop_service(service, std::move(message), reason.empty() ? "stop" : reason);
            break;
        }
        case MessageKind::kill: {
            const std::string reason(message->payload());
            end_service(service, reason.empty() ? "kill" : reason);
            break;
        }
        case MessageKind::reload: reload_service(service, std::move(message)); break;
        case MessageKind::inspect: {
            PayloadWriter out = message->writer();
            (void)encode(stats(service), out);
            message->finish(out);
            kernel().answer(std::move(message), MessageKind::reply, Outcome::ok);
            break;
        }
        case MessageKind::shrink: shrink(); break;
        case MessageKind::start: kernel().refuse(std::move(message), Outcome::dead); break;
    }
}

void Vm::hold(Service& service, MessagePtr message) {
    if (service.held == nullptr) service.held = std::make_unique<std::vector<MessagePtr>>();
    // They left the mailbox, so its limits no longer count them.
    const KernelOptions& options = kernel().options();
    const Registry::Slot* slot = kernel().registry().find(service.handle);
    const std::uint64_t own = slot == nullptr ? 0 : slot->max_messages.load();
    const std::size_t bytes = service.held_bytes + message->weight();
    if (service.held->size() >= (own != 0 ? own : options.mailbox_messages) ||
        bytes > options.mailbox_bytes) {
        kernel().counters().refused_overloaded.fetch_add(1, std::memory_order_relaxed);
        kernel().refuse(std::move(message), Outcome::overloaded);
        return;
    }
    service.held_bytes = bytes;
    service.held->push_back(std::move(message));
}

// What a service that has started may get.
void Vm::run_held(Service& service, MessagePtr message) {
    if (message->kind == MessageKind::packet) {
        run_packet(service, std::move(message));
    } else {
        run_command(service, std::move(message));
    }
}

void Vm::push_name(std::string_view name) {
    if (name.empty() || name.size() > sizeof KnownName::text) {
        lua_pushlstring(L_, name.data(), name.size());
        return;
    }
    const auto mix = name.size() + static_cast<unsigned char>(name.front()) +
                     2u * static_cast<unsigned char>(name.back());
    KnownName& known = known_names_[mix % known_names_.size()];
    if (known.size == name.size() && std::memcmp(known.text, name.data(), name.size()) == 0) {
        lua_rawgeti(L_, LUA_REGISTRYINDEX, known.reference);
        return;
    }
    lua_pushlstring(L_, name.data(), name.size());
    lua_pushvalue(L_, -1);
    if (known.reference == LUA_NOREF) {
        known.reference = luaL_ref(L_, LUA_REGISTRYINDEX);
    } else {
        lua_rawseti(L_, LUA_REGISTRYINDEX, known.reference);
    }
    std::memcpy(known.text, name.data(), name.size());
    known.size = static_cast<std::uint8_t>(name.size());
}

bool Vm::push_command(Service& service, std::string_view name) {
    if (!name.empty() && name.front() == '@') {
        if (service.events == LUA_NOREF) return false;
        lua_rawgeti(L_, LUA_REGISTRYINDEX, service.events);
        name.remove_prefix(1);
    } else {
        lua_rawgeti(L_, LUA_REGISTRYINDEX, service.commands);
    }
    push_name(name);
    lua_rawget(L_, -2);
    if (lua_isfunction(L_, -1)) {
        lua_replace(L_, -2);
        return true;
    }
    lua_pop(L_, 2);
    return false;
}

namespace {
struct UnpackArguments {
    lua_State* to;
    const char* data;
    std::size_t size;
    int* count;
    Status status;
};
int unpack_protected(lua_State* L) {
    auto& arguments = *static_cast<UnpackArguments*>(lua_touserdata(L, 1));
    lua_settop(L, 0);
    int count = 0;
    arguments.status = unpack(L, arguments.data, arguments.size, &count);
    if (arguments.status.ok()) {
        // Not luaL_checkstack, which would raise in the other coroutine.
        if (lua_checkstack(arguments.to, count) == 0) return luaL_error(L, "too many values");
        lua_xmove(L, arguments.to, count);
        *arguments.count += count;
    }
    return 0;
}
}  // namespace

bool Vm::unpack_onto(lua_State* L, const char* data, std::size_t size, int* count,
                     std::string* error) {
    if (size <= kProtectedUnpack) {
        const Status status = unpack(L, data, size, count);
        if (status.ok()) return true;
        *error = status.message();
        return false;
    }
    UnpackArguments arguments{L, data, size, count, {}};
    const Protected is_protected(arena_);
    if (lua_cpcall(L_, unpack_protected, &arguments) != 0) {
        *error = lua_tostring(L_, -1);
        lua_pop(L_, 1);
        return false;
    }
    if (arguments.status.ok()) return true;
    *error = arguments.status.message();
    return false;
}

void Vm::run_command(Service& service, MessagePtr message) {
    std::string_view name;
    std::size_t consumed = 0;
    ++service.messages;
    if (!read_string(message->data(), message->size, &name, &consumed)) {
        reply_error(std::move(message), "a message begins with the name of a command");
        return;
    }
    if (name == "@packet" && service.clients != LUA_NOREF) {
        run_sent_packet(service, std::move(message), consumed);
        return;
    }
    const bool reserved = name.substr(0, 3) == "on_" && message->detail != kOwnCommand;
    if (reserved || !push_command(service, name)) {
        refuse_command(service, std::move(message), name);
        return;
    }
    Task* task = take_task(service, name);
    lua_xmove(L_, task->thread, 1);
    int count = 0;
    std::string error;
    if (!unpack_onto(task->thread, message->data() + consumed, message->size - consumed, &count,
                     &error)) {
        lua_settop(task->thread, 0);
        give_task(task, true);
        reply_error(std::move(message), "the message can't be read: " + error);
        return;
    }
    task->sender = message->from;
    if (message->kind == MessageKind::call) task->request = std::move(message);
    resume(task, count);
}

void Vm::refuse_command(Service& service, MessagePtr message, std::string_view name) {
    const bool reserved = name.substr(0, 3) == "on_";
    const std::string text = describe(service) + " has no command \"" +
                             std::string(name.substr(0, 64)) +
                             (reserved ? "\" for others: names with on_ are its own" : "\"");
    if (message->kind != MessageKind::call) {
        kernel().log().write(LogLevel::warn, describe(service), text);
    }
    ++service.errors;
    reply_error(std::move(message), text);
}

void Vm::run_event(Service& service, MessagePtr message) {
    // Also where nobody listens: it keeps account of what has been delivered.
    if (!host_.network()->admit(message)) return;
    const bool is_data = message->detail == static_cast<std::uint8_t>(SocketEvent::data);
    if (service.gate != nullptr && is_data && take_at_gate(service, message)) return;
    if (service.events == LUA_NOREF) return;
    lua_rawgeti(L_, LUA_REGISTRYINDEX, service.events);
    lua_getfield(L_, -1, "socket");
    if (!lua_isfunction(L_, -1)) {
        lua_pop(L_, 2);
        return;
    }
    Task* task = take_task(service, "socket event");
    lua_State* co = task->thread;
    lua_xmove(L_, co, 1);
    lua_pop(L_, 1);
    lua_pushnumber(co, static_cast<lua_Number>(message->id));
    lua_pushstring(co, socket_event_name(static_cast<SocketEvent>(message->detail)));
    lua_pushlstring(co, message->data(), message->size);
    int count = 3;
    if (message->session != 0 && message->detail == static_cast<int>(SocketEvent::opened)) {
        lua_pushnumber(co, static_cast<lua_Number>(message->session));  // the listener
        ++count;
    }
    message.reset();
    resume(task, count);
}

void Vm::run_datagram(Service& service, MessagePtr message) {
    const bool is_data = message->detail == static_cast<std::uint8_t>(UdpEvent::data);
    if (service.gate != nullptr && is_data && take_at_gate(service, message)) return;
    if (service.events == LUA_NOREF) return;
    const bool is_enet = is_enet_event(static_cast<UdpEvent>(message->detail));
    lua_rawgeti(L_, LUA_REGISTRYINDEX, service.events);
    lua_getfield(L_, -1, is_enet ? "enet" : "udp");
    if (!lua_isfunction(L_, -1)) {
        lua_pop(L_, 2);
        return;
    }
    Task* task = take_task(service, is_enet ? "enet event" : "udp event");
    lua_State* co = task->thread;
    lua_xmove(L_, co, 1);
    lua_pop(L_, 1);
    const int count = is_enet ? push_enet_event(co, *message) : push_udp_event(co, *message);
    message.reset();
    resume(task, count);
}

void Vm::run_down(Service& service, MessagePtr message) {
    if (service.monitors != nullptr) service.monitors->erase(message->from);
    const std::string reason(message->payload());
    if (service.links != nullptr && service.links->erase(message->from) != 0 &&
        message->detail == 0) {
        begin_stop(service, "link");
        return;
    }
    if (service.commands == LUA_NOREF || !push_command(service, "on_down")) return;
    Task* task = take_task(service, "on_down");
    lua_xmove(L_, task->thread, 1);
    lua_pushnumber(task->thread, static_cast<lua_Number>(message->from.value));
    lua_pushlstring(task->thread, reason.data(), reason.size());
    lua_pushboolean(task->thread, message->detail);
    resume(task, 3);
}

void Vm::finish_wait(Service& service, MessagePtr message) {
    Wait* wait = find_wait(message->session);
    if (wait == nullptr || wait->kind != WaitKind::call || wait->service != &service) {
        kernel().counters().late_replies.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    Task* task = wait->task;
    const Handle target = wait->target;
    free_wait(task->wait);
    task->wait = 0;
    lua_State* co = task->thread;
    int count = 0;
    std::string error;
    if (message->kind != MessageKind::failure) {
        if (!unpack_onto(co, message->data(), message->size, &count, &error)) {
            count = push_failure(co, Outcome::error, "the reply can't be read: " + error);
        }
    } else if (static_cast<Outcome>(message->detail) == Outcome::error) {
        lua_checkstack(co, 8);
        count = push_failure_head(co, Outcome::error);
        if (!unpack_onto(co, message->data(), message->size, &count, &error)) {
            lua_pushlstring(co, error.data(), error.size());
            ++count;
        }
    } else {
        const auto outcome = static_cast<Outcome>(message->detail);
        std::string text(message->payload());
        if (text.empty() && outcome == Outcome::dead) {
            text = "the service with the handle " + std::to_string(target.value) +
                   " died before it answered";
        }
        count = push_failure(co, outcome, text);
    }
    message.reset();
    resume(task, count);
}

void Vm::run_timer(Service& service, MessagePtr message) {
    switch (message->session) {
        case kLimitsSession: check_limits(); return;
        case kStartSession:
            if (service.state != Service::State::starting) return;
            fail_start(service, "on_start did not return within " +
                                    std::to_string(host_.options().start_limit_ms) + " ms");
            return;
        case kStopSession:
            if (service.state == Service::State::stopping) end_service(service, "stop");
            return;
        default: break;
    }
    if (Callback* callback = find_callback(message->session)) {
        run_callback(*callback);
        return;
    }
    Wait* wait = find_wait(message->session);
    if (wait == nullptr || wait->task == nullptr) return;  // woken or cancelled meanwhile
    Task* task = wait->task;
    const bool token = wait->kind == WaitKind::token;
    wait->timer = {};
    --service.timer_count;
    free_wait(task->wait);
    task->wait = 0;
    if (token) {
        lua_pushnil(task->thread);
        lua_pushliteral(task->thread, "timeout");
    }
    resume(task, token ? 2 : 0);
}

// --- answers ---

void Vm::reply(MessagePtr request, lua_State* L, int first) {
    PayloadWriter out = request->writer();
    const Status status = pack(L, first, lua_gettop(L), out, "result");
    if (!status.ok()) {
        reply_error(std::move(request), status.message());
        return;
    }
    request->finish(out);
    kernel().answer(std::move(request), MessageKind::reply, Outcome::ok);
}

void Vm::reply_error(MessagePtr request, std::string_view text) {
    if (request == nullptr || request->session == 0) return;
    write_failure(*request, text, {}, nullptr, 0);
    kernel().answer(std::move(request), MessageKind::failure, Outcome::error);
}

void Vm::write_failure(Message& message, std::string_view text, std::string_view traceback,
                       lua_State* L, int value_index) {
    PayloadWriter out = message.writer();
    wire::write_string(out, capped(text));
    if (traceback.empty()) {
        wire::write_tag(out, wire::kNil);
    } else {
        wire::write_string(out, capped(traceback));
    }
    // What was raised travels too, where it can; else its text has to do.
    if (L != nullptr && !lua_isstring(L, value_index)) {
        PayloadWriter value;
        if (pack(L, value_index, value_index, value).ok() && value.size() <= 64 * 1024) {
            out.append(value.data(), value.size());
        }
    } else {
        wire::write_string(out, capped(text));
    }
    message.finish(out);
}

void Vm::report_error(Service& service, const char* what, std::string_view text,
                      std::string_view traceback, bool ends) {
    ++service.errors;
    host_.counters().lua_errors.fetch_add(1, std::memory_order_relaxed);
    std::string line = ends ? std::string(text) + " in " + what
                            : std::string("error in ") + what + ": " + std::string(capped(text));
    if (!traceback.empty()) line += "\n" + std::string(capped(traceback));
    kernel().log().write(LogLevel::error, describe(service), line, LogText::lines);
}

}  // namespace perilune
