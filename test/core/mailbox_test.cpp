#include "core/mailbox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <utility>
#include <vector>

namespace perilune {
namespace {

MessagePtr numbered(std::uint64_t number, Handle from = {}) {
    return make_message(MessageKind::send, {}, from, number);
}

TEST(Mailbox, HandsMessagesOutInTheOrderTheyCame) {
    Mailbox mailbox;
    mailbox.open(kMailboxMessages, kMailboxBytes);
    for (std::uint64_t i = 1; i <= 10; ++i) {
        MessagePtr message = numbered(i);
        ASSERT_EQ(mailbox.push(message, true), PushResult::queued);
        ASSERT_EQ(message, nullptr);
    }
    for (std::uint64_t i = 1; i <= 10; ++i) EXPECT_EQ(mailbox.pop()->session, i);
    EXPECT_EQ(mailbox.pop(), nullptr);
}

TEST(Mailbox, AControlMessageThatComesWhileItClosesIsNotLost) {
    Mailbox mailbox;
    constexpr int kRounds = 500;
    std::atomic<int> open_round{0};
    std::atomic<int> ended_round{0};
    std::atomic<int> ended{0};  // messages that somebody had in hand at last
    std::atomic<int> made{0};
    const auto drop = [&ended](MessagePtr messages) {
        while (messages != nullptr) {
            messages.reset(std::exchange(messages->next, nullptr));
            ++ended;
        }
    };
    std::thread writer([&] {
        for (int round = 1; round <= kRounds; ++round) {
            while (open_round < round) std::this_thread::yield();
            for (bool open = true; open;) {
                MessagePtr message = make_message(MessageKind::stop, {}, {}, 0);
                ++made;
                const PushResult result = mailbox.push_control(message);
                open = result == PushResult::queued || result == PushResult::wake_actor;
                if (!open) drop(std::move(message));
                if (made % 64 == 0) std::this_thread::yield();
            }
            ended_round = round;
        }
    });
    for (int round = 1; round <= kRounds; ++round) {
        mailbox.open(kMailboxMessages, kMailboxBytes);
        const int before = made;
        open_round = round;
        // Close with an empty list, so that the last look at it comes soon after.
        for (int popped = 0; made < before + 2 || popped < round % 50;) {
            while (mailbox.pop_control() != nullptr) {
                ++ended;
                ++popped;
            }
        }
        mailbox.close();
        while (mailbox.pop_control() != nullptr) ++ended;
        while (ended_round < round) std::this_thread::yield();
    }
    writer.join();
    EXPECT_EQ(ended, made);
}

TEST(Mailbox, OnlyOneWriterIsToldToWakeTheActor) {
    Mailbox mailbox;
    mailbox.open(kMailboxMessages, kMailboxBytes);
    ASSERT_TRUE(mailbox.try_idle());
    MessagePtr first = numbered(1);
    MessagePtr second = numbered(2);
    EXPECT_EQ(mailbox.push(first, true), PushResult::wake_actor);
    EXPECT_EQ(mailbox.push(second, true), PushResult::queued);
    EXPECT_FALSE(mailbox.try_idle());
}

TEST(Mailbox, RefusesAtItsLimitsAndKeepsTheMessageWithTheSender) {
    Mailbox mailbox;
    mailbox.open(3, 4096);
    for (int i = 0; i < 3; ++i) {
        MessagePtr message = numbered(1);
        ASSERT_EQ(mailbox.push(message, true), PushResult::queued);
    }
    MessagePtr fourth = numbered(4);
    EXPECT_EQ(mailbox.push(fourth, true), PushResult::full);
    EXPECT_NE(fourth, nullptr);
    // Replies and timers are bounded elsewhere and always get in.
    EXPECT_EQ(mailbox.push(fourth, false), PushResult::queued);
    EXPECT_EQ(mailbox.load().count(), 4u);

    Mailbox small;
    small.open(100, 4096);
    MessagePtr large = numbered(1);
    large->set_payload(std::string(5000, 'x'));
    EXPECT_EQ(small.push(large, true), PushResult::full);
    EXPECT_EQ(small.load().bytes(), 0u);
}

TEST(Mailbox, GivesRoomBackWhenATurnSettles) {
    Mailbox mailbox;
    mailbox.open(2, kMailboxBytes);
    for (int i = 0; i < 2; ++i) {
        MessagePtr message = numbered(1);
        ASSERT_EQ(mailbox.push(message, true), PushResult::queued);
    }
    EXPECT_TRUE(mailbox.half_full());
    while (mailbox.pop() != nullptr) {
    }
    mailbox.settle();
    EXPECT_EQ(mailbox.load().count(), 0u);
    EXPECT_EQ(mailbox.load().bytes(), 0u);
    EXPECT_FALSE(mailbox.half_full());
}

// Message 7 with `count` payloads of `size` bytes, each of another letter.
MessagePtr joined(std::size_t count, std::size_t size) {
    MessageJoiner joiner;
    joiner.begin(numbered(7));
    for (std::size_t i = 0; i < count; ++i) {
        joiner.add(std::string(size, static_cast<char>('a' + i)), (count - i - 1) * size);
    }
    return joiner.take();
}

TEST(Mailbox, HandsJoinedMessagesOutOneByOneInOrder) {
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, Message::kInlineSize}) {
        for (const std::size_t count : {1, 2, 3, int{MessageJoiner::kMaxParts}}) {
            Mailbox mailbox;
            mailbox.open(kMailboxMessages, kMailboxBytes);
            MessagePtr first = numbered(6), several = joined(count, size), last = numbered(8);
            for (MessagePtr* message : {&first, &several, &last}) {
                ASSERT_EQ(mailbox.push(*message, true), PushResult::queued);
            }
            EXPECT_EQ(mailbox.load().count(), count + 2);
            EXPECT_EQ(mailbox.load().bytes(), (count + 2) * sizeof(Message));
            EXPECT_EQ(mailbox.pop()->session, 6u);
            for (std::size_t i = 0; i < count; ++i) {
                const MessagePtr part = mailbox.pop();
                ASSERT_NE(part, nullptr);
                EXPECT_EQ(part->session, 7u);
                EXPECT_EQ(part->count(), 1u);
                EXPECT_EQ(part->payload(), std::string(size, static_cast<char>('a' + i)));
            }
            EXPECT_EQ(mailbox.pop()->session, 8u);
            EXPECT_EQ(mailbox.pop(), nullptr);
            mailbox.settle();
            EXPECT_EQ(mailbox.load().count(), 0u);
            EXPECT_EQ(mailbox.load().bytes(), 0u);
        }
    }
}

