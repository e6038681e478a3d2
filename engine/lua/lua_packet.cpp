#include "lua/lua_packet.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "core/utf8.h"

namespace perilune {
namespace {

// DESIGN
// A message is compiled once into a tree of nodes (Codec). Four walkers follow the tree: BufWriter
// and JsonWriter read a Lua value and append bytes, BufReader and Acceptor push a new Lua value.
// A walker that fails says why once and builds the path to the field while it returns.

constexpr double kMaxExact = 9007199254740992.0;  // 2^53
constexpr std::size_t kMaxList = 65535;
constexpr std::size_t kMaxString = 65535;
constexpr int kMaxDepth = 16;
constexpr std::size_t kMaxNodes = 4096;
constexpr const char* kCodecType = "perilune.packet.codec";

enum class Type : std::uint8_t {
    i8,
    i16,
    i32,
    i64,
    u8,
    u16,
    u32,
    u64,
    f32,
    f64,
    boolean,
    string,
    bytes,
    list,
    record
};

// By Type; lists and records have no name.
constexpr std::array<std::string_view, 13> kTypeNames = {
    "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "bool", "string", "bytes"};

struct Range {
    double first;
    double last;
};

// Of the integers below 64 bits, by Type.
constexpr std::array<Range, 8> kRanges = {{{-128, 127},
                                           {-32768, 32767},
                                           {-2147483648.0, 2147483647.0},
                                           {-kMaxExact, kMaxExact},
                                           {0, 255},
                                           {0, 65535},
                                           {0, 4294967295.0},
                                           {0, kMaxExact}}};

struct Node {
    Type type = Type::record;
    bool is_optional = false;
    std::uint16_t name_size = 0;    // of a field
    std::uint32_t name_at = 0;      // in the codec's names
    std::uint32_t first_child = 0;  // of a list its item, of a record its fields
    std::uint32_t child_count = 0;
    std::uint32_t min_size = 0;  // bytes that its BUF form has at least
};

// A userdata in one block, so that nothing has to be freed with it: this, its nodes, its names.
struct Codec {
    std::uint32_t node_count;
    std::uint32_t title_at;  // name of the message, for errors

    const Node* nodes() const { return reinterpret_cast<const Node*>(this + 1); }
    const Node& root() const { return nodes()[0]; }
    const Node* children(const Node& node) const { return nodes() + node.first_child; }
    const char* names() const { return reinterpret_cast<const char*>(nodes() + node_count); }
    const char* title() const { return names() + title_at; }
    std::string_view name(const Node& field) const {
        return {names() + field.name_at, field.name_size};
    }
};

std::string_view string_at(lua_State* L, int index) {
    std::size_t size = 0;
    const char* text = lua_tolstring(L, index, &size);
    return {text, size};
}

std::string_view check_string(lua_State* L, int index) {
    std::size_t size = 0;
    const char* text = luaL_checklstring(L, index, &size);
    return {text, size};
}

constexpr bool is_exact(std::int64_t value) {
    return value >= -static_cast<std::int64_t>(kMaxExact) &&
           value <= static_cast<std::int64_t>(kMaxExact);
}

constexpr bool is_exact(std::uint64_t value) {
    return value <= static_cast<std::uint64_t>(kMaxExact);
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

// ---- text ----

void append_json_string(std::string& out, std::string_view text) {
    out += '"';
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", c);
            out += escape;
        } else {
            out += c;
        }
    }
    out += '"';
}

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void append_base64(std::string& out, std::string_view bytes) {
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t word = 0;
        const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
        for (std::size_t k = 0; k < 3; ++k) {
            word = word << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0);
        }
        for (std::size_t k = 0; k < 4; ++k) {
            out += k <= count ? kBase64[word >> (18 - 6 * k) & 63] : '=';
        }
    }
}

