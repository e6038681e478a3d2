#include "lua/lua_codec.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "lua/lua_shared.h"

namespace perilune {

bool is_identifier(std::string_view text) {
    if (text.empty() || (text[0] >= '0' && text[0] <= '9')) return false;
    return std::all_of(text.begin(), text.end(), [](char c) {
        return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
               (c >= 'A' && c <= 'Z');
    });
}
namespace {

using namespace wire;

// Stack slots that one level of nesting takes here: a key, a value, and the copies that an error
// path makes.
constexpr int kSlotsPerLevel = 6;

// The way to a value inside an argument, as Lua would write it; it grows from its end, since it
// is built while recursion returns.
class PathText {
  public:
    PathText() { text_[kSize - 1] = 0; }
    const char* text() const { return begin_; }

    void prepend(std::string_view part) {
        if (part.size() + 3 > static_cast<std::size_t>(begin_ - text_)) {
            if (!is_cut_) prepend_unchecked("...");
            is_cut_ = true;
        }
        if (!is_cut_) prepend_unchecked(part);
    }

    // Prepends the key at a stack index; the key isn't changed.
    void prepend_key(lua_State* L, int index) {
        char part[64];
        switch (lua_type(L, index)) {
            case LUA_TNUMBER:
                std::snprintf(part, sizeof part, "[%.17g]", lua_tonumber(L, index));
                break;
            case LUA_TBOOLEAN:
                std::snprintf(part, sizeof part, "[%s]",
                              lua_toboolean(L, index) ? "true" : "false");
                break;
            case LUA_TSTRING: {
                std::size_t size = 0;
                const char* name = lua_tolstring(L, index, &size);
                format_name({name, size}, part, sizeof part);
                break;
            }
            default: std::snprintf(part, sizeof part, "[%s]", lua_typename(L, lua_type(L, index)));
        }
        prepend(part);
    }

  private:
    // .name, or ["any text"] with what can't be printed as dots; long names are cut.
    static void format_name(std::string_view name, char* part, std::size_t size) {
        constexpr std::size_t kMaxName = 40;
        char shown[kMaxName + 1];
        const std::size_t length = std::min(name.size(), kMaxName);
        for (std::size_t i = 0; i < length; ++i) {
            const auto byte = static_cast<unsigned char>(name[i]);
            shown[i] = byte < 0x20 || byte == 0x7f || byte == '"' ? '.' : name[i];
        }
        shown[length] = 0;
        const char* more = name.size() > kMaxName ? "..." : "";
        const char* form = is_identifier(name) ? ".%s%s" : "[\"%s%s\"]";
        std::snprintf(part, size, form, shown, more);
    }

    void prepend_unchecked(std::string_view part) {
        begin_ -= part.size();
        std::memcpy(begin_, part.data(), part.size());
    }

    static constexpr std::size_t kSize = 112;
    char text_[kSize];  // its end alone is set
    char* begin_ = text_ + kSize - 1;
    bool is_cut_ = false;
};

// Writes values of a stack. Every function returns false after a failure, with the stack as it
// found it; `code`, `reason` and `path` then say what happened.
struct Packer {
    Packer(lua_State* state, PayloadWriter& writer) : L(state), out(writer) { reason[0] = 0; }

    lua_State* L;
    PayloadWriter& out;
    int root = 0;  // the stack index of the argument that is being written
    StatusCode code = StatusCode::ok;
    bool key_failed = false;  // then the path ends at the table
    char reason[96];
    PathText path;

    [[gnu::cold, gnu::noinline]] bool fail(StatusCode why, const char* format, ...)
        __attribute__((format(printf, 3, 4))) {
        code = why;
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(reason, sizeof reason, format, arguments);
        va_end(arguments);
        return false;
    }

    [[gnu::cold, gnu::noinline]] bool too_large() {
        return fail(StatusCode::too_large, "makes the message larger than %zu MB",
                    kMaxPayload >> 20);
    }

