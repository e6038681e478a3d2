// Promise 13: handshake and login in 10 s in all; at most 25 % of the slots, and 32 of an address,
// not logged in.
#include <map>

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

TEST_F(LoginsTest, who_is_slow_is_thrown_out_in_time_and_takes_a_quarter_of_the_slots_at_most) {
    constexpr int kPerAddress = 40;
    const int addresses = scale(4, 25);
    const int slots = scale(320, 2000);
    const int login_ms = scale(1000, 10'000);
    start({"max_connections = " + std::to_string(slots) +
           ", login_ms = " + std::to_string(login_ms) + ","});
    std::vector<Slow> crowd;
    for (int i = 0; i < addresses * kPerAddress; ++i) {
        Slow slow;
        slow.transport = kTransports[i % 4];
        slow.from = "127.1.0." + std::to_string(1 + i / kPerAddress);
        slow.text = first_words(slow.transport);
        crowd.push_back(std::move(slow));
    }
    double most_pending = 0;
    int most_of_an_address = 0;
    int most_in_all = 0;
    std::chrono::duration<double> longest{0};
    attack(scale(5, 60), [&](Clock::time_point end) {
        auto next_look = Clock::now() + kSecond;
        while (Clock::now() < end) {
            const auto now = Clock::now();
            for (Slow& slow : crowd) {
                if (slow.peer != nullptr) slow.peer->pump();
                if (slow.peer != nullptr && slow.peer->over()) {
                    longest = std::max<std::chrono::duration<double>>(longest, now - slow.since);
                }
                if (slow.peer == nullptr || slow.peer->over()) come(slow);
                const auto due = static_cast<std::size_t>((now - slow.since) / kSecond);
                if (slow.said <= due && slow.said < slow.text.size()) {
                    slow.peer->send({&slow.text[slow.said++], 1});
                }
            }
            if (now >= next_look) {
                next_look = now + kSecond;
                most_pending = std::max(most_pending, number("gateway.pending"));
                std::map<std::string, int> of_address;
                int in_all = 0;
                for (const Slow& slow : crowd) {
                    // Long enough for being refused.
                    if (slow.peer->over() || now - slow.since < kSecond / 2) continue;
                    most_of_an_address = std::max(most_of_an_address, ++of_address[slow.from]);
                    most_in_all = std::max(most_in_all, ++in_all);
                }
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
    });
    std::printf("soak: at most %.0f pending, %d let in, %d of an address; the longest for %.1f s\n",
                most_pending, most_in_all, most_of_an_address, longest.count());
    EXPECT_GT(most_in_all, 32);
    EXPECT_LE(most_pending, slots / 4);
    EXPECT_LE(most_in_all, slots / 4);
    EXPECT_LE(most_of_an_address, 32);
    EXPECT_TRUE(!is_soak() || longest.count() <= login_ms / 1000.0 + 2);
    const Numbers now = numbers();
    EXPECT_GT(now.at("gateway.login_timeouts"), 0);
    EXPECT_GT(now.at("gateway.full"), 0);
}

// Each stage begins in time, and all of them together don't end in time.
TEST_F(LoginsTest, stages_of_a_handshake_share_the_time_of_one) {
    const int login_ms = scale(2000, 10'000);
    start({"login_ms = " + std::to_string(login_ms) + ","});
    attack(scale(6, 20), [&](Clock::time_point) {
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