bool read_base64(std::string_view text, std::string& out) {
    if (text.size() % 4 != 0) return false;
    std::size_t padding = 0;
    while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') {
        ++padding;
    }
    for (std::size_t i = 0; i < text.size(); i += 4) {
        const std::size_t digits = i + 4 == text.size() ? 4 - padding : 4;
        std::uint32_t word = 0;
        for (std::size_t k = 0; k < 4; ++k) {
            const std::size_t digit = k < digits ? kBase64.find(text[i + k]) : 0;
            if (digit == std::string_view::npos) return false;
            word = word << 6 | static_cast<std::uint32_t>(digit);
        }
        for (std::size_t k = 0; k + 1 < digits; ++k) {
            out += static_cast<char>(word >> (16 - 8 * k) & 255);
        }
    }
    return true;
}

// ---- walkers ----

// What all walkers share. Functions return false after a failure, with the stack unspecified.
struct Walker {
    lua_State* L;
    const Codec& codec;
    std::string reason = {};
    std::string path = {};

    [[gnu::cold, gnu::noinline]] bool fail(const char* format, ...)
        __attribute__((format(printf, 2, 3))) {
        char text[160];
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        reason = text;
        return false;
    }

    [[gnu::cold, gnu::noinline]] bool fail_in_field(const Node& field) {
        path.insert(0, codec.name(field));
        path.insert(0, 1, '.');
        return false;
    }

    [[gnu::cold, gnu::noinline]] bool fail_in_item(std::size_t position) {
        path.insert(0, "[" + std::to_string(position) + "]");
        return false;
    }

    [[gnu::cold, gnu::noinline]] bool wrong_type(const char* wanted, int index) {
        const bool is_null = lua_islightuserdata(L, index) && lua_touserdata(L, index) == nullptr;
        return fail("is not %s but %s", wanted, is_null ? "null" : luaL_typename(L, index));
    }

    // "talkroom.enter: field uname is not a string but nil"
    void push_message() const {
        const char* field = path.empty() ? "" : path.c_str() + (path[0] == '.' ? 1 : 0);
        lua_pushfstring(L, "%s: %s%s %s", codec.title(), path.empty() ? "it" : "field ", field,
                        reason.c_str());
    }

    int raise() const {
        push_message();
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
        return lua_error(L);
    }

    int push_malformed() const {
        lua_pushnil(L);
        push_message();
        lua_pushliteral(L, "malformed");
        return 3;
    }

    // ---- Lua values that are checked against a node ----

    bool integer(const Node& node, int index, double& value) {
        const auto type = static_cast<std::size_t>(node.type);
        if (lua_type(L, index) != LUA_TNUMBER) return wrong_type("an integer", index);
        value = lua_tonumber(L, index);
        if (!is_integer(value)) return fail("is not an integer but %.17g", value);
        if (value < kRanges[type].first || value > kRanges[type].last) {
            return fail("is out of the range of %s: %.17g", kTypeNames[type].data(), value);
        }
        return true;
    }

    // A number up to 2^53, or decimal digits. The bits of i64 and u64.
    bool integer64(const Node& node, int index, std::uint64_t& bits) {
        if (lua_type(L, index) != LUA_TSTRING) {
            double value = 0;
            if (!integer(node, index, value)) return false;
            bits = node.type == Type::u64
                       ? static_cast<std::uint64_t>(value)
                       : static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
            return true;
        }
        const std::string_view text = string_at(L, index);
        std::int64_t value = 0;
        const char* const end = text.data() + text.size();
        const auto [stop, error] = node.type == Type::u64
                                       ? std::from_chars(text.data(), end, bits)
                                       : std::from_chars(text.data(), end, value);
        if (error == std::errc::result_out_of_range) {
            return fail("is out of the range of %s",
                        kTypeNames[static_cast<std::size_t>(node.type)].data());
        }
        if (error != std::errc() || stop != end) return fail("is not an integer but a string");
        if (node.type == Type::i64) bits = static_cast<std::uint64_t>(value);
        return true;
    }

    bool real(const Node& node, int index, double& value) {
        if (lua_type(L, index) != LUA_TNUMBER) return wrong_type("a number", index);
        value = lua_tonumber(L, index);
        if (!std::isfinite(value)) return fail("is not a finite number");
        if (node.type == Type::f32 && !std::isfinite(static_cast<float>(value))) {
            return fail("is out of the range of f32: %.17g", value);
        }
        return true;
    }

