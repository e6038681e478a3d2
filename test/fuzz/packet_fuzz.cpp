// Fuzzes perilune.packet: whatever the bytes, decoding answers; what BUF accepts encodes to the
// same bytes again; what is taken for JSON is what lua-cjson takes for it, and says the same.
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

#include "driver.h"
#include "lua/lua_packet.h"

extern "C" int luaopen_cjson(lua_State* L);

namespace perilune::fuzz {

namespace {

constexpr const char* kSetup = R"(
    cjson.decode_invalid_numbers(false)
    local every = packet.compile({
        {"a", "i8"}, {"b", "i16"}, {"c", "i32"}, {"d", "i64"}, {"e", "u8"}, {"f", "u16"},
        {"g", "u32"}, {"h", "u64"}, {"k", "bool"}, {"l", "string"}, {"m", "bytes"},
        {"n", {list = "u16"}}, {"o", {list = {{"x", "f64"}, {"y", {list = "string"}}}}}}, "every")
    local text = packet.compile("string", "text")
    local nested = packet.compile({list = {list = {list = "u8"}}}, "nested")
    local loose = packet.compile({{"a", "f64", true}, {"s", "string", true},
        {"l", {list = "f64"}, true}}, "loose")

    local function equal(a, b)
        if type(a) ~= "table" or type(b) ~= "table" then return a == b end
        for key, value in pairs(a) do if not equal(value, b[key]) then return false end end
        for key in pairs(b) do if a[key] == nil then return false end end
        return true
    end
    local function check(codec, body)
        local value = codec:decode(body)
        if value == nil then return end
        assert(equal(codec:from_json(codec:to_json(value)), value))
        assert(codec:encode(value) == body)
    end
    local function check_json(json)
        local value, message, code = loose:from_json(json)
        if code == "malformed" then
            -- lua-cjson also takes "1.", "1.e5" and "-.5".
            if json:find("%d%.%D") or json:find("%d%.$") or json:find("-.", 1, true)
                or json:find("%z") then return end
            return assert(not packet.is_utf8(json) or not pcall(cjson.decode, json), json)
        end
        local is_json, other = pcall(cjson.decode, json)
        -- It also refuses 1e20.
        if not is_json and other:find("beyond 2^53", 1, true) then return end
        assert(is_json, other)
        if not value then return end
        local function same(ours, theirs, default)
            if theirs == nil or theirs == cjson.null then theirs = default end
            assert(equal(ours, theirs), json)
        end
        same(value.a, other.a, 0)
        same(value.s, other.s, "")
        same(value.l, other.l, {})
    end
    function run(data)
        check_json(data)
        local stype, ctype, utag, proto_type = packet.header(data)
        if not stype then return end
        local body = packet.body(data)
        assert(packet.make(stype, ctype, utag, proto_type, body) == data)
        assert(packet.body(packet.restamp(data, 7)) == body)
        local inner, uids = packet.unwrap_broadcast(body)
        if inner then assert(packet.wrap_broadcast(inner, uids) == body) end
        local id = packet.request_id(data)
        for _, codec in ipairs { every, text, nested, loose } do
            check(codec, body)
            local ok, value, request_id, failed_id = packet.decode(codec, data)
            if ok then assert(request_id == id) end
            if request_id == "invalid_params" then assert(failed_id == id) end
            if request_id == "malformed" and proto_type == 1 then assert(not id) end
        end
    end)";

struct Vm {
    Vm() : L(luaL_newstate()) {
        luaL_openlibs(L);
        push_packet_library(L);
        lua_setglobal(L, "packet");
        lua_pushcfunction(L, luaopen_cjson);
        lua_call(L, 0, 1);
        lua_setglobal(L, "cjson");
        if (luaL_dostring(L, kSetup) != 0) std::abort();
    }
    ~Vm() { lua_close(L); }
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;

    lua_State* const L;
};

// JSON of the kind that the target looks at, and a byte changed now and then.
void append_json(std::mt19937_64& random, std::string& out, int depth) {
    static const char* const kPieces[] = {"null",
                                          "true",
                                          "0",
                                          "-12",
                                          "1.5",
                                          "2e3",
                                          "1e999",
                                          "9007199254740992",
                                          "\"\"",
                                          "\"a\"",
                                          "\"\\u00e9\\n\"",
                                          "\"\\ud83d\\ude00\"",
                                          "[]",
                                          "{}",
                                          "\"x\\\"]\""};
    if (depth > 3 || random() % 3 == 0) {
        out += kPieces[random() % std::size(kPieces)];
        return;
    }
    const bool is_object = random() % 3 != 0;
    out += is_object ? '{' : '[';
    for (unsigned i = random() % 4; i > 0; --i) {
        static const char* const kKeys[] = {
            "\"0\":", "\"1\":", "\"a\":", "\"s\" :", "\"l\":", "\"\\u0061\": ", "\"z\":"};
        if (is_object) out += kKeys[random() % std::size(kKeys)];
        append_json(random, out, depth + 1);
        if (i > 1) out += ',';
    }
    out += is_object ? '}' : ']';
}

void mutate(std::mt19937_64& random, std::string& text) {
    static const std::string kBytes = "{}[]\":,.-+eE0123456789\\u \tntf\xc3\xa9";
    for (unsigned i = random() % 3; i > 0 && !text.empty(); --i) {
        const std::size_t at = random() % text.size();
        if (random() % 2 == 0) {
            text[at] = kBytes[random() % kBytes.size()];
        } else {
            text.erase(at, 1);
        }
    }
}

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    static const Vm vm;
    lua_State* const L = vm.L;
    if (size > kMaxPacket) return;
    lua_getglobal(L, "run");
    lua_pushlstring(L, reinterpret_cast<const char*>(data), size);
    if (lua_pcall(L, 1, 0, 0) != 0) {
        std::fprintf(stderr, "%s\n", lua_tostring(L, -1));
        std::abort();
    }
}

std::string random_input(std::mt19937_64& random, unsigned long round) {
    if (round % 2 == 0) {
        std::string json;
        append_json(random, json, 0);
        if (round % 4 == 0) mutate(random, json);
        if (round % 8 < 4) return json;
        std::string packet(kPacketHeader + 2, '\0');
        packet[8] = 1;
        packet[10] = static_cast<char>(json.size());
        packet[11] = static_cast<char>(json.size() >> 8);
        return packet + json;
    }
    // Short bodies of small numbers: lengths and counts that fit are frequent.
    std::string bytes(random() % 120, '\0');
    const unsigned kind = round / 2 % 3;
    for (char& byte : bytes) {
        byte = static_cast<char>(kind == 0 ? random() : random() % (kind == 1 ? 2 : 8));
    }
    return bytes;
}

}  // namespace perilune::fuzz
