#include "core/watchdog.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <system_error>

#include "core/kernel.h"
#include "core/work_scheduler.h"

namespace perilune {

namespace {

constexpr std::int64_t kStuckNs = 2 * kNsPerMs;
constexpr std::int64_t kSpareNs = 10 * kNsPerMs;
// A second interrupt of the same dispatch: the first may have come while it was in a C function.
constexpr std::int64_t kRepeatNs = 100 * kNsPerMs;
// When the node stops, a dispatch may take so much longer before it is interrupted.
constexpr std::int64_t kStopNs = 500 * kNsPerMs;
constexpr int kIdleLooks = 10;

// The worker that this thread is, for the signal handler. Initial-exec: the handler must not
// allocate, which other models may do at the first access of a thread.
__attribute__((tls_model("initial-exec"))) thread_local Worker* interruptible = nullptr;

void on_interrupt(int) {
    Worker* worker = interruptible;
    if (worker == nullptr) return;
    const std::uint64_t serial = worker->serial.load();
    if (serial % 2 == 0 || serial != worker->interrupt_serial.load()) return;
    ActorCell* cell = worker->running.load(std::memory_order_relaxed);
    if (cell == nullptr || cell->actor == nullptr) return;
    cell->actor->interrupt(static_cast<InterruptLevel>(worker->interrupt_level.load()));
}

}  // namespace

void Watchdog::adopt_thread(Worker* worker) { interruptible = worker; }

bool Watchdog::take_request(InterruptLevel& level) {
    Worker* worker = interruptible;
    if (worker == nullptr) return false;
    std::uint64_t serial = worker->serial.load();
    if (!worker->interrupt_serial.compare_exchange_strong(serial, 0)) return false;
    level = static_cast<InterruptLevel>(worker->interrupt_level.load());
    return true;
}

Watchdog::Watchdog(WorkScheduler& scheduler) : scheduler_(scheduler) {}

Watchdog::~Watchdog() { stop(); }

Status Watchdog::start() {
    signal_ = scheduler_.kernel_.options().interrupt_signal;
    if (signal_ == 0) signal_ = SIGRTMIN + 4;
    struct sigaction action = {};
    action.sa_handler = on_interrupt;
    action.sa_flags = SA_RESTART;
    sigaction(signal_, &action, nullptr);
    sights_.resize(scheduler_.workers_.size());
    try {
        thread_ = std::thread([this] { run(); });
    } catch (const std::system_error& error) {
        return Status::error(StatusCode::unavailable, "the system has no thread left: %s",
                             error.what());
    }
    return {};
}

void Watchdog::stop() {
    if (!thread_.joinable()) return;
    stopping_.store(true);
    wake();
    thread_.join();
}

void Watchdog::wake() {
    const std::lock_guard lock(mutex_);
    asleep_.store(false);
    signal_wake_.notify_one();
}

void Watchdog::run() {
    int idle_looks = 0;
    std::int64_t pause_ms = 10;
    while (!stopping_.load()) {
        std::unique_lock lock(mutex_);
        if (idle_looks >= kIdleLooks) {
            // Announced first, then checked: a worker that begins meanwhile sees one of both.
            asleep_.store(true);
            if (scheduler_.running_.load() == 0) {
                signal_wake_.wait(lock, [&] { return !asleep_.load() || stopping_.load(); });
            }
            asleep_.store(false);
            idle_looks = 0;
        } else {
            signal_wake_.wait_for(lock, std::chrono::milliseconds(pause_ms),
                                  [&] { return stopping_.load(); });
        }
        lock.unlock();
        if (stopping_.load()) return;
        idle_looks = scheduler_.running_.load() == 0 ? idle_looks + 1 : 0;
        pause_ms = look(RealClock::monotonic()) ? 1 : 10;
    }
}

bool Watchdog::look(std::int64_t now_ns) {
    bool closely = false;
    for (std::size_t i = 0; i < sights_.size(); ++i) {
        Worker& worker = *scheduler_.workers_[i];
        if (worker.active.load() && look_at(worker, sights_[i], now_ns)) closely = true;
    }
    return closely;
}

bool Watchdog::look_at(Worker& worker, Sight& sight, std::int64_t now_ns) {
    const std::uint64_t serial = worker.serial.load();
    const bool busy = serial % 2 == 1;
    if (!busy || serial != sight.serial) {
        // Not now_ns: this thread may have slept since, and the dispatch would seem older.
        sight = Sight{serial, RealClock::monotonic()};
        if (worker.stuck.load()) worker.stuck.store(false);
        return busy;
    }
    const std::int64_t age = now_ns - sight.since_ns;
    const KernelOptions& options = scheduler_.kernel_.options();
    if (age >= kStuckNs && !worker.stuck.load()) {
        worker.stuck.store(true);
        // For what it had to run next, and for the poller's place.
        scheduler_.wake_somebody();
    }
    if (age >= kSpareNs && !sight.asked_spare && scheduler_.parked_count_.load() == 0 &&
        !scheduler_.poller_sleeps_.load()) {
        sight.asked_spare = scheduler_.start_spare();
    }
    if (age >= options.report_ms * kNsPerMs && !sight.reported) {
        sight.reported = true;
        long_dispatches_.fetch_add(1, std::memory_order_relaxed);
        interrupt(worker, serial, InterruptLevel::report);
    }
    std::int64_t limit = options.interrupt_ms * kNsPerMs;
    if (scheduler_.stopping_.load()) limit = std::min(limit, kStopNs);
    if (age >= limit && now_ns - sight.interrupted_ns >= kRepeatNs) {
        if (sight.interrupted_ns == 0) interrupts_.fetch_add(1, std::memory_order_relaxed);
        sight.interrupted_ns = now_ns;
        interrupt(worker, serial, InterruptLevel::kill);
    }
    return true;
}

void Watchdog::interrupt(Worker& worker, std::uint64_t serial, InterruptLevel level) {
    worker.interrupt_level.store(static_cast<std::uint8_t>(level));
    worker.interrupt_serial.store(serial);
#if !defined(PERILUNE_TSAN)
    worker.thread.interrupt(signal_);
#endif
}

}  // namespace perilune
