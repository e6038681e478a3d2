// Promise 13: handshake and login in 10 s in all; at most 25 % of the slots, and 32 of an address,
// not logged in. As many again may be shaking hands: the gateway has no session for these yet.
#include <algorithm>
#include <map>
#include <thread>

#include "world.h"

namespace perilune::test {
namespace {

// One who sends a byte a second, and comes again when it is thrown out.
struct Slow {
    Transport transport = Transport::tcp;
    std::string from;
    std::string text;  // what it would say
    std::unique_ptr<Peer> peer;
    std::chrono::steady_clock::time_point since;
    std::size_t said = 0;
};

class LoginsTest : public SoakTest {
  protected:
    static constexpr auto kSecond = std::chrono::seconds(1);

    // What begins a handshake, or a login where there is none.
    static std::string first_words(Transport transport) {
        switch (transport) {
            case Transport::tcp:
                return little_endian(4000, 2) + json_packet(2, 1, std::string(3900, 'x'));
            case Transport::websocket: return upgrade_request();
            default:  // a ClientHello of 512 bytes
                return "\x16\x03\x01" + big_endian(512, 2) + "\x01" + std::string(511, '\0');
        }
    }
    void come(Slow& slow) {
        slow.peer = std::make_unique<Peer>(port(slow.transport), Peer::Options{slow.from});
        slow.since = Clock::now();
        slow.said = 0;
    }
};

// How many were let in at a time: in all, and of the address with most.
struct Most {
    int in_all = 0;
    int of_an_address = 0;

    void look_at(const std::vector<Slow>& crowd, bool shaking_hands) {
        std::map<std::string, int> by_address;
        int count = 0;
        for (const Slow& slow : crowd) {
            if ((slow.transport != Transport::tcp) != shaking_hands || slow.peer->over()) continue;
            // Long enough for being refused.
            if (std::chrono::steady_clock::now() - slow.since < std::chrono::seconds(1)) continue;
            of_an_address = std::max(of_an_address, ++by_address[slow.from]);
            ++count;
        }
        in_all = std::max(in_all, count);
    }
};

TEST_F(LoginsTest, who_is_slow_is_thrown_out_in_time_and_takes_a_quarter_of_the_slots_at_most) {
    constexpr int kMostOfAnAddress = 32;
    constexpr int kPerAddress = 84;  // half of them by TCP
    const int addresses = scale(4, 24);
    const int slots = scale(400, 2000);
    const int login_ms = scale(2000, 10'000);
    start({"max_connections = " + std::to_string(slots) +
           ", login_ms = " + std::to_string(login_ms) + ","});
    std::vector<Slow> crowd;
    for (int i = 0; i < addresses * kPerAddress; ++i) {
        Slow slow;
        slow.transport = i % 2 == 0 ? Transport::tcp : kTransports[1 + i / 2 % 3];
        slow.from = "127.1.0." + std::to_string(1 + i / kPerAddress);
        slow.text = first_words(slow.transport);
        crowd.push_back(std::move(slow));
    }
    double most_pending = 0;
    Most silent, shaking_hands;
    std::chrono::duration<double> longest{0};
    attack(scale(6, 60), [&](Clock::time_point end) {
        auto next_look = Clock::now() + kSecond;
        while (Clock::now() < end) {
            const auto now = Clock::now();
            for (Slow& slow : crowd) {
                if (slow.peer != nullptr) slow.peer->pump();
                if (slow.peer != nullptr && slow.peer->over()) {
                    longest = std::max<std::chrono::duration<double>>(longest, now - slow.since);
                }
                // Who is refused doesn't come again at once.
                const bool may_come = slow.peer == nullptr || now - slow.since > kSecond;
                if (may_come && (slow.peer == nullptr || slow.peer->over())) come(slow);
                const auto due = static_cast<std::size_t>((now - slow.since) / kSecond);
                if (slow.said <= due && slow.said < slow.text.size()) {
                    slow.peer->send({&slow.text[slow.said++], 1});
                }
            }
            if (now >= next_look) {
                next_look = now + kSecond / 2;
                most_pending = std::max(most_pending, number("gateway.pending"));
                silent.look_at(crowd, false);
                shaking_hands.look_at(crowd, true);
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
    });
    std::printf(
        "soak: at most %.0f pending; let in at a time %d and %d, %d and %d of an address; "
        "the longest for %.1f s\n",
        most_pending, silent.in_all, shaking_hands.in_all, silent.of_an_address,
        shaking_hands.of_an_address, longest.count());
    EXPECT_LE(most_pending, slots / 4);
    for (const Most& most : {silent, shaking_hands}) {
        EXPECT_GT(most.in_all, kMostOfAnAddress);
        EXPECT_LE(most.in_all, slots / 4);
        EXPECT_LE(most.of_an_address, kMostOfAnAddress);
    }
    EXPECT_TRUE(!is_soak() || longest.count() <= login_ms / 1000.0 + 2);
    const Numbers now = numbers();
    EXPECT_GT(now.at("gateway.login_timeouts"), 0);
    EXPECT_GT(now.at("gateway.full"), 0);
    EXPECT_GT(now.at("node.net_refused_handshakes"), 0);
    EXPECT_GT(now.at("node.net_closed_handshake"), 0);
}

// Each stage begins in time, and all of them together don't end in time.
TEST_F(LoginsTest, stages_of_a_handshake_share_the_time_of_one) {
    const int login_ms = scale(2000, 10'000);
    start({"login_ms = " + std::to_string(login_ms) + ","});
    attack(scale(4, 20), [&](Clock::time_point) {
        const auto limit = std::chrono::milliseconds(login_ms);
        const auto began = Clock::now();
        Peer tls(port(Transport::tls)), websocket(port(Transport::websocket));
        Peer wss(port(Transport::wss));
        std::this_thread::sleep_for(limit * 6 / 10);
        EXPECT_TRUE(tls.open(Transport::tls));
        EXPECT_TRUE(websocket.open(Transport::websocket));
        EXPECT_TRUE(wss.open(Transport::wss));
        for (Peer* peer : {&tls, &websocket, &wss}) {
            EXPECT_TRUE(peer->wait([&] { return peer->over(); }, 3 * login_ms));
            const std::chrono::duration<double> took = Clock::now() - began;
            std::printf("soak: closed after %.1f s\n", took.count());
            EXPECT_GE(took, limit);
            EXPECT_LT(took, limit * 16 / 10) << "its time began anew";
        }
    });
}

}  // namespace
}  // namespace perilune::test