    // A table is on top that is one too many. The one around it is below its key, and so on down
    // to the argument.
    [[gnu::cold, gnu::noinline]] bool too_deep() {
        const void* table = lua_topointer(L, -1);
        for (int level = 1; level <= kMaxDepth; ++level) {
            const int index = level == kMaxDepth ? root : -1 - 2 * level;
            if (lua_topointer(L, index) == table) {
                return fail(StatusCode::unsupported,
                            "is a table that contains itself %d levels up, which cannot be sent",
                            level);
            }
        }
        return fail(StatusCode::too_large, "is nested deeper than %d tables", kMaxDepth);
    }

    [[gnu::cold, gnu::noinline]] bool unsupported(int index) {
        const int type = lua_type(L, index);
        return fail(StatusCode::unsupported, "is a %s, which cannot be sent",
                    type == kTypeCdata ? "cdata" : lua_typename(L, type));
    }

    [[gnu::cold, gnu::noinline]] bool bad_key(int index) {
        key_failed = true;
        const char* type = lua_typename(L, lua_type(L, index));
        return fail(StatusCode::unsupported, "has a %s as a key, which cannot be sent", type);
    }

    [[gnu::cold, gnu::noinline]] bool no_stack() {
        return fail(StatusCode::too_large, "needs more of the Lua stack than there is");
    }

    static constexpr int kTypeCdata = 10;  // LuaJIT's, beyond the types of lua.h

    bool string(int index) {
        std::size_t size = 0;
        const char* text = lua_tolstring(L, index, &size);
        if (size > kMaxShortString && out.size() + size > kMaxPayload) {
            return too_large();
        }
        write_string(out, text, size);
        return true;
    }

    // Appends the value at a stack index. `depth`: the number of tables around it. `iterated`:
    // the index that it will have while a key is on top, should it be a table.
    bool value(int index, int iterated, int depth) {
        const int type = lua_type(L, index);
        if (type == LUA_TNUMBER) {
            write_number(out, lua_tonumber(L, index));
            return true;
        }
        if (type == LUA_TSTRING) return string(index);
        if (type == LUA_TTABLE) return table(iterated, depth + 1);
        return rare_value(type, index, depth);
    }

    // The same for an argument, which mostly is no table.
    [[gnu::always_inline]] bool argument(int index) {
        const int type = lua_type(L, index);
        if (type == LUA_TNUMBER) {
            write_number(out, lua_tonumber(L, index));
            return true;
        }
        if (type == LUA_TSTRING) return string(index);
        return value(index, index, 0);
    }

    bool rare_value(int type, int index, int depth) {
        switch (type) {
            case LUA_TBOOLEAN: write_boolean(out, lua_toboolean(L, index) != 0); return true;
            case LUA_TNIL: write_tag(out, kNil); return true;
            case LUA_TLIGHTUSERDATA:
                if (lua_touserdata(L, index) != nullptr) return unsupported(index);
                write_tag(out, kNull);
                return true;
            case LUA_TUSERDATA: return shared(index, depth);
            default: return unsupported(index);
        }
    }

    bool shared(int index, int depth) {
        const SharedTable table = shared_table_at(L, index);
        if (table.tree == nullptr) return unsupported(index);
        const Status status = table.tree->encode(*table.item, out, depth);
        if (!status.ok()) return fail(status.code(), "%s", status.message());
        return true;
    }

    // Appends the table that has the stack index `iterated` when one more value is pushed.
    // lua_next gives the keys 1, 2, 3... of its array part first and in order; from the first
    // other key on all entries go to the hash part.
    bool table(int iterated, int depth) {
        if (depth > kMaxDepth) return too_deep();
        if (!lua_checkstack(L, kSlotsPerLevel)) return no_stack();
        const std::size_t offset = begin_table(out);
        lua_pushnil(L);
        std::uint32_t array_count = 0;
        bool more = lua_next(L, iterated) != 0;
        while (more && lua_type(L, -2) == LUA_TNUMBER && lua_tonumber(L, -2) == array_count + 1) {
            if (!value(-1, -2, depth)) return fail_in_table();
            if (++array_count == 256) enlarge_table(out, offset);
            if (out.size() > kMaxPayload) [[unlikely]]
                return too_large_in_table();
            lua_settop(L, -2);
            more = lua_next(L, iterated) != 0;
        }
        std::uint32_t hash_count = 0;
        while (more) {
            if (!key() || !value(-1, -2, depth)) return fail_in_table();
            if (++hash_count == 256) enlarge_table(out, offset);
            if (out.size() > kMaxPayload) [[unlikely]]
                return too_large_in_table();
            lua_settop(L, -2);
            more = lua_next(L, iterated) != 0;
        }
        end_table(out, offset, array_count, hash_count);
        return true;
    }

