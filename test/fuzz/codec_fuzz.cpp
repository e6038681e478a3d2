// Fuzzes the decoders of payloads: C++ values, a Lua stack, shared trees.
//
// All three must take the same payloads; what they take must survive being written again.
//
//   with libFuzzer   clang++ -fsanitize=fuzzer,address -DPERILUNE_LIBFUZZER ...
//   without          `make fuzz`, or give it files, or a number of random runs:
//                    codec_fuzz 1000000; codec_fuzz crash-0123; codec_fuzz corpus <folder>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/codec.h"
#include "core/shared_tree.h"
#include "lua/lua_codec.h"
#include "lua/lua_shared.h"

namespace {

using namespace perilune;

#define REQUIRE(condition)                                                       \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                        \
        }                                                                        \
    } while (false)

class Vm {
  public:
    Vm() : L(luaL_newstate()) {
        luaL_openlibs(L);
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    }
    ~Vm() { lua_close(L); }
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;
    lua_State* const L;
};

bool has_nan(const Value& value) {
    if (value.is_number()) return std::isnan(value.number());
    for (const auto& [key, entry] : value.table()) {
        if (has_nan(entry)) return true;
    }
    return false;
}

// Whether to compare tables, which takes quadratic time when their order differs.
bool is_small(std::size_t size) { return size < 2000; }

// The values of a payload written and read again.
Values again(const Values& values, std::string* bytes) {
    PayloadWriter out;
    REQUIRE(encode(values, out).ok());
    bytes->assign(out.data(), out.size());
    const Result<Values> result = decode(out.data(), out.size());
    REQUIRE(result.ok());
    return result.value();
}

// Writing drops entries whose value is nil, and may find an array behind them; after that the
// bytes must stay as they are.
void check_values(const Values& values) {
    std::string bytes;
    std::string second;
    std::string third;
    again(again(again(values, &bytes), &second), &third);
    REQUIRE(second == third);
}

// What is on the stack, packed and unpacked, must be the same again for C++.
void check_lua(lua_State* L, int count, std::size_t size) {
    PayloadWriter first;
    REQUIRE(pack(L, 1, count, first).ok());
    lua_settop(L, 0);
    int count_again = 0;
    REQUIRE(unpack(L, first.data(), first.size(), &count_again).ok());
    REQUIRE(count_again == count);
    PayloadWriter second;
    REQUIRE(pack(L, 1, count, second).ok());
    const Result<Values> left = decode(first.data(), first.size());
    const Result<Values> right = decode(second.data(), second.size());
    REQUIRE(left.ok() && right.ok());
    if (!is_small(size)) return;
    for (const Value& value : left.value()) {
        if (has_nan(value)) return;
    }
    REQUIRE(left.value() == right.value());
}

// Reads all of a tree through find(), by the keys that it says it has.
void check_tree(const SharedTree& tree, const SharedTree::Item& item) {
    if (item.kind != SharedTree::Kind::table) return;
    const SharedTree::Node& node = tree.node(item);
    for (std::uint32_t i = 0; i < SharedTree::positions(node); ++i) {
        const SharedTree::Item key = tree.key_at(node, i);
        const SharedTree::Item& value = tree.value_at(node, i);
        const SharedTree::Item* found = nullptr;
        switch (key.kind) {
            case SharedTree::Kind::string: found = tree.find(node, tree.text(key)); break;
            case SharedTree::Kind::number: found = tree.find(node, key.number); break;
            case SharedTree::Kind::boolean: found = tree.find(node, key.boolean); break;
            default: REQUIRE(false);
        }
        REQUIRE(found == &value);
        check_tree(tree, value);
    }
}

void check_shared(lua_State* L, const std::shared_ptr<const SharedTree>& tree) {
    check_tree(*tree, tree->root());
    lua_settop(L, 0);
    push_shared_tree(L, tree);
    PayloadWriter out;
    REQUIRE(pack(L, 1, 1, out).ok());
    REQUIRE(SharedTree::build(out.data(), out.size()).ok());
    lua_settop(L, 0);
    lua_gc(L, LUA_GCCOLLECT, 0);  // a sanitizer doesn't see what the VM still holds
}

