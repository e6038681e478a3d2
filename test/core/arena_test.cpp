// The arena of a VM and the pool it draws from, without Lua.
#include "lua/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace perilune {
namespace {

std::unique_ptr<PagePool> make_pool(const PagePool::Options& options = {}) {
    auto pool = PagePool::create(options);
    EXPECT_TRUE(pool.ok()) << pool.status().message();
    return std::move(pool.value());
}

#ifdef PERILUNE_TSAN
constexpr int kSteps = 200;  // each byte costs ten times as much there
#else
constexpr int kSteps = 2000;
#endif

// Blocks with known contents, so that overlap and lost bytes are found.
class Model {
  public:
    Model(Arena* arena, std::uint64_t seed) : arena_(arena), random_(seed) {}

    struct Block {
        unsigned char* data;
        std::size_t size;
        unsigned char fill;
    };

    void allocate(std::size_t size) {
        void* data = Arena::lua_allocate(arena_, nullptr, 0, size);
        ASSERT_NE(data, nullptr);
        ASSERT_EQ(reinterpret_cast<std::uintptr_t>(data) % 8, 0u);
        blocks_.push_back({static_cast<unsigned char*>(data), size, next_fill_++});
        fill(&blocks_.back(), 0);
        live_ += size;
    }

    void reallocate(std::size_t index, std::size_t size) {
        Block& block = blocks_[index];
        void* data = Arena::lua_allocate(arena_, block.data, block.size, size);
        ASSERT_NE(data, nullptr);
        const std::size_t kept = std::min(block.size, size);
        block.data = static_cast<unsigned char*>(data);
        live_ += size - block.size;
        block.size = kept;
        check(block);
        block.size = size;
        fill(&block, kept);
    }

    void free(std::size_t index) {
        check(blocks_[index]);
        const Block block = blocks_[index];
        blocks_[index] = blocks_.back();
        blocks_.pop_back();
        live_ -= block.size;
        ASSERT_EQ(Arena::lua_allocate(arena_, block.data, block.size, 0), nullptr);
    }

    // A size as Lua programs have them: mostly small, some tables, few large.
    std::size_t any_size() {
        const std::size_t kind = random_() % 1000;
        if (kind < 850) return 1 + random_() % 128;
        if (kind < 970) return 1 + random_() % 2048;
        if (kind < 997) return 1 + random_() % 70000;
        return 1 + random_() % 900000;
    }

    void step(std::size_t most_blocks) {
        const std::size_t action = random_() % 8;
        if (blocks_.empty() || (action < 4 && blocks_.size() < most_blocks)) {
            allocate(any_size());
        } else if (action < 6) {
            reallocate(random_() % blocks_.size(), any_size());
        } else {
            free(random_() % blocks_.size());
        }
    }

    void check_all() {
        for (const Block& block : blocks_) check(block);
        ASSERT_EQ(arena_->used(), live_);
    }

    std::vector<Block>& blocks() { return blocks_; }

  private:
    void fill(Block* block, std::size_t from) {
        std::memset(block->data + from, block->fill, block->size - from);
    }
    void check(const Block& block) {
        for (std::size_t i = 0; i < block.size; ++i) {
            ASSERT_EQ(block.data[i], block.fill) << "byte " << i << " of " << block.size;
        }
    }

    Arena* arena_;
    std::mt19937_64 random_;
    std::vector<Block> blocks_;
    std::size_t live_ = 0;
    unsigned char next_fill_ = 1;
};

TEST(Arena, KeepsContentsUnderRandomAllocation) {
    const auto pool = make_pool();
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        Arena arena(pool.get());
        Model model(&arena, seed);
        for (int round = 0; round < 20; ++round) {
            for (int i = 0; i < kSteps; ++i) model.step(round % 5 == 4 ? 50 : 1500);
            if (round % 7 == 3) arena.trim();
            model.check_all();
        }
        while (!model.blocks().empty()) model.free(model.blocks().size() - 1);
        EXPECT_EQ(arena.used(), 0u);
    }
    EXPECT_EQ(pool->stats().chunks_used, 0u);
    EXPECT_EQ(pool->stats().span_bytes_used, 0u);
}

