#include "net/send_queue.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace perilune {

namespace {

constexpr std::size_t kFirstPiece = 960;  // with its header in one small block of malloc
constexpr std::size_t kLargestPiece = 16 * 1024;

}  // namespace

SendQueue::Piece* SendQueue::add_piece(std::size_t capacity) {
    Piece* piece = new (::operator new(sizeof(Piece) + capacity)) Piece;
    piece->capacity = static_cast<std::uint32_t>(capacity);
    (last_ == nullptr ? first_ : last_->next) = piece;
    last_ = piece;
    return piece;
}

void SendQueue::append(std::string_view bytes, bool continues) {
    const std::size_t total = bytes.size();
    if (last_ != nullptr && !last_->shared) {
        const std::size_t count = std::min<std::size_t>(bytes.size(), last_->capacity - last_->end);
        std::memcpy(last_->data() + last_->end, bytes.data(), count);
        last_->end += static_cast<std::uint32_t>(count);
        bytes.remove_prefix(count);
    }
    if (!bytes.empty()) {
        const std::size_t grown = std::clamp(bytes_, kFirstPiece, kLargestPiece);
        Piece* piece = add_piece(std::max(bytes.size(), grown));
        std::memcpy(piece->data(), bytes.data(), bytes.size());
        piece->end = static_cast<std::uint32_t>(bytes.size());
    }
    bytes_ += total;
    // Counted at its last piece: a packet has gone when all of it has.
    if (!continues && last_ != nullptr) {
        ++last_->packets;
        ++packets_;
    }
}

void SendQueue::append(const BufferRef& shared) {
    if (shared.size() == 0) return;
    Piece* piece = add_piece(0);
    piece->shared = shared;
    piece->end = static_cast<std::uint32_t>(shared.size());
    piece->packets = 1;
    bytes_ += shared.size();
    ++packets_;
}

int SendQueue::gather(iovec* pieces, int limit) const {
    int count = 0;
    for (Piece* piece = first_; piece != nullptr && count < limit; piece = piece->next) {
        pieces[count++] = {piece->data() + piece->begin, piece->end - piece->begin};
    }
    return count;
}

void SendQueue::consume(std::size_t count) {
    bytes_ -= count;
    while (count != 0) {
        const std::size_t here = std::min<std::size_t>(count, first_->end - first_->begin);
        first_->begin += static_cast<std::uint32_t>(here);
        count -= here;
        if (first_->begin == first_->end) drop_first();
    }
}

void SendQueue::drop_first() {
    Piece* piece = first_;
    first_ = piece->next;
    if (first_ == nullptr) last_ = nullptr;
    packets_ -= piece->packets;
    piece->~Piece();
    ::operator delete(piece);
}

void SendQueue::clear() {
    while (first_ != nullptr) drop_first();
    bytes_ = 0;
    packets_ = 0;
}

}  // namespace perilune
