#include "game/token_bucket.h"

namespace perilune {

AddressBuckets::AddressBuckets(const Rate& rate)
    : rate_(rate), full_after_ns_(static_cast<std::int64_t>(rate.burst / rate.per_second * 1e9)) {}

AddressBuckets::~AddressBuckets() = default;

AddressBuckets::Entry& AddressBuckets::enter(std::string_view address, std::int64_t now_ns) {
    while (first_idle_ != nullptr && now_ns - first_idle_->left_ns >= full_after_ns_) {
        forget_first();
    }
    const auto [found, is_new] = entries_.try_emplace(std::string(address), rate_, now_ns);
    Entry& entry = found->second;
    if (is_new) {
        entry.address = &found->first;
    } else if (entry.users == 0) {
        unlink(entry);
    }
    ++entry.users;
    return entry;
}

void AddressBuckets::leave(Entry& entry, std::int64_t now_ns) {
    if (--entry.users > 0) return;
    entry.left_ns = now_ns;
    link(entry);
    if (idle_ > kMaxIdle) forget_first();
}

bool AddressBuckets::take(Entry& entry, std::int64_t now_ns) {
    return entry.bucket.take(rate_, now_ns);
}

void AddressBuckets::forget_first() {
    Entry& entry = *first_idle_;
    unlink(entry);
    entries_.erase(*entry.address);
}

void AddressBuckets::link(Entry& entry) {
    entry.previous = last_idle_;
    entry.next = nullptr;
    (last_idle_ == nullptr ? first_idle_ : last_idle_->next) = &entry;
    last_idle_ = &entry;
    ++idle_;
}

void AddressBuckets::unlink(Entry& entry) {
    (entry.previous == nullptr ? first_idle_ : entry.previous->next) = entry.next;
    (entry.next == nullptr ? last_idle_ : entry.next->previous) = entry.previous;
    --idle_;
}

}  // namespace perilune
