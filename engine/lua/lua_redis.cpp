#include "lua/lua_redis.h"

#include <charconv>
#include <cmath>
#include <cstddef>
#include <memory_resource>
#include <new>
#include <string_view>
#include <vector>

#include "data/redis_command.h"
#include "data/redis_reply.h"
#include "lua/lua_core.h"
#include "lua/lua_socket.h"
#include "lua/vm.h"
#include "net/network.h"

namespace perilune {

namespace {

constexpr const char* kReaderType = "perilune.redis.reader";
constexpr const char* kErrorType = "perilune.redis.Error";
constexpr std::int64_t kMaxExact = std::int64_t{1} << 53;

void push_text(lua_State* L, std::string_view text) {
    lua_pushlstring(L, text.data(), text.size());
}

// ---- replies as values ----

// Integers beyond 2^53 become texts: a number of Lua would not be exact.
void push_integer(lua_State* L, std::int64_t value) {
    if (value >= -kMaxExact && value <= kMaxExact) {
        lua_pushnumber(L, static_cast<lua_Number>(value));
        return;
    }
    char digits[24];
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    lua_pushlstring(L, digits, static_cast<std::size_t>(end - digits));
}

void set_error_type(lua_State* L) {
    luaL_getmetatable(L, kErrorType);
    lua_setmetatable(L, -2);
}

// An error among the elements of an array; alone it is what a failed command returns.
void push_error_object(lua_State* L, std::string_view text) {
    lua_createtable(L, 0, 2);
    push_text(L, redis_error_code(text));
    lua_setfield(L, -2, "code");
    push_text(L, text);
    lua_setfield(L, -2, "message");
    set_error_type(L);
}

// Pushes the value that begins with node `at` and returns which node follows it. As deep as
// RedisReader::kMaxDepth.
std::size_t push_value(lua_State* L, const RedisReader& reader, std::size_t at) {
    const RedisNode node = reader.nodes()[at++];
    switch (node.type) {
        case RedisType::text:
        case RedisType::status: push_text(L, reader.text(node)); break;
        case RedisType::error: push_error_object(L, reader.text(node)); break;
        case RedisType::integer: push_integer(L, node.value); break;
        case RedisType::null: lua_pushlightuserdata(L, nullptr); break;
        case RedisType::array:
            lua_createtable(L, static_cast<int>(node.size), 0);
            for (std::uint32_t i = 1; i <= node.size; ++i) {
                at = push_value(L, reader, at);
                lua_rawseti(L, -2, static_cast<int>(i));
            }
    }
    return at;
}

// value | nil | nil, message, code
int push_reply(lua_State* L, const RedisReader& reader) {
    const RedisNode node = reader.nodes()[0];
    if (node.type == RedisType::null) {
        lua_pushnil(L);
        return 1;
    }
    if (node.type == RedisType::error) {
        lua_pushnil(L);
        push_text(L, reader.text(node));
        push_text(L, redis_error_code(reader.text(node)));
        return 3;
    }
    luaL_checkstack(L, 2 * RedisReader::kMaxDepth + 8, nullptr);
    push_value(L, reader, 0);
    return 1;
}

// ---- the reader ----

RedisReader& check_reader(lua_State* L) {
    return *static_cast<RedisReader*>(luaL_checkudata(L, 1, kReaderType));
}

// reader(bytes, elements) -> reader
int redis_reader(lua_State* L) {
    const lua_Number bytes = luaL_checknumber(L, 1);
    luaL_argcheck(L, bytes >= 1 && bytes <= (1 << 30), 1, "bytes from 1 to 2^30 expected");
    const lua_Number elements = luaL_checknumber(L, 2);
    luaL_argcheck(L, elements >= 1 && elements <= (1 << 26), 2, "1 to 2^26 elements expected");
    new (lua_newuserdata(L, sizeof(RedisReader)))
        RedisReader({static_cast<std::size_t>(bytes), static_cast<std::uint32_t>(elements)});
    luaL_getmetatable(L, kReaderType);
    lua_setmetatable(L, -2);
    return 1;
}

int reader_collect(lua_State* L) {
    static_cast<RedisReader*>(lua_touserdata(L, 1))->~RedisReader();
    return 0;
}

// reader:next(data, from) -> next position, reply | next position, nil, message, code |
//                            nothing (it needs more) | nil, message, code
int reader_next(lua_State* L) {
    RedisReader& reader = check_reader(L);
    const std::string_view data = check_bytes(L, 2);
    const lua_Number from = luaL_checknumber(L, 3);
    luaL_argcheck(L, from >= 1 && from <= static_cast<lua_Number>(data.size()) + 1, 3,
                  "a position within the data expected");
    std::string_view rest = data.substr(static_cast<std::size_t>(from) - 1);
    const RedisReader::Outcome outcome = reader.next(rest);
    if (outcome == RedisReader::Outcome::more) return 0;
    if (outcome == RedisReader::Outcome::failed) {
        lua_pushnil(L);
        lua_pushstring(L, reader.message());
        lua_pushstring(L, redis_error_name(reader.error()));
        return 3;
    }
    lua_pushnumber(L, static_cast<lua_Number>(data.size() - rest.size() + 1));
    return 1 + push_reply(L, reader);
}

// ---- commands ----

void check_part(lua_State* L, int index, int number) {
    const int type = lua_type(L, index);
    if (type == LUA_TNUMBER && !std::isnan(lua_tonumber(L, index))) return;
    if (type == LUA_TSTRING) return;
    misuse(L, "redis: part %d of a command has to be a string or a number, not %s", number,
           type == LUA_TNUMBER ? "nan" : lua_typename(L, type));
}

// How many parts the values from `first` on are; the elements of a table are parts each. Raises for
// what is no part.
std::size_t check_parts(lua_State* L, int first) {
    const int top = lua_gettop(L);
    std::size_t count = 0;
    luaL_checkstack(L, 4, nullptr);
    for (int index = first; index <= top; ++index) {
        if (!lua_istable(L, index)) {
            check_part(L, index, static_cast<int>(++count));
            continue;
        }
        const std::size_t size = lua_objlen(L, index);
        if (count + size > RedisCommand::kMaxParts) return count + size;  // refused by make()
        for (std::size_t i = 1; i <= size; ++i) {
            lua_rawgeti(L, index, static_cast<int>(i));
            check_part(L, -1, static_cast<int>(++count));
            lua_pop(L, 1);
        }
    }
    return count;
}

struct Digits {
    char text[32];
};

// Integers as such, other numbers with as many digits as tell them apart.
std::string_view write_number(lua_Number number, Digits& room) {
    constexpr double kLargest = 9223372036854774784.0;
    char* const begin = room.text;
    char* const end = begin + sizeof room.text;
    const bool is_whole = std::floor(number) == number && std::fabs(number) <= kLargest;
    const auto written = is_whole ? std::to_chars(begin, end, static_cast<std::int64_t>(number))
                                  : std::to_chars(begin, end, number);
    return {begin, static_cast<std::size_t>(written.ptr - begin)};
}

// What check_parts() has seen, as bytes. Calls nothing that raises.
class Parts {
  public:
    Parts(lua_State* L, int first, std::size_t count) : L_(L) {
        texts_.reserve(count);
        sizes_.reserve(count);
        numbers_.reserve(count);
        const int top = lua_gettop(L);
        for (int index = first; index <= top; ++index) {
            if (!lua_istable(L, index)) {
                add(index);
                continue;
            }
            const std::size_t size = lua_objlen(L, index);
            for (std::size_t i = 1; i <= size; ++i) {
                lua_rawgeti(L, index, static_cast<int>(i));
                add(-1);
                lua_pop(L, 1);
            }
        }
    }
    Result<RedisCommand> command() { return RedisCommand::make(texts_, sizes_); }

