#include "core/buffer.h"

#include <new>

namespace perilune {

Buffer* Buffer::create(std::size_t capacity) {
    void* block = ::operator new(sizeof(Buffer) + capacity);
    return new (block) Buffer(capacity);
}

void Buffer::release() {
    if (count_.fetch_sub(1) != 1) return;
    this->~Buffer();
    ::operator delete(this);
}

}  // namespace perilune