    bool boolean(int index, bool& value) {
        if (!lua_isboolean(L, index)) return wrong_type("a boolean", index);
        value = lua_toboolean(L, index) != 0;
        return true;
    }

    bool text(int index, std::string_view& value) {
        if (lua_type(L, index) != LUA_TSTRING) return wrong_type("a string", index);
        value = string_at(L, index);
        if (value.size() > kMaxString) return fail("is %zu bytes, 65535 at most", value.size());
        if (!is_utf8(value)) return fail("is not UTF-8");
        return true;
    }

    bool raw(int index, std::string_view& value) {
        if (lua_type(L, index) != LUA_TSTRING) return wrong_type("a string", index);
        value = string_at(L, index);
        if (value.size() > kMaxPacketBody) {
            return fail("is %zu bytes, %zu at most", value.size(), kMaxPacketBody);
        }
        return true;
    }

    bool list(int index, std::size_t& count) {
        if (!lua_istable(L, index)) return wrong_type("a list", index);
        count = lua_objlen(L, index);
        if (count > kMaxList) return fail("has %zu items, 65535 at most", count);
        if (count != 0) return true;
        lua_pushnil(L);
        if (lua_next(L, index) == 0) return true;
        return fail("is not a list but a table with keys");
    }

    bool record(int index) { return lua_istable(L, index) || wrong_type("a table", index); }

    void push_name(const Node& field) {
        const std::string_view name = codec.name(field);
        lua_pushlstring(L, name.data(), name.size());
    }

    // Pushes a field of the record at `index`; nil for NULL, which JSON's null is.
    void push_field(const Node& field, int index) {
        push_name(field);
        lua_rawget(L, index);
        if (lua_islightuserdata(L, -1) && lua_touserdata(L, -1) == nullptr) {
            lua_pop(L, 1);
            lua_pushnil(L);
        }
    }
};

// Appends the BUF form of values.
struct BufWriter : Walker {
    std::string out = {};

    // The value on top of the stack.
    bool value(const Node& node) {
        const int index = lua_gettop(L);
        double number = 0;
        std::uint64_t bits = 0;
        bool flag = false;
        std::string_view bytes;
        switch (node.type) {
            case Type::i8:
            case Type::u8:
            case Type::i16:
            case Type::u16:
            case Type::i32:
            case Type::u32:
                if (!integer(node, index, number)) return false;
                append_integer(node.type, static_cast<std::int64_t>(number));
                break;
            case Type::i64:
            case Type::u64:
                if (!integer64(node, index, bits)) return false;
                append(out, bits);
                break;
            case Type::f32:
                if (!real(node, index, number)) return false;
                append(out, static_cast<float>(number));
                break;
            case Type::f64:
                if (!real(node, index, number)) return false;
                append(out, number);
                break;
            case Type::boolean:
                if (!boolean(index, flag)) return false;
                out += flag ? '\1' : '\0';
                break;
            case Type::string:
                if (!text(index, bytes)) return false;
                append(out, static_cast<std::uint16_t>(bytes.size()));
                out += bytes;
                break;
            case Type::bytes:
                if (!raw(index, bytes)) return false;
                append(out, static_cast<std::uint32_t>(bytes.size()));
                out += bytes;
                break;
            case Type::list: return list_of(node, index) && check_size();
            case Type::record: return record_of(node, index);
        }
        return check_size();
    }

    bool check_size() {
        if (out.size() <= kMaxPacketBody) return true;
        return fail("makes the body larger than %zu bytes", kMaxPacketBody);
    }

    void append_integer(Type type, std::int64_t number) {
        const int size = type == Type::i8 || type == Type::u8     ? 1
                         : type == Type::i16 || type == Type::u16 ? 2
                                                                  : 4;
        char bytes[sizeof number];
        std::memcpy(bytes, &number, sizeof number);
        out.append(bytes, size);
    }

    bool list_of(const Node& node, int index) {
        std::size_t count = 0;
        if (!list(index, count)) return false;
        append(out, static_cast<std::uint16_t>(count));
        for (std::size_t i = 1; i <= count; ++i) {
            lua_rawgeti(L, index, static_cast<int>(i));
            if (!value(codec.children(node)[0])) return fail_in_item(i);
            lua_settop(L, index);
        }
        return true;
    }

