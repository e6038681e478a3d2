#include "core/shared_tree.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/codec.h"

namespace perilune {
namespace {

using Item = SharedTree::Item;
using Kind = SharedTree::Kind;

std::uint32_t hash_of(std::string_view text) {
    return static_cast<std::uint32_t>(std::hash<std::string_view>{}(text));
}

std::uint32_t hash_of(double number) {
    const auto bits = std::bit_cast<std::uint64_t>(number + 0.0);  // -0.0 becomes 0.0
    return static_cast<std::uint32_t>((bits * 0x9e3779b97f4a7c15ull) >> 32);
}

std::uint32_t hash_of(bool value) { return value ? 1 : 2; }

bool same_key(const SharedTree& tree, const Item& item, std::string_view text) {
    return item.kind == Kind::string && tree.text(item) == text;
}
bool same_key(const SharedTree&, const Item& item, double number) {
    return item.kind == Kind::number && item.number == number;
}
bool same_key(const SharedTree&, const Item& item, bool value) {
    return item.kind == Kind::boolean && item.boolean == value;
}

// Calls `use` with what a key holds.
template <typename Use>
auto with_key(const SharedTree& tree, const Item& key, Use use) {
    if (key.kind == Kind::string) return use(tree.text(key));
    if (key.kind == Kind::number) return use(key.number);
    return use(key.boolean);
}

// The index of an entry among its node's, or entry_count.
template <typename Key>
std::uint32_t find_entry(const SharedTree& tree, const SharedTree::Node& node,
                         const SharedTree::Entry* entries, const std::uint32_t* slots, Key key) {
    if (node.entry_count == 0) return 0;
    for (std::uint32_t slot = hash_of(key) & node.slot_mask;; slot = (slot + 1) & node.slot_mask) {
        const std::uint32_t found = slots[slot];
        if (found == 0) return node.entry_count;
        if (same_key(tree, entries[found - 1].key, key)) return found - 1;
    }
}

// The index of `key` in an array of `count` items, or `count`.
std::uint32_t array_index(double key, std::uint32_t count) {
    if (!(key >= 1 && key <= count)) return count;
    const auto index = static_cast<std::uint32_t>(key);
    return index == key ? index - 1 : count;
}

}  // namespace

// Reads a payload into a tree. As in core/codec.cpp, a pointer `end` leaves out one byte for
// each value that the tables around still need.
struct SharedTree::Builder {
    SharedTree& tree;
    const char* cursor;
    wire::Fault fault = wire::Fault::none;
    // What `strings_` holds already; the views point into the payload.
    std::unordered_map<std::string_view, std::uint32_t> known_strings;

    bool fail(wire::Fault why) {
        fault = why;
        return false;
    }

    void string(std::string_view text, Item& item) {
        auto [place, is_new] =
            known_strings.try_emplace(text, static_cast<std::uint32_t>(tree.strings_.size()));
        if (is_new) tree.strings_.append(text);
        item.kind = Kind::string;
        item.size = static_cast<std::uint32_t>(text.size());
        item.offset = place->second;
    }

    bool value(const char* end, int depth, bool is_key, Item& item) {
        if (cursor >= end) return fail(wire::Fault::cut_off);
        const auto tag = static_cast<unsigned char>(*cursor++);
        double number = 0;
        const int found = wire::read_number(tag, cursor, end, number);
        if (found == 0) return fail(wire::Fault::cut_off);
        if (found == 1) {
            if (is_key && std::isnan(number)) return fail(wire::Fault::bad_key);
            item.kind = Kind::number;
            item.number = number;
            return true;
        }
        if (wire::is_string(tag)) {
            std::size_t size = 0;
            if (!wire::read_string_size(tag, cursor, end, size)) return fail(wire::Fault::cut_off);
            string({cursor, size}, item);
            cursor += size;
            return true;
        }
        if (tag == wire::kTrue || tag == wire::kFalse) {
            item.kind = Kind::boolean;
            item.boolean = tag == wire::kTrue;
            return true;
        }
        if (tag > wire::kTable32) return fail(wire::Fault::unknown_tag);
        if (is_key) return fail(wire::Fault::bad_key);
        if (wire::is_table(tag)) return table(tag, end, depth + 1, item);
        item.kind = tag == wire::kNull ? Kind::null : Kind::nil;
        return true;
    }

    bool table(unsigned char tag, const char* end, int depth, Item& item) {
        if (depth > kMaxDepth) return fail(wire::Fault::too_deep);
        wire::TableSize size;
        if (!wire::read_table_size(tag, cursor, end, size)) return fail(wire::Fault::cut_off);
        std::size_t owed = size.values();
        std::vector<Item> array;
        std::vector<Entry> entries;
        array.reserve(size.array_count);
        entries.reserve(std::min<std::size_t>(size.hash_count, 1024));
        for (std::uint32_t i = 0; i < size.array_count; ++i) {
            if (!value(end - --owed, depth, false, array.emplace_back())) return false;
        }
        for (std::uint32_t i = 0; i < size.hash_count; ++i) {
            Entry entry;
            if (!value(end - --owed, depth, true, entry.key)) return false;
            if (!value(end - --owed, depth, false, entry.value)) return false;
            const bool is_number = entry.key.kind == Kind::number;
            const std::uint32_t index =
                is_number ? array_index(entry.key.number, size.array_count) : size.array_count;
            if (index < array.size()) {
                array[index] = entry.value;
            } else {
                entries.push_back(entry);
            }
        }
        item.kind = Kind::table;
        item.node = add_node(array, entries);
        return true;
    }

