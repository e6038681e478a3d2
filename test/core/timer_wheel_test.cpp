#include "core/timer_wheel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <unordered_set>
#include <vector>

#include "core/clock.h"
#include "core/random.h"

namespace perilune {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kScale = 10;  // fewer of everything: sanitizers are slow
#else
constexpr int kScale = 1;
#endif

constexpr std::int64_t kTickNs = TimerWheel::kTickNs;

struct Event {
    Handle owner;
    std::uint64_t session;
    TimerId id;
    std::int64_t due_ns;
};

// Remembers what expired, and may do something about it.
class Recorder : public TimerSink {
  public:
    void expired(Handle owner, std::uint64_t session, TimerId id, std::int64_t due_ns) override {
        events.push_back({owner, session, id, due_ns});
        if (on_expired) on_expired(events.back());
    }
    std::vector<std::uint64_t> sessions() const {
        std::vector<std::uint64_t> result;
        for (const Event& event : events) result.push_back(event.session);
        return result;
    }
    std::vector<Event> events;
    std::function<void(const Event&)> on_expired;
};

class Counter : public TimerSink {
  public:
    void expired(Handle, std::uint64_t, TimerId, std::int64_t) override { ++count; }
    std::size_t count = 0;
};

// A wheel with one owner, whose timers are cancelled at the end.
struct Fixture {
    explicit Fixture(const TimerWheelOptions& options = {}) : wheel(options) {}
    ~Fixture() { wheel.cancel_all(owner); }
    TimerId add_ms(std::uint64_t session, std::int64_t due_ms, std::int64_t period_ms = 0) {
        return wheel.add(owner, session, due_ms * kNsPerMs, period_ms * kNsPerMs);
    }
    std::size_t advance_ms(std::int64_t now_ms) {
        return wheel.advance(now_ms * kNsPerMs, recorder);
    }
    TimerWheel wheel;
    OwnerTimers owner{Handle::make(5, 7)};
    Recorder recorder;
};

TEST(TimerWheel, ATimerExpiresInTheFirstTickAtOrAfterItsTime) {
    for (const std::int64_t due_ms :
         {1ll, 2ll, 255ll, 256ll, 257ll, 16'383ll, 16'384ll, 16'385ll, 1'048'576ll, 67'108'864ll,
          4'294'967'296ll, 274'877'906'944ll, 9'000'000'000'000ll}) {
        for (const std::int64_t extra_ns : {-1ll, 0ll, 1ll}) {
            Fixture f;
            f.wheel.add(f.owner, 1, due_ms * kNsPerMs + extra_ns);
            const std::int64_t tick_ns = due_ms * kNsPerMs + (extra_ns > 0 ? kTickNs : 0);
            f.wheel.advance(tick_ns - 1, f.recorder);
            EXPECT_EQ(f.recorder.events.size(), 0u) << due_ms << " " << extra_ns;
            f.wheel.advance(tick_ns, f.recorder);
            EXPECT_EQ(f.recorder.events.size(), 1u) << due_ms << " " << extra_ns;
            EXPECT_EQ(f.wheel.next_due_ns(), INT64_MAX);
        }
    }
}

TEST(TimerWheel, TheCallbackGetsOwnerSessionIdAndTheTimeAskedFor) {
    Fixture f;
    const TimerId id = f.wheel.add(f.owner, 99, 12'345'678);
    f.advance_ms(20);
    ASSERT_EQ(f.recorder.events.size(), 1u);
    EXPECT_EQ(f.recorder.events[0].owner, Handle::make(5, 7));
    EXPECT_EQ(f.recorder.events[0].session, 99u);
    EXPECT_EQ(f.recorder.events[0].id, id);
    EXPECT_EQ(f.recorder.events[0].due_ns, 12'345'678);
    EXPECT_NE(id.value, 0u);
}

TEST(TimerWheel, TimersOfATickExpireInOrderOfAddingAlsoWhenAddedFromAfarAndFromNear) {
    Fixture f;
    f.add_ms(1, 70'000);
    f.add_ms(0, 65'000);
    f.advance_ms(65'000);
    f.add_ms(2, 70'000);
    f.advance_ms(69'990);
    f.add_ms(3, 70'000);
    f.add_ms(4, 69'999);
    f.advance_ms(80'000);
    EXPECT_EQ(f.recorder.sessions(), (std::vector<std::uint64_t>{0, 4, 1, 2, 3}));
}

TEST(TimerWheel, ATimeThatHasPassedExpiresInTheNextTick) {
    Fixture f({.start_ns = 1000 * kNsPerMs});
    f.advance_ms(2000);
    f.add_ms(1, 5);
    f.wheel.add(f.owner, 2, -77);
    f.wheel.add(f.owner, 3, INT64_MIN);
    EXPECT_EQ(f.advance_ms(2000), 0u);
    EXPECT_EQ(f.wheel.next_due_ns(), 2000 * kNsPerMs + kTickNs);
    EXPECT_EQ(f.advance_ms(2001), 3u);
    EXPECT_EQ(f.recorder.sessions(), (std::vector<std::uint64_t>{1, 2, 3}));
}

TEST(TimerWheel, DelaysOfAnyLengthNeitherWrapNorExpireEarly) {
    const std::int64_t now = 77 * kNsPerSecond;
    EXPECT_EQ(TimerWheel::due_after(now, 5), now + 5 * kNsPerMs);
    EXPECT_EQ(TimerWheel::due_after(now, -5), now);
    EXPECT_EQ(TimerWheel::due_after(now, std::int64_t{1} << 53), INT64_MAX);
    EXPECT_EQ(TimerWheel::due_after(now, INT64_MAX), INT64_MAX);
    EXPECT_EQ(TimerWheel::due_after(INT64_MAX - 5, 1), INT64_MAX);
    Fixture f({.start_ns = now});
    f.wheel.add(f.owner, 1, TimerWheel::due_after(now, std::int64_t{1} << 53));
    f.wheel.add(f.owner, 2, TimerWheel::due_after(now, INT64_MAX), INT64_MAX);
    for (std::int64_t time = now; time < INT64_MAX / 3; time *= 3) {
        EXPECT_EQ(f.wheel.advance(time, f.recorder), 0u);
    }
    EXPECT_EQ(f.wheel.advance(INT64_MAX, f.recorder), 0u);  // its tick is after the end of time
    EXPECT_EQ(f.wheel.counters().waiting, 2u);
}

TEST(TimerWheel, NextDueIsALowerBoundThatLeadsToTheTimerInFewSteps) {
    Fixture f;
    EXPECT_EQ(f.wheel.next_due_ns(), INT64_MAX);
    const std::int64_t due = 9'000'000'000'123 * kNsPerMs;
    f.wheel.add(f.owner, 1, due);
    int steps = 0;
    while (f.recorder.events.empty()) {
        ASSERT_LE(f.wheel.next_due_ns(), due);
        f.wheel.advance(f.wheel.next_due_ns(), f.recorder);
        ASSERT_LT(++steps, 10);
    }
    EXPECT_EQ(f.wheel.next_due_ns(), INT64_MAX);
    const std::int64_t soon = due + 20 * kNsPerMs;
    f.wheel.add(f.owner, 2, soon);
    const TimerId sooner = f.wheel.add(f.owner, 3, soon - 5 * kNsPerMs);
    EXPECT_EQ(f.wheel.next_due_ns(), soon - 5 * kNsPerMs);
    EXPECT_TRUE(f.wheel.cancel(sooner));
    EXPECT_EQ(f.wheel.next_due_ns(), soon);
}

TEST(TimerWheel, CancelWinsOnceAndAStaleIdCancelsNothing) {
    Fixture f;
    const TimerId id = f.add_ms(1, 10);
    EXPECT_TRUE(f.wheel.cancel(id));
    EXPECT_FALSE(f.wheel.cancel(id));
    EXPECT_FALSE(f.wheel.cancel({}));
    EXPECT_FALSE(f.wheel.cancel(TimerId{~0ull}));
    EXPECT_FALSE(f.wheel.cancel(TimerId::make(id.slot(), id.generation() + 1)));
    EXPECT_EQ(f.advance_ms(100), 0u);
    const TimerId second = f.add_ms(2, 200);
    EXPECT_EQ(f.advance_ms(200), 1u);
    EXPECT_FALSE(f.wheel.cancel(second));
    EXPECT_EQ(f.wheel.counters().cancelled, 1u);
}

TEST(TimerWheel, AnOwnerCannotCancelTheTimersOfAnother) {
    Fixture f;
    OwnerTimers other;
    const TimerId id = f.add_ms(1, 10);
    EXPECT_FALSE(f.wheel.cancel(id, &other));
    EXPECT_TRUE(f.wheel.cancel(id, &f.owner));
}

TEST(TimerWheel, CancelAllEndsTheTimersOfOneOwnerOnly) {
    Fixture f;
    OwnerTimers other(Handle::make(6, 1));
    for (int i = 0; i < 10'000; ++i) {
        f.add_ms(1, 10 + i * 7, i % 3 == 0 ? 50 : 0);
        f.wheel.add(other, 2, (10 + i * 7) * kNsPerMs);
    }
    EXPECT_EQ(f.wheel.cancel_all(f.owner), 10'000u);
    EXPECT_EQ(f.wheel.cancel_all(f.owner), 0u);
    EXPECT_EQ(f.advance_ms(100'000), 10'000u);
    for (const Event& event : f.recorder.events) ASSERT_EQ(event.owner, Handle::make(6, 1));
    EXPECT_EQ(f.wheel.counters().waiting, 0u);
}

TEST(TimerWheel, ARepeatingTimerDoesNotDrift) {
    Fixture f;
    const std::int64_t period = kNsPerSecond / 60;  // 16.666666 ms
    f.wheel.add(f.owner, 1, period, period);
    std::int64_t now = 0;
    for (int i = 1; i <= 100'000; ++i) {
        while (f.recorder.events.size() < static_cast<std::size_t>(i)) {
            now = std::max(now, f.wheel.next_due_ns());
            f.wheel.advance(now, f.recorder);
        }
        ASSERT_EQ(f.recorder.events.back().due_ns, i * period);
        ASSERT_GE(now, i * period);
        ASSERT_LT(now, i * period + kTickNs);
    }
}

TEST(TimerWheel, RepetitionsThatWereMissedAreSkippedNotMadeUpFor) {
    Fixture f;
    f.add_ms(1, 100, 100);
    EXPECT_EQ(f.advance_ms(1'050), 1u);
    EXPECT_EQ(f.advance_ms(1'099), 0u);
    EXPECT_EQ(f.advance_ms(1'100), 1u);
    EXPECT_EQ(f.advance_ms(1'200), 1u);
    EXPECT_EQ(f.advance_ms(1'000'000'000), 1u);
    EXPECT_EQ(f.advance_ms(1'000'000'099), 0u);
    EXPECT_EQ(f.advance_ms(1'000'000'100), 1u);
    EXPECT_EQ(f.recorder.events.back().due_ns, 1'000'000'100 * kNsPerMs);
}

TEST(TimerWheel, APeriodShorterThanATickExpiresOnceATick) {
    Fixture f;
    f.wheel.add(f.owner, 1, 1, 1);
    for (int ms = 1; ms <= 100; ++ms) EXPECT_EQ(f.advance_ms(ms), 1u);
}

TEST(TimerWheel, ARepeatingTimerKeepsItsIdAndCanBeCancelledBetweenAndFromItsCallback) {
    Fixture f;
    const TimerId id = f.add_ms(1, 10, 10);
    f.advance_ms(10);
    f.advance_ms(20);
    EXPECT_EQ(f.recorder.events[1].id, id);
    EXPECT_TRUE(f.wheel.cancel(id));
    EXPECT_EQ(f.advance_ms(1000), 0u);

    const TimerId second = f.add_ms(2, 1010, 10);
    f.recorder.on_expired = [&](const Event&) {
        EXPECT_FALSE(f.wheel.cancel(second));  // this callback does happen
    };
    EXPECT_EQ(f.advance_ms(1010), 1u);
    EXPECT_EQ(f.advance_ms(2000), 0u);
    EXPECT_EQ(f.wheel.counters().waiting, 0u);
}

TEST(TimerWheel, CallbacksMayAddCancelAndAdvance) {
    Fixture f;
    const TimerId victim = f.add_ms(9, 30);
    f.add_ms(1, 10);
    f.recorder.on_expired = [&](const Event& event) {
        if (event.session == 1) {
            EXPECT_TRUE(f.wheel.cancel(victim));
            f.add_ms(2, 20);
            f.add_ms(3, 60);
            EXPECT_EQ(f.advance_ms(50), 0u);  // this advance is at work already
        }
    };
    EXPECT_EQ(f.advance_ms(40), 2u);
    EXPECT_EQ(f.recorder.sessions(), (std::vector<std::uint64_t>{1, 2}));
    EXPECT_EQ(f.advance_ms(60), 1u);
}

TEST(TimerWheel, ACallbackThatAddsAnOverdueTimerForEverDoesNotHoldUpAdvance) {
    Fixture f;
    f.add_ms(1, 10);
    f.recorder.on_expired = [&](const Event&) { f.add_ms(1, 0); };
    EXPECT_EQ(f.advance_ms(1000), 990u * kNsPerMs / kTickNs + 1);  // once a tick
}

TEST(TimerWheel, ASlotIsUsedAgainAfterAllOthersThatAreFree) {
    Fixture f({.free_slots = 100});
    std::vector<TimerId> ids;
    for (int i = 0; i < 1000; ++i) {
        ids.push_back(f.add_ms(1, 10));
        EXPECT_TRUE(f.wheel.cancel(ids.back()));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
        EXPECT_EQ(ids[i].slot(), i % 101);
        if (i >= 101) {
            EXPECT_EQ(ids[i].generation(), ids[i - 101].generation() % kMaxGeneration + 1);
        }
    }
}

TEST(TimerWheel, GenerationsStartElsewhereWithAnotherSeed) {
    Fixture one({.seed = 1});
    Fixture two({.seed = 2});
    Fixture same({.seed = 1});
    const TimerId id = one.add_ms(1, 10);
    EXPECT_NE(id, two.add_ms(1, 10));
    EXPECT_EQ(id, same.add_ms(1, 10));
}

TEST(TimerWheel, ASlotWhoseGenerationsAreUsedUpRetiresAndNoIdComesTwice) {
    Fixture f({.slots = 10, .free_slots = 2, .generations = 50});
    std::set<std::uint64_t> ids;
    for (int i = 0; i < 10 * 50; ++i) {
        const TimerId id = f.add_ms(1, 10);
        ASSERT_TRUE(id) << i;
        ASSERT_NE(id.generation(), 0u);
        ASSERT_LE(id.generation(), 50u);
        ASSERT_TRUE(ids.insert(id.value).second);
        ASSERT_TRUE(f.wheel.cancel(id));
    }
    EXPECT_FALSE(f.add_ms(1, 10));
    EXPECT_EQ(f.wheel.counters().retired, 10u);
    EXPECT_EQ(f.wheel.counters().refused, 1u);
}

TEST(TimerWheel, WhenAllSlotsAreTakenAddSaysSo) {
    Fixture f({.slots = 1500});
    for (int i = 0; i < 1500; ++i) ASSERT_TRUE(f.add_ms(1, 10 + i));
    EXPECT_FALSE(f.add_ms(1, 10));
    EXPECT_EQ(f.advance_ms(10), 1u);
    EXPECT_TRUE(f.add_ms(1, 20));
}

TEST(TimerWheelDeathTest, AnOwnerThatIsDestroyedWithTimersStopsTheProcess) {
    EXPECT_DEATH(
        {
            TimerWheel wheel;
            OwnerTimers owner;
            wheel.add(owner, 1, 5);
        },
        "owner of 1 timers");
}

// The same by a multimap from (tick, order of adding).
class Model {
  public:
    std::int64_t tick = 0;
    std::uint64_t order = 0;
    struct Timer {
        std::uint64_t session;
        std::int64_t due_ns;
        std::int64_t period_ns;
        int owner;
    };
    using Key = std::pair<std::int64_t, std::uint64_t>;
    std::map<Key, Timer> timers;
    std::map<std::uint64_t, Key> by_session;

    void add(const Timer& timer) {
        const std::int64_t due = std::max<std::int64_t>(timer.due_ns, 0);
        const Key key{std::max((due + kTickNs - 1) / kTickNs, tick + 1), order++};
        timers.emplace(key, timer);
        by_session[timer.session] = key;
    }
    bool cancel(std::uint64_t session) {
        const auto found = by_session.find(session);
        if (found == by_session.end()) return false;
        timers.erase(found->second);
        by_session.erase(found);
        return true;
    }
    std::vector<std::uint64_t> advance(std::int64_t now_ns) {
        std::vector<std::uint64_t> sessions;
        while (!timers.empty() && timers.begin()->first.first <= now_ns / kTickNs) {
            tick = timers.begin()->first.first;
            Timer timer = timers.begin()->second;
            timers.erase(timers.begin());
            by_session.erase(timer.session);
            sessions.push_back(timer.session);
            if (timer.period_ns == 0) continue;
            while (timer.due_ns <= now_ns) {
                timer.due_ns += ((now_ns - timer.due_ns) / timer.period_ns + 1) * timer.period_ns;
            }
            add(timer);
        }
        tick = std::max(tick, now_ns / kTickNs);
        return sessions;
    }
};

TEST(TimerWheel, AMillionRandomStepsGoAsWithASortedMap) {
    for (const std::uint64_t seed : {1, 2, 3, 4}) {
        SeededRandom random(seed);
        TimerWheel wheel({.seed = seed, .free_slots = 500});
        std::vector<std::unique_ptr<OwnerTimers>> owners;
        for (std::uint32_t i = 0; i < 8; ++i) {
            owners.push_back(std::make_unique<OwnerTimers>(Handle::make(i, 1)));
        }
        Model model;
        std::vector<TimerId> ids;  // of session 0, 1, ...
        std::int64_t now = 0;
        const auto random_span = [&random] {  // of every size alike
            return static_cast<std::int64_t>(random.below(1ull << random.below(45)));
        };
        for (int step = 0; step < 250'000 / kScale; ++step) {
            const std::uint64_t kind = random.below(100);
            if (kind < 50) {
                const int owner = static_cast<int>(random.below(owners.size()));
                const std::int64_t due =
                    now + random_span() - static_cast<std::int64_t>(random.below(kNsPerMs));
                const std::int64_t period =
                    random.below(20) == 0 ? random_span() + kNsPerMs / 2 : 0;
                const std::uint64_t session = ids.size();
                ids.push_back(wheel.add(*owners[owner], session, due, period));
                ASSERT_TRUE(ids.back());
                model.add({session, due, period, owner});
            } else if (kind < 80 && !ids.empty()) {
                const std::uint64_t session =
                    ids.size() - 1 - random.below(std::min<std::uint64_t>(ids.size(), 2000));
                ASSERT_EQ(wheel.cancel(ids[session]), model.cancel(session));
            } else if (kind == 80 && random.below(20) == 0) {
                const int owner = static_cast<int>(random.below(owners.size()));
                std::size_t count = 0;
                for (auto i = model.timers.begin(); i != model.timers.end();) {
                    if (i->second.owner != owner) {
                        ++i;
                        continue;
                    }
                    model.by_session.erase(i->second.session);
                    i = model.timers.erase(i);
                    ++count;
                }
                ASSERT_EQ(wheel.cancel_all(*owners[owner]), count);
            } else {
                now += random_span() / 64;
                Recorder recorder;
                const std::size_t count = wheel.advance(now, recorder);
                ASSERT_EQ(count, recorder.events.size());
                ASSERT_EQ(recorder.sessions(), model.advance(now)) << "step " << step;
                for (const Event& event : recorder.events) {
                    ASSERT_EQ(event.id, ids[event.session]);
                    ASSERT_LE(event.due_ns, now);
                }
            }
            ASSERT_EQ(wheel.counters().waiting, model.timers.size());
            const std::int64_t next = wheel.next_due_ns();
            if (model.timers.empty()) {
                ASSERT_EQ(next, INT64_MAX);
            } else {
                ASSERT_LE(next, model.timers.begin()->first.first * kTickNs);
                ASSERT_GT(next, now);
            }
        }
        for (auto& owner : owners) wheel.cancel_all(*owner);
    }
}

TEST(TimerWheel, AMillionTimersSpreadOverAnHourAllExpireOnTheirTick) {
    const int count = 1'000'000 / kScale;
    const std::int64_t span = 3600 * kNsPerSecond / kScale;
    SeededRandom random(3);
    Fixture f;
    std::vector<std::int64_t> due(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
        due[i] = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(span)));
        ASSERT_TRUE(f.wheel.add(f.owner, i, due[i]));
    }
    std::int64_t now = 0;
    std::size_t expired = 0;
    f.recorder.on_expired = [&](const Event& event) {
        ++expired;
        ASSERT_LE(due[event.session], now);
        ASSERT_GT(due[event.session], now - kNsPerMs);
        f.recorder.events.clear();
    };
    for (; now <= span; now += kNsPerMs) f.wheel.advance(now, f.recorder);
    EXPECT_EQ(expired, static_cast<std::size_t>(count));
}

TEST(TimerWheel, AMillionTimersOfOneTickExpireInOrderOfAdding) {
    const std::uint64_t count = 1'000'000 / kScale;
    Fixture f;
    for (std::uint64_t i = 0; i < count; ++i) f.add_ms(i, 5'000);
    std::uint64_t next = 0;
    f.recorder.on_expired = [&](const Event& event) {
        ASSERT_EQ(event.session, next++);
        f.recorder.events.clear();
    };
    EXPECT_EQ(f.advance_ms(4'999), 0u);
    EXPECT_EQ(f.advance_ms(5'000), count);
}

TEST(TimerWheel, AMillionAddsAndCancelsLeaveNothing) {
    Fixture f;
    for (int i = 0; i < 1'000'000 / kScale; ++i) {
        ASSERT_TRUE(f.wheel.cancel(f.add_ms(1, 5'000 + i % 1000)));
    }
    EXPECT_EQ(f.wheel.next_due_ns(), INT64_MAX);
    EXPECT_EQ(f.advance_ms(100'000), 0u);
}

TEST(TimerWheel, ThreadsThatAddAndCancelWhileOneAdvancesGetEachTimerOnceOrCancelled) {
    TimerWheel wheel({.free_slots = 1000});
    VirtualClock clock;
    constexpr int kThreads = 3;
    const int per_thread = 60'000 / kScale;
    // By session: how often it expired, and whether cancel said it would not.
    std::vector<std::atomic<int>> expired(static_cast<std::size_t>(kThreads * per_thread));
    std::vector<char> cancelled(expired.size());

    class Sink : public TimerSink {
      public:
        Sink(std::vector<std::atomic<int>>& counts, VirtualClock& time)
            : counts_(counts), clock_(time) {}
        void expired(Handle, std::uint64_t session, TimerId, std::int64_t due_ns) override {
            counts_[session].fetch_add(1);
            EXPECT_LE(due_ns, clock_.now_ns());
        }

      private:
        std::vector<std::atomic<int>>& counts_;
        VirtualClock& clock_;
    } sink(expired, clock);

    std::atomic<int> working{kThreads};
    std::vector<std::thread> threads;
    for (int part = 0; part < kThreads; ++part) {
        threads.emplace_back([&, part] {
            SeededRandom random(static_cast<std::uint64_t>(part));
            OwnerTimers owner(Handle::make(static_cast<std::uint32_t>(part), 1));
            std::vector<std::pair<TimerId, std::size_t>> ids;
            for (int i = 0; i < per_thread; ++i) {
                const std::size_t session = static_cast<std::size_t>(part * per_thread + i);
                const auto delay = static_cast<std::int64_t>(random.below(400));
                const TimerId id =
                    wheel.add(owner, session, TimerWheel::due_after(clock.now_ns(), delay));
                ids.emplace_back(id, session);
                if (random.below(2) == 0) {
                    const auto [victim, its_session] = ids[random.below(ids.size())];
                    if (wheel.cancel(victim, &owner)) {
                        ASSERT_FALSE(cancelled[its_session]);
                        cancelled[its_session] = 1;
                    }
                }
            }
            while (clock.now_ns() >= 0 && wheel.next_due_ns() != INT64_MAX) {
                std::this_thread::yield();
            }
            EXPECT_EQ(wheel.cancel_all(owner), 0u);
            working.fetch_sub(1);
        });
    }
    std::thread second([&] {  // advancing at the same time is allowed
        while (working.load() > 0) wheel.advance(clock.now_ns(), sink);
    });
    while (working.load() > 0) {
        clock.advance_by(kNsPerMs / 2);
        wheel.advance(clock.now_ns(), sink);
        std::this_thread::yield();
    }
    for (std::thread& thread : threads) thread.join();
    second.join();
    for (std::size_t i = 0; i < expired.size(); ++i) {
        ASSERT_EQ(expired[i].load() + cancelled[i], 1) << i;
    }
}

TEST(TimerWheel, TimersOfATickStayInOrderAlsoWhileOthersOfItAreBeingMovedOrExpire) {
    for (int round = 0; round < 10; ++round) {
        Fixture f;
        const std::int64_t due = 70'000;
        std::uint64_t added = 0;
        for (; added < 50'000 / kScale; ++added) f.add_ms(added, due);
        std::thread adder([&] {
            while (added < 100'000 / kScale) f.add_ms(added++, due);
        });
        f.advance_ms(due + 5);
        adder.join();
        f.advance_ms(due + 10);
        ASSERT_EQ(f.recorder.events.size(), added);
        for (std::size_t i = 0; i < added; ++i) ASSERT_EQ(f.recorder.events[i].session, i);
    }
}

TEST(TimerWheel, ARepeatingTimerNeverExpiresAfterACancelThatSaidTrue) {
    TimerWheel wheel;
    OwnerTimers owner;
    class Sink : public TimerSink {
      public:
        void expired(Handle, std::uint64_t session, TimerId, std::int64_t) override {
            EXPECT_FALSE(ended[session].load()) << session;
        }
        // cancel() said true.
        std::vector<std::atomic<bool>> ended = std::vector<std::atomic<bool>>(20'000 / kScale);
    } sink;
    std::atomic<bool> done{false};
    std::atomic<std::int64_t> now{0};
    std::thread poller([&] {
        while (!done.load()) wheel.advance(now.fetch_add(kNsPerMs), sink);
    });
    int true_cancels = 0;
    for (std::uint64_t session = 0; session < 20'000 / kScale; ++session) {
        const TimerId id = wheel.add(owner, session, now.load(), kNsPerMs);
        for (std::uint64_t i = 0; i < session % 50; ++i) wheel.next_due_ns();
        if (wheel.cancel(id)) {
            sink.ended[session].store(true);
            ++true_cancels;
        }
        EXPECT_FALSE(wheel.cancel(id));
    }
    done.store(true);
    poller.join();
    EXPECT_GT(true_cancels, 0);
    EXPECT_EQ(wheel.counters().waiting, 0u);
}

// Leaves its repetitions waiting.
class Slow : public Counter {
  public:
    bool repeated(Handle, std::uint64_t, TimerId id, std::int64_t) override {
        last = id;
        ++count;
        return false;
    }
    TimerId last;
};

TEST(TimerWheel, ARepetitionIsSkippedWhileTheOneBeforeIsNotHandled) {
    Fixture fixture;
    Slow sink;
    const TimerId id = fixture.add_ms(1, 10, 10);
    for (int ms = 0; ms <= 100; ++ms) fixture.wheel.advance(ms * kNsPerMs, sink);
    EXPECT_EQ(sink.count, 1u);
    EXPECT_EQ(sink.last, id);
    EXPECT_EQ(fixture.wheel.counters().skipped, 9u);
    fixture.wheel.handled(id);
    fixture.wheel.advance(109 * kNsPerMs, sink);
    EXPECT_EQ(sink.count, 1u) << "it keeps its times";
    fixture.wheel.advance(110 * kNsPerMs, sink);
    EXPECT_EQ(sink.count, 2u);
    EXPECT_TRUE(fixture.wheel.cancel(id));
    fixture.wheel.handled(id);  // late
}

TEST(TimerWheel, BoundedTimersLeaveOthersTheirShare) {
    TimerWheelOptions options;
    options.slots = 10;
    options.free_slots = 0;
    options.per_owner = 4;
    options.reserved = 3;
    TimerWheel wheel(options);
    OwnerTimers greedy;
    OwnerTimers second;
    OwnerTimers engine;
    const auto add = [&](OwnerTimers& owner, bool bounded) {
        return wheel.add(owner, 1, 5 * kNsPerMs, 0, bounded);
    };
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(add(greedy, true));
    EXPECT_FALSE(add(greedy, true)) << "an owner has its limit";
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(add(second, true));
    EXPECT_FALSE(add(second, true)) << "all of them together, too";
    EXPECT_EQ(wheel.counters().refused, 2u);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(add(engine, false));
    EXPECT_FALSE(add(engine, false));
    wheel.cancel_all(greedy);
    EXPECT_TRUE(add(second, true));
    wheel.cancel_all(second);
    wheel.cancel_all(engine);
}

}  // namespace
}  // namespace perilune
