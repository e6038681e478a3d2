// Tests of the gate: what becomes of packets, from their header alone.
#include "game/gate.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <string>
#include <vector>

#include "core/clock.h"

namespace perilune {
namespace {

using Verdict = Gate::Verdict;

constexpr std::int64_t kSecond = kNsPerSecond;
constexpr std::uint32_t kKey = kFirstKey + 7;
constexpr std::int16_t kRoom = 1;  // has a route
constexpr std::int16_t kAuth = 2;  // has one, and its command 1 is a login

std::string packet(std::int16_t stype, std::int16_t ctype, std::uint32_t utag = 0,
                   std::int16_t form = kJsonForm, const std::string& body = "") {
    std::string bytes(kPacketHeader, '\0');
    write_header(bytes.data(), {stype, ctype, utag, form});
    return bytes + body;
}

std::vector<std::string> packets_of(const PacketRing& ring, std::uint64_t from = 0) {
    std::vector<std::string> found;
    ring.each_from(from, [&](std::string_view bytes) { found.emplace_back(bytes); });
    return found;
}

GateOptions generous() {
    GateOptions options;
    options.rate = {1e6, 1e6};
    options.address_rate = {1e6, 1e6};
    return options;
}

struct GateTest : testing::Test {
    GateTest() : GateTest(generous()) {}
    explicit GateTest(const GateOptions& options) : gate(options) { declare(gate); }

    static void declare(Gate& gate) {
        EXPECT_EQ(gate.add_route(kRoom), 0u);
        EXPECT_EQ(gate.add_route(kAuth), 1u);
        EXPECT_EQ(gate.add_route(kRoom), 0u);
        gate.add_login(kAuth, 1);
    }
    Gate::Session& player(std::uint32_t key, std::uint64_t path, std::uint32_t uid) {
        Gate::Session& session = *gate.add(key, path, "", 0);
        EXPECT_TRUE(gate.enter(session, uid));
        return session;
    }
    Verdict verdict(std::uint64_t path, const std::string& bytes) {
        return gate.decide(path, bytes, 0).verdict;
    }