    bool record_of(const Node& node, int index) {
        if (!record(index)) return false;
        for (std::uint32_t i = 0; i < node.child_count; ++i) {
            const Node& field = codec.children(node)[i];
            push_field(field, index);
            if (field.is_optional && lua_isnil(L, -1)) {
                zero(field);
            } else if (!value(field)) {
                return fail_in_field(field);
            }
            lua_settop(L, index);
        }
        return true;
    }

    // What an optional field that isn't there looks like: zero, empty. All types begin with that
    // many zero bytes.
    void zero(const Node& node) { out.append(node.min_size, '\0'); }
};

// Appends the JSON form of values, fields in the order of their declaration.
struct JsonWriter : Walker {
    std::string out = {};

    // The value on top of the stack.
    bool value(const Node& node) {
        const int index = lua_gettop(L);
        double number = 0;
        std::uint64_t bits = 0;
        bool flag = false;
        std::string_view bytes;
        switch (node.type) {
            case Type::i8:
            case Type::u8:
            case Type::i16:
            case Type::u16:
            case Type::i32:
            case Type::u32:
                if (!integer(node, index, number)) return false;
                append_number(static_cast<std::int64_t>(number));
                break;
            case Type::i64:
                if (!integer64(node, index, bits)) return false;
                append_big(static_cast<std::int64_t>(bits));
                break;
            case Type::u64:
                if (!integer64(node, index, bits)) return false;
                append_big(bits);
                break;
            case Type::f32:
                if (!real(node, index, number)) return false;
                append_number(static_cast<float>(number));
                break;
            case Type::f64:
                if (!real(node, index, number)) return false;
                append_number(number);
                break;
            case Type::boolean:
                if (!boolean(index, flag)) return false;
                out += flag ? "true" : "false";
                break;
            case Type::string:
                if (!text(index, bytes)) return false;
                append_json_string(out, bytes);
                break;
            case Type::bytes:
                if (!raw(index, bytes)) return false;
                out += '"';
                append_base64(out, bytes);
                out += '"';
                break;
            case Type::list: return list_of(node, index) && check_size();
            case Type::record: return record_of(node, index);
        }
        return check_size();
    }

    bool check_size() {
        if (out.size() <= kMaxPacketBody) return true;
        return fail("makes the body larger than %zu bytes", kMaxPacketBody);
    }

    template <typename T>
    void append_number(T number) {
        char digits[40];
        out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
    }

    // Beyond 2^53 a decimal string, since JavaScript's numbers end there, too.
    template <typename T>
    void append_big(T number) {
        if (!is_exact(number)) out += '"';
        append_number(number);
        if (!is_exact(number)) out += '"';
    }

    bool list_of(const Node& node, int index) {
        std::size_t count = 0;
        if (!list(index, count)) return false;
        out += '[';
        for (std::size_t i = 1; i <= count; ++i) {
            if (i > 1) out += ',';
            lua_rawgeti(L, index, static_cast<int>(i));
            if (!value(codec.children(node)[0])) return fail_in_item(i);
            lua_settop(L, index);
        }
        out += ']';
        return true;
    }

    bool record_of(const Node& node, int index) {
        if (!record(index)) return false;
        out += '{';
        bool is_first = true;
        for (std::uint32_t i = 0; i < node.child_count; ++i) {
            const Node& field = codec.children(node)[i];
            push_field(field, index);
            if (!field.is_optional || !lua_isnil(L, -1)) {
                if (!is_first) out += ',';
                is_first = false;
                append_json_string(out, codec.name(field));
                out += ':';
                if (!value(field)) return fail_in_field(field);
            }
            lua_settop(L, index);
        }
        out += '}';
        return true;
    }
};

