#include "lua/lua_crypto.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <array>
#include <cstdint>
#include <string_view>

namespace perilune {
namespace {

constexpr std::size_t kMaxBytes = 16u << 20;  // of an argument: a worker waits meanwhile
constexpr std::size_t kMaxRandom = 1u << 20;

std::string_view check_bytes(lua_State* L, int index) {
    std::size_t size = 0;
    const char* bytes = luaL_checklstring(L, index, &size);
    luaL_argcheck(L, size <= kMaxBytes, index, "longer than 16 MB");
    return {bytes, size};
}

int push_bytes(lua_State* L, const char* bytes, std::size_t size) {
    lua_pushlstring(L, bytes, size);
    return 1;
}

int push_failure(lua_State* L, const char* message) {
    lua_pushnil(L);
    lua_pushstring(L, message);
    lua_pushliteral(L, "invalid");
    return 3;
}

// Room for a result: short ones on the C stack, others in memory that Lua collects.
struct Room {
    std::array<char, 512> small;

    char* get(lua_State* L, std::size_t size) {
        return size <= small.size() ? small.data() : static_cast<char*>(lua_newuserdata(L, size));
    }
};

// OpenSSL's own errors: a policy of the system that forbids an algorithm, or no memory.
int raise_openssl(lua_State* L, const char* what) {
    std::array<char, 160> text;
    ERR_error_string_n(ERR_get_error(), text.data(), text.size());
    ERR_clear_error();
    return luaL_error(L, "crypto: %s failed: %s", what, text.data());
}

// crypto.random_bytes(count) -> string
int crypto_random_bytes(lua_State* L) {
    const lua_Number count = luaL_checknumber(L, 1);
    luaL_argcheck(L, count >= 0 && count <= kMaxRandom, 1, "a count from 0 to 1048576");
    const auto size = static_cast<std::size_t>(count);
    luaL_argcheck(L, static_cast<lua_Number>(size) == count, 1, "a whole number");
    Room room;
    char* bytes = room.get(L, size);
    if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes), static_cast<int>(size)) != 1) {
        return raise_openssl(L, "random_bytes");
    }
    return push_bytes(L, bytes, size);
}

int push_digest(lua_State* L, const char* name, const EVP_MD* algorithm) {
    const std::string_view data = check_bytes(L, 1);
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
    unsigned int size = 0;
    if (EVP_Digest(data.data(), data.size(), digest.data(), &size, algorithm, nullptr) != 1) {
        return raise_openssl(L, name);
    }
    return push_bytes(L, reinterpret_cast<const char*>(digest.data()), size);
}

// crypto.md5(data) -> string
int crypto_md5(lua_State* L) { return push_digest(L, "md5", EVP_md5()); }

// crypto.sha1(data) -> string
int crypto_sha1(lua_State* L) { return push_digest(L, "sha1", EVP_sha1()); }

// crypto.sha256(data) -> string
int crypto_sha256(lua_State* L) { return push_digest(L, "sha256", EVP_sha256()); }

int push_hmac(lua_State* L, const char* name, const char* digest) {
    const std::string_view key = check_bytes(L, 1);
    const std::string_view data = check_bytes(L, 2);
    std::array<unsigned char, EVP_MAX_MD_SIZE> code;
    std::size_t size = 0;
    if (EVP_Q_mac(nullptr, "HMAC", nullptr, digest, nullptr, key.data(), key.size(),
                  reinterpret_cast<const unsigned char*>(data.data()), data.size(), code.data(),
                  code.size(), &size) == nullptr) {
        return raise_openssl(L, name);
    }
    return push_bytes(L, reinterpret_cast<const char*>(code.data()), size);
}

// crypto.hmac_sha1(key, data) -> string
int crypto_hmac_sha1(lua_State* L) { return push_hmac(L, "hmac_sha1", "SHA1"); }

// crypto.hmac_sha256(key, data) -> string
int crypto_hmac_sha256(lua_State* L) { return push_hmac(L, "hmac_sha256", "SHA256"); }

// crypto.equal(a, b) -> boolean
int crypto_equal(lua_State* L) {
    const std::string_view a = check_bytes(L, 1);
    const std::string_view b = check_bytes(L, 2);
    lua_pushboolean(L, a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0);
    return 1;
}

// crypto.hex(data) -> string
int crypto_hex(lua_State* L) {
    const std::string_view data = check_bytes(L, 1);
    static constexpr std::string_view kDigits = "0123456789abcdef";
    Room room;
    char* text = room.get(L, data.size() * 2);
    char* out = text;
    for (const char c : data) {
        const auto byte = static_cast<unsigned char>(c);
        *out++ = kDigits[byte >> 4];
        *out++ = kDigits[byte & 15];
    }
    return push_bytes(L, text, data.size() * 2);
}

// The value of a digit, 255 for what is none.
constexpr std::uint8_t hex_value(char c) {
    if (c >= '0' && c <= '9') return static_cast<std::uint8_t>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<std::uint8_t>(c - 'a' + 10);
    if (c >= 'A' && c <= 'F') return static_cast<std::uint8_t>(c - 'A' + 10);
    return 255;
}

