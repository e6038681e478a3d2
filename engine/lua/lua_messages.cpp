// send, call and their kin: check arguments, pack them into a message, post it.

#include <algorithm>
#include <string>

#include "game/packet.h"
#include "lua/lua_codec.h"
#include "lua/lua_core.h"
#include "lua/sandbox.h"
#include "lua/vm.h"

namespace perilune {

namespace {

constexpr int kMaxHops = 16;  // of a request that services redirect

// Packs command and arguments (first..top) into `message`; raises when they can't be sent.
// The command counts as argument 0 in errors: it is checked before.
void pack_command(lua_State* L, int first, MessagePtr& message, const char* function = nullptr) {
    if (lua_type(L, first) != LUA_TSTRING) {
        message.reset();
        const char* text = "the name of a command expected";
        function == nullptr ? luaL_argerror(L, first, text)
                            : argument_error(L, function, first, text);
    }
    PayloadWriter out = message->writer();
    std::size_t size = 0;
    const char* command = lua_tolstring(L, first, &size);
    wire::write_string(out, command, size);
    const Status status = pack(L, first + 1, lua_gettop(L), out);
    if (!status.ok()) {
        message.reset();
        lua_pushfstring(L, "\"%s\": %s", command, status.message());
        out = PayloadWriter();
        misuse(L, "%s", lua_tostring(L, -1));
    }
    message->finish(out);
}

int push_not_sent(lua_State* L, PostResult result) {
    lua_pushboolean(L, 0);
    lua_pushstring(L, result == PostResult::dead ? "dead" : "overloaded");
    return 2;
}

// What a call that can't even be posted ends as.
int push_refused(lua_State* L, int to, PostResult result) {
    const bool dead = result == PostResult::dead;
    std::string text;
    if (lua_type(L, to) == LUA_TSTRING) {
        std::size_t size = 0;
        const char* bytes = lua_tolstring(L, to, &size);
        const std::string name(bytes, std::min<std::size_t>(size, 128));
        text = dead ? "there is no service named \"" + name + "\""
                    : "the mailbox of the service \"" + name + "\" is full";
    } else {
        const auto handle = static_cast<std::uint64_t>(lua_tonumber(L, to));
        const std::string name = "the service with the handle " + std::to_string(handle);
        text = dead ? name + " is dead or never was" : name + ": its mailbox is full";
    }
    return push_failure(L, dead ? Outcome::dead : Outcome::overloaded, text);
}

// send(to, command, ...) -> true | false, "dead"|"overloaded"
int message_send(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1);
    const Handle self = vm.service(L).handle;
    MessagePtr message = make_message(MessageKind::send, to, self, 0);
    pack_command(L, 2, message);
    const PostResult result = vm.kernel().post(message);
    if (result != PostResult::ok) return push_not_sent(L, result);
    lua_pushboolean(L, 1);
    return 1;
}

// core_deliver(to, packet, key, unreliable) -> true | false, "dead"|"overloaded"
int message_deliver(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1);
    const std::string_view packet = check_bytes(L, 2);
    const lua_Number key = luaL_optnumber(L, 3, 0);
    luaL_argcheck(L, key >= 0 && key <= 4294967295.0, 3, "a key expected");
    const Handle self = vm.service(L).handle;
    MessagePtr message = make_message(MessageKind::packet, to, self, 0);
    const bool unreliable = lua_toboolean(L, 4) != 0;
    message->detail = static_cast<std::uint8_t>(unreliable ? PacketWay::to_client_unreliable
                                                           : PacketWay::to_client);
    message->id = static_cast<std::uint64_t>(key);
    message->set_payload(packet);
    const PostResult result = vm.kernel().post(message);
    if (result != PostResult::ok) return push_not_sent(L, result);
    lua_pushboolean(L, 1);
    return 1;
}

int call_with_limit(lua_State* L, Vm& vm, const char* function, int to_index,
                    std::int64_t limit_ms) {
    const Handle to = check_address(L, to_index, function);
    Task& task = vm.yieldable_task(L, function);
    MessagePtr message = make_message(MessageKind::call, to, task.service->handle, 0);
    pack_command(L, to_index + 1, message, function);
    message->session = vm.begin_wait(task, WaitKind::call, to, limit_ms);
    PostResult result = PostResult::overloaded;
    if (message->session != 0) {
        const std::uint64_t session = message->session;
        result = vm.kernel().post(message);
        if (result != PostResult::ok) vm.drop_wait(session);
    }
    if (result != PostResult::ok) {
        vm.kernel().counters().calls_failed.fetch_add(1, std::memory_order_relaxed);
        return push_refused(L, to_index, result);
    }
    lua_settop(L, 0);  // room for the reply
    return lua_yield(L, 0);
}

// core call(to, command, ...) -> results, or a failure for core.finish
int message_call(lua_State* L) {
    Vm& vm = Vm::of(L);
    return call_with_limit(L, vm, "perilune.call", 1, vm.host().options().call_limit_ms);
}

