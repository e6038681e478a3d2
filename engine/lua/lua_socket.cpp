#include "lua/lua_socket.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "lua/lua_core.h"
#include "lua/vm.h"
#include "net/encryption.h"
#include "net/network.h"
#include "net/tls.h"

namespace perilune {

namespace {

Network& network_of(lua_State* L) { return *Vm::of(L).host().network(); }
Handle self_of(lua_State* L) { return Vm::of(L).service(L).handle; }

std::uint64_t check_id(lua_State* L, int index, const char* what) {
    const lua_Number number = luaL_checknumber(L, index);
    if (!(number >= 0 && number < 9007199254740992.0)) luaL_argerror(L, index, what);
    return static_cast<std::uint64_t>(number);
}

GroupId check_group(lua_State* L, int index) { return {check_id(L, index, "a group expected")}; }
ListenerId check_listener(lua_State* L, int index) {
    return {check_id(L, index, "a listener expected")};
}

// --- options ---

// Where the mistake is: the line of the script that called the library.
int bad_option(lua_State* L, const char* function, const char* option, const char* expected) {
    luaL_where(L, 2);
    lua_pushfstring(L, "%s: bad option \"%s\" (%s expected)", function, option, expected);
    lua_concat(L, 2);
    return lua_error(L);
}

// One row for each option; `offset` is that of a field of `Options`.
struct Option {
    enum class Kind {
        boolean,
        u16,
        u32,
        i32,
        text,
        framing,
        table
    };  // a table: whether it is there
    const char* name;
    Kind kind;
    std::size_t offset;
    double least = 0;
};

constexpr Option kStreamOptions[] = {
    {"framing", Option::Kind::framing, offsetof(StreamOptions, framing)},
    {"max_frame", Option::Kind::u32, offsetof(StreamOptions, max_frame), 1},
    {"send_bytes", Option::Kind::u32, offsetof(StreamOptions, send_bytes)},
    {"send_packets", Option::Kind::u32, offsetof(StreamOptions, send_packets)},
    {"stall_ms", Option::Kind::i32, offsetof(StreamOptions, stall_ms)},
    {"idle_ms", Option::Kind::i32, offsetof(StreamOptions, idle_ms)},
    {"close_ms", Option::Kind::i32, offsetof(StreamOptions, close_ms), 1},
    {"no_delay", Option::Kind::boolean, offsetof(StreamOptions, no_delay)},
    {"half_open", Option::Kind::boolean, offsetof(StreamOptions, half_open)},
    {"paused", Option::Kind::boolean, offsetof(StreamOptions, paused)},
    {"handshake_ms", Option::Kind::i32, offsetof(StreamOptions, handshake_ms)},
};

// What `tls` says; the texts live in the table.
struct TlsTexts {
    bool wanted = false;
    bool verify = true;
    const char* certificate = nullptr;
    const char* key = nullptr;
    const char* ca = nullptr;
    const char* server_name = nullptr;
};

// What `encrypt` says, likewise.
struct EncryptionTexts {
    bool wanted = false;
    const char* key = nullptr;
    const char* server_key = nullptr;
};

// The rows of what a listener and a connection to be made have of their own.
struct OwnOptions {
    const char* host = nullptr;  // lives in the table
    std::uint16_t port = 0;
    std::int32_t backlog = 1024;
    std::uint32_t max_connections = 10'000;
    std::uint32_t max_per_address = 0;
    std::uint32_t max_handshakes = ListenOptions().max_handshakes;
    std::uint32_t max_handshakes_per_address = 0;
    bool until_upgrade = false;
    bool exempts = false;
    std::int32_t connect_ms = 10'000;
    TlsTexts tls;
    EncryptionTexts encryption;
};

constexpr Option kListenOptions[] = {
    {"host", Option::Kind::text, offsetof(OwnOptions, host)},
    {"port", Option::Kind::u16, offsetof(OwnOptions, port)},
    {"backlog", Option::Kind::i32, offsetof(OwnOptions, backlog), 1},
    {"max_connections", Option::Kind::u32, offsetof(OwnOptions, max_connections), 1},
    {"max_per_address", Option::Kind::u32, offsetof(OwnOptions, max_per_address)},
    {"max_handshakes", Option::Kind::u32, offsetof(OwnOptions, max_handshakes)},
    {"max_handshakes_per_address", Option::Kind::u32,
     offsetof(OwnOptions, max_handshakes_per_address)},
    {"until_upgrade", Option::Kind::boolean, offsetof(OwnOptions, until_upgrade)},
    {"exempt", Option::Kind::table, offsetof(OwnOptions, exempts)},
};

constexpr Option kConnectOptions[] = {
    {"connect_ms", Option::Kind::i32, offsetof(OwnOptions, connect_ms)},
};

template <typename T>
T& field(void* options, const Option& option) {
    return *reinterpret_cast<T*>(static_cast<char*>(options) + option.offset);
}

// The value on top of the stack.
void read_option(lua_State* L, const char* function, const Option& option, void* options) {
    using Kind = Option::Kind;
    if (option.kind == Kind::boolean) {
        if (!lua_isboolean(L, -1)) bad_option(L, function, option.name, "boolean");
        field<bool>(options, option) = lua_toboolean(L, -1) != 0;
    } else if (option.kind == Kind::table) {
        if (!lua_istable(L, -1)) bad_option(L, function, option.name, "table");
        field<bool>(options, option) = true;
    } else if (option.kind == Kind::text) {
        if (lua_type(L, -1) != LUA_TSTRING) bad_option(L, function, option.name, "string");
        field<const char*>(options, option) = lua_tostring(L, -1);
    } else if (option.kind == Kind::framing) {
        std::size_t size = 0;
        const char* name = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &size) : nullptr;
        const auto kind = name == nullptr ? std::nullopt : framing_by_name({name, size});
        if (!kind) {
            bad_option(L, function, option.name,
                       "\"packet\", \"u16be\", \"u32be\", \"line\" or \"raw\"");
        }
        field<FramingKind>(options, option) = *kind;
    } else {
        const double most = option.kind == Kind::u16   ? 65535.0
                            : option.kind == Kind::i32 ? 2147483647.0
                                                       : 4294967295.0;
        const lua_Number number = lua_tonumber(L, -1);
        if (lua_type(L, -1) != LUA_TNUMBER || !(number >= option.least && number <= most) ||
            number != std::floor(number)) {
            char expected[64];
            std::snprintf(expected, sizeof expected, "integer from %.0f to %.0f", option.least,
                          most);
            bad_option(L, function, option.name, expected);
        }
        if (option.kind == Kind::u16)
            field<std::uint16_t>(options, option) = static_cast<std::uint16_t>(number);
        if (option.kind == Kind::u32)
            field<std::uint32_t>(options, option) = static_cast<std::uint32_t>(number);
        if (option.kind == Kind::i32)
            field<std::int32_t>(options, option) = static_cast<std::int32_t>(number);
    }
}

template <std::size_t N>
bool read_known(lua_State* L, const char* function, const char* name, const Option (&rows)[N],
                void* options) {
    for (const Option& option : rows) {
        if (std::strcmp(option.name, name) != 0) continue;
        read_option(L, function, option, options);
        return true;
    }
    return false;
}

constexpr Option kTlsOptions[] = {
    {"certificate", Option::Kind::text, offsetof(TlsTexts, certificate)},
    {"key", Option::Kind::text, offsetof(TlsTexts, key)},
    {"ca", Option::Kind::text, offsetof(TlsTexts, ca)},
    {"server_name", Option::Kind::text, offsetof(TlsTexts, server_name)},
    {"verify", Option::Kind::boolean, offsetof(TlsTexts, verify)},
};

constexpr Option kEncryptionOptions[] = {
    {"key", Option::Kind::text, offsetof(EncryptionTexts, key)},
    {"server_key", Option::Kind::text, offsetof(EncryptionTexts, server_key)},
};

// The value on top of the stack: true, or a table of `rows`, of which `names` tells.
template <std::size_t N, typename Texts>
void read_privacy(lua_State* L, const char* function, const char* option, const Option (&rows)[N],
                  const char* names, Texts& texts) {
    texts.wanted = !lua_isboolean(L, -1) || lua_toboolean(L, -1) != 0;
    if (lua_isboolean(L, -1)) return;
    if (!lua_istable(L, -1)) bad_option(L, function, option, "boolean or table");
    lua_pushnil(L);
    while (lua_next(L, -2) != 0) {
        const char* name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "[...]";
        if (!read_known(L, function, name, rows, &texts)) bad_option(L, function, name, names);
        lua_pop(L, 1);
    }
}

// A path as scripts give it: from the folder of config.lua on.
std::string file_of(lua_State* L, const char* path) {
    return Vm::of(L).host().options().from_base(path == nullptr ? "" : path);
}

TlsOptions tls_options(lua_State* L, const TlsTexts& texts) {
    return {file_of(L, texts.certificate), file_of(L, texts.key), file_of(L, texts.ca),
            texts.verify, texts.server_name == nullptr ? "" : texts.server_name};
}

// All options of the table at `index`; `rows` are those besides the stream's.
template <std::size_t N>
void read_options(lua_State* L, int index, const char* function, const Option (&rows)[N],
                  OwnOptions& own, StreamOptions& stream) {
    if (lua_isnoneornil(L, index)) return;
    luaL_checktype(L, index, LUA_TTABLE);
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        if (!lua_isfunction(L, -1)) {  // those are the library's
            if (lua_type(L, -2) != LUA_TSTRING) bad_option(L, function, "[...]", "names");
            const char* name = lua_tostring(L, -2);
            if (std::strcmp(name, "tls") == 0) {
                read_privacy(L, function, name, kTlsOptions,
                             "certificate, key, ca, server_name or verify", own.tls);
            } else if (std::strcmp(name, "encrypt") == 0) {
                read_privacy(L, function, name, kEncryptionOptions, "key or server_key",
                             own.encryption);
            } else if (!read_known(L, function, name, kStreamOptions, &stream) &&
                       !read_known(L, function, name, rows, &own)) {
                bad_option(L, function, name, "no such option: another name");
            }
        }
        lua_pop(L, 1);
    }
    if (own.tls.wanted && own.encryption.wanted) {
        bad_option(L, function, "encrypt", "no encryption beside TLS");
    }
}

