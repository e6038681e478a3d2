// Tests of the codec: the same bytes through C++ values (core/codec.h) and through a Lua stack
// (lua/lua_codec.h).
#include "core/codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>

#include "core/shared_tree.h"
#include "lua/lua_codec.h"

namespace perilune {
namespace {

// A VM that counts what it allocates. The JIT is off: what is tested is the C API, and a run
// must not depend on what has become hot.
class Vm {
  public:
    Vm() : L(lua_newstate(allocate, this)) {
        luaL_openlibs(L);
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
        push_codec_library(L);
        lua_setglobal(L, "codec");
        present_ = peak_ = 0;
    }
    ~Vm() { lua_close(L); }
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;

    // Runs a chunk; the string that it returns, or "error: ..." with what it raised.
    std::string run(const std::string& code) {
        lua_settop(L, 0);
        if (luaL_loadstring(L, code.c_str()) != 0 || lua_pcall(L, 0, 1, 0) != 0) {
            return std::string("error: ") + lua_tostring(L, -1);
        }
        std::size_t size = 0;
        const char* text = lua_tolstring(L, -1, &size);
        return text == nullptr ? "" : std::string(text, size);
    }

    // What pack() says of the values that an expression list gives, "" when nothing.
    std::string pack_error(const std::string& expressions) {
        lua_settop(L, 0);
        if (luaL_dostring(L, ("return " + expressions).c_str()) != 0) return lua_tostring(L, -1);
        const int top = lua_gettop(L);
        PayloadWriter out;
        const Status status = pack(L, 1, top, out);
        EXPECT_EQ(lua_gettop(L), top);
        return status.message();
    }

    void reset_peak() { peak_ = present_; }
    std::ptrdiff_t peak_above(std::ptrdiff_t start) const { return peak_ - start; }
    std::ptrdiff_t present() const { return present_; }

    lua_State* const L;

