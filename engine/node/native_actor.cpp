#include "node/native_actor.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/codec.h"
#include "game/packet.h"
#include "node/calls.h"

namespace perilune {

// --- promises ---

struct Promise::State {
    std::shared_ptr<Door> door;
    MessagePtr request;  // null: nobody waits, or answered
};

Promise::Promise() = default;
Promise::Promise(std::unique_ptr<State> state) : state_(std::move(state)) {}
Promise::Promise(Promise&& other) noexcept = default;

Promise& Promise::operator=(Promise&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}

Promise::~Promise() { fail("the service dropped the request without an answer"); }

void Promise::resolve(const Values& values) {
    const std::unique_ptr<State> state = std::move(state_);
    if (state == nullptr || state->request == nullptr) return;
    state->door->pass(
        [&](Kernel& kernel) { answer_values(kernel, std::move(state->request), values); });
}

void Promise::fail(std::string_view message) {
    const std::unique_ptr<State> state = std::move(state_);
    if (state == nullptr || state->request == nullptr) return;
    state->door->pass(
        [&](Kernel& kernel) { answer_error(kernel, std::move(state->request), message); });
}

// --- requests ---

const Value& Request::argument(std::size_t number) const {
    static const Value kNil;
    return number >= 1 && number <= arguments_.size() ? arguments_[number - 1] : kNil;
}

Promise Request::defer() { return actor_.defer(); }

Status Request::unknown() const {
    return Status::error(StatusCode::not_found, "%s has no command \"%.64s\"",
                         actor_.name().c_str(), command_.c_str());
}

// --- services ---

std::uint64_t NativeService::self() const { return actor_->handle().value; }

Status NativeService::send(const Receiver& to, std::string_view command, const Values& arguments) {
    return actor_->send(to, command, arguments);
}

void NativeService::call(const Receiver& to, std::string_view command, const Values& arguments,
                         CallDone done, std::int64_t limit_ms) {
    actor_->call(to, command, arguments, std::move(done), limit_ms);
}

std::uint64_t NativeService::timeout(std::int64_t delay_ms, std::function<void()> action) {
    return actor_->add_timer(delay_ms, 0, std::move(action));
}

std::uint64_t NativeService::every(std::int64_t period_ms, std::function<void()> action) {
    const std::int64_t period = std::max<std::int64_t>(1, period_ms);
    return actor_->add_timer(period, period, std::move(action));
}

bool NativeService::cancel(std::uint64_t timer) { return actor_->cancel(timer); }
bool NativeService::monitor(const Receiver& service) { return actor_->monitor(service); }

std::uint64_t NativeService::find(std::string_view name) const {
    return actor_->kernel().registry().find_name(name).value;
}

void NativeService::exit(std::string_view reason) { actor_->exit(reason); }

double NativeService::now_ms() const {
    return static_cast<double>(actor_->kernel().clock().now_ns()) / kNsPerMs;
}

void NativeService::log_debug(std::string_view text) const {
    actor_->kernel().log().write(LogLevel::debug, actor_->name(), text);
}
void NativeService::log_info(std::string_view text) const {
    actor_->kernel().log().write(LogLevel::info, actor_->name(), text);
}
void NativeService::log_warn(std::string_view text) const {
    actor_->kernel().log().write(LogLevel::warn, actor_->name(), text);
}
void NativeService::log_error(std::string_view text) const {
    actor_->kernel().log().write(LogLevel::error, actor_->name(), text);
}

// --- the actor ---

Result<Handle> start_native(NativeWorld& world, std::unique_ptr<NativeService> service,
                            const NativeStart& start) {
    Kernel& kernel = world.kernel;
    auto actor = std::make_unique<NativeActor>(world, std::move(service), start.script);
    NativeActor& native = *actor;
    native.set_options(start.options);
    ActorCell* cell = kernel.create_cell(std::move(actor));
    const Result<Handle> handle = kernel.add_service(cell, nullptr, start.mailbox, kNativeService);
    Status status = handle.status();
    if (handle.ok()) {
        native.set_cell(cell, handle.value());
        if (!start.name.empty()) status = kernel.registry().set_name(start.name, handle.value());
        MessagePtr message =
            make_message(status.ok() ? MessageKind::start : MessageKind::kill, handle.value(),
                         start.from, status.ok() ? start.session : 0);
        (void)kernel.post(message);
    } else {
        cell->finished = true;
    }
    kernel.launch(cell);
    if (!status.ok()) return status;
    return handle;
}

NativeActor::NativeActor(NativeWorld& world, std::unique_ptr<NativeService> service,
                         std::string script)
    : world_(world), service_(std::move(service)), script_(std::move(script)) {
    service_->actor_ = this;
}

NativeActor::~NativeActor() {
    if (state_ == State::dead) kernel().tell_down(handle_, watchers_, end_reason_, end_orderly_);
    if (timers_ != nullptr) kernel().timers().cancel_all(*timers_);
}

void NativeActor::set_cell(ActorCell* cell, Handle handle) {
    cell_ = cell;
    handle_ = handle;
    timers_ = std::make_unique<OwnerTimers>(handle);
}

std::string NativeActor::name() const {
    std::string name = world_.kernel.registry().name_of(handle_);
    return name.empty() ? script_ + "#" + std::to_string(handle_.value) : name;
}

template <typename Function>
std::string NativeActor::guarded(const char* what, Function body) {
    std::string text;
    try {
        body();
        return {};
    } catch (const std::exception& failure) {
        text = failure.what();
    } catch (...) {
        text = "an exception that is no std::exception";
    }
    ++errors_;
    kernel().log().error(name().c_str(), "error in %s: %s", what, text.c_str());
    return text.empty() ? "an exception without a text" : text;
}

void NativeActor::receive(MessagePtr message) {
    if (message->to != handle_ || state_ == State::dead) {
        kernel().refuse(std::move(message), Outcome::dead);
        return;
    }
    switch (message->kind) {
        case MessageKind::start: start(std::move(message)); break;
        case MessageKind::send:
        case MessageKind::call:
        case MessageKind::packet:
            if (state_ == State::starting) {
                held_.push_back(std::move(message));
            } else {
                command(std::move(message));
            }
            break;
        case MessageKind::reply:
        case MessageKind::failure: finish_call(message->session, result_of(*message)); break;
        case MessageKind::timer: timer(message->session); break;
        case MessageKind::down: down(*message); break;
        case MessageKind::link:
            // It monitors the other by now, which has to end with it.
            links_.insert(message->from);
            monitored_.insert(message->from);
            break;
        case MessageKind::stop: stop(std::move(message)); break;
        case MessageKind::kill: end("kill", false); break;
        case MessageKind::inspect: stats(std::move(message)); break;
        default: answer_error(kernel(), std::move(message), "not for a native service");
    }
    if (!exit_reason_.empty() && state_ != State::dead) {
        leave(std::exchange(exit_reason_, {}));
    }
}

void NativeActor::down(const Message& message) {
    monitored_.erase(message.from);
    const std::string reason(message.payload());
    const bool orderly = message.detail != 0;
    if (links_.erase(message.from) != 0 && !orderly) {
        leave("link");
        return;
    }
    (void)guarded("on_down", [&] { service_->on_down(message.from.value, reason, orderly); });
}

// Ends in good order.
void NativeActor::leave(std::string_view reason) {
    if (state_ == State::running) {
        (void)guarded("on_stop", [&] { service_->on_stop(reason); });
    }
    end(reason, true);
}

void NativeActor::start(MessagePtr message) {
    Status status;
    const std::string thrown = guarded("on_start", [&] { status = service_->on_start(options_); });
    options_ = {};
    if (!thrown.empty() || !status.ok()) {
        answer_error(kernel(), std::move(message), thrown.empty() ? status.message() : thrown);
        end("error", false);
        return;
    }
    state_ = State::running;
    answer_values(kernel(), std::move(message), {Value(handle_.value)});
    for (MessagePtr& held : std::exchange(held_, {})) {
        if (state_ == State::dead) {
            kernel().refuse(std::move(held), Outcome::dead);
        } else {
            command(std::move(held));
        }
    }
}

// A packet is the command that perilune.send would have brought.
void NativeActor::packet(MessagePtr message) {
    const bool to_client = is_to_client(message->detail);
    Values arguments{Value(std::string(message->payload()))};
    if (message->id != 0) arguments.emplace_back(message->id);
    ++messages_;
    serve(std::move(message), to_client ? "deliver" : "@packet", std::move(arguments));
}

void NativeActor::command(MessagePtr message) {
    if (message->kind == MessageKind::packet) return packet(std::move(message));
    ++messages_;
    std::string_view command;
    std::size_t consumed = 0;
    if (!read_string(message->data(), message->size, &command, &consumed)) {
        answer_error(kernel(), std::move(message), "a message begins with the name of a command");
        return;
    }
    if (command.substr(0, 3) == "on_") {
        answer_error(kernel(), std::move(message),
                     "names that begin with on_ are the service's own");
        return;
    }
    Result<Values> arguments = decode(message->data() + consumed, message->size - consumed);
    if (!arguments.ok()) {
        answer_error(kernel(), std::move(message), arguments.status().message());
        return;
    }
    const std::string name(command);
    serve(std::move(message), name, std::move(arguments.value()));
}

void NativeActor::serve(MessagePtr message, const std::string& command, Values arguments) {
    const bool is_call = message->kind == MessageKind::call;
    Request request(*this, command, std::move(arguments), message->from.value, is_call);
    if (is_call) request_ = std::move(message);
    Result<Values> results = Values();
    const std::string what = "command " + std::string(request.command().substr(0, 64));
    const std::string thrown =
        guarded(what.c_str(), [&] { results = service_->on_message(request); });
    MessagePtr answered = std::move(request_);
    if (!thrown.empty()) {
        answer_error(kernel(), std::move(answered), thrown);
    } else if (!results.ok()) {
        ++errors_;
        if (!is_call) {
            kernel().log().warn(name().c_str(), "%s: %s", what.c_str(), results.status().message());
        }
        answer_error(kernel(), std::move(answered), results.status().message());
    } else {
        answer_values(kernel(), std::move(answered), results.value());
    }
}

Promise NativeActor::defer() {
    auto state = std::make_unique<Promise::State>();
    state->door = world_.door;
    state->request = std::move(request_);
    return Promise(std::move(state));
}

Status NativeActor::send(const Receiver& to, std::string_view command, const Values& arguments) {
    MessagePtr message;
    const Handle receiver = resolve(kernel(), to);
    if (const Status status =
            make_command(MessageKind::send, receiver, handle_, 0, command, arguments, message);
        !status.ok()) {
        return status;
    }
    const PostResult result = kernel().post(message);
    return result == PostResult::ok ? Status() : refused_call(result, to).status();
}

void NativeActor::call(const Receiver& to, std::string_view command, const Values& arguments,
                       CallDone done, std::int64_t limit_ms) {
    if (state_ == State::dead) {
        (void)guarded("the end of a call",
                      [&] { done(failed_call(Outcome::cancelled, "the service has ended")); });
        return;
    }
    const std::uint64_t session = next_session_++;
    MessagePtr message;
    const Status status = make_command(MessageKind::call, resolve(kernel(), to), handle_, session,
                                       command, arguments, message);
    OpenCall& open = calls_[session];
    open.done = std::move(done);
    const std::int64_t limit = limit_ms < 0 ? world_.call_limit_ms : limit_ms;
    if (limit > 0) {
        open.limit = kernel().add_timer(*timers_, session,
                                        TimerWheel::due_after(kernel().clock().now_ns(), limit));
    }
    CallResult failure;
    if (!status.ok()) {
        failure = failed_call(Outcome::error, status.message());
    } else if (limit > 0 && !open.limit) {
        failure = failed_call(Outcome::overloaded, "there are too many timers in the node");
    } else if (const PostResult result = kernel().post(message); result != PostResult::ok) {
        failure = refused_call(result, to);
    }
    if (!failure.ok()) {
        // Told later, as every other end: the caller has not returned yet.
        MessagePtr later = make_message(MessageKind::timer, handle_, {}, session);
        open.done = [done = std::move(open.done), failure = std::move(failure)](CallResult) {
            done(failure);
        };
        (void)kernel().post(later);
    }
}

void NativeActor::finish_call(std::uint64_t session, CallResult result) {
    const auto found = calls_.find(session);
    if (found == calls_.end()) {
        kernel().counters().late_replies.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    const OpenCall open = std::move(found->second);
    calls_.erase(found);
    if (open.limit) kernel().cancel_timer(*timers_, open.limit);
    (void)guarded("the end of a call", [&] { open.done(std::move(result)); });
}

std::uint64_t NativeActor::add_timer(std::int64_t delay_ms, std::int64_t period_ms,
                                     std::function<void()> action) {
    if (state_ == State::dead) return 0;
    const std::uint64_t session = next_session_++;
    const std::int64_t due = TimerWheel::due_after(kernel().clock().now_ns(), delay_ms);
    const TimerId id = kernel().add_bounded_timer(*timers_, session, due, ms_to_ns(period_ms));
    if (!id) return 0;
    timer_actions_[session] = {std::make_shared<std::function<void()>>(std::move(action)), id,
                               period_ms > 0};
    return session;
}

bool NativeActor::cancel(std::uint64_t timer) {
    const auto found = timer_actions_.find(timer);
    if (found == timer_actions_.end()) return false;
    kernel().cancel_timer(*timers_, found->second.id);
    timer_actions_.erase(found);
    return true;
}

// A timer's session is one of its own, or that of a call whose limit is over.
void NativeActor::timer(std::uint64_t session) {
    const auto found = timer_actions_.find(session);
    if (found == timer_actions_.end()) {
        if (calls_.count(session) == 0) return;  // cancelled, or answered, meanwhile
        finish_call(session, failed_call(Outcome::timeout, "no answer within the limit"));
        return;
    }
    const std::shared_ptr<std::function<void()>> action = found->second.action;
    if (!found->second.repeats) timer_actions_.erase(found);
    (void)guarded("a timer", [&] { (*action)(); });
}

bool NativeActor::monitor(const Receiver& service) {
    const Handle target = resolve(kernel(), service);
    if (state_ == State::dead || !target || !kernel().registry().monitor(handle_, target))
        return false;
    monitored_.insert(target);
    return true;
}

void NativeActor::stop(MessagePtr request) {
    const std::string reason(request->payload());
    leave(reason.empty() ? "stop" : reason);
    answer_values(kernel(), std::move(request), {Value(true)});
}

void NativeActor::stats(MessagePtr request) {
    Table table;
    const std::string own_name = kernel().registry().name_of(handle_);
    if (!own_name.empty()) table.emplace_back("name", own_name);
    table.emplace_back("script", script_);
    table.emplace_back("version", 1);
    table.emplace_back("messages", messages_);
    table.emplace_back("errors", errors_);
    table.emplace_back("tasks", calls_.size());
    table.emplace_back("timers", timer_actions_.size());
    table.emplace_back("mailbox", cell_->mailbox.load().count());
    table.emplace_back("memory", 0);
    table.emplace_back("cpu_ms", 0);
    table.emplace_back("jit", false);
    answer_values(kernel(), std::move(request), {Value(std::move(table))});
}

void NativeActor::end(std::string_view reason, bool orderly) {
    end_reason_ = reason;
    end_orderly_ = orderly;
    watchers_ = kernel().remove_service(handle_);
    for (const Handle target : monitored_) kernel().registry().unmonitor(handle_, target);
    state_ = State::dead;
    kernel().timers().cancel_all(*timers_);
    timer_actions_.clear();
    for (auto& [session, open] : std::exchange(calls_, {})) {
        const CallDone& done = open.done;
        (void)guarded("the end of a call",
                      [&] { done(failed_call(Outcome::cancelled, "the service has ended")); });
    }
    for (MessagePtr& held : std::exchange(held_, {})) {
        kernel().refuse(std::move(held), Outcome::dead);
    }
    cell_->finished = true;
}

}  // namespace perilune
