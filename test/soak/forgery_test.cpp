// Promise 23: the gateway says who a packet is from; what is internal is refused.
#include <random>

#include "world.h"

namespace perilune::test {
namespace {

class ForgeryTest : public SoakTest {
  protected:
    // A packet of JSON, or of anything.
    std::string random_packet() {
        constexpr std::string_view kBodies[] = {
            "null",
            "1",
            "\"on_start\"",
            "{\"uname\":\"x\",\"usex\":1}",
            "{}",
            "[[[[]]]]",
            "{\"uid\":1,\"epoch\":9}",
        };
        const auto stype = static_cast<std::int16_t>(random_() % 8 - 1);
        const auto ctype = static_cast<std::int16_t>(random_() % 12 - 1);
        const auto utag = static_cast<std::uint32_t>(
            random_() % 2 == 0 ? random_() % 1000 : 0x80000000u | (random_() & 0xffff));
        std::string packet =
            json_packet(stype, ctype, kBodies[random_() % std::size(kBodies)], utag);
        if (random_() % 4 == 0) packet[random_() % packet.size()] = static_cast<char>(random_());
        return packet;
    }
    std::mt19937_64 random_{23};
};

TEST_F(ForgeryTest, packets_in_the_name_of_others_do_nothing_to_them) {
    start({});
    std::vector<std::string> keys;  // accounts are kept
    for (int i = 0; i < 100; ++i) keys.push_back(guest_key());
    std::size_t forged = 0;
    int lost = 0;
    attack(scale(3, 60), [&](Clock::time_point end) {
        const double players = number("talkroom.members");
        std::size_t round = 0;
        while (Clock::now() < end) {
            const Transport transport = kTransports[round++ % 4];
            Peer peer(port(transport));
            ASSERT_TRUE(peer.open(transport));
            const bool is_player = round % 3 == 0 || peer.log_in(keys[round % keys.size()]) != 0;
            ASSERT_TRUE(is_player) << peer.in;
            // As many as the rate lets through at once.
            for (int i = 0; i < 50 && !peer.over(); ++i, ++forged) {
                // Others' uids: log out, leave the room, be somebody else.
                const auto uid = static_cast<std::uint32_t>(1 + random_() % 300);
                switch (i % 4) {
                    case 0: peer.send_packet(json_packet(2, 5, "null", uid)); break;
                    case 1: peer.send_packet(json_packet(1, 2, "null", uid)); break;
                    default: peer.send_packet(random_packet()); break;
                }
                peer.pump();
            }
            if (peer.over()) ++lost;
        }
        EXPECT_GE(number("talkroom.members"), players);
    });
    std::printf("soak: %zu forged packets; %d connections were closed for theirs\n", forged, lost);
    const Numbers now = numbers();
    EXPECT_GT(now.at("gateway.malformed"), 0);
    EXPECT_GT(now.at("gateway.reserved"), 0);
    EXPECT_GT(now.at("gateway.not_logged_in"), 0);
    EXPECT_GT(now.at("gateway.refused"), 0);
    EXPECT_EQ(now.at("node.lua_errors"), 0);
}

TEST_F(ForgeryTest, numbers_and_commands_of_servers_are_refused_one_by_one) {
    start({});
    attack(scale(2, 10), [&](Clock::time_point) {
        for (const Transport transport : kTransports) {
            Peer peer(port(transport));
            ASSERT_TRUE(peer.open(transport));
            ASSERT_NE(peer.log_in(), 0u);
            const double before = number("gateway.reserved");
            int reserved = 0;
            const auto refused = [&](std::int16_t stype, std::int16_t ctype, const char* code) {
                peer.in.clear();
                peer.send_packet(json_packet(stype, ctype, "null", 1));
                EXPECT_TRUE(peer.got(code)) << stype << " " << ctype << " " << peer.in;
            };
            for (const std::int16_t number : {10'000, 10'001}) {
                for (const std::int16_t other : {1, 2, 5, 10'000, 10'001}) {
                    refused(number, other, "reserved");
                    refused(other, number, "reserved");
                    reserved += 2;
                }
            }
            for (const std::int16_t number : {-1, -100, -32'768}) {
                refused(number, 1, "reserved");
                refused(1, number, "reserved");
                reserved += 2;
            }
            EXPECT_EQ(number("gateway.reserved"), before + reserved);
            refused(0, 5, "unknown_command");  // closing
            refused(0, 6, "unknown_command");  // error
            refused(2, 2, "unknown_command");  // relogin
            for (const std::int16_t push : {3, 4, 6}) refused(1, push, "unknown_command");
            refused(1, 99, "unknown_command");
            refused(77, 1, "unknown_service");
        }
    });
}

}  // namespace
}  // namespace perilune::test
