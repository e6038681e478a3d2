#include "lua/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace perilune {

Arena::Arena(PagePool* pool) : pool_(pool) {}

void Arena::set_limit(std::size_t bytes) {
    limit_ = bytes;
    rearm();
}

void Arena::on_over_limit(OverLimit callback, void* context) {
    over_limit_ = callback;
    over_limit_context_ = context;
}

void Arena::rearm() {
    armed_ = true;
    alarm_ = limit_;
}

std::int64_t* Arena::set_charge(std::int64_t* counter) {
    std::int64_t* before = charge_ == &uncharged_ ? nullptr : charge_;
    charge_ = counter == nullptr ? &uncharged_ : counter;
    return before;
}

void Arena::fire() {
    if (!armed_) return;
    armed_ = false;
    alarm_ = kNoLimit;
    if (over_limit_ != nullptr) over_limit_(over_limit_context_);
}

bool Arena::is_refused(std::size_t old_size, std::size_t new_size) {
    if (new_size < kHugeRequest || new_size <= old_size) return false;
    if (!may_refuse_ || has_room(new_size - old_size)) return false;
    ++refused_;
    fire();
    return true;
}

inline void Arena::count(std::size_t old_size, std::size_t new_size) {
    used_ += new_size - old_size;
    *charge_ += static_cast<std::int64_t>(new_size) - static_cast<std::int64_t>(old_size);
    if (used_ > alarm_) [[unlikely]]
        fire();
}

#ifdef PERILUNE_ASAN

// Every block is malloc's, so that AddressSanitizer sees each access outside of it.
struct alignas(16) Arena::Checked {
    Checked* next;
    Checked** link;
    std::size_t size;
};

Arena::~Arena() {
    while (blocks_ != nullptr) std::free(std::exchange(blocks_, blocks_->next));
}

void* Arena::lua_allocate(void* arena, void* block, std::size_t old_size, std::size_t new_size) {
    return static_cast<Arena*>(arena)->allocate_checked(block, old_size, new_size);
}

void* Arena::allocate_checked(void* block, std::size_t old_size, std::size_t new_size) {
    if (block == nullptr) old_size = 0;
    if (is_refused(old_size, new_size)) return nullptr;
    Checked* old = block == nullptr ? nullptr : static_cast<Checked*>(block) - 1;
    if (old != nullptr && old->size != old_size) std::abort();
    Checked* fresh = nullptr;
    if (new_size != 0) {  // always another address, so that a stale pointer is found
        fresh = static_cast<Checked*>(std::malloc(sizeof(Checked) + new_size));
        if (fresh == nullptr) return nullptr;
        fresh->size = new_size;
        if (old != nullptr) std::memcpy(fresh + 1, block, std::min(old_size, new_size));
    }
    if (old != nullptr) {
        *old->link = old->next;
        if (old->next != nullptr) old->next->link = old->link;
        std::free(old);
    }
    if (fresh != nullptr) {
        fresh->next = blocks_;
        fresh->link = &blocks_;
        if (blocks_ != nullptr) blocks_->link = &fresh->next;
        blocks_ = fresh;
    }
    count(old_size, new_size);
    return fresh == nullptr ? nullptr : fresh + 1;
}

std::size_t Arena::footprint() const { return used_; }

void Arena::trim() {}

void Arena::close() {}

#else