// crypto.unhex(text) -> string | nil, message, code
int crypto_unhex(lua_State* L) {
    const std::string_view text = check_bytes(L, 1);
    if (text.size() % 2 != 0) return push_failure(L, "an odd number of hexadecimal digits");
    Room room;
    char* data = room.get(L, text.size() / 2);
    for (std::size_t i = 0; i < text.size(); i += 2) {
        const std::uint8_t high = hex_value(text[i]);
        const std::uint8_t low = hex_value(text[i + 1]);
        if (high == 255 || low == 255) return push_failure(L, "not a hexadecimal digit");
        data[i / 2] = static_cast<char>(high << 4 | low);
    }
    return push_bytes(L, data, text.size() / 2);
}

// --- base64 (RFC 4648) ---

struct Alphabet {
    std::string_view digits;
    std::array<std::uint8_t, 256> values;  // 255: not a digit

    constexpr explicit Alphabet(std::string_view letters) : digits(letters), values() {
        values.fill(255);
        for (std::size_t i = 0; i < digits.size(); ++i) {
            values[static_cast<unsigned char>(digits[i])] = static_cast<std::uint8_t>(i);
        }
    }
};

constexpr Alphabet kPlain("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
constexpr Alphabet kUrl("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");

int push_base64(lua_State* L, const Alphabet& alphabet, bool padded) {
    const std::string_view data = check_bytes(L, 1);
    Room room;
    char* text = room.get(L, (data.size() + 2) / 3 * 4);
    char* out = text;
    for (std::size_t i = 0; i < data.size(); i += 3) {
        std::uint32_t group = 0;
        const std::size_t count = data.size() - i < 3 ? data.size() - i : 3;
        for (std::size_t j = 0; j < 3; ++j) {
            group = group << 8 | (j < count ? static_cast<unsigned char>(data[i + j]) : 0u);
        }
        for (std::size_t j = 0; j < 4; ++j) {
            if (j <= count) {
                *out++ = alphabet.digits[group >> (18 - 6 * j) & 63];
            } else if (padded) {
                *out++ = '=';
            }
        }
    }
    return push_bytes(L, text, static_cast<std::size_t>(out - text));
}

// `padded`: the text must be filled up with =; otherwise it may be.
int push_unbase64(lua_State* L, const Alphabet& alphabet, bool padded) {
    std::string_view text = check_bytes(L, 1);
    if (padded && text.size() % 4 != 0) return push_failure(L, "base64 of a wrong length");
    if (text.size() % 4 == 0) {
        for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
    }
    if (text.size() % 4 == 1) return push_failure(L, "base64 of a wrong length");
    const std::size_t size = text.size() / 4 * 3 + text.size() % 4 * 3 / 4;
    Room room;
    char* data = room.get(L, size);
    std::uint32_t bits = 0;
    std::size_t out = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const std::uint8_t value = alphabet.values[static_cast<unsigned char>(text[i])];
        if (value == 255) return push_failure(L, "not a digit of base64");
        bits = bits << 6 | value;
        if (i % 4 != 0) data[out++] = static_cast<char>(bits >> (6 - i % 4 * 2) & 255);
    }
    // What is left over of the last digit must be zero: one text for each string.
    const std::uint32_t rest = text.size() % 4 == 2 ? 15 : text.size() % 4 == 3 ? 3 : 0;
    if ((bits & rest) != 0) return push_failure(L, "base64 that ends in stray bits");
    return push_bytes(L, data, size);
}

// crypto.base64_encode(data) -> string
int crypto_base64_encode(lua_State* L) { return push_base64(L, kPlain, true); }

// crypto.base64_decode(text) -> string | nil, message, code
int crypto_base64_decode(lua_State* L) { return push_unbase64(L, kPlain, true); }

// crypto.base64url_encode(data) -> string
int crypto_base64url_encode(lua_State* L) { return push_base64(L, kUrl, false); }

// crypto.base64url_decode(text) -> string | nil, message, code
int crypto_base64url_decode(lua_State* L) { return push_unbase64(L, kUrl, false); }

}  // namespace

void push_crypto_library(lua_State* L) {
    static constexpr luaL_Reg kFunctions[] = {
        {"random_bytes", crypto_random_bytes},
        {"md5", crypto_md5},
        {"sha1", crypto_sha1},
        {"sha256", crypto_sha256},
        {"hmac_sha1", crypto_hmac_sha1},
        {"hmac_sha256", crypto_hmac_sha256},
        {"equal", crypto_equal},
        {"hex", crypto_hex},
        {"unhex", crypto_unhex},
        {"base64_encode", crypto_base64_encode},
        {"base64_decode", crypto_base64_decode},
        {"base64url_encode", crypto_base64url_encode},
        {"base64url_decode", crypto_base64url_decode},
    };
    lua_createtable(L, 0, static_cast<int>(std::size(kFunctions)));
    for (const luaL_Reg& function : kFunctions) {
        lua_pushcfunction(L, function.func);
        lua_setfield(L, -2, function.name);
    }
}

}  // namespace perilune
