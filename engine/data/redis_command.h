// RedisCommand: a command of Redis as the bytes that travel, by hiredis's formatter; and the slot
// of a cluster that a key belongs to.
//
// Purpose:   values travel as counted bytes and never as text that somebody parses.
// Threads:   one at a time; the functions are pure.
// Ownership: a command owns its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "perilune/status.h"

namespace perilune {

class RedisCommand {
  public:
    static constexpr std::size_t kMaxBytes = 64 << 20;     // of all parts together
    static constexpr std::size_t kMaxParts = 1024 * 1024;  // as many as a server takes
    static constexpr std::uint32_t kSlots = 16384;         // of a cluster

    // `parts` and `sizes` are as long as each other: name and arguments.
    // Errors: invalid (no part), too_large (over kMaxBytes or kMaxParts).
    static Result<RedisCommand> make(std::span<const char*> parts,
                                     std::span<const std::size_t> sizes);

    std::string_view bytes() const { return {bytes_.get(), size_}; }

  private:
    struct Free {
        void operator()(char* bytes) const;
    };
    std::unique_ptr<char, Free> bytes_;
    std::size_t size_ = 0;
};

// 0 to 16383. Of "a{b}c" only the b counts, so that keys can be kept together.
std::uint32_t redis_slot(std::string_view key);

}  // namespace perilune
