#include "lua/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

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
    if (has_room(new_size - old_size)) return false;
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
// How far the bump region grows into fresh memory: a page while a VM is small, so that what
// was freed is looked at before each new page.
constexpr std::size_t kFreshStep = kPageSize;
// Coalescing starts when this much, and a quarter of the heap, was freed since the last time.
constexpr std::size_t kLeastConsolidation = 8 * 1024;
// A VM below this does not trim itself: it isn't worth the time.
constexpr std::size_t kLeastTrim = 256 * 1024;
constexpr std::size_t kLeastPurge = 16 * 1024;  // shorter free runs keep their pages
constexpr std::size_t kFirstBlock = 64;         // after the header, a cache line
constexpr std::size_t kBitmapWords = kChunkSize / 8 / 64;
constexpr std::size_t kFitTries = 8;  // runs looked at in a bin where not all are long enough

static_assert(sizeof(Chunk) <= kFirstBlock);

std::size_t round_up(std::size_t size) { return (size + 7) & ~std::size_t{7}; }

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

Chunk* chunk_of(const void* block) {
    return reinterpret_cast<Chunk*>(reinterpret_cast<std::uintptr_t>(block) & ~(kChunkSize - 1));
}

std::size_t offset_in_chunk(const void* block) {
    return reinterpret_cast<std::uintptr_t>(block) & (kChunkSize - 1);
}

std::size_t distance(const char* begin, const char* end) {
    return static_cast<std::size_t>(end - begin);
}

// Sets `count` bits from `first` on.
void set_bits(std::uint64_t* bits, std::size_t first, std::size_t count) {
    while (count != 0) {
        const std::size_t shift = first % 64;
        const std::size_t here = std::min(count, 64 - shift);
        bits[first / 64] |= (~std::uint64_t{0} >> (64 - here)) << shift;
        first += here;
        count -= here;
    }
}

// The first bit from `first` on that is `value`, or `end`.
std::size_t find_bit(const std::uint64_t* bits, std::size_t first, std::size_t end, bool value) {
    const std::uint64_t flip = value ? 0 : ~std::uint64_t{0};
    while (first < end) {
        const std::uint64_t word = (bits[first / 64] ^ flip) >> (first % 64);
        if (word != 0) return first + static_cast<std::size_t>(std::countr_zero(word));
        first = (first / 64 + 1) * 64;
    }
    return end;
}

}  // namespace

Arena::Large* Arena::large_of(void* block) {
    return reinterpret_cast<Large*>(static_cast<char*>(block) - kLargeHeader);
}

Arena::~Arena() {
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
    if (distance(bump_, bump_end_) < bytes) [[unlikely]] {
        return take_small_slowly(bytes);
    }
    char* block = bump_;
    bump_ += bytes;
    return block;
}

// Frees the block of a request of `size` bytes.
inline void Arena::give(void* block, std::size_t size) {
    if (size <= kMediumMax) [[likely]] {
        add_free(block, round_up(size));
    } else {
        give_large(large_of(block));
    }
}

// Makes `bytes` of a chunk free: a multiple of 8, up to a whole chunk.
inline void Arena::add_free(void* memory, std::size_t bytes) {
    Free* free = static_cast<Free*>(memory);
    if (bytes <= kSmallMax) [[likely]] {
        free->next = small_[bytes / 8];
        small_[bytes / 8] = free;
        return;
    }
    const std::size_t bin = bin_of(bytes);
    free->next = bins_[bin];
    free->bytes = bytes;
    bins_[bin] = free;
    bin_mask_ |= 1u << bin;
}

