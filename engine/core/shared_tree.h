// SharedTree, SharedStore: data that every service of a node reads and none can change.
//
// Purpose:   one copy a node of tables such as game configuration, built from a payload (see
//            core/codec.h) and laid out for reading: arrays by index, other keys by hash.
// Threads:   a tree is constant once built and is read without locks from any thread. A
//            SharedStore may be used from any thread; put() replaces a whole tree at once.
// Ownership: a tree owns all its nodes and strings. Who holds a shared_ptr to a tree keeps that
//            version, whatever the store holds by then. Items, nodes and texts that a tree hands
//            out live as long as the tree.
#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/payload.h"
#include "perilune/status.h"

namespace perilune {

class SharedTree {
  public:
    enum class Kind : std::uint8_t { nil, null, boolean, number, string, table };

    // A value of the tree, 16 bytes.
    struct Item {
        Kind kind = Kind::nil;
        bool boolean = false;
        std::uint32_t size = 0;  // of a string
        union {
            double number = 0;
            std::uint32_t offset;  // of a string, in the tree's block
            std::uint32_t node;    // of a table
        };
    };

    // A table: keys 1..array_count by index, all others by hash.
    struct Node {
        std::uint32_t array_begin = 0;  // in items_
        std::uint32_t array_count = 0;
        std::uint32_t entry_begin = 0;  // in entries_
        std::uint32_t entry_count = 0;
        std::uint32_t slot_begin = 0;  // in slots_
        std::uint32_t slot_mask = 0;   // number of slots - 1; no slots when there are no entries
    };

    // The tree of a payload that holds exactly one value. Fails with `invalid` or `too_large` as
    // decode() does.
    static Result<std::shared_ptr<const SharedTree>> build(const char* data, std::size_t size,
                                                           std::uint32_t number = 0);

    // What build() was given: of a store's trees, each has another.
    std::uint32_t number() const { return number_; }

    const Item& root() const { return root_; }
    // `item` is a table.
    const Node& node(const Item& item) const { return nodes_[item.node]; }
    // `item` is a string.
    std::string_view text(const Item& item) const {
        return {strings_.data() + item.offset, item.size};
    }

    // The value under a key, or null. O(1).
    const Item* find(const Node& node, std::string_view key) const;
    const Item* find(const Node& node, double key) const;
    const Item* find(const Node& node, std::same_as<bool> auto key) const {
        return value_or_null(node, position(node, key));
    }

    // Iteration: positions are 0..positions()-1. At a position is a key and a value; the value
    // is nil in a hole of an array, which the caller skips.
    static std::uint32_t positions(const Node& node) { return node.array_count + node.entry_count; }
    Item key_at(const Node& node, std::uint32_t position) const;
    const Item& value_at(const Node& node, std::uint32_t position) const;
    // The position of a key that find() finds, or positions().
    std::uint32_t position(const Node& node, std::string_view key) const;
    std::uint32_t position(const Node& node, double key) const;
    // Not for what merely converts to bool, such as a char*.
    std::uint32_t position(const Node& node, std::same_as<bool> auto key) const {
        return boolean_position(node, key);
    }

    // Appends a value to `out` as encode() would. `depth`: how many tables it will be inside.
    // Fails with `too_large` when it would be nested too deep or `out` too large.
    Status encode(const Item& item, PayloadWriter& out, int depth) const;

    // What the tree takes, in bytes.
    std::size_t memory() const;

    struct Entry {
        Item key;
        Item value;
    };

  private:
    struct Builder;
    SharedTree() = default;
    std::uint32_t boolean_position(const Node& node, bool key) const;
    const Item* value_or_null(const Node& node, std::uint32_t position) const {
        return position == positions(node) ? nullptr : &value_at(node, position);
    }

    // Constant after build().
    std::uint32_t number_ = 0;
    Item root_;
    std::vector<Node> nodes_;
    std::vector<Item> items_;
    std::vector<Entry> entries_;
    std::vector<std::uint32_t> slots_;  // 1 + index of an entry within its node, or 0
    std::string strings_;               // equal strings are there once
};

class SharedStore {
  public:
    // What a node may share: names, their length, and what all trees take together.
    static constexpr std::size_t kMaxNames = 4096;
    static constexpr std::size_t kMaxName = 128;
    static constexpr std::size_t kMaxBytes = std::size_t{1} << 30;
    struct Counters {
        std::size_t names;
        std::size_t bytes;
        std::uint64_t refused;  // over these limits
    };

    explicit SharedStore(std::size_t max_bytes = kMaxBytes) : max_bytes_(max_bytes) {}

    // Builds the tree of a payload and makes it what get(name) gives. After a failure (see
    // SharedTree::build; too_large: over a limit; invalid: the name) the name keeps what it had.
    Status put(std::string_view name, const char* data, std::size_t size);

    // The present tree under `name`, or null.
    std::shared_ptr<const SharedTree> get(std::string_view name) const;

    // Forgets a name. False when it had none.
    bool remove(std::string_view name);

    Counters counters() const;

  private:
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const {
            return std::hash<std::string_view>{}(text);
        }
    };
    const std::size_t max_bytes_;
    std::atomic<std::uint32_t> next_number_{0};
    mutable std::mutex mutex_;
    // Guarded by mutex_:
    std::size_t bytes_ = 0;
    std::uint64_t refused_ = 0;
    std::unordered_map<std::string, std::shared_ptr<const SharedTree>, Hash, std::equal_to<>>
        trees_;
};

}  // namespace perilune
