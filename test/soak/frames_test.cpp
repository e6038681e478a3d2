// Promise 12: frames of 64 KB (4 KB before login), refused from the header.
#include <thread>

#include "world.h"

namespace perilune::test {
namespace {

constexpr std::size_t kMax = 65'536;            // of the service "framed"
constexpr std::size_t kMaxBeforeLogin = 4'096;  // of the gateway
constexpr std::uint64_t kHuge[] = {std::uint64_t{1} << 31, UINT32_MAX};

// What a client sends on a port, and what it gets: an answer, or the end and nothing before it.
struct Case {
    std::string what;
    std::uint16_t port = 0;
    Transport transport = Transport::tcp;
    std::string bytes;
    std::string answer;  // "": the connection is closed
};

class FramesTest : public SoakTest {
  protected:
    void add(const std::string& what, std::uint16_t to, Transport transport,
             const std::string& bytes, const std::string& answer) {
        cases_.push_back({what, to, transport, bytes, answer});
    }

    // Lengths in front: `head` makes the header of a body. Refused ones are their header alone.
    void add_prefixed(const std::string& framing,
                      const std::function<std::string(std::uint64_t)>& head, std::uint64_t most) {
        for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{kMax}}) {
            if (size > most) continue;
            const std::string frame = head(size) + std::string(size, 'x');
            add(framing + " " + std::to_string(size), port(framing), Transport::tcp, frame, frame);
        }
        for (const std::uint64_t size : {std::uint64_t{kMax} + 1, kHuge[0], kHuge[1]}) {
            if (size > most) continue;
            add(framing + " " + std::to_string(size), port(framing), Transport::tcp, head(size),
                "");
        }
    }

    void add_packets() {
        const auto head = [](std::uint64_t size) { return little_endian(size + 2, 2); };
        for (const std::uint64_t total : {0u, 1u}) {
            add("packet of total " + std::to_string(total), port("packet"), Transport::tcp,
                little_endian(total, 2), "");
            add("gateway's packet of total " + std::to_string(total), port(Transport::tcp),
                Transport::tcp, little_endian(total, 2), "");
        }
        for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{65'533}}) {
            const std::string frame = head(size) + std::string(size, 'x');
            add("packet " + std::to_string(size), port("packet"), Transport::tcp, frame, frame);
        }
    }

    // Lengths at the gateway, before a login: with the largest it is told that it has to log in.
    void add_gateway() {
        const std::string text(kMaxBeforeLogin - 12 - 8, 'x');
        const std::string largest = json_packet(1, 5, "\"" + text + "\"");
        ASSERT_EQ(largest.size(), kMaxBeforeLogin);
        for (const Transport transport : {Transport::tcp, Transport::tls}) {
            const std::string name = transport_name(transport);
            add(name + " 4096", port(transport), transport,
                little_endian(largest.size() + 2, 2) + largest, "not_logged_in");
            add(name + " 4097", port(transport), transport, little_endian(kMaxBeforeLogin + 3, 2),
                "");
            add(name + " 65533", port(transport), transport, "\xff\xff", "");
        }
        for (const Transport transport : {Transport::websocket, Transport::wss}) {
            const std::string name = transport_name(transport);
            add(name + " 4096", port(transport), transport, masked_frame(largest), "not_logged_in");
            for (const std::uint64_t size :
                 {std::uint64_t{kMaxBeforeLogin} + 1, kHuge[0], kHuge[1], std::uint64_t{1} << 62}) {
                add(name + " " + std::to_string(size), port(transport), transport,
                    masked_frame("", size), "");
            }
        }
    }

    void add_others() {
        for (const std::size_t size : {std::size_t{0}, std::size_t{1}, kMax}) {
            const std::string text(size, 'x');
            add("line " + std::to_string(size), port("line"), Transport::tcp, text + "\n",
                text + "\n");
            add("websocket " + std::to_string(size), port("websocket"), Transport::websocket,
                masked_frame(text), size == 0 ? std::string("\x82\0", 2) : text);
        }
        add("line 65537", port("line"), Transport::tcp, std::string(kMax + 2, 'x'), "");
        for (const std::uint64_t size : {std::uint64_t{kMax} + 1, kHuge[0], kHuge[1]}) {
            add("websocket " + std::to_string(size), port("websocket"), Transport::websocket,
                masked_frame("", size), "");
        }
    }