    // Appends the key below the top of the stack.
    bool key() {
        const int type = lua_type(L, -2);
        if (type == LUA_TSTRING) [[likely]]
            return string(-2);
        if (type == LUA_TNUMBER) {
            write_number(out, lua_tonumber(L, -2));
        } else if (type == LUA_TBOOLEAN) {
            write_boolean(out, lua_toboolean(L, -2) != 0);
        } else {
            return bad_key(-2);
        }
        return true;
    }

    // The two ways a table fails while a key and its value are on top.
    [[gnu::cold, gnu::noinline]] bool fail_in_table() {
        if (!key_failed) path.prepend_key(L, -2);
        key_failed = false;
        lua_settop(L, -3);
        return false;
    }

    [[gnu::cold, gnu::noinline]] bool too_large_in_table() {
        too_large();
        return fail_in_table();
    }
};

// Reads values onto a stack. A pointer `end` given to a function leaves out one byte for each
// value that the tables around still need, so that no table is made larger than the payload
// can fill.
struct Unpacker {
    lua_State* L;
    const char* cursor;
    Fault fault = Fault::none;

    [[gnu::cold, gnu::noinline]] bool fail(Fault why) {
        fault = why;
        return false;
    }

    bool value(const char* end, int depth) {
        if (cursor >= end) [[unlikely]]
            return fail(Fault::cut_off);
        const auto tag = static_cast<unsigned char>(*cursor++);
        if (tag < kShortString) {
            lua_pushnumber(L, tag);
            return true;
        }
        if (tag < kNegative) return string(tag - kShortString, end);
        if (tag < kNil) {
            lua_pushnumber(L, static_cast<int>(tag) - kNegative - 16);
            return true;
        }
        switch (tag) {
            case kNil: lua_pushnil(L); return true;
            case kFalse: lua_pushboolean(L, 0); return true;
            case kTrue: lua_pushboolean(L, 1); return true;
            case kNull: lua_pushlightuserdata(L, nullptr); return true;
            case kInteger8: return number<std::int8_t>(end);
            case kInteger16: return number<std::int16_t>(end);
            case kInteger32: return number<std::int32_t>(end);
            case kDouble: return number<double>(end);
            case kString8:
            case kString32: return long_string(tag, end);
            case kTable8:
            case kTable32: return table(tag, end, depth + 1);
            default: return fail(Fault::unknown_tag);
        }
    }

    // The same outside of tables, where a value mostly is a small number or a short string.
    [[gnu::always_inline]] bool argument(const char* end) {
        const auto tag = static_cast<unsigned char>(*cursor);
        if (tag >= kShortString && tag < kNegative) {
            ++cursor;
            return string(tag - kShortString, end);
        }
        return value(end, 0);
    }

    bool string(std::size_t size, const char* end) {
        if (static_cast<std::size_t>(end - cursor) < size) return fail(Fault::cut_off);
        lua_pushlstring(L, cursor, size);
        cursor += size;
        return true;
    }

    bool long_string(unsigned char tag, const char* end) {
        std::size_t size = 0;
        if (!read_string_size(tag, cursor, end, size)) return fail(Fault::cut_off);
        lua_pushlstring(L, cursor, size);
        cursor += size;
        return true;
    }

