// Fuzzes perilune.packet: whatever the bytes, decoding answers, and what it accepts encodes to
// the same bytes again.
//
//   with libFuzzer   clang++ -fsanitize=fuzzer,address -DPERILUNE_LIBFUZZER ...
//   without          build it as any program and give it files, or a number of random runs:
//                    packet_fuzz 1000000; packet_fuzz crash-0123
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "lua/lua_packet.h"

namespace {

constexpr const char* kSetup = R"(
    local every = packet.compile({
        {"a", "i8"}, {"b", "i16"}, {"c", "i32"}, {"d", "i64"}, {"e", "u8"}, {"f", "u16"},
        {"g", "u32"}, {"h", "u64"}, {"k", "bool"}, {"l", "string"}, {"m", "bytes"},
        {"n", {list = "u16"}}, {"o", {list = {{"x", "f64"}, {"y", {list = "string"}}}}}}, "every")
    local text = packet.compile("string", "text")
    local nested = packet.compile({list = {list = {list = "u8"}}}, "nested")
    local function check(codec, body)
        local value = codec:decode(body)
        if value == nil then return end
        codec:to_json(value)
        assert(codec:encode(value) == body)
    end
    function run(data)
        local stype, ctype, utag, proto_type = packet.header(data)
        if not stype then return end
        local body = packet.body(data)
        assert(packet.make(stype, ctype, utag, proto_type, body) == data)
        assert(packet.body(packet.restamp(data, 7)) == body)
        packet.unwrap_json(body)
        local inner, uids = packet.unwrap_broadcast(body)
        if inner then assert(packet.wrap_broadcast(inner, uids) == body) end
        check(every, body)
        check(text, body)
        check(nested, body)
    end)";

struct Vm {
    Vm() : L(luaL_newstate()) { open(); }
    ~Vm() { lua_close(L); }
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;

    void open() const;

    lua_State* const L;
};

void Vm::open() const {
    luaL_openlibs(L);
    perilune::push_packet_library(L);
    lua_setglobal(L, "packet");
    if (luaL_dostring(L, kSetup) != 0) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    static const Vm vm;
    lua_State* const L = vm.L;
    if (size > perilune::kMaxPacket) return 0;
    lua_getglobal(L, "run");
    lua_pushlstring(L, reinterpret_cast<const char*>(data), size);
    if (lua_pcall(L, 1, 0, 0) != 0) {
        std::fprintf(stderr, "%s\n", lua_tostring(L, -1));
        std::abort();
    }
    return 0;
}

#ifndef PERILUNE_LIBFUZZER
namespace {

void replay(const std::string& bytes) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

// Short bodies of small numbers: lengths and counts that fit are frequent.
void run_random(long count) {
    std::mt19937 random(1);
    for (long i = 0; i < count; ++i) {
        std::string bytes(random() % 120, '\0');
        const unsigned kind = random() % 3;
        for (char& byte : bytes) {
            byte = static_cast<char>(kind == 0 ? random() : random() % (kind == 1 ? 2 : 8));
        }
        replay(bytes);
    }
}

}  // namespace

int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        char* end = nullptr;
        const long count = std::strtol(argv[i], &end, 10);
        if (*end == '\0') {
            run_random(count);
            continue;
        }
        std::ifstream file(argv[i], std::ios::binary);
        replay({std::istreambuf_iterator<char>(file), {}});
    }
    return 0;
}
#endif
