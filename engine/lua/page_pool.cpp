#include "lua/page_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace perilune {

namespace {

// Addresses become writable in steps, so that a node has few mappings and few system calls.
constexpr std::size_t kCommitStep = std::size_t{16} << 20;
constexpr std::size_t kLeastReservation = std::size_t{256} << 20;
// From here on page table entries are moved and not bytes: 5 us for 256 KiB, where copying takes
// 97 us into pages not touched before and 2.5 us into others.
constexpr std::size_t kMoveByMremap = std::size_t{256} << 10;

std::size_t whole_chunks(std::size_t bytes) { return (bytes + kChunkSize - 1) & ~(kChunkSize - 1); }

void* pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

std::uintptr_t address_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

void return_to_system(std::uintptr_t address, std::size_t bytes) {
    madvise(pointer(address), bytes, MADV_DONTNEED);
}

}  // namespace

Result<std::unique_ptr<PagePool>> PagePool::create(const Options& options) {
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (options.base % kChunkSize != 0) {
        return Status::error(StatusCode::invalid, "page pool: base is not a multiple of 64 KiB");
    }
    std::size_t bytes = std::max(whole_chunks(options.reserve_bytes), kLeastReservation);
    void* found = MAP_FAILED;
    if (options.base != 0) {
        found = mmap(pointer(options.base), bytes, PROT_NONE, kFlags | MAP_FIXED_NOREPLACE, -1, 0);
        if (found != MAP_FAILED && found != pointer(options.base)) {  // kernels before 4.17
            munmap(found, bytes);
            errno = EEXIST;
            found = MAP_FAILED;
        }
    } else {
        while (true) {
            found = mmap(nullptr, bytes, PROT_NONE, kFlags, -1, 0);
            if (found != MAP_FAILED || bytes / 2 < kLeastReservation) break;
            bytes /= 2;
        }
    }
    if (found == MAP_FAILED) {
        const bool taken = errno == EEXIST;
        return Status::error(taken ? StatusCode::exists : StatusCode::unavailable,
                             "page pool: can't reserve %zu MiB of addresses: %s", bytes >> 20,
                             std::strerror(errno));
    }
    // A huge page for one idle VM would cost 2 MiB. Refused where there are none: no matter.
    madvise(found, bytes, MADV_NOHUGEPAGE);
    return std::unique_ptr<PagePool>(new PagePool(address_of(found), bytes, options));
}

PagePool::PagePool(std::uintptr_t reservation, std::size_t bytes, const Options& options)
    : reservation_(reservation), reserved_bytes_(bytes), warm_limit_(options.warm_bytes) {
    const std::uintptr_t begin = whole_chunks(reservation);
    const std::uintptr_t end = (reservation + bytes) & ~(kChunkSize - 1);
    const std::uintptr_t middle = begin + ((end - begin) / 2 & ~(kChunkSize - 1));
    chunk_zone_ = {begin, begin, begin, middle};
    span_zone_ = {middle, middle, middle, end};
}

PagePool::~PagePool() { munmap(pointer(reservation_), reserved_bytes_); }

bool PagePool::commit(Zone* zone, std::uintptr_t until) {
    if (until > zone->end) return false;
    if (until <= zone->committed) return true;
    const std::size_t step = (until - zone->committed + kCommitStep - 1) & ~(kCommitStep - 1);
    const std::uintptr_t target = std::min(zone->committed + step, zone->end);
    if (mprotect(pointer(zone->committed), target - zone->committed, PROT_READ | PROT_WRITE) != 0) {
        return false;
    }
    zone->committed = target;
    return true;
}

