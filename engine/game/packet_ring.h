// PacketRing: the last packets to a client, numbered, so that one who comes back gets what it
// hasn't had.
//
// Purpose:   packets lie one behind the other in one block that grows with what is kept.
// Threads:   one owner.
// Ownership: owns the bytes; views are good until the next change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace perilune {

class PacketRing {
  public:
    // Keeps a packet under the next number, the first one under 1. At most 65535 bytes.
    void push(std::string_view packet);
    // Counts a packet that is too large to be kept: nothing before it is of use.
    void skip();
    // Not for an empty ring.
    void drop_oldest();
    // Gives memory back of which most is unused.
    void shrink();

    std::uint64_t sent() const { return first_ + count_ - 1; }  // number of the last packet
    std::uint64_t first() const { return first_; }              // of the oldest that is here
    std::size_t count() const { return count_; }
    std::size_t bytes() const { return used_ - count_ * kSize; }  // of the packets
    std::size_t reserved() const { return capacity_; }

    // Calls visit(packet) for each from `number` on, oldest first.
    template <typename Visit>
    void each_from(std::uint64_t number, Visit visit) const {
        std::size_t at = begin_;
        std::string whole;
        for (std::uint64_t i = first_; i <= sent(); ++i) {
            const std::size_t size = size_at(at);
            if (i >= number) visit(packet_at(at, size, whole));
            at = wrapped(at + kSize + size);
        }
    }

  private:
    static constexpr std::size_t kSize = 2;  // bytes before each packet: its size
    static constexpr std::size_t kLeast = 256;

    // The capacity is a power of 2, or 0.
    std::size_t wrapped(std::size_t at) const { return at & (capacity_ - 1); }
    std::size_t size_at(std::size_t at) const {
        return static_cast<unsigned char>(block_[at]) |
               std::size_t{static_cast<unsigned char>(block_[wrapped(at + 1)])} << 8;
    }
    // In `whole` where it goes over the block's end.
    std::string_view packet_at(std::size_t at, std::size_t size, std::string& whole) const;
    void append(const char* bytes, std::size_t count);
    void resize(std::size_t capacity);

    std::unique_ptr<char[]> block_;
    std::size_t capacity_ = 0;
    std::size_t begin_ = 0;  // of the oldest
    std::size_t used_ = 0;
    std::uint64_t first_ = 1;
    std::size_t count_ = 0;
};

}  // namespace perilune