// core call_within(ms, to, command, ...)
int message_call_within(lua_State* L) {
    const char* function = "perilune.call_within";
    const lua_Number limit = lua_isnumber(L, 1) != 0 ? lua_tonumber(L, 1) : -1;
    if (!(limit >= 0 && limit <= 9007199254740992.0)) {
        return argument_error(L, function, 1, "milliseconds from 0 (no limit) expected");
    }
    return call_with_limit(L, Vm::of(L), function, 2, static_cast<std::int64_t>(limit));
}

// --- answers that come later ---

constexpr const char* kDeferredType = "perilune.deferred";

struct Deferred {
    std::uint64_t number;
    Handle service;
};

// reply(...): given to whoever called the command that deferred.
int deferred_reply(lua_State* L) {
    auto& deferred = *static_cast<Deferred*>(lua_touserdata(L, lua_upvalueindex(1)));
    Vm& vm = Vm::of(L);
    Service& service = vm.service(L);
    if (service.handle != deferred.service) {
        return luaL_error(L, "reply: another service's request");
    }
    MessagePtr request = vm.take_deferred(service, deferred.number);
    if (request == nullptr) return luaL_error(L, "reply: this request has been answered already");
    vm.reply(std::move(request), L, 1);
    return 0;
}

int deferred_collect(lua_State* L) {
    const auto& deferred = *static_cast<Deferred*>(lua_touserdata(L, 1));
    Vm& vm = Vm::of(L);
    Service* service = vm.find_service(deferred.service);
    if (service == nullptr) return 0;
    MessagePtr request = vm.take_deferred(*service, deferred.number);
    if (request != nullptr) {
        vm.reply_error(std::move(request), "the service forgot to answer (perilune.defer)");
    }
    return 0;
}

// defer() -> reply
int message_defer(lua_State* L) {
    Vm& vm = Vm::of(L);
    Service& service = vm.service(L);
    Task& task = *vm.current();
    if (task.request == nullptr) {
        // Sent, not called: nobody waits, and the same code may serve both.
        lua_pushcfunction(L, [](lua_State*) { return 0; });
        return 1;
    }
    auto* deferred = static_cast<Deferred*>(lua_newuserdata(L, sizeof(Deferred)));
    *deferred = {vm.defer(service, vm.take_request(task)), service.handle};
    if (luaL_newmetatable(L, kDeferredType)) {
        lua_pushcfunction(L, deferred_collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    lua_pushcclosure(L, deferred_reply, 1);
    return 1;
}

// redirect(to, command, ...) -> true | false, why
int message_redirect(lua_State* L) {
    Vm& vm = Vm::of(L);
    const Handle to = check_address(L, 1);
    vm.service(L);
    Task& task = *vm.current();
    const bool is_call = task.request != nullptr;
    MessagePtr message = make_message(is_call ? MessageKind::call : MessageKind::send, to,
                                      task.sender, is_call ? task.request->session : 0);
    if (is_call) message->hops = static_cast<std::uint8_t>(task.request->hops + 1);
    if (message->hops > kMaxHops) {
        message.reset();
        return luaL_error(L, "redirect: this request has been redirected %d times", kMaxHops);
    }
    pack_command(L, 2, message);
    const PostResult result = vm.kernel().post(message);
    if (result != PostResult::ok) return push_not_sent(L, result);
    task.request.reset();
    lua_pushboolean(L, 1);
    return 1;
}

// --- topics ---

// publish(topic, ...) -> count
int message_publish(lua_State* L) {
    const std::string_view topic = check_text(L, "perilune.publish", 1);
    Vm& vm = Vm::of(L);
    const Handle self = vm.service(L).handle;
    PayloadWriter out;
    const Status status = pack(L, 1, lua_gettop(L), out);
    if (!status.ok()) {
        out = PayloadWriter();
        return misuse(L, "perilune.publish: %s", status.message());
    }
    const int count = vm.host().publish(topic, self, std::string_view(out.data(), out.size()));
    lua_pushinteger(L, count);
    return 1;
}

// subscribe(topic, command)
int message_subscribe(lua_State* L) {
    const std::string_view topic = check_text(L, "perilune.subscribe", 1);
    const std::string_view command = check_text(L, "perilune.subscribe", 2);
    Vm& vm = Vm::of(L);
    const Status status = vm.host().subscribe(topic, vm.service(L).handle, command);
    return status.ok() ? 0 : misuse(L, "perilune.subscribe: %s", status.message());
}

// unsubscribe(topic)
int message_unsubscribe(lua_State* L) {
    const std::string_view topic = check_text(L, "perilune.unsubscribe", 1);
    Vm& vm = Vm::of(L);
    vm.host().unsubscribe(topic, vm.service(L).handle);
    return 0;
}

}  // namespace

const luaL_Reg kMessageFunctions[] = {
    {"send", message_send},
    {"core_deliver", message_deliver},
    {"core_call", message_call},
    {"core_call_within", message_call_within},
    {"defer", message_defer},
    {"redirect", message_redirect},
    {"publish", message_publish},
    {"subscribe", message_subscribe},
    {"unsubscribe", message_unsubscribe},
    {nullptr, nullptr},
};

}  // namespace perilune