  private:
    static void* allocate(void* self, void* block, std::size_t old_size, std::size_t size) {
        auto* vm = static_cast<Vm*>(self);
        vm->present_ += static_cast<std::ptrdiff_t>(size) - static_cast<std::ptrdiff_t>(old_size);
        vm->peak_ = std::max(vm->peak_, vm->present_);
        if (size == 0) {
            std::free(block);
            return nullptr;
        }
        return std::realloc(block, size);
    }
    std::ptrdiff_t present_ = 0;
    std::ptrdiff_t peak_ = 0;
};

std::string encoded(const Values& values) {
    PayloadWriter out;
    const Status status = encode(values, out);
    EXPECT_TRUE(status.ok()) << status.message();
    return {out.data(), out.size()};
}

Values decoded(const std::string& bytes) {
    const Result<Values> result = decode(bytes.data(), bytes.size());
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? result.value() : Values{};
}

Status decode_status(const std::string& bytes) {
    return decode(bytes.data(), bytes.size()).status();
}

// The payload after a way through a Lua stack.
std::string through_lua(lua_State* L, const std::string& bytes) {
    lua_settop(L, 0);
    int count = 0;
    const Status read = unpack(L, bytes.data(), bytes.size(), &count);
    EXPECT_TRUE(read.ok()) << read.message();
    EXPECT_EQ(count, lua_gettop(L));
    PayloadWriter out;
    const Status written = pack(L, 1, count, out);
    EXPECT_TRUE(written.ok()) << written.message();
    lua_settop(L, 0);
    return {out.data(), out.size()};
}

using Random = std::mt19937_64;

std::size_t below(Random& random, std::size_t limit) { return random() % limit; }

double random_number(Random& random) {
    switch (below(random, 6)) {
        case 0: return static_cast<double>(below(random, 200)) - 50;
        case 1: return static_cast<double>(static_cast<std::int32_t>(random()));
        case 2: return static_cast<double>(static_cast<std::int64_t>(random()) >> 11);
        case 3: return static_cast<double>(static_cast<std::int16_t>(random()));
        case 4: return static_cast<double>(static_cast<std::int64_t>(random())) / 1024.0;
        default:
            return std::ldexp(static_cast<double>(random()),
                              static_cast<int>(below(random, 100)) - 90);
    }
}

std::string random_string(Random& random) {
    const std::size_t kind = below(random, 20);
    std::size_t size = below(random, 12);
    if (kind == 0) size = below(random, 1000);
    if (kind == 1) size = 60 + below(random, 8);
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random());
    return text;
}

Value random_key(Random& random) {
    if (below(random, 8) == 0) return below(random, 2) == 0;
    // Not 1, which would be the first of an array.
    if (below(random, 3) == 0) return random_number(random) + 0.5;
    if (below(random, 3) == 0) return static_cast<double>(below(random, 100000) + 1000);
    return random_string(random);
}

bool has_key(const Table& table, const Value& key) {
    for (const auto& entry : table) {
        if (entry.first == key) return true;
    }
    return false;
}

Value random_value(Random& random, int depth) {
    const std::size_t kind = below(random, depth > 5 ? 6 : 9);
    if (kind < 3) return random_number(random);
    if (kind < 5) return random_string(random);
    if (kind == 5) return below(random, 2) == 0;
    Table table;
    const std::size_t array_count = below(random, 2) == 0 ? below(random, 6) : 0;
    for (std::size_t i = 1; i <= array_count; ++i) {
        table.emplace_back(i, random_value(random, depth + 1));
    }
    const std::size_t hash_count = below(random, 5);
    for (std::size_t i = 0; i < hash_count; ++i) {
        Value key = random_key(random);
        if (has_key(table, key)) continue;
        table.emplace_back(std::move(key), random_value(random, depth + 1));
    }
    return table;
}

Values random_values(Random& random) {
    Values values;
    const std::size_t count = below(random, 4);
    for (std::size_t i = 0; i < count; ++i) {
        if (below(random, 10) == 0) {
            values.emplace_back();
        } else {
            values.push_back(random_value(random, 0));
        }
    }
    return values;
}

// A payload of a table nested `depth` deep.
std::string nested(int depth) {
    std::string bytes;
    for (int i = 1; i < depth; ++i) bytes += std::string("\xda\x01\x00", 3);
    return bytes + std::string("\xda\x00\x00", 3);
}

std::string table32(std::uint32_t array_count, std::uint32_t hash_count) {
    std::string bytes(9, '\xdb');
    std::memcpy(bytes.data() + 1, &array_count, 4);
    std::memcpy(bytes.data() + 5, &hash_count, 4);
    return bytes;
}

#ifdef PERILUNE_TSAN
constexpr int kRandomTrees = 2'000;
#else
constexpr int kRandomTrees = 100'000;
#endif

TEST(Codec, RandomTreesComeBackEqualFromCppAndFromLua) {
    Random random(20231107);
    Vm vm;
    for (int i = 0; i < kRandomTrees; ++i) {
        const Values values = random_values(random);
        const std::string bytes = encoded(values);
        ASSERT_TRUE(decoded(bytes) == values) << "tree " << i;
        ASSERT_TRUE(decoded(through_lua(vm.L, bytes)) == values) << "tree " << i;
    }
}

TEST(Codec, APayloadCutAtAnyByteIsRefused) {
    Random random(7);
    Vm vm;
    for (int sample = 0; sample < 200; ++sample) {
        // Inside one table, so that no cut is between two values of the sequence.
        const std::string bytes = encoded({Value::array({random_value(random, 0), 1, "x"})});
        for (std::size_t size = 1; size < bytes.size(); ++size) {
            const std::string cut(bytes, 0, size);  // a block of its own, for the sanitizer
            ASSERT_EQ(decode_status(cut).code(), StatusCode::invalid);
            ASSERT_FALSE(SharedTree::build(cut.data(), cut.size()).ok());
            int count = 0;
            ASSERT_EQ(unpack(vm.L, cut.data(), cut.size(), &count).code(), StatusCode::invalid);
            ASSERT_EQ(lua_gettop(vm.L), 0);
        }
    }
}

TEST(Codec, DamagedPayloadsNeverCrashAndAllDecodersAgree) {
    Random random(99);
    Vm vm;
    for (int i = 0; i < kRandomTrees / 4; ++i) {
        std::string bytes = encoded({random_value(random, 0)});
        for (std::size_t flips = 1 + below(random, 3); flips > 0; --flips) {
            bytes[below(random, bytes.size())] = static_cast<char>(random());
        }
        int count = 0;
        const bool is_good = decode_status(bytes).ok();
        ASSERT_EQ(unpack(vm.L, bytes.data(), bytes.size(), &count).ok(), is_good);
        ASSERT_EQ(SharedTree::build(bytes.data(), bytes.size()).ok(), is_good && count == 1);
        lua_settop(vm.L, 0);
    }
}

TEST(Codec, DeclaredSizesThatTheBytesCannotHoldAreRefusedWithoutAllocating) {
    Vm vm;
    const std::string filling(1000, '\x01');
    for (const std::uint32_t size : {1001u, 65536u, 1u << 30, 1u << 31, 0xffffffffu}) {
        std::string string_header(1, '\xd9');
        string_header.append(reinterpret_cast<const char*>(&size), 4);
        for (const std::string& bytes :
             {string_header + filling, table32(size, 0) + filling, table32(0, size) + filling,
              table32(size, size) + filling}) {
            const std::ptrdiff_t start = vm.present();
            vm.reset_peak();
            int count = 0;
            EXPECT_EQ(unpack(vm.L, bytes.data(), bytes.size(), &count).code(), StatusCode::invalid);
            // The text of the error is no Lua string either.
            EXPECT_EQ(vm.peak_above(start), 0);
            EXPECT_EQ(decode_status(bytes).code(), StatusCode::invalid);
            EXPECT_FALSE(SharedTree::build(bytes.data(), bytes.size()).ok());
        }
    }
}

TEST(Codec, NestedTablesCannotDeclareTheSameBytesTwice) {
    Vm vm;
    constexpr std::uint32_t kBytes = 1 << 20;
    std::string bytes;
    for (int depth = 0; depth < 60; ++depth) bytes += table32(kBytes, 0);
    bytes.append(kBytes, '\x01');
    const std::ptrdiff_t start = vm.present();
    vm.reset_peak();
    int count = 0;
    EXPECT_EQ(unpack(vm.L, bytes.data(), bytes.size(), &count).code(), StatusCode::invalid);
    EXPECT_LT(vm.peak_above(start), 10 * kBytes);
}

TEST(Codec, TablesNestTo64AndNoDeeper) {
    Vm vm;
    for (const int depth : {1, 63, 64, 65, 100, 100000}) {
        const std::string bytes = nested(depth);
        const StatusCode expected = depth <= 64 ? StatusCode::ok : StatusCode::too_large;
        EXPECT_EQ(decode_status(bytes).code(), expected) << depth;
        int count = 0;
        EXPECT_EQ(unpack(vm.L, bytes.data(), bytes.size(), &count).code(), expected) << depth;
        EXPECT_EQ(SharedTree::build(bytes.data(), bytes.size()).ok(), depth <= 64);
        if (depth <= 64) {
            EXPECT_EQ(through_lua(vm.L, bytes), bytes);
        }
        lua_settop(vm.L, 0);
    }
    Value value;
    for (int i = 0; i < 64; ++i) value = Value::array({value});
    PayloadWriter out;
    EXPECT_TRUE(encode({value}, out).ok());
    out.clear();
    EXPECT_EQ(encode({Value::array({value})}, out).code(), StatusCode::too_large);
    EXPECT_EQ(vm.run("local t = {} for i = 1, 63 do t = {t} end codec.pack(t) return 'good'"),
              "good");
    EXPECT_NE(vm.run("local t = {} for i = 1, 64 do t = {t} end codec.pack(t)")
                  .find("nested deeper than 64"),
              std::string::npos);
}

TEST(Codec, PayloadsEndAt16Megabytes) {
    Vm vm;
    EXPECT_EQ(vm.run("return tostring(#codec.pack(('x'):rep(2^24 - 5)))"), "16777216");
    EXPECT_NE(vm.run("codec.pack(('x'):rep(2^24 - 4))").find("larger than 16 MB"),
              std::string::npos);
    EXPECT_NE(vm.run("local s = ('x'):rep(2^20) local t = {} for i = 1, 16 do t[i] = s end "
                     "codec.pack(1, {deep = t})")
                  .find("argument 2: .deep[16] makes the message larger than 16 MB"),
              std::string::npos);
    // Small tables shared by many: no cycle, but 2^40 of them.
    EXPECT_NE(vm.run("local t = {} for i = 1, 40 do t = {t, t} end codec.pack(t)")
                  .find("larger than 16 MB"),
              std::string::npos);
    PayloadWriter out;
    EXPECT_EQ(encode({std::string(kMaxPayload, 'x')}, out).code(), StatusCode::too_large);
    // What is there already counts: the receiver looks at the whole payload.
    for (const std::size_t room : {4u, 5u}) {
        PayloadWriter payload;
        wire::write_string(payload, std::string(kMaxPayload - 5 - room, 'x'));
        lua_settop(vm.L, 0);
        for (int i = 0; i < 5; ++i) lua_pushinteger(vm.L, 1);
        const StatusCode expected = room == 5 ? StatusCode::ok : StatusCode::too_large;
        EXPECT_EQ(pack(vm.L, 1, 5, payload).code(), expected);
    }
    const std::string bytes(kMaxPayload + 1, '\x01');
    EXPECT_EQ(decode_status(bytes).code(), StatusCode::too_large);
    int count = 0;
    EXPECT_EQ(unpack(vm.L, bytes.data(), bytes.size(), &count).code(), StatusCode::too_large);
}

TEST(Codec, MoreValuesThanALuaStackHoldsAreRefused) {
    Vm vm;
    const std::string bytes(1'000'000, '\x01');
    int count = 0;
    EXPECT_EQ(unpack(vm.L, bytes.data(), bytes.size(), &count).code(), StatusCode::too_large);
    EXPECT_EQ(lua_gettop(vm.L), 0);
    EXPECT_EQ(decoded(bytes).size(), 1'000'000u);
    EXPECT_EQ(vm.run("local t = {} for i = 1, 5000 do t[i] = i end "
                     "return tostring(select('#', codec.unpack(codec.pack(unpack(t)))))"),
              "5000");
}

TEST(Codec, CyclesAreRefusedWithThePathToThem) {
    Vm vm;
    EXPECT_EQ(vm.run("local t = {} t.me = t codec.pack(t)").find("error: "), 0u);
    EXPECT_NE(vm.run("local t = {} t.me = t codec.pack(t)")
                  .find("is a table that contains itself 1 levels up"),
              std::string::npos);
    EXPECT_NE(
        vm.run("local a, b = {}, {} a.b = {b} b.a = a codec.pack(1, 2, a)").find("argument 3: "),
        std::string::npos);
    EXPECT_NE(vm.run("local a, b = {}, {} a.b = {b} b.a = a codec.pack(1, 2, a)")
                  .find("contains itself 3 levels up"),
              std::string::npos);
    // The same table twice is no cycle.
    EXPECT_EQ(vm.run("local t = {1} local a = codec.unpack(codec.pack({t, t})) "
                     "return tostring(a[1][1] + a[2][1])"),
              "2");
}

TEST(Codec, WhatCannotBeSentIsNamedWithItsPath) {
    Vm vm;
    EXPECT_EQ(vm.pack_error("1, {items = {1, 2, {callback = print}}}"),
              "argument 2: .items[3].callback is a function, which cannot be sent");
    EXPECT_EQ(vm.pack_error("print"), "argument 1 is a function, which cannot be sent");
    EXPECT_EQ(vm.pack_error("nil, coroutine.create(print)"),
              "argument 2 is a thread, which cannot be sent");
    EXPECT_EQ(vm.pack_error("{['two words'] = {[true] = {[2.5] = io.stdout}}}"),
              "argument 1: [\"two words\"][true][2.5] is a userdata, which cannot be sent");
    EXPECT_EQ(vm.pack_error("{[{}] = 1}"), "argument 1 has a table as a key, which cannot be sent");
    EXPECT_EQ(vm.pack_error("{a = {[print] = 1}}"),
              "argument 1: .a has a function as a key, which cannot be sent");
    EXPECT_EQ(vm.pack_error("{a = require('ffi').new('int64_t', 1)}"),
              "argument 1: .a is a cdata, which cannot be sent");
    EXPECT_EQ(vm.pack_error("{['a\\nb\"'] = print}"),
              "argument 1: [\"a.b.\"] is a function, which cannot be sent");
    EXPECT_EQ(vm.pack_error("nil, 1, 'x', true, {}"), "");
    lua_settop(vm.L, 0);
    lua_pushlightuserdata(vm.L, &vm);
    PayloadWriter out;
    EXPECT_STREQ(pack(vm.L, 1, 1, out, "result").message(),
                 "result 1 is a userdata, which cannot be sent");
    const std::string deep = vm.pack_error(
        "(function() local t = print for i = 1, 60 do t = {[('name'):rep(30) .. i] = t} end "
        "return t end)()");
    EXPECT_EQ(deep.find("argument 1: ...[\"") == 0 || deep.find("argument 1: ....") == 0, true)
        << deep;
    EXPECT_NE(deep.find("is a function"), std::string::npos);
}

TEST(Codec, BoundaryNumbersKeepEveryBit) {
    Vm vm;
    std::vector<double> numbers = {0.0,
                                   -0.0,
                                   0.1,
                                   1e300,
                                   -1e-300,
                                   std::numeric_limits<double>::denorm_min(),
                                   std::numeric_limits<double>::max(),
                                   std::numeric_limits<double>::infinity(),
                                   -std::numeric_limits<double>::infinity()};
    for (const int bits : {4, 6, 7, 8, 15, 16, 31, 32, 52, 53}) {
        for (const double offset : {-2.0, -1.0, 0.0, 1.0, 2.0, 0.5}) {
            numbers.push_back(std::ldexp(1.0, bits) + offset);
            numbers.push_back(-std::ldexp(1.0, bits) + offset);
        }
    }
    for (int i = -40; i < 300; ++i) numbers.push_back(i);
    for (const double number : numbers) {
        const std::string bytes = encoded({number});
        const auto same_bits = [&](double other) {
            return std::bit_cast<std::uint64_t>(other) == std::bit_cast<std::uint64_t>(number);
        };
        EXPECT_TRUE(same_bits(decoded(bytes).at(0).number())) << number;
        lua_settop(vm.L, 0);
        int count = 0;
        ASSERT_TRUE(unpack(vm.L, bytes.data(), bytes.size(), &count).ok());
        EXPECT_TRUE(same_bits(lua_tonumber(vm.L, 1))) << number;
        EXPECT_EQ(through_lua(vm.L, bytes), bytes);
    }
    const std::size_t sizes[][2] = {{0, 1}, {127, 1}, {128, 3}, {32767, 3}, {32768, 5}};
    for (const auto& [number, size] : sizes) EXPECT_EQ(encoded({number}).size(), size) << number;
    EXPECT_EQ(encoded({-16}).size(), 1u);
    EXPECT_EQ(encoded({-17}).size(), 2u);
    EXPECT_EQ(encoded({-129}).size(), 3u);
    EXPECT_EQ(encoded({2147483647}).size(), 5u);
    EXPECT_EQ(encoded({2147483648.0}).size(), 9u);
}

TEST(Codec, NanIsCarriedAsAValueAndRefusedAsAKey) {
    Vm vm;
    EXPECT_TRUE(std::isnan(decoded(encoded({std::nan("")})).at(0).number()));
    EXPECT_EQ(vm.run("local n = codec.unpack(codec.pack({x = 0/0})).x return tostring(n ~= n)"),
              "true");
    PayloadWriter out;
    EXPECT_EQ(encode({Table{{std::nan(""), 1}}}, out).code(), StatusCode::unsupported);
    // A NaN with a payload of its own must not become some other Lua type.
    const std::string keys[] = {"\xd7\xff\xff\xff\xff\xff\xff\xff\xff", "\xd0", "\xd3",
                                std::string("\xda\0\0", 3)};
    for (const std::string& key : keys) {
        const std::string bytes = std::string("\xda\x00\x01", 3) + key + "\x01";
        int count = 0;
        EXPECT_EQ(decode_status(bytes).code(), StatusCode::invalid);
        EXPECT_EQ(unpack(vm.L, bytes.data(), bytes.size(), &count).code(), StatusCode::invalid);
        EXPECT_FALSE(SharedTree::build(bytes.data(), bytes.size()).ok());
    }
    Random random(3);
    for (int i = 0; i < 2000; ++i) {
        std::uint64_t bits = 0x7ff0000000000000u | random();
        std::string bytes(1, '\xd7');
        bytes.append(reinterpret_cast<const char*>(&bits), 8);
        lua_settop(vm.L, 0);
        int count = 0;
        ASSERT_TRUE(unpack(vm.L, bytes.data(), bytes.size(), &count).ok());
        ASSERT_EQ(lua_type(vm.L, 1), LUA_TNUMBER);
    }
}

TEST(Codec, StringsAreAnyBytesOfAnyLength) {
    Vm vm;
    for (const std::size_t size :
         {0u, 1u, 62u, 63u, 64u, 65u, 255u, 256u, 65535u, 65536u, 1u << 20}) {
        std::string text(size, '\0');
        for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7);
        const std::string bytes = encoded({text, Table{{text, 1}}});
        EXPECT_EQ(decoded(bytes).at(0).string(), text);
        EXPECT_EQ(through_lua(vm.L, bytes), bytes);
    }
    EXPECT_EQ(vm.run("return codec.unpack(codec.pack('a\\0b\\255\\0'))"),
              std::string("a\0b\xff\0", 5));
}

