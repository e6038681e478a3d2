// Tests of Udp over real sockets of the loopback interface.
#include "net/udp.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "event_service.h"

namespace perilune {
namespace {

using namespace std::chrono_literals;
using test::eventually;

// A blocking client socket.
class Client {
  public:
    explicit Client(int family = AF_INET) : family_(family) {
        descriptor_ = ::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        set_limit(8s);
    }
    ~Client() { ::close(descriptor_); }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    void set_limit(std::chrono::milliseconds limit) {
        const timeval value{limit.count() / 1000, limit.count() % 1000 * 1000};
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value);
    }
    void send(std::uint16_t port, std::string_view data) {
        sockaddr_storage system;
        const Address to = Address::parse(family_ == AF_INET ? "127.0.0.1" : "::1", port).value();
        const unsigned size = to.to_system(system);
        (void)::sendto(descriptor_, data.data(), data.size(), 0,
                       reinterpret_cast<sockaddr*>(&system), size);
    }
    // The next datagram, or "nothing".
    std::string receive() {
        char bytes[65536];
        const ssize_t size = ::recv(descriptor_, bytes, sizeof bytes, 0);
        return size < 0 ? "nothing" : std::string(bytes, static_cast<std::size_t>(size));
    }

  private:
    const int family_;
    int descriptor_;
};

struct Event {
    UdpEvent event;
    std::uint64_t id;
    std::uint64_t session;
    std::string payload;

    Address from() const { return PackedAddress::unpack(payload.data()); }
    std::string data() const { return payload.substr(sizeof(PackedAddress)); }
};

class Service : public test::EventService<Event> {
  public:
    Service(Kernel& kernel, Udp& udp, Reaction reaction)
        : EventService(
              kernel,
              [](MessagePtr& message) -> std::optional<Event> {
                  if (message->kind != MessageKind::datagram) return {};
                  return Event{static_cast<UdpEvent>(message->detail), message->id,
                               message->session, std::string(message->payload())};
              },
              [&udp](Handle service) { udp.release_owner(service); }, std::move(reaction)) {}
};

class UdpTest : public testing::Test {
  protected:
    UdpTest() {
        EXPECT_TRUE(udp_->start().ok());
        EXPECT_TRUE(kernel_->start().ok());
    }
    ~UdpTest() override { kernel_->stop(); }

    Udp& udp() { return *udp_; }
    Datagrams& datagrams() { return udp_->datagrams(); }
    Enet& enet() { return udp_->enet(); }
    std::uint64_t value(const UdpCounters::Count& counter) { return counter.load(); }
    const UdpCounters& counters() { return udp_->counters(); }

