#include "lua/lua_password.h"

#include <argon2.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "core/codec.h"
#include "lua/lua_blocking.h"
#include "lua/lua_core.h"
#include "lua/sandbox.h"
#include "lua/vm.h"

namespace perilune {

namespace {

// OWASP's Password Storage Cheat Sheet: argon2id with 19 MiB, 2 passes and 1 lane.
constexpr std::uint32_t kMemoryKib = 19'456;
constexpr std::uint32_t kPasses = 2;
constexpr std::uint32_t kLanes = 1;
constexpr std::size_t kSaltBytes = 16;
constexpr std::size_t kHashBytes = 32;
constexpr std::size_t kMaxEncoded = 128;
// What a hash that was made elsewhere may ask for.
constexpr unsigned kMostMemoryKib = 256 * 1024;
constexpr unsigned kMostPasses = 16;
constexpr unsigned kMostLanes = 8;

constexpr std::size_t kMaxPassword = 1024;

// A copy that is wiped at its end.
class Secret {
  public:
    explicit Secret(std::string_view text) : text_(text) {}
    ~Secret() { OPENSSL_cleanse(text_.data(), text_.size()); }
    Secret(const Secret&) = default;
    Secret& operator=(const Secret&) = delete;
    const std::string& text() const { return text_; }

  private:
    std::string text_;
};

void write_answer(Message& done, std::string_view code, std::string_view text) {
    PayloadWriter out = done.writer();
    wire::write_string(out, code);
    wire::write_string(out, text);
    done.finish(out);
}

// --- on the pool's thread; the payload: "" and the result, or a code and a text ---

void hash(const Secret& password, Message& done) {
    std::array<unsigned char, kSaltBytes> salt;
    std::array<char, kMaxEncoded> encoded;
    if (RAND_bytes(salt.data(), static_cast<int>(salt.size())) != 1) {
        return write_answer(done, "unavailable", "no random bytes");
    }
    const int error = argon2id_hash_encoded(kPasses, kMemoryKib, kLanes, password.text().data(),
                                            password.text().size(), salt.data(), salt.size(),
                                            kHashBytes, encoded.data(), encoded.size());
    if (error != ARGON2_OK) {
        return write_answer(done, "unavailable", argon2_error_message(error));
    }
    write_answer(done, "", encoded.data());
}

// Whether it is a hash of argon2id that takes no more than this machine should give.
bool is_affordable(const std::string& encoded) {
    unsigned version = 0, memory = 0, passes = 0, lanes = 0;
    return encoded.size() < kMaxEncoded &&
           std::sscanf(encoded.c_str(), "$argon2id$v=%u$m=%u,t=%u,p=%u$", &version, &memory,
                       &passes, &lanes) == 4 &&
           memory <= kMostMemoryKib && passes <= kMostPasses && lanes <= kMostLanes;
}

void verify(const Secret& password, const std::string& encoded, Message& done) {
    if (!is_affordable(encoded)) {
        return write_answer(done, "invalid", "not a hash of a password, or an expensive one");
    }
    const int error =
        argon2id_verify(encoded.c_str(), password.text().data(), password.text().size());
    if (error == ARGON2_OK) return write_answer(done, "", "right");
    if (error == ARGON2_VERIFY_MISMATCH) return write_answer(done, "", "wrong");
    write_answer(done, error == ARGON2_MEMORY_ALLOCATION_ERROR ? "unavailable" : "invalid",
                 argon2_error_message(error));
}

// --- on the worker. Apart from what yields: C++ objects don't outlive a jump out of it. ---

bool submit_hash(Vm& vm, Task& task, std::int64_t limit_ms, std::string_view password) {
    return begin_blocking(vm, task, limit_ms,
                          [secret = Secret(password)](Message& done) { hash(secret, done); });
}

bool submit_verify(Vm& vm, Task& task, std::int64_t limit_ms, std::string_view password,
                   std::string_view encoded) {
    return begin_blocking(vm, task, limit_ms,
                          [secret = Secret(password), text = std::string(encoded)](Message& done) {
                              verify(secret, text, done);
                          });
}

std::string_view check_password(lua_State* L, const char* function) {
    const std::string_view password = check_text(L, function, 1);
    if (password.size() > kMaxPassword) {
        argument_error(L, function, 1, "a password of at most 1024 bytes expected");
    }
    return password;
}

int wait(lua_State* L, bool begun) {
    lua_settop(L, 0);  // room for the reply
    if (begun) return lua_yield(L, 0);
    lua_pushliteral(L, "overloaded");
    lua_pushliteral(L, "too many passwords are being hashed");
    return 2;
}

// hash(password, ms) -> "", hash | code, text | a failure for core.finish
int password_hash(lua_State* L) {
    constexpr const char* kFunction = "password.hash";
    const std::string_view password = check_password(L, kFunction);
    const std::int64_t limit_ms = check_limit_ms(L, kFunction, 2);
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, kFunction);
    return wait(L, submit_hash(vm, task, limit_ms, password));
}

// verify(password, hash, ms) -> "", "right" | "", "wrong" | code, text | a failure for core.finish
int password_verify(lua_State* L) {
    constexpr const char* kFunction = "password.verify";
    const std::string_view password = check_password(L, kFunction);
    const std::string_view encoded = check_text(L, kFunction, 2);
    const std::int64_t limit_ms = check_limit_ms(L, kFunction, 3);
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, kFunction);
    return wait(L, submit_verify(vm, task, limit_ms, password, encoded));
}

}  // namespace

void push_password_library(lua_State* L) {
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, password_hash);
    lua_setfield(L, -2, "hash");
    lua_pushcfunction(L, password_verify);
    lua_setfield(L, -2, "verify");
}

}  // namespace perilune
