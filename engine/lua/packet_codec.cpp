#include "lua/packet_codec.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/utf8.h"
#include "game/json.h"

namespace perilune {

// DESIGN
// A message is compiled once into a tree of nodes. Four walkers follow the tree: BufWriter and
// JsonWriter read a Lua value and append bytes, BufReader and JsonReader push a new Lua value. A
// walker that fails says why once and builds the path to the field while it returns. JSON is
// looked at twice: first whether it is JSON at all, so that the second look needs no checks of its
// own and a body that is malformed is told from one that doesn't fit.

namespace {

using Node = PacketCodec::Node;
using Type = PacketCodec::Type;

constexpr double kMaxExact = 9007199254740992.0;  // 2^53
constexpr std::size_t kMaxList = 65535;
constexpr std::size_t kMaxString = 65535;
constexpr int kMaxDepth = 16;
constexpr std::size_t kMaxNodes = 4096;
constexpr const char* kCodecType = "perilune.packet.codec";

static_assert(kPacketStack >= 4 * kMaxDepth + 20);

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

std::string_view string_at(lua_State* L, int index) {
    std::size_t size = 0;
    const char* text = lua_tolstring(L, index, &size);
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

template <typename T>
requires std::is_arithmetic_v<T>
void append(PayloadWriter& out, T value) { out.append(&value, sizeof value); }

void append(PayloadWriter& out, std::string_view text) { out.append(text.data(), text.size()); }

void append_byte(PayloadWriter& out, char byte) {
    out.append_byte(static_cast<unsigned char>(byte));
}

// ---- text ----

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

// ---- walkers ----

// What all walkers share. Functions return false after a failure, with the stack unspecified.
struct Walker {
    lua_State* L;
    const PacketCodec& codec;
    const int names;  // stack index of the names of its fields
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
        return digits(node, string_at(L, index), bits);
    }

    bool digits(const Node& node, std::string_view text, std::uint64_t& bits) {
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
        value = string_at(L, index);
        return is_text(value);
    }

    bool is_text(std::string_view value) {
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

// Appends the BUF form of values.
struct BufWriter : Walker {
    PayloadWriter& out;
    const std::size_t begin = out.size();

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
                out.append_byte(flag ? 1 : 0);
                break;
            case Type::string:
                if (!text(index, bytes)) return false;
                append(out, static_cast<std::uint16_t>(bytes.size()));
                append(out, bytes);
                break;
            case Type::bytes:
                if (!raw(index, bytes)) return false;
                append(out, static_cast<std::uint32_t>(bytes.size()));
                append(out, bytes);
                break;
            case Type::list: return list_of(node, index) && check_size();
            case Type::record: return record_of(node, index);
        }
        return check_size();
    }

    bool check_size() {
        if (out.size() - begin <= kMaxPacketBody) return true;
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
    void zero(const Node& node) {
        std::memset(out.reserve(node.min_size), 0, node.min_size);
        out.advance(node.min_size);
    }
};

// Appends the JSON form of values, fields in the order of their declaration.
struct JsonWriter : Walker {
    PayloadWriter& out;
    const std::size_t begin = out.size();

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
                append(out, std::string_view(flag ? "true" : "false"));
                break;
            case Type::string:
                if (!text(index, bytes)) return false;
                append_json_string(out, bytes);
                break;
            case Type::bytes:
                if (!raw(index, bytes)) return false;
                append_byte(out, '"');
                append_base64(out, bytes);
                append_byte(out, '"');
                break;
            case Type::list: return list_of(node, index) && check_size();
            case Type::record: return record_of(node, index);
        }
        return check_size();
    }

    bool check_size() {
        if (out.size() - begin <= kMaxPacketBody) return true;
        return fail("makes the body larger than %zu bytes", kMaxPacketBody);
    }

    template <typename T>
    void append_number(T number) {
        constexpr std::size_t kDigits = 40;
        char* const digits = out.reserve(kDigits);
        out.advance(
            static_cast<std::size_t>(std::to_chars(digits, digits + kDigits, number).ptr - digits));
    }

