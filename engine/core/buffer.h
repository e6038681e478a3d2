// Buffer: counted bytes that several messages or connections share.
//
// Purpose:   a large payload is written once and then only read, whoever gets it.
// Threads:   the count is atomic; the bytes are written by the creator alone, before it
//            shares the buffer, and are constant from then on.
// Ownership: BufferRef holds one count; the last one frees the block.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace perilune {

class Buffer {
  public:
    // A buffer with room for `capacity` bytes and one count. Never null.
    static Buffer* create(std::size_t capacity);

    char* data() { return reinterpret_cast<char*>(this + 1); }
    const char* data() const { return reinterpret_cast<const char*>(this + 1); }
    std::size_t capacity() const { return capacity_; }
    std::size_t size() const { return size_; }
    void set_size(std::size_t size) { size_ = size; }

    // Whether anybody else has a count of it.
    bool is_shared() const { return count_.load() != 1; }

    void retain() { count_.fetch_add(1); }
    void release();

  private:
    explicit Buffer(std::size_t capacity) : capacity_(capacity) {}
    std::atomic<std::uint32_t> count_{1};
    std::size_t capacity_;
    std::size_t size_ = 0;
};

// Owns one count of a Buffer; may be empty.
class BufferRef {
  public:
    BufferRef() = default;
    explicit BufferRef(Buffer* adopted) : buffer_(adopted) {}
    BufferRef(const BufferRef& other) : buffer_(other.buffer_) {
        if (buffer_ != nullptr) buffer_->retain();
    }
    BufferRef(BufferRef&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
    BufferRef& operator=(BufferRef other) noexcept {
        std::swap(buffer_, other.buffer_);
        return *this;
    }
    ~BufferRef() {
        if (buffer_ != nullptr) buffer_->release();
    }

    static BufferRef copy_of(const char* data, std::size_t size) {
        Buffer* buffer = Buffer::create(size);
        if (size != 0) std::memcpy(buffer->data(), data, size);
        buffer->set_size(size);
        return BufferRef(buffer);
    }

    Buffer* get() const { return buffer_; }
    Buffer* take() { return std::exchange(buffer_, nullptr); }
    const char* data() const { return buffer_->data(); }
    std::size_t size() const { return buffer_ == nullptr ? 0 : buffer_->size(); }
    explicit operator bool() const { return buffer_ != nullptr; }

  private:
    Buffer* buffer_ = nullptr;
};

}  // namespace perilune
