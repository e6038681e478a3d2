// Promises 14, 15 and 18: those who don't read, those who are silent, those who come and go.
#include <algorithm>
#include <thread>

#include "world.h"

namespace perilune::test {
namespace {

using namespace std::chrono_literals;

class MembersTest : public SoakTest {
  protected:
    // A player by one of the transports.
    std::unique_ptr<Peer> player(Transport transport, std::uint32_t& uid,
                                 const Peer::Options& options = {}) {
        auto peer = std::make_unique<Peer>(port(transport), options);
        EXPECT_TRUE(peer->open(transport));
        uid = peer->log_in();
        EXPECT_NE(uid, 0u) << peer->in;
        return peer;
    }
};

TEST_F(MembersTest, who_never_reads_a_busy_scene_is_dropped_by_bytes_or_by_time) {
    const int count = scale(10, 200);
    start({});
    double most = 0, before = 0;
    attack(scale(12, 90), [&](Clock::time_point end) {
        before = residents().rss_mb;
        Peers peers;
        // The one is over 1 MB before 10 s without progress have passed, the other not.
        std::string fast = "scene 60000", slow = "scene 4000";
        for (int i = 0; i < count; ++i) {
            std::uint32_t uid = 0;
            peers.push_back(player(kTransports[i % 4], uid, {"127.0.0.1", 4096}));
            peers.back()->reads(false);
            (i / 4 % 2 == 0 || !is_soak() ? fast : slow) += " " + std::to_string(uid);
        }
        ask(fast);
        ask(slow);
        while (Clock::now() < end) {
            const Numbers now = numbers();
            most = std::max(most, residents().rss_mb);
            if (now.at("node.net_closed_slow") + now.at("node.net_closed_stalled") >= count) break;
            std::this_thread::sleep_for(200ms);
        }
        ask("calm");
        const Numbers now = numbers();
        std::printf("soak: slow %.0f, stalled %.0f; RSS %.1f -> %.1f MB\n",
                    now.at("node.net_closed_slow"), now.at("node.net_closed_stalled"), before,
                    most);
        EXPECT_EQ(now.at("node.net_closed_slow") + now.at("node.net_closed_stalled"), count);
        EXPECT_GE(now.at("node.net_closed_slow"), scale(count, count / 2));
        EXPECT_GE(now.at("node.net_closed_stalled"), scale(0, count / 2 - 1));
        while (Clock::now() < end) std::this_thread::sleep_for(100ms);
    });
    EXPECT_LE(most - before, count * 1.1 + 20) << "1 MB each at most";
}

TEST_F(MembersTest, who_is_silent_is_pinged_and_closed_also_when_its_cable_is_pulled) {
    const int count = scale(12, 200);  // half of them are gone without a word, half only silent
    const int ping_ms = scale(1000, 60'000);
    start({"ping_ms = " + std::to_string(ping_ms) + ","});
    attack(3 * ping_ms / 1000 + scale(7, 20), [&](Clock::time_point end) {
        Peers peers;
        const double users = number("gateway.users"), open = number("node.net_open");
        for (int i = 0; i < count; ++i) {
            std::uint32_t uid = 0;
            peers.push_back(player(kTransports[i % 4], uid));
            if (i / 4 % 2 == 0) peers.back()->unplug();
        }
        const auto began = Clock::now();
        EXPECT_EQ(number("gateway.users"), users + count);
        // Nobody before three times the silence.
        while (Clock::now() < began + 3 * std::chrono::milliseconds(ping_ms) - 1s) {
            pump(peers, 100);
        }
        EXPECT_EQ(number("gateway.idle"), 0);
        const auto is_over = [&] {
            pump(peers, 10);
            return number("gateway.users") == users;
        };
        EXPECT_TRUE(eventually(is_over));
        expect_in_time(Clock::now() - began, 3 * std::chrono::milliseconds(ping_ms) + 3s,
                       "their end");
        EXPECT_EQ(number("gateway.idle"), count);
        // Closing waits 5 s for those who can't hear of it.
        EXPECT_TRUE(eventually([&] {
            pump(peers, 10);
            return number("node.net_open") == open;
        }));
        for (int i = 0; i < count; ++i) {
            const auto& peer = peers[static_cast<std::size_t>(i)];
            EXPECT_EQ(peer->over(), i / 4 % 2 != 0) << i;
        }
        while (Clock::now() < end) pump(peers, 100);
    });
}

// Those who stay are the players: each must hear each line once, in order.
TEST_F(MembersTest, a_broadcast_reaches_those_who_stay_while_others_join_and_drop) {
    constexpr auto kPause = 40ms;
    start({});
    std::vector<std::string> keys;
    for (int i = 0; i < 300; ++i) keys.push_back(guest_key());
    std::size_t joined = 0;
    attack(scale(3, 60), [&](Clock::time_point end) {
        Peers peers;
        for (auto due = Clock::now(); due < end; due += kPause) {
            const Transport transport = kTransports[joined % 4];
            auto peer = std::make_unique<Peer>(port(transport));
            ASSERT_TRUE(peer->open(transport));
            ASSERT_NE(peer->log_in(keys[joined % keys.size()]), 0u);
            peer->send_packet(json_packet(1, 1, R"({"uname":"joiner","usex":1})"));
            if (joined % 3 == 0) peer->send_packet(json_packet(1, 5, "\"here I am\""));
            peers.push_back(std::move(peer));
            // The oldest of a few goes, in each way there is.
            if (peers.size() > 20) {
                Peer& oldest = *peers.front();
                if (joined % 4 == 0) oldest.reset();
                if (joined % 4 == 1) oldest.unplug();
                peers.erase(peers.begin());
            }
            ++joined;
            do {
                pump(peers, 5);
            } while (Clock::now() < due + kPause);
        }
    });
    std::printf("soak: %zu joined\n", joined);
    EXPECT_GE(joined, scale(10u, 1000u));
}

}  // namespace
}  // namespace perilune::test
