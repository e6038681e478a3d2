#include "node/calls.h"

#include <utility>

#include "core/codec.h"

namespace perilune {

const Value& CallResult::value(std::size_t number) const {
    static const Value kNil;
    return number >= 1 && number <= values.size() ? values[number - 1] : kNil;
}

Status CallResult::status() const {
    switch (outcome) {
        case Outcome::ok: return {};
        case Outcome::timeout: return Status::error(StatusCode::timeout, "%s", message.c_str());
        case Outcome::dead: return Status::error(StatusCode::dead, "%s", message.c_str());
        case Outcome::overloaded:
            return Status::error(StatusCode::overloaded, "%s", message.c_str());
        default: return Status::error(StatusCode::unavailable, "%s", message.c_str());
    }
}

CallResult failed_call(Outcome outcome, std::string message) {
    CallResult result;
    result.outcome = outcome;
    result.message = message.empty() ? outcome_name(outcome) : std::move(message);
    return result;
}

CallResult result_of(const Message& message) {
    const auto outcome = static_cast<Outcome>(message.detail);
    if (message.kind == MessageKind::failure && outcome != Outcome::error) {
        return failed_call(outcome, std::string(message.payload()));
    }
    Result<Values> values = decode(message.data(), message.size);
    if (!values.ok()) return failed_call(Outcome::error, values.status().message());
    CallResult result;
    if (message.kind == MessageKind::reply) {
        result.values = std::move(values.value());
        return result;
    }
    // An error is its text, its traceback and what was raised.
    Values& parts = values.value();
    parts.resize(3);
    result = failed_call(Outcome::error, parts[0].string());
    result.traceback = parts[1].string();
    result.error = std::move(parts[2]);
    return result;
}

Status make_command(MessageKind kind, Handle to, Handle from, std::uint64_t session,
                    std::string_view command, const Values& arguments, MessagePtr& message) {
    MessagePtr made = make_message(kind, to, from, session);
    PayloadWriter out = made->writer();
    wire::write_string(out, command);
    if (const Status status = encode(arguments, out); !status.ok()) return status;
    made->finish(out);
    message = std::move(made);
    return {};
}

Handle resolve(Kernel& kernel, const Receiver& receiver) {
    if (receiver.handle() != 0) return Handle{receiver.handle()};
    return kernel.registry().find_name(receiver.name());
}

CallResult refused_call(PostResult result, const Receiver& to) {
    std::string who =
        to.handle() == 0 ? "\"" + std::string(to.name()) + "\"" : std::to_string(to.handle());
    if (result == PostResult::overloaded) {
        return failed_call(Outcome::overloaded, "the mailbox of " + who + " is full");
    }
    return failed_call(Outcome::dead, "there is no service " + who);
}

void answer_error(Kernel& kernel, MessagePtr request, std::string_view text) {
    if (request == nullptr || request->session == 0) return;
    constexpr std::size_t kMaxText = 4096;
    PayloadWriter out = request->writer();
    wire::write_string(out, text.substr(0, kMaxText));
    wire::write_tag(out, wire::kNil);  // no traceback
    wire::write_string(out, text.substr(0, kMaxText));
    request->finish(out);
    kernel.answer(std::move(request), MessageKind::failure, Outcome::error);
}

void answer_values(Kernel& kernel, MessagePtr request, const Values& values) {
    if (request == nullptr || request->session == 0) return;
    PayloadWriter out = request->writer();
    if (const Status status = encode(values, out); !status.ok()) {
        answer_error(kernel, std::move(request), status.message());
        return;
    }
    request->finish(out);
    kernel.answer(std::move(request), MessageKind::reply, Outcome::ok);
}

}  // namespace perilune