TEST(Codec, IntegerAndFloatKeysAndHolesKeepTheirPlaces) {
    Vm vm;
    const char* const check = R"(
        local function same(a, b)
            if type(a) ~= "table" or type(b) ~= "table" then return a == b end
            for k, v in pairs(a) do if not same(v, b[k]) then return false end end
            for k in pairs(b) do if a[k] == nil then return false end end
            return true
        end
        local sparse = {} sparse[1] = 1 sparse[1000000] = 2 sparse[-1] = 3 sparse[0] = 4
        local backwards = {} for i = 300, 1, -1 do backwards[i] = i end
        local large = {} for i = 1, 1000 do large["k" .. i] = i end
        local mixed = {1, 2, nil, 4, nil, 6, x = 1, [1.5] = 2, [2^53] = 3, [true] = 4, [false] = 5}
        local huge = {} for i = 1, 70000 do huge[i] = i end huge.x = huge[5]
        for _, t in ipairs {sparse, backwards, large, mixed, huge, {}, {{}}, {[3] = 3},
                            {[1] = 1, [2] = 2}, {nil, nil, 3}, {n = {large, backwards}}} do
            if not same(codec.unpack(codec.pack(t)), t) then error("differs") end
        end
        local back = codec.unpack(codec.pack(backwards))
        return tostring(#back)
    )";
    EXPECT_EQ(vm.run(check), "300");
    EXPECT_EQ(decoded(encoded({Table{{2, "b"}, {1, "a"}, {1.0000001, "c"}, {"1", "d"}}})).at(0),
              Value(Table{{2, "b"}, {1, "a"}, {1.0000001, "c"}, {"1", "d"}}));
    // Holes and entries without a value.
    const Value holes = decoded(encoded({Table{{1, nullptr}, {2, 5}, {"x", nullptr}}})).at(0);
    EXPECT_EQ(holes.table().size(), 2u);
    EXPECT_EQ(holes[2].number(), 5);
}