void run(const char* data, std::size_t size) {
    static const Vm vm;
    lua_State* L = vm.L;

    std::string_view text;
    std::size_t consumed = 0;
    const bool starts_with_string = read_string(data, size, &text, &consumed);
    const Result<Values> values = decode(data, size);
    lua_settop(L, 0);
    int count = 0;
    const Status status = unpack(L, data, size, &count);
    const Result<std::shared_ptr<const SharedTree>> tree = SharedTree::build(data, size);

    if (values.ok() && values.value().size() > 7000) return;  // more than a Lua stack holds
    REQUIRE(status.ok() == values.ok());
    REQUIRE(lua_gettop(L) == (status.ok() ? count : 0));
    REQUIRE(tree.ok() == (values.ok() && count == 1));
    if (!values.ok()) return;
    REQUIRE(values.value().size() == static_cast<std::size_t>(count));
    if (starts_with_string) {
        REQUIRE(consumed <= size && values.value().at(0).string() == text);
    } else {
        REQUIRE(count == 0 || !values.value()[0].is_string());
    }
    check_values(values.value());
    check_lua(L, count, size);
    if (tree.ok()) check_shared(L, tree.value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    run(reinterpret_cast<const char*>(data), size);
    return 0;
}

#ifndef PERILUNE_LIBFUZZER

namespace {

std::string payload(const Values& values) {
    PayloadWriter out;
    REQUIRE(encode(values, out).ok());
    return {out.data(), out.size()};
}

// Each form of a value at least once, nested and not, and some headers that lie.
std::vector<std::string> corpus() {
    Value deep = 1;
    for (int i = 0; i < 64; ++i) deep = Value::array({deep});
    Values many;
    Table wide;
    for (int i = 0; i < 300; ++i) {
        many.emplace_back(i);
        wide.emplace_back("k" + std::to_string(i), i);
    }
    const Table player = {{"id", 10000123},
                          {"name", "小明"},
                          {"hp", 1820.5},
                          {"online", true},
                          {"bag", Value::array({1, 2, 300, 70000, -5, -500, -70000})},
                          {1.5, false},
                          {-1, Table{{true, Table{}}}}};
    return {
        payload({}),
        payload({nullptr, true, false, 0, 127, 128, -16, -17, 32767, 32768, -32769, 2147483647,
                 2147483648.0, -0.0, 0.1, INFINITY, NAN}),
        payload({"", "short", std::string(63, 'a'), std::string(64, 'b'), std::string(300, 'c')}),
        payload({"command", 5, player}),
        payload({player}),
        payload({deep}),
        payload({Value::array(many)}),
        payload({wide}),
        payload({Table{{3, "c"}, {2, "b"}, {1, "a"}, {5, "e"}}}),
        std::string("\xda\x02\x01\xd0\x01\x01\x02", 7),
        std::string("\xda\x00\x02\x81k\x01\x81k\x02", 9),
        std::string("\xdb\xff\xff\xff\x7f\x00\x00\x00\x00\x01", 10),
        std::string("\xd9\xff\xff\xff\xff", 5),
        std::string("\xd3\xda\x00\x01\xd3\x01", 6),
    };
}

void mutate(std::string& bytes, std::mt19937_64& random, const std::vector<std::string>& seeds) {
    const auto place = [&] { return bytes.empty() ? 0 : random() % bytes.size(); };
    switch (random() % 8) {
        case 0: bytes.insert(place(), 1, static_cast<char>(random())); break;
        case 1: bytes.insert(place(), 1, static_cast<char>(0xd0 + random() % 12)); break;
        case 2: bytes.erase(place(), 1 + random() % 4); break;
        case 3: bytes.resize(place()); break;
        case 4: {
            const std::string& other = seeds[random() % seeds.size()];
            bytes.insert(place(), other.substr(0, random() % 40));
            break;
        }
        case 5: bytes.insert(place(), bytes.substr(place(), random() % 30)); break;
        default:
            if (!bytes.empty()) bytes[place()] = static_cast<char>(random());
    }
}

}  // namespace

int main(int count, char** arguments) {
    const std::vector<std::string> seeds = corpus();
    if (count == 3 && std::string(arguments[1]) == "corpus") {
        for (std::size_t i = 0; i < seeds.size(); ++i) {
            std::ofstream file(std::string(arguments[2]) + "/seed" + std::to_string(i),
                               std::ios::binary);
            file << seeds[i];
            if (!file.flush()) return 1;
        }
        return 0;
    }
    for (int i = 1; i < count; ++i) {
        char* end = nullptr;
        const long runs = std::strtol(arguments[i], &end, 10);
        if (*end != '\0') {
            std::ifstream file(arguments[i], std::ios::binary);
            const std::string bytes{std::istreambuf_iterator<char>(file), {}};
            run(bytes.data(), bytes.size());
            continue;
        }
        std::mt19937_64 random(1);
        for (long done = 0; done < runs; ++done) {
            std::string bytes = seeds[random() % seeds.size()];
            for (std::size_t steps = 1 + random() % 6; steps > 0; --steps) {
                mutate(bytes, random, seeds);
            }
            const std::vector<char> exact(bytes.begin(), bytes.end());  // for the sanitizer
            run(exact.data(), exact.size());
        }
    }
    return 0;
}
#endif
