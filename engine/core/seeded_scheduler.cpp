#include "core/seeded_scheduler.h"

#include "core/kernel.h"

namespace perilune {

namespace {
thread_local const SeededScheduler* current_scheduler = nullptr;
constexpr int kPatience = 100'000;
}  // namespace

SeededScheduler::SeededScheduler(Kernel& kernel, VirtualClock& clock, std::uint64_t seed)
    : kernel_(kernel), clock_(clock), random_(seed) {}

SeededScheduler::~SeededScheduler() { (void)stop(kNoDeadline); }

Status SeededScheduler::start() {
    return thread_.start([this] { run(); });
}

bool SeededScheduler::stop(std::int64_t deadline_ns) {
    if (!thread_.joinable()) return true;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        signal_.notify_one();
    }
    return thread_.join(deadline_ns);
}

void SeededScheduler::schedule(ActorCell* cell) {
    if (on_worker()) {
        runnable_.push_back(cell);
        return;
    }
    const std::lock_guard lock(mutex_);
    injected_.push_back(cell);
    signal_.notify_one();
}

bool SeededScheduler::message_posted(std::int64_t bytes, bool bounded) {
    if (bounded &&
        mailbox_bytes_.load() >= static_cast<std::int64_t>(kernel_.options().node_mailbox_bytes)) {
        return false;
    }
    mailbox_bytes_.fetch_add(bytes);
    return true;
}

void SeededScheduler::messages_taken(std::int64_t bytes) { mailbox_bytes_.fetch_sub(bytes); }

void SeededScheduler::timer_added(std::int64_t) {
    if (on_worker()) return;
    const std::lock_guard lock(mutex_);
    signal_.notify_one();
}

bool SeededScheduler::on_worker() const { return current_scheduler == this; }

void SeededScheduler::run() {
    current_scheduler = this;
    for (;;) {
        {
            std::unique_lock lock(mutex_);
            if (stopping_) break;
            // What the host does waits until nothing else can run, one thing after another: when it
            // comes is not the seed's to say. But it doesn't wait for ever.
            if (!injected_.empty() && (runnable_.empty() || ++steps_of_patience_ > kPatience)) {
                runnable_.push_back(injected_.front());
                injected_.pop_front();
                steps_of_patience_ = 0;
            }
        }
        if (step()) continue;
        std::unique_lock lock(mutex_);
        signal_.wait(lock, [&] {
            return stopping_ || !injected_.empty() || kernel_.timers().next_due_ns() != INT64_MAX;
        });
    }
    current_scheduler = nullptr;
}

bool SeededScheduler::step() {
    if (!runnable_.empty()) {
        // Not drawn where there is no choice: how often that is depends on the host.
        const std::size_t chosen =
            runnable_.size() == 1 ? 0 : static_cast<std::size_t>(random_.below(runnable_.size()));
        ActorCell* cell = runnable_[chosen];
        runnable_[chosen] = runnable_.back();
        runnable_.pop_back();
        Kernel::TurnStats stats;
        // No limit of time: how fast this machine is must not change the order.
        const Kernel::TurnEnd end = kernel_.run_turn(cell, 0, serial_, stats);
        turns_.fetch_add(1);
        messages_.fetch_add(stats.messages);
        if (end == Kernel::TurnEnd::again) runnable_.push_back(cell);
        return true;
    }
    if (kernel_.blocking().run_one()) return true;
    const std::int64_t due = kernel_.timers().next_due_ns();
    if (due == INT64_MAX) return false;
    clock_.advance_to(due);
    kernel_.advance_timers();
    return true;
}

SchedulerCounters SeededScheduler::counters() const {
    SchedulerCounters sum;
    sum.turns = turns_.load();
    sum.messages = messages_.load();
    sum.mailbox_bytes = mailbox_bytes_.load();
    sum.workers = 1;
    return sum;
}

}  // namespace perilune
