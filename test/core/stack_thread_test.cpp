#include "core/stack_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <future>
#include <thread>

#include "core/clock.h"
#include "no_threads.h"

namespace perilune {
namespace {

TEST(StackThread, GivesUpJoiningAtTheDeadlineAndCanBeJoinedLater) {
    std::promise<void> end;
    StackThread thread;
    ASSERT_TRUE(thread.start([&] { end.get_future().wait(); }).ok());
    EXPECT_FALSE(thread.join(RealClock::monotonic() + kNsPerMs));
    EXPECT_TRUE(thread.joinable());
    end.set_value();
    EXPECT_TRUE(thread.join(kNoDeadline));
    EXPECT_FALSE(thread.joinable());
}

TEST(StackThread, SaysWhenTheSystemHasNoThreadLeft) {
    StackThread thread;
    {
        const test::NoThreads none;
        EXPECT_EQ(thread.start([] {}).code(), StatusCode::unavailable);
    }
    EXPECT_FALSE(thread.joinable());
    ASSERT_TRUE(thread.start([] {}).ok());
    EXPECT_TRUE(thread.join(kNoDeadline));
}

std::atomic<int> signals{0};

TEST(StackThread, InterruptsWhatRunsAndNothingThatHasEnded) {
    signals = 0;
    struct sigaction action = {};
    struct sigaction before = {};
    action.sa_handler = [](int) { ++signals; };
    sigaction(SIGRTMIN + 9, &action, &before);
    StackThread thread;
    thread.interrupt(SIGRTMIN + 9);  // never was
    ASSERT_TRUE(thread
                    .start([&] {
                        while (signals == 0) std::this_thread::yield();
                    })
                    .ok());
    thread.interrupt(SIGRTMIN + 9);
    while (signals == 0) std::this_thread::yield();
    EXPECT_TRUE(thread.join(kNoDeadline));
    thread.interrupt(SIGRTMIN + 9);
    EXPECT_EQ(signals, 1);
    sigaction(SIGRTMIN + 9, &before, nullptr);
}

// Meant for ThreadSanitizer: who interrupts doesn't know that the thread is being joined.
TEST(StackThread, MayBeInterruptedWhileItEndsAndIsJoined) {
    struct sigaction action = {};
    struct sigaction before = {};
    action.sa_handler = [](int) {};
    sigaction(SIGRTMIN + 9, &action, &before);
    StackThread thread;
    std::atomic<bool> done{false};
    // A few for each round: a thread that gets them without end never gets any further.
    std::atomic<int> left{0};
    std::thread interrupter([&] {
        while (!done) {
            if (left > 0) {
                --left;
                thread.interrupt(SIGRTMIN + 9);
            }
            std::this_thread::yield();
        }
    });
    for (int i = 0; i < 50; ++i) {
        left = 20;
        ASSERT_TRUE(thread.start([] {}).ok());
        EXPECT_TRUE(thread.join(kNoDeadline));
    }
    done = true;
    interrupter.join();
    sigaction(SIGRTMIN + 9, &before, nullptr);
}

}  // namespace
}  // namespace perilune