    template <typename T>
    bool number(const char* end) {
        if (static_cast<std::size_t>(end - cursor) < sizeof(T)) return fail(Fault::cut_off);
        lua_pushnumber(L, load<T>(cursor));
        cursor += sizeof(T);
        return true;
    }

    // A key: a short string mostly.
    bool key(const char* end, int depth) {
        const auto tag = static_cast<unsigned char>(*cursor);
        if (tag >= kShortString && tag < kNegative) [[likely]] {
            ++cursor;
            return string(tag - kShortString, end);
        }
        if (cursor >= end) return fail(Fault::cut_off);
        if (is_table(tag) || tag == kNil || tag == kNull) return fail(Fault::bad_key);
        if (!value(end, depth)) return false;
        if (tag == kDouble && std::isnan(lua_tonumber(L, -1))) return fail(Fault::bad_key);
        return true;
    }

    bool table(unsigned char tag, const char* end, int depth) {
        if (depth > kMaxDepth) return fail(Fault::too_deep);
        TableSize size;
        if (!read_table_size(tag, cursor, end, size)) return fail(Fault::cut_off);
        if (!lua_checkstack(L, kSlotsPerLevel)) return fail(Fault::too_many);
        std::size_t owed = size.values();
        lua_createtable(L, static_cast<int>(size.array_count), static_cast<int>(size.hash_count));
        for (std::uint32_t i = 1; i <= size.array_count; ++i) {
            if (!value(end - --owed, depth)) return false;
            lua_rawseti(L, -2, static_cast<int>(i));
        }
        for (std::uint32_t i = 0; i < size.hash_count; ++i) {
            if (!key(end - --owed, depth)) return false;
            if (!value(end - --owed, depth)) return false;
            lua_rawset(L, -3);
        }
        return true;
    }
};

// codec.pack(...) -> string
int codec_pack(lua_State* L) {
    char area[1024];
    PayloadWriter out(area, sizeof area);
    const Status status = pack(L, 1, lua_gettop(L), out);
    if (!status.ok()) return luaL_error(L, "%s", status.message());
    lua_pushlstring(L, out.data(), out.size());
    return 1;
}

// codec.unpack(string) -> ...
int codec_unpack(lua_State* L) {
    std::size_t size = 0;
    const char* data = luaL_checklstring(L, 1, &size);
    int count = 0;
    const Status status = unpack(L, data, size, &count);
    if (!status.ok()) return luaL_argerror(L, 1, status.message());
    return count;
}

}  // namespace

Status pack(lua_State* L, int first, int last, PayloadWriter& out, const char* what) {
    Packer packer(L, out);
    for (int index = first; index <= last; ++index) {
        packer.root = index;
        bool is_written = packer.argument(index);
        if (is_written && out.size() > kMaxPayload) is_written = packer.too_large();
        if (!is_written) {
            const char* path = packer.path.text();
            return Status::error(packer.code, "%s %d%s%s %s", what, index - first + 1,
                                 *path != 0 ? ": " : "", path, packer.reason);
        }
    }
    return {};
}

Status unpack(lua_State* L, const char* data, std::size_t size, int* count) {
    if (size > kMaxPayload) return fault_status(Fault::too_large, size);
    const int top = lua_gettop(L);
    const char* end = data + size;
    Unpacker unpacker{L, data};
    for (int pushed = 0; unpacker.cursor != end; ++pushed) {
        constexpr int kStep = 16;  // values for which the stack is grown at once
        if (pushed % kStep == 0 && !lua_checkstack(L, kStep + kSlotsPerLevel)) {
            unpacker.fail(Fault::too_many);
        } else if (unpacker.argument(end)) {
            continue;
        }
        lua_settop(L, top);
        return fault_status(unpacker.fault, static_cast<std::size_t>(unpacker.cursor - data));
    }
    *count += lua_gettop(L) - top;
    return {};
}

void push_codec_library(lua_State* L) {
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, codec_pack);
    lua_setfield(L, -2, "pack");
    lua_pushcfunction(L, codec_unpack);
    lua_setfield(L, -2, "unpack");
}

}  // namespace perilune
