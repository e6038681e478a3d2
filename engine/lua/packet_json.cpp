// JSON of declared fields. It is looked at twice: first whether it is JSON at all, so that the
// second look needs no checks of its own and a body that is malformed is told from one that doesn't
// fit.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "game/json.h"
#include "lua/packet_walker.h"

namespace perilune {

namespace {

void append_json_string(PayloadWriter& out, std::string_view text) {
    append_byte(out, '"');
    while (!text.empty()) {
        const char* const end = json_plain_end(text.data(), text.data() + text.size());
        const auto plain = static_cast<std::size_t>(end - text.data());
        append(out, text.substr(0, plain));
        if (plain == text.size()) break;
        char escape[8] = {'\\', *end};
        const bool is_quoted = *end == '"' || *end == '\\';
        if (!is_quoted) std::snprintf(escape, sizeof escape, "\\u%04x", *end);
        append(out, std::string_view(escape, is_quoted ? 2 : 6));
        text.remove_prefix(plain + 1);
    }
    append_byte(out, '"');
}

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void append_base64(PayloadWriter& out, std::string_view bytes) {
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t word = 0;
        const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
        for (std::size_t k = 0; k < 3; ++k) {
            word = word << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0);
        }
        for (std::size_t k = 0; k < 4; ++k) {
            append_byte(out, k <= count ? kBase64[word >> (18 - 6 * k) & 63] : '=');
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

// Appends the JSON form of values, fields in the order of their declaration.
struct JsonWriter : Writer<JsonWriter> {
    using Writer::Writer;

    void put_integer(const Node&, std::int64_t number) { append_number(number); }
    // Beyond 2^53 a decimal string, since JavaScript's numbers end there, too.
    void put_integer64(const Node& node, std::uint64_t bits) {
        if (node.type == Type::u64) {
            append_big(bits);
        } else {
            append_big(static_cast<std::int64_t>(bits));
        }
    }
    void put_f32(float number) { append_real(number); }
    void put_f64(double number) { append_real(number); }
    void put_boolean(bool flag) { append(out, std::string_view(flag ? "true" : "false")); }
    void put_string(std::string_view text) { append_json_string(out, text); }
    void put_bytes(std::string_view bytes) {
        append_byte(out, '"');
        append_base64(out, bytes);
        append_byte(out, '"');
    }

    template <typename T, typename... Format>
    void append_number(T number, Format... format) {
        constexpr std::size_t kDigits = 40;
        char* const digits = out.reserve(kDigits);
        char* const end = std::to_chars(digits, digits + kDigits, number, format...).ptr;
        out.advance(static_cast<std::size_t>(end - digits));
    }

    // Beyond 2^53 with an exponent: digits alone are an integer, which is refused there.
    template <typename T>
    void append_real(T number) {
        if (std::abs(number) > kMaxExact) {
            append_number(number, std::chars_format::scientific);
        } else {
            append_number(number);
        }
    }

    template <typename T>
    void append_big(T number) {
        if (!is_exact(number)) append_byte(out, '"');
        append_number(number);
        if (!is_exact(number)) append_byte(out, '"');
    }

    bool list_of(const Node& node, int index) {
        std::size_t count = 0;
        if (!list(index, count)) return false;
        append_byte(out, '[');
        for (std::size_t i = 1; i <= count; ++i) {
            if (i > 1) append_byte(out, ',');
            lua_rawgeti(L, index, static_cast<int>(i));
            if (!value(codec.children(node)[0])) return fail_in_item(i);
            lua_settop(L, index);
        }
        append_byte(out, ']');
        return true;
    }

    bool record_of(const Node& node, int index) {
        if (!record(index)) return false;
        append_byte(out, '{');
        bool is_first = true;
        for (std::uint32_t i = 0; i < node.child_count; ++i) {
            const Node& field = codec.children(node)[i];
            push_field(field, index);
            if (!field.is_optional || !lua_isnil(L, -1)) {
                append(out, std::string_view(is_first ? "\"" : ",\""));
                is_first = false;
                append(out, codec.name(field));
                append(out, std::string_view("\":"));
                if (!value(field)) return fail_in_field(field);
            }
            lua_settop(L, index);
        }
        append_byte(out, '}');
        return true;
    }
};

using Node = PacketCodec::Node;
using Type = PacketCodec::Type;

// Pushes what an optional field is that isn't there.
void push_zero(lua_State* L, const PacketCodec& codec, int names, const Node& node) {
    switch (node.type) {
        case Type::boolean: lua_pushboolean(L, 0); return;
        case Type::string:
        case Type::bytes: lua_pushliteral(L, ""); return;
        case Type::list: lua_newtable(L); return;
        case Type::record:
            lua_createtable(L, 0, static_cast<int>(node.child_count));
            for (std::uint32_t i = 0; i < node.child_count; ++i) {
                const Node& field = codec.children(node)[i];
                lua_rawgeti(L, names, codec.number(field));
                push_zero(L, codec, names, field);
                lua_rawset(L, -3);
            }
            return;
        default: lua_pushnumber(L, 0);
    }
}

// How Lua calls what begins with that character.
const char* json_type_name(char first) {
    switch (first) {
        case '{':
        case '[': return "table";
        case '"': return "string";
        case 't':
        case 'f': return "boolean";
        case 'n': return "null";
        default: return "number";
    }
}

// Which fields of a record have come.
class FieldSet {
  public:
    explicit FieldSet(std::size_t count) : more_(count > 64 ? count : 0) {}
    void set(std::size_t field, bool value) {
        if (!more_.empty()) {
            more_[field] = value;
        } else if (value) {
            bits_ |= std::uint64_t{1} << field;
        } else {
            bits_ &= ~(std::uint64_t{1} << field);
        }
    }
    bool has(std::size_t field) const {
        return more_.empty() ? (bits_ >> field & 1) != 0 : more_[field];
    }

  private:
    std::uint64_t bits_ = 0;
    std::vector<bool> more_;
};

// Pushes the value of JSON that has been checked, with exactly the fields of the message: what a
// BUF body of the same content is decoded to.
struct JsonReader : Walker {
    JsonCursor& json;
    std::string scratch;

    JsonReader(lua_State* state, const PacketFields& fields, JsonCursor& from)
        : Walker(state, fields), json(from) {}

    bool wrong(const char* wanted) {
        return fail("is not %s but %s", wanted, json_type_name(json.peek()));
    }

    bool value(const Node& node) {
        switch (node.type) {
            case Type::i8:
            case Type::u8:
            case Type::i16:
            case Type::u16:
            case Type::i32:
            case Type::u32: return integer(node);
            case Type::i64:
            case Type::u64: return integer64(node);
            case Type::f32:
            case Type::f64: return real(node);
            case Type::boolean: return boolean();
            case Type::string: return text();
            case Type::bytes: return bytes();
            case Type::list: return list_of(node);
            case Type::record: return record_of(node);
        }
        return fail("has an unknown type");
    }

    bool number(const char* wanted, double& number) {
        if (std::strchr("{[\"tfn", json.peek()) != nullptr) return wrong(wanted);
        number = json.number();
        return true;
    }

    bool integer(const Node& node) {
        double found = 0;
        if (!number("an integer", found) || !in_range(node, found)) return false;
        lua_pushnumber(L, found);
        return true;
    }

    bool integer64(const Node& node) {
        if (json.peek() != '"') return integer(node);
        std::uint64_t bits = 0;
        if (!digits(node, json.string(scratch), bits)) return false;
        if (node.type == Type::u64) {
            push_integer64(L, bits);
        } else {
            push_integer64(L, static_cast<std::int64_t>(bits));
        }
        return true;
    }

    bool real(const Node& node) {
        double found = 0;
        if (!number("a number", found) || !finite(node, found)) return false;
        lua_pushnumber(L, node.type == Type::f32 ? static_cast<float>(found) : found);
        return true;
    }

    bool boolean() {
        const char first = json.peek();
        if (first != 't' && first != 'f') return wrong("a boolean");
        json.skip();
        lua_pushboolean(L, first == 't' ? 1 : 0);
        return true;
    }

    bool text() {
        if (json.peek() != '"') return wrong("a string");
        const std::string_view found = json.string(scratch);
        if (found.size() > kMaxPacketString)
            return fail("is %zu bytes, 65535 at most", found.size());
        lua_pushlstring(L, found.data(), found.size());
        return true;
    }

    bool bytes() {
        if (json.peek() != '"') return wrong("a string");
        std::string decoded;
        if (!read_base64(json.string(scratch), decoded)) return fail("is not base64");
        lua_pushlstring(L, decoded.data(), decoded.size());
        return true;
    }

    bool list_of(const Node& node) {
        const char first = json.peek();
        if (first != '[' && first != '{') return wrong("a list");
        lua_newtable(L);
        json.enter();
        // An empty object will do: it is what encoders of Lua make of an empty table.
        if (first == '{') {
            return !json.next('}', true) || fail("is not a list but a table with keys");
        }
        for (std::size_t i = 1; json.next(']', i == 1); ++i) {
            if (!value(codec.children(node)[0])) return fail_in_item(i);
            lua_rawseti(L, -2, static_cast<int>(i));
        }
        return true;
    }

    bool record_of(const Node& node) {
        const char first = json.peek();
        if (first != '{' && first != '[') return wrong("a table");
        lua_createtable(L, 0, static_cast<int>(node.child_count));
        FieldSet found(node.child_count);
        if (first == '[') {
            json.skip();  // an array has no field
        } else {
            json.enter();
            for (bool is_first = true; json.next('}', is_first); is_first = false) {
                if (!entry(node, found)) return false;
            }
        }
        for (std::uint32_t i = 0; i < node.child_count; ++i) {
            if (!found.has(i) && !missing(codec.children(node)[i])) return false;
        }
        return true;
    }

    // The next entry of an object. Of several with one key the last counts.
    bool entry(const Node& node, FieldSet& found) {
        const std::string_view key = json.key(scratch);
        const Node* const fields = codec.children(node);
        const Node* const end = fields + node.child_count;
        const Node* const field =
            std::find_if(fields, end, [&](const Node& each) { return codec.name(each) == key; });
        if (field == end) {
            json.skip();
            return true;
        }
        const auto number = static_cast<std::size_t>(field - fields);
        found.set(number, json.peek() != 'n');
        if (!found.has(number)) {
            json.skip();
            return true;
        }
        push_name(*field);
        if (!value(*field)) return fail_in_field(*field);
        lua_rawset(L, -3);
        return true;
    }

    bool missing(const Node& field) {
        if (!field.is_optional) {
            lacks(field);
            return fail_in_field(field);
        }
        push_name(field);
        push_zero(L, codec, names, field);
        lua_rawset(L, -3);
        return true;
    }

    bool lacks(const Node& field) {
        switch (field.type) {
            case Type::f32:
            case Type::f64: return fail("is not a number but nil");
            case Type::boolean: return fail("is not a boolean but nil");
            case Type::string:
            case Type::bytes: return fail("is not a string but nil");
            case Type::list: return fail("is not a list but nil");
            case Type::record: return fail("is not a table but nil");
            default: return fail("is not an integer but nil");
        }
    }
};

}  // namespace

bool write_json(lua_State* L, const PacketFields& fields, PayloadWriter& out, std::string& fault) {
    JsonWriter writer(L, fields, out);
    if (writer.value(writer.codec.root())) return true;
    fault = writer.message();
    return false;
}

bool read_checked_json(lua_State* L, const PacketFields& fields, JsonCursor json,
                       std::string& fault) {
    JsonReader reader(L, fields, json);
    if (reader.value(reader.codec.root())) return true;
    fault = reader.message();
    return false;
}

BodyFault read_json(lua_State* L, const PacketFields& fields, std::string_view text,
                    std::string& fault) {
    JsonCursor json(text);
    if (!is_utf8(text) || !json.check()) {
        fault = std::string(fields.codec->title()) + ": it is not JSON";
        return BodyFault::malformed;
    }
    return read_checked_json(L, fields, json, fault) ? BodyFault::none : BodyFault::invalid_params;
}

}  // namespace perilune
