// SendQueue: what waits to be sent on one connection.
//
// Purpose:   small packets are put together in a few pieces, so that one system call sends
//            many; large shared buffers are referred to, not copied.
// Threads:   none of its own; the connection's mutex guards it.
// Ownership: owns its pieces and one count of each shared buffer.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/buffer.h"

namespace perilune {

class SendQueue {
  public:
    SendQueue() = default;
    ~SendQueue() { clear(); }
    SendQueue(const SendQueue&) = delete;
    SendQueue& operator=(const SendQueue&) = delete;

    // One packet each, unless `continues`: a part of the packet before.
    void append(std::string_view bytes, bool continues = false);
    void append(const BufferRef& shared);

    bool empty() const { return bytes_ == 0; }
    std::size_t bytes() const { return bytes_; }
    // Packets that have not been sent as a whole, not more than were appended.
    std::size_t packets() const { return packets_; }

    // The oldest bytes, as at most `limit` pieces; returns how many.
    int gather(iovec* pieces, int limit) const;
    // The first `count` bytes have been sent.
    void consume(std::size_t count);
    void clear();

  private:
    struct Piece {
        Piece* next = nullptr;
        BufferRef shared;  // or empty: the bytes follow this struct
        std::uint32_t begin = 0;
        std::uint32_t end = 0;
        std::uint32_t capacity = 0;
        std::uint32_t packets = 0;
        char* data() { return shared ? shared.get()->data() : reinterpret_cast<char*>(this + 1); }
    };
    Piece* add_piece(std::size_t capacity);
    void drop_first();

    Piece* first_ = nullptr;
    Piece* last_ = nullptr;
    std::size_t bytes_ = 0;
    std::size_t packets_ = 0;
};

}  // namespace perilune
