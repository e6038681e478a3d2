#include "lua/lua_http.h"

#include <cmath>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

#include "net/http.h"

namespace perilune {

namespace {

using Event = HttpParser::Event;

constexpr const char* kParserType = "perilune.http.parser";
constexpr std::size_t kKeptRoom = 4 * 1024;

struct Parser {
    Parser(HttpParser::Kind kind, const HttpLimits& limits) : parser(kind, limits) {}

    HttpParser parser;
    std::string joined;        // pieces of a body that one feed() found
    Event held = Event::more;  // met behind such pieces, told by the next feed()
};

Parser& check_parser(lua_State* L) {
    return *static_cast<Parser*>(luaL_checkudata(L, 1, kParserType));
}

void push_text(lua_State* L, std::string_view text) {
    lua_pushlstring(L, text.data(), text.size());
}

void set_text(lua_State* L, const char* key, std::string_view text) {
    push_text(L, text);
    lua_setfield(L, -2, key);
}

void set_flag(lua_State* L, const char* key, bool value) {
    lua_pushboolean(L, value ? 1 : 0);
    lua_setfield(L, -2, key);
}

// ---- limits ----

struct LimitRow {
    const char* name;
    double most;
};

constexpr double kMostBytes = 9007199254740992.0;
constexpr LimitRow kLimits[] = {{"header_bytes", 64 * 1024},
                                {"headers", 1000},
                                {"target_bytes", 60 * 1024},
                                {"body_bytes", kMostBytes}};

std::uint64_t check_limit(lua_State* L, const LimitRow& row, std::uint64_t otherwise) {
    lua_getfield(L, 2, row.name);
    const lua_Number number = lua_tonumber(L, -1);
    const bool given = !lua_isnil(L, -1);
    if (given && !(lua_type(L, -1) == LUA_TNUMBER && number >= 0 && number <= row.most &&
                   number == std::floor(number))) {
        luaL_error(L, "http: %s has to be an integer from 0 to %f", row.name, row.most);
    }
    lua_pop(L, 1);
    return given ? static_cast<std::uint64_t>(number) : otherwise;
}

HttpLimits check_limits(lua_State* L) {
    HttpLimits limits;
    if (lua_isnoneornil(L, 2)) return limits;
    luaL_checktype(L, 2, LUA_TTABLE);
    const auto narrow = [](std::uint64_t value) { return static_cast<std::uint32_t>(value); };
    limits.header_bytes = narrow(check_limit(L, kLimits[0], limits.header_bytes));
    limits.headers = narrow(check_limit(L, kLimits[1], limits.headers));
    limits.target_bytes = narrow(check_limit(L, kLimits[2], limits.target_bytes));
    limits.body_bytes = check_limit(L, kLimits[3], limits.body_bytes);
    return limits;
}

// ---- messages as tables ----

// Each Set-Cookie stays by itself, since its value may have commas; cookies are joined by ";".
void add_header(lua_State* L, int table, const HttpHeader& header) {
    push_text(L, header.name);
    lua_pushvalue(L, -1);
    lua_rawget(L, table);
    const bool known = !lua_isnil(L, -1);
    if (header.name == "set-cookie") {
        if (!known) {
            lua_pop(L, 1);
            lua_createtable(L, 1, 0);
        }
        push_text(L, header.value);
        lua_rawseti(L, -2, static_cast<int>(lua_objlen(L, -2)) + 1);
    } else if (known) {
        push_text(L, header.name == "cookie" ? "; " : ", ");
        push_text(L, header.value);
        lua_concat(L, 3);
    } else {
        lua_pop(L, 1);
        push_text(L, header.value);
    }
    lua_rawset(L, table);
}

void push_headers(lua_State* L, const std::vector<HttpHeader>& headers) {
    lua_createtable(L, 0, static_cast<int>(headers.size()));
    const int table = lua_gettop(L);
    for (const HttpHeader& header : headers) add_header(L, table, header);
}

void push_head(lua_State* L, const HttpHead& head) {
    lua_createtable(L, 0, 8);
    if (head.status == 0) {
        set_text(L, "method", head.method);
        set_text(L, "target", head.target);
    } else {
        lua_pushinteger(L, head.status);
        lua_setfield(L, -2, "status");
        set_text(L, "reason", head.reason);
    }
    set_text(L, "version", head.minor == 0 ? "1.0" : "1.1");
    set_flag(L, "keep_alive", head.keep_alive);
    set_flag(L, "upgrade", head.upgrade);
    set_flag(L, "chunked", head.chunked);
    if (head.length) {
        lua_pushnumber(L, static_cast<lua_Number>(*head.length));
        lua_setfield(L, -2, "length");
    }
    push_headers(L, head.headers);
    lua_setfield(L, -2, "headers");
}

int push_failed(lua_State* L, const HttpParser& parser) {
    lua_pushnil(L);
    lua_pushstring(L, parser.message());
    lua_pushstring(L, http_error_name(parser.error()));
    lua_pushinteger(L, http_error_status(parser.error()));
    return 4;
}

// ---- the parser ----

// parser(kind, limits) -> parser
int http_parser_new(lua_State* L) {
    static const char* const kKinds[] = {"request", "response", nullptr};
    const bool is_request = luaL_checkoption(L, 1, nullptr, kKinds) == 0;
    const HttpLimits limits = check_limits(L);
    new (lua_newuserdata(L, sizeof(Parser)))
        Parser(is_request ? HttpParser::Kind::request : HttpParser::Kind::response, limits);
    luaL_getmetatable(L, kParserType);
    lua_setmetatable(L, -2);
    return 1;
}

int parser_collect(lua_State* L) {
    static_cast<Parser*>(lua_touserdata(L, 1))->~Parser();
    return 0;
}

// All of the body that `rest` has, in one piece. What comes behind it is held.
std::string_view gather(Parser& self, std::string_view& rest, std::string_view first) {
    std::string_view piece;
    self.joined.clear();
    while ((self.held = self.parser.next(rest, piece)) == Event::body) {
        if (self.joined.empty()) self.joined.append(first);
        self.joined.append(piece);
    }
    return self.joined.empty() ? first : self.joined;
}

int push_event(lua_State* L, Parser& self, Event event, std::size_t position) {
    static const char* const kNames[] = {"more", "head", "body", "end"};
    if (event == Event::failed) return push_failed(L, self.parser);
    lua_pushstring(L, kNames[static_cast<int>(event)]);
    lua_pushnumber(L, static_cast<lua_Number>(position));
    if (event == Event::head) {
        push_head(L, self.parser.head());
        return 3;
    }
    if (event == Event::end && !self.parser.trailers().empty()) {
        push_headers(L, self.parser.trailers());
        return 3;
    }
    return 2;
}

// parser:feed(data, from) -> event, next position, what belongs to it | nil, message, code, status
int parser_feed(lua_State* L) {
    Parser& self = check_parser(L);
    std::size_t size = 0;
    const char* data = luaL_checklstring(L, 2, &size);
    const lua_Number from = luaL_optnumber(L, 3, 1);
    luaL_argcheck(L, from >= 1 && from <= static_cast<lua_Number>(size) + 1, 3,
                  "a position within the data expected");
    std::string_view rest(data, size);
    rest.remove_prefix(static_cast<std::size_t>(from) - 1);
    std::string_view body;
    Event event = self.held;
    self.held = Event::more;
    if (event == Event::more) event = self.parser.next(rest, body);
    if (event != Event::body) return push_event(L, self, event, size - rest.size() + 1);
    body = gather(self, rest, body);
    push_event(L, self, event, size - rest.size() + 1);
    push_text(L, body);
    if (self.joined.capacity() > kKeptRoom) std::string().swap(self.joined);
    return 3;
}

// parser:finish() -> event | nil, message, code, status
int parser_finish(lua_State* L) {
    Parser& self = check_parser(L);
    const Event event = self.parser.finish();
    return push_event(L, self, event, 1);
}

// parser:limit_body(bytes)
int parser_limit_body(lua_State* L) {
    Parser& self = check_parser(L);
    const lua_Number bytes = luaL_checknumber(L, 2);
    luaL_argcheck(L, bytes >= 0 && bytes <= kMostBytes, 2, "a number of bytes expected");
    self.parser.limit_body(static_cast<std::uint64_t>(bytes));
    return 0;
}

// parser:expect_no_body()
int parser_expect_no_body(lua_State* L) {
    check_parser(L).parser.expect_no_body();
    return 0;
}

// parser:is_between() -> boolean
int parser_is_between(lua_State* L) {
    const Parser& self = check_parser(L);
    lua_pushboolean(L, self.parser.is_between() && self.held == Event::more ? 1 : 0);
    return 1;
}

// status_text(status) -> text
int http_status_text_of(lua_State* L) {
    lua_pushstring(L, http_status_text(static_cast<int>(luaL_checkinteger(L, 1))));
    return 1;
}

const luaL_Reg kMethods[] = {
    {"feed", parser_feed},
    {"finish", parser_finish},
    {"limit_body", parser_limit_body},
    {"expect_no_body", parser_expect_no_body},
    {"is_between", parser_is_between},
    {nullptr, nullptr},
};

const luaL_Reg kFunctions[] = {
    {"parser", http_parser_new},
    {"status_text", http_status_text_of},
    {nullptr, nullptr},
};

}  // namespace

void push_http_library(lua_State* L) {
    if (luaL_newmetatable(L, kParserType) != 0) {
        lua_pushcfunction(L, parser_collect);
        lua_setfield(L, -2, "__gc");
        lua_pushliteral(L, "parser");
        lua_setfield(L, -2, "__metatable");
        lua_newtable(L);
        luaL_setfuncs(L, kMethods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
    lua_newtable(L);
    luaL_setfuncs(L, kFunctions, 0);
}

}  // namespace perilune