// Entry `index` of the option "exempt" of the table at 1; "/64" may follow an address of IPv6.
// Not found: there is none; invalid: it is no address.
Result<Address> exempt_address(lua_State* L, int index) {
    lua_getfield(L, 1, "exempt");
    lua_rawgeti(L, -1, index);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 2);
        return Status::error(StatusCode::not_found, "no more");
    }
    std::size_t size = 0;
    const char* bytes = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &size) : "";
    std::string_view text(bytes, size);
    if (text.ends_with("/64")) text.remove_suffix(3);
    const Result<Address> address = Address::parse(text, 0);
    lua_pop(L, 2);
    return address;
}

void check_exempt(lua_State* L) {
    for (int i = 1;; ++i) {
        const Result<Address> address = exempt_address(L, i);
        if (address.ok()) continue;
        if (address.status().code() == StatusCode::not_found) return;
        bad_option(L, "socket.listen", "exempt", "IPv4 and IPv6 addresses");
    }
}

// --- listeners and connections ---

// listen(options) -> listener, host, port, server_key | nil, message, code
int socket_listen(lua_State* L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    OwnOptions own;
    ListenOptions options;
    read_options(L, 1, "socket.listen", kListenOptions, own, options.stream);
    if (own.host != nullptr) options.host = own.host;
    options.port = own.port;
    options.backlog = own.backlog;
    options.max_connections = own.max_connections;
    options.max_per_address = own.max_per_address;
    options.max_handshakes = own.max_handshakes;
    options.max_handshakes_per_address = own.max_handshakes_per_address;
    options.until_upgrade = own.until_upgrade;
    if (own.exempts) {
        check_exempt(L);
        for (int i = 1; exempt_address(L, i).ok(); ++i) {
            options.exempt.push_back(exempt_address(L, i).value().client_key());
        }
    }
    if (own.encryption.server_key != nullptr) {
        return bad_option(L, "socket.listen", "server_key", "a file as \"key\"");
    }
    std::string server_key;
    if (own.tls.wanted) {
        auto context = TlsContext::server(tls_options(L, own.tls));
        if (!context.ok()) return push_error(L, context.status());
        options.secure = std::move(context.value());
    } else if (own.encryption.wanted) {
        const auto context = EncryptionContext::server({file_of(L, own.encryption.key), ""});
        if (!context.ok()) return push_error(L, context.status());
        options.secure = context.value();
        server_key = context.value()->public_key();
    }
    Network& network = network_of(L);
    const Result<ListenerId> id = network.listen(self_of(L), options);
    if (!id.ok()) return push_error(L, id.status());
    // The node may begin to stop meanwhile, which closes it.
    const Result<Address> address = network.listener_address(id.value());
    if (!address.ok()) return push_error(L, address.status());
    lua_pushnumber(L, static_cast<lua_Number>(id.value().value));
    lua_pushstring(L, address.value().host().c_str());
    lua_pushinteger(L, address.value().port);
    if (server_key.empty()) return 3;
    lua_pushstring(L, server_key.c_str());
    return 4;
}