TEST(Codec, NilNullAndNoValueAreThreeThings) {
    Vm vm;
    EXPECT_EQ(encoded({}), "");
    EXPECT_TRUE(decoded("").empty());
    EXPECT_EQ(decoded(encoded({nullptr, nullptr})).size(), 2u);
    EXPECT_EQ(vm.run("return select('#', codec.unpack(codec.pack())) .. "
                     "select('#', codec.unpack(codec.pack(nil, nil)))"),
              "02");
    lua_settop(vm.L, 0);
    lua_pushlightuserdata(vm.L, nullptr);
    PayloadWriter out;
    ASSERT_TRUE(pack(vm.L, 1, 1, out).ok());
    int count = 0;
    ASSERT_TRUE(unpack(vm.L, out.data(), out.size(), &count).ok());
    EXPECT_EQ(lua_type(vm.L, 2), LUA_TLIGHTUSERDATA);
    EXPECT_EQ(lua_touserdata(vm.L, 2), nullptr);
    EXPECT_TRUE(decoded({out.data(), out.size()}).at(0).is_nil());
}

TEST(Codec, MetatablesAreIgnored) {
    Vm vm;
    EXPECT_EQ(vm.run("local m = {__index = error, __pairs = error, __len = error, __metatable = 1} "
                     "local t = setmetatable({1, 2, a = 3}, m) "
                     "local u = codec.unpack(codec.pack(t)) "
                     "return #u .. u.a .. tostring(getmetatable(u))"),
              "23nil");
}

