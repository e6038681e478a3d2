#include "core/random.h"

#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace perilune {

// Unbiased, with almost no divisions: Daniel Lemire, "Fast Random Integer Generation in an
// Interval", ACM TOMACS 2019.
std::uint64_t Random::below(std::uint64_t limit) {
    if (limit == 0) return 0;
    unsigned __int128 product = static_cast<unsigned __int128>(next()) * limit;
    if (static_cast<std::uint64_t>(product) < limit) {
        const std::uint64_t threshold = -limit % limit;
        while (static_cast<std::uint64_t>(product) < threshold) {
            product = static_cast<unsigned __int128>(next()) * limit;
        }
    }
    return static_cast<std::uint64_t>(product >> 64);
}

static void read_kernel(unsigned char* data, std::size_t size) {
    while (size > 0) {
        const ssize_t count = getrandom(data, size, 0);
        if (count < 0) {
            if (errno == EINTR) continue;
            std::fprintf(stderr, "perilune: no random numbers: %s\n", std::strerror(errno));
            std::abort();
        }
        data += count;
        size -= static_cast<std::size_t>(count);
    }
}

std::uint64_t SystemRandom::next() {
    std::uint64_t value;
    fill(&value, sizeof value);
    return value;
}

void SystemRandom::fill(void* data, std::size_t size) {
    unsigned char* to = static_cast<unsigned char*>(data);
    if (size >= kBufferSize) return read_kernel(to, size);
    const std::lock_guard lock(mutex_);
    while (size > 0) {
        if (used_ == kBufferSize) {
            read_kernel(bytes_.data(), kBufferSize);
            used_ = 0;
        }
        const std::size_t count = std::min(size, kBufferSize - used_);
        std::memcpy(to, bytes_.data() + used_, count);
        explicit_bzero(bytes_.data() + used_, count);
        used_ += count;
        to += count;
        size -= count;
    }
}

std::uint64_t splitmix64(std::uint64_t& state) {
    std::uint64_t mixed = (state += 0x9e3779b97f4a7c15ull);
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ull;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebull;
    return mixed ^ (mixed >> 31);
}

SeededRandom::SeededRandom(std::uint64_t seed) {
    for (std::uint64_t& word : state_) word = splitmix64(seed);
}

std::uint64_t SeededRandom::next() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
}

void SeededRandom::fill(void* data, std::size_t size) {
    unsigned char* to = static_cast<unsigned char*>(data);
    while (size > 0) {
        const std::uint64_t value = next();
        const std::size_t count = std::min(size, sizeof value);
        for (std::size_t i = 0; i < count; ++i) {  // little-endian, on every machine
            to[i] = static_cast<unsigned char>(value >> (8 * i));
        }
        to += count;
        size -= count;
    }
}

}  // namespace perilune
