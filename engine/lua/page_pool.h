// PagePool: the memory of a node that its Lua VMs draw from.
//
// Purpose:   hands out 64 KiB chunks and larger spans of one reserved range of addresses, keeps
//            what comes back warm up to a bound and returns the rest to the system.
// Threads:   any; one mutex, held for list operations only (madvise runs outside of it, except
//            when freed spans pass the warm bound).
// Ownership: a node owns one pool; every Arena of the node must be gone before it.
//
// With Options::base set, the pool sits at that address and the same sequence of requests gets
// the same addresses: what a seeded run needs, since the order of pairs depends on them.
// Under PERILUNE_ASAN arenas do not draw from the pool, so addresses are malloc's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "perilune/status.h"

namespace perilune {

inline constexpr std::size_t kPageSize = 4096;         // of the system; the unit of RSS
inline constexpr std::size_t kChunkSize = 64 * 1024;   // the unit of the pool, and its alignment
inline constexpr std::size_t kSmallChunk = 40 * 1024;  // an idle isolated VM is under this

// The start of each chunk that an arena holds.
struct Chunk {
    Chunk* next = nullptr;
    std::uint32_t touched = 0;  // bytes from the chunk's start that may have been written
};

class PagePool {
  public:
    struct Options {
        std::uintptr_t base =
            0;  // where to reserve, a multiple of 64 KiB; 0: where the system likes
        std::size_t reserve_bytes = std::size_t{64} << 30;  // addresses, not memory; see create
        std::size_t warm_bytes = std::size_t{8} << 20;  // kept of freed chunks, and of freed spans
    };

    struct Stats {
        std::size_t chunks_used = 0;      // chunks that arenas hold
        std::size_t span_bytes_used = 0;  // bytes of spans that arenas hold, whole chunks
        std::size_t warm_bytes = 0;       // freed and not returned to the system
        std::size_t returned_bytes = 0;   // given back to the system, ever
    };

    // A pool with `options`. Without a base, a reservation that the system refuses is halved
    // until it fits (at least 256 MiB); with one, `exists` or `unavailable` says why not.
    static Result<std::unique_ptr<PagePool>> create(const Options& options);
    ~PagePool();
    PagePool(const PagePool&) = delete;
    PagePool& operator=(const PagePool&) = delete;

    // A chunk of kChunkSize bytes, aligned to its size; `touched` says what of it is resident,
    // `next` is null, the rest holds anything. The first chunk of a VM is never one that came
    // back with more than kSmallChunk touched, so that small VMs stay small after a large one
    // died. Null when the reservation is used up or the system has no memory.
    Chunk* take_chunk(bool first);

    // Takes back a list of chunks, linked by `next`; `touched` tells how much to keep warm.
    void give_chunks(Chunk* list);

    // A span of `bytes` rounded up to whole chunks, aligned to kChunkSize, holding anything.
    // Null as for take_chunk.
    void* take_span(std::size_t bytes);
    void give_span(void* span, std::size_t bytes);

    // Makes a span longer where it is. False, and nothing changed, when what follows is taken.
    [[nodiscard]] bool grow_span(void* span, std::size_t old_bytes, std::size_t new_bytes);

    // Gives back the end of a span.
    void shrink_span(void* span, std::size_t old_bytes, std::size_t new_bytes);

    // Moves a span to a longer one, by page table (mremap) and not by copying where that pays.
    // Returns the new span, null as for take_chunk (the old one is then as before).
    void* move_span(void* span, std::size_t old_bytes, std::size_t new_bytes);

    // Returns all that is kept warm to the system.
    void purge();

    Stats stats() const;

  private:
    // A half of the reservation: chunks grow in the first, spans in the second, so that
    // neither splits the other's. All below `committed` can be written.
    struct Zone {
        std::uintptr_t begin = 0;
        std::uintptr_t next = 0;  // first address never handed out
        std::uintptr_t committed = 0;
        std::uintptr_t end = 0;
    };
    struct FreeSpan {
        std::size_t bytes = 0;
        bool warm = false;
    };
    using FreeSpans = std::map<std::uintptr_t, FreeSpan>;

    PagePool(std::uintptr_t reservation, std::size_t bytes, const Options& options);
    static bool commit(Zone* zone, std::uintptr_t until);
    void* take_span_locked(std::size_t bytes);
    void give_span_locked(std::uintptr_t address, std::size_t bytes, bool warm);
    void purge_spans();

    const std::uintptr_t reservation_;
    const std::size_t reserved_bytes_;
    const std::size_t warm_limit_;

    mutable std::mutex mutex_;
    // All below: guarded by mutex_.
    Zone chunk_zone_;
    Zone span_zone_;
    Chunk* warm_small_ = nullptr;  // last in, first out: the most recently used is the warmest
    Chunk* warm_full_ = nullptr;   // those with more than kSmallChunk touched
    std::vector<std::uintptr_t> cold_chunks_;
    FreeSpans free_spans_;  // by address, neighbours joined
    std::size_t warm_chunk_bytes_ = 0;
    std::size_t warm_span_bytes_ = 0;
    std::size_t chunks_used_ = 0;
    std::size_t span_bytes_used_ = 0;
    std::size_t returned_bytes_ = 0;
    bool moved_ = false;  // mremap has split the mapping since purge_spans
};

}  // namespace perilune