TEST(Codec, TheFirstStringIsReadWithoutDecodingTheRest) {
    for (const std::size_t length : {0u, 5u, 63u, 64u, 300u}) {
        const std::string name(length, 'n');
        const std::string bytes = encoded({name, 1, Value::array({2})});
        std::string_view text;
        std::size_t consumed = 0;
        ASSERT_TRUE(read_string(bytes.data(), bytes.size(), &text, &consumed));
        EXPECT_EQ(text, name);
        EXPECT_EQ(decoded(bytes.substr(consumed)).size(), 2u);
        for (std::size_t size = 0; size < consumed; ++size) {
            const std::string cut(bytes, 0, size);
            EXPECT_FALSE(read_string(cut.data(), cut.size(), &text, &consumed));
        }
    }
    std::string_view text;
    std::size_t consumed = 0;
    const std::string number = encoded({1});
    EXPECT_FALSE(read_string(number.data(), number.size(), &text, &consumed));
}

TEST(Codec, PackWritesBehindWhatIsThereAndLeavesTheStackAlone) {
    Vm vm;
    char area[16];
    PayloadWriter out(area, sizeof area);
    wire::write_string(out, "command");
    lua_pushinteger(vm.L, 5);
    lua_pushliteral(vm.L, "sixteen bytes...");
    lua_newtable(vm.L);
    ASSERT_TRUE(pack(vm.L, 1, 3, out).ok());
    EXPECT_EQ(lua_gettop(vm.L), 3);
    EXPECT_EQ(decoded({out.data(), out.size()}),
              (Values{"command", 5, "sixteen bytes...", Table{}}));
    int count = 7;
    const std::string damaged = encoded({1, 2}) + "\xff";
    EXPECT_FALSE(unpack(vm.L, damaged.data(), damaged.size(), &count).ok());
    EXPECT_EQ(count, 7);
    EXPECT_EQ(lua_gettop(vm.L), 3);
}