// Pushes what an optional field is that isn't there.
void push_zero(lua_State* L, const Codec& codec, const Node& node) {
    switch (node.type) {
        case Type::boolean: lua_pushboolean(L, 0); return;
        case Type::string:
        case Type::bytes: lua_pushliteral(L, ""); return;
        case Type::list: lua_newtable(L); return;
        case Type::record:
            lua_createtable(L, 0, static_cast<int>(node.child_count));
            for (std::uint32_t i = 0; i < node.child_count; ++i) {
                const Node& field = codec.children(node)[i];
                const std::string_view name = codec.name(field);
                lua_pushlstring(L, name.data(), name.size());
                push_zero(L, codec, field);
                lua_rawset(L, -3);
            }
            return;
        default: lua_pushnumber(L, 0);
    }
}

// Pushes a number up to 2^53, and beyond that its digits.
template <typename T>
void push_integer64(lua_State* L, T value) {
    if (is_exact(value)) {
        lua_pushnumber(L, static_cast<double>(value));
        return;
    }
    char digits[24];
    const char* end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    lua_pushlstring(L, digits, static_cast<std::size_t>(end - digits));
}

// Checks what JSON gave and pushes a copy that has exactly the fields of the message: what a BUF
// body of the same content is decoded to.
struct Acceptor : Walker {
    bool value(const Node& node, int index) {
        double number = 0;
        std::uint64_t bits = 0;
        bool flag = false;
        std::string_view bytes;
        switch (node.type) {
            case Type::i8:
            case Type::u8:
            case Type::i16:
            case Type::u16:
            case Type::i32:
            case Type::u32:
                if (!integer(node, index, number)) return false;
                lua_pushnumber(L, number);
                return true;
            case Type::i64:
                if (!integer64(node, index, bits)) return false;
                push_integer64(L, static_cast<std::int64_t>(bits));
                return true;
            case Type::u64:
                if (!integer64(node, index, bits)) return false;
                push_integer64(L, bits);
                return true;
            case Type::f32:
                if (!real(node, index, number)) return false;
                lua_pushnumber(L, static_cast<float>(number));
                return true;
            case Type::f64:
                if (!real(node, index, number)) return false;
                lua_pushnumber(L, number);
                return true;
            case Type::boolean:
                if (!boolean(index, flag)) return false;
                lua_pushboolean(L, flag);
                return true;
            case Type::string:
                if (!text(index, bytes)) return false;
                lua_pushvalue(L, index);
                return true;
            case Type::bytes: return bytes_of(index);
            case Type::list: return list_of(node, index);
            case Type::record: return record_of(node, index);
        }
        return fail("has an unknown type");
    }

    bool bytes_of(int index) {
        std::string_view encoded;
        std::string bytes;
        if (!raw(index, encoded)) return false;
        if (!read_base64(encoded, bytes)) return fail("is not base64");
        lua_pushlstring(L, bytes.data(), bytes.size());
        return true;
    }

    bool list_of(const Node& node, int index) {
        std::size_t count = 0;
        if (!list(index, count)) return false;
        lua_createtable(L, static_cast<int>(count), 0);
        const int copy = lua_gettop(L);
        for (std::size_t i = 1; i <= count; ++i) {
            lua_rawgeti(L, index, static_cast<int>(i));
            if (!value(codec.children(node)[0], copy + 1)) return fail_in_item(i);
            lua_rawseti(L, copy, static_cast<int>(i));
            lua_settop(L, copy);
        }
        return true;
    }

    bool record_of(const Node& node, int index) {
        if (!record(index)) return false;
        lua_createtable(L, 0, static_cast<int>(node.child_count));
        const int copy = lua_gettop(L);
        for (std::uint32_t i = 0; i < node.child_count; ++i) {
            const Node& field = codec.children(node)[i];
            push_name(field);
            push_field(field, index);
            if (field.is_optional && lua_isnil(L, -1)) {
                push_zero(L, codec, field);
            } else if (!value(field, copy + 2)) {
                return fail_in_field(field);
            }
            lua_replace(L, copy + 2);
            lua_settop(L, copy + 2);
            lua_rawset(L, copy);
        }
        return true;
    }
};

// Pushes the value of a BUF body.
struct BufReader : Walker {
    const char* cursor = nullptr;
    const char* end = nullptr;

