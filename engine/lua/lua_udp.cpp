#include "lua/lua_udp.h"

#include <cmath>
#include <cstring>

#include "lua/lua_core.h"
#include "lua/vm.h"
#include "net/udp.h"

namespace perilune {

namespace {

constexpr const char* kStateKey = "udp state";

Udp& udp_of(lua_State* L) { return *Vm::of(L).host().udp(); }

// Text that a Lua error may jump over.
struct HostText {
    char text[64];
};
HostText host_text(const Address& address) {
    HostText result{};
    const std::string host = address.host();
    std::memcpy(result.text, host.data(), std::min(host.size(), sizeof result.text - 1));
    return result;
}

// Numbers are no data: the text they would become is rarely what was meant.
std::string_view check_data(lua_State* L, int index) {
    luaL_checktype(L, index, LUA_TSTRING);
    std::size_t size = 0;
    const char* data = lua_tolstring(L, index, &size);
    return {data, size};
}

Result<DatagramId> open_socket(Udp& udp, Handle owner, const char* host, std::uint16_t port,
                               std::uint32_t max_datagram, bool broadcast, bool connect) {
    if (const Status usable = udp.usable(); !usable.ok()) return usable;
    DatagramOptions options;
    options.max_datagram = max_datagram;
    options.broadcast = broadcast;
    if (connect) {
        const Result<Address> peer = Address::parse(host, port);
        if (!peer.ok()) return peer.status();
        return udp.datagrams().connect(owner, peer.value(), options);
    }
    options.host = host;
    options.port = port;
    return udp.datagrams().open(owner, options);
}

int open_or_connect(lua_State* L, bool connect) {
    const char* host = luaL_checkstring(L, 1);
    const auto port = static_cast<std::uint16_t>(check_integer(L, 2, connect ? 1 : 0, 65535));
    const auto most = static_cast<std::uint32_t>(check_integer(L, 3, 1, kMaxDatagram));
    const bool broadcast = lua_toboolean(L, 4) != 0;
    Udp& udp = udp_of(L);
    const Handle owner = Vm::of(L).service(L).handle;
    const Result<DatagramId> id = open_socket(udp, owner, host, port, most, broadcast, connect);
    if (!id.ok()) return push_failure(L, id.status());
    lua_pushnumber(L, static_cast<lua_Number>(id.value().value));
    return 1 + push_address(L, udp.datagrams().local(id.value()));
}

// open(host, port, max_datagram, broadcast) -> socket, host, port | nil, message, code
int udp_open(lua_State* L) { return open_or_connect(L, false); }

// connect(host, port, max_datagram, broadcast) -> socket, host, port | nil, message, code
int udp_connect(lua_State* L) { return open_or_connect(L, true); }

// send(socket, data, host, port) -> true | nil, message, code
int udp_send(lua_State* L) {
    const DatagramId id{check_udp_id(L, 1)};
    const std::string_view data = check_data(L, 2);
    Datagrams& datagrams = udp_of(L).datagrams();
    if (lua_isnoneornil(L, 3)) return push_outcome(L, datagrams.send(id, data, nullptr));
    const char* host = luaL_checkstring(L, 3);
    const auto port = static_cast<std::uint16_t>(check_integer(L, 4, 1, 65535));
    const Result<Address> to = read_address(host, port);
    if (!to.ok()) return push_failure(L, to.status());
    return push_outcome(L, datagrams.send(id, data, &to.value()));
}

// close(socket) -> true | nil, message, code
int udp_close(lua_State* L) {
    return push_outcome(L, udp_of(L).datagrams().close(DatagramId{check_udp_id(L, 1)}));
}

int udp_state(lua_State* L) { return push_service_state(L, kStateKey); }
int udp_set_state(lua_State* L) { return keep_service_state(L, kStateKey); }
int udp_stats(lua_State* L) { return push_udp_counters(L, "udp_", "udp_"); }

const luaL_Reg kFunctions[] = {
    {"open", udp_open},   {"connect", udp_connect},     {"send", udp_send},   {"close", udp_close},
    {"state", udp_state}, {"set_state", udp_set_state}, {"stats", udp_stats}, {nullptr, nullptr},
};

}  // namespace

int push_failure(lua_State* L, const Status& status) {
    lua_pushnil(L);
    lua_pushstring(L, status.message());
    lua_pushstring(L, status_code_name(status.code()));
    return 3;
}

int push_outcome(lua_State* L, const Status& status) {
    if (!status.ok()) return push_failure(L, status);
    lua_pushboolean(L, 1);
    return 1;
}

int push_address(lua_State* L, const Result<Address>& address) {
    if (!address.ok()) return push_failure(L, address.status());
    const HostText host = host_text(address.value());
    lua_pushstring(L, host.text);
    lua_pushinteger(L, address.value().port);
    return 2;
}

std::uint64_t check_integer(lua_State* L, int index, double least, double most) {
    const lua_Number number = luaL_checknumber(L, index);
    if (!(number >= least && number <= most) || number != std::floor(number)) {
        char expected[80];
        std::snprintf(expected, sizeof expected, "an integer from %.0f to %.0f expected", least,
                      most);
        luaL_argerror(L, index, expected);
    }
    return static_cast<std::uint64_t>(number);
}

std::uint64_t check_udp_id(lua_State* L, int index) {
    return check_integer(L, index, 0, 9007199254740991.0);
}

Result<Address> read_address(const char* host, std::uint16_t port) {
    return Address::parse(host, port);
}

int push_udp_counters(lua_State* L, const char* prefix, const char* other) {
    lua_newtable(L);
    udp_of(L).counters().each([&](const char* name, std::uint64_t value) {
        if (std::strncmp(name, prefix, std::strlen(prefix)) != 0 &&
            std::strncmp(name, other, std::strlen(other)) != 0) {
            return;
        }
        lua_pushnumber(L, static_cast<lua_Number>(value));
        lua_setfield(L, -2, name);
    });
    return 1;
}

int push_udp_event(lua_State* L, const Message& message) {
    const auto event = static_cast<UdpEvent>(message.detail);
    lua_pushnumber(L, static_cast<lua_Number>(message.id));
    lua_pushstring(L, udp_event_name(event));
    const Address from = PackedAddress::unpack(message.data());
    lua_pushlstring(L, message.data() + sizeof(PackedAddress),
                    message.size - sizeof(PackedAddress));
    const HostText host = host_text(from);
    lua_pushstring(L, host.text);
    lua_pushinteger(L, from.port);
    return 5;
}

void push_udp_library(lua_State* L) {
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
