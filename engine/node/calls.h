// Calls of C++: messages made from values, and results made from messages.
//
// Purpose:   what the gate of the host's threads and native services have in common.
// Threads:   functions without state, any thread.
// Ownership: nothing is kept.
#pragma once

#include "core/kernel.h"
#include "perilune/call.h"

namespace perilune {

// The result that a reply or failure carries.
CallResult result_of(const Message& message);
// A failure that the engine itself states.
CallResult failed_call(Outcome outcome, std::string message);

// A message of `kind` with a command and its arguments. An error, and null, when these can't be
// sent.
Status make_command(MessageKind kind, Handle to, Handle from, std::uint64_t session,
                    std::string_view command, const Values& arguments, MessagePtr& message);

// The service that `receiver` means, or none.
Handle resolve(Kernel& kernel, const Receiver& receiver);
// What the result of a call is that couldn't be posted.
CallResult refused_call(PostResult result, const Receiver& to);

// Answers `request` with an error; nothing where nobody waits.
void answer_error(Kernel& kernel, MessagePtr request, std::string_view text);
// Answers it with values; with an error where these can't be sent.
void answer_values(Kernel& kernel, MessagePtr request, const Values& values);

}  // namespace perilune
