// BlockingPool: a few threads for work that blocks.
//
// Purpose:   work that would block a worker for long: looking host names up, hashing passwords,
//            files, SQLite. Bounded: who finds the queue full hears "busy" at once.
// Threads:   submit() and counters(), any thread. Jobs run on the pool's threads, which have
//            all signals blocked. stop() once, from any thread but a job's.
// Ownership: whoever makes the pool; another thread may free it once its last job has begun, also
//            before that job's submit() has returned. A job owns what it captures; each accepted
//            job is either run or cancelled, exactly once, and destroyed right after.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "core/stack_thread.h"

namespace perilune {

struct BlockingPoolOptions {
    std::size_t threads = 0;  // at most; 0: as many as cores, up to 4
    std::size_t queue = 256;  // jobs that wait, at most
    // Seeded runs: no threads; jobs wait until the scheduler calls run_one().
    bool deterministic = false;
};

class BlockingPool {
  public:
    using Options = BlockingPoolOptions;
    struct Counters {
        std::uint64_t submitted;  // accepted, since the start
        std::uint64_t refused;    // not accepted: queue full or stopping
        std::uint64_t finished;   // run to their end
        std::uint64_t cancelled;  // dropped by stop()
        std::size_t running;
        std::size_t waiting;
        std::size_t threads;  // started so far
    };

    explicit BlockingPool(const Options& options = {});
    ~BlockingPool();  // stop(), for as long as it takes
    BlockingPool(const BlockingPool&) = delete;
    BlockingPool& operator=(const BlockingPool&) = delete;

    // Queues a job. `run` does the work; `cancelled` is called instead if the pool stops
    // first, so that nobody waits for ever. Neither may throw. False when the queue is full or
    // the pool stops ("busy"): neither is ever called then. Jobs start in order of submission.
    [[nodiscard]] bool submit(std::function<void()> run, std::function<void()> cancelled = {});

    // Deterministic pools: runs the oldest waiting job on this thread. False when none waits,
    // and always when the pool has threads.
    bool run_one();

    // Final: refuses new jobs, cancels the waiting ones on this thread, waits for the running
    // ones. False when one still runs at `deadline_ns` of the monotonic clock; then it may be
    // called again.
    [[nodiscard]] bool stop(std::int64_t deadline_ns);

    Counters counters() const;

  private:
    struct Job {
        std::function<void()> run;
        std::function<void()> cancelled;
    };

    void start_thread();
    void work();

    const std::size_t max_threads_;
    const std::size_t max_waiting_;
    const bool deterministic_;

    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable ended_;
    // Guarded by mutex_.
    std::deque<Job> waiting_;
    std::vector<std::thread> threads_;
    std::size_t idle_ = 0;     // threads that wait for a job
    std::size_t working_ = 0;  // threads that have not ended
    bool stopping_ = false;
    Counters counters_{};
};

}  // namespace perilune