Chunk* PagePool::take_chunk(bool first) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Chunk** warm = first || warm_full_ == nullptr ? &warm_small_ : &warm_full_;
    if (*warm != nullptr) {
        Chunk* chunk = *warm;
        *warm = chunk->next;
        chunk->next = nullptr;
        warm_chunk_bytes_ -= chunk->touched;
        ++chunks_used_;
        return chunk;
    }
    std::uintptr_t address = 0;
    if (!cold_chunks_.empty()) {
        address = cold_chunks_.back();
        cold_chunks_.pop_back();
    } else {
        if (!commit(&chunk_zone_, chunk_zone_.next + kChunkSize)) return nullptr;
        address = chunk_zone_.next;
        chunk_zone_.next += kChunkSize;
    }
    ++chunks_used_;
    return new (pointer(address)) Chunk;
}

void PagePool::give_chunks(Chunk* list) {
    std::vector<std::uintptr_t> cold;
    std::size_t returned = 0;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        while (list != nullptr) {
            Chunk* chunk = list;
            list = chunk->next;
            --chunks_used_;
            if (warm_chunk_bytes_ + chunk->touched <= warm_limit_) {
                Chunk** warm = chunk->touched <= kSmallChunk ? &warm_small_ : &warm_full_;
                chunk->next = *warm;
                *warm = chunk;
                warm_chunk_bytes_ += chunk->touched;
            } else {
                cold.push_back(address_of(chunk));
            }
        }
    }
    if (cold.empty()) return;
    for (const std::uintptr_t address : cold) {
        const std::size_t touched = static_cast<Chunk*>(pointer(address))->touched;
        returned += touched;
        return_to_system(address, kChunkSize);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    cold_chunks_.insert(cold_chunks_.end(), cold.begin(), cold.end());
    returned_bytes_ += returned;
}

void* PagePool::take_span(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return take_span_locked(whole_chunks(bytes));
}

// First fit by address: reproducible, and leaves the far end free. Warm and cold neighbours
// are separate entries of free_spans_, so a fit may be made of several.
void* PagePool::take_span_locked(std::size_t bytes) {
    auto first = free_spans_.begin();
    std::size_t found = 0;
    for (auto it = first; it != free_spans_.end(); ++it) {
        if (it->first != first->first + found) {
            first = it;
            found = 0;
        }
        found += it->second.bytes;
        if (found < bytes) continue;

        const std::uintptr_t address = first->first;
        const FreeSpan last = it->second;
        const std::size_t rest = found - bytes;
        for (auto used = first; used != std::next(it); ++used) {
            if (used->second.warm) warm_span_bytes_ -= used->second.bytes;
        }
        free_spans_.erase(first, std::next(it));
        if (rest != 0) {
            free_spans_.emplace(address + bytes, FreeSpan{rest, last.warm});
            if (last.warm) warm_span_bytes_ += rest;
        }
        span_bytes_used_ += bytes;
        return pointer(address);
    }
    if (bytes > span_zone_.end - span_zone_.next) return nullptr;
    if (!commit(&span_zone_, span_zone_.next + bytes)) return nullptr;
    const std::uintptr_t address = span_zone_.next;
    span_zone_.next += bytes;
    span_bytes_used_ += bytes;
    return pointer(address);
}

void PagePool::give_span(void* span, std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    give_span_locked(address_of(span), whole_chunks(bytes), true);
}

void PagePool::give_span_locked(std::uintptr_t address, std::size_t bytes, bool warm) {
    span_bytes_used_ -= bytes;
    if (warm) warm_span_bytes_ += bytes;
    auto after = free_spans_.lower_bound(address);
    if (after != free_spans_.end() && after->first == address + bytes &&
        after->second.warm == warm) {
        bytes += after->second.bytes;
        after = free_spans_.erase(after);
    }
    if (after != free_spans_.begin()) {
        const auto before = std::prev(after);
        if (before->first + before->second.bytes == address && before->second.warm == warm) {
            address = before->first;
            bytes += before->second.bytes;
            free_spans_.erase(before);
        }
    }
    free_spans_.emplace(address, FreeSpan{bytes, warm});
    if (warm_span_bytes_ > warm_limit_) purge_spans();
}

