#include "core/kernel.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <thread>

#include "../eventually.h"
#include "core/cycles.h"
#include "no_threads.h"

namespace perilune {
namespace {

using test::eventually;

// An actor that does what a test says.
class Scripted final : public Actor {
  public:
    std::function<void(MessagePtr)> on_message;
    void receive(MessagePtr message) override {
        if (on_message) on_message(std::move(message));
    }
};

class KernelTest : public ::testing::Test {
  protected:
    void make(KernelOptions options = {}) {
        LogOptions log_options;
        log_options.descriptor = -1;
        log_options.queue = 64;
        log = std::move(Log::open(log_options).value());
        if (options.workers == 0) options.workers = 2;
        kernel = std::make_unique<Kernel>(options, Kernel::Environment{clock, random, *log});
    }

    struct Made {
        Handle handle;
        ActorCell* cell;
        Scripted* actor;
    };
    Made add(std::function<void(MessagePtr)> on_message = {}) {
        auto actor = std::make_unique<Scripted>();
        Scripted* scripted = actor.get();
        scripted->on_message = std::move(on_message);
        ActorCell* cell = kernel->create_cell(std::move(actor));
        const Handle handle = kernel->add_service(cell, nullptr).value();
        kernel->launch(cell);
        return {handle, cell, scripted};
    }

    PostResult send(Handle to, std::uint64_t session = 0, Handle from = {},
                    MessageKind kind = MessageKind::send) {
        MessagePtr message = make_message(kind, to, from, session);
        return kernel->post(message);
    }

