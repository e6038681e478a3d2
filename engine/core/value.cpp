#include "perilune/value.h"

#include <cmath>

namespace perilune {
namespace {

const Value kNil;
const std::string kEmptyString;
const Table kEmptyTable;

const Value* find(const Table& table, const Value& key) {
    for (const auto& [entry_key, entry_value] : table) {
        if (entry_key == key) return &entry_value;
    }
    return nullptr;
}

// Whether both have the same entries, in whatever order.
bool same_entries(const Table& left, const Table& right) {
    if (left.size() != right.size()) return false;
    for (std::size_t i = 0; i < left.size(); ++i) {
        const auto& [key, value] = left[i];
        const Value* other = key == right[i].first ? &right[i].second : find(right, key);
        if (other == nullptr || !(value == *other)) return false;
    }
    return true;
}

}  // namespace

Value::Value(Table table) : data_(std::move(table)) {}

Value Value::array(Values items) {
    Table table;
    table.reserve(items.size());
    double key = 0;
    for (Value& item : items) table.emplace_back(++key, std::move(item));
    return Value(std::move(table));
}

bool Value::boolean(bool fallback) const {
    const bool* value = std::get_if<bool>(&data_);
    return value != nullptr ? *value : fallback;
}

double Value::number(double fallback) const {
    const double* value = std::get_if<double>(&data_);
    return value != nullptr ? *value : fallback;
}

std::int64_t Value::integer(std::int64_t fallback) const {
    const double* value = std::get_if<double>(&data_);
    constexpr double kLimit = 9223372036854775808.0;  // 2^63
    if (value == nullptr || !(*value >= -kLimit && *value < kLimit)) return fallback;
    return static_cast<std::int64_t>(*value);
}

const std::string& Value::string() const {
    const std::string* value = std::get_if<std::string>(&data_);
    return value != nullptr ? *value : kEmptyString;
}

const Table& Value::table() const {
    const Table* value = std::get_if<Table>(&data_);
    return value != nullptr ? *value : kEmptyTable;
}

const Value& Value::operator[](std::string_view key) const {
    for (const auto& [entry_key, entry_value] : table()) {
        if (entry_key.is_string() && entry_key.string() == key) return entry_value;
    }
    return kNil;
}

const Value& Value::operator[](std::int64_t index) const {
    const Table& entries = table();
    const auto wanted = static_cast<double>(index);
    // An array's entry is at its own place.
    if (index >= 1 && static_cast<std::uint64_t>(index) <= entries.size()) {
        const auto& [key, value] = entries[static_cast<std::size_t>(index) - 1];
        if (key.is_number() && key.number() == wanted) return value;
    }
    for (const auto& [entry_key, entry_value] : entries) {
        if (entry_key.is_number() && entry_key.number() == wanted) return entry_value;
    }
    return kNil;
}

bool operator==(const Value& left, const Value& right) {
    if (left.is_table() && right.is_table()) return same_entries(left.table(), right.table());
    if (left.data_.index() != right.data_.index()) return false;
    if (left.is_number()) return left.number() == right.number();
    if (left.is_string()) return left.string() == right.string();
    return left.boolean() == right.boolean();
}

}  // namespace perilune