    // Beyond 2^53 a decimal string, since JavaScript's numbers end there, too.
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
    std::string scratch = {};

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
        if (found.size() > kMaxString) return fail("is %zu bytes, 65535 at most", found.size());
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

// ---- codecs ----

}  // namespace

class PacketCompiler {
  public:
    PacketCompiler(lua_State* state, std::string_view title) : L(state), names_(title) {
        names_ += '\0';
    }

    // Pops the description and pushes the codec.
    void compile() {
        nodes_.resize(1);
        node(0, 0);
        const std::size_t size = nodes_.size() * sizeof(Node);
        auto* codec = static_cast<PacketCodec*>(
            lua_newuserdata(L, sizeof(PacketCodec) + size + names_.size()));
        codec->node_count_ = static_cast<std::uint32_t>(nodes_.size());
        codec->title_at_ = 0;
        char* const bytes = reinterpret_cast<char*>(codec + 1);
        std::memcpy(bytes, nodes_.data(), size);
        std::memcpy(bytes + size, names_.data(), names_.size());
        luaL_getmetatable(L, kCodecType);
        lua_setmetatable(L, -2);
        lua_createtable(L, static_cast<int>(nodes_.size()), 0);
        for (std::size_t i = 0; i < nodes_.size(); ++i) {
            const std::string_view name = codec->name(nodes_[i]);
            lua_pushlstring(L, name.data(), name.size());
            lua_rawseti(L, -2, static_cast<int>(i));
        }
        lua_setfenv(L, -2);
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

void PacketCodec::push_metatable(lua_State* L) { luaL_newmetatable(L, kCodecType); }

void PacketCodec::compile(lua_State* L, std::string_view title) {
    PacketCompiler(L, title).compile();
}

const PacketCodec* PacketCodec::at(lua_State* L, int index) {
    void* found = lua_touserdata(L, index);
    if (found == nullptr || lua_getmetatable(L, index) == 0) return nullptr;
    luaL_getmetatable(L, kCodecType);
    const bool is_codec = lua_rawequal(L, -1, -2) != 0;
    lua_pop(L, 2);
    return is_codec ? static_cast<const PacketCodec*>(found) : nullptr;
}

// ---- values ----

bool write_buf(lua_State* L, const PacketFields& fields, PayloadWriter& out, std::string& fault) {
    BufWriter writer{{L, *fields.codec, fields.names}, out};
    if (writer.value(writer.codec.root())) return true;
    fault = writer.message();
    return false;
}

bool write_json(lua_State* L, const PacketFields& fields, PayloadWriter& out, std::string& fault) {
    JsonWriter writer{{L, *fields.codec, fields.names}, out};
    if (writer.value(writer.codec.root())) return true;
    fault = writer.message();
    return false;
}

bool read_buf(lua_State* L, const PacketFields& fields, std::string_view bytes,
              std::string& fault) {
    BufReader reader{{L, *fields.codec, fields.names}};
    reader.cursor = bytes.data();
    reader.end = bytes.data() + bytes.size();
    if (reader.value(reader.codec.root())) {
        if (reader.left() == 0) return true;
        reader.fail("is followed by %zu bytes too many", reader.left());
    }
    fault = reader.message();
    return false;
}

namespace {

// Of JSON that has been checked.
bool read_checked(lua_State* L, const PacketFields& fields, JsonCursor json, std::string& fault) {
    JsonReader reader{{L, *fields.codec, fields.names}, json};
    if (reader.value(reader.codec.root())) return true;
    fault = reader.message();
    return false;
}

}  // namespace

BodyFault read_json(lua_State* L, const PacketFields& fields, std::string_view text,
                    std::string& fault) {
    JsonCursor json(text);
    if (!is_utf8(text) || !json.check()) {
        fault = std::string(fields.codec->title()) + ": it is not JSON";
        return BodyFault::malformed;
    }
    return read_checked(L, fields, json, fault) ? BodyFault::none : BodyFault::invalid_params;
}

// ---- bodies ----

namespace {

// What {"0": value, "1": request_id} has.
struct Envelope {
    JsonCursor value{""};
    bool has_value = false;  // and it isn't null
    std::uint64_t request_id = 0;
};

// The text of a JSON body, which is UTF-8 of exactly the length that it announces.
const char* unwrap(std::string_view body, std::string_view& text) {
    if (body.size() < 2) return "is cut off";
    const std::size_t size = load_little<std::uint16_t>(body.data());
    text = body.substr(2);
    if (text.size() < size) return "is cut off";
    if (text.size() > size) return "is longer than it says";
    return is_utf8(text) ? nullptr : "is not UTF-8";
}

const char* read_id(JsonCursor& json, std::uint64_t& id) {
    id = 0;
    const char first = json.peek();
    if (first == 'n') {
        json.skip();
        return nullptr;
    }
    const bool is_number = first == '-' || (first >= '0' && first <= '9');
    const double number = is_number ? json.number() : 0;
    if (!is_integer(number) || number < 1 || number > kMaxExact) {
        return "has a request_id that is no positive integer";
    }
    id = static_cast<std::uint64_t>(number);
    return nullptr;
}

// Null, or what is wrong with the body.
const char* read_envelope(std::string_view body, Envelope& envelope) {
    std::string_view text;
    if (const char* why = unwrap(body, text)) return why;
    JsonCursor json(text);
    if (!json.check()) return json.why();
    if (json.peek() != '{') return "is no object";
    std::string scratch;
    json.enter();
    for (bool first = true; json.next('}', first); first = false) {
        const std::string_view key = json.key(scratch);
        if (key == "1") {
            if (const char* why = read_id(json, envelope.request_id)) return why;
            continue;
        }
        if (key == "0") {
            envelope.has_value = json.peek() != 'n';
            envelope.value = json;
        }
        json.skip();
    }
    return nullptr;
}

BodyFault read_json_body(lua_State* L, const PacketFields& fields, std::string_view body,
                         std::uint64_t& request_id, std::string& fault) {
    Envelope envelope;
    if (const char* why = read_envelope(body, envelope)) {
        fault = std::string("JSON body ") + why;
        return BodyFault::malformed;
    }
    request_id = envelope.request_id;
    if (fields.codec == nullptr) {
        lua_pushnil(L);
        return BodyFault::none;
    }
    if (!envelope.has_value) envelope.value = JsonCursor(fields.takes_nothing ? "{}" : "null");
    return read_checked(L, fields, envelope.value, fault) ? BodyFault::none
                                                          : BodyFault::invalid_params;
}

}  // namespace

bool write_body(lua_State* L, const PacketFields& fields, std::int16_t form,
                std::uint64_t request_id, PayloadWriter& out, std::string& fault) {
    if (form == kBufForm) return fields.codec == nullptr || write_buf(L, fields, out, fault);
    const std::size_t begin = out.size();
    append(out, std::uint16_t{0});
    append(out, std::string_view("{\"0\":"));
    if (fields.codec == nullptr) {
        append(out, std::string_view("null"));
    } else if (!write_json(L, fields, out, fault)) {
        return false;
    }
    if (request_id != 0) append(out, ",\"1\":" + std::to_string(request_id));
    append_byte(out, '}');
    const std::size_t size = out.size() - begin;
    if (size > kMaxPacketBody) {
        fault = "the body is larger than " + std::to_string(kMaxPacketBody) + " bytes";
        return false;
    }
    const auto length = static_cast<std::uint16_t>(size - sizeof(std::uint16_t));
    std::memcpy(out.at(begin), &length, sizeof length);
    return true;
}

BodyFault read_body(lua_State* L, const PacketFields& fields, std::int16_t form,
                    std::string_view body, std::uint64_t& request_id, std::string& fault) {
    request_id = 0;
    if (form == kJsonForm) return read_json_body(L, fields, body, request_id, fault);
    if (form != kBufForm) {
        fault = "proto_type " + std::to_string(form) + " is neither JSON nor BUF";
        return BodyFault::malformed;
    }
    if (fields.codec != nullptr) {
        return read_buf(L, fields, body, fault) ? BodyFault::none : BodyFault::malformed;
    }
    lua_pushnil(L);
    if (body.empty()) return BodyFault::none;
    fault = "a BUF body without declared fields is empty";
    return BodyFault::malformed;
}

std::uint64_t read_request_id(std::string_view body) {
    Envelope envelope;
    return read_envelope(body, envelope) == nullptr ? envelope.request_id : 0;
}

}  // namespace perilune
