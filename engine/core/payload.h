// PayloadWriter: where an encoder puts its bytes.
//
// Purpose:   bytes go first to a small area that the caller lends (the room inside a message)
//            and move to a counted buffer when they outgrow it.
// Threads:   one owner.
// Ownership: the lent area must outlive the writer; take_buffer() gives the buffer away.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/buffer.h"

namespace perilune {

class PayloadWriter {
  public:
    PayloadWriter(char* area, std::size_t size) : begin_(area), cursor_(area), end_(area + size) {}
    PayloadWriter() : PayloadWriter(nullptr, 0) {}

    std::size_t size() const { return static_cast<std::size_t>(cursor_ - begin_); }
    const char* data() const { return begin_; }

    // Room for at least `count` more bytes; what is used of it is told by advance().
    char* reserve(std::size_t count) {
        if (static_cast<std::size_t>(end_ - cursor_) < count) [[unlikely]]
            grow(count);
        return cursor_;
    }
    void advance(std::size_t count) { cursor_ += count; }

    void append(const void* bytes, std::size_t count) {
        char* room = reserve(count);
        if (count != 0) std::memcpy(room, bytes, count);
        advance(count);
    }
    void append_byte(unsigned char byte) {
        *reserve(1) = static_cast<char>(byte);
        advance(1);
    }
    // Bytes written before may be changed in place: a size that is known only afterwards.
    char* at(std::size_t offset) { return begin_ + offset; }

    // Drops what was written; keeps the room.
    void clear() { cursor_ = begin_; }

    // The counted buffer that holds everything written, or empty when the lent area does.
    BufferRef take_buffer() {
        if (!buffer_) return {};
        buffer_.get()->set_size(size());
        begin_ = cursor_ = end_ = nullptr;
        return std::move(buffer_);
    }

  private:
    void grow(std::size_t count) {
        const std::size_t used = size();
        const std::size_t wanted =
            std::max<std::size_t>(used + count, std::max<std::size_t>(2 * used, 512));
        BufferRef larger(Buffer::create(wanted));
        if (used != 0) std::memcpy(larger.get()->data(), begin_, used);
        buffer_ = std::move(larger);
        begin_ = buffer_.get()->data();
        cursor_ = begin_ + used;
        end_ = begin_ + wanted;
    }

    char* begin_;
    char* cursor_;
    char* end_;
    BufferRef buffer_;
};

}  // namespace perilune