    Service& service(Service::Reaction reaction = {}) {
        services_.push_back(std::make_unique<Service>(*kernel_, *udp_, std::move(reaction)));
        return *services_.back();
    }
    Service& echo() {
        return service([this](const Event& event) {
            if (event.event == UdpEvent::datagram) {
                const Address to = event.from();
                EXPECT_TRUE(datagrams().send(DatagramId{event.id}, event.data(), &to).ok());
            } else if (event.event == UdpEvent::data) {
                (void)enet().write(EnetPeerId{event.id}, event.payload,
                                   static_cast<std::uint8_t>(event.session), EnetMode::reliable);
            }
        });
    }
    DatagramId open(Service& owner, const DatagramOptions& options = {}) {
        const Result<DatagramId> id = datagrams().open(owner.handle, options);
        EXPECT_TRUE(id.ok()) << id.status().message();
        return id.value();
    }
    std::uint16_t port_of(DatagramId id) { return datagrams().local(id).value().port; }
    Address listen(Service& owner, const EnetOptions& options = {}) {
        const Result<EnetHostId> id = enet().listen(owner.handle, options);
        EXPECT_TRUE(id.ok()) << id.status().message();
        listener_ = id.value();
        return enet().listener_address(listener_).value();
    }
    EnetPeerId connect(Service& owner, const Address& server, const EnetOptions& options = {},
                       std::uint32_t data = 0) {
        const Result<EnetPeerId> id = enet().connect(owner.handle, server, options, data);
        EXPECT_TRUE(id.ok()) << id.status().message();
        return id.value();
    }
    std::vector<std::unique_ptr<Service>> services_;
    test::QuietKernel kernel_{KernelOptions{.mailbox_messages = 400}};
    std::unique_ptr<Udp> udp_ = std::make_unique<Udp>(*kernel_);
    EnetHostId listener_;
};

// ---- plain datagrams ----

TEST_F(UdpTest, echoes_datagrams_over_ipv4_and_ipv6) {
    DatagramOptions both;
    both.host = "*";
    const std::uint16_t port = port_of(open(echo(), both));
    for (const int family : {AF_INET, AF_INET6}) {
        Client client(family);
        for (const std::string& data :
             {std::string("hello"), std::string(), std::string(9000, 'x')}) {
            client.send(port, data);
            EXPECT_EQ(client.receive(), data);
        }
    }
    EXPECT_EQ(value(counters().udp_in), 6u);
    EXPECT_TRUE(eventually([&] { return value(counters().udp_out) == 6; }));
}

TEST_F(UdpTest, what_a_turn_sends_leaves_at_its_end) {
    Service& owner = service();
    const DatagramId id = open(owner);
    Service& other = service();
    const DatagramId target = open(other);
    const Address to = datagrams().local(target).value();
    owner.run([&] {
        for (int i = 0; i < 150; ++i) {
            EXPECT_TRUE(datagrams().send(id, std::to_string(i), &to).ok());
        }
    });
    ASSERT_TRUE(other.wait(UdpEvent::datagram, 150));
    const std::vector<Event> events = other.events();
    for (std::size_t i = 0; i < 150; ++i) EXPECT_EQ(events[i].data(), std::to_string(i));
    EXPECT_EQ(events[0].from(), datagrams().local(id).value());
}

TEST_F(UdpTest, a_connected_socket_hears_its_peer_alone) {
    const DatagramId server = open(echo());
    Service& owner = service();
    const Address peer = datagrams().local(server).value();
    const DatagramId id = datagrams().connect(owner.handle, peer, {}).value();
    Client stranger;
    stranger.send(port_of(id), "not for you");
    ASSERT_TRUE(datagrams().send(id, "for you", nullptr).ok());
    ASSERT_TRUE(owner.wait(UdpEvent::datagram));
    EXPECT_EQ(owner.events().size(), 1u);
    EXPECT_EQ(owner.last(UdpEvent::datagram).data(), "for you");
    EXPECT_EQ(datagrams().send(id, "x", &peer).code(), StatusCode::invalid);
    EXPECT_EQ(datagrams().send(server, "x", nullptr).code(), StatusCode::invalid);
}

TEST_F(UdpTest, datagrams_over_a_limit_are_refused_or_dropped) {
    Service& owner = echo();
    DatagramOptions options;
    options.max_datagram = 100;
    const DatagramId id = open(owner, options);
    Client client;
    client.send(port_of(id), std::string(101, 'x'));
    client.send(port_of(id), std::string(100, 'y'));
    EXPECT_EQ(client.receive(), std::string(100, 'y'));
    EXPECT_EQ(value(counters().udp_dropped_large), 1u);
    const Address to = Address::parse("127.0.0.1", port_of(id)).value();
    EXPECT_EQ(datagrams().send(id, std::string(kMaxDatagram + 1, 'x'), &to).code(),
              StatusCode::too_large);
    const Address v6 = Address::parse("::1", 9).value();
    EXPECT_EQ(datagrams().send(id, "x", &v6).code(), StatusCode::invalid);
}

TEST_F(UdpTest, an_owner_that_is_half_full_loses_datagrams_and_they_are_counted) {
    Service& owner = service();
    const DatagramId id = open(owner);
    owner.hold();
    Client client;
    // One at a time, so that the system's own buffer drops none.
    for (std::uint64_t i = 0; i < 600; ++i) {
        client.send(port_of(id), "x");
        ASSERT_TRUE(eventually([&] { return value(counters().udp_in) == i + 1; }));
    }
    const std::uint64_t dropped = value(counters().udp_dropped_full);
    EXPECT_GE(dropped, 390u);
    EXPECT_LE(dropped, 410u);
    owner.resume();
    ASSERT_TRUE(owner.wait(UdpEvent::datagram, 600 - dropped));
    client.send(port_of(id), "again");
    ASSERT_TRUE(owner.wait(UdpEvent::datagram, 601 - dropped));
    EXPECT_EQ(owner.last(UdpEvent::datagram).data(), "again");
}

TEST_F(UdpTest, sockets_die_with_their_owner_and_ids_are_never_reused) {
    Service& first = service();
    const DatagramId id = open(first);
    const std::uint16_t port = port_of(id);
    first.die();
    ASSERT_TRUE(eventually([&] { return value(counters().udp_sockets) == 0; }));
    const Address to = Address::parse("127.0.0.1", port).value();
    EXPECT_EQ(datagrams().send(id, "x", &to).code(), StatusCode::dead);
    // The port is free again, once the polling thread has closed the descriptor.
    Service& second = service();
    DatagramOptions options;
    options.port = port;
    DatagramId again;
    ASSERT_TRUE(eventually([&] {
        const Result<DatagramId> opened = datagrams().open(second.handle, options);
        if (opened.ok()) again = opened.value();
        return opened.ok();
    }));
    EXPECT_NE(id, again);
    EXPECT_EQ(datagrams().close(id).code(), StatusCode::dead);
    EXPECT_EQ(datagrams().open(second.handle, options).status().code(), StatusCode::exists);
    EXPECT_TRUE(datagrams().close(again).ok());
    EXPECT_EQ(datagrams().close(again).code(), StatusCode::dead);
}

TEST_F(UdpTest, a_refused_datagram_harms_nothing) {
    Service& owner = service();
    const Address nobody = datagrams().local(open(owner)).value();
    Service& second = service();
    const DatagramId id = datagrams().connect(second.handle, nobody, {}).value();
    owner.die();
    ASSERT_TRUE(eventually([&] { return value(counters().udp_sockets) == 1; }));
    // A refusal is told to who asks first, and that may be the thread that polls.
    EXPECT_TRUE(eventually([&] {
        for (int i = 0; i < 100; ++i) EXPECT_TRUE(datagrams().send(id, "x", nullptr).ok());
        return value(counters().udp_send_failed) > 0;
    }));
    EXPECT_TRUE(datagrams().close(id).ok());
}

// ---- ENet ----

TEST_F(UdpTest, enet_connects_echoes_and_closes) {
    Service& server = echo();
    const Address address = listen(server);
    Service& client = service();
    const EnetPeerId peer = connect(client, address, {}, 4711);
    ASSERT_TRUE(client.wait(UdpEvent::connected));
    ASSERT_TRUE(server.wait(UdpEvent::opened));
    const Event opened = server.last(UdpEvent::opened);
    EXPECT_EQ(opened.session, listener_.value);
    std::uint32_t data = 0;
    std::memcpy(&data, opened.payload.data(), sizeof data);
    EXPECT_EQ(data, 4711u);
    EXPECT_EQ(opened.payload.substr(4), enet().address(EnetPeerId{opened.id}).value().text());
    client.run([&] {
        for (int i = 0; i < 100; ++i) {
            EXPECT_TRUE(
                enet()
                    .write(peer, std::to_string(i) + std::string(900, 'x'), 1, EnetMode::reliable)
                    .ok());
        }
    });
    ASSERT_TRUE(client.wait(UdpEvent::data, 100));
    EXPECT_EQ(client.last(UdpEvent::data).payload, "99" + std::string(900, 'x'));
    EXPECT_EQ(client.last(UdpEvent::data).session, 1u);
    EXPECT_TRUE(eventually([&] { return enet().unsent(peer) == 0; }));
    EXPECT_LT(enet().round_trip_ms(peer).value(), 500u);
    EXPECT_TRUE(enet().close(peer, 9).ok());
    ASSERT_TRUE(client.wait(UdpEvent::closed));
    ASSERT_TRUE(server.wait(UdpEvent::closed));
    EXPECT_EQ(server.last(UdpEvent::closed).payload, "ended");
    EXPECT_EQ(server.last(UdpEvent::closed).session, 9u);
    EXPECT_EQ(client.last(UdpEvent::closed).payload, "closed");
    EXPECT_EQ(enet().write(peer, "x", 0, EnetMode::reliable).code(), StatusCode::dead);
    // The client's host has gone with its peer; the server's needs no timer.
    EXPECT_TRUE(eventually([&] { return value(counters().enet_hosts) == 1; }));
    EXPECT_TRUE(eventually([&] { return kernel_->timers().counters().waiting == 0; }));
}

TEST_F(UdpTest, many_peers_at_once) {
    Service& server = echo();
    EnetOptions options;
    options.max_per_address = 0;
    const Address address = listen(server, options);
    std::vector<EnetPeerId> peers;
    Service& client = service();
    for (int i = 0; i < 50; ++i) peers.push_back(connect(client, address));
    ASSERT_TRUE(client.wait(UdpEvent::connected, 50));
    for (const EnetPeerId peer : peers) {
        EXPECT_TRUE(enet().write(peer, "hello", 0, EnetMode::reliable).ok());
    }
    ASSERT_TRUE(client.wait(UdpEvent::data, 50));
    EXPECT_EQ(value(counters().enet_peers), 100u);
    server.die();
    ASSERT_TRUE(client.wait(UdpEvent::closed, 50));
    EXPECT_TRUE(eventually([&] { return value(counters().enet_peers) == 0; }));
    EXPECT_TRUE(eventually([&] { return value(counters().enet_hosts) == 0; }));
}

TEST_F(UdpTest, a_listener_that_closes_keeps_its_peers) {
    Service& server = echo();
    const Address address = listen(server);
    Service& client = service();
    const EnetPeerId peer = connect(client, address);
    ASSERT_TRUE(client.wait(UdpEvent::connected));
    ASSERT_TRUE(server.wait(UdpEvent::opened));
    EXPECT_TRUE(enet().close_listener(listener_).ok());
    EXPECT_EQ(enet().close_listener(listener_).code(), StatusCode::dead);
    EXPECT_TRUE(enet().write(peer, "hello", 0, EnetMode::reliable).ok());
    ASSERT_TRUE(client.wait(UdpEvent::data));
    EXPECT_TRUE(enet().abort(peer).ok());
    ASSERT_TRUE(server.wait(UdpEvent::closed));
    EXPECT_TRUE(eventually([&] { return value(counters().enet_hosts) == 0; }));
}

TEST_F(UdpTest, a_connect_to_nobody_is_refused_soon) {
    Service& server = service();
    const Address nobody = listen(server);
    EXPECT_TRUE(enet().close_listener(listener_).ok());
    Service& client = service();
    const EnetPeerId peer = connect(client, nobody);
    ASSERT_TRUE(client.wait(UdpEvent::failed));
    EXPECT_EQ(client.last(UdpEvent::failed).payload, "connection refused");
    EXPECT_EQ(enet().abort(peer).code(), StatusCode::dead);
    EXPECT_EQ(value(counters().enet_hosts), 0u);
    const Address v6 = Address::parse("::1", 9).value();
    EXPECT_EQ(enet().connect(client.handle, v6, {}, 0).status().code(), StatusCode::invalid);
}

TEST_F(UdpTest, strangers_get_no_more_bytes_than_they_send) {
    const Address address = listen(service());
    std::mt19937_64 random(4);
    Client client;
    char bytes[kCookieRequestSize];
    const std::string request(bytes, write_cookie_datagram({CookieKind::request, 5, {}}, bytes));
    for (int i = 0; i < 2000; ++i) {
        std::string garbage(random() % 100, '\0');
        for (char& byte : garbage) byte = static_cast<char>(random());
        client.send(address.port, garbage);
        // Each answer shows that what was sent before has been seen.
        if (i % 50 != 49) continue;
        client.send(address.port, request);
        const std::string answer = client.receive();
        ASSERT_EQ(answer.size(), kCookieReplySize);
        EXPECT_EQ(read_cookie_datagram(answer)->nonce, 5u);
    }
    EXPECT_LE(value(counters().enet_bytes_out), value(counters().enet_bytes_in));
    EXPECT_EQ(value(counters().enet_bytes_out), 40 * kCookieReplySize);
    EXPECT_EQ(value(counters().cookie_requests), 40u);
    EXPECT_EQ(kernel_->timers().counters().waiting, 0u);
}

TEST_F(UdpTest, a_node_that_stops_tells_its_peers) {
    Service& server = service();
    const Address address = listen(server);
    open(server);
    Service& client = service();
    (void)connect(client, address);
    ASSERT_TRUE(client.wait(UdpEvent::connected));
    ASSERT_TRUE(server.wait(UdpEvent::opened));
    udp().begin_stop();
    ASSERT_TRUE(client.wait(UdpEvent::closed));
    ASSERT_TRUE(server.wait(UdpEvent::closed));
    EXPECT_TRUE(eventually([&] { return value(counters().enet_hosts) == 0; }));
    EXPECT_EQ(value(counters().udp_sockets), 0u);
    EXPECT_EQ(udp().usable().code(), StatusCode::unavailable);
}

TEST(UdpSeeded, a_seeded_node_refuses) {
    LogOptions quiet;
    quiet.descriptor = -1;
    const std::unique_ptr<Log> log = std::move(Log::open(quiet).value());
    VirtualClock clock;
    SeededRandom random(1);
    KernelOptions options;
    options.seeded = true;
    Kernel kernel(options, Kernel::Environment{clock, random, *log, &clock});
    Udp udp(kernel);
    EXPECT_TRUE(udp.start().ok());
    EXPECT_EQ(udp.usable().code(), StatusCode::unsupported);
}

}  // namespace
}  // namespace perilune
