// Calls: to whom a message goes, and how a call ends.
//
// Purpose:   what host programs and native services share when they talk to services.
// Threads:   values.
// Ownership: a CallResult owns what it holds; a Receiver refers to the text it was made from.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "perilune/status.h"
#include "perilune/value.h"

namespace perilune {

// A service, by its handle or by its name. For arguments alone: the name isn't copied.
class Receiver {
  public:
    Receiver(std::uint64_t handle) : handle_(handle) {}
    Receiver(const char* name) : name_(name) {}
    Receiver(std::string_view name) : name_(name) {}
    Receiver(const std::string& name) : name_(name) {}

    std::uint64_t handle() const { return handle_; }  // 0: it has a name
    std::string_view name() const { return name_; }

  private:
    std::uint64_t handle_ = 0;
    std::string_view name_;
};

// How a call ends; each ends once, in one of these. The numbers are part of the format between
// nodes.
enum class Outcome : std::uint8_t {
    ok,          // it returned
    error,       // the receiver raised
    timeout,     // no answer within the limit
    dead,        // no such service, or it died before it answered
    overloaded,  // the receiver's mailbox is full
    link_lost,   // the link to the receiver's node broke
    cancelled,   // the caller gave up or is stopping, or the call could not be made here
};

// The name of `outcome` as Lua and the logs spell it.
const char* outcome_name(Outcome outcome);

struct CallResult {
    Outcome outcome = Outcome::ok;
    Values values;          // what the command returned
    std::string message;    // what went wrong, in words; "" when ok
    std::string traceback;  // of an error in Lua, with its own lines
    Value error;            // what was raised, where it is data

    bool ok() const { return outcome == Outcome::ok; }
    // The returned value number 1 and so on; nil beyond the last.
    const Value& value(std::size_t number = 1) const;
    // The failure as a Status; ok when the call was.
    Status status() const;
};

// Told how a call ended. Takes the result; called once.
using CallDone = std::function<void(CallResult result)>;

}  // namespace perilune