TEST(Arena, KeepsContentsWhenOneBlockGrowsAndShrinks) {
    const auto pool = make_pool();
    Arena arena(pool.get());
    Model model(&arena, 9);
    model.allocate(1);
    model.allocate(100000);  // in the way of the first block once it is large
    for (std::size_t size = 2; size < (12u << 20); size = size * 3 / 2 + 1) {
        model.reallocate(0, size);
        model.allocate(24);
    }
    for (std::size_t size = 11u << 20; size > 0; size = size * 2 / 3) model.reallocate(0, size);
    model.check_all();
}

TEST(Arena, FreesNothingForNoBlock) {
    const auto pool = make_pool();
    Arena arena(pool.get());
    EXPECT_EQ(Arena::lua_allocate(&arena, nullptr, 0, 0), nullptr);
    EXPECT_EQ(arena.used(), 0u);
    EXPECT_EQ(pool->stats().chunks_used, 0u);
}

TEST(Arena, SurvivesBlocksThatAreNotFreed) {
    const auto pool = make_pool();
    {
        Arena arena(pool.get());
        for (std::size_t size : {8, 600, 40000, 1 << 20}) {
            ASSERT_NE(Arena::lua_allocate(&arena, nullptr, 0, size), nullptr);
        }
    }
    EXPECT_EQ(pool->stats().chunks_used, 0u);
    EXPECT_EQ(pool->stats().span_bytes_used, 0u);
}

TEST(Arena, TellsTheHostOnceThatItsLimitIsPassed) {
    const auto pool = make_pool();
    Arena arena(pool.get());
    int calls = 0;
    arena.on_over_limit([](void* context) { ++*static_cast<int*>(context); }, &calls);
    arena.set_limit(10000);
    for (int i = 0; i < 100; ++i) {
        ASSERT_NE(Arena::lua_allocate(&arena, nullptr, 0, 100), nullptr);
    }
    EXPECT_EQ(calls, 0);
    EXPECT_TRUE(arena.has_room(0));
    EXPECT_FALSE(arena.has_room(1));
    for (int i = 0; i < 100; ++i) {
        ASSERT_NE(Arena::lua_allocate(&arena, nullptr, 0, 100), nullptr);
    }
    EXPECT_EQ(calls, 1);
    EXPECT_FALSE(arena.has_room(0));
    arena.rearm();
    ASSERT_NE(Arena::lua_allocate(&arena, nullptr, 0, 1), nullptr);
    ASSERT_NE(Arena::lua_allocate(&arena, nullptr, 0, 1), nullptr);
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(arena.used(), 20002u);
}

TEST(Arena, RefusesHugeRequestsOverTheLimitAlone) {
    const auto pool = make_pool();
    Arena arena(pool.get());
    int calls = 0;
    arena.on_over_limit([](void* context) { ++*static_cast<int*>(context); }, &calls);
    arena.set_limit(2 << 20);
    constexpr std::size_t kHuge = Arena::kHugeRequest;
    EXPECT_EQ(Arena::lua_allocate(&arena, nullptr, 0, 3 << 20), nullptr);
    EXPECT_EQ(arena.refused(), 1u);
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(arena.used(), 0u);
    void* block = Arena::lua_allocate(&arena, nullptr, 0, kHuge);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(Arena::lua_allocate(&arena, block, kHuge, 3 * kHuge), nullptr);
    EXPECT_EQ(arena.refused(), 2u);
    EXPECT_EQ(arena.used(), kHuge);
    // Just under the size that may be refused: succeeds whatever the limit.
    for (int i = 0; i < 4; ++i) {
        EXPECT_NE(Arena::lua_allocate(&arena, nullptr, 0, kHuge - 1), nullptr);
    }
    // Shrinking never fails.
    arena.set_limit(1000);
    block = Arena::lua_allocate(&arena, block, kHuge, kHuge - 1);
    EXPECT_NE(block, nullptr);
    EXPECT_EQ(arena.used(), 5 * (kHuge - 1));
    EXPECT_EQ(arena.refused(), 2u);
}

