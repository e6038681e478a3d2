// Walker: what those who follow the nodes of a PacketCodec share.
//
// Purpose:   Lua values that are checked against a node, and failures with the path to the field.
//            For lua/packet_buf, packet_json and packet_body alone.
// Threads:   the thread that runs the VM of `L`.
// Ownership: a walker lives as long as the call that it serves.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/utf8.h"
#include "lua/packet_codec.h"

namespace perilune {

inline constexpr double kMaxExact = 9007199254740992.0;  // 2^53
inline constexpr std::size_t kMaxPacketList = 65535;
inline constexpr std::size_t kMaxPacketString = 65535;

// Of the integers below 64 bits, by Type.
struct PacketRange {
    double first;
    double last;
};

inline constexpr std::array<PacketRange, 8> kPacketRanges = {{{-128, 127},
                                                              {-32768, 32767},
                                                              {-2147483648.0, 2147483647.0},
                                                              {-kMaxExact, kMaxExact},
                                                              {0, 255},
                                                              {0, 65535},
                                                              {0, 4294967295.0},
                                                              {0, kMaxExact}}};

constexpr bool is_exact(std::int64_t value) {
    return value >= -static_cast<std::int64_t>(kMaxExact) &&
           value <= static_cast<std::int64_t>(kMaxExact);
}

constexpr bool is_exact(std::uint64_t value) {
    return value <= static_cast<std::uint64_t>(kMaxExact);
}

inline bool is_integer(double value) { return value == std::floor(value) && std::isfinite(value); }

template <typename T>
requires std::is_arithmetic_v<T>
void append(PayloadWriter& out, T value) { out.append(&value, sizeof value); }

inline void append(PayloadWriter& out, std::string_view text) {
    out.append(text.data(), text.size());
}

inline void append_byte(PayloadWriter& out, char byte) {
    out.append_byte(static_cast<unsigned char>(byte));
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

inline std::string_view packet_string(lua_State* L, int index) {
    std::size_t size = 0;
    const char* text = lua_tolstring(L, index, &size);
    return {text, size};
}

// Functions return false after a failure, with the stack unspecified.
struct Walker {
    using Node = PacketCodec::Node;
    using Type = PacketCodec::Type;

    lua_State* L;
    const PacketCodec& codec;
    const int names;  // stack index of the names of its fields
    std::string reason;
    std::string path;

    Walker(lua_State* state, const PacketFields& fields)
        : L(state), codec(*fields.codec), names(fields.names) {}

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
    std::string message() const {
        std::string text = codec.title();
        text += path.empty() ? ": it " : ": field ";
        if (!path.empty()) text += path.substr(path[0] == '.' ? 1 : 0) + " ";
        return text + reason;
    }

    // ---- Lua values that are checked against a node ----

    bool integer(const Node& node, int index, double& value) {
        if (lua_type(L, index) != LUA_TNUMBER) return wrong_type("an integer", index);
        value = lua_tonumber(L, index);
        return in_range(node, value);
    }

    bool in_range(const Node& node, double value) {
        const auto type = static_cast<std::size_t>(node.type);
        if (!is_integer(value)) return fail("is not an integer but %.17g", value);
        if (value < kPacketRanges[type].first || value > kPacketRanges[type].last) {
            return fail("is out of the range of %s: %.17g", kPacketTypes[type].data(), value);
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
        return digits(node, packet_string(L, index), bits);
    }

    bool digits(const Node& node, std::string_view text, std::uint64_t& bits) {
        std::int64_t value = 0;
        const char* const end = text.data() + text.size();
        const auto [stop, error] = node.type == Type::u64
                                       ? std::from_chars(text.data(), end, bits)
                                       : std::from_chars(text.data(), end, value);
        if (error == std::errc::result_out_of_range) {
            return fail("is out of the range of %s",
                        kPacketTypes[static_cast<std::size_t>(node.type)].data());
        }
        if (error != std::errc() || stop != end) return fail("is not an integer but a string");
        if (node.type == Type::i64) bits = static_cast<std::uint64_t>(value);
        return true;
    }

    bool real(const Node& node, int index, double& value) {
        if (lua_type(L, index) != LUA_TNUMBER) return wrong_type("a number", index);
        value = lua_tonumber(L, index);
        return finite(node, value);
    }

    bool finite(const Node& node, double value) {
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
        value = packet_string(L, index);
        return is_text(value);
    }

    bool is_text(std::string_view value) {
        if (value.size() > kMaxPacketString)
            return fail("is %zu bytes, 65535 at most", value.size());
        if (!is_utf8(value)) return fail("is not UTF-8");
        return true;
    }

    bool raw(int index, std::string_view& value) {
        if (lua_type(L, index) != LUA_TSTRING) return wrong_type("a string", index);
        value = packet_string(L, index);
        if (value.size() > kMaxPacketBody) {
            return fail("is %zu bytes, %zu at most", value.size(), kMaxPacketBody);
        }
        return true;
    }

    bool list(int index, std::size_t& count) {
        if (!lua_istable(L, index)) return wrong_type("a list", index);
        count = lua_objlen(L, index);
        if (count > kMaxPacketList) return fail("has %zu items, 65535 at most", count);
        if (count != 0) return true;
        lua_pushnil(L);
        if (lua_next(L, index) == 0) return true;
        return fail("is not a list but a table with keys");
    }

    bool record(int index) { return lua_istable(L, index) || wrong_type("a table", index); }

    void push_name(const Node& field) { lua_rawgeti(L, names, codec.number(field)); }

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

// Follows the value on top of the stack, checks it and has `Form` append it, which has
//   put_integer(node, number)  of 32 bits at most
//   put_integer64(node, bits)
//   put_f32(), put_f64(), put_boolean(), put_string(), put_bytes()  what has been checked
//   list_of(), record_of()
template <typename Form>
struct Writer : Walker {
    PayloadWriter& out;
    const std::size_t begin = out.size();

    Writer(lua_State* state, const PacketFields& fields, PayloadWriter& to)
        : Walker(state, fields), out(to) {}

    bool value(const Node& node) { return put(node) && check_size(); }

  private:
    bool put(const Node& node) {
        Form& form = static_cast<Form&>(*this);
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
                form.put_integer(node, static_cast<std::int64_t>(number));
                return true;
            case Type::i64:
            case Type::u64:
                if (!integer64(node, index, bits)) return false;
                form.put_integer64(node, bits);
                return true;
            case Type::f32:
                if (!real(node, index, number)) return false;
                form.put_f32(static_cast<float>(number));
                return true;
            case Type::f64:
                if (!real(node, index, number)) return false;
                form.put_f64(number);
                return true;
            case Type::boolean:
                if (!boolean(index, flag)) return false;
                form.put_boolean(flag);
                return true;
            case Type::string:
                if (!text(index, bytes)) return false;
                form.put_string(bytes);
                return true;
            case Type::bytes:
                if (!raw(index, bytes)) return false;
                form.put_bytes(bytes);
                return true;
            case Type::list: return form.list_of(node, index);
            case Type::record: return form.record_of(node, index);
        }
        return fail("has an unknown type");
    }

    bool check_size() {
        if (out.size() - begin <= kMaxPacketBody) return true;
        return fail("makes the body larger than %zu bytes", kMaxPacketBody);
    }
};

}  // namespace perilune