    // Entries 1 + array.size(), ... of a table that was not filled in order belong to its array.
    void extend_array(std::vector<Item>& array, std::vector<Entry>& entries) {
        const std::size_t first = array.size();
        std::vector<const Item*> next(entries.size());
        for (const Entry& entry : entries) {
            if (entry.key.kind != Kind::number) continue;
            const double place = entry.key.number - static_cast<double>(first) - 1;
            if (!(place >= 0 && place < static_cast<double>(next.size()))) continue;
            const auto index = static_cast<std::size_t>(place);
            if (static_cast<double>(index) == place) next[index] = &entry.value;
        }
        for (const Item* value : next) {
            if (value == nullptr || value->kind == Kind::nil) break;
            array.push_back(*value);
        }
        if (array.size() == first) return;
        std::erase_if(entries, [&](const Entry& entry) {
            return entry.key.kind == Kind::number &&
                   array_index(entry.key.number, static_cast<std::uint32_t>(array.size())) <
                       array.size();
        });
    }

    std::uint32_t add_node(std::vector<Item>& array, std::vector<Entry>& entries) {
        if (!entries.empty()) extend_array(array, entries);
        while (!array.empty() && array.back().kind == Kind::nil) array.pop_back();
        Node node;
        node.array_begin = static_cast<std::uint32_t>(tree.items_.size());
        node.array_count = static_cast<std::uint32_t>(array.size());
        tree.items_.insert(tree.items_.end(), array.begin(), array.end());
        node.entry_begin = static_cast<std::uint32_t>(tree.entries_.size());
        if (!entries.empty()) add_entries(node, entries);
        tree.nodes_.push_back(node);
        return static_cast<std::uint32_t>(tree.nodes_.size() - 1);
    }

