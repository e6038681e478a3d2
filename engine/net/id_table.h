// IdTable: which id is which object, with generations.
//
// Purpose:   the slot discipline of core/registry for connections and listeners: slots are
//            reused first-in first-out with at least 65,536 free between uses, generations
//            start at random, a slot whose generations are used up retires.
// Threads:   find() from any, without a lock; add() and remove() from any.
// Ownership: refers to objects. They must be of a kind that is never freed while the table
//            lives (a pool), for an answer of find() may be out of date at once: compare the
//            object's own id under its lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "core/ids.h"
#include "core/random.h"

namespace perilune {

template <typename Key, typename Object>
class IdTable {
  public:
    static constexpr std::size_t kMinFree = 65536;

    explicit IdTable(Random& random)
        : random_(random), chunks_(std::make_unique<std::atomic<Slot*>[]>(kChunks)) {}
    ~IdTable() {
        for (std::uint32_t i = 0; i < kChunks; ++i) delete[] chunks_[i].load();
    }
    IdTable(const IdTable&) = delete;
    IdTable& operator=(const IdTable&) = delete;

    // An id that nobody has had; empty when all slots are in use. Not found before publish().
    Key add() {
        const std::lock_guard lock(mutex_);
        std::uint32_t index = 0;
        if (free_.size() > kMinFree || (fresh_ == kMaxSlots && !free_.empty())) {
            index = free_.front();
            free_.pop_front();
        } else if (fresh_ < kMaxSlots) {
            index = fresh_++;
        } else {
            return {};
        }
        Slot* slot = slot_at(index);
        if (slot == nullptr) {
            chunks_[index >> kChunkBits].store(new Slot[kChunkSize]);
            slot = slot_at(index);
        }
        if (slot->next_generation == 0) {
            slot->next_generation = 1 + static_cast<std::uint32_t>(random_.next() >> 44);
        }
        return Key::make(index, slot->next_generation++);
    }

    void publish(Key id, Object* object) {
        Slot* slot = slot_at(id.slot());
        slot->object.store(object);
        slot->live.store(id.value);
    }

    void remove(Key id) {
        Slot* slot = slot_at(id.slot());
        slot->live.store(0);
        const std::lock_guard lock(mutex_);
        if (slot->next_generation <= kMaxGeneration) free_.push_back(id.slot());
    }

    Object* find(Key id) const {
        const Slot* slot = id.node() == 0 ? slot_at(id.slot()) : nullptr;
        return slot != nullptr && id.value != 0 && slot->live.load() == id.value
                   ? slot->object.load()
                   : nullptr;
    }

    // All that are in the table, for sweeps.
    std::vector<Key> ids() const {
        std::uint32_t end = 0;
        {
            const std::lock_guard lock(mutex_);
            end = fresh_;
        }
        std::vector<Key> list;
        for (std::uint32_t index = 1; index < end; ++index) {
            const Slot* slot = slot_at(index);
            const std::uint64_t live = slot == nullptr ? 0 : slot->live.load();
            if (live != 0) list.push_back(Key{live});
        }
        return list;
    }

  private:
    struct Slot {
        std::atomic<std::uint64_t> live{0};
        std::atomic<Object*> object{nullptr};
        std::uint32_t next_generation = 0;  // guarded by mutex_
    };
    static constexpr std::uint32_t kChunkBits = 10;
    static constexpr std::uint32_t kChunkSize = 1u << kChunkBits;
    static constexpr std::uint32_t kChunks = kMaxSlots >> kChunkBits;

    Slot* slot_at(std::uint32_t index) const {
        Slot* chunk = chunks_[index >> kChunkBits].load();
        return chunk == nullptr ? nullptr : &chunk[index & (kChunkSize - 1)];
    }

    Random& random_;
    std::unique_ptr<std::atomic<Slot*>[]> chunks_;
    mutable std::mutex mutex_;
    std::deque<std::uint32_t> free_;  // guarded by mutex_
    std::uint32_t fresh_ = 1;         // guarded by mutex_; slot 0 is never used
};

}  // namespace perilune