TEST(Mailbox, JoinedMessagesCountAsSeveralAndAreRefusedTogether) {
    Mailbox mailbox;
    mailbox.open(10, kMailboxBytes);
    MessagePtr fits = joined(6, 64), over = joined(5, 64), exact = joined(4, 64);
    ASSERT_EQ(mailbox.push(fits, true), PushResult::queued);
    EXPECT_TRUE(mailbox.half_full());
    ASSERT_EQ(mailbox.push(over, true), PushResult::full);
    EXPECT_NE(over, nullptr);
    EXPECT_EQ(mailbox.load().count(), 6u);
    ASSERT_EQ(mailbox.push(exact, true), PushResult::queued);
    EXPECT_EQ(mailbox.load().count(), 10u);
    // Closed in the middle: what is left comes out, and is not lost track of.
    (void)mailbox.pop();
    mailbox.close();
    for (int i = 0; i < 9; ++i) EXPECT_NE(mailbox.pop(), nullptr);
    EXPECT_EQ(mailbox.pop(), nullptr);
    mailbox.settle();
    EXPECT_EQ(mailbox.load().count(), 0u);
}

TEST(Mailbox, WhoReadsForItStopsLongBeforeItIsFull) {
    Mailbox mailbox;
    mailbox.open(kMailboxMessages, kMailboxBytes);
    const auto read = [&mailbox](std::uint64_t number) {
        MessagePtr message = numbered(number);
        message->kind = MessageKind::socket;
        ASSERT_EQ(mailbox.push(message, true), PushResult::queued);
    };
    for (std::uint64_t i = 1; i < kReadAhead; ++i) read(i);
    for (std::uint64_t i = 0; i < 2 * kReadAhead; ++i) {  // what others send doesn't count
        MessagePtr message = numbered(i);
        ASSERT_EQ(mailbox.push(message, true), PushResult::queued);
    }
    EXPECT_FALSE(mailbox.has_enough());
    read(kReadAhead);
    EXPECT_TRUE(mailbox.has_enough());
    EXPECT_FALSE(mailbox.half_full());
    for (std::uint64_t i = 0; i < kReadAhead / 4; ++i) (void)mailbox.pop();
    mailbox.settle();
    EXPECT_FALSE(mailbox.has_drained());
    (void)mailbox.pop();
    mailbox.settle();
    EXPECT_TRUE(mailbox.has_drained());
}

