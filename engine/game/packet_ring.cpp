#include "game/packet_ring.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace perilune {

void PacketRing::push(std::string_view packet) {
    const std::size_t needed = used_ + kSize + packet.size();
    if (needed > capacity_) resize(std::max(std::bit_ceil(needed), kLeast));
    const char size[kSize] = {static_cast<char>(packet.size()),
                              static_cast<char>(packet.size() >> 8)};
    append(size, kSize);
    append(packet.data(), packet.size());
    ++count_;
}

void PacketRing::skip() {
    first_ += count_ + 1;
    begin_ = used_ = count_ = 0;
}

void PacketRing::drop_oldest() {
    const std::size_t taken = kSize + size_at(begin_);
    begin_ = wrapped(begin_ + taken);
    used_ -= taken;
    ++first_;
    --count_;
}

void PacketRing::shrink() {
    if (capacity_ > kLeast && used_ <= capacity_ / 4) {
        resize(std::max(std::bit_ceil(used_ + 1), kLeast));
    }
}

std::string_view PacketRing::packet_at(std::size_t at, std::size_t size, std::string& whole) const {
    const std::size_t from = wrapped(at + kSize);
    const std::size_t before_end = std::min(size, capacity_ - from);
    if (before_end == size) return {block_.get() + from, size};
    whole.assign(block_.get() + from, before_end);
    whole.append(block_.get(), size - before_end);
    return whole;
}

void PacketRing::append(const char* bytes, std::size_t count) {
    const std::size_t at = wrapped(begin_ + used_);
    const std::size_t before_end = std::min(count, capacity_ - at);
    if (before_end != 0) std::memcpy(block_.get() + at, bytes, before_end);
    if (before_end != count) std::memcpy(block_.get(), bytes + before_end, count - before_end);
    used_ += count;
}

void PacketRing::resize(std::size_t capacity) {
    auto block = std::make_unique_for_overwrite<char[]>(capacity);
    if (used_ != 0) {
        const std::size_t before_end = std::min(used_, capacity_ - begin_);
        std::memcpy(block.get(), block_.get() + begin_, before_end);
        std::memcpy(block.get() + before_end, block_.get(), used_ - before_end);
    }
    block_ = std::move(block);
    capacity_ = capacity;
    begin_ = 0;
}

}  // namespace perilune
