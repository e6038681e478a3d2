// Status and Result<T>: how a function that can fail says so.
//
// Purpose:   one way for an expected failure, without exceptions and out-parameters.
// Threads:   values; copy them freely.
// Ownership: a Status owns its text in place and is trivially destructible, so that an error
//            raised by Lua may jump over it.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>

namespace perilune {

enum class StatusCode : std::uint8_t {
    ok,
    invalid,      // the caller's input is wrong
    not_found,    // no such name, file or service
    exists,       // taken already: a name, a port
    dead,         // the receiver is gone
    overloaded,   // a bounded queue is full
    timeout,      // it did not happen in time
    unavailable,  // the system refuses now: no descriptor, no route, stopping
    unsupported,  // a value or an operation that cannot be
    too_large,    // over a limit in size or depth
    internal,     // a bug, or the operating system failed
};

// The name of `code` as Lua and the logs spell it.
const char* status_code_name(StatusCode code);

class [[nodiscard]] Status {
  public:
    Status() { text_[0] = '\0'; }  // the rest is left alone: most are ok

    // `format` and what follows are as in printf; text over 231 bytes is cut.
    static Status error(StatusCode code, const char* format, ...)
        __attribute__((format(printf, 2, 3)));

    bool ok() const { return code_ == StatusCode::ok; }
    StatusCode code() const { return code_; }
    const char* message() const { return text_; }  // "" when ok

  private:
    static constexpr std::size_t kTextSize = 232;
    StatusCode code_ = StatusCode::ok;
    char text_[kTextSize];
};

static_assert(std::is_trivially_destructible_v<Status>);

// A value, or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
  public:
    Result(T value) : value_(std::move(value)) {}
    Result(const Status& status) : status_(status) {}

    bool ok() const { return value_.has_value(); }
    const Status& status() const { return status_; }
    T& value() { return *value_; }
    const T& value() const { return *value_; }

  private:
    Status status_;
    std::optional<T> value_;
};

}  // namespace perilune
