#include "core/blocking_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

namespace perilune {

static std::size_t thread_count(std::size_t asked) {
    if (asked > 0) return asked;
    return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 4);
}

BlockingPool::BlockingPool(const Options& options)
    : max_threads_(thread_count(options.threads)),
      max_waiting_(options.queue),
      deterministic_(options.deterministic) {}

BlockingPool::~BlockingPool() { (void)stop(kNoDeadline); }

bool BlockingPool::submit(std::function<void()> run, std::function<void()> cancelled) {
    const std::lock_guard lock(mutex_);
    bool accepted = !stopping_;
    if (accepted && !deterministic_) {
        if (waiting_.size() >= idle_ && threads_.size() < max_threads_) start_thread();
        accepted = !threads_.empty();
    }
    // A job that an idle thread is about to take does not count: a queue of 0 works.
    accepted = accepted && (waiting_.size() < idle_ || waiting_.size() - idle_ < max_waiting_);
    if (!accepted) {
        ++counters_.refused;
        return false;
    }
    ++counters_.submitted;
    waiting_.push_back(Job{std::move(run), std::move(cancelled)});
    // Under the lock: the job may have the pool freed, by another thread, as soon as it runs.
    wake_.notify_one();
    return true;
}

// Caller holds mutex_. The new thread counts as idle from now on.
void BlockingPool::start_thread() {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        threads_.emplace_back([this] { work(); });
        ++idle_;
        ++working_;
    } catch (const std::system_error&) {  // out of threads: those that run must do
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void BlockingPool::work() {
    pthread_setname_np(pthread_self(), "perilune-block");
    std::unique_lock lock(mutex_);
    while (true) {
        wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) break;
        Job job = std::move(waiting_.front());
        waiting_.pop_front();
        --idle_;
        ++counters_.running;
        lock.unlock();
        job.run();
        job = {};  // what it captured goes before anybody can see that it has finished
        lock.lock();
        --counters_.running;
        ++counters_.finished;
        ++idle_;
    }
    if (--working_ == 0) ended_.notify_all();
}

bool BlockingPool::run_one() {
    std::unique_lock lock(mutex_);
    if (!deterministic_ || waiting_.empty()) return false;
    Job job = std::move(waiting_.front());
    waiting_.pop_front();
    ++counters_.running;
    lock.unlock();
    job.run();
    job = {};
    lock.lock();
    --counters_.running;
    ++counters_.finished;
    return true;
}

bool BlockingPool::stop(std::int64_t deadline_ns) {
    std::deque<Job> dropped;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        dropped.swap(waiting_);
        counters_.cancelled += dropped.size();
    }
    wake_.notify_all();
    for (Job& job : dropped) {
        if (job.cancelled) job.cancelled();
        job = {};
    }
    std::vector<std::thread> threads;
    {
        std::unique_lock lock(mutex_);
        const auto ended = [this] { return working_ == 0; };
        if (deadline_ns == kNoDeadline) {
            ended_.wait(lock, ended);
        } else {
            const std::chrono::steady_clock::time_point deadline{
                std::chrono::nanoseconds(deadline_ns)};
            if (!ended_.wait_until(lock, deadline, ended)) return false;
        }
        threads.swap(threads_);
        counters_.threads += threads.size();
    }
    for (std::thread& thread : threads) thread.join();
    return true;
}

BlockingPool::Counters BlockingPool::counters() const {
    const std::lock_guard lock(mutex_);
    Counters counters = counters_;
    counters.waiting = waiting_.size();
    counters.threads += threads_.size();
    return counters;
}

}  // namespace perilune
