#include "core/kernel.h"

#include <thread>

#include "core/cycles.h"
#include "core/seeded_scheduler.h"
#include "core/work_scheduler.h"

namespace perilune {

namespace {

KernelOptions completed(KernelOptions options) {
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    if (options.workers <= 0) options.workers = cores;
    if (options.blocking_threads <= 0) options.blocking_threads = std::min(cores, 4);
    return options;
}

TimerWheelOptions timer_options(const Kernel::Environment& environment) {
    TimerWheelOptions options;
    options.start_ns = environment.clock.now_ns();
    options.seed = environment.random.next();
    return options;
}

BlockingPoolOptions blocking_options(const KernelOptions& options) {
    BlockingPoolOptions pool;
    pool.threads = static_cast<std::size_t>(options.blocking_threads);
    pool.queue = static_cast<std::size_t>(options.blocking_queue);
    pool.deterministic = options.seeded;
    return pool;
}

// Whether the limits of a mailbox apply: only to what a service may send at will. Replies,
// timers and socket events are bounded by what the receiver itself has asked for.
bool is_bounded(MessageKind kind) {
    return kind == MessageKind::send || kind == MessageKind::call || kind == MessageKind::link ||
           kind == MessageKind::packet;
}

}  // namespace

class Kernel::TimerPoster final : public TimerSink {
  public:
    explicit TimerPoster(Kernel& kernel) : kernel_(kernel) {}
    void expired(Handle owner, std::uint64_t session, TimerId id, std::int64_t) override {
        MessagePtr message = make_message(MessageKind::timer, owner, {}, session);
        message->id = id.value;
        (void)kernel_.post(message);
    }
    // No limit of a mailbox holds for timers, so one that repeats has one message at a time.
    bool repeated(Handle owner, std::uint64_t session, TimerId id, std::int64_t) override {
        MessagePtr message = make_message(MessageKind::timer, owner, {}, session);
        message->id = id.value;
        message->detail = 1;
        return kernel_.post(message) != PostResult::ok;
    }