  private:
    void add(int index) {
        std::string_view text;
        if (lua_type(L_, index) == LUA_TNUMBER) {
            text = write_number(lua_tonumber(L_, index), numbers_.emplace_back());
        } else {
            std::size_t size = 0;
            const char* data = lua_tolstring(L_, index, &size);
            text = {data, size};
        }
        texts_.push_back(text.data());
        sizes_.push_back(text.size());
    }

    lua_State* const L_;
    std::byte room_[1024];  // enough for a dozen parts
    std::pmr::monotonic_buffer_resource memory_{room_, sizeof room_};
    std::pmr::vector<const char*> texts_{&memory_};
    std::pmr::vector<std::size_t> sizes_{&memory_};
    std::pmr::vector<Digits> numbers_{&memory_};  // reserved, so that none moves
};

Result<RedisCommand> make_command(lua_State* L, int first, std::size_t count) {
    if (count > RedisCommand::kMaxParts) {
        return Status::error(StatusCode::too_large, "a command of over %zu parts",
                             RedisCommand::kMaxParts);
    }
    return Parts(L, first, count).command();
}

Status write_command(lua_State* L, ConnectionId id, std::size_t count, std::size_t* size) {
    const Result<RedisCommand> command = make_command(L, 2, count);
    if (!command.ok()) return command.status();
    *size = command.value().bytes().size();
    return Vm::of(L).host().network()->write_raw(id, command.value().bytes());
}

// write(connection, part, ...) -> bytes | nil, message, code
int redis_write(lua_State* L) {
    const ConnectionId id = check_connection(L, 1);
    const std::size_t count = check_parts(L, 2);
    std::size_t size = 0;
    const Status status = write_command(L, id, count, &size);
    if (!status.ok()) return push_error(L, status);
    lua_pushnumber(L, static_cast<lua_Number>(size));
    return 1;
}

// Pushes the bytes, which may raise when there is no memory: `command` is freed by unwinding.
Status push_command(lua_State* L, std::size_t count) {
    const Result<RedisCommand> command = make_command(L, 1, count);
    if (command.ok()) push_text(L, command.value().bytes());
    return command.status();
}

// format(part, ...) -> bytes | nil, message, code
int redis_format(lua_State* L) {
    const std::size_t count = check_parts(L, 1);
    const Status status = push_command(L, count);
    return status.ok() ? 1 : push_error(L, status);
}

// error(code, message) -> error object
int redis_error(lua_State* L) {
    luaL_checkstring(L, 1);
    luaL_checkstring(L, 2);
    lua_settop(L, 2);
    lua_createtable(L, 0, 2);
    lua_insert(L, 1);
    lua_setfield(L, 1, "message");
    lua_setfield(L, 1, "code");
    set_error_type(L);
    return 1;
}

// misuse(text): raises, with the line of the script that called the library
int redis_misuse(lua_State* L) { return misuse(L, "%s", luaL_checkstring(L, 1)); }

// slot(key) -> 0 to 16383
int redis_slot_of(lua_State* L) {
    check_part(L, 1, 1);
    Digits digits;
    const std::string_view key = lua_type(L, 1) == LUA_TNUMBER
                                     ? write_number(lua_tonumber(L, 1), digits)
                                     : check_bytes(L, 1);
    lua_pushinteger(L, static_cast<lua_Integer>(redis_slot(key)));
    return 1;
}

// ---- the library ----

int error_to_string(lua_State* L) {
    lua_getfield(L, 1, "message");
    return 1;
}

void make_types(lua_State* L) {
    if (luaL_newmetatable(L, kReaderType) != 0) {
        lua_pushcfunction(L, reader_collect);
        lua_setfield(L, -2, "__gc");
        lua_pushliteral(L, "reader");
        lua_setfield(L, -2, "__metatable");
        lua_createtable(L, 0, 1);
        lua_pushcfunction(L, reader_next);
        lua_setfield(L, -2, "next");
        lua_setfield(L, -2, "__index");
    }
    if (luaL_newmetatable(L, kErrorType) != 0) {
        lua_pushcfunction(L, error_to_string);
        lua_setfield(L, -2, "__tostring");
        lua_pushstring(L, kErrorType);
        lua_setfield(L, -2, "__metatable");
    }
    lua_pop(L, 2);
}

const luaL_Reg kFunctions[] = {
    {"reader", redis_reader}, {"write", redis_write},  {"format", redis_format},
    {"error", redis_error},   {"slot", redis_slot_of}, {"misuse", redis_misuse},
    {nullptr, nullptr},
};

}  // namespace

void push_redis_library(lua_State* L) {
    make_types(L);
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
    lua_pushlightuserdata(L, nullptr);
    lua_setfield(L, -2, "null");
    lua_pushinteger(L, RedisCommand::kSlots);
    lua_setfield(L, -2, "slots");
}

}  // namespace perilune