    std::size_t left() const { return static_cast<std::size_t>(end - cursor); }

    bool value(const Node& node) {
        if (left() < node.min_size) return fail("is cut off");
        switch (node.type) {
            case Type::i8: return integer<std::int8_t>();
            case Type::i16: return integer<std::int16_t>();
            case Type::i32: return integer<std::int32_t>();
            case Type::u8: return integer<std::uint8_t>();
            case Type::u16: return integer<std::uint16_t>();
            case Type::u32: return integer<std::uint32_t>();
            case Type::i64: push_integer64(L, take<std::int64_t>()); return true;
            case Type::u64: push_integer64(L, take<std::uint64_t>()); return true;
            case Type::f32: return finite(take<float>());
            case Type::f64: return finite(take<double>());
            case Type::boolean: return flag(take<std::uint8_t>());
            case Type::string: return text(take<std::uint16_t>());
            case Type::bytes: return bytes(take<std::uint32_t>());
            case Type::list: return list_of(node);
            case Type::record: return record_of(node);
        }
        return fail("has an unknown type");
    }

    // min_size has been checked.
    template <typename T>
    T take() {
        const T value = load_little<T>(cursor);
        cursor += sizeof(T);
        return value;
    }

    template <typename T>
    bool integer() {
        lua_pushnumber(L, static_cast<double>(take<T>()));
        return true;
    }

    bool finite(double number) {
        if (!std::isfinite(number)) return fail("is not a finite number");
        lua_pushnumber(L, number);
        return true;
    }

    bool flag(unsigned value) {
        if (value > 1) return fail("is not a boolean but %u", value);
        lua_pushboolean(L, static_cast<int>(value));
        return true;
    }

    bool bytes(std::size_t size) {
        if (left() < size) return fail("is cut off: %zu of %zu bytes", left(), size);
        lua_pushlstring(L, cursor, size);
        cursor += size;
        return true;
    }

    bool text(std::size_t size) {
        if (left() >= size && !is_utf8({cursor, size})) return fail("is not UTF-8");
        return bytes(size);
    }

    bool list_of(const Node& node) {
        const std::size_t count = take<std::uint16_t>();
        const Node& item = codec.children(node)[0];
        if (left() / item.min_size < count) return fail("is cut off: %zu items", count);
        lua_createtable(L, static_cast<int>(count), 0);
        for (std::size_t i = 1; i <= count; ++i) {
            if (!value(item)) return fail_in_item(i);
            lua_rawseti(L, -2, static_cast<int>(i));
        }
        return true;
    }

    bool record_of(const Node& node) {
        lua_createtable(L, 0, static_cast<int>(node.child_count));
        for (std::uint32_t i = 0; i < node.child_count; ++i) {
            const Node& field = codec.children(node)[i];
            push_name(field);
            if (!value(field)) return fail_in_field(field);
            lua_rawset(L, -3);
        }
        return true;
    }
};

// ---- codecs ----

// Compiles the description on top of the stack. Raises for a wrong one.
class Compiler {
  public:
    Compiler(lua_State* state, std::string_view title) : L(state), names_(title) { names_ += '\0'; }

    // Pops the description and pushes the codec.
    void compile() {
        nodes_.resize(1);
        node(0, 0);
        const std::size_t size = nodes_.size() * sizeof(Node);
        auto* codec = static_cast<Codec*>(lua_newuserdata(L, sizeof(Codec) + size + names_.size()));
        codec->node_count = static_cast<std::uint32_t>(nodes_.size());
        codec->title_at = 0;
        char* const bytes = reinterpret_cast<char*>(codec + 1);
        std::memcpy(bytes, nodes_.data(), size);
        std::memcpy(bytes + size, names_.data(), names_.size());
        luaL_getmetatable(L, kCodecType);
        lua_setmetatable(L, -2);
    }

  private:
    [[gnu::cold, gnu::noinline]] void raise(const char* text) {
        luaL_error(L, "%s: %s", names_.c_str(), text);
    }

