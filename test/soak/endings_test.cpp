// Promises 16 and 17: each connection opens once and closes once, however it ends; descriptors may
// run out.
#include <atomic>
#include <thread>

#include "world.h"

namespace perilune::test {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMuch = 100'000;  // what "close" is answered with
constexpr int kEndings = 9;

class EndingsTest : public SoakTest {
  protected:
    // By ports that are known before threads begin.
    struct Place {
        Transport transport;
        std::uint16_t port;
    };

    static bool is_plain(Transport transport) { return transport == Transport::tcp; }

    // One connection to the service "framed".
    static void live(const Place& place, const std::string& from, int ending) {
        SCOPED_TRACE(std::string(transport_name(place.transport)) + ", ending " +
                     std::to_string(ending));
        Peer peer(place.port, {from});
        if (ending == 0) return peer.reset();
        ASSERT_TRUE(peer.open(place.transport));
        switch (ending) {
            case 1: {  // close delivers
                peer.send_packet("close");
                EXPECT_TRUE(peer.wait([&] { return peer.in.size() >= kMuch; }))
                    << peer.in.size() << " of what close() has to deliver";
                EXPECT_TRUE(peer.wait([&] { return peer.over(); }));
                EXPECT_FALSE(peer.was_reset());
                break;
            }
            case 2:  // abort doesn't
                peer.send_packet("abort");
                EXPECT_TRUE(peer.wait([&] { return peer.over(); }));
                EXPECT_TRUE(peer.was_reset() || !is_plain(place.transport));
                break;
            case 3:
                peer.send_packet("echo");
                EXPECT_TRUE(peer.got("echo"));
                break;
            case 4:
                peer.send_packet("echo");
                peer.reset();
                break;
            case 5:  // malformed
                peer.send(
                    std::string(300, place.transport == Transport::websocket ? '\xff' : '\0'));
                EXPECT_TRUE(peer.wait([&] { return peer.over(); }));
                break;
            case 6: peer.send("\x09"); break;
            case 7:
                peer.send_packet("echo");
                peer.end_sending();
                EXPECT_TRUE(peer.got("echo") || place.transport == Transport::tls);
                EXPECT_TRUE(peer.wait([&] { return peer.over(); }));
                break;
            case 8:  // gone while it is told much
                peer.send_packet("close");
                break;
        }
    }
};

TEST_F(EndingsTest, however_a_connection_ends_it_opens_once_and_closes_once) {
    constexpr int kThreads = 4;
    const int all = scale(400, 100'000);
    start({});
    const Place places[] = {{Transport::tcp, port("packet")},
                            {Transport::websocket, port("websocket")},
                            {Transport::tcp, port("packet")},
                            {Transport::tls, port("tls")}};
    const Numbers before = numbers();
    std::atomic<int> lived{0};
    attack(scale(4, 120), [&](Clock::time_point end) {
        std::vector<std::thread> threads;
        for (int t = 0; t < kThreads; ++t) {
            threads.emplace_back([&, t] {
                const std::string from = "127.0.0." + std::to_string(10 + t);
                for (int i = 0; i < all / kThreads && Clock::now() < end; ++i) {
                    live(places[i % 4], from, (i / 4 + t) % kEndings);
                    ++lived;
                    if (HasFatalFailure()) return;
                }
            });
        }
        for (std::thread& thread : threads) thread.join();
        EXPECT_TRUE(eventually([&] { return number("framed.open") == 0; }));
    });
    EXPECT_EQ(lived, all);
    const Numbers now = numbers();
    const double opened = now.at("framed.opened") - before.at("framed.opened");
    std::printf("soak: %d lived, %.0f were opened\n", lived.load(), opened);
    EXPECT_EQ(now.at("framed.opened"), now.at("framed.closed"));
    EXPECT_EQ(now.at("framed.wrong"), 0);
    // A reset before accept() is one that nobody hears of.
    EXPECT_GE(opened, all * (kEndings - 1) / kEndings);
    EXPECT_EQ(now.at("gateway.opened") - now.at("gateway.closed"), now.at("gateway.sessions"));
    for (const char* reason : {"reset", "malformed"}) {
        EXPECT_GT(now.at(std::string("node.net_closed_") + reason), 0) << reason;
    }
}

TEST_F(EndingsTest, without_descriptors_accept_pauses_and_goes_on_within_a_second) {
    const int limit = scale(120, 1024);
    const int wanted = limit + 100;
    // Nobody is thrown out meanwhile, which would make room.
    start({"login_ms = 3600000,", limit});
    attack(scale(4, 30), [&](Clock::time_point end) {
        const auto measure = [&](std::chrono::milliseconds time) {
            const double cpu = cpu_seconds();
            const auto from = Clock::now();
            std::this_thread::sleep_for(time);
            return (cpu_seconds() - cpu) /
                   std::chrono::duration<double>(Clock::now() - from).count();
        };
        const double usual = measure(scale(1000ms, 5000ms));
        Peers peers;
        for (int i = 0; i < wanted; ++i) {
            peers.push_back(std::make_unique<Peer>(port(kTransports[i % 2])));
        }
        EXPECT_TRUE(eventually([&] { return number("node.net_accept_pauses") > 0; }));
        const double from = number("node.net_accept_pauses");
        const double paused = measure(scale(1000ms, 5000ms));
        const double pauses = number("node.net_accept_pauses") - from;
        std::printf("soak: CPU %.1f %%, without descriptors %.1f %%; %.0f pauses\n", 100 * usual,
                    100 * paused, pauses);
        EXPECT_GT(pauses, 0);
        // Two listeners, ten times a second each, and what the limit of time is late.
        EXPECT_LE(pauses, 2 * 10 * scale(3, 6));
        EXPECT_TRUE(!is_soak() || paused <= usual + 0.1) << "accept spins";
        EXPECT_GE(residents().descriptors, limit - 2);
        EXPECT_TRUE(ask("stats").size() > 100);

        peers.clear();
        const auto freed = Clock::now();
        Peer late(port(Transport::tcp));
        ASSERT_TRUE(late.open(Transport::tcp));
        late.send_packet(json_packet(0, 2, "null"));
        EXPECT_TRUE(late.got("null"));
        expect_in_time(Clock::now() - freed, 1s, "accepting again");
        while (Clock::now() < end) std::this_thread::sleep_for(100ms);
    });
}

}  // namespace
}  // namespace perilune::test