bool PagePool::grow_span(void* span, std::size_t old_bytes, std::size_t new_bytes) {
    old_bytes = whole_chunks(old_bytes);
    new_bytes = whole_chunks(new_bytes);
    if (new_bytes <= old_bytes) return true;
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::uintptr_t end = address_of(span) + old_bytes;
    const std::size_t more = new_bytes - old_bytes;
    if (end == span_zone_.next) {
        if (more > span_zone_.end - end || !commit(&span_zone_, end + more)) return false;
        span_zone_.next += more;
        span_bytes_used_ += more;
        return true;
    }
    const auto it = free_spans_.find(end);
    if (it == free_spans_.end() || it->second.bytes < more) return false;
    const FreeSpan rest{it->second.bytes - more, it->second.warm};
    free_spans_.erase(it);
    if (rest.warm) warm_span_bytes_ -= more;
    if (rest.bytes != 0) free_spans_.emplace(end + more, rest);
    span_bytes_used_ += more;
    return true;
}

void PagePool::shrink_span(void* span, std::size_t old_bytes, std::size_t new_bytes) {
    old_bytes = whole_chunks(old_bytes);
    new_bytes = whole_chunks(new_bytes);
    if (new_bytes >= old_bytes) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    give_span_locked(address_of(span) + new_bytes, old_bytes - new_bytes, true);
}

void* PagePool::move_span(void* span, std::size_t old_bytes, std::size_t new_bytes) {
    const std::size_t content_bytes = old_bytes;
    old_bytes = whole_chunks(old_bytes);
    void* moved = take_span(new_bytes);
    if (moved == nullptr) return nullptr;
    bool by_mremap = false;
    if (old_bytes >= kMoveByMremap) {
        // DONTUNMAP (Linux 5.7) leaves the old addresses mapped and empty.
        constexpr int kFlags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
        by_mremap = mremap(span, old_bytes, old_bytes, kFlags, moved) != MAP_FAILED;
        if (!by_mremap) {  // it may have unmapped the target before it failed
            mmap(moved, old_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        }
    }
    if (!by_mremap) std::memcpy(moved, span, content_bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    moved_ = moved_ || by_mremap;
    give_span_locked(address_of(span), old_bytes, !by_mremap);
    return moved;
}

// Mapping anew, where mremap has split the mapping, lets the kernel join it again: a process
// may have only 65,530 mappings.
void PagePool::purge_spans() {
    for (auto it = free_spans_.begin(); it != free_spans_.end();) {
        auto [address, span] = *it;
        if (span.warm) returned_bytes_ += span.bytes;
        if (moved_) {
            mmap(pointer(address), span.bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
            madvise(pointer(address), span.bytes, MADV_NOHUGEPAGE);
        } else if (span.warm) {
            return_to_system(address, span.bytes);
        }
        it = free_spans_.erase(it);
        if (it != free_spans_.begin()) {
            const auto before = std::prev(it);
            if (before->first + before->second.bytes == address) {
                before->second.bytes += span.bytes;
                continue;
            }
        }
        free_spans_.emplace_hint(it, address, FreeSpan{span.bytes, false});
    }
    warm_span_bytes_ = 0;
    moved_ = false;
}

void PagePool::purge() {
    const std::lock_guard<std::mutex> lock(mutex_);
    purge_spans();
    for (Chunk** list : {&warm_small_, &warm_full_}) {
        while (*list != nullptr) {
            Chunk* chunk = *list;
            *list = chunk->next;
            returned_bytes_ += chunk->touched;
            return_to_system(address_of(chunk), kChunkSize);
            cold_chunks_.push_back(address_of(chunk));
        }
    }
    warm_chunk_bytes_ = 0;
}

PagePool::Stats PagePool::stats() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {chunks_used_, span_bytes_used_, warm_chunk_bytes_ + warm_span_bytes_, returned_bytes_};
}

}  // namespace perilune