// The host's own use of a Lua state is not protected: a refusal there would end the process.
TEST(Arena, RefusesNothingOutsideOfAProtectedCall) {
    const auto pool = make_pool();
    Arena arena(pool.get());
    arena.set_limit(Arena::kHugeRequest);
    ASSERT_TRUE(arena.may_refuse(false));
    void* block = Arena::lua_allocate(&arena, nullptr, 0, 2 * Arena::kHugeRequest);
    ASSERT_NE(block, nullptr);
    block = Arena::lua_allocate(&arena, block, 2 * Arena::kHugeRequest, 4 * Arena::kHugeRequest);
    ASSERT_NE(block, nullptr);
    ASSERT_FALSE(arena.may_refuse(true));
    EXPECT_EQ(Arena::lua_allocate(&arena, block, 4 * Arena::kHugeRequest, 5 * Arena::kHugeRequest),
              nullptr);
    EXPECT_EQ(arena.refused(), 1u);
    Arena::lua_allocate(&arena, block, 4 * Arena::kHugeRequest, 0);
}

TEST(Arena, ChargesTheCounterThatIsSet) {
    const auto pool = make_pool();
    Arena arena(pool.get());
    std::int64_t first = 0;
    std::int64_t second = 0;
    void* before = Arena::lua_allocate(&arena, nullptr, 0, 500);
    EXPECT_EQ(arena.set_charge(&first), nullptr);
    void* block = Arena::lua_allocate(&arena, nullptr, 0, 100);
    block = Arena::lua_allocate(&arena, block, 100, 150);
    EXPECT_EQ(first, 150);
    EXPECT_EQ(arena.set_charge(&second), &first);
    Arena::lua_allocate(&arena, block, 150, 50);
    Arena::lua_allocate(&arena, before, 500, 0);
    EXPECT_EQ(second, -600);
    EXPECT_EQ(arena.set_charge(nullptr), &second);
    Arena::lua_allocate(&arena, nullptr, 0, 7);
    EXPECT_EQ(first, 150);
    EXPECT_EQ(second, -600);
    EXPECT_EQ(arena.used(), 57u);
}