    RealClock clock;
    SystemRandom random;
    std::unique_ptr<Log> log;
    std::unique_ptr<Kernel> kernel;
};

TEST_F(KernelTest, APostedMessageIsHandled) {
    make();
    std::atomic<int> handled{0};
    const Made service = add([&](MessagePtr) { ++handled; });
    ASSERT_TRUE(kernel->start().ok());
    EXPECT_EQ(send(service.handle), PostResult::ok);
    EXPECT_TRUE(eventually([&] { return handled == 1; }));
}

TEST_F(KernelTest, APostToADeadServiceSaysSo) {
    make();
    const Made service = add();
    (void)kernel->remove_service(service.handle);
    EXPECT_EQ(send(service.handle), PostResult::dead);
    EXPECT_EQ(kernel->counters().refused_dead.load(), 1u);
}

TEST_F(KernelTest, AFullMailboxAnswersOverloadedAtOnce) {
    KernelOptions options;
    options.mailbox_messages = 10;
    make(options);
    const Made service = add();
    for (int i = 0; i < 10; ++i) EXPECT_EQ(send(service.handle), PostResult::ok);
    EXPECT_EQ(send(service.handle), PostResult::overloaded);
    // A kill still gets through.
    EXPECT_EQ(kernel->post_control(make_message(MessageKind::kill, service.handle, {}, 0)),
              PostResult::ok);
    EXPECT_EQ(kernel->counters().refused_overloaded.load(), 1u);
}

TEST_F(KernelTest, AControlMessageIsHandledBetweenTwoPartsOfAJoinedOne) {
    make();
    std::string seen;
    std::promise<void> done;
    Handle self;
    const Made service = add([&](MessagePtr message) {
        seen += message->kind == MessageKind::reload ? std::string("!")
                                                     : std::string(message->payload());
        // As when a reload is asked for while a service runs.
        if (seen == "abc") {
            (void)kernel->post_control(make_message(MessageKind::reload, self, {}, 0));
        }
        if (seen.size() == 11) done.set_value();
    });
    self = service.handle;
    MessageJoiner joiner;
    joiner.begin(make_message(MessageKind::send, service.handle, {}, 0));
    for (const char* letter : {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}) {
        joiner.add(letter, 10);
    }
    MessagePtr message = joiner.take();
    ASSERT_EQ(kernel->post(message), PostResult::ok);
    ASSERT_TRUE(kernel->start().ok());
    done.get_future().wait();
    EXPECT_EQ(seen, "abc!defghij");
}

TEST_F(KernelTest, AServiceThatDiesInAJoinedMessageLeavesItsPartsAsDeadLetters) {
    make();
    std::atomic<int> handled{0};
    Handle self;
    ActorCell* cell = nullptr;
    const Made service = add([&](MessagePtr) {
        if (++handled < 3) return;
        (void)kernel->remove_service(self);
        cell->finished = true;
    });
    self = service.handle;
    cell = service.cell;
    MessageJoiner joiner;
    joiner.begin(make_message(MessageKind::send, service.handle, {}, 0));
    for (int i = 0; i < 10; ++i) joiner.add("payload", 70);
    MessagePtr message = joiner.take();
    ASSERT_EQ(kernel->post(message), PostResult::ok);
    ASSERT_TRUE(kernel->start().ok());
    EXPECT_TRUE(eventually([&] { return kernel->counters().dead_letters.load() == 7; }));
    EXPECT_EQ(handled, 3);
}

TEST_F(KernelTest, AllMailboxesTogetherAreBounded) {
    KernelOptions options;
    options.node_mailbox_bytes = 1 << 20;
    make(options);
    const Made one = add();
    const Made other = add();
    int queued = 0;
    for (int i = 0; i < 100; ++i) {
        MessagePtr message =
            make_message(MessageKind::send, i % 2 == 0 ? one.handle : other.handle, {}, 0);
        message->set_payload(std::string(64 * 1024, 'x'));
        queued += kernel->post(message) == PostResult::ok ? 1 : 0;
    }
    EXPECT_GE(queued, 16);
    EXPECT_LE(queued, 17);
}

TEST_F(KernelTest, CallsThatWaitForAServiceThatDiesAreAnsweredDead) {
    make();
    std::atomic<int> dead{0};
    const Made caller = add([&](MessagePtr message) {
        if (message->kind == MessageKind::failure &&
            message->detail == static_cast<std::uint8_t>(Outcome::dead)) {
            ++dead;
        }
    });
    Made callee = add();
    callee.actor->on_message = [&](MessagePtr message) {
        // The first message ends it; the others are still in its mailbox.
        (void)kernel->remove_service(callee.handle);
        callee.cell->finished = true;
        kernel->refuse(std::move(message), Outcome::dead);
    };
    for (int i = 1; i <= 20; ++i) {
        ASSERT_EQ(send(callee.handle, i, caller.handle, MessageKind::call), PostResult::ok);
    }
    ASSERT_EQ(send(callee.handle), PostResult::ok);
    ASSERT_TRUE(kernel->start().ok());
    EXPECT_TRUE(eventually([&] { return dead == 20; }));
    EXPECT_TRUE(eventually([&] { return kernel->counters().dead_letters == 1; }));
}

TEST_F(KernelTest, AMonitorIsToldAfterTheLastAnswer) {
    make();
    std::vector<MessageKind> seen;
    std::atomic<bool> told{false};
    const Made watcher = add([&](MessagePtr message) {
        seen.push_back(message->kind);
        if (message->kind == MessageKind::down) {
            EXPECT_EQ(message->payload(), "test");
            told = true;
        }
    });
    const Made target = add();
    ASSERT_TRUE(kernel->registry().monitor(watcher.handle, target.handle));
    const std::vector<Handle> watchers = kernel->remove_service(target.handle);
    kernel->tell_down(target.handle, watchers, "test");
    ASSERT_TRUE(kernel->start().ok());
    EXPECT_TRUE(eventually([&] { return told.load(); }));
    EXPECT_EQ(seen.size(), 1u);
}

// Promise 8 with workers: 50 senders, no inversion, no loss, no double.
TEST_F(KernelTest, KeepsTheOrderOfEachSenderWhileActorsMoveBetweenWorkers) {
    KernelOptions options;
    options.workers = 4;
    options.mailbox_messages = 1000000;
    make(options);
    constexpr int kSenders = 50;
    constexpr std::uint64_t kEach = 2000;
    std::map<std::uint64_t, std::uint64_t> last;
    std::atomic<std::uint64_t> received{0};
    std::atomic<int> wrong{0};
    const Made sink = add([&](MessagePtr message) {
        std::uint64_t& before = last[message->from.value];
        if (message->session != before + 1) ++wrong;
        before = message->session;
        ++received;
    });
    for (int i = 0; i < kSenders; ++i) {
        auto sent = std::make_shared<std::uint64_t>(0);
        Made sender = add();
        sender.actor->on_message = [this, sent, self = sender.handle, to = sink.handle,
                                    &wrong](MessagePtr message) {
            for (int burst = 0; burst < 50 && *sent < kEach; ++burst) {
                MessagePtr out = make_message(MessageKind::send, to, self, ++*sent);
                if (kernel->post(out) != PostResult::ok) ++wrong;
            }
            message->to = self;
            if (*sent < kEach) (void)kernel->post(message);
        };
        ASSERT_EQ(send(sender.handle), PostResult::ok);
    }
    ASSERT_TRUE(kernel->start().ok());
    EXPECT_TRUE(eventually([&] { return received == kSenders * kEach; }));
    EXPECT_EQ(wrong.load(), 0);
}

TEST_F(KernelTest, TimersReachTheirOwnerAndAreNeverEarly) {
    make();
    std::atomic<std::int64_t> came{0};
    const Made service = add([&](MessagePtr message) {
        if (message->kind == MessageKind::timer) came = clock.now_ns();
    });
    ASSERT_TRUE(kernel->start().ok());
    OwnerTimers timers(service.handle);
    const std::int64_t due = clock.now_ns() + 20 * kNsPerMs;
    kernel->add_timer(timers, 7, due);
    EXPECT_TRUE(eventually([&] { return came != 0; }));
    EXPECT_GE(came.load(), due);
    kernel->timers().cancel_all(timers);
}

TEST_F(KernelTest, BlockingWorkComesBackAsAMessage) {
    make();
    std::atomic<bool> done{false};
    const Made service = add([&](MessagePtr message) {
        EXPECT_EQ(message->kind, MessageKind::work);
        EXPECT_EQ(message->payload(), "result");
        done = true;
    });
    ASSERT_TRUE(kernel->start().ok());
    EXPECT_TRUE(kernel->run_blocking([](Message& message) { message.set_payload("result"); },
                                     make_message(MessageKind::work, service.handle, {}, 1)));
    EXPECT_TRUE(eventually([&] { return done.load(); }));
}

// Promise 2, its other half: with every worker in a long dispatch, timers and other services go
// on, on spare workers.
TEST_F(KernelTest, TimersAndServicesGoOnWhileEveryWorkerComputes) {
    KernelOptions options;
    options.workers = 2;
    make(options);
    std::atomic<int> busy{0};
    std::atomic<int> ticks{0};
    std::atomic<int> gave_up{0};
    for (int i = 0; i < 2; ++i) {
        // Computes until the ticks have come.
        const Made computing = add([&](MessagePtr) {
            ++busy;
            const std::uint64_t end = cycles_now() + cycles_per_ms() * 10'000;
            while (ticks < 20 && cycles_now() < end) {
            }
            if (ticks < 20) ++gave_up;
        });
        ASSERT_EQ(send(computing.handle), PostResult::ok);
    }
    const Made ticking = add([&](MessagePtr) { ++ticks; });
    ASSERT_TRUE(kernel->start().ok());
    ASSERT_TRUE(eventually([&] { return busy == 2; }));
    OwnerTimers timers(ticking.handle);
    kernel->add_timer(timers, 1, clock.now_ns() + 10 * kNsPerMs, 10 * kNsPerMs);
    EXPECT_TRUE(eventually([&] { return ticks >= 20; }));
    EXPECT_EQ(gave_up.load(), 0) << "the ticks came only after the computation";
    EXPECT_GE(kernel->scheduler().counters().spares_started, 1u);
    kernel->timers().cancel_all(timers);
    kernel->stop();
}

TEST_F(KernelTest, ARepeatingTimerHasOneMessageInTheMailboxHoweverSlowItIsHandled) {
    make();
    std::atomic<int> handled{0};
    std::atomic<std::uint64_t> most{0};
    Made slow = add();
    slow.actor->on_message = [&](MessagePtr) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        most = std::max(most.load(), slow.cell->mailbox.load().count());
        ++handled;
    };
    ASSERT_TRUE(kernel->start().ok());
    OwnerTimers timers(slow.handle);
    kernel->add_timer(timers, 1, clock.now_ns(), kNsPerMs);
    EXPECT_TRUE(eventually([&] { return handled >= 10; }));
    kernel->timers().cancel_all(timers);
    kernel->stop();
    // What a turn has taken counts until its end.
    EXPECT_LE(most, static_cast<std::uint64_t>(kTurnMessages) / 2);
    EXPECT_GT(kernel->timers().counters().skipped, 0u);
}

TEST_F(KernelTest, AKernelThatGetsNoThreadsSaysSoAndMayBeDestroyed) {
    // What glibc has kept of the stacks of other threads is in use meanwhile.
    std::promise<void> end;
    const std::shared_future<void> ended = end.get_future().share();
    std::vector<std::thread> others;
    for (int i = 0; i < 8; ++i) others.emplace_back([ended] { ended.wait(); });
    for (const int room_mb : {70, 16}) {  // for a worker, but not for the watchdog; for none
        KernelOptions options;
        options.workers = 1;
        make(options);
        const test::NoThreads none(room_mb);
        EXPECT_EQ(kernel->start().code(), StatusCode::unavailable) << room_mb;
        kernel.reset();
    }
    end.set_value();
    for (std::thread& other : others) other.join();
}

TEST_F(KernelTest, ASpareThatCannotBeStartedIsDoneWithout) {
    KernelOptions options;
    options.workers = 1;
    options.max_spares = 1;
    make(options);
    std::atomic<bool> release{false};
    std::atomic<bool> done{false};
    const Made stuck = add([&](MessagePtr) {
        while (!release) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    const Made other = add([&](MessagePtr) { done = true; });
    ASSERT_TRUE(kernel->start().ok());
    {
        const test::NoThreads none;
        ASSERT_EQ(send(stuck.handle), PostResult::ok);
        EXPECT_TRUE(eventually([&] { return kernel->scheduler().counters().spares_refused > 0; }));
        EXPECT_EQ(kernel->scheduler().counters().spares_started, 0u);
    }
    // When there are threads again, there is one for this dispatch.
    EXPECT_TRUE(eventually([&] { return kernel->scheduler().counters().spares_started == 1; }));
    ASSERT_EQ(send(other.handle), PostResult::ok);
    EXPECT_TRUE(eventually([&] { return done.load(); }));
    release = true;
    kernel->stop();
}

TEST_F(KernelTest, StopGivesUpAtItsDeadlineAndMayBeCalledAgain) {
    make();
    std::atomic<bool> release{false};
    std::atomic<int> busy{0};
    const auto wait = [&] {
        ++busy;
        while (!release) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    };
    const Made stuck = add([&](MessagePtr) { wait(); });
    ASSERT_TRUE(kernel->start().ok());
    ASSERT_EQ(send(stuck.handle), PostResult::ok);
    ASSERT_TRUE(kernel->run_blocking([&](Message&) { wait(); },
                                     make_message(MessageKind::work, stuck.handle, {}, 1)));
    ASSERT_TRUE(eventually([&] { return busy == 2; }));
    EXPECT_FALSE(kernel->stop(clock.now_ns() + 10 * kNsPerMs));
    EXPECT_FALSE(kernel->stop(0));
    release = true;
    EXPECT_TRUE(kernel->stop());
}

// Promise 10.
TEST_F(KernelTest, AFloodedServiceDoesNotStarveAnother) {
    KernelOptions options;
    options.workers = 1;
    make(options);
    std::atomic<std::int64_t> handled{0};
    Made flooded = add();
    flooded.actor->on_message = [&](MessagePtr message) {
        ++handled;
        message->to = flooded.handle;
        (void)kernel->post(message);
    };
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(send(flooded.handle), PostResult::ok);
    std::atomic<int> quiet{0};
    std::atomic<std::int64_t> handled_before{0};
    const Made other = add([&](MessagePtr) {
        handled_before = handled.load();
        ++quiet;
    });
    ASSERT_TRUE(kernel->start().ok());
    for (int i = 1; i <= 100; ++i) {
        ASSERT_EQ(send(other.handle), PostResult::ok);
        const std::int64_t posted_at = handled;
        ASSERT_TRUE(eventually([&] { return quiet == i; }));
        // In messages, which take as long as they take on this machine: a few turns of 64.
        EXPECT_LE(handled_before - posted_at, 64 * kTurnMessages);
    }
    kernel->stop();
}

TEST_F(KernelTest, AnIdleKernelUsesNoProcessorTime) {
    make();
    add();
    ASSERT_TRUE(kernel->start().ok());
    // The watchdog, too, falls asleep at first; and a kernel that spins never has a quiet moment.
    double least_ms = 1e9;
    for (int i = 0; i < 10 && least_ms >= 2.0; ++i) {
        timespec before;
        timespec after;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
        least_ms =
            std::min(least_ms, static_cast<double>(after.tv_sec - before.tv_sec) * 1e3 +
                                   static_cast<double>(after.tv_nsec - before.tv_nsec) / 1e6);
    }
    EXPECT_LT(least_ms, 2.0);
}

TEST_F(KernelTest, TenKernelsLiveInOneProcess) {
    std::vector<std::unique_ptr<Kernel>> kernels;
    std::atomic<int> handled{0};
    make();
    for (int i = 0; i < 10; ++i) {
        KernelOptions options;
        options.workers = 2;
        kernels.push_back(
            std::make_unique<Kernel>(options, Kernel::Environment{clock, random, *log}));
        auto actor = std::make_unique<Scripted>();
        actor->on_message = [&](MessagePtr) { ++handled; };
        ActorCell* cell = kernels.back()->create_cell(std::move(actor));
        const Handle handle = kernels.back()->add_service(cell, nullptr).value();
        kernels.back()->launch(cell);
        ASSERT_TRUE(kernels.back()->start().ok());
        MessagePtr message = make_message(MessageKind::send, handle, {}, 0);
        ASSERT_EQ(kernels.back()->post(message), PostResult::ok);
    }
    EXPECT_TRUE(eventually([&] { return handled == 10; }));
}

// The order of a seeded run, as what its actors saw.
std::string seeded_trace(std::uint64_t seed) {
    VirtualClock clock;
    SeededRandom random(seed);
    LogOptions log_options;
    log_options.descriptor = -1;
    log_options.queue = 64;
    const std::unique_ptr<Log> log = std::move(Log::open(log_options, &clock).value());
    KernelOptions options;
    options.seeded = true;
    options.seed = seed;
    Kernel kernel(options, Kernel::Environment{clock, random, *log, &clock});
    std::string trace;
    std::vector<Handle> handles;
    std::vector<std::unique_ptr<OwnerTimers>> timers;
    std::atomic<bool> done{false};
    for (int i = 0; i < 8; ++i) {
        auto actor = std::make_unique<Scripted>();
        actor->on_message = [&, i](MessagePtr message) {
            if (trace.size() > 2000) {
                done = true;
                return;
            }
            trace += static_cast<char>('a' + i);
            if (message->kind == MessageKind::timer) trace += '!';
            const Handle next = handles[random.below(handles.size())];
            if (random.below(4) == 0) {
                kernel.add_timer(
                    *timers[i], 1,
                    clock.now_ns() + static_cast<std::int64_t>(random.below(50)) * kNsPerMs);
            } else {
                MessagePtr out = make_message(MessageKind::send, next, {}, 0);
                (void)kernel.post(out);
            }
        };
        ActorCell* cell = kernel.create_cell(std::move(actor));
        handles.push_back(kernel.add_service(cell, nullptr).value());
        timers.push_back(std::make_unique<OwnerTimers>(handles.back()));
        kernel.launch(cell);
    }
    for (const Handle handle : handles) {
        MessagePtr message = make_message(MessageKind::send, handle, {}, 0);
        (void)kernel.post(message);
    }
    (void)kernel.start();
    for (int i = 0; i < 5000 && !done; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    kernel.stop();
    for (const auto& owner : timers) kernel.timers().cancel_all(*owner);
    return trace.substr(0, 2000);
}

TEST(SeededKernel, TheSameSeedGivesTheSameOrderAHundredTimes) {
    const std::string first = seeded_trace(42);
    ASSERT_EQ(first.size(), 2000u);
    for (int i = 0; i < 99; ++i) ASSERT_EQ(seeded_trace(42), first) << "run " << i + 2;
    EXPECT_NE(seeded_trace(43), first);
}

}  // namespace
}  // namespace perilune
