// Tests of perilune.packet (lua/lua_packet.h): golden vectors, limits, hostile bodies.
#include "lua/lua_packet.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace perilune {
namespace {

// A VM that counts what it allocates. Scripts get `packet`, `codec` (a message of every type) and
// hex().
class PacketTest : public testing::Test {
  protected:
    PacketTest() : L(lua_newstate(allocate, this)) {
        luaL_openlibs(L);
        push_packet_library(L);
        lua_setglobal(L, "packet");
        EXPECT_EQ("", run(R"(
            codec = packet.compile({
                {"a", "i8"}, {"b", "i16"}, {"c", "i32"}, {"d", "i64"}, {"e", "u8"}, {"f", "u16"},
                {"g", "u32"}, {"h", "u64"}, {"i", "f32"}, {"j", "f64"}, {"k", "bool"},
                {"l", "string"}, {"m", "bytes"}, {"n", {list = "u16"}},
                {"o", {list = {{"x", "f32"}, {"y", {list = "string"}}}}},
                {"p", {{"q", "i16", true}, {"r", "string", true}}}}, "every")
            value = {a = -128, b = -32768, c = -2147483648, d = "-9223372036854775808", e = 255,
                f = 65535, g = 4294967295, h = "18446744073709551615", i = 0.5, j = 0.1, k = true,
                l = "a\0\240\159\152\128", m = "\255\0", n = {1, 2, 3},
                o = {{x = 1, y = {"p", ""}}, {x = -1.5, y = {}}}, p = {q = 7, r = "r"}}
            function hex(text)
                return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
            end
            function unhex(text)
                return (text:gsub("%s", ""):gsub("..", function(pair)
                    return string.char(tonumber(pair, 16))
                end))
            end
            function equal(a, b)
                if type(a) ~= "table" or type(b) ~= "table" then return a == b end
                for key in pairs(a) do if not equal(a[key], b[key]) then return false end end
                for key in pairs(b) do if a[key] == nil then return false end end
                return true
            end)"));
    }
    ~PacketTest() override { lua_close(L); }

    // Runs a chunk; the string that it returns, or "error: ..." with what it raised.
    std::string run(const std::string& code) {
        lua_settop(L, 0);
        if (luaL_loadbuffer(L, code.data(), code.size(), "=test") != 0 ||
            lua_pcall(L, 0, 1, 0) != 0) {
            return std::string("error: ") + lua_tostring(L, -1);
        }
        lua_getglobal(L, "tostring");
        lua_pushvalue(L, 1);
        if (lua_isnil(L, 1)) return "";
        lua_call(L, 1, 1);
        std::size_t size = 0;
        const char* text = lua_tolstring(L, -1, &size);
        return {text, size};
    }

    static void* allocate(void* self, void* block, std::size_t old_size, std::size_t size) {
        auto* test = static_cast<PacketTest*>(self);
        test->present += static_cast<std::ptrdiff_t>(size) - static_cast<std::ptrdiff_t>(old_size);
        if (size > test->largest) test->largest = size;
        if (size != 0) return std::realloc(block, size);
        std::free(block);
        return nullptr;
    }

    std::ptrdiff_t present = 0;
    std::size_t largest = 0;
    lua_State* const L;
};

TEST_F(PacketTest, GuestLoginGoldenVector) {
    EXPECT_EQ(
        run(R"(
        local body = packet.wrap_json('"mcPYQPcNY66HWNBNy8GTdcmAtPGHdMHQ"')
        return hex(packet.make(2, 1, 0, 1, body)))"),
        "0200010000000000010028007b2230223a226d6350595150634e59363648574e424e7938475464636d4174"
        "504748644d4851227d");
}

TEST_F(PacketTest, StampedMessageGoldenVector) {
    EXPECT_EQ(run(R"(
        local data = packet.make(1, 5, 0, 1, packet.wrap_json('"hi"'))
        return hex(packet.restamp(data, 7)))"),
              "010005000700000001000a007b2230223a226869227d");
}

TEST_F(PacketTest, EnterGoldenVector) {
    EXPECT_EQ(run(R"(
        local enter = packet.compile({{"uname", "string"}, {"usex", "i16"}}, "enter")
        local data = packet.make(1, 1, 0, 2, enter:encode {uname = "a", usex = 1})
        local back = enter:decode(packet.body(data))
        assert(back.uname == "a" and back.usex == 1)
        return hex(data))"),
              "010001000000000002000100610100");
}

TEST_F(PacketTest, HeaderHasItsSigns) {
    EXPECT_EQ(run(R"(
        local data = packet.make(-1, -32768, 4294967295, 32767, "")
        return table.concat({packet.header(data)}, " "))"),
              "-1 -32768 4294967295 32767");
    EXPECT_EQ(run("return select(2, packet.header('123456789'))"),
              "packet is shorter than its header");
    EXPECT_EQ(run("return select(3, packet.header(''))"), "malformed");
    EXPECT_EQ(run("return (packet.make(40000, 0, 0, 1, ''))"),
              "error: test:1: bad argument #1 to 'make' (not an integer from -32768 to 32767)");
    EXPECT_EQ(run("return (packet.restamp('12', 1))"),
              "error: test:1: bad argument #1 to 'restamp' (packet is shorter than its header)");
    EXPECT_EQ(run("return #packet.make(1, 1, 0, 2, ('x'):rep(65523))"), "65533");
    EXPECT_NE(run("return #packet.make(1, 1, 0, 2, ('x'):rep(65524))").find("larger"),
              std::string::npos);
}

TEST_F(PacketTest, EveryTypeSurvives) {
    EXPECT_EQ(run("return equal(codec:decode(codec:encode(value)), value)"), "true");
    EXPECT_EQ(run("return (codec:to_json(value))"),
              R"({"a":-128,"b":-32768,"c":-2147483648,"d":"-9223372036854775808","e":255,)"
              R"("f":65535,"g":4294967295,"h":"18446744073709551615","i":0.5,"j":0.1,"k":true,)"
              "\"l\":\"a\\u0000\U0001F600\",\"m\":\"/wA=\",\"n\":[1,2,3],"
              R"("o":[{"x":1,"y":["p",""]},{"x":-1.5,"y":[]}],"p":{"q":7,"r":"r"}})");
}

TEST_F(PacketTest, IntegersAreExactTo2To53AndDigitsBeyond) {
    EXPECT_EQ(run(R"(
        local big = packet.compile("i64", "big")
        local function turn(n) return big:decode(big:encode(n)) end
        assert(turn(9007199254740992) == 9007199254740992)
        assert(turn(-9007199254740992) == -9007199254740992)
        assert(turn("5") == 5)
        assert(big:to_json("9007199254740993") == '"9007199254740993"')
        assert(big:from_json('"9007199254740993"') == "9007199254740993")
        return turn("9007199254740993"))"),
              "9007199254740993");
}

TEST_F(PacketTest, RealNumbersBeyond2To53AreReadAsWritten) {
    EXPECT_EQ("", run(R"(
        local reals = packet.compile({{"x", "f32"}, {"y", "f64"}}, "reals")
        for _, x in ipairs {2^53, 2^54, -2^60, 3 * 2^63, 2^126} do
            for _, y in ipairs {x, x * 1.1, 1.7e308, -5e-324} do
                local json = reals:to_json({x = x, y = y})
                local back, message = reals:from_json(json)
                assert(back and back.x == x and back.y == y, json .. (message or ""))
            end
        end)"));
}

TEST_F(PacketTest, OutOfRangeRaisesWithTheField) {
    EXPECT_EQ(run("value.a = 128 return (codec:encode(value))"),
              "error: test:1: every: field a is out of the range of i8: 128");
    EXPECT_EQ(run("value.a = 1.5 return (codec:to_json(value))"),
              "error: test:1: every: field a is not an integer but 1.5");
    EXPECT_EQ(run("value.a = nil return (codec:encode(value))"),
              "error: test:1: every: field a is not an integer but nil");
    EXPECT_EQ(run("value.a = 0 value.o[2].y[1] = 5 return (codec:encode(value))"),
              "error: test:1: every: field o[2].y[1] is not a string but number");
    EXPECT_EQ(run("value.o[2].y = {} value.l = '\\255' return (codec:encode(value))"),
              "error: test:1: every: field l is not UTF-8");
    EXPECT_EQ(run("value.l = '' value.j = 0/0 return (codec:encode(value))"),
              "error: test:1: every: field j is not a finite number");
    EXPECT_EQ(run("value.j = 0 value.i = 1e300 return (codec:encode(value))"),
              "error: test:1: every: field i is out of the range of f32: 1.0000000000000001e+300");
    EXPECT_EQ(run("value.i = 0 value.d = '9223372036854775808' return (codec:encode(value))"),
              "error: test:1: every: field d is out of the range of i64");
    EXPECT_EQ(run("value.d = '' return (codec:encode(value))"),
              "error: test:1: every: field d is not an integer but a string");
    EXPECT_EQ(run("value.d = 1 value.n = {x = 1} return (codec:encode(value))"),
              "error: test:1: every: field n is not a list but a table with keys");
    EXPECT_EQ(run("return (codec:encode(5))"),
              "error: test:1: every: it is not a table but number");
    EXPECT_EQ(run("value.n = {} value.m = ('x'):rep(65500) return (codec:encode(value))"),
              "error: test:1: every: field m makes the body larger than 65523 bytes");
}

TEST_F(PacketTest, TruncationAtEachByteIsRefused) {
    EXPECT_EQ(run(R"(
        local bytes = codec:encode(value)
        for size = 0, #bytes - 1 do
            local decoded, message, code = codec:decode(bytes:sub(1, size))
            assert(decoded == nil and code == "malformed" and message:find("cut off"), size)
        end
        return select(2, codec:decode(bytes .. "x")))"),
              "every: it is followed by 1 bytes too many");
}

TEST_F(PacketTest, NothingIsAllocatedAheadOfWhatArrived) {
    EXPECT_EQ(run(R"(
        lists = packet.compile({list = "u8"}, "lists")
        blob = packet.compile("bytes", "blob")
        big_list, big_blob = unhex "ffff0000", unhex "ffffffff0000")"),
              "");
    largest = 0;
    EXPECT_EQ(run("return select(2, lists:decode(big_list))"), "lists: it is cut off: 65535 items");
    EXPECT_EQ(run("return select(2, blob:decode(big_blob))"),
              "blob: it is cut off: 2 of 4294967295 bytes");
    EXPECT_LT(largest, 8192U);
}

TEST_F(PacketTest, WrongBytesAreRefused) {
    EXPECT_EQ(run("return select(2, packet.compile('bool', 'x'):decode('\\2'))"),
              "x: it is not a boolean but 2");
    EXPECT_EQ(run("return select(2, packet.compile('string', 'x'):decode('\\2\\0\\237\\160'))"),
              "x: it is not UTF-8");
    EXPECT_EQ(run("return select(2, packet.compile('f32', 'x'):decode('\\0\\0\\128\\127'))"),
              "x: it is not a finite number");
    EXPECT_EQ(run("return select(2, packet.compile({}, 'x'):decode('1'))"),
              "x: it is followed by 1 bytes too many");
    // A length that reads negative as i16.
    EXPECT_EQ(run("return select(2, packet.compile('string', 'x'):decode('\\255\\255ab'))"),
              "x: it is cut off: 2 of 65535 bytes");
}

TEST_F(PacketTest, StringsOver32767BytesSurvive) {
    EXPECT_EQ(run(R"(
        local text = packet.compile("string", "text")
        local long = ("x"):rep(40000)
        return text:decode(text:encode(long)) == long)"),
              "true");
}

TEST_F(PacketTest, JsonIsCheckedAsBufIs) {
    EXPECT_EQ(run(R"(
        text = codec:to_json(value)
        local got = assert(codec:from_json(text))
        assert(equal(got, value))
        return equal(got, codec:decode(codec:encode(got))))"),
              "true");
    EXPECT_EQ(run(R"(
        local got = assert(codec:from_json((text:gsub('"p":.*', '"p":{"z":[{}],"q":null}}'))))
        assert(got.p.q == 0 and got.p.r == "" and got.p.z == nil)
        got = assert(codec:from_json((text:gsub('"n":%[1,2,3%]', ' "n" : [ ] , "n":{}, "zz":[1]'))))
        return #got.n)"),
              "0");
    // A field's text replaced by another: what is wrong with it.
    EXPECT_EQ(run(R"(
        function fault(field, json)
            local pattern = ('"%s":[^,]*'):format(field)
            local replaced = json and ('"%s":%s'):format(field, json) or '"x":1'
            local value, why, code = codec:from_json((text:gsub(pattern, replaced, 1)))
            assert(value == nil and code == "invalid_params", why)
            return (why:gsub("^every: ", ""))
        end)"),
              "");
    EXPECT_EQ(run("return fault('m', '\"/wA\"')"), "field m is not base64");
    EXPECT_EQ(run("return fault('m', '\"/w=A\"')"), "field m is not base64");
    EXPECT_EQ(run("return fault('a', '128')"), "field a is out of the range of i8: 128");
    EXPECT_EQ(run("return fault('a', '1.5')"), "field a is not an integer but 1.5");
    EXPECT_EQ(run("return fault('a', '1e999')"), "field a is not an integer but inf");
    EXPECT_EQ(run("return fault('a', 'null')"), "field a is not an integer but nil");
    EXPECT_EQ(run("return fault('a')"), "field a is not an integer but nil");
    EXPECT_EQ(run("return fault('a', '\"1\"')"), "field a is not an integer but string");
    EXPECT_EQ(run("return fault('d', '\"1x\"')"), "field d is not an integer but a string");
    EXPECT_EQ(run("return fault('h', '-1')"), "field h is out of the range of u64: -1");
    EXPECT_EQ(run("return fault('i', '1e39')"),
              "field i is out of the range of f32: 9.9999999999999994e+38");
    EXPECT_EQ(run("return fault('k', '1')"), "field k is not a boolean but number");
    EXPECT_EQ(run("return fault('l', 'true')"), "field l is not a string but boolean");
    EXPECT_EQ(run("return fault('n', '{\"x\":1}, \"y\":[1')"),
              "field n is not a list but a table with keys");
    EXPECT_EQ(run("return fault('n', '[70000')"), "field n[1] is out of the range of u16: 70000");
    EXPECT_EQ(run("return fault('q', '[]')"), "field p.q is not an integer but table");
    EXPECT_EQ(run("return select(2, codec:from_json('5'))"), "every: it is not a table but number");
    EXPECT_EQ(run("return select(2, codec:from_json('[1]'))"),
              "every: field a is not an integer but nil");
    EXPECT_EQ(run("return select(3, codec:from_json('{'))"), "malformed");
    EXPECT_EQ(run("return select(3, codec:from_json('\"\\255\"'))"), "malformed");
}

TEST_F(PacketTest, JsonBodiesSayTheirLength) {
    EXPECT_EQ(run("return hex(packet.wrap_json('null'))"), "0a007b2230223a6e756c6c7d");
    EXPECT_EQ(run("return packet.wrap_json('1', 9007199254740992):sub(3)"),
              R"({"0":1,"1":9007199254740992})");
    EXPECT_NE(run("return packet.wrap_json('1', 0)").find("error"), std::string::npos);
    EXPECT_NE(run("return packet.wrap_json('1', 1.5)").find("error"), std::string::npos);
    EXPECT_EQ(run(R"(
        text = packet.compile("string", "text")
        data = packet.encode(text, 1, 5, 0, 1, "x", 7)
        local ok, value, id = packet.decode(text, data)
        assert(ok and value == "x" and id == 7 and packet.request_id(data) == 7)
        for size = 10, #data - 1 do
            local ok, message, code = packet.decode(text, data:sub(1, size))
            assert(not ok and message == "JSON body is cut off" and code == "malformed")
        end
        return select(2, packet.decode(text, data .. " ")))"),
              "JSON body is longer than it says");
    EXPECT_EQ(run("return select(2, packet.decode(text, packet.make(1, 5, 0, 1, '\\1\\0\\255')))"),
              "JSON body is not UTF-8");
    EXPECT_EQ(run("return packet.request_id('short')"), "");
}

TEST_F(PacketTest, JsonBodiesHaveAValueAndARequestId) {
    EXPECT_EQ(run(R"(
        number = packet.compile({{"n", "i32", true}}, "number")
        function decode(json, takes_nothing)
            local body = string.char(#json % 256, math.floor(#json / 256)) .. json
            return packet.decode(number, packet.make(1, 5, 0, 1, body), takes_nothing)
        end
        function says(json) return tostring(select(2, decode(json))) end)"),
              "");
    EXPECT_EQ(run(R"(
        local ok, value, id = decode('{ "x":[{"0":1}], "\\u0031":12, "0":{"n":5}, "0":{"n":6} }')
        return tostring(ok) .. value.n .. id)"),
              "true612");
    EXPECT_EQ(run("return select(3, decode('{\"1\":null}', true)) == nil"), "true");
    EXPECT_EQ(run("return select(2, decode('{}', true)).n"), "0");
    EXPECT_EQ(run("return says('{\"1\":3}')"), "number: it is not a table but null");
    EXPECT_EQ(run("return select(4, decode('{\"0\":5,\"1\":3}'))"), "3") << "it doesn't fit";
    EXPECT_EQ(run("return says('[]')"), "JSON body is no object");
    EXPECT_EQ(run("return says('{\"0\":1')"), "JSON body is cut off");
    for (const char* id : {"0", "-1", "1.5", "\\\"1\\\"", "true", "{}", "1e17"}) {
        EXPECT_EQ(run(std::string("return says('{\"0\":{},\"1\":") + id + "}')"),
                  "JSON body has a request_id that is no positive integer")
            << id;
    }
    // Without declared fields any JSON will do for the value, and no bytes for BUF.
    EXPECT_EQ(run(R"(
        local ok, value, id = packet.decode(nil, packet.make(1, 2, 0, 1, packet.wrap_json('[5]', 3)))
        assert(ok and value == nil and id == 3)
        assert(packet.decode(nil, packet.make(1, 2, 0, 2, "")))
        return select(2, packet.decode(nil, packet.make(1, 2, 0, 2, "x"))))"),
              "a BUF body without declared fields is empty");
    EXPECT_EQ(run("return select(2, packet.decode(nil, packet.make(1, 2, 0, 3, '')))"),
              "proto_type 3 is neither JSON nor BUF");
}

TEST_F(PacketTest, LargeBodiesRaise) {
    EXPECT_EQ(run(R"(
        text = packet.compile("string", "text")
        return #packet.encode(text, 1, 5, 0, 1, ("x"):rep(65513)))"),
              "65533");
    EXPECT_EQ(run("return (packet.encode(text, 1, 5, 0, 1, ('x'):rep(65514)))"),
              "error: test:1: the body is larger than 65523 bytes");
    EXPECT_EQ(run("return (packet.encode(text, 1, 5, 0, 2, 5))"),
              "error: test:1: text: it is not a string but number");
}

TEST_F(PacketTest, BroadcastsSurvive) {
    EXPECT_EQ(run(R"(
        local data = packet.make(1, 6, 0, 1, packet.wrap_json('"hi"'))
        local body = packet.wrap_broadcast(data, {7, 4294967295})
        local inner, uids = packet.unwrap_broadcast(body)
        assert(inner == data and equal(uids, {7, 4294967295}))
        for size = 0, #body - 1 do assert(not packet.unwrap_broadcast(body:sub(1, size))) end
        assert(not packet.unwrap_broadcast(body .. "x"))
        return hex(body))"),
              "1600010006000000000001000a007b2230223a226869227d020007000000ffffffff");
    EXPECT_NE(run("return packet.wrap_broadcast(('x'):rep(10), {-1})").find("not a list of uids"),
              std::string::npos);
}

TEST_F(PacketTest, Utf8IsStrict) {
    EXPECT_EQ(run("return packet.is_utf8('\\194\\128 \\224\\160\\128 \\244\\143\\191\\191')"),
              "true");
    for (const char* text : {"\\128", "\\192\\128", "\\193\\191", "\\224\\159\\191",
                             "\\237\\160\\128", "\\240\\143\\191\\191", "\\244\\144\\128\\128",
                             "\\245\\128\\128\\128", "a\\195", "\\240\\159\\152", "\\255"}) {
        EXPECT_EQ(run(std::string("return packet.is_utf8('") + text + "')"), "false") << text;
    }
}

TEST_F(PacketTest, WrongDescriptionsRaise) {
    for (const char* description : {"'i128'", "5", "{5}", "{{'a'}}", "{{5, 'i8'}}", "{list = 5}",
                                    "{list = {}}", "{list = {list = {}}}"}) {
        const std::string said = run(std::string("packet.compile(") + description + ", 'x')");
        EXPECT_EQ(said.rfind("error: test:1: x: ", 0), 0U) << description << ": " << said;
    }
    EXPECT_EQ(run("local t = {} t.list = t packet.compile(t, 'x')"),
              "error: test:1: x: nested too deep");
}

TEST_F(PacketTest, RandomBytesDecodeToWhatEncodesToTheSameBytes) {
    std::mt19937 random(1);
    ASSERT_EQ(run("sample = codec:encode(value)"), "");
    lua_getglobal(L, "sample");
    std::size_t size = 0;
    const char* text = lua_tolstring(L, -1, &size);
    const std::string sample(text, size);
    int decoded = 0;
    for (int i = 0; i < 100000; ++i) {
        std::string bytes = sample;
        for (unsigned k = random() % 4; k > 0; --k) {
            bytes[random() % bytes.size()] = static_cast<char>(random());
        }
        if (random() % 4 == 0) bytes.resize(random() % bytes.size());
        lua_settop(L, 0);
        lua_getglobal(L, "codec");
        lua_getfield(L, 1, "encode");
        lua_pushvalue(L, 1);
        lua_getfield(L, 1, "decode");
        lua_pushvalue(L, 1);
        lua_pushlstring(L, bytes.data(), bytes.size());
        ASSERT_EQ(lua_pcall(L, 2, 1, 0), 0) << lua_tostring(L, -1);
        if (lua_isnil(L, -1)) continue;
        ASSERT_EQ(lua_pcall(L, 2, 1, 0), 0) << lua_tostring(L, -1);
        ASSERT_EQ(bytes, std::string(lua_tostring(L, -1), lua_objlen(L, -1)));
        ++decoded;
    }
    EXPECT_GT(decoded, 1000);
}

}  // namespace
}  // namespace perilune
