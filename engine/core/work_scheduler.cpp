#include "core/work_scheduler.h"

#include <signal.h>

#include <algorithm>
#include <chrono>

#include "core/cycles.h"
#include "core/kernel.h"

namespace perilune {

namespace {

constexpr int kNextStreak = 16;
// Messages posted within one turn after which the next slot is given away: a producer that
// fills a window should not keep its consumer waiting on the same core.
constexpr int kNextGiveaway = 64;
constexpr int kStealLimit = 32;
constexpr std::int64_t kChargeStep = 256 * 1024;
// So long after timers were handled the poller wakes for others at the earliest: a wake-up takes
// the machine 20 us, more than ten timers. With a tick of the wheel it is what a timer is late at
// most.
constexpr std::int64_t kTimerGapNs = 1'500'000;
constexpr auto kSpareIdle = std::chrono::seconds(10);

struct CurrentWorker {
    const WorkScheduler* scheduler = nullptr;
    Worker* worker = nullptr;
};
thread_local CurrentWorker current_worker;

// A peer that went is an error of the write, also for libraries that write to sockets themselves.
void block_sigpipe() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

}  // namespace

void RunQueue::push(ActorCell* cell) {
    cell->next_runnable = nullptr;
    const std::lock_guard lock(mutex_);
    if (tail_ == nullptr) {
        head_ = cell;
    } else {
        tail_->next_runnable = cell;
    }
    tail_ = cell;
    count_.fetch_add(1);
}

ActorCell* RunQueue::pop() {
    if (empty()) return nullptr;
    const std::lock_guard lock(mutex_);
    ActorCell* cell = head_;
    if (cell == nullptr) return nullptr;
    head_ = cell->next_runnable;
    if (head_ == nullptr) tail_ = nullptr;
    count_.fetch_sub(1);
    return cell;
}

ActorCell* RunQueue::steal_into(RunQueue& thief, int limit) {
    if (empty()) return nullptr;
    ActorCell* first = nullptr;
    ActorCell* rest = nullptr;
    {
        const std::lock_guard lock(mutex_);
        if (head_ == nullptr) return nullptr;
        int wanted = std::min((count_.load() + 1) / 2, limit);
        count_.fetch_sub(wanted);
        first = head_;
        ActorCell* last = first;
        while (--wanted > 0) last = last->next_runnable;
        head_ = last->next_runnable;
        if (head_ == nullptr) tail_ = nullptr;
        last->next_runnable = nullptr;
        rest = first->next_runnable;
    }
    while (rest != nullptr) {
        ActorCell* next = rest->next_runnable;
        thief.push(rest);
        rest = next;
    }
    return first;
}

WorkScheduler::WorkScheduler(Kernel& kernel)
    : kernel_(kernel), base_workers_(kernel.options().workers), watchdog_(*this) {
    const int slots = base_workers_ + kernel.options().max_spares;
    for (int i = 0; i < slots; ++i) {
        workers_.push_back(std::make_unique<Worker>(i, i >= base_workers_));
    }
    parked_.reserve(workers_.size());
}

WorkScheduler::~WorkScheduler() { (void)stop(kNoDeadline); }

Status WorkScheduler::start() {
    cycles_per_ms();
    Status status;
    for (int i = 0; i < base_workers_ && status.ok(); ++i) status = start_worker(*workers_[i]);
    if (status.ok()) status = watchdog_.start();
    if (!status.ok()) (void)stop(kNoDeadline);
    return status;
}

Status WorkScheduler::start_worker(Worker& worker) {
    worker.active.store(true);
    Status status = worker.thread.start([this, &worker] { run(worker); });
    if (!status.ok()) worker.active.store(false);
    return status;
}

bool WorkScheduler::stop(std::int64_t deadline_ns) {
    stopping_.store(true);
    kernel_.poller().wake();
    while (unpark_one()) {
    }
    bool ended = true;
    const std::lock_guard lock(spare_mutex_);
    for (const auto& worker : workers_) {
        if (!worker->thread.joinable()) continue;
        // A worker may park between the loop above and its look at stopping_.
        {
            const std::lock_guard park_lock(worker->park_mutex);
            worker->unparked = true;
            worker->park_signal.notify_one();
        }
        ended = worker->thread.join(deadline_ns) && ended;
    }
    // Last, since only the watchdog can end a dispatch that would never end.
    if (ended) watchdog_.stop();
    return ended;
}

Worker* WorkScheduler::current() const {
    return current_worker.scheduler == this ? current_worker.worker : nullptr;
}

bool WorkScheduler::on_worker() const { return current() != nullptr; }

void WorkScheduler::schedule(ActorCell* cell) {
    Worker* worker = current();
    if (worker == nullptr) {
        injected_.push(cell);
        wake_somebody();
        return;
    }
    if (worker->running.load(std::memory_order_relaxed) == nullptr) {
        // Events, handed out by the poller. The first is for this worker, which has nothing
        // else to do: waking another one for it costs more than it saves.
        const bool others = !worker->queue.empty();
        worker->queue.push(cell);
        if (others) wake_somebody();
        return;
    }
    if (worker->stuck.load(std::memory_order_relaxed)) {
        // This dispatch may go on for seconds: what it wakes is for others.
        worker->queue.push(cell);
        wake_somebody();
        return;
    }
    ActorCell* before = worker->next.exchange(cell);
    if (before != nullptr) {
        worker->queue.push(before);
        wake_somebody();
    }
}

void WorkScheduler::charge(Worker* worker, std::int64_t bytes) {
    if (worker == nullptr) {
        mailbox_bytes_.fetch_add(bytes);
        return;
    }
    worker->mailbox_charge += bytes;
    if (worker->mailbox_charge > kChargeStep || worker->mailbox_charge < -kChargeStep) {
        mailbox_bytes_.fetch_add(worker->mailbox_charge);
        worker->mailbox_charge = 0;
    }
}

bool WorkScheduler::message_posted(std::int64_t bytes, bool bounded) {
    if (bounded && mailbox_bytes_.load(std::memory_order_relaxed) >=
                       static_cast<std::int64_t>(kernel_.options().node_mailbox_bytes)) {
        return false;
    }
    Worker* worker = current();
    charge(worker, bytes);
    // A long dispatch that only sends: its consumer should begin elsewhere.
    if (worker != nullptr && ++worker->posted_in_turn == kNextGiveaway &&
        (parked_count_.load() != 0 || poller_sleeps_.load())) {
        if (ActorCell* next = worker->next.exchange(nullptr)) {
            worker->queue.push(next);
            wake_somebody();
        }
    }
    return true;
}

void WorkScheduler::messages_taken(std::int64_t bytes) { charge(current(), -bytes); }

void WorkScheduler::timer_added(std::int64_t due_ns) {
    if (poller_sleeps_.load() && due_ns < sleeps_until_.load()) {
        wakes_.fetch_add(1, std::memory_order_relaxed);
        kernel_.poller().wake();
    }
}

void WorkScheduler::run(Worker& worker) {
    block_sigpipe();
    current_worker = {this, &worker};
    Watchdog::adopt_thread(&worker);
    running_.fetch_add(1);
    watchdog_.notice();
    while (!stopping_.load()) {
        ActorCell* cell = take(worker);
        if (cell != nullptr) {
            run_one(worker, cell);
        } else if (!idle(worker)) {
            break;
        }
    }
    running_.fetch_sub(1);
    // What it still had is for the others.
    if (ActorCell* next = worker.next.exchange(nullptr)) worker.queue.push(next);
    mailbox_bytes_.fetch_add(worker.mailbox_charge);
    worker.mailbox_charge = 0;
    Watchdog::adopt_thread(nullptr);
    current_worker = {};
    worker.active.store(false);
}

ActorCell* WorkScheduler::take(Worker& worker) {
    // Now and then the others' requests come first, so that two services which keep each other
    // busy here don't starve them.
    if (++worker.ticks % 61 == 0) {
        if (ActorCell* cell = injected_.pop()) return cell;
    }
    if (worker.next_streak < kNextStreak || worker.queue.empty()) {
        if (ActorCell* cell = worker.next.exchange(nullptr)) {
            ++worker.next_streak;
            return cell;
        }
    }
    worker.next_streak = 0;
    if (ActorCell* cell = worker.queue.pop()) return cell;
    if (ActorCell* cell = worker.next.exchange(nullptr)) return cell;
    if (ActorCell* cell = injected_.pop()) return cell;
    return steal(worker);
}

ActorCell* WorkScheduler::steal(Worker& worker) {
    const std::uint32_t count = static_cast<std::uint32_t>(workers_.size());
    const std::uint32_t first = worker.steal_from++;
    for (std::uint32_t i = 0; i < count; ++i) {
        Worker& victim = *workers_[(first + i) % count];
        if (&victim == &worker) continue;
        ActorCell* cell = victim.queue.steal_into(worker.queue, kStealLimit);
        if (cell == nullptr && victim.stuck.load()) cell = victim.next.exchange(nullptr);
        if (cell != nullptr) {
            worker.steals.fetch_add(1, std::memory_order_relaxed);
            return cell;
        }
    }
    return nullptr;
}

void WorkScheduler::run_one(Worker& worker, ActorCell* cell) {
    worker.running.store(cell, std::memory_order_relaxed);
    worker.posted_in_turn = 0;
    Kernel::TurnStats stats;
    const Kernel::TurnEnd end = kernel_.run_turn(cell, cycles_now(), worker.serial, stats);
    worker.running.store(nullptr, std::memory_order_relaxed);
    // Only this thread writes them.
    worker.turns.store(worker.turns.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    worker.messages.store(worker.messages.load(std::memory_order_relaxed) + stats.messages,
                          std::memory_order_relaxed);
    if (end == Kernel::TurnEnd::again) requeue(worker, cell);
    poll_if_due(worker, stats.ended_at);
}

void WorkScheduler::requeue(Worker& worker, ActorCell* cell) {
    const bool others = !worker.queue.empty();
    worker.queue.push(cell);
    // Alone in the queue it is taken again at once by this worker.
    if (others || worker.next.load(std::memory_order_relaxed) != nullptr) wake_somebody();
}

void WorkScheduler::poll_if_due(Worker& worker, std::uint64_t now) {
    if (now - worker.last_poll < cycles_per_ms()) return;
    worker.last_poll = now;
    if (poller_taken_.exchange(true)) return;
    kernel_.poller().poll();
    handle_events();
    poller_taken_.store(false);
}

void WorkScheduler::handle_events() {
    const std::int64_t handled_ns = kernel_.advance_timers();
    if (handled_ns != 0) timers_handled_ns_ = handled_ns;
}

// When the poller wakes for timers of which the first is due at `due_ns`.
std::int64_t WorkScheduler::alarm_for(std::int64_t due_ns) const {
    return std::max(due_ns, timers_handled_ns_ + kTimerGapNs);
}

bool WorkScheduler::work_waits() const {
    if (!injected_.empty()) return true;
    for (const auto& worker : workers_) {
        if (!worker->queue.empty()) return true;
        if (worker->stuck.load() && worker->next.load() != nullptr) return true;
    }
    return false;
}

bool WorkScheduler::idle(Worker& worker) {
    if (worker.mailbox_charge != 0) {
        mailbox_bytes_.fetch_add(worker.mailbox_charge);
        worker.mailbox_charge = 0;
    }
    if (poller_taken_.exchange(true)) return park(worker);
    // Timers that are due now must not wait for the kernel to say so.
    const std::int64_t due = kernel_.timers().next_due_ns();
    const std::int64_t alarm = alarm_for(due);
    // Where the gap decides, an earlier timer would change nothing.
    sleeps_until_.store(alarm == due ? due : 0);
    poller_sleeps_.store(true);
    running_.fetch_sub(1);
    // From here on whoever pushes work or adds an earlier timer wakes the poller.
    if (!work_waits() && !stopping_.load() && kernel_.timers().next_due_ns() >= due) {
        kernel_.poller().wait(alarm);
    }
    running_.fetch_add(1);
    poller_sleeps_.store(false);
    watchdog_.notice();
    handle_events();
    worker.last_poll = cycles_now();
    poller_taken_.store(false);
    return true;
}

bool WorkScheduler::park(Worker& worker) {
    {
        const std::lock_guard lock(parked_mutex_);
        parked_.push_back(&worker);
        parked_count_.store(static_cast<int>(parked_.size()));
    }
    running_.fetch_sub(1);
    // The poller may have left its place between our look and now.
    const auto leave = [&] {
        const std::lock_guard lock(parked_mutex_);
        std::erase(parked_, &worker);
        parked_count_.store(static_cast<int>(parked_.size()));
    };
    bool keep = true;
    if (work_waits() || stopping_.load()) {
        leave();
    } else {
        std::unique_lock lock(worker.park_mutex);
        if (worker.spare) {
            keep = worker.park_signal.wait_for(lock, kSpareIdle, [&] { return worker.unparked; });
        } else {
            worker.park_signal.wait(lock, [&] { return worker.unparked; });
        }
        worker.unparked = false;
        lock.unlock();
        if (!keep) {
            leave();
            // Somebody may have chosen this one to wake just before it left.
            keep = work_waits();
        }
    }
    running_.fetch_add(1);
    watchdog_.notice();
    return keep;
}

bool WorkScheduler::unpark_one() {
    if (parked_count_.load() == 0) return false;
    Worker* worker = nullptr;
    {
        const std::lock_guard lock(parked_mutex_);
        if (parked_.empty()) return false;
        worker = parked_.back();
        parked_.pop_back();
        parked_count_.store(static_cast<int>(parked_.size()));
    }
    wakes_.fetch_add(1, std::memory_order_relaxed);
    const std::lock_guard lock(worker->park_mutex);
    worker->unparked = true;
    worker->park_signal.notify_one();
    return true;
}

void WorkScheduler::wake_somebody() {
    if (unpark_one()) return;
    if (poller_sleeps_.load()) {
        wakes_.fetch_add(1, std::memory_order_relaxed);
        kernel_.poller().wake();
    }
}

bool WorkScheduler::start_spare() {
    // stop() holds the lock while it joins, and needs the watchdog meanwhile.
    const std::unique_lock lock(spare_mutex_, std::try_to_lock);
    if (!lock.owns_lock() || stopping_.load()) return false;
    for (std::size_t i = base_workers_; i < workers_.size(); ++i) {
        Worker& worker = *workers_[i];
        if (worker.active.load()) continue;
        if (worker.thread.joinable()) (void)worker.thread.join(kNoDeadline);
        const Status status = start_worker(worker);
        if (status.ok()) {
            spares_started_.fetch_add(1, std::memory_order_relaxed);
        } else if (spares_refused_.fetch_add(1, std::memory_order_relaxed) == 0) {
            kernel_.log().error("node", "no spare worker could be started: %s", status.message());
        }
        return status.ok();
    }
    return false;
}

SchedulerCounters WorkScheduler::counters() const {
    SchedulerCounters sum;
    for (const auto& worker : workers_) {
        sum.turns += worker->turns.load(std::memory_order_relaxed);
        sum.messages += worker->messages.load(std::memory_order_relaxed);
        sum.steals += worker->steals.load(std::memory_order_relaxed);
        if (worker->active.load()) ++(worker->spare ? sum.spares : sum.workers);
    }
    sum.mailbox_bytes = mailbox_bytes_.load(std::memory_order_relaxed);
    sum.wakes = wakes_.load(std::memory_order_relaxed);
    sum.spares_started = spares_started_.load(std::memory_order_relaxed);
    sum.spares_refused = spares_refused_.load(std::memory_order_relaxed);
    sum.long_dispatches = watchdog_.long_dispatches();
    sum.interrupts = watchdog_.interrupts();
    return sum;
}

}  // namespace perilune
