// Worker: a thread that runs services, and the run queue it brings along.
//
// Purpose:   the data of one worker of the WorkScheduler; its loop is in work_scheduler.cpp.
// Threads:   grouped below.
// Ownership: the scheduler owns its workers for its whole life, the retired spares too.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "core/actor.h"
#include "core/stack_thread.h"

namespace perilune {

// Cells that wait for a worker, first-in first-out, linked through next_runnable.
// Any thread; guarded by a mutex of its own, held for a few instructions.
class RunQueue {
  public:
    void push(ActorCell* cell);
    ActorCell* pop();
    // Moves half of what waits here, at most `limit`, to `thief`; returns the first of them.
    ActorCell* steal_into(RunQueue& thief, int limit);
    bool empty() const { return count_.load() == 0; }

  private:
    std::mutex mutex_;
    ActorCell* head_ = nullptr;
    ActorCell* tail_ = nullptr;
    std::atomic<int> count_{0};
};

struct Worker {
    explicit Worker(int number, bool is_spare) : index(number), spare(is_spare) {}

    // Constant after construction.
    const int index;
    const bool spare;

    // Any thread.
    RunQueue queue;
    // The cell woken last by the running one: it runs next, here, while its message is in this
    // core's cache. Others may take it only while `stuck`.
    std::atomic<ActorCell*> next{nullptr};
    std::atomic<bool> stuck{false};        // watchdog: in one dispatch for over 2 ms
    std::atomic<bool> active{false};       // the thread exists and has not retired
    std::atomic<std::uint64_t> serial{0};  // odd while a message is being handled
    std::atomic<ActorCell*> running{nullptr};
    std::atomic<std::uint64_t> interrupt_serial{0};  // the dispatch that an interrupt is for
    std::atomic<std::uint8_t> interrupt_level{0};
    std::atomic<std::uint64_t> turns{0};  // counters: written here, read by anybody
    std::atomic<std::uint64_t> messages{0};
    std::atomic<std::uint64_t> steals{0};

    // This worker's thread only.
    StackThread thread;
    int next_streak = 0;     // how often in a row the next slot was taken
    int posted_in_turn = 0;  // see WorkScheduler::message_posted
    std::uint32_t ticks = 0;
    std::uint32_t steal_from = 0;
    std::int64_t mailbox_charge = 0;  // bytes not yet told to the node's total
    std::uint64_t last_poll = 0;      // cycles

    // Guarded by park_mutex.
    std::mutex park_mutex;
    std::condition_variable park_signal;
    bool unparked = false;
};

}  // namespace perilune