    // Pops the description. Nodes are named by position since the vector grows.
    void node(std::size_t at, int depth) {
        if (depth > kMaxDepth) raise("nested too deep");
        luaL_checkstack(L, 8, "description of a message");
        if (lua_type(L, -1) == LUA_TSTRING) {
            primitive(at);
        } else if (lua_istable(L, -1)) {
            lua_getfield(L, -1, "list");
            if (lua_isnil(L, -1)) {
                lua_pop(L, 1);
                record(at, depth);
            } else {
                list(at, depth);
            }
        } else {
            raise("a type is a name, a list of fields or {list = type}");
        }
        lua_pop(L, 1);
    }

    void primitive(std::size_t at) {
        constexpr std::array<std::uint8_t, 13> kSizes = {1, 2, 4, 8, 1, 2, 4, 8, 4, 8, 1, 2, 4};
        const std::string_view name = string_at(L, -1);
        for (std::size_t i = 0; i < kTypeNames.size(); ++i) {
            if (kTypeNames[i] != name) continue;
            nodes_[at].type = static_cast<Type>(i);
            nodes_[at].min_size = kSizes[i];
            return;
        }
        luaL_error(L, "%s: unknown type \"%s\"", names_.c_str(), lua_tostring(L, -1));
    }

    // Pops the description of the item.
    void list(std::size_t at, int depth) {
        const std::size_t item = add(at, 1);
        nodes_[at].type = Type::list;
        nodes_[at].min_size = 2;
        node(item, depth + 1);
        if (nodes_[item].min_size == 0) raise("a list of a message without fields");
    }

    void record(std::size_t at, int depth) {
        const std::size_t count = lua_objlen(L, -1);
        const std::size_t first = add(at, count);
        std::uint32_t size = 0;
        for (std::size_t i = 0; i < count; ++i) {
            lua_rawgeti(L, -1, static_cast<int>(i + 1));
            field(first + i, depth);
            size += nodes_[first + i].min_size;
        }
        nodes_[at].min_size = size;
    }

    // Pops the field {name, type, optional}.
    void field(std::size_t at, int depth) {
        if (!lua_istable(L, -1)) raise("a field is a table");
        lua_rawgeti(L, -1, 1);
        if (lua_type(L, -1) != LUA_TSTRING) raise("a field has no name");
        const std::string_view name = string_at(L, -1);
        if (name.empty() || name.size() > 255) raise("the name of a field has 1 to 255 bytes");
        nodes_[at].name_at = static_cast<std::uint32_t>(names_.size());
        nodes_[at].name_size = static_cast<std::uint16_t>(name.size());
        names_ += name;
        lua_rawgeti(L, -2, 3);
        nodes_[at].is_optional = lua_toboolean(L, -1) != 0;
        lua_rawgeti(L, -3, 2);
        node(at, depth + 1);
        lua_pop(L, 3);
    }

    std::size_t add(std::size_t parent, std::size_t count) {
        const std::size_t first = nodes_.size();
        if (count > kMaxNodes || first + count > kMaxNodes) raise("too many fields");
        nodes_.resize(first + count);
        nodes_[parent].first_child = static_cast<std::uint32_t>(first);
        nodes_[parent].child_count = static_cast<std::uint32_t>(count);
        return first;
    }

    lua_State* L;
    std::vector<Node> nodes_;
    std::string names_;  // the title and its zero, then names of fields
};

const Codec& check_codec(lua_State* L) {
    return *static_cast<const Codec*>(luaL_checkudata(L, 1, kCodecType));
}

// A walker's stack: nesting, a key and a value for each level, and what an error takes.
void prepare(lua_State* L, int arguments) {
    lua_settop(L, arguments);
    luaL_checkstack(L, 4 * kMaxDepth + 20, "body of a packet");
}

// packet.compile(description, name) -> codec
int packet_compile(lua_State* L) {
    luaL_checkany(L, 1);
    const std::string_view name = check_string(L, 2);
    lua_pushvalue(L, 1);
    Compiler(L, name).compile();
    return 1;
}

// codec:encode(value) -> bytes
int codec_encode(lua_State* L) {
    BufWriter writer{{L, check_codec(L)}};
    prepare(L, 2);
    if (!writer.value(writer.codec.root())) return writer.raise();
    lua_pushlstring(L, writer.out.data(), writer.out.size());
    return 1;
}