void* Arena::reallocate(char* block, std::size_t old_size, std::size_t new_size) {
    if (old_size > kMediumMax && new_size > kMediumMax) {
        return reallocate_large(block, old_size, new_size);
    }
    const std::size_t old_bytes = round_up(old_size);
    const std::size_t new_bytes = round_up(new_size);
    if (old_bytes == new_bytes && old_size <= kMediumMax && new_size <= kMediumMax) {
        count(old_size, new_size);
        return block;
    }
    if (new_bytes < old_bytes && old_size <= kMediumMax) {
        give(block + new_bytes, old_bytes - new_bytes);
        count(old_size, new_size);
        return block;
    }
    if (block + old_bytes == bump_ && new_size <= kMediumMax &&
        distance(block, bump_end_) >= new_bytes) {
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

// No free block of this size and no room in the bump region.
void* Arena::take_small_slowly(std::size_t bytes) {
    if (!refill_from_free(bytes)) {
        if (is_consolidation_due() && consolidate(false)) {
            if (Free* block = small_[bytes / 8]; block != nullptr) {
                small_[bytes / 8] = block->next;
                return block;
            }
            if (refill_from_free(bytes)) return cut(bytes);
        }
        if (!refill_from_chunk(bytes)) return nullptr;
    }
    return cut(bytes);
}

void* Arena::take_medium(std::size_t bytes) {
    if (char* run = take_run(bytes); run != nullptr) return run;
    if (distance(bump_, bump_end_) >= bytes) return cut(bytes);
    if (is_consolidation_due() && consolidate(false)) {
        if (char* run = take_run(bytes); run != nullptr) return run;
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

char* Arena::cut(std::size_t bytes) {
    char* block = bump_;
    bump_ += bytes;
    return block;
}

// Takes `bytes` from the bins; null when no run there is long enough.
char* Arena::take_run(std::size_t bytes) {
    const std::size_t exact = bin_of(bytes);
    Free** link = &bins_[exact];
    for (std::size_t i = 0; i < kFitTries && *link != nullptr; ++i) {
        if ((*link)->bytes >= bytes) return split_run(link, exact, bytes);
        link = &(*link)->next;
    }
    const std::uint32_t longer = bin_mask_ >> exact >> 1 << 1 << exact;
    if (longer == 0) return nullptr;
    const std::size_t bin = static_cast<std::size_t>(std::countr_zero(longer));
    return split_run(&bins_[bin], bin, bytes);
}

// Removes the run that *link points to from `bin`, keeps `bytes` of it and frees the rest.
char* Arena::split_run(Free** link, std::size_t bin, std::size_t bytes) {
    Free* run = *link;
    *link = run->next;
    if (bins_[bin] == nullptr) bin_mask_ &= ~(1u << bin);
    char* block = reinterpret_cast<char*>(run);
    if (run->bytes != bytes) add_free(block + bytes, run->bytes - bytes);
    return block;
}

// Makes a free run or a free block of at least twice `bytes` the bump region: the shortest run,
// so that long ones last, else the longest block. False when there is none.
bool Arena::refill_from_free(std::size_t bytes) {
    Free* found = nullptr;
    std::size_t found_bytes = 0;
    if (bin_mask_ != 0) {
        const std::size_t bin = static_cast<std::size_t>(std::countr_zero(bin_mask_));
        found = bins_[bin];
        found_bytes = found->bytes;
        bins_[bin] = found->next;
        if (bins_[bin] == nullptr) bin_mask_ &= ~(1u << bin);
    } else {
        std::size_t i = kSmallClasses;
        while (i * 8 >= 2 * bytes && small_[i] == nullptr) --i;
        if (i * 8 < 2 * bytes) return false;
        found = small_[i];
        found_bytes = i * 8;
        small_[i] = found->next;
    }
    retire_bump();
    bump_ = reinterpret_cast<char*>(found);
    bump_end_ = bump_ + found_bytes;
    return true;
}

// Extends or replaces the bump region by fresh memory, so that it has `bytes` at least.
bool Arena::refill_from_chunk(std::size_t bytes) {
    if (bump_end_ != fresh_ || distance(bump_, fresh_end_) < bytes) {
        if (distance(fresh_, fresh_end_) < bytes && !add_chunk()) return false;
        retire_bump();
        bump_ = bump_end_ = fresh_;
    }
    const std::size_t end = (offset_in_chunk(bump_) + bytes + kFreshStep - 1) & ~(kFreshStep - 1);
    advance_fresh(end - offset_in_chunk(bump_end_));
    bump_end_ = fresh_;
    return true;
}

void Arena::retire_bump() {
    if (bump_ != bump_end_) add_free(bump_, distance(bump_, bump_end_));
    bump_ = bump_end_ = nullptr;
}

void Arena::advance_fresh(std::size_t bytes) {
    Chunk* chunk = chunk_of(fresh_);
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
            add_free(rest, bytes);
        }
    }
    chunk->next = chunks_;
    chunks_ = chunk;
    fresh_ = reinterpret_cast<char*>(chunk) + kFirstBlock;
    fresh_end_ = reinterpret_cast<char*>(chunk) + kChunkSize;
    set_trim_mark();
    return true;
}

void Arena::set_trim_mark() { trim_below_ = used_ > kLeastTrim ? used_ / 8 * 3 : 0; }

void Arena::close() { trim_below_ = 0; }

void Arena::trim() {
    consolidate(true);
    set_trim_mark();
}

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

bool Arena::is_consolidation_due() {
    const std::size_t free = owned_ - (used_ - large_bytes_);
    least_free_ = std::min(least_free_, free);
    return free - least_free_ >= std::max(kLeastConsolidation, owned_ / 4);
}

// Joins all free blocks into maximal runs. With `release`, gives free chunks to the pool and
// free pages to the system. False when there is no memory for the bitmap.
bool Arena::consolidate(bool release) {
    std::uint32_t chunks = 0;
    for (Chunk* chunk = chunks_; chunk != nullptr; chunk = chunk->next) chunk->index = chunks++;
    constexpr std::size_t kOnStack = 4;
    std::uint64_t on_stack[kOnStack * kBitmapWords];
    const std::size_t bytes = chunks * kBitmapWords * sizeof(std::uint64_t);
    std::uint64_t* bits = on_stack;
    if (chunks > kOnStack) {
        bits = static_cast<std::uint64_t*>(pool_->take_span(bytes));
        if (bits == nullptr) return false;
    }
    std::memset(bits, 0, bytes);
    retire_bump();
    mark_free_blocks(bits);
    collect_runs(bits, release);
    if (bits != on_stack) pool_->give_span(bits, bytes);
    least_free_ = owned_ - (used_ - large_bytes_);
    return true;
}

// Walks all lists in turn, not one after another: each step is a cache miss in a large heap, and
// so many of them are under way at once.
void Arena::mark_free_blocks(std::uint64_t* bits) {
    struct Cursor {
        const Free* free;
        std::size_t bytes;  // 0: a run, which says it
    };
    Cursor cursors[kSmallClasses + kBins];
    std::size_t count = 0;
    for (std::size_t i = 1; i <= kSmallClasses; ++i) {
        if (small_[i] != nullptr) cursors[count++] = {small_[i], i * 8};
    }
    for (const Free* list : bins_) {
        if (list != nullptr) cursors[count++] = {list, 0};
    }
    while (count != 0) {
        for (std::size_t i = 0; i < count;) {
            const Free* free = cursors[i].free;
            const std::size_t bytes = cursors[i].bytes != 0 ? cursors[i].bytes : free->bytes;
            std::uint64_t* words = bits + chunk_of(free)->index * kBitmapWords;
            cursors[i].free = free->next;
            __builtin_prefetch(free->next);
            set_bits(words, offset_in_chunk(free) / 8, bytes / 8);
            if (free->next != nullptr) {
                ++i;
            } else {
                cursors[i] = cursors[--count];
            }
        }
    }
}

// Fills the free lists anew, by address within each chunk.
void Arena::collect_runs(const std::uint64_t* bits, bool release) {
    Free** small_tails[kSmallClasses + 1];
    Free** bin_tails[kBins];
    for (std::size_t i = 0; i <= kSmallClasses; ++i) small_tails[i] = &small_[i];
    for (std::size_t i = 0; i < kBins; ++i) bin_tails[i] = &bins_[i];
    bin_mask_ = 0;

    Chunk* released = nullptr;
    for (Chunk** link = &chunks_; *link != nullptr;) {
        Chunk* chunk = *link;
        char* memory = reinterpret_cast<char*>(chunk);
        const std::uint64_t* words = bits + chunk->index * kBitmapWords;
        const bool has_fresh = fresh_ != fresh_end_ && chunk_of(fresh_) == chunk;
        const std::size_t end = (has_fresh ? offset_in_chunk(fresh_) : kChunkSize) / 8;
        std::size_t first = find_bit(words, kFirstBlock / 8, end, true);
        std::size_t last = find_bit(words, first, end, false);
        if (release && first == kFirstBlock / 8 && last == end) {
            *link = chunk->next;
            chunk->next = released;
            released = chunk;
            owned_ -= end * 8 - kFirstBlock;
            if (has_fresh) fresh_ = fresh_end_ = nullptr;
            continue;
        }
        while (first != end) {
            const std::size_t bytes = (last - first) * 8;
            Free* run = reinterpret_cast<Free*>(memory + first * 8);
            if (bytes <= kSmallMax) {
                *small_tails[bytes / 8] = run;
                small_tails[bytes / 8] = &run->next;
            } else {
                const std::size_t bin = bin_of(bytes);
                run->bytes = bytes;
                *bin_tails[bin] = run;
                bin_tails[bin] = &run->next;
                bin_mask_ |= 1u << bin;
                if (release && bytes >= kLeastPurge) purge_pages(run + 1, memory + last * 8);
            }
            first = find_bit(words, last, end, true);
            last = find_bit(words, first, end, false);
        }
        link = &chunk->next;
    }
    for (Free** tail : small_tails) *tail = nullptr;
    for (Free** tail : bin_tails) *tail = nullptr;
    if (released != nullptr) pool_->give_chunks(released);
}

void* Arena::take_large(std::size_t size) {
    if (is_refused(0, size)) return nullptr;
    void* span = pool_->take_span(size + kLargeHeader);
    if (span == nullptr) return nullptr;
    Large* large = static_cast<Large*>(span);
    large->bytes = size;
    link_large(large);
    large_bytes_ += size;
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
    large_bytes_ -= large->bytes;
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
    large_bytes_ += new_size - old_size;
    count(old_size, new_size);
    return reinterpret_cast<char*>(large) + kLargeHeader;
}

#endif

}  // namespace perilune
