// OwnedIds: what dies with a service.
//
// Threads:   any.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/ids.h"

namespace perilune {

class OwnedIds {
  public:
    void add(Handle owner, std::uint64_t id) {
        const std::lock_guard lock(mutex_);
        ids_[owner].push_back(id);
    }
    void remove(Handle owner, std::uint64_t id) {
        const std::lock_guard lock(mutex_);
        const auto found = ids_.find(owner);
        if (found == ids_.end()) return;
        std::erase(found->second, id);
        if (found->second.empty()) ids_.erase(found);
    }
    std::vector<std::uint64_t> of(Handle owner) const {
        const std::lock_guard lock(mutex_);
        const auto found = ids_.find(owner);
        return found == ids_.end() ? std::vector<std::uint64_t>{} : found->second;
    }
    std::vector<std::uint64_t> all() const {
        const std::lock_guard lock(mutex_);
        std::vector<std::uint64_t> list;
        for (const auto& [owner, ids] : ids_) list.insert(list.end(), ids.begin(), ids.end());
        return list;
    }

  private:
    mutable std::mutex mutex_;
    std::unordered_map<Handle, std::vector<std::uint64_t>> ids_;  // guarded by mutex_
};

}  // namespace perilune