// reload_certificate(listener) -> true | nil, message, code
int socket_reload_certificate(lua_State* L) {
    return push_status(L, network_of(L).reload_certificate(check_listener(L, 1)));
}

// close_listener(listener) -> true | nil, message, code
int socket_close_listener(lua_State* L) {
    return push_status(L, network_of(L).close_listener(check_listener(L, 1)));
}

// connect(host, port, options) -> connection | nil, message, code
int socket_connect(lua_State* L) {
    luaL_checktype(L, 1, LUA_TSTRING);
    const std::string_view host = check_bytes(L, 1);
    luaL_argcheck(L, host.find('\0') == std::string_view::npos, 1, "a name of a host expected");
    const lua_Number port = luaL_checknumber(L, 2);
    luaL_argcheck(L, port >= 1 && port <= 65535, 2, "a port from 1 to 65535 expected");
    OwnOptions own;
    ConnectOptions options;
    read_options(L, 3, "socket.connect", kConnectOptions, own, options.stream);
    options.host = host;
    options.port = static_cast<std::uint16_t>(port);
    options.connect_ms = own.connect_ms;
    if (own.tls.wanted) {
        auto context = network_of(L).client_tls(tls_options(L, own.tls));
        if (!context.ok()) return push_error(L, context.status());
        options.secure = std::move(context.value());
    } else if (own.encryption.wanted) {
        if (own.encryption.key != nullptr) {
            return bad_option(L, "socket.connect", "key", "no key of its own");
        }
        const char* key = own.encryption.server_key;
        auto context = EncryptionContext::client({"", key == nullptr ? "" : key});
        if (!context.ok()) return push_error(L, context.status());
        options.secure = std::move(context.value());
    }
    const Result<ConnectionId> id = network_of(L).connect(self_of(L), options);
    if (!id.ok()) return push_error(L, id.status());
    lua_pushnumber(L, static_cast<lua_Number>(id.value().value));
    return 1;
}

