// Ids: who a service, a connection or a timer is.
//
// Purpose:   integers below 2^53, so that a Lua number holds them exactly, each with a
//            generation, so that a dead id is never valid again.
// Threads:   values.
//
// A handle is   node (10 bits, 0 = not clustered) | slot (22 bits) | generation (21 bits).
// Connections and timers use the same packing with node 0.
#pragma once

#include <cstdint>
#include <functional>

namespace perilune {

inline constexpr int kGenerationBits = 21;
inline constexpr int kSlotBits = 22;
inline constexpr int kNodeBits = 10;
inline constexpr std::uint32_t kMaxGeneration = (1u << kGenerationBits) - 1;
inline constexpr std::uint32_t kMaxSlots = 1u << kSlotBits;

// An id of type Tag; zero is "none". Generation 0 is never given out.
template <typename Tag>
struct Id {
    std::uint64_t value = 0;

    static Id make(std::uint32_t slot, std::uint32_t generation, std::uint32_t node = 0) {
        return Id{(std::uint64_t{node} << (kSlotBits + kGenerationBits)) |
                  (std::uint64_t{slot} << kGenerationBits) | generation};
    }
    std::uint32_t generation() const { return value & kMaxGeneration; }
    std::uint32_t slot() const { return (value >> kGenerationBits) & (kMaxSlots - 1); }
    std::uint32_t node() const {
        return static_cast<std::uint32_t>(value >> (kSlotBits + kGenerationBits));
    }
    explicit operator bool() const { return value != 0; }
    friend bool operator==(Id left, Id right) { return left.value == right.value; }
    friend bool operator!=(Id left, Id right) { return left.value != right.value; }
};

using Handle = Id<struct ServiceTag>;
using ConnectionId = Id<struct ConnectionTag>;
using TimerId = Id<struct TimerTag>;

}  // namespace perilune

template <typename Tag>
struct std::hash<perilune::Id<Tag>> {
    std::size_t operator()(perilune::Id<Tag> id) const noexcept {
        return std::hash<std::uint64_t>{}(id.value * 0x9e3779b97f4a7c15ull);
    }
};
