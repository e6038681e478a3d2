#include "core/random.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <set>
#include <thread>
#include <vector>

namespace perilune {
namespace {

TEST(Random, TheSameSeedGivesTheSameNumbers) {
    SeededRandom one(42);
    SeededRandom same(42);
    SeededRandom other(43);
    int equal = 0;
    for (int i = 0; i < 1000; ++i) {
        const std::uint64_t number = one.next();
        EXPECT_EQ(number, same.next());
        equal += number == other.next();
    }
    EXPECT_EQ(equal, 0);
}

TEST(Random, SplitmixGivesThePublishedNumbers) {
    std::uint64_t state = 1234567;  // the vector of Rosetta Code, "Pseudo-random numbers"
    for (const std::uint64_t number :
         {6457827717110365317ull, 3203168211198807973ull, 9817491932198370423ull,
          4593380528125082431ull, 16408922859458223821ull}) {
        EXPECT_EQ(splitmix64(state), number);
    }
}

TEST(Random, SeededBytesAreThoseOfTheNumbersInOrder) {
    SeededRandom numbers(7);
    SeededRandom bytes(7);
    std::array<unsigned char, 13> data{};
    bytes.fill(data.data(), data.size());
    const std::uint64_t first = numbers.next();
    const std::uint64_t second = numbers.next();
    for (std::size_t i = 0; i < data.size(); ++i) {
        const std::uint64_t word = i < 8 ? first : second;
        EXPECT_EQ(data[i], static_cast<unsigned char>(word >> (8 * (i % 8))));
    }
}

TEST(Random, BelowStaysBelowAndReachesEveryNumberAboutEquallyOften) {
    SeededRandom random(1);
    EXPECT_EQ(random.below(0), 0u);
    EXPECT_EQ(random.below(1), 0u);
    std::array<int, 7> counts{};
    for (int i = 0; i < 70'000; ++i) ++counts.at(random.below(7));
    for (const int count : counts) {
        EXPECT_GT(count, 9'500);
        EXPECT_LT(count, 10'500);
    }
    for (int i = 0; i < 1000; ++i) EXPECT_LT(random.below(~0ull), ~0ull);
}

TEST(Random, TheSystemsNumbersDifferAndUseAllBits) {
    SystemRandom random;
    std::set<std::uint64_t> seen;
    int bits = 0;
    for (int i = 0; i < 10'000; ++i) {
        const std::uint64_t number = random.next();
        bits += std::popcount(number);
        EXPECT_TRUE(seen.insert(number).second);
    }
    EXPECT_NEAR(bits, 320'000, 2'000);  // five standard deviations are 2,000
}

TEST(Random, FillWritesEveryByteOfAnySize) {
    SystemRandom random;
    for (const std::size_t size : {1u, 7u, 8u, 511u, 512u, 513u, 5000u}) {
        std::vector<unsigned char> data(size + 1);
        std::vector<bool> changed(size);
        for (int round = 0; round < 20; ++round) {
            data.assign(size + 1, 0);
            random.fill(data.data(), size);
            EXPECT_EQ(data[size], 0);
            for (std::size_t i = 0; i < size; ++i) changed[i] = changed[i] || data[i] != 0;
        }
        for (std::size_t i = 0; i < size; ++i) ASSERT_TRUE(changed[i]) << i << " of " << size;
    }
}

TEST(Random, ThreadsThatShareTheSystemsNumbersGetDifferentOnes) {
    SystemRandom random;
    std::array<std::vector<std::uint64_t>, 4> numbers;
    std::vector<std::thread> threads;
    for (auto& part : numbers) {
        threads.emplace_back([&random, &part] {
            for (int i = 0; i < 5'000; ++i) part.push_back(random.next());
        });
    }
    for (std::thread& thread : threads) thread.join();
    std::set<std::uint64_t> seen;
    for (const auto& part : numbers) seen.insert(part.begin(), part.end());
    EXPECT_EQ(seen.size(), 20'000u);
}

}  // namespace
}  // namespace perilune