// write(connection, data) -> true | nil, message, code
int socket_write(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    const std::string_view data = check_bytes(L, 2);
    return push_status(L, network_of(L).write(id, data));
}

// write_text(connection, text) -> true | nil, message, code
int socket_write_text(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    return push_status(L, network_of(L).write_text(id, check_bytes(L, 2)));
}

// write_raw(connection, data) -> true | nil, message, code
int socket_write_raw(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    const std::string_view data = check_bytes(L, 2);
    return push_status(L, network_of(L).write_raw(id, data));
}

// write_many(connections, data) -> count
int socket_write_many(lua_State* L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    const std::string_view data = check_bytes(L, 2);
    const int count = static_cast<int>(lua_objlen(L, 1));
    // Lua's memory, since the checks below may raise.
    auto* ids = static_cast<ConnectionId*>(
        lua_newuserdata(L, sizeof(ConnectionId) * static_cast<std::size_t>(count + 1)));
    for (int i = 0; i < count; ++i) {
        lua_rawgeti(L, 1, i + 1);
        const lua_Number number = lua_tonumber(L, -1);
        luaL_argcheck(L, number >= 0 && number < 9007199254740992.0, 1, "connections expected");
        ids[i] = ConnectionId{static_cast<std::uint64_t>(number)};
        lua_pop(L, 1);
    }
    const std::size_t sent = network_of(L).write_many({ids, static_cast<std::size_t>(count)}, data);
    lua_pushnumber(L, static_cast<lua_Number>(sent));
    return 1;
}

// unsent(connection) -> bytes
int socket_unsent(lua_State* L) {
    lua_pushnumber(L, static_cast<lua_Number>(network_of(L).unsent(check_connection(L, 1))));
    return 1;
}

