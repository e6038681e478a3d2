#include "lua/lua_packet.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "core/utf8.h"
#include "lua/packet_body.h"
#include "lua/packet_codec.h"

namespace perilune {
namespace {

constexpr double kMaxExact = 9007199254740992.0;  // 2^53
constexpr std::size_t kMaxUids = 65535;

std::string_view check_string(lua_State* L, int index) {
    std::size_t size = 0;
    const char* text = luaL_checklstring(L, index, &size);
    return {text, size};
}

bool is_integer(double value) { return value == std::floor(value) && std::isfinite(value); }

double check_integer(lua_State* L, int index, double first, double last) {
    const double value = luaL_checknumber(L, index);
    if (!is_integer(value) || value < first || value > last) {
        luaL_argerror(L, index, lua_pushfstring(L, "not an integer from %f to %f", first, last));
    }
    return value;
}

int push_fault(lua_State* L, const char* message) {
    lua_pushnil(L);
    lua_pushstring(L, message);
    lua_pushliteral(L, "malformed");
    return 3;
}

template <typename T>
void append(std::string& out, T value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out.append(bytes, sizeof value);
}

// A text for Lua. The string that it was is gone when the error leaves.
int raise(lua_State* L, const std::string& text) {
    luaL_where(L, 1);
    lua_pushlstring(L, text.data(), text.size());
    lua_concat(L, 2);
    return lua_error(L);
}

int push_fault(lua_State* L, const std::string& text, const char* code = "malformed") {
    lua_pushnil(L);
    lua_pushlstring(L, text.data(), text.size());
    lua_pushstring(L, code);
    return 3;
}

const char* fault_code(BodyFault fault) {
    return fault == BodyFault::malformed ? "malformed" : "invalid_params";
}

// ---- codecs ----

// The codec at `index` or, where that may be, none. Pushes the names of its fields.
PacketFields check_fields(lua_State* L, int index, bool may_lack = false) {
    PacketFields fields;
    if (!may_lack || !lua_isnoneornil(L, index)) {
        fields.codec = PacketCodec::at(L, index);
        if (fields.codec == nullptr) luaL_argerror(L, index, "a codec expected");
    }
    luaL_checkstack(L, kPacketStack, "body of a packet");
    if (fields.codec == nullptr) return fields;
    PacketCodec::push_names(L, index);
    fields.names = lua_gettop(L);
    return fields;
}

// packet.compile(description, name) -> codec
int packet_compile(lua_State* L) {
    luaL_checkany(L, 1);
    const std::string_view name = check_string(L, 2);
    lua_pushvalue(L, 1);
    PacketCodec::compile(L, name);
    return 1;
}

int push_written(lua_State* L,
                 bool (*write)(lua_State*, const PacketFields&, PayloadWriter&, std::string&)) {
    lua_settop(L, 2);
    const PacketFields fields = check_fields(L, 1);
    lua_pushvalue(L, 2);
    PayloadWriter out;
    std::string fault;
    if (!write(L, fields, out, fault)) return raise(L, fault);
    lua_pushlstring(L, out.data(), out.size());
    return 1;
}

// codec:encode(value) -> bytes
int codec_encode(lua_State* L) { return push_written(L, write_buf); }

// codec:to_json(value) -> text
int codec_to_json(lua_State* L) { return push_written(L, write_json); }

// codec:decode(bytes) -> value | nil, message, code
int codec_decode(lua_State* L) {
    lua_settop(L, 2);
    const std::string_view bytes = check_string(L, 2);
    std::string fault;
    return read_buf(L, check_fields(L, 1), bytes, fault) ? 1 : push_fault(L, fault);
}

// codec:from_json(text) -> value | nil, message, code
int codec_from_json(lua_State* L) {
    lua_settop(L, 2);
    const std::string_view text = check_string(L, 2);
    std::string fault;
    const BodyFault outcome = read_json(L, check_fields(L, 1), text, fault);
    return outcome == BodyFault::none ? 1 : push_fault(L, fault, fault_code(outcome));
}

// ---- packets ----

// packet.header(data) -> stype, ctype, utag, proto_type | nil, message, code
int packet_header(lua_State* L) {
    const auto header = read_header(check_string(L, 1));
    if (!header) return push_fault(L, "packet is shorter than its header");
    lua_pushinteger(L, header->stype);
    lua_pushinteger(L, header->ctype);
    lua_pushnumber(L, header->utag);
    lua_pushinteger(L, header->form);
    return 4;
}

std::string_view check_packet(lua_State* L, int index) {
    const std::string_view data = check_string(L, index);
    luaL_argcheck(L, data.size() >= kPacketHeader, index, "packet is shorter than its header");
    return data;
}

PacketHeader check_header(lua_State* L, int first) {
    PacketHeader header;
    header.stype = static_cast<std::int16_t>(check_integer(L, first, -32768, 32767));
    header.ctype = static_cast<std::int16_t>(check_integer(L, first + 1, -32768, 32767));
    header.utag = static_cast<std::uint32_t>(check_integer(L, first + 2, 0, 4294967295.0));
    header.form = static_cast<std::int16_t>(check_integer(L, first + 3, -32768, 32767));
    return header;
}

// packet.make(stype, ctype, utag, proto_type, body) -> data
int packet_make(lua_State* L) {
    const PacketHeader header = check_header(L, 1);
    const std::string_view body = check_string(L, 5);
    luaL_argcheck(L, body.size() <= kMaxPacketBody, 5, "body is larger than 65523 bytes");
    std::string data(kPacketHeader, '\0');
    write_header(data.data(), header);
    data += body;
    lua_pushlstring(L, data.data(), data.size());
    return 1;
}

// packet.encode(codec, stype, ctype, utag, proto_type, value, request_id) -> data
int packet_encode(lua_State* L) {
    lua_settop(L, 7);
    const PacketHeader header = check_header(L, 2);
    const std::uint64_t request_id =
        lua_isnil(L, 7) ? 0 : static_cast<std::uint64_t>(check_integer(L, 7, 1, kMaxExact));
    const PacketFields fields = check_fields(L, 1, true);
    lua_pushvalue(L, 6);
    PayloadWriter out;
    write_header(out.reserve(kPacketHeader), header);
    out.advance(kPacketHeader);
    std::string fault;
    if (!write_body(L, fields, header.form, request_id, out, fault)) return raise(L, fault);
    lua_pushlstring(L, out.data(), out.size());
    return 1;
}

// packet.decode(codec, data, takes_nothing) -> true, value, request_id
//                                            | false, message, code, request_id
int packet_decode(lua_State* L) {
    lua_settop(L, 3);
    const std::string_view data = check_packet(L, 2);
    PacketFields fields = check_fields(L, 1, true);
    fields.takes_nothing = lua_toboolean(L, 3) != 0;
    lua_pushboolean(L, 1);
    std::uint64_t request_id = 0;
    std::string fault;
    const BodyFault outcome = read_body(L, fields, read_header(data)->form,
                                        data.substr(kPacketHeader), request_id, fault);
    if (outcome != BodyFault::none) {
        push_fault(L, fault, fault_code(outcome));
        lua_pushboolean(L, 0);
        lua_replace(L, -4);
    }
    if (request_id != 0) {
        lua_pushnumber(L, static_cast<lua_Number>(request_id));
    } else {
        lua_pushnil(L);
    }
    return outcome == BodyFault::none ? 3 : 4;
}

// packet.request_id(data) -> request_id | nil
int packet_request_id(lua_State* L) {
    const std::string_view data = check_string(L, 1);
    const auto header = read_header(data);
    const bool is_json = header && header->form == kJsonForm;
    const std::uint64_t id = is_json ? read_request_id(data.substr(kPacketHeader)) : 0;
    if (id == 0) return 0;
    lua_pushnumber(L, static_cast<lua_Number>(id));
    return 1;
}

// packet.restamp(data, utag) -> data
int packet_restamp(lua_State* L) {
    const std::string_view data = check_packet(L, 1);
    const auto utag = static_cast<std::uint32_t>(check_integer(L, 2, 0, 4294967295.0));
    std::string stamped(data);
    write_utag(stamped.data(), utag);
    lua_pushlstring(L, stamped.data(), stamped.size());
    return 1;
}

// packet.body(data) -> bytes
int packet_body(lua_State* L) {
    const std::string_view data = check_packet(L, 1).substr(kPacketHeader);
    lua_pushlstring(L, data.data(), data.size());
    return 1;
}

// packet.wrap_json(value, request_id) -> body
int packet_wrap_json(lua_State* L) {
    const std::string_view value = check_string(L, 1);
    std::string text = "{\"0\":";
    text += value;
    if (!lua_isnoneornil(L, 2)) {
        char digits[32];
        const double id = check_integer(L, 2, 1, kMaxExact);
        std::snprintf(digits, sizeof digits, ",\"1\":%.0f", id);
        text += digits;
    }
    text += '}';
    luaL_argcheck(L, text.size() + 2 <= kMaxPacketBody, 1, "body is larger than 65523 bytes");
    std::string body;
    append(body, static_cast<std::uint16_t>(text.size()));
    body += text;
    lua_pushlstring(L, body.data(), body.size());
    return 1;
}

// packet.wrap_broadcast(data, uids) -> body
int packet_wrap_broadcast(lua_State* L) {
    const std::string_view data = check_packet(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    const std::size_t count = lua_objlen(L, 2);
    luaL_argcheck(L, data.size() <= kMaxPacket, 1, "packet is larger than 65533 bytes");
    luaL_argcheck(L, count <= kMaxUids, 2, "more than 65535 users");
    std::string body;
    body.reserve(4 + data.size() + 4 * count);
    append(body, static_cast<std::uint16_t>(data.size()));
    body += data;
    append(body, static_cast<std::uint16_t>(count));
    for (std::size_t i = 1; i <= count; ++i) {
        lua_rawgeti(L, 2, static_cast<int>(i));
        const double uid = lua_tonumber(L, -1);
        if (!lua_isnumber(L, -1) || !is_integer(uid) || uid < 0 || uid > 4294967295.0) {
            return luaL_argerror(L, 2, "not a list of uids");
        }
        append(body, static_cast<std::uint32_t>(uid));
        lua_pop(L, 1);
    }
    lua_pushlstring(L, body.data(), body.size());
    return 1;
}

// packet.unwrap_broadcast(body) -> data, uids | nil, message, code
int packet_unwrap_broadcast(lua_State* L) {
    const Result<Broadcast> broadcast = read_broadcast(check_string(L, 1));
    if (!broadcast.ok()) return push_fault(L, broadcast.status().message());
    const std::string_view packet = broadcast.value().packet;
    lua_pushlstring(L, packet.data(), packet.size());
    const std::size_t count = broadcast.value().count();
    lua_createtable(L, static_cast<int>(count), 0);
    for (std::size_t i = 0; i < count; ++i) {
        lua_pushnumber(L, broadcast.value().uid(i));
        lua_rawseti(L, -2, static_cast<int>(i + 1));
    }
    return 2;
}

// packet.is_utf8(text) -> boolean
int packet_is_utf8(lua_State* L) {
    lua_pushboolean(L, is_utf8(check_string(L, 1)));
    return 1;
}

constexpr luaL_Reg kCodecMethods[] = {{"encode", codec_encode},
                                      {"decode", codec_decode},
                                      {"to_json", codec_to_json},
                                      {"from_json", codec_from_json},
                                      {nullptr, nullptr}};

constexpr luaL_Reg kFunctions[] = {{"compile", packet_compile},
                                   {"header", packet_header},
                                   {"make", packet_make},
                                   {"encode", packet_encode},
                                   {"decode", packet_decode},
                                   {"request_id", packet_request_id},
                                   {"restamp", packet_restamp},
                                   {"body", packet_body},
                                   {"wrap_json", packet_wrap_json},
                                   {"wrap_broadcast", packet_wrap_broadcast},
                                   {"unwrap_broadcast", packet_unwrap_broadcast},
                                   {"is_utf8", packet_is_utf8},
                                   {nullptr, nullptr}};

}  // namespace

void push_packet_library(lua_State* L) {
    PacketCodec::push_metatable(L);
    lua_newtable(L);
    luaL_setfuncs(L, kCodecMethods, 0);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