TEST(Codec, MisuseOfTheLuaLibraryRaises) {
    Vm vm;
    EXPECT_NE(vm.run("codec.pack(1, print)").find("argument 2 is a function"), std::string::npos);
    EXPECT_NE(vm.run("codec.unpack('\\255')").find("bad argument #1 to 'unpack'"),
              std::string::npos);
    EXPECT_NE(vm.run("codec.unpack({})").find("bad argument #1 to 'unpack'"), std::string::npos);
}

TEST(Value, FindsEntriesAndFallsBack) {
    const Value value = Table{{1, "a"}, {2, "b"}, {"x", 3}, {10, true}};
    EXPECT_EQ(value[1].string(), "a");
    EXPECT_EQ(value[2].string(), "b");
    EXPECT_EQ(value["x"].integer(), 3);
    EXPECT_TRUE(value[10].boolean());
    EXPECT_TRUE(value[3].is_nil());
    EXPECT_TRUE(value["y"]["z"].is_nil());
    EXPECT_EQ(value["y"].number(7), 7);
    EXPECT_EQ(Value(1e300).integer(-1), -1);
    EXPECT_EQ(Value(std::nan("")).integer(-1), -1);
    EXPECT_EQ(Value(-2.5).integer(), -2);
    EXPECT_EQ(Value::array({5, 6})[2].number(), 6);
    EXPECT_TRUE(Value(Table{{"a", 1}, {"b", 2}}) == Value(Table{{"b", 2}, {"a", 1}}));
    EXPECT_FALSE(Value(Table{{"a", 1}}) == Value(Table{{"a", 2}}));
    EXPECT_FALSE(Value(1) == Value(true));
}

}  // namespace
}  // namespace perilune