TEST(Mailbox, ControlMessagesComeThroughAFullMailboxAndWakeAnIdleActor) {
    Mailbox mailbox;
    mailbox.open(0, 0);
    ASSERT_TRUE(mailbox.try_idle());
    MessagePtr refused = numbered(1);
    EXPECT_EQ(mailbox.push(refused, true), PushResult::full);
    MessagePtr kill = make_message(MessageKind::kill, {}, {}, 0);
    EXPECT_EQ(mailbox.push_control(kill), PushResult::wake_actor);
    EXPECT_FALSE(mailbox.try_idle());
    ASSERT_TRUE(mailbox.has_control());
    EXPECT_EQ(mailbox.pop_control()->kind, MessageKind::kill);
    EXPECT_TRUE(mailbox.try_idle());
}

TEST(Mailbox, ClosedRefusesAndKeepsWhatWaited) {
    Mailbox mailbox;
    mailbox.open(10, kMailboxBytes);
    for (std::uint64_t i = 1; i <= 4; ++i) {
        MessagePtr message = numbered(i);
        ASSERT_EQ(mailbox.push(message, true), PushResult::queued);
        if (i == 2) {
            EXPECT_EQ(mailbox.pop()->session, 1u);
        }
    }
    mailbox.close();
    MessagePtr late = numbered(9);
    EXPECT_EQ(mailbox.push(late, false), PushResult::closed);
    MessagePtr control = numbered(9);
    EXPECT_EQ(mailbox.push_control(control), PushResult::closed);
    for (std::uint64_t i = 2; i <= 4; ++i) EXPECT_EQ(mailbox.pop()->session, i);
    EXPECT_EQ(mailbox.pop(), nullptr);
}

// Promise 8, without services: every sender's messages arrive once and in order, while the
// actor goes idle and is woken all the time.
TEST(Mailbox, KeepsTheOrderOfEachOfManySenders) {
    constexpr int kSenders = 4;
    constexpr std::uint64_t kEach = 50000;
    Mailbox mailbox;
    mailbox.open(UINT32_MAX, kMailboxBytes);
    std::atomic<int> runnable{1};  // the actor's place in a run queue: 0 or 1
    std::vector<std::thread> senders;
    for (int sender = 1; sender <= kSenders; ++sender) {
        senders.emplace_back([&, sender] {
            for (std::uint64_t i = 1; i <= kEach; ++i) {
                MessagePtr message = numbered(i, Handle{static_cast<std::uint64_t>(sender)});
                const PushResult result = mailbox.push(message, false);
                if (result == PushResult::wake_actor) {
                    ASSERT_EQ(runnable.fetch_add(1), 0) << "woken twice";
                }
            }
        });
    }
    std::map<std::uint64_t, std::uint64_t> last;
    std::uint64_t received = 0;
    while (received < kSenders * kEach) {
        if (runnable.load() == 0) {
            std::this_thread::yield();
            continue;
        }
        while (MessagePtr message = mailbox.pop()) {
            ASSERT_EQ(message->session, last[message->from.value] + 1);
            last[message->from.value] = message->session;
            ++received;
        }
        mailbox.settle();
        runnable.fetch_sub(1);
        if (!mailbox.try_idle()) runnable.fetch_add(1);
    }
    for (std::thread& sender : senders) sender.join();
    EXPECT_EQ(mailbox.load().count(), 0u);
}

}  // namespace
}  // namespace perilune
