// Arena: the memory of one Lua VM, given to lua_newstate as its lua_Alloc.
//
// Purpose:   little memory for an idle VM, speed for a busy one, a count and a soft limit, and
//            teardown in O(chunks) without freeing a single object.
// Threads:   the one that runs the VM now; no locks (the PagePool has one).
// Ownership: the owner of the VM owns the Arena; the PagePool outlives it. Destroying it frees
//            every block, so lua_close may be left out when no __gc has to run.
//
// DESIGN
//
// lua_Alloc tells the size of what it frees (in LuaJIT it is exact), so blocks have no headers;
// they are multiples of 8 bytes, which is LuaJIT's own alignment (MALLOC_ALIGNMENT, lj_alloc.c).
//
//  - To 32 KiB: cut from a bump region, which is fresh memory of a chunk (64 KiB, aligned), or a
//    hole between live blocks. Above: a span of the pool with a header of 64 bytes, grown in
//    place or moved by mremap.
//  - What is freed is marked in a bitmap in the head of its chunk, a bit for 8 bytes, and so joins
//    its neighbours at no cost. A chunk with enough free bytes queues for harvest: its holes become
//    the bump region one after another. (Immix does this with lines of 128 bytes: Blackburn and
//    McKinley, PLDI 2008.)
//  - Holes too short for the request at hand go to free lists, one for each size, and from 512
//    bytes on to bins, four to a power of two (TLSF: Masmano et al., ECRTS 2004). They are looked
//    at first. When they have become many, `flush` puts all of them back into the bitmaps.
//
// All sizes share all pages: a page for each size class would waste most of a VM that has
// 25 KiB in forty sizes. Blocks allocated one after another are neighbours, also in recycled
// memory, and that is what LuaJIT's collector follows: with free lists alone its sweep of 16 MiB
// took 2.6 times as long as on LuaJIT's own allocator. Fresh memory is touched a page at a time
// and only when nothing is left to recycle.
//
// THE LIMIT is soft, since LuaJIT with the JIT on crashes when a small allocation fails.
// A request of kHugeRequest (1 MiB) or more that would take used() over the limit gets NULL, but
// only while may_refuse(true) holds: the host, outside of a protected call, could only abort.
// All others succeed and make `on_over_limit` fire, so that the host can set its hook, collect
// and then kill. What bounds used():
//
//     limit + what one bytecode or one C function allocates, in requests of under 1 MiB each,
//     until the hook runs.
//
// Bytecode allocates one object at a time. A library function that builds one result (string.rep,
// table.concat) does so in one buffer that doubles: at most limit + 1 MiB. Only a function that
// makes many objects in one call is unbounded here: a decoder must ask `has_room` as it goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "lua/page_pool.h"

namespace perilune {

class Arena {
  public:
    static constexpr std::size_t kHugeRequest = std::size_t{1} << 20;
    static constexpr std::size_t kNoLimit = SIZE_MAX;

    // Called inside an allocation: must not allocate from the arena nor enter Lua;
    // lua_sethook is allowed.
    using OverLimit = void (*)(void* context);

    // An arena that draws from `pool`, without a limit. Takes no memory yet.
    explicit Arena(PagePool* pool);
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // A lua_Alloc; `arena` is the Arena. Blocks are aligned to 8 bytes. `old_size` must be what
    // the block was asked for. Null for new_size 0, for a huge request over the limit,
    // and when the pool has none.
    static void* lua_allocate(void* arena, void* block, std::size_t old_size, std::size_t new_size);

    // Bytes in live blocks, as asked for: what collectgarbage("count") says, without machine code.
    std::size_t used() const { return used_; }

    // Bytes held of the pool that may have been written: an upper bound of the VM's RSS.
    std::size_t footprint() const;

    // Whether a huge request may get NULL; at first it may. Returns what held before.
    bool may_refuse(bool may) { return std::exchange(may_refuse_, may); }
    // Sets the soft limit of used() in bytes and arms the callback.
    void set_limit(std::size_t bytes);
    std::size_t limit() const { return limit_; }

    // Sets what is called when used() passes the limit, or a request is refused: once, until
    // rearm(). Null: nothing.
    void on_over_limit(OverLimit callback, void* context);

    // Lets the callback fire again, at the next allocation if used() is over the limit still.
    void rearm();

    // True when `bytes` more stay within the limit. For C functions that allocate in a loop.
    bool has_room(std::size_t bytes) const { return used_ <= limit_ && bytes <= limit_ - used_; }

    // Huge requests that got NULL because of the limit, ever.
    std::uint64_t refused() const { return refused_; }

