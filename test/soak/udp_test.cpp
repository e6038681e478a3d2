// Promise 20: nothing kept and no more bytes out than in before an address is proven.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "net/cookie.h"
#include "world.h"

namespace perilune::test {
namespace {

using namespace std::chrono_literals;

// A stranger's socket, which counts.
class Stranger {
  public:
    Stranger(const std::string& from, std::uint16_t port) {
        descriptor_ = ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        ::inet_pton(AF_INET, from.c_str(), &address.sin_addr);
        EXPECT_EQ(::bind(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    }
    ~Stranger() { ::close(descriptor_); }
    Stranger(const Stranger&) = delete;
    Stranger& operator=(const Stranger&) = delete;

    void send(std::string_view bytes) {
        const ssize_t count = ::send(descriptor_, bytes.data(), bytes.size(), 0);
        if (count > 0) sent += static_cast<std::size_t>(count);
    }
    // The last datagram that has come; "" when there is none.
    std::string receive() {
        std::string last;
        char data[2048];
        for (;;) {
            const ssize_t count = ::recv(descriptor_, data, sizeof data, 0);
            if (count < 0) return last;
            received += static_cast<std::size_t>(count);
            last.assign(data, static_cast<std::size_t>(count));
        }
    }
    std::string receive_soon() {
        for (int i = 0; i < 5000; ++i) {
            if (std::string bytes = receive(); !bytes.empty()) return bytes;
            std::this_thread::sleep_for(1ms);
        }
        return {};
    }

    std::size_t sent = 0;
    std::size_t received = 0;

  private:
    int descriptor_ = -1;
};

std::string datagram(const CookieDatagram& content) {
    char bytes[kCookieRequestSize];
    return {bytes, write_cookie_datagram(content, bytes)};
}

// What a client that speaks ENet sends first.
std::string enet_connect() {
    std::string bytes(52, '\0');
    bytes[0] = '\x8f';
    bytes[1] = '\xff';
    bytes[4] = '\x82';  // CONNECT, to be acknowledged
    bytes[5] = '\xff';
    bytes[23] = 2;  // channels
    return bytes;
}

class DatagramTest : public SoakTest {
  protected:
    // Something that no server should believe.
    std::string rubbish() {
        std::string bytes(random_() % 1400, '\0');
        for (char& byte : bytes) byte = static_cast<char>(random_());
        switch (random_() % 6) {
            case 0: return bytes;
            case 1: return "PLU\x01" + bytes;
            case 2: return datagram({CookieKind::request, random_(), {}});
            case 3: {
                Cookie cookie{static_cast<std::uint32_t>(random_()), {}};
                for (std::uint8_t& byte : cookie.mac) byte = static_cast<std::uint8_t>(random_());
                return datagram({CookieKind::proof, 0, cookie});
            }
            case 4: return enet_connect() + bytes;
            default: return std::string("\x80\x00", 2) + bytes;  // as of a peer
        }
    }
    std::mt19937_64 random_{20};
};

// Raw: the sender's address is whatever the datagram says. Only for root.
class Forger {
  public:
    explicit Forger(std::uint16_t port) : port_(port) {
        descriptor_ = ::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    }
    ~Forger() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }
    Forger(const Forger&) = delete;
    Forger& operator=(const Forger&) = delete;

    bool possible() const { return descriptor_ >= 0; }
    // From 127.x.y.z and a port, chosen by `random`.
    void send(std::uint64_t random, std::string_view bytes) const {
        std::string packet = "\x45";
        packet += std::string(7, '\0');
        packet += "\x40\x11";  // time to live, UDP
        packet += std::string(2, '\0');
        packet += "\x7f" + big_endian(random, 3) + "\x7f" + big_endian(1, 3);
        packet += big_endian(1024 + (random >> 24) % 60000, 2) + big_endian(port_, 2);
        packet += big_endian(bytes.size() + 8, 2) + big_endian(0, 2);
        packet.append(bytes);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        (void)::sendto(descriptor_, packet.data(), packet.size(), 0,
                       reinterpret_cast<sockaddr*>(&to), sizeof to);
    }

  private:
    const std::uint16_t port_;
    int descriptor_ = -1;
};

TEST_F(DatagramTest, strangers_get_no_more_bytes_than_they_send_and_nothing_is_kept_of_them) {
    start({});
    const std::uint16_t enet = port("enet");
    const Numbers before = numbers();
    std::size_t datagrams = 0;
    attack(scale(3, 60), [&](Clock::time_point end) {
        std::vector<std::unique_ptr<Stranger>> strangers;
        for (int i = 0; i < scale(20, 500); ++i) {
            const std::string host = "127." + std::to_string(1 + i % 200) + ".7.7";
            strangers.push_back(std::make_unique<Stranger>(host, enet));
        }
        const Forger forger(enet);
        const double rss = residents().rss_mb;
        while (Clock::now() < end) {
            for (const auto& stranger : strangers) {
                stranger->send(rubbish());
                (void)stranger->receive();
                EXPECT_LE(stranger->received, stranger->sent);
                if (forger.possible()) forger.send(random_(), rubbish());
                datagrams += forger.possible() ? 2 : 1;
            }
        }
        EXPECT_LE(residents().rss_mb, rss + 20);
        const Numbers now = numbers();
        EXPECT_EQ(now.at("node.enet_peers"), before.at("node.enet_peers"));
        EXPECT_EQ(now.at("node.enet_accepted"), before.at("node.enet_accepted"));
        EXPECT_EQ(now.at("node.cookie_proofs"), before.at("node.cookie_proofs"));
        EXPECT_GT(now.at("node.cookie_forged") + now.at("node.cookie_old"), 0);
        EXPECT_GT(now.at("node.enet_dropped_unproven"), 0);
    });
    const Numbers now = numbers();
    const auto grown = [&](const std::string& name) { return now.at(name) - before.at(name); };
    std::printf("soak: %zu datagrams, %.0f came, %.0f bytes in, %.0f out\n", datagrams,
                grown("node.enet_datagrams_in"), grown("node.enet_bytes_in"),
                grown("node.enet_bytes_out"));
    EXPECT_LE(grown("node.enet_bytes_out"), grown("node.enet_bytes_in"));
    // Somebody healthy, who had proven its address.
    EXPECT_EQ(now.at("echo.lost"), 0);
    EXPECT_EQ(now.at("echo.wrong"), 0);
    EXPECT_TRUE(eventually([&] {
        const Numbers later = numbers();
        return later.at("echo.received") > now.at("echo.sent");
    }));
}

TEST_F(DatagramTest, a_cookie_serves_its_address_alone_and_not_for_long) {
    start({});
    const Numbers before = numbers();
    attack(scale(2, 30), [&](Clock::time_point end) {
        Stranger owner("127.9.0.1", port("enet")), thief("127.9.0.2", port("enet"));
        owner.send(datagram({CookieKind::request, 7, {}}));
        const auto answer = read_cookie_datagram(owner.receive_soon());
        ASSERT_TRUE(answer.has_value());
        const std::string proof = datagram({CookieKind::proof, 0, answer->cookie});
        thief.send(proof);
        thief.send(enet_connect());
        EXPECT_TRUE(eventually([&] {
            return number("node.cookie_forged") == before.at("node.cookie_forged") + 1 &&
                   number("node.enet_dropped_unproven") >=
                       before.at("node.enet_dropped_unproven") + 1;
        }));
        EXPECT_EQ(thief.receive(), "");
        if (is_soak()) {
            std::this_thread::sleep_for(21s);
            owner.send(proof);
            owner.send(enet_connect());
            EXPECT_TRUE(eventually(
                [&] { return number("node.cookie_old") == before.at("node.cookie_old") + 1; }));
            EXPECT_EQ(owner.receive(), "");
        }
        EXPECT_EQ(number("node.enet_peers"), before.at("node.enet_peers"));
        while (Clock::now() < end) std::this_thread::sleep_for(100ms);
    });
}

}  // namespace
}  // namespace perilune::test
