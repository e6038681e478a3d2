// Tests of the exchange that comes before ENet.
#include "net/cookie.h"

#include <gtest/gtest.h>

#include <string>

#include "core/clock.h"

namespace perilune {
namespace {

constexpr std::int64_t kSecond = kNsPerSecond;

Address address(const char* host, std::uint16_t port) { return Address::parse(host, port).value(); }

std::string bytes_of(const CookieDatagram& datagram) {
    char bytes[kCookieRequestSize];
    return std::string(bytes, write_cookie_datagram(datagram, bytes));
}

TEST(Cookie, datagrams_are_as_docs_protocol_md_says) {
    CookieDatagram datagram{CookieKind::request, 0x0807060504030201, {}};
    EXPECT_EQ(bytes_of(datagram),
              std::string("PLU\x01\x01\0\0\0\1\2\3\4\5\6\7\x08", 16) + std::string(32, '\0'));
    datagram.kind = CookieKind::cookie;
    datagram.cookie.period = 0x0d0c0b0a;
    datagram.cookie.mac.fill(0xee);
    EXPECT_EQ(bytes_of(datagram),
              std::string("PLU\x01\x02\0\0\0\1\2\3\4\5\6\7\x08\x0a\x0b\x0c\x0d", 20) +
                  std::string(16, '\xee'));
    datagram.kind = CookieKind::proof;
    EXPECT_EQ(bytes_of(datagram),
              std::string("PLU\x01\x03\0\0\0\x0a\x0b\x0c\x0d", 12) + std::string(16, '\xee'));
}

TEST(Cookie, what_is_written_is_read_and_nothing_else_is) {
    CookieDatagram datagram{CookieKind::request, 77, {5, {1, 2, 3}}};
    for (const CookieKind kind : {CookieKind::request, CookieKind::cookie, CookieKind::proof}) {
        datagram.kind = kind;
        const std::string good = bytes_of(datagram);
        ASSERT_TRUE(read_cookie_datagram(good));
        EXPECT_EQ(read_cookie_datagram(good)->kind, kind);
        EXPECT_EQ(bytes_of(*read_cookie_datagram(good)), good);
        EXPECT_FALSE(read_cookie_datagram(good + '\0'));
        for (std::size_t size = 0; size < good.size(); ++size) {
            EXPECT_FALSE(read_cookie_datagram(good.substr(0, size)));
        }
        for (std::size_t at = 0; at < 8; ++at) {
            if (at == 4) continue;  // the kind: may become another good one
            std::string bad = good;
            bad[at] = static_cast<char>(bad[at] ^ 0x20);
            EXPECT_FALSE(read_cookie_datagram(bad)) << at;
        }
    }
}

TEST(Cookie, no_reply_is_longer_than_its_request) {
    EXPECT_LE(bytes_of({CookieKind::cookie, 1, {}}).size(),
              bytes_of({CookieKind::request, 1, {}}).size());
    // And a proof, which gets none, is shorter than both.
    EXPECT_LT(bytes_of({CookieKind::proof, 1, {}}).size(),
              bytes_of({CookieKind::cookie, 1, {}}).size());
}

TEST(Cookie, is_good_for_its_address_and_time_alone) {
    SystemRandom random;
    CookieMaker maker(random);
    const Address mine = address("10.0.0.1", 5000);
    const Cookie cookie = maker.make(mine, 3 * kSecond);
    EXPECT_EQ(maker.check(cookie, mine, 3 * kSecond), CookieVerdict::good);
    EXPECT_EQ(maker.check(cookie, mine, 19 * kSecond), CookieVerdict::good);
    EXPECT_EQ(maker.check(cookie, mine, 20 * kSecond), CookieVerdict::old);
    EXPECT_EQ(maker.check(cookie, mine, 2000 * kSecond), CookieVerdict::old);
    EXPECT_EQ(maker.check(cookie, address("10.0.0.1", 5001), 3 * kSecond), CookieVerdict::forged);
    EXPECT_EQ(maker.check(cookie, address("10.0.0.2", 5000), 3 * kSecond), CookieVerdict::forged);
    Cookie later = cookie;
    ++later.period;
    EXPECT_EQ(maker.check(later, mine, 3 * kSecond), CookieVerdict::old);
    EXPECT_EQ(maker.check(later, mine, 13 * kSecond), CookieVerdict::forged);
    for (std::size_t i = 0; i < cookie.mac.size(); ++i) {
        Cookie altered = cookie;
        altered.mac[i] ^= 1;
        EXPECT_EQ(maker.check(altered, mine, 3 * kSecond), CookieVerdict::forged);
    }
}

TEST(Cookie, secrets_rotate_and_the_last_one_stays_good_for_a_while) {
    SystemRandom random;
    CookieMaker maker(random);
    const Address mine = address("10.0.0.1", 5000);
    // Each period for three secrets: always good in the next period, never after.
    for (std::int64_t period = 0; period < 3 * CookieMaker::kSecretPeriods; ++period) {
        const std::int64_t now = period * CookieMaker::kPeriodNs;
        const Cookie cookie = maker.make(mine, now);
        EXPECT_EQ(maker.check(cookie, mine, now + CookieMaker::kPeriodNs), CookieVerdict::good);
        EXPECT_EQ(maker.check(cookie, mine, now + 2 * CookieMaker::kPeriodNs), CookieVerdict::old);
    }
    CookieMaker other(random);
    Cookie foreign = other.make(mine, 0);
    foreign.period = maker.make(mine, 2000 * kSecond).period;
    EXPECT_EQ(maker.check(foreign, mine, 2000 * kSecond), CookieVerdict::forged);
}

TEST(Cookie, can_be_told_again_for_a_while_and_never_a_later_one) {
    SystemRandom random;
    CookieMaker maker(random);
    const Address mine = address("10.0.0.1", 5000);
    constexpr std::int64_t kPeriod = CookieMaker::kPeriodNs;
    for (std::int64_t at = 0; at < 2 * CookieMaker::kSecretPeriods; ++at) {
        const Cookie cookie = maker.make(mine, at * kPeriod);
        for (std::int64_t later = 0; later <= CookieMaker::kKnownPeriods; ++later) {
            EXPECT_EQ(maker.again(mine, cookie.period, (at + later) * kPeriod), cookie);
        }
        const std::int64_t too_late = at + CookieMaker::kKnownPeriods + 1;
        EXPECT_FALSE(maker.again(mine, cookie.period, too_late * kPeriod));
        if (at > 0) {
            EXPECT_FALSE(maker.again(mine, cookie.period, (at - 1) * kPeriod));
        }
        EXPECT_NE(maker.again(address("10.0.0.1", 5001), cookie.period, at * kPeriod), cookie);
    }
    // What was before the first period has never been.
    CookieMaker fresh(random);
    const std::uint32_t first = fresh.make(mine, 0).period;
    EXPECT_FALSE(fresh.again(mine, first - 1, 0));
}

TEST(Cookie, the_table_of_proven_addresses_is_bounded) {
    ProvenTable table({100, 10, 30 * kSecond});
    int refused = 0, evicted = 0;
    for (int i = 0; i < 5000; ++i) {
        const std::string host = "10.0." + std::to_string(i % 200) + ".1";
        const auto added = table.add(address(host.c_str(), static_cast<std::uint16_t>(1 + i)), i);
        refused += added == ProvenTable::Added::refused ? 1 : 0;
        evicted += added == ProvenTable::Added::evicted ? 1 : 0;
        ASSERT_LE(table.size(), 100u);
    }
    EXPECT_EQ(table.size(), 100u);
    EXPECT_EQ(refused, 0);
    EXPECT_EQ(evicted, 4900);
    EXPECT_TRUE(table.contains(address("10.0.199.1", 5000), 5000));
    EXPECT_FALSE(table.contains(address("10.0.0.1", 1), 5000));  // the oldest
    EXPECT_FALSE(table.contains(address("10.0.199.1", 5000), 5000 + 30 * kSecond));
}

TEST(Cookie, one_address_takes_its_share_of_the_table_and_no_more) {
    ProvenTable table({100, 10, 30 * kSecond});
    int refused = 0;
    for (std::uint16_t port = 1; port <= 1000; ++port) {
        refused += table.add(address("10.0.0.1", port), 0) == ProvenTable::Added::refused ? 1 : 0;
    }
    EXPECT_EQ(table.size(), 10u);
    EXPECT_EQ(refused, 990);
    EXPECT_EQ(table.add(address("10.0.0.2", 1), 0), ProvenTable::Added::added);
    EXPECT_EQ(table.add(address("10.0.0.1", 5), 0), ProvenTable::Added::known);
    table.remove(address("10.0.0.1", 5));
    EXPECT_FALSE(table.contains(address("10.0.0.1", 5), 0));
    EXPECT_EQ(table.add(address("10.0.0.1", 2000), 0), ProvenTable::Added::added);
    // Those that come and go at once leave nothing that grows.
    for (int i = 0; i < 100'000; ++i) {
        ASSERT_EQ(table.add(address("10.0.0.3", 9), 0), ProvenTable::Added::added);
        table.remove(address("10.0.0.3", 9));
    }
    EXPECT_LE(table.size(), 11u);
    EXPECT_EQ(table.add(address("10.0.0.4", 1), 31 * kSecond), ProvenTable::Added::added);
    EXPECT_EQ(table.size(), 1u);
}

}  // namespace
}  // namespace perilune