// notify_drained(connection) -> true | nil, message, code
int socket_notify_drained(lua_State* L) {
    return push_status(L, network_of(L).notify_drained(check_connection(L, 1)));
}

// close(connection) -> true | nil, message, code
int socket_close(lua_State* L) {
    return push_status(L, network_of(L).close(check_connection(L, 1)));
}

// upgrade(connection, max_message) -> true | nil, message, code
int socket_upgrade(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    const lua_Number most = luaL_checknumber(L, 2);
    luaL_argcheck(L, most >= 1 && most <= 4294967295.0, 2, "bytes from 1 to 2^32 - 1 expected");
    return push_status(L, network_of(L).upgrade(id, static_cast<std::uint32_t>(most)));
}

// close_websocket(connection, code, reason) -> true | nil, message, code
int socket_close_websocket(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    const lua_Number code = luaL_checknumber(L, 2);
    luaL_argcheck(L, code >= 1000 && code <= 4999, 2, "a code from 1000 to 4999 expected");
    const std::string_view reason = check_bytes(L, 3);
    return push_status(L,
                       network_of(L).close_websocket(id, static_cast<std::uint16_t>(code), reason));
}

// abort(connection) -> true | nil, message, code
int socket_abort(lua_State* L) {
    return push_status(L, network_of(L).abort(check_connection(L, 1)));
}

// hand_over(connection, to) -> true | nil, message, code
int socket_hand_over(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    const Handle owner = check_address(L, 2);
    return push_status(L, network_of(L).hand_over(id, owner));
}

// pause(connection) -> true | nil, message, code
int socket_pause(lua_State* L) {
    return push_status(L, network_of(L).pause(check_connection(L, 1)));
}

// resume(connection) -> true | nil, message, code
int socket_resume(lua_State* L) {
    return push_status(L, network_of(L).resume(check_connection(L, 1)));
}

// set_max_frame(connection, bytes) -> true | nil, message, code
int socket_set_max_frame(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    const lua_Number bytes = luaL_checknumber(L, 2);
    luaL_argcheck(L, bytes >= 1 && bytes <= 4294967295.0, 2, "bytes from 1 to 2^32 - 1 expected");
    return push_status(L, network_of(L).set_max_frame(id, static_cast<std::uint32_t>(bytes)));
}

// set_idle(connection, ms) -> true | nil, message, code
int socket_set_idle(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    const lua_Number ms = luaL_checknumber(L, 2);
    luaL_argcheck(L, ms >= 0 && ms <= 2147483647.0, 2, "milliseconds from 0 to 2^31 - 1 expected");
    return push_status(L, network_of(L).set_idle_ms(id, static_cast<std::int32_t>(ms)));
}

int push_address(lua_State* L, const Result<Address>& address) {
    if (!address.ok()) return push_error(L, address.status());
    lua_pushstring(L, address.value().host().c_str());
    lua_pushinteger(L, address.value().port);
    return 2;
}

// age(connection) -> ms | nil, message, code
int socket_age(lua_State* L) {
    const Result<std::int64_t> age = network_of(L).age_ms(check_connection(L, 1));
    if (!age.ok()) return push_error(L, age.status());
    lua_pushnumber(L, static_cast<lua_Number>(age.value()));
    return 1;
}

// peer(connection) -> host, port | nil, message, code
int socket_peer(lua_State* L) {
    return push_address(L, network_of(L).peer(check_connection(L, 1)));
}

// local_address(connection) -> host, port | nil, message, code
int socket_local_address(lua_State* L) {
    return push_address(L, network_of(L).local(check_connection(L, 1)));
}

// framing(connection) -> name | nil, message, code
int socket_framing(lua_State* L) {
    const Result<FramingKind> kind = network_of(L).framing(check_connection(L, 1));
    if (!kind.ok()) return push_error(L, kind.status());
    lua_pushstring(L, framing_rule(kind.value()).name);
    return 1;
}

// --- groups ---

// group_create() -> group
int socket_group_create(lua_State* L) {
    const Result<GroupId> group = network_of(L).group_create(self_of(L));
    if (!group.ok()) return misuse(L, "socket.group: %s", group.status().message());
    lua_pushnumber(L, static_cast<lua_Number>(group.value().value));
    return 1;
}

// group_close(group) -> true | nil, message, code
int socket_group_close(lua_State* L) {
    return push_status(L, network_of(L).group_close(check_group(L, 1)));
}

