#include "lua/lua_enet.h"

#include <cstring>

#include "lua/lua_core.h"
#include "lua/lua_udp.h"
#include "lua/vm.h"
#include "net/udp.h"

namespace perilune {

namespace {

constexpr const char* kStateKey = "enet state";

Udp& udp_of(lua_State* L) { return *Vm::of(L).host().udp(); }
Enet& enet_of(lua_State* L) { return udp_of(L).enet(); }
EnetPeerId check_peer(lua_State* L, int index) { return {check_udp_id(L, index)}; }
EnetHostId check_host(lua_State* L, int index) { return {check_udp_id(L, index)}; }

// Options as numbers, which a Lua error may jump over.
struct Settings {
    std::uint32_t max_peers, max_per_address, channels, max_packet, send_bytes, send_packets;
    std::int32_t timeout_ms, connect_ms, close_ms;
};

std::uint32_t field(lua_State* L, int table, const char* name, double least, double most) {
    lua_getfield(L, table, name);
    const lua_Number number = lua_tonumber(L, -1);
    lua_pop(L, 1);
    if (!(number >= least && number <= most)) {
        luaL_error(L, "%s is out of range", name);
    }
    return static_cast<std::uint32_t>(number);
}

// The library has checked them and put in what is missing.
Settings check_settings(lua_State* L, int table) {
    luaL_checktype(L, table, LUA_TTABLE);
    const auto ms = [&](const char* name) {
        return static_cast<std::int32_t>(field(L, table, name, 1, 2147483647.0));
    };
    Settings settings{};
    settings.max_peers = field(L, table, "max_peers", 1, kMaxEnetPeers);
    settings.max_per_address = field(L, table, "max_per_address", 0, kMaxEnetPeers);
    settings.channels = field(L, table, "channels", 1, kMaxEnetChannels);
    settings.max_packet = field(L, table, "max_packet", 1, 64 * 1024);
    settings.send_bytes = field(L, table, "send_bytes", 1, 1 << 30);
    settings.send_packets = field(L, table, "send_packets", 1, 1 << 20);
    settings.timeout_ms = ms("timeout_ms");
    settings.connect_ms = ms("connect_ms");
    settings.close_ms = ms("close_ms");
    return settings;
}

EnetOptions options_of(const Settings& settings) {
    EnetOptions options;
    options.max_peers = settings.max_peers;
    options.max_per_address = settings.max_per_address;
    options.channels = settings.channels;
    options.max_packet = settings.max_packet;
    options.send_bytes = settings.send_bytes;
    options.send_packets = settings.send_packets;
    options.timeout_ms = settings.timeout_ms;
    options.connect_ms = settings.connect_ms;
    options.close_ms = settings.close_ms;
    return options;
}

Result<EnetHostId> begin_listen(Udp& udp, Handle owner, const char* host, std::uint16_t port,
                                const Settings& settings) {
    if (const Status usable = udp.usable(); !usable.ok()) return usable;
    EnetOptions options = options_of(settings);
    options.host = host;
    options.port = port;
    return udp.enet().listen(owner, options);
}

Result<EnetPeerId> begin_connect(Udp& udp, Handle owner, const char* host, std::uint16_t port,
                                 const Settings& settings, std::uint32_t data) {
    if (const Status usable = udp.usable(); !usable.ok()) return usable;
    const Result<Address> server = Address::parse(host, port);
    if (!server.ok()) return server.status();
    return udp.enet().connect(owner, server.value(), options_of(settings), data);
}

// listen(host, port, settings) -> listener, host, port | nil, message, code
int enet_listen(lua_State* L) {
    const char* host = luaL_checkstring(L, 1);
    const auto port = static_cast<std::uint16_t>(check_integer(L, 2, 0, 65535));
    const Settings settings = check_settings(L, 3);
    const Handle owner = Vm::of(L).service(L).handle;
    const Result<EnetHostId> id = begin_listen(udp_of(L), owner, host, port, settings);
    if (!id.ok()) return push_failure(L, id.status());
    lua_pushnumber(L, static_cast<lua_Number>(id.value().value));
    return 1 + push_address(L, enet_of(L).listener_address(id.value()));
}

// close_listener(listener) -> true | nil, message, code
int enet_close_listener(lua_State* L) {
    return push_outcome(L, enet_of(L).close_listener(check_host(L, 1)));
}

// connect(host, port, settings, data) -> peer | nil, message, code
int enet_connect(lua_State* L) {
    const char* host = luaL_checkstring(L, 1);
    const auto port = static_cast<std::uint16_t>(check_integer(L, 2, 1, 65535));
    const Settings settings = check_settings(L, 3);
    const auto data = static_cast<std::uint32_t>(check_integer(L, 4, 0, 4294967295.0));
    const Handle owner = Vm::of(L).service(L).handle;
    const Result<EnetPeerId> id = begin_connect(udp_of(L), owner, host, port, settings, data);
    if (!id.ok()) return push_failure(L, id.status());
    lua_pushnumber(L, static_cast<lua_Number>(id.value().value));
    return 1;
}

// write(peer, data, channel, mode) -> true | nil, message, code
int enet_write(lua_State* L) {
    static const char* const kModes[] = {"reliable", "unreliable", "unsequenced", nullptr};
    const EnetPeerId id = check_peer(L, 1);
    luaL_checktype(L, 2, LUA_TSTRING);
    std::size_t size = 0;
    const char* data = lua_tolstring(L, 2, &size);
    const auto channel =
        lua_isnoneornil(L, 3) ? 0 : static_cast<std::uint8_t>(check_integer(L, 3, 0, 254));
    const auto mode = static_cast<EnetMode>(luaL_checkoption(L, 4, "reliable", kModes));
    return push_outcome(L, enet_of(L).write(id, {data, size}, channel, mode));
}

// close(peer, code) -> true | nil, message, code
int enet_close(lua_State* L) {
    const EnetPeerId id = check_peer(L, 1);
    const auto code = lua_isnoneornil(L, 2)
                          ? 0
                          : static_cast<std::uint32_t>(check_integer(L, 2, 0, 4294967295.0));
    return push_outcome(L, enet_of(L).close(id, code));
}

// abort(peer) -> true | nil, message, code
int enet_abort(lua_State* L) { return push_outcome(L, enet_of(L).abort(check_peer(L, 1))); }

// address(peer) -> host, port | nil, message, code
int enet_address(lua_State* L) { return push_address(L, enet_of(L).address(check_peer(L, 1))); }

// round_trip(peer) -> ms | nil, message, code
int enet_round_trip(lua_State* L) {
    const Result<std::uint32_t> ms = enet_of(L).round_trip_ms(check_peer(L, 1));
    if (!ms.ok()) return push_failure(L, ms.status());
    lua_pushnumber(L, ms.value());
    return 1;
}

// cookie(peer, period) -> bytes | nil, message, code
int enet_cookie(lua_State* L) {
    const EnetPeerId id = check_peer(L, 1);
    const auto period = lua_isnoneornil(L, 2)
                            ? 0
                            : static_cast<std::uint32_t>(check_integer(L, 2, 0, 4294967295.0));
    const Result<Cookie> cookie = enet_of(L).cookie(id, period);
    if (!cookie.ok()) return push_failure(L, cookie.status());
    char bytes[sizeof cookie.value().period + sizeof cookie.value().mac];
    std::memcpy(bytes, &cookie.value().period, sizeof cookie.value().period);
    std::memcpy(bytes + sizeof cookie.value().period, cookie.value().mac.data(),
                sizeof cookie.value().mac);
    lua_pushlstring(L, bytes, sizeof bytes);
    return 1;
}

// unsent(peer) -> bytes
int enet_unsent(lua_State* L) {
    lua_pushnumber(L, static_cast<lua_Number>(enet_of(L).unsent(check_peer(L, 1))));
    return 1;
}

int enet_state(lua_State* L) { return push_service_state(L, kStateKey); }
int enet_set_state(lua_State* L) { return keep_service_state(L, kStateKey); }
int enet_stats(lua_State* L) { return push_udp_counters(L, "enet_", "cookie_"); }

const luaL_Reg kFunctions[] = {
    {"listen", enet_listen},   {"close_listener", enet_close_listener},
    {"connect", enet_connect}, {"write", enet_write},
    {"close", enet_close},     {"abort", enet_abort},
    {"address", enet_address}, {"round_trip", enet_round_trip},
    {"cookie", enet_cookie},   {"unsent", enet_unsent},
    {"state", enet_state},     {"set_state", enet_set_state},
    {"stats", enet_stats},     {nullptr, nullptr},
};

}  // namespace

int push_enet_event(lua_State* L, const Message& message) {
    const auto event = static_cast<UdpEvent>(message.detail);
    lua_pushnumber(L, static_cast<lua_Number>(message.id));
    lua_pushstring(L, udp_event_name(event));
    if (event == UdpEvent::opened) {
        std::uint32_t data = 0;
        std::memcpy(&data, message.data(), sizeof data);
        lua_pushlstring(L, message.data() + sizeof data, message.size - sizeof data);
        lua_pushnumber(L, static_cast<lua_Number>(message.session));  // the listener
        lua_pushnumber(L, data);
        return 5;
    }
    lua_pushlstring(L, message.data(), message.size);
    lua_pushnumber(L, static_cast<lua_Number>(message.session));  // channel, or code
    return 4;
}

void push_enet_library(lua_State* L) {
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
