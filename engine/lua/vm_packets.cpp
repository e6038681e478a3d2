// Vm: packets of players. A gateway gives them to its gate, or hears of what is unusual; a service
// answers them by the functions of its second table, for which the host reads and writes the
// bodies.

#include <algorithm>

#include "lua/lua_codec.h"
#include "lua/packet_body.h"
#include "lua/sandbox.h"
#include "lua/service_gate.h"
#include "lua/service_packets.h"
#include "lua/vm.h"
#include "net/network.h"

namespace perilune {

// --- gateways ---

// A packet of a connection or a peer. False: it is for the service's handler of such events.
bool Vm::take_at_gate(Service& service, MessagePtr& message) {
    ServiceGate::Unusual unusual{};
    switch (service.gate->take(message, unusual)) {
        case ServiceGate::Taken::done: return true;
        case ServiceGate::Taken::stranger: return false;
        case ServiceGate::Taken::unusual: break;
    }
    run_unusual(service, unusual, message->payload());
    return true;
}

void Vm::deliver_at_gate(Service& service, MessagePtr message) {
    const auto& unusual = service.gate->deliver(
        message->own_data(), message->size, static_cast<std::uint32_t>(message->id),
        message->detail == static_cast<std::uint8_t>(PacketWay::to_client_unreliable));
    if (unusual.empty()) return;
    for (const auto& each : std::vector(unusual)) run_unusual(service, each, message->payload());
}

// Calls on_packet(key, why, packet, by_udp), or, where there is no `why`, on_lost(key).
void Vm::run_unusual(Service& service, const ServiceGate::Unusual& unusual,
                     std::string_view packet) {
    const char* name = unusual.why == nullptr ? "on_lost" : "on_packet";
    if (service.state == Service::State::dead || !push_command(service, name)) return;
    Task* task = take_task(service, name);
    lua_State* co = task->thread;
    lua_xmove(L_, co, 1);
    lua_pushnumber(co, unusual.key);
    if (unusual.why == nullptr) return resume(task, 1);
    lua_pushstring(co, unusual.why);
    lua_pushlstring(co, packet.data(), packet.size());
    lua_pushboolean(co, static_cast<int>(unusual.by_udp));
    resume(task, 4);
}

// --- services ---

void Vm::run_packet(Service& service, MessagePtr message) {
    const bool to_client = is_to_client(message->detail);
    ++service.messages;
    if (to_client && service.gate != nullptr) {
        deliver_at_gate(service, std::move(message));
    } else if (!to_client && service.clients != LUA_NOREF) {
        run_request(service, std::move(message), {});
    } else {
        run_packet_command(service, std::move(message), to_client ? "deliver" : "@packet");
    }
}

// For who has neither: what perilune.send(service, "@packet", packet, key), or "deliver", would
// have brought.
void Vm::run_packet_command(Service& service, MessagePtr message, std::string_view name) {
    if (!push_command(service, name)) {
        refuse_command(service, std::move(message), name);
        return;
    }
    Task* task = take_task(service, name);
    lua_State* co = task->thread;
    lua_xmove(L_, co, 1);
    lua_pushlstring(co, message->data(), message->size);
    if (message->id != 0) lua_pushnumber(co, static_cast<lua_Number>(message->id));
    task->sender = message->from;
    const int count = message->id != 0 ? 2 : 1;
    message.reset();
    resume(task, count);
}

// The other way round: "@packet", packet, key, address that somebody has sent.
void Vm::run_sent_packet(Service& service, MessagePtr message, std::size_t consumed) {
    if (message->kind == MessageKind::call) {
        reply_error(std::move(message), "packets are sent, not called");
        return;
    }
    const int base = lua_gettop(L_);
    int count = 0;
    std::string error;
    std::string address;
    const bool is_read =
        unpack_onto(L_, message->data() + consumed, message->size - consumed, &count, &error);
    const bool is_packet = is_read && count >= 2 && lua_type(L_, base + 1) == LUA_TSTRING &&
                           lua_type(L_, base + 2) == LUA_TNUMBER;
    if (is_packet) {
        std::size_t size = 0;
        if (count > 2 && lua_type(L_, base + 3) == LUA_TSTRING) {
            const char* text = lua_tolstring(L_, base + 3, &size);
            address.assign(text, size);
        }
        const char* packet = lua_tolstring(L_, base + 1, &size);
        message->set_payload({packet, size});
        message->id = static_cast<std::uint32_t>(lua_tonumber(L_, base + 2));
        message->kind = MessageKind::packet;
    }
    lua_settop(L_, base);
    if (!is_packet) {
        report_error(service, "@packet", "a packet and a key expected", {});
        return;
    }
    run_request(service, std::move(message), address);
}

// Has the library declare which packets the service takes. Where it can't, it takes none until the
// next reload.
void Vm::open_packets(Service& service) {
    Task task;
    task.service = &service;
    current_ = &task;
    entry_frame_ = static_cast<const char*>(__builtin_frame_address(0));
    const int base = lua_gettop(L_);
    bool ok = false;
    {
        const Protected is_protected(arena_);
        ok = push_library(L_, "perilune.client");
        if (ok) {
            lua_getfield(L_, -1, "attach");
            ok = lua_pcall(L_, 0, 0, 0) == 0;
        }
    }
    current_ = nullptr;
    if (!ok || killing_) {
        const std::string text = killing_ ? kill_text_ : error_text(L_, lua_gettop(L_));
        if (killing_) settle_kill();
        report_error(service, "perilune.client", text, {});
    }
    lua_settop(L_, base);
    if (service.packets == nullptr) service.packets = std::make_unique<ServicePackets>();
}

void Vm::close_packets(Service& service) {
    if (service.packets == nullptr) return;
    service.packets->release(L_);
    service.packets.reset();
}

// A task of the function that ServicePackets has at `place`; null where there is none.
Task* Vm::take_packet_task(Service& service, int place, const char* name, Handle sender) {
    service.packets->push_table(L_);
    if (!lua_istable(L_, -1)) {
        lua_pop(L_, 1);
        return nullptr;
    }
    lua_rawgeti(L_, -1, place);
    lua_remove(L_, -2);
    Task* task = take_task(service, name);
    lua_xmove(L_, task->thread, 1);
    task->sender = sender;
    return task;
}

void Vm::refuse_packet(Service& service, const Message& message, const char* code,
                       std::string_view why, std::uint64_t request_id) {
    Task* task = take_packet_task(service, ServicePackets::kRefuse, "a packet", message.from);
    if (task == nullptr) return;
    lua_State* co = task->thread;
    lua_pushlstring(co, message.data(), message.size);
    lua_pushnumber(co, static_cast<lua_Number>(message.id));
    lua_pushstring(co, code);
    lua_pushlstring(co, why.data(), why.size());
    if (request_id != 0) {
        lua_pushnumber(co, static_cast<lua_Number>(request_id));
    } else {
        lua_pushnil(co);
    }
    lua_pushboolean(
        co, message.detail == static_cast<std::uint8_t>(PacketWay::from_client_by_udp) ? 1 : 0);
    resume(task, 6);
}

// Whether the player is here through the gateway that `message` comes from; true where they had
// been here through another.
bool Vm::meets_another_gateway(int table, const PacketHeader& header, Handle gateway) {
    const int uid = static_cast<int>(header.utag);
    lua_rawgeti(L_, table, ServicePackets::kGateways);
    lua_rawgeti(L_, -1, uid);
    const auto sender = static_cast<lua_Number>(gateway.value);
    const bool is_known = !lua_isnil(L_, -1);
    const bool is_same = is_known && lua_tonumber(L_, -1) == sender;
    if (!is_known) {
        lua_pushnumber(L_, sender);
        lua_rawseti(L_, -3, uid);
    }
    lua_pop(L_, 2);
    if (is_known && !is_same) return true;
    lua_rawgeti(L_, table, ServicePackets::kForms);
    lua_rawgeti(L_, -1, uid);
    if ((header.form == kBufForm) == (lua_isnil(L_, -1) != 0)) {
        if (header.form == kBufForm) {
            lua_pushinteger(L_, kBufForm);
        } else {
            lua_pushnil(L_);
        }
        lua_rawseti(L_, -3, uid);
    }
    lua_pop(L_, 2);
    return false;
}

// Calls the function of the second table that a packet names: (uid, body, key), or before login
// (key, body, address).
void Vm::run_request(Service& service, MessagePtr message, std::string_view address) {
    if (service.packets == nullptr) open_packets(service);
    const auto header = read_header(message->payload());
    if (!header) return refuse_packet(service, *message, "malformed", "it has no header", 0);
    if (header->ctype == kDisconnected) {
        Task* task =
            take_packet_task(service, ServicePackets::kGone, "on_disconnect", message->from);
        if (task == nullptr) return;
        lua_pushnumber(task->thread, header->utag);
        return resume(task, 1);
    }
    const ServicePackets::Command* command = service.packets->find(*header);
    if (command == nullptr) return refuse_packet(service, *message, "unknown_command", "", 0);

    const int base = lua_gettop(L_);
    lua_checkstack(L_, kPacketStack + 10);
    service.packets->push_table(L_);
    const int table = base + 1;
    lua_rawgeti(L_, LUA_REGISTRYINDEX, service.clients);
    lua_rawgeti(L_, table, command->key);
    lua_rawget(L_, -2);
    lua_remove(L_, -2);
    const int handler = lua_gettop(L_);
    lua_pushnumber(L_, header->utag);
    PacketFields fields = command->request;
    lua_rawgeti(L_, table, command->request_names);
    fields.names = lua_gettop(L_);
    std::uint64_t request_id = 0;
    std::string fault;
    const BodyFault outcome = read_body(
        L_, fields, header->form, message->payload().substr(kPacketHeader), request_id, fault);
    const bool is_served = lua_isfunction(L_, handler) && !command->is_push;
    if (outcome != BodyFault::none || !is_served) {
        lua_settop(L_, base);
        const char* code = outcome == BodyFault::malformed        ? "malformed"
                           : outcome == BodyFault::invalid_params ? "invalid_params"
                                                                  : "unknown_command";
        return refuse_packet(service, *message, code, fault, request_id);
    }
    lua_remove(L_, fields.names);
    if (header->utag < kFirstKey) {
        if (meets_another_gateway(table, *header, message->from)) {
            lua_rawgeti(L_, table, ServicePackets::kMoved);
            lua_insert(L_, handler);
            lua_pushinteger(L_, header->form);
        }
        lua_pushnumber(L_, static_cast<lua_Number>(message->id));
    } else if (!address.empty()) {
        lua_pushlstring(L_, address.data(), address.size());
    }
    Task* task = take_task(service, command->name);
    const int count = lua_gettop(L_) - table;
    lua_xmove(L_, task->thread, count);
    lua_settop(L_, base);
    task->purpose = Purpose::packet;
    task->sender = message->from;
    message->session = request_id;
    // Of what may wait for long only the header is kept.
    if (message->buffer != nullptr) {
        char head[kPacketHeader];
        write_header(head, *header);
        message->set_payload({head, sizeof head});
    }
    task->packet = std::move(message);
    resume(task, count - 1);
}

// What a function of the second table has returned is the reply, if the packet has one.
void Vm::finish_packet(Task* task) {
    Service& service = *task->service;
    lua_State* co = task->thread;
    MessagePtr message = std::move(task->packet);
    const PacketHeader header = *read_header(message->payload());
    // Since a reload nobody may have asked yet what is declared, which may be another, or nothing.
    if (service.packets == nullptr) open_packets(service);
    const ServicePackets::Command* command = service.packets->find(header);
    const bool has_reply = command != nullptr && command->reply.codec != nullptr &&
                           lua_gettop(co) != 0 && !lua_isnil(co, 1);
    std::string fault;
    if (has_reply) {
        lua_checkstack(co, kPacketStack);
        service.packets->push_table(co);
        lua_rawgeti(co, -1, command->reply_names);
        PacketFields fields = command->reply;
        fields.names = lua_gettop(co);
        lua_pushvalue(co, 1);
        PayloadWriter out = message->writer();
        write_header(out.reserve(kPacketHeader), header);
        out.advance(kPacketHeader);
        if (write_body(co, fields, header.form, message->session, out, fault)) {
            message->finish(out);
            message->session = 0;
            message->detail = static_cast<std::uint8_t>(PacketWay::to_client);
            message->to = std::exchange(message->from, service.handle);
            (void)kernel().post(message);
        }
    }
    lua_settop(co, 0);
    give_task(task, true);
    if (!fault.empty()) fail_packet(service, *message, header, fault);
}

// The library logs it, once in a while, and answers.
void Vm::fail_packet(Service& service, const Message& message, const PacketHeader& header,
                     std::string_view text) {
    ++service.errors;
    host_.counters().lua_errors.fetch_add(1, std::memory_order_relaxed);
    if (service.state == Service::State::dead) return;
    if (service.packets == nullptr) open_packets(service);
    Task* task = take_packet_task(service, ServicePackets::kFailed, "a packet", message.from);
    if (task == nullptr) return;
    lua_State* co = task->thread;
    lua_pushinteger(co, header.stype);
    lua_pushinteger(co, header.ctype);
    lua_pushnumber(co, header.utag);
    lua_pushinteger(co, header.form);
    lua_pushnumber(co, static_cast<lua_Number>(message.id));
    if (message.session != 0) {
        lua_pushnumber(co, static_cast<lua_Number>(message.session));
    } else {
        lua_pushnil(co);
    }
    lua_pushlstring(co, text.data(), text.size());
    resume(task, 7);
}

}  // namespace perilune