// group_add(group, connection) -> true | nil, message, code
int socket_group_add(lua_State* L) {
    const GroupId group = check_group(L, 1);
    return push_status(L, network_of(L).group_add(group, check_connection(L, 2)));
}

// group_remove(group, connection) -> boolean | nil, message, code
int socket_group_remove(lua_State* L) {
    const GroupId group = check_group(L, 1);
    const Result<bool> removed = network_of(L).group_remove(group, check_connection(L, 2));
    if (!removed.ok()) return push_error(L, removed.status());
    lua_pushboolean(L, removed.value() ? 1 : 0);
    return 1;
}

// group_size(group) -> count | nil, message, code
int socket_group_size(lua_State* L) {
    const Result<std::size_t> size = network_of(L).group_size(check_group(L, 1));
    if (!size.ok()) return push_error(L, size.status());
    lua_pushnumber(L, static_cast<lua_Number>(size.value()));
    return 1;
}

// group_write(group, data, except) -> count | nil, message, code
int socket_group_write(lua_State* L) {
    const GroupId group = check_group(L, 1);
    const std::string_view data = check_bytes(L, 2);
    const ConnectionId except = lua_isnoneornil(L, 3) ? ConnectionId{} : check_connection(L, 3);
    const Result<std::size_t> sent = network_of(L).group_write(group, data, except);
    if (!sent.ok()) return push_error(L, sent.status());
    lua_pushnumber(L, static_cast<lua_Number>(sent.value()));
    return 1;
}

// --- what the library keeps ---

// The key of the library's own table among a service's event handlers.
constexpr const char* kStateKey = "socket state";

// state() -> table | nil: what set_state() was given by the running service. Libraries are
// shared by the light services of a VM, so they keep nothing of a service themselves.
int socket_state(lua_State* L) {
    const Service& service = Vm::of(L).service(L);
    if (service.events == LUA_NOREF) return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.events);
    lua_getfield(L, -1, kStateKey);
    return 1;
}

// set_state(table), after core.on_event()
int socket_set_state(lua_State* L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    const Service& service = Vm::of(L).service(L);
    if (service.events == LUA_NOREF) return luaL_error(L, "set_state: on_event first");
    lua_rawgeti(L, LUA_REGISTRYINDEX, service.events);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, kStateKey);
    return 0;
}

// stats() -> table: the node's counters
int socket_stats(lua_State* L) {
    lua_newtable(L);
    network_of(L).counters().each([L](const char* name, std::uint64_t value) {
        lua_pushnumber(L, static_cast<lua_Number>(value));
        lua_setfield(L, -2, name);
    });
    return 1;
}

const luaL_Reg kFunctions[] = {
    {"listen", socket_listen},
    {"close_listener", socket_close_listener},
    {"reload_certificate", socket_reload_certificate},
    {"connect", socket_connect},
    {"write", socket_write},
    {"write_text", socket_write_text},
    {"write_raw", socket_write_raw},
    {"write_many", socket_write_many},
    {"unsent", socket_unsent},
    {"notify_drained", socket_notify_drained},
    {"close", socket_close},
    {"abort", socket_abort},
    {"upgrade", socket_upgrade},
    {"close_websocket", socket_close_websocket},
    {"hand_over", socket_hand_over},
    {"pause", socket_pause},
    {"resume", socket_resume},
    {"set_max_frame", socket_set_max_frame},
    {"set_idle", socket_set_idle},
    {"age", socket_age},
    {"peer", socket_peer},
    {"local_address", socket_local_address},
    {"framing", socket_framing},
    {"group_create", socket_group_create},
    {"group_close", socket_group_close},
    {"group_add", socket_group_add},
    {"group_remove", socket_group_remove},
    {"group_size", socket_group_size},
    {"group_write", socket_group_write},
    {"state", socket_state},
    {"set_state", socket_set_state},
    {"stats", socket_stats},
    {nullptr, nullptr},
};

}  // namespace

ConnectionId check_connection(lua_State* L, int index) {
    return {check_id(L, index, "a connection expected")};
}

StreamOptions check_stream_options(lua_State* L, int index, const char* function) {
    StreamOptions stream;
    OwnOptions own;
    read_options(L, index, function, kConnectOptions, own, stream);
    return stream;
}

void push_socket_library(lua_State* L) {
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
