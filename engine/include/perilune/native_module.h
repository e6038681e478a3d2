// Native modules: functions of C++ that scripts get by require.
//
// Purpose:   what a host program registers with Node::register_module(), without lua_State:
//
//     node.register_module("game.math", {
//         {"clamp", [](perilune::Call& call) -> perilune::Values {
//             const double value = call.number(1), low = call.number(2), high = call.number(3);
//             return {std::clamp(value, low, high)};
//         }},
//     });
//     -- in Lua: local math = require "game.math"; math.clamp(7, 1, 5) --> 5
//
// Threads:   a function is called on the worker that runs the calling service, so several may be
//            called at once, by different services: what they share they must guard. They must
//            not block.
// Ownership: the node keeps the functions as long as it lives. A Call, and the texts that it
//            hands out, are for the duration of the one call.
//
// Checks don't return when they fail: they leave the function by unwinding its stack, so that its
// destructors run, and raise an error in Lua. So do exceptions that leave a function. Nothing
// between a check and the function's edge may be noexcept, or catch (...) without throwing again.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "perilune/value.h"

namespace perilune {

class Call {
  public:
    // How many arguments there are.
    int count() const;
    // Whether argument `number` (from 1) is there and not nil.
    bool has(int number) const;

    // Argument `number`, checked: "bad argument #1 to 'clamp' (number expected, got string)".
    // Numbers and strings are not taken for each other.
    bool boolean(int number) const;
    double number(int number) const;
    // An integer within the limits.
    std::int64_t integer(int number, std::int64_t minimum = -kMaxInteger,
                         std::int64_t maximum = kMaxInteger) const;
    std::string_view string(int number) const;
    // A copy of a table.
    Value table(int number) const;
    // A copy of anything that a message can carry, nil too.
    Value value(int number) const;

    // The same with what is meant where the argument is missing or nil.
    bool boolean_or(int number, bool fallback) const;
    double number_or(int number, double fallback) const;
    std::int64_t integer_or(int number, std::int64_t fallback, std::int64_t minimum = -kMaxInteger,
                            std::int64_t maximum = kMaxInteger) const;
    std::string_view string_or(int number, std::string_view fallback) const;

    // Handle of the service that calls.
    std::uint64_t service() const;

    // Raises "bad argument #<number> to '<function>' (<text>)".
    [[noreturn]] void argument_error(int number, std::string_view text) const;
    // Raises `text`, with the line of the caller before it.
    [[noreturn]] void error(std::string_view text) const;

    // Largest integer that a Lua number holds exactly: 2^53.
    static constexpr std::int64_t kMaxInteger = std::int64_t{1} << 53;

    // For the engine: the calling Lua state.
    explicit Call(void* state) : state_(state) {}
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

  private:
    void* const state_;
};

// What it returns are the results in Lua. An expected failure returns nil, a message and a code.
using NativeFunction = std::function<Values(Call&)>;

// Names and functions of a module.
using NativeModule = std::vector<std::pair<std::string, NativeFunction>>;

}  // namespace perilune
