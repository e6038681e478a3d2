// Value: what messages carry, as a C++ program sees it.
//
// Purpose:   arguments and results of commands: nil, boolean, number, string (any bytes), table.
// Threads:   a value; share it only while nobody changes it.
// Ownership: a Value owns all that it holds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace perilune {

class Value;
// A table in the order of its entries; keys 1..n stand for a Lua array.
using Table = std::vector<std::pair<Value, Value>>;
// Arguments or results: a sequence of values.
using Values = std::vector<Value>;

class Value {
  public:
    Value() = default;  // nil
    Value(std::nullptr_t) {}
    Value(bool value) : data_(value) {}
    // Numbers are doubles as in Lua: integers are exact to 2^53.
    template <typename T>
    requires(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) Value(T value)
        : data_(static_cast<double>(value)) {}
    Value(const char* text) : data_(std::string(text)) {}
    Value(std::string_view text) : data_(std::string(text)) {}
    Value(std::string text) : data_(std::move(text)) {}
    Value(Table table);
    static Value array(Values items);

    bool is_nil() const { return std::holds_alternative<std::monostate>(data_); }
    bool is_boolean() const { return std::holds_alternative<bool>(data_); }
    bool is_number() const { return std::holds_alternative<double>(data_); }
    bool is_string() const { return std::holds_alternative<std::string>(data_); }
    bool is_table() const { return std::holds_alternative<Table>(data_); }

    // What it holds, or the fallback when it holds something else.
    bool boolean(bool fallback = false) const;
    double number(double fallback = 0) const;
    std::int64_t integer(std::int64_t fallback = 0) const;
    const std::string& string() const;  // "" when it is no string
    const Table& table() const;         // empty when it is no table

    // The entry of a table under a key, or nil.
    const Value& operator[](std::string_view key) const;
    const Value& operator[](std::int64_t index) const;

    friend bool operator==(const Value& left, const Value& right);

  private:
    std::variant<std::monostate, bool, double, std::string, Table> data_;
};

}  // namespace perilune