// codec:decode(bytes) -> value | nil, message, code
int codec_decode(lua_State* L) {
    BufReader reader{{L, check_codec(L)}};
    const std::string_view bytes = check_string(L, 2);
    prepare(L, 2);
    reader.cursor = bytes.data();
    reader.end = bytes.data() + bytes.size();
    if (!reader.value(reader.codec.root())) return reader.push_malformed();
    if (reader.left() == 0) return 1;
    reader.fail("is followed by %zu bytes too many", reader.left());
    return reader.push_malformed();
}

// codec:to_json(value) -> text
int codec_to_json(lua_State* L) {
    JsonWriter writer{{L, check_codec(L)}};
    prepare(L, 2);
    if (!writer.value(writer.codec.root())) return writer.raise();
    lua_pushlstring(L, writer.out.data(), writer.out.size());
    return 1;
}

// codec:accept(value) -> value | nil, message, code
int codec_accept(lua_State* L) {
    Acceptor acceptor{{L, check_codec(L)}};
    prepare(L, 2);
    if (!acceptor.value(acceptor.codec.root(), 2)) return acceptor.push_malformed();
    return 1;
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

// packet.make(stype, ctype, utag, proto_type, body) -> data
int packet_make(lua_State* L) {
    PacketHeader header;
    header.stype = static_cast<std::int16_t>(check_integer(L, 1, -32768, 32767));
    header.ctype = static_cast<std::int16_t>(check_integer(L, 2, -32768, 32767));
    header.utag = static_cast<std::uint32_t>(check_integer(L, 3, 0, 4294967295.0));
    header.form = static_cast<std::int16_t>(check_integer(L, 4, -32768, 32767));
    const std::string_view body = check_string(L, 5);
    luaL_argcheck(L, body.size() <= kMaxPacketBody, 5, "body is larger than 65523 bytes");
    std::string data(kPacketHeader, '\0');
    write_header(data.data(), header);
    data += body;
    lua_pushlstring(L, data.data(), data.size());
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

// packet.unwrap_json(body) -> text | nil, message, code
int packet_unwrap_json(lua_State* L) {
    const std::string_view body = check_string(L, 1);
    if (body.size() < 2) return push_fault(L, "JSON body is cut off");
    const std::size_t size = load_little<std::uint16_t>(body.data());
    if (body.size() - 2 < size) return push_fault(L, "JSON body is cut off");
    if (body.size() - 2 > size) return push_fault(L, "JSON body is longer than it says");
    if (!is_utf8(body.substr(2))) return push_fault(L, "JSON body is not UTF-8");
    lua_pushlstring(L, body.data() + 2, size);
    return 1;
}

// packet.wrap_broadcast(data, uids) -> body
int packet_wrap_broadcast(lua_State* L) {
    const std::string_view data = check_packet(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    const std::size_t count = lua_objlen(L, 2);
    luaL_argcheck(L, data.size() <= kMaxPacket, 1, "packet is larger than 65533 bytes");
    luaL_argcheck(L, count <= kMaxList, 2, "more than 65535 users");
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
                                      {"accept", codec_accept},
                                      {nullptr, nullptr}};

constexpr luaL_Reg kFunctions[] = {{"compile", packet_compile},
                                   {"header", packet_header},
                                   {"make", packet_make},
                                   {"restamp", packet_restamp},
                                   {"body", packet_body},
                                   {"wrap_json", packet_wrap_json},
                                   {"unwrap_json", packet_unwrap_json},
                                   {"wrap_broadcast", packet_wrap_broadcast},
                                   {"unwrap_broadcast", packet_unwrap_broadcast},
                                   {"is_utf8", packet_is_utf8},
                                   {nullptr, nullptr}};

}  // namespace

void push_packet_library(lua_State* L) {
    if (luaL_newmetatable(L, kCodecType) != 0) {
        lua_newtable(L);
        luaL_setfuncs(L, kCodecMethods, 0);
        lua_setfield(L, -2, "__index");
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "__metatable");
    }
    lua_pop(L, 1);
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
