// TokenBucket: so many a second on average, and so many at once. AddressBuckets: one for each
// address of clients.
//
// Threads:   one owner.
// Ownership: AddressBuckets owns the buckets; who has entered refers to one until leave().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

namespace perilune {

struct Rate {
    double per_second = 0;
    double burst = 0;
};

class TokenBucket {
  public:
    // A full one.
    TokenBucket(const Rate& rate, std::int64_t now_ns) : tokens_(rate.burst), at_ns_(now_ns) {}

    // Takes one, if there is one. All calls are given the same rate.
    bool take(const Rate& rate, std::int64_t now_ns) {
        tokens_ += static_cast<double>(now_ns - at_ns_) * 1e-9 * rate.per_second;
        at_ns_ = now_ns;
        if (tokens_ > rate.burst) tokens_ = rate.burst;
        if (tokens_ < 1) return false;
        tokens_ -= 1;
        return true;
    }

  private:
    double tokens_;
    std::int64_t at_ns_;
};

// The bucket of an address lives as long as something of that address is here, and then until it
// would be full again: who comes back finds what was left. Of addresses of which nothing is here
// the last kMaxIdle are known, so that a flood of them costs bounded memory.
class AddressBuckets {
  public:
    static constexpr std::size_t kMaxIdle = 10'000;
    struct Entry;

    explicit AddressBuckets(const Rate& rate);
    ~AddressBuckets();
    AddressBuckets(const AddressBuckets&) = delete;
    AddressBuckets& operator=(const AddressBuckets&) = delete;

    // Something of that address has come. Each entry has to leave() as often.
    Entry& enter(std::string_view address, std::int64_t now_ns);
    void leave(Entry& entry, std::int64_t now_ns);
    bool take(Entry& entry, std::int64_t now_ns);

    std::size_t size() const { return entries_.size(); }

  private:
    void forget_first();
    void link(Entry& entry);
    void unlink(Entry& entry);

    const Rate rate_;
    const std::int64_t full_after_ns_;
    std::unordered_map<std::string, Entry> entries_;
    // Those of which nothing is here, the longest idle first.
    Entry* first_idle_ = nullptr;
    Entry* last_idle_ = nullptr;
    std::size_t idle_ = 0;
};

struct AddressBuckets::Entry {
    Entry(const Rate& rate, std::int64_t now_ns) : bucket(rate, now_ns) {}

    TokenBucket bucket;
    std::size_t users = 0;
    std::int64_t left_ns = 0;  // when the last of them went
    const std::string* address = nullptr;
    Entry* next = nullptr;  // among those that are idle
    Entry* previous = nullptr;
};

}  // namespace perilune