    // Adds what is allocated from now on, less what is freed, to *counter; null: to none.
    // Returns the counter that was set before. The counter must live until the next call.
    std::int64_t* set_charge(std::int64_t* counter);

    // Joins free blocks and gives whole free chunks and pages back. For a VM that goes idle,
    // after a full collection; a VM that shrinks to 3/8 of its peak does it by itself.
    void trim();

    // Call before lua_close: what it frees one by one is then not worth giving back early.
    void close();

  private:
#ifdef PERILUNE_ASAN
    struct Checked;
    void* allocate_checked(void* block, std::size_t old_size, std::size_t new_size);
#else
    struct Heap;  // a chunk with its bitmap

    // The start of a listed hole. `bytes` is there in the bins alone: the holes of a free list
    // have one size, and one of 8 bytes has no room for it.
    struct Free {
        Free* next;
        std::size_t bytes;
    };
    // The start of a span, before a large block.
    struct Large {
        Large* next;
        Large** link;       // what points to this one
        std::size_t bytes;  // of the block, without this header
    };

    static constexpr std::size_t kSmallClasses = 64;  // 8, 16, ... 512 bytes
    static constexpr std::size_t kBins = 28;          // from 512 bytes to 64 KiB, four an octave

    static Heap* heap_of(const void* block);
    static Large* large_of(void* block);

    void* allocate(std::size_t size);
    void* reallocate(char* block, std::size_t old_size, std::size_t new_size);
    void* take(std::size_t size);
    void give(void* block, std::size_t size);
    void mark_free(void* memory, std::size_t bytes);
    void list_hole(void* memory, std::size_t bytes);

    void* take_small_slowly(std::size_t bytes);
    void* take_medium(std::size_t bytes);
    char* cut(std::size_t bytes);
    char* take_listed(std::size_t bytes);
    char* split_hole(Free** link, std::size_t bin, std::size_t bytes);
    bool refill(std::size_t bytes);
    bool refill_from_lists(std::size_t bytes);
    bool refill_from_chunk(std::size_t bytes);
    void set_bump(char* memory, std::size_t bytes);
    void advance_fresh(std::size_t bytes);
    bool add_chunk();

    char* harvest(std::size_t bytes, std::size_t most_chunks, std::size_t* found);
    void start_harvest();
    void end_harvest();
    void enqueue(Heap* heap);
    bool is_flush_due() const;
    void flush();
    void release_chunks();
    void set_trim_mark();

    void* take_large(std::size_t size);
    void give_large(Large* large);
    void link_large(Large* large);
    void unlink_large(Large* large);
    void* reallocate_large(void* block, std::size_t old_size, std::size_t new_size);
#endif
    bool is_refused(std::size_t old_size, std::size_t new_size);
    void count(std::size_t old_size, std::size_t new_size);
    void fire();

    // Read or written by every allocation.
    std::size_t used_ = 0;
    std::int64_t* charge_ = &uncharged_;
    std::size_t alarm_ = kNoLimit;  // fires when used_ is over it: the limit, or none if disarmed
#ifndef PERILUNE_ASAN
    std::size_t trim_below_ = 0;
    std::uint32_t harvest_from_ = 0;  // free bytes that let a chunk queue for harvest
    char* bump_ = nullptr;            // memory to cut blocks from, in order
    char* bump_end_ = nullptr;
    Free* small_[kSmallClasses + 1] = {};  // listed holes by bytes / 8

    Free* bins_[kBins] = {};      // longer ones
    std::uint32_t bin_mask_ = 0;  // which bins are not empty
    Heap* harvested_ = nullptr;   // its holes are the next bump regions
    std::size_t harvest_bit_ = 0;
    Heap* queue_ = nullptr;  // to be harvested, first in first out
    Heap* queue_last_ = nullptr;
    std::size_t listed_bytes_ = 0;  // listed since the last flush
    char* fresh_ = nullptr;         // the end of the newest chunk, not used by this VM yet
    char* fresh_end_ = nullptr;
    Chunk* chunks_ = nullptr;
    std::size_t owned_ = 0;  // bytes of chunks below fresh_
    Large* large_ = nullptr;
#else
    Checked* blocks_ = nullptr;
#endif

    PagePool* const pool_;
    std::size_t limit_ = kNoLimit;
    bool armed_ = true;
    OverLimit over_limit_ = nullptr;
    void* over_limit_context_ = nullptr;
    std::uint64_t refused_ = 0;
    bool may_refuse_ = true;
    std::int64_t uncharged_ = 0;
};

}  // namespace perilune