    void add_entries(Node& node, const std::vector<Entry>& entries) {
        const std::size_t slot_count = std::bit_ceil(entries.size() + entries.size() / 2 + 1);
        node.slot_begin = static_cast<std::uint32_t>(tree.slots_.size());
        node.slot_mask = static_cast<std::uint32_t>(slot_count - 1);
        tree.slots_.resize(tree.slots_.size() + slot_count);
        std::uint32_t* slots = tree.slots_.data() + node.slot_begin;
        for (const Entry& entry : entries) {
            const Entry* added = tree.entries_.data() + node.entry_begin;
            with_key(tree, entry.key, [&](auto key) {
                std::uint32_t slot = hash_of(key) & node.slot_mask;
                while (slots[slot] != 0 && !same_key(tree, added[slots[slot] - 1].key, key)) {
                    slot = (slot + 1) & node.slot_mask;
                }
                if (slots[slot] != 0) {  // a key that is there twice: the last one wins
                    tree.entries_[node.entry_begin + slots[slot] - 1].value = entry.value;
                } else {
                    tree.entries_.push_back(entry);
                    slots[slot] = ++node.entry_count;
                }
            });
        }
    }
};

Result<std::shared_ptr<const SharedTree>> SharedTree::build(const char* data, std::size_t size,
                                                            std::uint32_t number) {
    if (size > kMaxPayload) return wire::fault_status(wire::Fault::too_large, size);
    const std::shared_ptr<SharedTree> tree(new SharedTree);
    tree->number_ = number;
    Builder builder{*tree, data, wire::Fault::none, {}};
    if (!builder.value(data + size, 0, false, tree->root_)) {
        return wire::fault_status(builder.fault, static_cast<std::size_t>(builder.cursor - data));
    }
    if (builder.cursor != data + size) {
        return Status::error(StatusCode::invalid, "shared data is one value, this is more");
    }
    tree->nodes_.shrink_to_fit();
    tree->items_.shrink_to_fit();
    tree->entries_.shrink_to_fit();
    tree->slots_.shrink_to_fit();
    tree->strings_.shrink_to_fit();
    return std::shared_ptr<const SharedTree>(tree);
}

std::uint32_t SharedTree::position(const Node& node, std::string_view key) const {
    return node.array_count + find_entry(*this, node, entries_.data() + node.entry_begin,
                                         slots_.data() + node.slot_begin, key);
}

std::uint32_t SharedTree::position(const Node& node, double key) const {
    const std::uint32_t index = array_index(key, node.array_count);
    if (index < node.array_count) return index;
    return node.array_count + find_entry(*this, node, entries_.data() + node.entry_begin,
                                         slots_.data() + node.slot_begin, key);
}

std::uint32_t SharedTree::boolean_position(const Node& node, bool key) const {
    return node.array_count + find_entry(*this, node, entries_.data() + node.entry_begin,
                                         slots_.data() + node.slot_begin, key);
}

const Item* SharedTree::find(const Node& node, std::string_view key) const {
    return value_or_null(node, position(node, key));
}

const Item* SharedTree::find(const Node& node, double key) const {
    return value_or_null(node, position(node, key));
}

const Item& SharedTree::value_at(const Node& node, std::uint32_t position) const {
    if (position < node.array_count) return items_[node.array_begin + position];
    return entries_[node.entry_begin + position - node.array_count].value;
}

Item SharedTree::key_at(const Node& node, std::uint32_t position) const {
    if (position >= node.array_count) {
        return entries_[node.entry_begin + position - node.array_count].key;
    }
    Item key;
    key.kind = Kind::number;
    key.number = position + 1.0;
    return key;
}

Status SharedTree::encode(const Item& item, PayloadWriter& out, int depth) const {
    if (out.size() + item.size >= kMaxPayload) {
        return Status::error(StatusCode::too_large, "is larger than %zu MB with it",
                             kMaxPayload >> 20);
    }
    switch (item.kind) {
        case Kind::nil: wire::write_tag(out, wire::kNil); return {};
        case Kind::null: wire::write_tag(out, wire::kNull); return {};
        case Kind::boolean: wire::write_boolean(out, item.boolean); return {};
        case Kind::number: wire::write_number(out, item.number); return {};
        case Kind::string: wire::write_string(out, text(item)); return {};
        case Kind::table: break;
    }
    if (depth >= kMaxDepth) {
        return Status::error(StatusCode::too_large, "is nested deeper than %d", kMaxDepth);
    }
    const Node& table = node(item);
    const std::size_t offset = wire::begin_table(out, positions(table) > 255);
    for (std::uint32_t i = 0; i < table.array_count; ++i) {
        const Status status = encode(items_[table.array_begin + i], out, depth + 1);
        if (!status.ok()) return status;
    }
    std::uint32_t hash_count = 0;
    for (std::uint32_t i = 0; i < table.entry_count; ++i) {
        const Entry& entry = entries_[table.entry_begin + i];
        if (entry.value.kind == Kind::nil) continue;
        ++hash_count;
        Status status = encode(entry.key, out, depth + 1);
        if (status.ok()) status = encode(entry.value, out, depth + 1);
        if (!status.ok()) return status;
    }
    wire::end_table(out, offset, table.array_count, hash_count);
    return {};
}

std::size_t SharedTree::memory() const {
    return sizeof *this + nodes_.capacity() * sizeof(Node) + items_.capacity() * sizeof(Item) +
           entries_.capacity() * sizeof(Entry) + slots_.capacity() * sizeof(std::uint32_t) +
           strings_.capacity();
}

Status SharedStore::put(std::string_view name, const char* data, std::size_t size) {
    if (name.empty() || name.size() > kMaxName) {
        return Status::error(StatusCode::invalid, "a name has 1 to %zu bytes, this one has %zu",
                             kMaxName, name.size());
    }
    Result<std::shared_ptr<const SharedTree>> tree =
        SharedTree::build(data, size, next_number_.fetch_add(1));
    if (!tree.ok()) return tree.status();
    const std::size_t added = tree.value()->memory();
    std::shared_ptr<const SharedTree> old;  // let go of after the lock
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto place = trees_.find(name);
    if (place == trees_.end() && trees_.size() >= kMaxNames) {
        ++refused_;
        return Status::error(StatusCode::too_large,
                             "a node shares data under %zu names at most: put several tables into "
                             "one",
                             kMaxNames);
    }
    const std::size_t removed = place == trees_.end() ? 0 : place->second->memory();
    if (bytes_ - removed + added > max_bytes_) {
        ++refused_;
        return Status::error(StatusCode::too_large,
                             "a node shares %zu MB at most, and with these %zu MB it would be %zu: "
                             "replace large tables by smaller ones",
                             max_bytes_ >> 20, added >> 20, (bytes_ - removed + added) >> 20);
    }
    bytes_ = bytes_ - removed + added;
    if (place == trees_.end()) {
        trees_.emplace(std::string(name), std::move(tree.value()));
    } else {
        old = std::exchange(place->second, std::move(tree.value()));
    }
    return {};
}

std::shared_ptr<const SharedTree> SharedStore::get(std::string_view name) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto place = trees_.find(name);
    return place == trees_.end() ? nullptr : place->second;
}

bool SharedStore::remove(std::string_view name) {
    std::shared_ptr<const SharedTree> old;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto place = trees_.find(name);
    if (place == trees_.end()) return false;
    old = std::move(place->second);
    bytes_ -= old->memory();
    trees_.erase(place);
    return true;
}

SharedStore::Counters SharedStore::counters() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {trees_.size(), bytes_, refused_};
}

}  // namespace perilune
