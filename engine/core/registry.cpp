#include "core/registry.h"

#include <algorithm>

namespace perilune {

Registry::Registry(Random& random, std::uint32_t node_number)
    : node_number_(node_number),
      random_(random),
      chunks_(std::make_unique<std::atomic<Slot*>[]>(kChunks)) {}

Registry::~Registry() {
    for (std::uint32_t i = 0; i < kChunks; ++i) delete[] chunks_[i].load();
}

Result<Handle> Registry::add(ActorCell* cell, void* local, std::uint32_t max_messages,
                             std::uint8_t tag) {
    std::uint32_t index = 0;
    std::uint32_t generation = 0;
    Slot* slot = nullptr;
    {
        const std::lock_guard lock(free_mutex_);
        if (free_.size() > kMinFree || (fresh_ == kMaxSlots && !free_.empty())) {
            index = free_.front();
            free_.pop_front();
        } else if (fresh_ < kMaxSlots) {
            index = fresh_++;
        } else {
            return Status::error(StatusCode::unavailable, "all %u service slots are in use",
                                 kMaxSlots - 1);
        }
        slot = slot_at(index);
        if (slot == nullptr) {
            slot = new Slot[kChunkSize];
            chunks_[index >> kChunkBits].store(slot);
            slot = slot_at(index);
        }
        // Random at each start, and low enough that a slot serves a million times.
        if (slot->next_generation == 0) {
            slot->next_generation = 1 + static_cast<std::uint32_t>(random_.next() >> 44);
        }
        generation = slot->next_generation++;
    }
    const Handle handle = Handle::make(index, generation, node_number_);
    slot->local = local;
    slot->load.reset();
    slot->tag.store(tag, std::memory_order_relaxed);
    slot->max_messages.store(max_messages, std::memory_order_relaxed);
    slot->cell.store(cell);
    slot->live.store(handle.value);
    size_.fetch_add(1, std::memory_order_relaxed);
    return handle;
}

std::vector<Handle> Registry::remove(Handle handle) {
    Slot* slot = find(handle);
    if (slot == nullptr) return {};
    slot->live.store(0);
    size_.fetch_sub(1, std::memory_order_relaxed);
    {
        const std::unique_lock lock(names_mutex_);
        const auto named = names_of_.find(handle);
        if (named != names_of_.end()) {
            for (const std::string& name : named->second) by_name_.erase(name);
            names_of_.erase(named);
        }
    }
    std::vector<Handle> told;
    {
        const std::lock_guard lock(monitors_mutex_);
        const auto watched = watchers_.find(handle);
        if (watched != watchers_.end()) {
            told = std::move(watched->second);
            watchers_.erase(watched);
            monitors_.fetch_sub(told.size(), std::memory_order_relaxed);
        }
    }
    const std::lock_guard lock(free_mutex_);
    if (slot->next_generation <= kMaxGeneration) free_.push_back(handle.slot());
    return told;
}

Status Registry::set_name(std::string_view name, Handle handle) {
    if (name.empty() || name.size() > 128) {
        return Status::error(StatusCode::invalid, "a name has 1 to 128 bytes, this one has %zu",
                             name.size());
    }
    const std::unique_lock lock(names_mutex_);
    // Under the lock that remove() takes after it has cleared `live`: a dead service gets no
    // name that nobody would free again.
    if (!alive(handle)) return Status::error(StatusCode::dead, "the service is dead");
    const auto [at, added] = by_name_.try_emplace(std::string(name), handle);
    if (!added && at->second != handle) {
        return Status::error(StatusCode::exists, "the name \"%.*s\" is taken",
                             static_cast<int>(name.size()), name.data());
    }
    if (!added) return {};
    std::vector<std::string>& names = names_of_[handle];
    if (names.size() >= kMaxNames) {
        by_name_.erase(at);
        ++names_refused_;
        return Status::error(
            StatusCode::too_large,
            "a service has %zu names at most, and this one has them: let it keep a "
            "table of its own of what else it answers to",
            kMaxNames);
    }
    names.emplace_back(name);
    return {};
}

Handle Registry::find_name(std::string_view name) const {
    const std::shared_lock lock(names_mutex_);
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? Handle{} : found->second;
}

std::string Registry::name_of(Handle handle) const {
    const std::shared_lock lock(names_mutex_);
    const auto found = names_of_.find(handle);
    return found == names_of_.end() ? std::string() : found->second.front();
}

std::vector<std::pair<std::string, Handle>> Registry::names() const {
    std::vector<std::pair<std::string, Handle>> list;
    {
        const std::shared_lock lock(names_mutex_);
        list.assign(by_name_.begin(), by_name_.end());
    }
    std::sort(list.begin(), list.end(),
              [](const auto& left, const auto& right) { return left.first < right.first; });
    return list;
}

Registry::Counters Registry::counters() const {
    const std::shared_lock lock(names_mutex_);
    return {by_name_.size(), names_refused_, monitors_.load(std::memory_order_relaxed)};
}

bool Registry::monitor(Handle watcher, Handle target) {
    const std::lock_guard lock(monitors_mutex_);
    // Under the lock that remove() takes after it has cleared `live`.
    if (!alive(target)) return false;
    std::vector<Handle>& watchers = watchers_[target];
    if (std::find(watchers.begin(), watchers.end(), watcher) == watchers.end()) {
        watchers.push_back(watcher);
        monitors_.fetch_add(1, std::memory_order_relaxed);
    }
    return true;
}

bool Registry::unmonitor(Handle watcher, Handle target) {
    const std::lock_guard lock(monitors_mutex_);
    const auto watched = watchers_.find(target);
    if (watched == watchers_.end()) return false;
    const bool found = std::erase(watched->second, watcher) != 0;
    if (found) monitors_.fetch_sub(1, std::memory_order_relaxed);
    if (watched->second.empty()) watchers_.erase(watched);
    return found;
}

std::vector<Handle> Registry::handles(std::uint8_t tag) {
    std::uint32_t end = 0;
    {
        const std::lock_guard lock(free_mutex_);
        end = fresh_;
    }
    std::vector<Handle> list;
    for (std::uint32_t index = 1; index < end; ++index) {
        const Slot* slot = slot_at(index);
        if (slot == nullptr) continue;
        const std::uint64_t live = slot->live.load();
        if (tag != 0 && slot->tag.load(std::memory_order_relaxed) != tag) continue;
        if (live != 0) list.push_back(Handle{live});
    }
    return list;
}

}  // namespace perilune