    void make_cases() {
        add_packets();
        add_prefixed(
            "u16be", [](std::uint64_t size) { return big_endian(size, 2); }, 65'535);
        add_prefixed(
            "u32be", [](std::uint64_t size) { return big_endian(size, 4); }, UINT32_MAX);
        add_gateway();
        add_others();
    }

    // Sends a case whole or byte by byte, as far as its first 16 bytes go.
    static void try_case(const Case& each, bool in_bytes) {
        Peer peer(each.port);
        ASSERT_TRUE(peer.open(each.transport)) << each.what;
        const std::size_t alone = in_bytes ? std::min<std::size_t>(16, each.bytes.size()) : 0;
        for (std::size_t i = 0; i < alone; ++i) peer.send({&each.bytes[i], 1});
        peer.send(std::string_view(each.bytes).substr(alone));
        if (each.answer.empty()) {
            EXPECT_TRUE(peer.wait([&] { return peer.over(); })) << each.what;
        } else {
            EXPECT_TRUE(peer.got(each.answer)) << each.what << ": " << peer.in.substr(0, 100);
        }
        peer.reset();
    }

    std::vector<Case> cases_;
};

TEST_F(FramesTest, every_length_of_every_framing_is_answered_or_refused_from_the_header) {
    start({});
    make_cases();
    int rounds = 0;
    attack(scale(2, 60), [&](Clock::time_point end) {
        while (rounds < 2 || Clock::now() < end) {
            for (const Case& each : cases_) {
                try_case(each, rounds % 2 != 0);
                if (HasFailure()) return;
            }
            ++rounds;
        }
    });
    std::printf("soak: %d rounds of %zu lengths\n", rounds, cases_.size());
    const Numbers now = numbers();
    EXPECT_EQ(now.at("framed.wrong"), 0);
    EXPECT_GT(now.at("node.net_closed_malformed"), 0);
    EXPECT_GT(now.at("node.net_closed_too_large"), 0);
    EXPECT_GT(now.at("gateway.malformed"), 0);
    EXPECT_GT(now.at("gateway.not_logged_in"), 0);
}

TEST_F(FramesTest, sockets_that_announce_much_and_send_none_cost_20_mb_at_most) {
    const int sockets = scale(80, 2000);
    start({});
    attack(scale(3, 20), [&](Clock::time_point end) {
        struct Kind {
            std::uint16_t port;
            Transport transport;
            std::string announcement;
        };
        const Kind kinds[] = {
            {port(Transport::tcp), Transport::tcp, little_endian(kMaxBeforeLogin + 2, 2) + "x"},
            {port(Transport::websocket), Transport::websocket, masked_frame("x", kMaxBeforeLogin)},
            {port("u32be"), Transport::tcp, big_endian(kMax, 4) + "x"},
            {port("websocket"), Transport::websocket, masked_frame("x", kMax)},
        };
        const double before = residents().rss_mb;
        const double received = number("node.net_bytes_in");
        Peers peers;
        std::size_t bytes = 0;
        for (int i = 0; i < sockets; ++i) {
            const Kind& kind = kinds[i % 4];
            peers.push_back(std::make_unique<Peer>(kind.port));
            ASSERT_TRUE(peers.back()->open(kind.transport));
            peers.back()->send(kind.announcement);
            bytes += kind.announcement.size();
        }
        EXPECT_TRUE(eventually(
            [&] { return number("node.net_bytes_in") >= received + static_cast<double>(bytes); }));
        const Numbers now = numbers();
        EXPECT_GE(now.at("framed.open"), sockets / 2);
        EXPECT_GE(now.at("gateway.pending"), sockets / 2);
        const double more = residents().rss_mb - before;
        std::printf("soak: %d sockets took %.1f MB\n", sockets, more);
        EXPECT_LE(more, 20);
        while (Clock::now() < end) pump(peers, 100);
    });
}

}  // namespace
}  // namespace perilune::test