TEST(Arena, TwoThreadsShareOnePool) {
    PagePool::Options options;
    options.warm_bytes = 1 << 20;
    const auto pool = make_pool(options);
    std::vector<std::thread> threads;
    for (std::uint64_t seed = 1; seed <= 2; ++seed) {
        threads.emplace_back([&pool, seed] {
            for (int vm = 0; vm < 10; ++vm) {
                Arena arena(pool.get());
                Model model(&arena, seed * 100 + static_cast<std::uint64_t>(vm));
                for (int i = 0; i < kSteps; ++i) model.step(400);
                model.check_all();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(pool->stats().chunks_used, 0u);
    EXPECT_EQ(pool->stats().span_bytes_used, 0u);
}

#ifndef PERILUNE_ASAN  // what is below holds for the slab alone

TEST(Arena, ReusesMemoryWhenSizesChange) {
    const auto pool = make_pool();
    Arena arena(pool.get());
    Model model(&arena, 5);
    constexpr std::size_t kLive = 4 << 20;
    std::size_t peak = 0;
    for (std::size_t size : {24, 40, 72, 136, 264, 520, 1032, 4104, 16392, 48}) {
        while (arena.used() < kLive) model.allocate(size);
        peak = std::max(peak, arena.footprint());
        while (arena.used() > kLive / 10) model.free(model.blocks().size() / 2);
    }
    model.check_all();
    EXPECT_LT(peak, kLive * 7 / 4);
}

TEST(Arena, GivesMemoryBackWhenItShrinks) {
    PagePool::Options options;
    options.warm_bytes = 0;
    const auto pool = make_pool(options);
    Arena arena(pool.get());
    Model model(&arena, 6);
    for (int i = 0; i < 100000; ++i) model.allocate(100);
    const std::size_t full = arena.footprint();
    EXPECT_GT(full, 10000000u);
    while (model.blocks().size() > 1000) model.free(model.blocks().size() - 1);
    EXPECT_LT(arena.footprint(), full / 4);  // without being asked
    arena.trim();
    EXPECT_LT(arena.footprint(), 300000u);
    EXPECT_GT(pool->stats().returned_bytes, 9000000u);
    model.check_all();
}

TEST(Arena, TouchesLittleForASmallVm) {
    const auto pool = make_pool();
    Arena arena(pool.get());
    Model model(&arena, 7);
    while (arena.used() < 20000) model.allocate(16 + model.any_size() % 120);
    EXPECT_LE(arena.footprint(), 24u * 1024);
    EXPECT_EQ(pool->stats().chunks_used, 1u);
}

TEST(PagePool, GivesTheSameAddressesForTheSameRequests) {
    std::vector<void*> addresses[2];
    for (auto& seen : addresses) {
        PagePool::Options options;
        options.base = std::uintptr_t{0x20} << 32;
        const auto pool = make_pool(options);
        Arena arenas[2] = {Arena(pool.get()), Arena(pool.get())};
        Model models[2] = {Model(&arenas[0], 11), Model(&arenas[1], 12)};
        for (int i = 0; i < 20000; ++i) models[i % 2].step(500);
        for (Model& model : models) {
            for (const Model::Block& block : model.blocks()) seen.push_back(block.data);
        }
    }
    EXPECT_EQ(addresses[0], addresses[1]);
    EXPECT_GE(reinterpret_cast<std::uintptr_t>(addresses[0].front()), std::uintptr_t{0x20} << 32);
}

TEST(PagePool, RefusesABaseThatIsTaken) {
    PagePool::Options options;
    options.base = std::uintptr_t{0x20} << 32;
    const auto pool = make_pool(options);
    EXPECT_EQ(PagePool::create(options).status().code(), StatusCode::exists);
    options.base += 4096;
    EXPECT_EQ(PagePool::create(options).status().code(), StatusCode::invalid);
}

TEST(PagePool, KeepsNoMoreWarmThanItsBound) {
    PagePool::Options options;
    options.warm_bytes = 1 << 20;
    const auto pool = make_pool(options);
    {
        Arena arena(pool.get());
        Model model(&arena, 8);
        for (int i = 0; i < 100000; ++i) model.allocate(50);
        for (int i = 0; i < 10; ++i) model.allocate(300000);
    }
    EXPECT_LE(pool->stats().warm_bytes, 2u << 20);
    EXPECT_GT(pool->stats().returned_bytes, 6000000u);
    pool->purge();
    EXPECT_EQ(pool->stats().warm_bytes, 0u);
}

TEST(PagePool, RunsOutWithoutHarm) {
    PagePool::Options options;
    options.reserve_bytes = 256 << 20;
    const auto pool = make_pool(options);
    Arena arena(pool.get());
    EXPECT_EQ(Arena::lua_allocate(&arena, nullptr, 0, 200 << 20), nullptr);
    std::vector<void*> blocks;
    while (void* block = Arena::lua_allocate(&arena, nullptr, 0, 30000)) blocks.push_back(block);
    EXPECT_GT(blocks.size(), 4000u);
    for (void* block : blocks) Arena::lua_allocate(&arena, block, 30000, 0);
    EXPECT_EQ(arena.used(), 0u);
    EXPECT_NE(Arena::lua_allocate(&arena, nullptr, 0, 30000), nullptr);
}

#endif

}  // namespace
}  // namespace perilune
