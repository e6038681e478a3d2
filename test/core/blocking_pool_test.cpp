#include "core/blocking_pool.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>

namespace perilune {
namespace {

// Holds jobs up until it is opened.
class Gate {
  public:
    void open() { promise_.set_value(); }
    void pass() { future_.wait(); }

  private:
    std::promise<void> promise_;
    std::shared_future<void> future_ = promise_.get_future().share();
};

void wait_until(const std::function<bool()>& condition) {
    for (int i = 0; i < 20'000 && !condition(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_TRUE(condition());
}

TEST(BlockingPool, EveryJobRunsOnce) {
    BlockingPool pool({.threads = 3, .queue = 10'000});
    std::atomic<int> runs{0};
    for (int i = 0; i < 5'000; ++i) ASSERT_TRUE(pool.submit([&runs] { ++runs; }));
    wait_until([&] { return pool.counters().finished == 5'000; });
    EXPECT_EQ(runs.load(), 5'000);
    EXPECT_EQ(pool.counters().submitted, 5'000u);
    EXPECT_EQ(pool.counters().running, 0u);
    EXPECT_EQ(pool.counters().waiting, 0u);
}

TEST(BlockingPool, NoThreadStartsBeforeThereIsWorkAndNoMoreThanAskedFor) {
    Gate gate;
    BlockingPool pool({.threads = 2, .queue = 8});
    EXPECT_EQ(pool.counters().threads, 0u);
    ASSERT_TRUE(pool.submit([] {}));
    wait_until([&] { return pool.counters().finished == 1; });
    ASSERT_TRUE(pool.submit([] {}));
    wait_until([&] { return pool.counters().finished == 2; });
    EXPECT_EQ(pool.counters().threads, 1u);  // the first was idle
    for (int i = 0; i < 6; ++i) ASSERT_TRUE(pool.submit([&gate] { gate.pass(); }));
    EXPECT_EQ(pool.counters().threads, 2u);
    gate.open();
}

TEST(BlockingPool, AFullQueueRefusesAtOnceAndCountsIt) {
    Gate gate;
    BlockingPool pool({.threads = 2, .queue = 4});
    int accepted = 0;
    for (int i = 0; i < 100; ++i) accepted += pool.submit([&gate] { gate.pass(); });
    EXPECT_EQ(accepted, 2 + 4);
    EXPECT_EQ(pool.counters().refused, 94u);
    wait_until([&] { return pool.counters().running == 2; });
    EXPECT_EQ(pool.counters().waiting, 4u);
    gate.open();
    wait_until([&] { return pool.counters().finished == 6; });
    EXPECT_TRUE(pool.submit([] {}));
}

TEST(BlockingPool, AQueueOfNoneTakesAsManyJobsAsThereAreThreads) {
    Gate gate;
    BlockingPool pool({.threads = 2, .queue = 0});
    EXPECT_TRUE(pool.submit([&gate] { gate.pass(); }));
    EXPECT_TRUE(pool.submit([&gate] { gate.pass(); }));
    EXPECT_FALSE(pool.submit([&gate] { gate.pass(); }));
    gate.open();
}

TEST(BlockingPool, StopFinishesWhatRunsAndCancelsWhatWaits) {
    Gate gate;
    std::atomic<int> ran{0};
    std::atomic<int> cancelled{0};
    BlockingPool pool({.threads = 2, .queue = 10});
    for (int i = 0; i < 12; ++i) {
        ASSERT_TRUE(pool.submit(
            [&] {
                gate.pass();
                ++ran;
            },
            [&] { ++cancelled; }));
    }
    wait_until([&] { return pool.counters().running == 2; });
    std::thread stopper([&] { EXPECT_TRUE(pool.stop(kNoDeadline)); });
    wait_until([&] { return cancelled.load() == 10; });
    EXPECT_EQ(ran.load(), 0);
    EXPECT_FALSE(pool.submit([] {}));
    gate.open();
    stopper.join();
    EXPECT_EQ(ran.load(), 2);
    EXPECT_EQ(pool.counters().cancelled, 10u);
    EXPECT_EQ(pool.counters().finished, 2u);
    EXPECT_TRUE(pool.stop(kNoDeadline));
}

TEST(BlockingPool, SubmittersThatRaceWithStopSeeEveryJobEndOnce) {
    for (int round = 0; round < 20; ++round) {
        std::atomic<int> accepted{0};
        std::atomic<int> ended{0};
        BlockingPool pool({.threads = 3, .queue = 50});
        std::vector<std::thread> threads;
        for (int part = 0; part < 3; ++part) {
            threads.emplace_back([&] {
                for (int i = 0; i < 500; ++i) {
                    accepted += pool.submit([&] { ++ended; }, [&] { ++ended; });
                }
            });
        }
        EXPECT_TRUE(pool.stop(kNoDeadline));
        for (std::thread& thread : threads) thread.join();
        EXPECT_EQ(accepted.load(), ended.load());
    }
}

TEST(BlockingPool, WhatAJobHeldIsGoneWhenItCountsAsFinished) {
    BlockingPool pool({.threads = 1});
    auto held = std::make_shared<int>(1);
    const std::weak_ptr<int> watch = held;
    ASSERT_TRUE(pool.submit([kept = std::move(held)] {}));
    wait_until([&] { return pool.counters().finished == 1; });
    EXPECT_TRUE(watch.expired());
}

TEST(BlockingPool, ADeterministicPoolRunsJobsInOrderOnTheThreadThatAsks) {
    BlockingPool pool({.queue = 3, .deterministic = true});
    std::string order;
    const std::thread::id me = std::this_thread::get_id();
    for (const char letter : std::string("abc")) {
        ASSERT_TRUE(pool.submit([&, letter] {
            order += letter;
            EXPECT_EQ(std::this_thread::get_id(), me);
        }));
    }
    EXPECT_FALSE(pool.submit([] {}));
    EXPECT_EQ(order, "");
    EXPECT_TRUE(pool.run_one());
    EXPECT_EQ(order, "a");
    EXPECT_TRUE(pool.submit([&] { order += 'd'; }));
    while (pool.run_one()) {
    }
    EXPECT_EQ(order, "abcd");
    bool cancelled = false;
    ASSERT_TRUE(pool.submit([] {}, [&] { cancelled = true; }));
    EXPECT_TRUE(pool.stop(kNoDeadline));
    EXPECT_TRUE(cancelled);
    EXPECT_EQ(pool.counters().threads, 0u);
}

TEST(BlockingPool, APoolWithThreadsRunsNothingOnTheThreadThatAsks) {
    Gate gate;
    BlockingPool pool({.threads = 1});
    ASSERT_TRUE(pool.submit([&gate] { gate.pass(); }));
    ASSERT_TRUE(pool.submit([] {}));
    EXPECT_FALSE(pool.run_one());
    gate.open();
}

// Meant for ThreadSanitizer: a database's pool is freed by the node's when its last job has run,
// while the one that submitted the job may still be on its way out.
TEST(BlockingPool, MayBeFreedByAnotherThreadAsSoonAsItsLastJobHasRun) {
    constexpr int kPools = 300;
    std::atomic<int> freed{0};
    BlockingPool others({.threads = 2, .queue = kPools});
    for (int i = 0; i < kPools; ++i) {
        auto* const pool = new BlockingPool({.threads = 1});
        const auto free = [&freed, pool] {
            delete pool;
            ++freed;
        };
        ASSERT_TRUE(pool->submit([&others, free] { (void)others.submit(free); }));
    }
    wait_until([&] { return freed == kPools; });
}

TEST(BlockingPool, ItsThreadsLeaveSignalsToOthers) {
    BlockingPool pool({.threads = 1});
    std::promise<bool> blocked;
    ASSERT_TRUE(pool.submit([&] {
        sigset_t mask;
        pthread_sigmask(SIG_SETMASK, nullptr, &mask);
        blocked.set_value(sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGRTMIN) == 1);
    }));
    EXPECT_TRUE(blocked.get_future().get());
}

}  // namespace
}  // namespace perilune
