#include "core/clock.h"

#include <gtest/gtest.h>

#include <ctime>
#include <thread>
#include <vector>

namespace perilune {
namespace {

TEST(Clock, TheCoarseTimeIsNeverAheadOfTheExactOneAndAtMostTenMillisecondsBehind) {
    const RealClock clock;
    for (int i = 0; i < 200'000; ++i) {
        const std::int64_t coarse = clock.coarse_ns();
        const std::int64_t now = clock.now_ns();
        ASSERT_LE(coarse, now);
        const std::int64_t again = clock.coarse_ns();
        ASSERT_GE(again, coarse);
        // One tick of the kernel is 4 ms, or 10 ms at CONFIG_HZ=100.
        ASSERT_GT(again, now - 10 * kNsPerMs - kNsPerMs);
    }
}

TEST(Clock, TheMonotonicTimeNeverGoesBack) {
    const RealClock clock;
    std::int64_t last = clock.now_ns();
    for (int i = 0; i < 200'000; ++i) {
        const std::int64_t now = clock.now_ns();
        ASSERT_GE(now, last);
        last = now;
    }
}

TEST(Clock, WallTimeIsThatOfTheMachine) {
    const RealClock clock;
    const std::time_t before = std::time(nullptr);
    const std::int64_t wall = clock.wall_ns() / kNsPerSecond;
    EXPECT_GE(wall, before - 1);  // time() is the coarse one
    EXPECT_LE(wall, std::time(nullptr) + 1);
}

TEST(Clock, VirtualTimeStandsStillUntilItIsAdvancedAndNeverGoesBack) {
    VirtualClock clock;
    EXPECT_EQ(clock.now_ns(), 0);
    EXPECT_EQ(clock.wall_ns(), VirtualClock::kWallStart);
    clock.advance_to(5 * kNsPerSecond);
    clock.advance_to(3 * kNsPerSecond);
    EXPECT_EQ(clock.now_ns(), 5 * kNsPerSecond);
    EXPECT_EQ(clock.coarse_ns(), clock.now_ns());
    EXPECT_EQ(clock.wall_ns(), VirtualClock::kWallStart + 5 * kNsPerSecond);
    clock.advance_by(kNsPerMs);
    EXPECT_EQ(clock.now_ns(), 5 * kNsPerSecond + kNsPerMs);
}

TEST(Clock, AJumpOfTheVirtualWallClockLeavesMonotonicTimeAlone) {
    VirtualClock clock;
    clock.advance_to(kNsPerSecond);
    clock.jump_wall_by(-3600 * kNsPerSecond);
    EXPECT_EQ(clock.now_ns(), kNsPerSecond);
    EXPECT_EQ(clock.wall_ns(), VirtualClock::kWallStart - 3599 * kNsPerSecond);
}

TEST(Clock, TwoThreadsThatAdvanceVirtualTimeEndAtTheLaterOne) {
    VirtualClock clock;
    std::vector<std::thread> threads;
    for (int part = 0; part < 2; ++part) {
        threads.emplace_back([&clock, part] {
            for (int i = 0; i < 10'000; ++i) clock.advance_to(2 * i + part);
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(clock.now_ns(), 2 * 9'999 + 1);
}

}  // namespace
}  // namespace perilune
