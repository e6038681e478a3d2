#include "lua/lua_gate.h"

#include <algorithm>

#include "lua/lua_core.h"
#include "lua/lua_socket.h"
#include "lua/lua_udp.h"
#include "lua/service_gate.h"
#include "lua/vm.h"

namespace perilune {

namespace {

double check_range(lua_State* L, int index, double least, double most) {
    const lua_Number number = luaL_checknumber(L, index);
    if (!(number >= least && number <= most)) luaL_argerror(L, index, "number out of range");
    return number;
}

std::uint32_t check_u32(lua_State* L, int index) {
    return static_cast<std::uint32_t>(check_range(L, index, 0, 4294967295.0));
}

std::int16_t check_i16(lua_State* L, int index) {
    return static_cast<std::int16_t>(check_range(L, index, -32768, 32767));
}

double number_option(lua_State* L, const char* name, double least, double most) {
    lua_getfield(L, 1, name);
    const lua_Number number = lua_tonumber(L, -1);
    if (lua_isnumber(L, -1) == 0 || !(number >= least && number <= most)) {
        luaL_error(L, "gate.open: %s: number from %f to %f expected", name, least, most);
    }
    lua_pop(L, 1);
    return number;
}

ServiceGate& gate_of(lua_State* L) {
    const Service& service = Vm::of(L).service(L);
    if (service.gate == nullptr) luaL_error(L, "gate.open was not called");
    return *service.gate;
}

// The session of the key at `index`; raises where there is none.
Gate::Session& check_session(lua_State* L, ServiceGate& gate, int index) {
    Gate::Session* session = gate.gate().by_key(check_u32(L, index));
    if (session == nullptr) luaL_argerror(L, index, "no session has this key");
    return *session;
}

// open(options)
int gate_open(lua_State* L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    Vm& vm = Vm::of(L);
    Service& service = vm.service(L);
    if (service.gate != nullptr) return luaL_error(L, "gate.open: this service has its gate");
    GateOptions options;
    options.rate = {number_option(L, "rate", 0.001, 1e9), number_option(L, "burst", 1, 1e9)};
    options.address_rate = {number_option(L, "address_rate", 0.001, 1e9),
                            number_option(L, "address_burst", 1, 1e9)};
    options.ring_packets =
        static_cast<std::uint32_t>(number_option(L, "ring_packets", 1, 4294967295.0));
    options.ring_bytes = static_cast<std::size_t>(number_option(L, "ring_bytes", 1, 1e12));
    options.total_ring_bytes =
        static_cast<std::uint64_t>(number_option(L, "total_ring_bytes", 1, 1e15));
    service.gate = std::make_unique<ServiceGate>(vm.kernel(), *vm.host().network(), vm.host().udp(),
                                                 service.handle, options);
    return 0;
}

// route(stype, service)
int gate_route(lua_State* L) {
    gate_of(L).add_route(check_i16(L, 1), check_bytes(L, 2));
    return 0;
}

// logins(list)
int gate_logins(lua_State* L) {
    Gate& gate = gate_of(L).gate();
    luaL_checktype(L, 1, LUA_TTABLE);
    gate.forget_logins();
    const int count = static_cast<int>(lua_objlen(L, 1));
    for (int i = 1; i + 1 <= count; i += 2) {
        lua_settop(L, 1);
        lua_rawgeti(L, 1, i);
        lua_rawgeti(L, 1, i + 1);
        gate.add_login(check_i16(L, 2), check_i16(L, 3));
    }
    return 0;
}

// add(key, connection, address) -> boolean
int gate_add(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    const std::uint32_t key = check_u32(L, 1);
    luaL_argcheck(L, key >= kFirstKey, 1, "keys are 2^31 and more");
    const ConnectionId path = check_connection(L, 2);
    const std::string_view address = lua_isnoneornil(L, 3) ? "" : check_bytes(L, 3);
    const bool added = gate.gate().add(key, path.value, address, gate.now_ns()) != nullptr;
    lua_pushboolean(L, static_cast<int>(added));
    return 1;
}

// remove(key)
int gate_remove(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    gate.gate().remove(check_session(L, gate, 1), gate.now_ns());
    return 0;
}

// enter(key, uid) -> boolean
int gate_enter(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    Gate::Session& session = check_session(L, gate, 1);
    const auto uid = static_cast<std::uint32_t>(check_range(L, 2, 1, kFirstKey - 1));
    lua_pushboolean(L, static_cast<int>(gate.gate().enter(session, uid)));
    return 1;
}

// leave(key) -> {[stype] = service}
int gate_leave(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    Gate::Session& session = check_session(L, gate, 1);
    lua_newtable(L);
    for (const std::size_t route : session.seen) {
        lua_pushstring(L, gate.route(route).name.c_str());
        lua_rawseti(L, -2, gate.route(route).stype);
    }
    (void)gate.gate().leave(session);
    return 1;
}

// key_of_user(uid) -> key | nil
int gate_key_of_user(lua_State* L) {
    const Gate::Session* session = gate_of(L).gate().by_uid(check_u32(L, 1));
    if (session == nullptr) return 0;
    lua_pushnumber(L, session->key);
    return 1;
}

// close(key)
int gate_close(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    check_session(L, gate, 1).closing = true;
    return 0;
}

// only_resumes(key)
int gate_only_resumes(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    check_session(L, gate, 1).resumes_only = true;
    return 0;
}

// form(key) -> integer
int gate_form(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    lua_pushinteger(L, check_session(L, gate, 1).form);
    return 1;
}

// heard_at(key) -> ms
int gate_heard_at(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    lua_pushnumber(L, static_cast<lua_Number>(check_session(L, gate, 1).heard_ns) / kNsPerMs);
    return 1;
}

// again(key, packet) -> why | nil
int gate_again(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    Gate::Session& session = check_session(L, gate, 1);
    const char* why = gate.take_again(session, check_bytes(L, 2));
    if (why == nullptr) return 0;
    lua_pushstring(L, why);
    return 1;
}

// write(key, packet) -> boolean
int gate_write(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    Gate::Session& session = check_session(L, gate, 1);
    lua_pushboolean(L, static_cast<int>(gate.write(session, check_bytes(L, 2))));
    return 1;
}

// write_once(key, packet)
int gate_write_once(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    Gate::Session& session = check_session(L, gate, 1);
    gate.write_once(session, check_bytes(L, 2));
    return 0;
}

// open_udp(key, peer) -> boolean
int gate_open_udp(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    Gate::Session& session = check_session(L, gate, 1);
    lua_pushboolean(L, static_cast<int>(gate.open_udp(session, check_udp_id(L, 2))));
    return 1;
}

// close_udp(key)
int gate_close_udp(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    gate.gate().close_side_path(check_session(L, gate, 1));
    return 0;
}

// deliver(packet, key) -> {{key, why, packet}...} | nil
int gate_deliver(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    const std::string_view packet = check_bytes(L, 1);
    const std::uint32_t key = lua_isnoneornil(L, 2) ? 0 : check_u32(L, 2);
    // Lua's memory: what follows may raise.
    auto* copy = static_cast<char*>(lua_newuserdata(L, packet.size() + 1));
    std::copy(packet.begin(), packet.end(), copy);
    const std::vector<ServiceGate::Unusual>& unusual =
        gate.deliver(copy, packet.size(), key, false);
    if (unusual.empty()) return 0;
    lua_createtable(L, static_cast<int>(unusual.size()), 0);
    for (std::size_t i = 0; i < unusual.size(); ++i) {
        lua_createtable(L, 3, 0);
        lua_pushnumber(L, unusual[i].key);
        lua_rawseti(L, -2, 1);
        if (unusual[i].why != nullptr) {
            lua_pushstring(L, unusual[i].why);
            lua_rawseti(L, -2, 2);
            lua_pushlstring(L, copy, packet.size());
            lua_rawseti(L, -2, 3);
        }
        lua_rawseti(L, -2, static_cast<int>(i + 1));
    }
    return 1;
}

// number_packets(key)
int gate_number_packets(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    gate.gate().number_packets(check_session(L, gate, 1));
    return 0;
}

// forget_packets(key)
int gate_forget_packets(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    gate.gate().forget_ring(check_session(L, gate, 1));
    return 0;
}

// numbers(key) -> first, last | nil
int gate_numbers(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    const Gate::Session& session = check_session(L, gate, 1);
    if (session.ring == nullptr) return 0;
    lua_pushnumber(L, static_cast<lua_Number>(session.ring->first()));
    lua_pushnumber(L, static_cast<lua_Number>(session.ring->sent()));
    return 2;
}

// keep(key)
int gate_keep(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    gate.gate().keep(check_session(L, gate, 1));
    return 0;
}

// move(key, other)
int gate_move(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    Gate::Session& session = check_session(L, gate, 1);
    Gate::Session& other = check_session(L, gate, 2);
    luaL_argcheck(L, &session != &other, 2, "another session expected");
    gate.gate().move(session, other, gate.now_ns());
    return 0;
}

// write_again(key, number)
int gate_write_again(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    Gate::Session& session = check_session(L, gate, 1);
    gate.write_again(session, static_cast<std::uint64_t>(check_range(L, 2, 0, 9007199254740992.0)));
    return 0;
}

// trim() -> {key...}
int gate_trim(lua_State* L) {
    const std::vector<std::uint32_t>& lost = gate_of(L).trim();
    lua_createtable(L, static_cast<int>(lost.size()), 0);
    for (std::size_t i = 0; i < lost.size(); ++i) {
        lua_pushnumber(L, lost[i]);
        lua_rawseti(L, -2, static_cast<int>(i + 1));
    }
    return 1;
}

// stats() -> table
int gate_stats(lua_State* L) {
    ServiceGate& gate = gate_of(L);
    const struct {
        const char* name;
        std::uint64_t value;
    } rows[] = {
        {"packets_in", gate.gate().counters().packets_in},
        {"packets_out", gate.counters().packets_out},
        {"forwarded", gate.counters().forwarded},
        {"udp_packets_in", gate.counters().udp_packets_in},
        {"udp_packets_out", gate.counters().udp_packets_out},
        {"udp_fallbacks", gate.counters().udp_fallbacks},
        {"undeliverable", gate.gate().counters().undeliverable},
        {"users", gate.gate().users()},
        {"resume_bytes", gate.gate().ring_bytes()},
    };
    lua_newtable(L);
    for (const auto& [name, value] : rows) {
        lua_pushnumber(L, static_cast<lua_Number>(value));
        lua_setfield(L, -2, name);
    }
    return 1;
}

const luaL_Reg kFunctions[] = {
    {"open", gate_open},
    {"route", gate_route},
    {"logins", gate_logins},
    {"add", gate_add},
    {"remove", gate_remove},
    {"enter", gate_enter},
    {"leave", gate_leave},
    {"key_of_user", gate_key_of_user},
    {"close", gate_close},
    {"only_resumes", gate_only_resumes},
    {"form", gate_form},
    {"heard_at", gate_heard_at},
    {"again", gate_again},
    {"write", gate_write},
    {"write_once", gate_write_once},
    {"open_udp", gate_open_udp},
    {"close_udp", gate_close_udp},
    {"deliver", gate_deliver},
    {"number_packets", gate_number_packets},
    {"forget_packets", gate_forget_packets},
    {"numbers", gate_numbers},
    {"keep", gate_keep},
    {"move", gate_move},
    {"write_again", gate_write_again},
    {"trim", gate_trim},
    {"stats", gate_stats},
    {nullptr, nullptr},
};

}  // namespace

void push_gate_library(lua_State* L) {
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
