#include "core/poller_set.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>
#include <vector>

namespace perilune {
namespace {

class PollerSetTest : public ::testing::Test {
  protected:
    PollerSetTest() {
        for (int& descriptor : descriptors) descriptor = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        EXPECT_TRUE(set.start([this](std::uint64_t token, std::uint32_t flags) {
                           events.emplace_back(token, flags);
                       })
                        .ok());
    }
    ~PollerSetTest() override {
        set.stop();
        for (const int descriptor : descriptors) ::close(descriptor);
    }
    void raise(int index) { ASSERT_EQ(::eventfd_write(descriptors[index], 1), 0); }

    int descriptors[200];
    std::vector<std::pair<std::uint64_t, std::uint32_t>> events;
    Poller poller;
    PollerSet set{poller};
};

TEST_F(PollerSetTest, ADescriptorThatIsReadyIsReportedWithItsToken) {
    EXPECT_EQ(set.add(descriptors[0], EPOLLIN | EPOLLET, 7), 0);
    EXPECT_EQ(set.add(descriptors[1], EPOLLIN | EPOLLET, 8), 0);
    raise(1);
    poller.poll();
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].first, 8u);
    EXPECT_NE(events[0].second & EPOLLIN, 0u);
    poller.poll();
    EXPECT_EQ(events.size(), 1u);  // the edge alone was asked for
}

TEST_F(PollerSetTest, WhatIsWatchedCanBeChanged) {
    EXPECT_EQ(set.add(descriptors[0], 0, 7), 0);
    raise(0);
    poller.poll();
    EXPECT_TRUE(events.empty());
    EXPECT_EQ(set.change(descriptors[0], EPOLLIN | EPOLLET, 9), 0);
    poller.poll();
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].first, 9u);
    EXPECT_LT(set.change(descriptors[1], EPOLLIN, 1), 0);  // it was never added
    EXPECT_LT(set.add(-1, EPOLLIN, 1), 0);
}

TEST_F(PollerSetTest, MoreThanOneBatchIsReportedInSeveralPolls) {
    for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(set.add(descriptors[i], EPOLLIN | EPOLLET, static_cast<std::uint64_t>(i)), 0);
        raise(i);
    }
    poller.poll();
    EXPECT_EQ(events.size(), 128u);  // services run before the rest
    poller.poll();
    EXPECT_EQ(events.size(), 200u);
}

TEST_F(PollerSetTest, AfterAStopNothingIsReportedAndNoTaskRuns) {
    EXPECT_EQ(set.add(descriptors[0], EPOLLIN, 7), 0);
    raise(0);
    int tasks = 0;
    set.post([&] { ++tasks; });
    set.stop();
    poller.poll();
    EXPECT_TRUE(events.empty());
    EXPECT_EQ(tasks, 0);
}

}  // namespace
}  // namespace perilune
