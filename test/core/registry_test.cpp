#include "core/registry.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>
#include <unordered_set>

namespace perilune {
namespace {

class RegistryTest : public ::testing::Test {
  protected:
    SeededRandom random{1};
    Registry registry{random};
    ActorCell cell;
};

TEST_F(RegistryTest, ADeadHandleIsNeverFoundAgain) {
    const Handle first = registry.add(&cell, nullptr).value();
    EXPECT_TRUE(registry.alive(first));
    registry.remove(first);
    EXPECT_FALSE(registry.alive(first));
    // Far more than the slots that lie between two uses of one.
    bool reused = false;
    for (std::size_t i = 0; i < 3 * Registry::kMinFree; ++i) {
        const Handle handle = registry.add(&cell, nullptr).value();
        if (handle.slot() == first.slot()) {
            reused = true;
            EXPECT_NE(handle.generation(), first.generation());
        }
        EXPECT_FALSE(registry.alive(first));
        registry.remove(handle);
    }
    EXPECT_TRUE(reused);
}

TEST_F(RegistryTest, ASlotRestsUntilManyOthersHaveBeenFree) {
    const Handle first = registry.add(&cell, nullptr).value();
    registry.remove(first);
    for (std::size_t i = 0; i < Registry::kMinFree; ++i) {
        const Handle handle = registry.add(&cell, nullptr).value();
        ASSERT_NE(handle.slot(), first.slot()) << "after " << i;
        registry.remove(handle);
    }
}

TEST_F(RegistryTest, HandlesAreExactInALuaNumber) {
    const Handle handle = Handle::make(kMaxSlots - 1, kMaxGeneration, 1023);
    EXPECT_LT(handle.value, std::uint64_t{1} << 53);
    EXPECT_EQ(static_cast<std::uint64_t>(static_cast<double>(handle.value)), handle.value);
    EXPECT_EQ(handle.slot(), kMaxSlots - 1);
    EXPECT_EQ(handle.generation(), kMaxGeneration);
    EXPECT_EQ(handle.node(), 1023u);
}

TEST_F(RegistryTest, GenerationsBeginElsewhereAtEachStart) {
    SeededRandom other_random{2};
    Registry other{other_random};
    std::unordered_set<std::uint64_t> values;
    for (int i = 0; i < 100; ++i) values.insert(registry.add(&cell, nullptr).value().value);
    int common = 0;
    for (int i = 0; i < 100; ++i) {
        common += static_cast<int>(values.count(other.add(&cell, nullptr).value().value));
    }
    EXPECT_EQ(common, 0);
}

TEST_F(RegistryTest, ANameBelongsToOneServiceAndIsFreeAfterItsDeath) {
    const Handle first = registry.add(&cell, nullptr).value();
    const Handle second = registry.add(&cell, nullptr).value();
    EXPECT_TRUE(registry.set_name("auth", first).ok());
    EXPECT_TRUE(registry.set_name("auth", first).ok());
    EXPECT_EQ(registry.set_name("auth", second).code(), StatusCode::exists);
    EXPECT_EQ(registry.find_name("auth"), first);
    EXPECT_EQ(registry.name_of(first), "auth");
    registry.remove(first);
    EXPECT_FALSE(registry.find_name("auth"));
    EXPECT_EQ(registry.set_name("auth", first).code(), StatusCode::dead);
    EXPECT_TRUE(registry.set_name("auth", second).ok());
    EXPECT_EQ(registry.set_name("", second).code(), StatusCode::invalid);
    EXPECT_EQ(registry.set_name(std::string(129, 'n'), second).code(), StatusCode::invalid);
}

TEST_F(RegistryTest, MonitorsAreToldOfOneDeathOnce) {
    const Handle target = registry.add(&cell, nullptr).value();
    const Handle watcher = registry.add(&cell, nullptr).value();
    EXPECT_TRUE(registry.monitor(watcher, target));
    EXPECT_TRUE(registry.monitor(watcher, target));
    EXPECT_EQ(registry.remove(target), std::vector<Handle>{watcher});
    EXPECT_TRUE(registry.remove(target).empty());
    EXPECT_FALSE(registry.monitor(watcher, target));
}

// Promise 7, the part of handles: lookups of stale ids while slots are used again and again.
TEST_F(RegistryTest, StaleHandlesStayDeadWhileOthersComeAndGo) {
#if defined(PERILUNE_TSAN) || defined(PERILUNE_ASAN)
    constexpr int kUsual = 200'000;
#else
    constexpr int kUsual = 2'000'000;
#endif
    const int cycles = std::getenv("PERILUNE_SOAK") != nullptr ? 20'000'000 : kUsual;
    std::vector<Handle> stale;
    for (int i = 0; i < 8; ++i) {
        stale.push_back(registry.add(&cell, nullptr).value());
        registry.remove(stale.back());
    }
    std::atomic<bool> done{false};
    std::atomic<int> found{0};
    std::thread poker([&] {
        while (!done.load()) {
            for (const Handle handle : stale) found += registry.alive(handle) ? 1 : 0;
        }
    });
    for (int i = 0; i < cycles; ++i) registry.remove(registry.add(&cell, nullptr).value());
    done.store(true);
    poker.join();
    EXPECT_EQ(found.load(), 0);
}

}  // namespace
}  // namespace perilune
