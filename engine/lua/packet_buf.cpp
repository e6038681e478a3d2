// BUF: fields one behind the other, little-endian, in the order of their declaration.
#include <cmath>
#include <cstring>

#include "lua/packet_walker.h"

namespace perilune {

namespace {

// Appends the BUF form of values.
struct BufWriter : Writer<BufWriter> {
    using Writer::Writer;

    void put_integer64(const Node&, std::uint64_t bits) { append(out, bits); }
    void put_f32(float number) { append(out, number); }
    void put_f64(double number) { append(out, number); }
    void put_boolean(bool flag) { out.append_byte(flag ? 1 : 0); }
    void put_string(std::string_view text) {
        append(out, static_cast<std::uint16_t>(text.size()));
        append(out, text);
    }
    void put_bytes(std::string_view bytes) {
        append(out, static_cast<std::uint32_t>(bytes.size()));
        append(out, bytes);
    }

    void put_integer(const Node& node, std::int64_t number) {
        const Type type = node.type;
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
    void zero(const Node& node) {
        std::memset(out.reserve(node.min_size), 0, node.min_size);
        out.advance(node.min_size);
    }
};

// Pushes the value of a BUF body.
struct BufReader : Walker {
    const char* cursor;
    const char* end;

    BufReader(lua_State* state, const PacketFields& fields, std::string_view bytes)
        : Walker(state, fields), cursor(bytes.data()), end(bytes.data() + bytes.size()) {}

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
            case Type::f32: return real(take<float>());
            case Type::f64: return real(take<double>());
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

    bool real(double number) {
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

}  // namespace

bool write_buf(lua_State* L, const PacketFields& fields, PayloadWriter& out, std::string& fault) {
    BufWriter writer(L, fields, out);
    if (writer.value(writer.codec.root())) return true;
    fault = writer.message();
    return false;
}

bool read_buf(lua_State* L, const PacketFields& fields, std::string_view bytes,
              std::string& fault) {
    BufReader reader(L, fields, bytes);
    if (reader.value(reader.codec.root())) {
        if (reader.left() == 0) return true;
        reader.fail("is followed by %zu bytes too many", reader.left());
    }
    fault = reader.message();
    return false;
}

}  // namespace perilune