    Gate gate;
};

// --- packets of clients ---

TEST_F(GateTest, what_isnt_a_session_is_a_stranger) {
    EXPECT_EQ(verdict(1, packet(kRoom, 1)), Verdict::stranger);
    gate.add(kKey, 1, "", 0);
    EXPECT_EQ(verdict(2, packet(kRoom, 1)), Verdict::stranger);
    gate.remove(*gate.by_key(kKey), 0);
    EXPECT_EQ(verdict(1, packet(kRoom, 1)), Verdict::stranger);
    EXPECT_EQ(gate.counters().packets_in, 0u);
}

TEST_F(GateTest, before_login_only_logins_pass) {
    Gate::Session& session = *gate.add(kKey, 1, "", 0);
    EXPECT_EQ(verdict(1, packet(kRoom, 1)), Verdict::not_logged_in);
    EXPECT_EQ(verdict(1, packet(77, 1)), Verdict::not_logged_in);
    EXPECT_EQ(verdict(1, packet(kAuth, 2)), Verdict::not_logged_in);
    EXPECT_EQ(verdict(1, packet(kAuth, 1)), Verdict::login);
    EXPECT_EQ(verdict(1, packet(0, 1)), Verdict::itself);
    EXPECT_EQ(Gate::utag_of(session), kKey);
    EXPECT_TRUE(gate.enter(session, 9));
    EXPECT_EQ(Gate::utag_of(session), 9u);
    const Gate::Decision decision = gate.decide(1, packet(kAuth, 2), 0);
    EXPECT_EQ(decision.verdict, Verdict::forward);
    EXPECT_EQ(decision.route, 1u);
    EXPECT_EQ(decision.session, &session);
    EXPECT_EQ(verdict(1, packet(77, 1)), Verdict::unknown_service);
    EXPECT_EQ(verdict(1, packet(kAuth, 1)), Verdict::login);
    gate.forget_logins();
    EXPECT_EQ(verdict(1, packet(kAuth, 1)), Verdict::forward);
}

TEST_F(GateTest, reserved_numbers_are_for_servers) {
    player(kKey, 1, 9);
    for (const std::int16_t number : {-1, -32768, 10000, 10001}) {
        EXPECT_EQ(verdict(1, packet(number, 1)), Verdict::reserved) << number;
        EXPECT_EQ(verdict(1, packet(kRoom, number)), Verdict::reserved) << number;
    }
    EXPECT_EQ(verdict(1, packet(kRoom, 32767)), Verdict::forward);
}

TEST_F(GateTest, what_has_no_header_or_another_form_is_malformed) {
    player(kKey, 1, 9);
    const std::string good = packet(kRoom, 1);
    for (std::size_t size = 0; size < good.size(); ++size) {
        EXPECT_EQ(verdict(1, good.substr(0, size)), Verdict::malformed) << size;
    }
    for (const std::int16_t form : {0, 3, -1, 32767}) {
        EXPECT_EQ(verdict(1, packet(kRoom, 1, 0, form)), Verdict::malformed) << form;
    }
    EXPECT_EQ(verdict(1, packet(kRoom, 1, 0, kBufForm)), Verdict::forward);
    EXPECT_EQ(gate.by_key(kKey)->form, kBufForm);
}

TEST_F(GateTest, who_came_to_resume_may_do_nothing_else) {
    gate.add(kKey, 1, "", 0)->resumes_only = true;
    EXPECT_EQ(verdict(1, packet(0, 4)), Verdict::itself);
    EXPECT_EQ(verdict(1, packet(kAuth, 1)), Verdict::full);
}

TEST_F(GateTest, a_closing_session_is_ignored_both_ways) {
    player(kKey, 1, 9).closing = true;
    EXPECT_EQ(verdict(1, packet(kRoom, 1)), Verdict::ignored);
    EXPECT_EQ(gate.receiver({kRoom, 1, 9, kJsonForm}, 0), nullptr);
    EXPECT_EQ(gate.counters().undeliverable, 1u);
}

TEST_F(GateTest, the_rates_come_before_all_else) {
    GateOptions options = generous();
    options.rate = {10, 3};
    Gate slow(options);
    declare(slow);
    slow.add(kKey, 1, "", 0);
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(slow.decide(1, "", 0).verdict, Verdict::malformed);
    }
    EXPECT_EQ(slow.decide(1, "", 0).verdict, Verdict::too_fast);
    EXPECT_EQ(slow.decide(1, "", kSecond / 10 - 1).verdict, Verdict::too_fast);
    EXPECT_EQ(slow.decide(1, packet(0, 1), kSecond / 10).verdict, Verdict::itself);
    EXPECT_EQ(slow.decide(1, packet(0, 1), kSecond / 10).verdict, Verdict::too_fast);
    EXPECT_EQ(slow.by_key(kKey)->heard_ns, kSecond / 10) << "any packet is life";
    EXPECT_EQ(slow.decide_again(*slow.by_key(kKey), packet(0, 1)).verdict, Verdict::itself);
}

TEST_F(GateTest, sessions_of_an_address_share_its_rate) {
    GateOptions options = generous();
    options.address_rate = {10, 4};
    Gate slow(options);
    declare(slow);
    slow.add(kKey, 1, "192.0.2.1", 0);
    slow.add(kKey + 1, 2, "192.0.2.1", 0);
    slow.add(kKey + 2, 3, "192.0.2.2", 0);
    slow.add(kKey + 3, 4, "", 0);
    const auto allowed = [&](std::uint64_t path) {
        return slow.decide(path, packet(0, 1), 0).verdict != Verdict::too_fast;
    };
    for (const std::uint64_t path : {1, 2, 1, 2}) EXPECT_TRUE(allowed(path));
    EXPECT_FALSE(allowed(1));
    EXPECT_FALSE(allowed(2));
    EXPECT_TRUE(allowed(3));
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(allowed(4)) << "without limits an address";
    // Coming back is no way to get more.
    slow.remove(*slow.by_key(kKey), 0);
    slow.remove(*slow.by_key(kKey + 1), 0);
    slow.add(kKey, 1, "192.0.2.1", 0);
    EXPECT_FALSE(allowed(1));
}

// --- players ---

TEST_F(GateTest, a_key_a_path_and_a_player_have_one_session) {
    Gate::Session& session = player(kKey, 1, 9);
    EXPECT_EQ(gate.add(kKey, 2, "", 0), nullptr);
    EXPECT_EQ(gate.add(kKey + 1, 1, "", 0), nullptr);
    Gate::Session& other = *gate.add(kKey + 1, 2, "", 0);
    EXPECT_FALSE(gate.enter(other, 9));
    EXPECT_FALSE(gate.enter(session, 10));
    EXPECT_EQ(gate.by_uid(9), &session);
    EXPECT_EQ(gate.users(), 1u);
    gate.remove(other, 0);
    EXPECT_EQ(gate.by_uid(9), &session) << "its end touches nobody else";
    gate.remove(session, 0);
    EXPECT_EQ(gate.by_uid(9), nullptr);
    EXPECT_EQ(gate.size(), 0u);
}

TEST_F(GateTest, the_services_that_have_seen_a_player_are_told_once) {
    Gate::Session& session = *gate.add(kKey, 1, "", 0);
    gate.forwarded(session, 1);
    EXPECT_TRUE(gate.leave(session).empty()) << "a login is no player's packet";
    gate.enter(session, 9);
    for (const std::size_t route : {0u, 1u, 0u, 0u}) gate.forwarded(session, route);
    EXPECT_EQ(gate.leave(session), (std::vector<std::size_t>{0, 1}));
    EXPECT_TRUE(gate.leave(session).empty());
    gate.enter(session, 10);
    EXPECT_TRUE(gate.leave(session).empty()) << "another player";
}

// --- packets for clients ---

TEST_F(GateTest, a_reply_goes_to_the_session_that_asked_or_to_nobody) {
    Gate::Session& session = player(kKey, 1, 9);
    const PacketHeader to_player{kRoom, 1, 9, kJsonForm};
    EXPECT_EQ(gate.receiver(to_player, 0), &session);
    EXPECT_EQ(gate.receiver(to_player, kKey), &session);
    EXPECT_EQ(gate.receiver(to_player, kKey + 1), nullptr);
    EXPECT_EQ(gate.receiver({kRoom, 1, kKey, kJsonForm}, kKey), &session);
    EXPECT_EQ(gate.receiver({kRoom, 1, kKey + 1, kJsonForm}, 0), nullptr);
    // The player is here again by another session.
    gate.leave(session);
    Gate::Session& later = player(kKey + 1, 2, 9);
    EXPECT_EQ(gate.receiver(to_player, kKey), nullptr);
    EXPECT_EQ(gate.receiver(to_player, 0), &later);
    EXPECT_EQ(gate.counters().undeliverable, 3u);
}

// --- going on by another path ---

TEST_F(GateTest, packets_are_numbered_from_the_token_on) {
    Gate::Session& session = player(kKey, 1, 9);
    EXPECT_EQ(gate.remember(session, "before"), Gate::Fate::write);
    gate.number_packets(session);
    EXPECT_EQ(session.ring->sent(), 0u);
    EXPECT_EQ(gate.remember(session, "one"), Gate::Fate::write);
    EXPECT_EQ(gate.remember(session, "two"), Gate::Fate::write);
    EXPECT_EQ(packets_of(*session.ring), (std::vector<std::string>{"one", "two"}));
    EXPECT_EQ(packets_of(*session.ring, 2), (std::vector<std::string>{"two"}));
    EXPECT_EQ(gate.ring_bytes(), 6u);
    gate.number_packets(session);
    EXPECT_EQ(gate.ring_bytes(), 0u);
    gate.forget_ring(session);
    EXPECT_EQ(session.ring, nullptr);
}

TEST_F(GateTest, a_kept_session_is_lost_with_the_first_packet_that_nobody_has_sent) {
    GateOptions options = generous();
    options.ring_packets = 3;
    Gate small(options);
    Gate::Session& session = *small.add(kKey, 1, "", 0);
    small.enter(session, 9);
    small.number_packets(session);
    for (const char* text : {"a", "b"}) small.remember(session, text);
    small.keep(session);
    EXPECT_EQ(small.by_path(1), nullptr);
    EXPECT_EQ(small.by_uid(9), &session);
    for (const char* text : {"c", "d", "e"}) {
        EXPECT_EQ(small.remember(session, text), Gate::Fate::kept);
    }
    EXPECT_EQ(small.remember(session, "f"), Gate::Fate::lost);
}

TEST_F(GateTest, a_session_moves_to_another_path) {
    Gate::Session& session = player(kKey, 1, 9);
    gate.number_packets(session);
    gate.remember(session, "missed");
    gate.keep(session);
    gate.remember(session, "too");
    gate.add(kKey + 1, 2, "192.0.2.1", 5);
    gate.move(session, *gate.by_key(kKey + 1), 5);
    EXPECT_EQ(gate.by_key(kKey + 1), nullptr);
    EXPECT_EQ(gate.by_path(2), &session);
    EXPECT_EQ(session.heard_ns, 5);
    EXPECT_NE(session.address, nullptr) << "it counts where it is now";
    EXPECT_EQ(gate.remember(session, "goes on"), Gate::Fate::write);
    EXPECT_EQ(packets_of(*session.ring).size(), 3u);
    // From a path that nobody knew to be broken.
    gate.add(kKey + 2, 3, "", 6);
    gate.move(session, *gate.by_key(kKey + 2), 6);
    EXPECT_EQ(gate.by_path(2), nullptr);
    EXPECT_EQ(gate.by_path(3), &session);
    EXPECT_EQ(session.address, nullptr);
}

TEST_F(GateTest, a_players_packets_may_come_by_a_side_path_under_the_same_limits) {
    GateOptions options = generous();
    options.rate = {10, 3};
    Gate slow(options);
    declare(slow);
    Gate::Session& session = *slow.add(kKey, 1, "", 0);
    EXPECT_FALSE(slow.open_side_path(session, 7)) << "nobody's";
    EXPECT_TRUE(slow.enter(session, 9));
    EXPECT_TRUE(slow.open_side_path(session, 7));
    EXPECT_EQ(slow.by_path(7), &session);
    for (const std::uint64_t path : {1, 7, 7}) {
        const Gate::Decision decision = slow.decide(path, packet(kRoom, 1), 5);
        EXPECT_EQ(decision.verdict, Verdict::forward);
        EXPECT_EQ(decision.by_side_path, path == 7);
        EXPECT_EQ(decision.session, &session);
    }
    EXPECT_EQ(session.heard_ns, 5);
    for (const std::uint64_t path : {1, 7}) {
        const Gate::Decision decision = slow.decide(path, packet(kRoom, 1), 5);
        EXPECT_EQ(decision.verdict, Verdict::too_fast) << "the rate is one";
        EXPECT_EQ(decision.by_side_path, path == 7);
    }
}

TEST_F(GateTest, there_is_one_side_path_and_nobody_elses) {
    Gate::Session& session = player(kKey, 1, 9);
    Gate::Session& other = player(kKey + 1, 2, 10);
    EXPECT_TRUE(gate.open_side_path(session, 7));
    EXPECT_FALSE(gate.open_side_path(other, 7));
    EXPECT_FALSE(gate.open_side_path(other, 1));
    EXPECT_TRUE(gate.open_side_path(session, 8)) << "it replaces the one before";
    EXPECT_EQ(verdict(7, packet(kRoom, 1)), Verdict::stranger);
    EXPECT_EQ(verdict(8, packet(kRoom, 1)), Verdict::forward);
    gate.close_side_path(session);
    gate.close_side_path(session);
    EXPECT_EQ(verdict(8, packet(kRoom, 1)), Verdict::stranger);
    EXPECT_EQ(verdict(1, packet(kRoom, 1)), Verdict::forward);
    other.closing = true;
    EXPECT_FALSE(gate.open_side_path(other, 7));
}

TEST_F(GateTest, a_side_path_ends_with_the_player_and_with_the_path) {
    Gate::Session& session = player(kKey, 1, 9);
    const auto open = [&] { return gate.open_side_path(session, 7); };
    const auto is_open = [&] { return gate.by_path(7) != nullptr || session.side_path != 0; };
    EXPECT_TRUE(open());
    gate.leave(session);
    EXPECT_FALSE(is_open());
    EXPECT_TRUE(gate.enter(session, 9) && open());
    gate.keep(session);
    EXPECT_FALSE(is_open());
    EXPECT_FALSE(open()) << "kept";
    gate.add(kKey + 1, 2, "", 0);
    gate.move(session, *gate.by_key(kKey + 1), 0);
    EXPECT_TRUE(open());
    gate.add(kKey + 2, 3, "", 0);
    gate.move(session, *gate.by_key(kKey + 2), 0);
    EXPECT_FALSE(is_open());
    EXPECT_TRUE(open());
    gate.remove(session, 0);
    EXPECT_EQ(gate.by_path(7), nullptr);
}

TEST_F(GateTest, rings_share_their_room) {
    GateOptions options = generous();
    options.total_ring_bytes = 100;
    Gate small(options);
    std::vector<Gate::Session*> sessions;
    for (std::uint32_t i = 0; i < 4; ++i) {
        sessions.push_back(small.add(kKey + i, i + 1, "", 0));
        small.number_packets(*sessions.back());
        for (int k = 0; k < 20; ++k) small.remember(*sessions.back(), "0123456789");
        EXPECT_EQ(sessions.back()->ring->bytes(), 100 / (i + 1) / 10 * 10);
        EXPECT_TRUE(small.trim().empty());
        EXPECT_LE(small.ring_bytes(), 100u);
    }
    small.keep(*sessions[0]);
    for (int k = 0; k < 2; ++k) {
        EXPECT_EQ(small.remember(*sessions[0], "0123456789"), Gate::Fate::kept);
    }
    // More of them: what is kept gets too little room.
    small.add(kKey + 9, 9, "", 0);
    small.number_packets(*small.by_key(kKey + 9));
    small.add(kKey + 10, 10, "", 0);
    small.number_packets(*small.by_key(kKey + 10));
    EXPECT_EQ(small.trim(), (std::vector<std::uint32_t>{kKey}));
}

TEST_F(GateTest, a_packet_larger_than_a_rings_room_costs_no_memory) {
    GateOptions options = generous();
    options.ring_bytes = 1000;
    Gate small(options);
    Gate::Session& session = *small.add(kKey, 1, "", 0);
    small.number_packets(session);
    for (int i = 0; i < 5; ++i) small.remember(session, "0123456789");
    EXPECT_EQ(small.remember(session, std::string(60'000, 'x')), Gate::Fate::write);
    EXPECT_EQ(session.ring->sent(), 6u);
    EXPECT_EQ(session.ring->count(), 0u);
    EXPECT_EQ(small.ring_bytes(), 0u);
    EXPECT_LE(session.ring->reserved(), 2048u);
    small.keep(session);
    EXPECT_EQ(small.remember(session, std::string(1000, 'x')), Gate::Fate::kept);
    EXPECT_EQ(small.remember(session, std::string(1001, 'x')), Gate::Fate::lost);
    EXPECT_LE(session.ring->reserved(), 2048u);
}

// --- the parts ---

TEST(PacketRing, keeps_packets_of_all_sizes_in_order) {
    std::mt19937_64 random(1);
    PacketRing ring;
    std::deque<std::string> expected;
    std::uint64_t last = 0;
    for (int round = 0; round < 20'000; ++round) {
        const unsigned kind = random() % 10;
        if (round % 997 == 0) {
            ring.skip();
            expected.clear();
            ++last;
        } else if (kind < 6 && expected.size() < 300) {
            const std::size_t most = round % 100 == 0 ? 65'536 : round % 7 == 0 ? 600 : 40;
            expected.emplace_back(random() % most, static_cast<char>(random()));
            ring.push(expected.back());
            ++last;
        } else if (kind < 9 && !expected.empty()) {
            ring.drop_oldest();
            expected.pop_front();
        } else {
            const std::size_t before = ring.reserved();
            ring.shrink();
            ASSERT_LE(ring.reserved(), before);
        }
        ASSERT_EQ(ring.count(), expected.size());
        ASSERT_EQ(ring.sent(), last);
        ASSERT_EQ(ring.first(), last + 1 - expected.size());
        if (round % 50 == 0) {
            const std::vector<std::string> found = packets_of(ring);
            ASSERT_TRUE(std::equal(found.begin(), found.end(), expected.begin(), expected.end()));
        }
    }
    while (ring.count() > 0) ring.drop_oldest();
    ring.shrink();
    EXPECT_LE(ring.reserved(), 256u);
    EXPECT_EQ(ring.bytes(), 0u);
}

TEST(AddressBuckets, an_address_is_known_until_its_bucket_is_full_again) {
    AddressBuckets buckets({10, 5});
    AddressBuckets::Entry* entry = &buckets.enter("a", 0);
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(buckets.take(*entry, 0));
    EXPECT_FALSE(buckets.take(*entry, 0));
    buckets.leave(*entry, 0);
    entry = &buckets.enter("a", kSecond / 4);
    EXPECT_TRUE(buckets.take(*entry, kSecond / 4));
    EXPECT_TRUE(buckets.take(*entry, kSecond / 4));
    EXPECT_FALSE(buckets.take(*entry, kSecond / 4));
    buckets.leave(*entry, kSecond / 4);
    buckets.enter("b", kSecond / 4 + kSecond / 2);
    EXPECT_EQ(buckets.size(), 1u) << "half a second fills five";
}

TEST(AddressBuckets, a_flood_of_addresses_costs_bounded_memory) {
    AddressBuckets buckets({1e-3, 10});  // full after hours
    AddressBuckets::Entry& here = buckets.enter("here", 0);
    for (int i = 0; i < 30'000; ++i) {
        buckets.leave(buckets.enter(std::to_string(i), i), i);
    }
    EXPECT_EQ(buckets.size(), AddressBuckets::kMaxIdle + 1);
    EXPECT_TRUE(buckets.take(here, 30'000));
    // Twice the same address is one entry, which stays until both are gone.
    AddressBuckets::Entry& first = buckets.enter("twice", 30'000);
    EXPECT_EQ(&buckets.enter("twice", 30'000), &first);
    buckets.leave(first, 30'000);
    EXPECT_TRUE(buckets.take(first, 30'000));
}

TEST(Broadcast, only_what_adds_up_is_taken_apart) {
    const std::string inner = packet(kRoom, 6, 3, kJsonForm, "text");
    std::string body(2, '\0');
    body[0] = static_cast<char>(inner.size());
    body += inner + std::string(
                        "\2\0"
                        "\1\0\0\0"
                        "\xff\xff\xff\xff",
                        10);
    const auto good = read_broadcast(body);
    ASSERT_TRUE(good.ok());
    EXPECT_EQ(good.value().packet, inner);
    ASSERT_EQ(good.value().count(), 2u);
    EXPECT_EQ(good.value().uid(0), 1u);
    EXPECT_EQ(good.value().uid(1), 0xffffffffu);
    for (std::size_t size = 0; size < body.size(); ++size) {
        EXPECT_FALSE(read_broadcast(body.substr(0, size)).ok()) << size;
    }
    EXPECT_FALSE(read_broadcast(body + '\0').ok());
    body[0] = 9;
    EXPECT_FALSE(read_broadcast(body).ok()) << "no header";
}

}  // namespace
}  // namespace perilune