namespace {

constexpr std::size_t kSmallMax = 512;
constexpr std::size_t kMediumMax = 32 * 1024;
constexpr std::size_t kLargeHeader = 64;  // a cache line, so that blocks are aligned to one
// How far the bump region grows into fresh memory: a page, so that what was freed is looked at
// before each new page.
constexpr std::size_t kFreshStep = kPageSize;
// A chunk is harvested when this much of it is free. More means longer holes, and fewer bits to
// look at for each; but the only chunk of a small VM should not grow meanwhile.
constexpr std::uint32_t kHarvestSmall = 1024;
constexpr std::uint32_t kHarvest = 8 * 1024;
// A medium block looks at so many chunks for a hole that is long enough, then takes fresh memory.
constexpr std::size_t kMediumHarvests = 4;
// Listed holes go back into the bitmaps when so much, and a quarter of the heap, was listed.
constexpr std::size_t kLeastFlush = 8 * 1024;
// A VM below this does not trim itself: it isn't worth the time.
constexpr std::size_t kLeastTrim = 256 * 1024;
constexpr std::size_t kLeastPurge = 16 * 1024;  // shorter holes keep their pages
constexpr std::size_t kFitTries = 8;  // holes looked at in a bin where not all are long enough
constexpr std::size_t kBits = kChunkSize / 8;

std::size_t round_up(std::size_t size) { return (size + 7) & ~std::size_t{7}; }

std::size_t distance(const char* begin, const char* end) {
    return static_cast<std::size_t>(end - begin);
}

std::size_t offset_in_chunk(const void* block) {
    return reinterpret_cast<std::uintptr_t>(block) & (kChunkSize - 1);
}

std::size_t bin_of(std::size_t bytes) {
    const std::size_t octave = static_cast<std::size_t>(std::bit_width(bytes)) - 1;  // 9..15
    return (octave - 9) * 4 + (bytes >> (octave - 2) & 3);
}

// Returns the whole pages between two addresses to the system.
void purge_pages(void* begin, void* end) {
    const auto first = (reinterpret_cast<std::uintptr_t>(begin) + kPageSize - 1) & ~(kPageSize - 1);
    const auto last = reinterpret_cast<std::uintptr_t>(end) & ~(kPageSize - 1);
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

// Calls apply(word, mask) for each word of `count` bits from `first` on.
template <typename Apply>
inline void for_bits(std::uint64_t* bits, std::size_t first, std::size_t count, Apply apply) {
    std::uint64_t* word = bits + first / 64;
    const std::size_t shift = first % 64;
    if (shift + count <= 64) [[likely]] {
        apply(*word, (~std::uint64_t{0} >> (64 - count)) << shift);
        return;
    }
    apply(*word, ~std::uint64_t{0} << shift);
    for (count -= 64 - shift; count > 64; count -= 64) apply(*++word, ~std::uint64_t{0});
    apply(*++word, ~std::uint64_t{0} >> (64 - count));
}

// The first bit from `first` on that is `value`, or kBits.
inline std::size_t find_bit(const std::uint64_t* bits, std::size_t first, bool value) {
    const std::uint64_t flip = value ? 0 : ~std::uint64_t{0};
    while (first < kBits) {
        const std::uint64_t word = (bits[first / 64] ^ flip) >> (first % 64);
        if (word != 0) return first + static_cast<std::size_t>(std::countr_zero(word));
        first = (first / 64 + 1) * 64;
    }
    return kBits;
}

}  // namespace

struct Arena::Heap {
    Chunk chunk;
    Heap* queue_next;
    std::uint32_t free;  // bytes whose bits are set
    bool queued;         // or being harvested
    std::uint64_t bits[kBits / 64];

