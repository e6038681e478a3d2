// Random: where numbers nobody expects come from.
//
// Purpose:   an interface, so that a seeded run repeats itself. Secrets (tokens, keys) and
//            seeds come from SystemRandom in production.
// Threads:   SystemRandom: any thread. SeededRandom: one thread at a time.
// Ownership: the node owns it; others hold a reference that the node outlives.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace perilune {

class Random {
  public:
    virtual ~Random() = default;

    // 64 random bits.
    virtual std::uint64_t next() = 0;

    // Writes `size` random bytes to `data`.
    virtual void fill(void* data, std::size_t size) = 0;

    // A number in [0, limit), each equally likely; 0 when `limit` is 0.
    std::uint64_t below(std::uint64_t limit);
};

// The kernel's generator, getrandom(2), read through a small buffer. Fit for secrets: what
// was handed out is wiped. Stops the process when the kernel has no random numbers.
// A child of fork() without exec must not go on using its copy.
class SystemRandom final : public Random {
  public:
    std::uint64_t next() override;
    void fill(void* data, std::size_t size) override;

  private:
    static constexpr std::size_t kBufferSize = 512;

    std::mutex mutex_;
    // Guarded by mutex_: bytes_[used_..] have not been handed out.
    std::array<unsigned char, kBufferSize> bytes_;
    std::size_t used_ = kBufferSize;
};

// xoshiro256** 1.0, seeded by splitmix64, both by David Blackman and Sebastiano Vigna
// (https://prng.di.unimi.it). The same seed, the same numbers, on every machine. No secrets
// from this one. Not thread-safe.
class SeededRandom final : public Random {
  public:
    explicit SeededRandom(std::uint64_t seed);
    std::uint64_t next() override;
    void fill(void* data, std::size_t size) override;

  private:
    std::array<std::uint64_t, 4> state_;
};

// One step of splitmix64: adds its constant to `state` and returns the mixed value.
std::uint64_t splitmix64(std::uint64_t& state);

}  // namespace perilune