  private:
    Kernel& kernel_;
};

Kernel::Kernel(const KernelOptions& options, const Environment& environment)
    : options_(completed(options)),
      environment_(environment),
      registry_(environment.random, options.node_number),
      timers_(timer_options(environment)),
      blocking_(blocking_options(options_)) {
    turn_cycles_ = cycles_per_ms() * kTurnMs;
    if (options_.seeded) {
        scheduler_ =
            std::make_unique<SeededScheduler>(*this, *environment.virtual_clock, options_.seed);
    } else {
        scheduler_ = std::make_unique<WorkScheduler>(*this);
    }
}

Kernel::~Kernel() { stop(); }

Status Kernel::start() { return scheduler_->start(); }

bool Kernel::stop(std::int64_t deadline_ns) {
    const bool workers_ended = scheduler_->stop(deadline_ns);
    if (!blocking_.stop(deadline_ns) || !workers_ended) return false;
    // No thread runs them any more, so this one may. Without the lock: actors that end take
    // locks of their own.
    std::vector<std::unique_ptr<Actor>> actors;
    {
        const std::lock_guard lock(cells_mutex_);
        for (const auto& cell : cells_) actors.push_back(std::move(cell->actor));
    }
    actors.clear();
    return true;
}

ActorCell* Kernel::create_cell(std::unique_ptr<Actor> actor) {
    ActorCell* cell = nullptr;
    {
        const std::lock_guard lock(cells_mutex_);
        if (free_cells_.empty()) {
            cells_.push_back(std::make_unique<ActorCell>());
            cell = cells_.back().get();
            cell->index = static_cast<std::uint32_t>(cells_.size() - 1);
        } else {
            cell = free_cells_.back();
            free_cells_.pop_back();
        }
    }
    cell->finished = false;
    cell->actor = std::move(actor);
    cell->mailbox.open(options_.mailbox_messages, options_.mailbox_bytes);
    return cell;
}

void Kernel::launch(ActorCell* cell) { scheduler_->schedule(cell); }

Result<Handle> Kernel::add_service(ActorCell* cell, void* local, std::uint32_t max_messages,
                                   std::uint8_t tag) {
    Result<Handle> handle = registry_.add(cell, local, max_messages, tag);
    if (handle.ok()) counters_.services_started.fetch_add(1, std::memory_order_relaxed);
    return handle;
}

std::vector<Handle> Kernel::remove_service(Handle handle) {
    if (!registry_.alive(handle)) return {};
    counters_.services_ended.fetch_add(1, std::memory_order_relaxed);
    return registry_.remove(handle);
}

void Kernel::tell_down(Handle handle, const std::vector<Handle>& watchers, std::string_view reason,
                       bool orderly) {
    for (const Handle watcher : watchers) {
        MessagePtr message = make_message(MessageKind::down, watcher, handle, 0);
        message->detail = orderly ? 1 : 0;
        message->set_payload(reason);
        (void)post(message);
    }
}

PostResult Kernel::post(MessagePtr& message) {
    Registry::Slot* slot = registry_.find(message->to);
    ActorCell* cell = slot == nullptr ? nullptr : slot->cell.load();
    if (cell == nullptr) {
        counters_.refused_dead.fetch_add(1, std::memory_order_relaxed);
        return PostResult::dead;
    }
    const bool bounded = is_bounded(message->kind);
    const std::uint64_t count = message->count();
    const std::uint64_t weight = message->weight();
    const std::uint32_t own_limit = slot->max_messages.load(std::memory_order_relaxed);
    if (own_limit != 0 &&
        !slot->load.add(count, weight, bounded, own_limit, options_.mailbox_bytes)) {
        counters_.refused_overloaded.fetch_add(1, std::memory_order_relaxed);
        return PostResult::overloaded;
    }
    message->counted = own_limit != 0;
    if (!scheduler_->message_posted(static_cast<std::int64_t>(weight), bounded)) {
        if (own_limit != 0) slot->load.subtract(count, weight);
        counters_.refused_overloaded.fetch_add(1, std::memory_order_relaxed);
        return PostResult::overloaded;
    }
    switch (cell->mailbox.push(message, bounded)) {
        case PushResult::queued: return PostResult::ok;
        case PushResult::wake_actor: scheduler_->schedule(cell); return PostResult::ok;
        case PushResult::closed:
            scheduler_->messages_taken(static_cast<std::int64_t>(weight));
            if (own_limit != 0) slot->load.subtract(count, weight);
            counters_.refused_dead.fetch_add(1, std::memory_order_relaxed);
            return PostResult::dead;
        case PushResult::full:
        case PushResult::late: break;
    }
    scheduler_->messages_taken(static_cast<std::int64_t>(weight));
    if (own_limit != 0) slot->load.subtract(count, weight);
    counters_.refused_overloaded.fetch_add(1, std::memory_order_relaxed);
    return PostResult::overloaded;
}

PostResult Kernel::post_control(MessagePtr message) {
    Registry::Slot* slot = registry_.find(message->to);
    ActorCell* cell = slot == nullptr ? nullptr : slot->cell.load();
    if (cell == nullptr) return PostResult::dead;
    switch (cell->mailbox.push_control(message)) {
        case PushResult::queued: return PostResult::ok;
        case PushResult::wake_actor: scheduler_->schedule(cell); return PostResult::ok;
        case PushResult::late: post_again(std::move(message)); return PostResult::ok;
        default: return PostResult::dead;
    }
}

// For control messages that a mailbox has given back. Some may be for the next actor of the cell.
void Kernel::post_again(MessagePtr messages) {
    while (messages != nullptr) {
        MessagePtr message = std::move(messages);
        messages.reset(std::exchange(message->next, nullptr));
        if (registry_.alive(message->to)) {
            (void)post_control(std::move(message));
        } else {
            refuse(std::move(message), Outcome::dead);
        }
    }
}

void Kernel::refuse(MessagePtr message, Outcome outcome, std::string_view text) {
    if (is_control(message->kind) && on_control_dropped_) on_control_dropped_(*message);
    // Who sent it has made the receiver its monitor, which nobody else would end.
    if (message->kind == MessageKind::link) registry_.unmonitor(message->to, message->from);
    if (message->session == 0 || message->kind == MessageKind::reply ||
        message->kind == MessageKind::failure || message->kind == MessageKind::timer ||
        message->kind == MessageKind::socket || message->kind == MessageKind::datagram ||
        message->kind == MessageKind::work || message->kind == MessageKind::database ||
        message->kind == MessageKind::down || message->kind == MessageKind::ready ||
        message->kind == MessageKind::link || message->kind == MessageKind::packet) {
        if (message->kind == MessageKind::send || message->kind == MessageKind::packet) {
            counters_.dead_letters.fetch_add(1, std::memory_order_relaxed);
        } else if (message->kind == MessageKind::reply || message->kind == MessageKind::failure) {
            counters_.late_replies.fetch_add(1, std::memory_order_relaxed);
        }
        return;
    }
    message->set_payload(text);
    answer(std::move(message), MessageKind::failure, outcome);
}

void Kernel::answer(MessagePtr message, MessageKind kind, Outcome outcome) {
    if (outcome != Outcome::ok && outcome != Outcome::error) {
        counters_.calls_failed.fetch_add(1, std::memory_order_relaxed);
    }
    std::swap(message->to, message->from);
    message->kind = kind;
    message->detail = static_cast<std::uint8_t>(outcome);
    if (post(message) != PostResult::ok) {
        counters_.late_replies.fetch_add(1, std::memory_order_relaxed);
    }
}

TimerId Kernel::add_timer(OwnerTimers& owner, std::uint64_t session, std::int64_t due_ns,
                          std::int64_t period_ns, bool bounded) {
    const TimerId id = timers_.add(owner, session, due_ns, period_ns, bounded);
    if (id) scheduler_->timer_added(due_ns);
    return id;
}

std::int64_t Kernel::advance_timers() {
    const std::int64_t now = now_ns();
    if (timers_.next_due_ns() > now) return 0;
    TimerPoster poster(*this);
    timers_.advance(now, poster);
    return now;
}

bool Kernel::run_blocking(std::function<void(Message& done)> work, MessagePtr done) {
    // std::function wants to be copyable, so the message travels in a shared holder.
    auto holder = std::make_shared<MessagePtr>(std::move(done));
    return blocking_.submit(
        [this, holder, work = std::move(work)] {
            work(**holder);
            (void)post(*holder);
        },
        [this, holder] {
            (*holder)->drop_payload();
            (*holder)->detail = static_cast<std::uint8_t>(Outcome::cancelled);
            (void)post(*holder);
        });
}

Kernel::TurnEnd Kernel::run_turn(ActorCell* cell, std::uint64_t began_at,
                                 std::atomic<std::uint64_t>& serial, TurnStats& stats) {
    Mailbox& mailbox = cell->mailbox;
    Actor& actor = *cell->actor;
    // Only this thread writes the serial; the watchdog reads it.
    std::uint64_t dispatch = serial.load(std::memory_order_relaxed);
    std::int64_t taken_bytes = 0;
    int messages = 0;
    while (!cell->finished) {
        MessagePtr message;
        if (mailbox.has_control()) message = mailbox.pop_control();
        if (message == nullptr) {
            message = mailbox.pop();
            if (message == nullptr) break;
            taken_bytes += static_cast<std::int64_t>(message->weight());
            if (message->counted) {
                if (Registry::Slot* slot = registry_.find(message->to)) {
                    slot->load.subtract(1, message->weight());
                }
            }
            if (message->kind == MessageKind::timer && message->detail != 0) {
                timers_.handled(TimerId{message->id});
            }
        }
        const Message* upcoming = mailbox.upcoming();
        if (upcoming != nullptr && upcoming->kind == MessageKind::timer) {
            actor.expect_timer(*upcoming);
        }
        serial.store(++dispatch, std::memory_order_release);
        actor.receive(std::move(message));
        serial.store(++dispatch, std::memory_order_release);
        if (++messages == kTurnMessages) break;
        if (began_at != 0 && messages % 4 == 0 && cycles_now() - began_at > turn_cycles_) break;
    }
    stats.messages = messages;
    stats.ended_at = began_at == 0 ? 0 : cycles_now();
    actor.turn_ends(stats.ended_at - began_at);
    for (const auto& callback : on_turn_end_) callback();
    mailbox.settle();
    if (taken_bytes != 0) scheduler_->messages_taken(taken_bytes);
    if (cell->finished) {
        bury(cell);
        return TurnEnd::buried;
    }
    if (cell->wants_drain.load() && mailbox.has_drained()) tell_drained(cell);
    return mailbox.try_idle() ? TurnEnd::idle : TurnEnd::again;
}

void Kernel::tell_drained(ActorCell* cell) {
    if (cell->wants_drain.exchange(false) && on_drained_) on_drained_(cell);
}

void Kernel::bury(ActorCell* cell) {
    cell->mailbox.close();
    std::int64_t bytes = 0;
    while (MessagePtr message = cell->mailbox.pop()) {
        bytes += static_cast<std::int64_t>(message->weight());
        refuse(std::move(message), Outcome::dead);
    }
    while (MessagePtr message = cell->mailbox.pop_control()) {
        refuse(std::move(message), Outcome::dead);
    }
    cell->mailbox.settle();
    scheduler_->messages_taken(bytes);
    cell->actor.reset();
    // Who waits must not be left to wait for the next actor of this cell.
    tell_drained(cell);
    const std::lock_guard lock(cells_mutex_);
    free_cells_.push_back(cell);
}

}  // namespace perilune