    static constexpr std::size_t kBegin = 1088;  // the first block: a cache line of its own
    static constexpr std::uint32_t kBytes = kChunkSize - kBegin;
};

Arena::Heap* Arena::heap_of(const void* block) {
    return reinterpret_cast<Heap*>(reinterpret_cast<std::uintptr_t>(block) & ~(kChunkSize - 1));
}

Arena::Large* Arena::large_of(void* block) {
    return reinterpret_cast<Large*>(static_cast<char*>(block) - kLargeHeader);
}

Arena::~Arena() {
    static_assert(sizeof(Heap) <= Heap::kBegin && Heap::kBegin % 64 == 0);
    while (large_ != nullptr) give_large(large_);
    if (chunks_ != nullptr) pool_->give_chunks(chunks_);
}

void* Arena::lua_allocate(void* arena, void* block, std::size_t old_size, std::size_t new_size) {
    Arena* self = static_cast<Arena*>(arena);
    if (block == nullptr) return new_size == 0 ? nullptr : self->allocate(new_size);
    if (new_size != 0) {
        return self->reallocate(static_cast<char*>(block), old_size, new_size);
    }
    self->give(block, old_size);
    self->count(old_size, 0);
    if (self->used_ < self->trim_below_) [[unlikely]]
        self->trim();
    return nullptr;
}

void* Arena::allocate(std::size_t size) {
    void* block = take(size);
    if (block != nullptr) [[likely]]
        count(0, size);
    return block;
}

inline void* Arena::take(std::size_t size) {
    const std::size_t bytes = round_up(size);
    if (bytes > kSmallMax) [[unlikely]] {
        return size <= kMediumMax ? take_medium(bytes) : take_large(size);
    }
    Free*& list = small_[bytes / 8];
    if (list != nullptr) {
        Free* block = list;
        list = block->next;
        return block;
    }
    if (distance(bump_, bump_end_) < bytes) [[unlikely]]
        return take_small_slowly(bytes);
    return cut(bytes);
}

// Frees the block of a request of `size` bytes. A medium one is listed at once: a table or buffer
// that grows leaves some, and finding them in the bitmaps is slow.
inline void Arena::give(void* block, std::size_t size) {
    const std::size_t bytes = round_up(size);
    if (bytes <= kSmallMax) [[likely]] {
        mark_free(block, bytes);
    } else if (size <= kMediumMax) {
        list_hole(block, bytes);
    } else {
        give_large(large_of(block));
    }
}

inline void Arena::mark_free(void* memory, std::size_t bytes) {
    Heap* heap = heap_of(memory);
    for_bits(heap->bits, offset_in_chunk(memory) / 8, bytes / 8,
             [](std::uint64_t& word, std::uint64_t mask) { word |= mask; });
    heap->free += static_cast<std::uint32_t>(bytes);
    if (heap->free >= harvest_from_ && !heap->queued) [[unlikely]]
        enqueue(heap);
}

// Makes `bytes` of a chunk, a multiple of 8, a listed hole.
void Arena::list_hole(void* memory, std::size_t bytes) {
    listed_bytes_ += bytes;
    Free* hole = static_cast<Free*>(memory);
    if (bytes <= kSmallMax) {
        hole->next = small_[bytes / 8];
        small_[bytes / 8] = hole;
        return;
    }
    const std::size_t bin = bin_of(bytes);
    hole->next = bins_[bin];
    hole->bytes = bytes;
    bins_[bin] = hole;
    bin_mask_ |= 1u << bin;
}

void* Arena::reallocate(char* block, std::size_t old_size, std::size_t new_size) {
    const bool old_large = old_size > kMediumMax;
    const bool new_large = new_size > kMediumMax;
    if (old_large && new_large) return reallocate_large(block, old_size, new_size);

    const std::size_t old_bytes = round_up(old_size);
    const std::size_t new_bytes = round_up(new_size);
    if (!old_large && new_bytes <= old_bytes) {
        if (new_bytes < old_bytes) give(block + new_bytes, old_bytes - new_bytes);
        count(old_size, new_size);
        return block;
    }
    if (block + old_bytes == bump_ && !new_large && distance(block, bump_end_) >= new_bytes) {
        bump_ = block + new_bytes;
        count(old_size, new_size);
        return block;
    }
    void* moved = take(new_size);
    if (moved == nullptr) return nullptr;
    std::memcpy(moved, block, std::min(old_size, new_size));
    give(block, old_size);
    count(old_size, new_size);
    return moved;
}

// No listed hole of this size and no room in the bump region.
void* Arena::take_small_slowly(std::size_t bytes) {
    if (!refill(bytes)) {
        if (is_flush_due()) flush();
        if (!refill(bytes) && !refill_from_chunk(bytes)) return nullptr;
    }
    return cut(bytes);
}

void* Arena::take_medium(std::size_t bytes) {
    if (char* hole = take_listed(bytes); hole != nullptr) return hole;
    if (distance(bump_, bump_end_) >= bytes) return cut(bytes);
    if (is_flush_due()) flush();
    std::size_t found = 0;
    if (char* hole = harvest(bytes, kMediumHarvests, &found); hole != nullptr) {
        if (found > bytes) list_hole(hole + bytes, found - bytes);
        return hole;
    }
    if (bump_end_ == fresh_ && distance(bump_, fresh_end_) >= bytes) {
        if (!refill_from_chunk(bytes)) return nullptr;
        return cut(bytes);
    }
    if (distance(fresh_, fresh_end_) < bytes && !add_chunk()) return nullptr;
    char* block = fresh_;
    advance_fresh(bytes);
    return block;
}

inline char* Arena::cut(std::size_t bytes) {
    char* block = bump_;
    bump_ += bytes;
    return block;
}

// Takes `bytes` from the bins; null when no hole there is long enough.
char* Arena::take_listed(std::size_t bytes) {
    const std::size_t exact = bin_of(bytes);
    Free** link = &bins_[exact];
    for (std::size_t i = 0; i < kFitTries && *link != nullptr; ++i) {
        if ((*link)->bytes >= bytes) return split_hole(link, exact, bytes);
        link = &(*link)->next;
    }
    const std::uint32_t longer = bin_mask_ >> exact >> 1 << 1 << exact;
    if (longer == 0) return nullptr;
    const std::size_t bin = static_cast<std::size_t>(std::countr_zero(longer));
    return split_hole(&bins_[bin], bin, bytes);
}

// Removes the hole that *link points to from `bin`, keeps `bytes` of it and lists the rest.
char* Arena::split_hole(Free** link, std::size_t bin, std::size_t bytes) {
    Free* hole = *link;
    const std::size_t rest = hole->bytes - bytes;
    *link = hole->next;
    if (bins_[bin] == nullptr) bin_mask_ &= ~(1u << bin);
    char* block = reinterpret_cast<char*>(hole);
    if (rest != 0) list_hole(block + bytes, rest);
    return block;
}

// Finds a bump region of at least `bytes` in recycled memory.
bool Arena::refill(std::size_t bytes) {
    std::size_t found = 0;
    if (char* hole = harvest(bytes, SIZE_MAX, &found); hole != nullptr) {
        set_bump(hole, found);
        return true;
    }
    return refill_from_lists(bytes);
}

// The shortest listed hole of the bins, so that long ones last, else the longest of the free
// lists that has twice `bytes`.
bool Arena::refill_from_lists(std::size_t bytes) {
    if (bin_mask_ != 0) {
        const std::size_t bin = static_cast<std::size_t>(std::countr_zero(bin_mask_));
        const std::size_t found = bins_[bin]->bytes;
        set_bump(split_hole(&bins_[bin], bin, found), found);
        return true;
    }
    for (std::size_t i = kSmallClasses; i * 8 >= 2 * bytes; --i) {
        if (small_[i] == nullptr) continue;
        Free* hole = small_[i];
        small_[i] = hole->next;
        set_bump(reinterpret_cast<char*>(hole), i * 8);
        return true;
    }
    return false;
}

// Extends or replaces the bump region by fresh memory, so that it has `bytes` at least.
bool Arena::refill_from_chunk(std::size_t bytes) {
    if (bump_end_ != fresh_ || distance(bump_, fresh_end_) < bytes) {
        if (distance(fresh_, fresh_end_) < bytes && !add_chunk()) return false;
        set_bump(fresh_, 0);
    }
    const std::size_t end = (offset_in_chunk(bump_) + bytes + kFreshStep - 1) & ~(kFreshStep - 1);
    advance_fresh(end - offset_in_chunk(bump_end_));
    bump_end_ = fresh_;
    return true;
}

void Arena::set_bump(char* memory, std::size_t bytes) {
    if (bump_ != bump_end_) list_hole(bump_, distance(bump_, bump_end_));
    bump_ = memory;
    bump_end_ = memory + bytes;
}

void Arena::advance_fresh(std::size_t bytes) {
    Chunk* chunk = &heap_of(fresh_)->chunk;
    fresh_ += bytes;
    owned_ += bytes;
    const std::size_t touched = kChunkSize - distance(fresh_, fresh_end_);
    chunk->touched = std::max(chunk->touched, static_cast<std::uint32_t>(touched));
}

// A new chunk for fresh_; what was left of the last one becomes free.
bool Arena::add_chunk() {
    Chunk* chunk = pool_->take_chunk(chunks_ == nullptr);
    if (chunk == nullptr) return false;
    if (fresh_ != fresh_end_) {
        char* rest = fresh_;
        const std::size_t bytes = distance(fresh_, fresh_end_);
        advance_fresh(bytes);
        if (bump_end_ == rest) {
            bump_end_ += bytes;
        } else {
            list_hole(rest, bytes);
        }
    }
    harvest_from_ = chunks_ == nullptr ? kHarvestSmall : kHarvest;
    Heap* heap = reinterpret_cast<Heap*>(chunk);
    heap->queue_next = nullptr;
    heap->free = 0;
    heap->queued = false;
    std::memset(heap->bits, 0, sizeof(heap->bits));
    chunk->next = chunks_;
    chunks_ = chunk;
    fresh_ = reinterpret_cast<char*>(chunk) + Heap::kBegin;
    fresh_end_ = reinterpret_cast<char*>(chunk) + kChunkSize;
    set_trim_mark();
    return true;
}

// Takes holes from the bitmaps until one has `bytes`, from `most_chunks` more chunks at most;
// shorter ones are listed. Null when there is none.
char* Arena::harvest(std::size_t bytes, std::size_t most_chunks, std::size_t* found) {
    while (true) {
        if (harvested_ == nullptr) {
            if (queue_ == nullptr || most_chunks == 0) return nullptr;
            --most_chunks;
            start_harvest();
        }
        std::uint64_t* bits = harvested_->bits;
        while (true) {
            const std::size_t first = find_bit(bits, harvest_bit_, true);
            if (first == kBits) break;
            const std::size_t last = find_bit(bits, first, false);
            for_bits(bits, first, last - first,
                     [](std::uint64_t& word, std::uint64_t mask) { word &= ~mask; });
            harvest_bit_ = last;
            *found = (last - first) * 8;
            harvested_->free -= static_cast<std::uint32_t>(*found);
            char* hole = reinterpret_cast<char*>(harvested_) + first * 8;
            if (*found >= bytes) return hole;
            list_hole(hole, *found);
        }
        end_harvest();
    }
}

void Arena::start_harvest() {
    harvested_ = queue_;
    queue_ = queue_->queue_next;
    harvest_bit_ = Heap::kBegin / 8;
}

void Arena::end_harvest() {
    harvested_->queued = false;
    if (harvested_->free >= harvest_from_) enqueue(harvested_);
    harvested_ = nullptr;
}

void Arena::enqueue(Heap* heap) {
    heap->queued = true;
    heap->queue_next = nullptr;
    (queue_ == nullptr ? queue_ : queue_last_->queue_next) = heap;
    queue_last_ = heap;
}

bool Arena::is_flush_due() const { return listed_bytes_ >= std::max(kLeastFlush, owned_ / 4); }

// Puts all listed holes and the bump region back into the bitmaps.
void Arena::flush() {
    set_bump(nullptr, 0);
    harvested_ = queue_ = nullptr;
    for (Chunk* chunk = chunks_; chunk != nullptr; chunk = chunk->next) {
        reinterpret_cast<Heap*>(chunk)->queued = true;  // not before all are marked
    }
    for (std::size_t i = 1; i <= kSmallClasses; ++i) {
        for (Free* hole = std::exchange(small_[i], nullptr); hole != nullptr;) {
            mark_free(std::exchange(hole, hole->next), i * 8);
        }
    }
    for (Free*& list : bins_) {
        for (Free* hole = std::exchange(list, nullptr); hole != nullptr;) {
            const std::size_t bytes = hole->bytes;
            mark_free(std::exchange(hole, hole->next), bytes);
        }
    }
    bin_mask_ = 0;
    listed_bytes_ = 0;
    for (Chunk* chunk = chunks_; chunk != nullptr; chunk = chunk->next) {
        Heap* heap = reinterpret_cast<Heap*>(chunk);
        heap->queued = false;
        if (heap->free >= harvest_from_) enqueue(heap);
    }
}

// Gives free chunks to the pool and pages of long holes to the system. Only after a flush.
void Arena::release_chunks() {
    Chunk* released = nullptr;
    harvested_ = queue_ = nullptr;
    for (Chunk** link = &chunks_; *link != nullptr;) {
        Chunk* chunk = *link;
        Heap* heap = reinterpret_cast<Heap*>(chunk);
        const bool has_fresh = fresh_ != fresh_end_ && heap_of(fresh_) == heap;
        const std::size_t unused = has_fresh ? distance(fresh_, fresh_end_) : 0;
        if (heap->free + unused == Heap::kBytes) {
            owned_ -= heap->free;
            if (has_fresh) fresh_ = fresh_end_ = nullptr;
            *link = chunk->next;
            chunk->next = released;
            released = chunk;
            continue;
        }
        heap->queued = false;
        if (heap->free >= harvest_from_) enqueue(heap);
        for (std::size_t first = 0; heap->free >= kLeastPurge;) {
            first = find_bit(heap->bits, first, true);
            if (first == kBits) break;
            const std::size_t last = find_bit(heap->bits, first, false);
            char* memory = reinterpret_cast<char*>(chunk);
            if ((last - first) * 8 >= kLeastPurge) {
                purge_pages(memory + first * 8, memory + last * 8);
            }
            first = last;
        }
        link = &chunk->next;
    }
    if (released != nullptr) pool_->give_chunks(released);
}

void Arena::set_trim_mark() { trim_below_ = used_ > kLeastTrim ? used_ / 8 * 3 : 0; }

void Arena::trim() {
    flush();
    release_chunks();
    set_trim_mark();
}

void Arena::close() { trim_below_ = 0; }

std::size_t Arena::footprint() const {
    std::size_t bytes = 0;
    for (const Chunk* chunk = chunks_; chunk != nullptr; chunk = chunk->next) {
        bytes += chunk->touched;
    }
    for (const Large* large = large_; large != nullptr; large = large->next) {
        bytes += large->bytes + kLargeHeader;
    }
    return bytes;
}

void* Arena::take_large(std::size_t size) {
    if (is_refused(0, size)) return nullptr;
    void* span = pool_->take_span(size + kLargeHeader);
    if (span == nullptr) return nullptr;
    Large* large = static_cast<Large*>(span);
    large->bytes = size;
    link_large(large);
    return static_cast<char*>(span) + kLargeHeader;
}

void Arena::link_large(Large* large) {
    large->next = large_;
    large->link = &large_;
    if (large_ != nullptr) large_->link = &large->next;
    large_ = large;
}

void Arena::unlink_large(Large* large) {
    *large->link = large->next;
    if (large->next != nullptr) large->next->link = large->link;
}

void Arena::give_large(Large* large) {
    unlink_large(large);
    pool_->give_span(large, large->bytes + kLargeHeader);
}

// Both sizes are large.
void* Arena::reallocate_large(void* block, std::size_t old_size, std::size_t new_size) {
    if (is_refused(old_size, new_size)) return nullptr;
    Large* large = large_of(block);
    const std::size_t old_span = old_size + kLargeHeader;
    const std::size_t new_span = new_size + kLargeHeader;
    if (new_size < old_size) {
        pool_->shrink_span(large, old_span, new_span);
    } else if (!pool_->grow_span(large, old_span, new_span)) {
        unlink_large(large);
        Large* moved = static_cast<Large*>(pool_->move_span(large, old_span, new_span));
        link_large(moved == nullptr ? large : moved);
        if (moved == nullptr) return nullptr;
        large = moved;
    }
    large->bytes = new_size;
    count(old_size, new_size);
    return reinterpret_cast<char*>(large) + kLargeHeader;
}

#endif

}  // namespace perilune
