// Registry: which handle is which service, who has which name, who monitors whom.
//
// Purpose:   finds the actor of a handle without a lock; a dead handle is never valid again.
// Threads:   any. find() takes no lock; names and monitors are guarded by mutexes.
// Ownership: refers to cells, owns none. `local` belongs to the cell's actor.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/actor.h"
#include "core/ids.h"
#include "core/random.h"
#include "perilune/status.h"

namespace perilune {

class Registry {
  public:
    // A slot is used again only after this many others have been free in between.
    static constexpr std::size_t kMinFree = 65536;

    // One service: its actor, and what its actor keeps for it.
    struct Slot {
        std::atomic<std::uint64_t> live{0};  // the handle while the service lives, else 0
        std::atomic<ActorCell*> cell{nullptr};
        void* local = nullptr;  // the worker that runs the cell
        Load load;              // light services: what waits for this one in its VM's mailbox
        std::uint32_t next_generation = 0;           // guarded by free_mutex_
        std::atomic<std::uint8_t> tag{0};            // what its owner calls its kind; see handles()
        std::atomic<std::uint32_t> max_messages{0};  // 0: the mailbox's own limits are enough
    };

    explicit Registry(Random& random, std::uint32_t node_number = 0);
    ~Registry();

    // Gives a service of `cell` a handle. `max_messages` > 0 bounds what waits for this
    // service alone, for those that share a mailbox.
    // Errors: unavailable (all slots are in use).
    Result<Handle> add(ActorCell* cell, void* local, std::uint32_t max_messages = 0,
                       std::uint8_t tag = 0);

    // The handle is dead from now on; its names are free again. Returns who monitored it.
    std::vector<Handle> remove(Handle handle);

    // The slot of a live service, or null. The answer may be out of date at once; the
    // receiving actor compares Message::to again.
    Slot* find(Handle handle) {
        if (!handle) return nullptr;  // what a free slot has for `live`
        Slot* slot = slot_at(handle.slot());
        return slot != nullptr && slot->live.load() == handle.value ? slot : nullptr;
    }
    bool alive(Handle handle) { return find(handle) != nullptr; }
    std::size_t size() const { return size_.load(std::memory_order_relaxed); }

    // Names that one service may have.
    static constexpr std::size_t kMaxNames = 64;
    struct Counters {
        std::size_t names;
        std::uint64_t names_refused;  // over kMaxNames
        std::size_t monitors;         // pairs of who is told and whose death
    };
    Counters counters() const;

    // Gives a name to a live service. Errors: exists, dead, invalid (empty or over 128 bytes),
    // too_large (it has kMaxNames others).
    Status set_name(std::string_view name, Handle handle);
    // The service of that name, or an empty handle.
    Handle find_name(std::string_view name) const;
    // The first name that the service was given, or "".
    std::string name_of(Handle handle) const;
    std::vector<std::pair<std::string, Handle>> names() const;

    // `watcher` is told once when `target` dies. False when it is dead already.
    bool monitor(Handle watcher, Handle target);
    bool unmonitor(Handle watcher, Handle target);

    // Every live handle; those of one tag alone where it isn't 0.
    std::vector<Handle> handles(std::uint8_t tag = 0);

  private:
    static constexpr std::uint32_t kChunkBits = 12;
    static constexpr std::uint32_t kChunkSize = 1u << kChunkBits;
    static constexpr std::uint32_t kChunks = kMaxSlots >> kChunkBits;

    Slot* slot_at(std::uint32_t index) {
        Slot* chunk = chunks_[index >> kChunkBits].load();
        return chunk == nullptr ? nullptr : &chunk[index & (kChunkSize - 1)];
    }

    struct StringHash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const {
            return std::hash<std::string_view>{}(text);
        }
    };

    const std::uint32_t node_number_;
    Random& random_;
    std::unique_ptr<std::atomic<Slot*>[]> chunks_;
    std::atomic<std::size_t> size_{0};

    std::mutex free_mutex_;
    std::deque<std::uint32_t> free_;  // guarded by free_mutex_
    std::uint32_t fresh_ = 1;         // guarded by free_mutex_; slot 0 is never used

    mutable std::shared_mutex names_mutex_;
    std::unordered_map<std::string, Handle, StringHash, std::equal_to<>> by_name_;
    std::unordered_map<Handle, std::vector<std::string>> names_of_;
    std::uint64_t names_refused_ = 0;  // guarded by names_mutex_

    std::mutex monitors_mutex_;
    std::atomic<std::size_t> monitors_{0};                      // written under monitors_mutex_
    std::unordered_map<Handle, std::vector<Handle>> watchers_;  // target -> who
};

}  // namespace perilune
