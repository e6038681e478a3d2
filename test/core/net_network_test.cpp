// Tests of Network over real sockets of the loopback interface.
#include "net/network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "event_service.h"
#include "net/encryption.h"
#include "net/system_transport.h"

namespace perilune {
namespace {

using namespace std::chrono_literals;
using test::eventually;

// A blocking client socket.
class Client {
  public:
    explicit Client(std::uint16_t port, int receive_buffer = 0, int family = AF_INET)
        : Client(family) {
        connect(port, receive_buffer, family);
    }
    // Only a socket.
    explicit Client(int family) {
        descriptor_ = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const timeval limit{5, 0};
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    }
    void connect(std::uint16_t port, int receive_buffer = 0, int family = AF_INET) {
        if (receive_buffer != 0) {
            ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUF, &receive_buffer,
                         sizeof receive_buffer);
        }
        sockaddr_storage system{};
        const Address address =
            Address::parse(family == AF_INET ? "127.0.0.1" : "::1", port).value();
        const unsigned size = address.to_system(system);
        connected_ = ::connect(descriptor_, reinterpret_cast<sockaddr*>(&system), size) == 0;
    }
    ~Client() { close(); }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    bool connected() const { return connected_; }
    void send(std::string_view data) {
        while (!data.empty()) {
            const ssize_t n = ::send(descriptor_, data.data(), data.size(), MSG_NOSIGNAL);
            if (n <= 0) return;
            data.remove_prefix(static_cast<std::size_t>(n));
        }
    }
    // Exactly `size` bytes, or what came before the end.
    std::string read(std::size_t size) {
        std::string data(size, 0);
        std::size_t have = 0;
        while (have < size) {
            const ssize_t n = ::recv(descriptor_, data.data() + have, size - have, 0);
            if (n <= 0) {
                error_ = n < 0 ? errno : 0;
                ended_ = true;
                break;
            }
            have += static_cast<std::size_t>(n);
        }
        data.resize(have);
        return data;
    }
    std::string read_all() {
        std::string all;
        while (!ended_) all += read(65536);
        return all;
    }
    // Whether something comes, or the end.
    bool readable(std::chrono::milliseconds limit) const {
        pollfd ready{descriptor_, POLLIN, 0};
        return ::poll(&ready, 1, static_cast<int>(limit.count())) > 0;
    }
    bool ended() const { return ended_; }
    int error() const { return error_; }
    void end_sending() { ::shutdown(descriptor_, SHUT_WR); }
    void reset() {
        const linger now{1, 0};
        ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close();
    }
    void close() {
        if (descriptor_ >= 0) ::close(descriptor_);
        descriptor_ = -1;
    }

  private:
    int descriptor_ = -1;
    bool connected_ = false;
    bool ended_ = false;
    int error_ = 0;
};

struct Event {
    SocketEvent event;
    ConnectionId id;
    std::string data;
    std::uint64_t session;
};

class Service : public test::EventService<Event> {
  public:
    Service(Kernel& kernel, Network& network, Reaction reaction = {})
        : EventService(
              kernel,
              [&network](MessagePtr& message) -> std::optional<Event> {
                  if (message->kind != MessageKind::socket || !network.admit(message)) return {};
                  return Event{static_cast<SocketEvent>(message->detail), ConnectionId{message->id},
                               std::string(message->payload()), message->session};
              },
              [&network](Handle service) { network.release_owner(service); }, std::move(reaction)) {
    }

    // All that has come, of all connections.
    std::string data() {
        std::string all;
        for (const Event& event : events()) {
            if (event.event == SocketEvent::data) all += event.data;
        }
        return all;
    }
};

class NetworkTest : public testing::Test {
  protected:
    NetworkTest() {
        EXPECT_TRUE(network_->start().ok());
        EXPECT_TRUE(kernel_->start().ok());
    }
    ~NetworkTest() override { kernel_->stop(); }

    Network& network() { return *network_; }
    const NetworkCounters& counters() { return network_->counters(); }

    Service& service(Service::Reaction reaction = {}) {
        services_.push_back(std::make_unique<Service>(*kernel_, *network_, std::move(reaction)));
        return *services_.back();
    }
    Service& echo() {
        return service([this](const Event& event) {
            if (event.event == SocketEvent::data) (void)network().write(event.id, event.data);
        });
    }
    static ListenOptions options(FramingKind framing) {
        ListenOptions listen;
        listen.stream.framing = framing;
        return listen;
    }
    std::uint16_t listen(Service& owner, const ListenOptions& wanted) {
        const Result<ListenerId> id = network().listen(owner.handle, wanted);
        EXPECT_TRUE(id.ok()) << id.status().message();
        listener_ = id.value();
        return network().listener_address(id.value()).value().port;
    }
    bool all_closed() {
        return eventually([&] { return counters().open.load() == 0; });
    }

    std::vector<std::unique_ptr<Service>> services_;
    test::QuietKernel kernel_;
    std::unique_ptr<Network> network_ =
        std::make_unique<Network>(*kernel_, std::make_unique<SystemTransport>(kernel_->poller()));
    ListenerId listener_;
};

std::string packet(std::string_view body) {
    const BufferRef frame = encode_frame(FramingKind::packet, body);
    return std::string(frame.data(), frame.size());
}

TEST_F(NetworkTest, echoes_frames_over_ipv4_and_ipv6) {
    Service& server = echo();
    ListenOptions both = options(FramingKind::packet);
    both.host = "*";
    const std::uint16_t port = listen(server, both);
    for (const int family : {AF_INET, AF_INET6}) {
        Client client(port, 0, family);
        ASSERT_TRUE(client.connected());
        client.send(packet("hello") + packet("") + packet(std::string(65533, 'x')));
        EXPECT_EQ(client.read(7 + 2 + 65535),
                  packet("hello") + packet("") + packet(std::string(65533, 'x')));
    }
    ASSERT_TRUE(server.wait(SocketEvent::closed, 2));
    EXPECT_EQ(server.count(SocketEvent::opened), 2u);
    EXPECT_EQ(server.last(SocketEvent::closed).data, "ended");
    EXPECT_EQ(server.events()[0].data.substr(0, 10), "127.0.0.1:");
    EXPECT_EQ(server.events()[0].session, listener_.value);
    EXPECT_EQ(server.last(SocketEvent::opened).data.substr(0, 6), "[::1]:");
}

TEST_F(NetworkTest, single_bytes_make_frames) {
    Service& server = echo();
    Client client(listen(server, options(FramingKind::packet)));
    for (const char c : packet("one") + packet("two")) {
        client.send(std::string_view(&c, 1));
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_EQ(client.read(10), packet("one") + packet("two"));
}

TEST_F(NetworkTest, lengths_0_1_max_and_more) {
    Service& server = echo();
    ListenOptions limited = options(FramingKind::packet);
    limited.stream.max_frame = 1000;
    const std::uint16_t port = listen(server, limited);
    for (const char length : {0, 1}) {
        Client client(port);
        client.send(packet("before") + std::string{length, 0});
        client.read_all();
        EXPECT_TRUE(client.ended());
    }
    ASSERT_TRUE(server.wait(SocketEvent::closed, 2));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "malformed");
    EXPECT_EQ(counters().closed_malformed.load(), 2u);
    EXPECT_EQ(server.count(SocketEvent::data), 2u);
    {
        Client client(port);
        client.send(packet(std::string(1000, 'm')));
        EXPECT_EQ(client.read(1002), packet(std::string(1000, 'm')));
        client.send(packet(std::string(1001, 'm')).substr(0, 2));  // the header is enough
        client.read_all();
        EXPECT_TRUE(client.ended());
    }
    ASSERT_TRUE(server.wait(SocketEvent::closed, 3));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "too_large");
    EXPECT_EQ(counters().closed_too_large.load(), 1u);
}

TEST_F(NetworkTest, frame_limit_changes_at_run_time) {
    Service& server = service([this](const Event& event) {
        if (event.event != SocketEvent::data) return;
        (void)network().set_max_frame(event.id, 60000);
        (void)network().write(event.id, "ok");
    });
    ListenOptions limited = options(FramingKind::packet);
    limited.stream.max_frame = 100;
    Client client(listen(server, limited));
    client.send(packet("login"));
    EXPECT_EQ(client.read(4), packet("ok"));
    client.send(packet(std::string(50000, 'x')));
    EXPECT_EQ(client.read(4), packet("ok"));
}

TEST_F(NetworkTest, peer_that_ends_gets_the_answers_to_what_it_sent) {
    Service& server = echo();
    Client client(listen(server, options(FramingKind::line)));
    client.send("one\ntwo\nthree\n");
    client.end_sending();
    EXPECT_EQ(client.read_all(), "one\ntwo\nthree\n");
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "ended");
}

TEST_F(NetworkTest, half_open_connection_may_be_written_after_the_peers_end) {
    Service& server = service();
    ListenOptions half = options(FramingKind::line);
    half.stream.half_open = true;
    Client client(listen(server, half));
    client.send("question\n");
    client.end_sending();
    ASSERT_TRUE(server.wait(SocketEvent::ended));
    const ConnectionId id = server.last(SocketEvent::ended).id;
    std::this_thread::sleep_for(20ms);
    EXPECT_TRUE(network().write(id, "answer").ok());
    EXPECT_TRUE(network().close(id).ok());
    EXPECT_EQ(client.read_all(), "answer\n");
    ASSERT_TRUE(server.wait(SocketEvent::closed));
}

TEST_F(NetworkTest, reset_is_one_close) {
    Service& server = service();
    Client client(listen(server, options(FramingKind::packet)));
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    client.reset();
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "reset");
    const ConnectionId id = server.last(SocketEvent::closed).id;
    EXPECT_EQ(network().write(id, "x").code(), StatusCode::dead);
    EXPECT_EQ(network().close(id).code(), StatusCode::dead);
    EXPECT_TRUE(all_closed());
    EXPECT_EQ(server.count(SocketEvent::closed), 1u);
}

TEST_F(NetworkTest, slow_reader_is_closed_at_one_megabyte) {
    Service& server = service();
    Client client(listen(server, options(FramingKind::packet)), 4096);
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    const ConnectionId id = server.last(SocketEvent::opened).id;
    const std::string body(8000, 's');
    Status status;
    std::size_t most = 0;
    for (int i = 0; i < 4000 && status.ok(); ++i) {
        status = network().write(id, body);
        most = std::max(most, network().unsent(id));
    }
    EXPECT_EQ(status.code(), StatusCode::overloaded);
    EXPECT_LE(most, 1u << 20);
    EXPECT_GT(most, 1000u * 1000u);
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "slow");
    EXPECT_EQ(counters().closed_slow.load(), 1u);
    EXPECT_GT(counters().unsent_bytes.load(), 1000u * 1000u);
}

TEST_F(NetworkTest, slow_reader_is_closed_at_4096_packets) {
    Service& server = service();
    Client client(listen(server, options(FramingKind::packet)), 4096);
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    const ConnectionId id = server.last(SocketEvent::opened).id;
    // Fill the system's own buffers first.
    while (network().unsent(id) == 0)
        ASSERT_TRUE(network().write(id, std::string(20000, 'f')).ok());
    int packets = 0;
    while (network().write(id, "p").ok()) ++packets;
    EXPECT_LE(packets, 4096);
    EXPECT_GT(packets, 4000);
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "slow");
}

TEST_F(NetworkTest, turn_that_writes_much_to_a_reading_peer_is_not_slow) {
    Service& server = service([this](const Event& event) {
        if (event.event != SocketEvent::data) return;
        for (int i = 0; i < 10000; ++i) ASSERT_TRUE(network().write(event.id, "12345678").ok());
    });
    Client client(listen(server, options(FramingKind::packet)));
    client.send(packet("go"));
    EXPECT_EQ(client.read(100000).size(), 100000u);
    EXPECT_LT(counters().sends.load(), 100u);
}

TEST_F(NetworkTest, peer_without_progress_is_closed) {
    Service& server = service();
    ListenOptions quick = options(FramingKind::raw);
    quick.stream.stall_ms = 300;
    Client client(listen(server, quick), 4096);
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    const ConnectionId id = server.last(SocketEvent::opened).id;
    const auto began = std::chrono::steady_clock::now();
    while (network().unsent(id) == 0)
        ASSERT_TRUE(network().write(id, std::string(50000, 's')).ok());
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "stalled");
    EXPECT_GE(std::chrono::steady_clock::now() - began, 300ms);
}

TEST_F(NetworkTest, idle_peer_is_closed) {
    Service& server = echo();
    ListenOptions quick = options(FramingKind::line);
    // Far more than the pauses, and less than all of them; net_memory_test has it to the
    // millisecond.
    quick.stream.idle_ms = 1000;
    Client client(listen(server, quick));
    for (int i = 0; i < 12; ++i) {
        client.send("alive\n");
        EXPECT_EQ(client.read(6), "alive\n");
        std::this_thread::sleep_for(100ms);
    }
    EXPECT_EQ(client.read_all(), "");
    client.close();
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "idle");
}

TEST_F(NetworkTest, close_delivers_what_is_unsent) {
    const std::string body(60000, 'd');
    Service& server = service([&](const Event& event) {
        if (event.event != SocketEvent::data || event.data != "go") return;
        for (int i = 0; i < 16; ++i) EXPECT_TRUE(network().write(event.id, body).ok());
        EXPECT_TRUE(network().close(event.id).ok());
        EXPECT_EQ(network().write(event.id, body).code(), StatusCode::dead);
        EXPECT_EQ(network().close(event.id).code(), StatusCode::dead);
    });
    Client client(listen(server, options(FramingKind::packet)), 4096);
    // More than it reads: what is unread must not turn the close into a reset.
    client.send(packet("go") + packet(std::string(30000, 'u')));
    std::this_thread::sleep_for(100ms);
    EXPECT_EQ(client.read_all().size(), 16u * 60002u);
    EXPECT_EQ(client.error(), 0);
    client.close();
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "closed");
    EXPECT_EQ(counters().unsent_bytes.load(), 0u);
}

TEST_F(NetworkTest, close_gives_up_after_its_limit) {
    Service& server = service();
    ListenOptions quick = options(FramingKind::raw);
    quick.stream.close_ms = 200;
    Client client(listen(server, quick), 4096);
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    const ConnectionId id = server.last(SocketEvent::opened).id;
    while (network().unsent(id) == 0)
        ASSERT_TRUE(network().write(id, std::string(50000, 's')).ok());
    EXPECT_TRUE(network().close(id).ok());
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "stalled");
    EXPECT_GT(counters().unsent_bytes.load(), 0u);
    EXPECT_TRUE(all_closed());
}

TEST_F(NetworkTest, abort_resets_at_once) {
    Service& server = service();
    Client client(listen(server, options(FramingKind::raw)));
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    const ConnectionId id = server.last(SocketEvent::opened).id;
    EXPECT_TRUE(network().abort(id).ok());
    client.read_all();
    EXPECT_EQ(client.error(), ECONNRESET);
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "aborted");
}

TEST_F(NetworkTest, connects_to_names_and_addresses) {
    Service& server = echo();
    ConnectOptions to;
    to.port = listen(server, options(FramingKind::u32be));
    to.stream.framing = FramingKind::u32be;
    Service& client = service();
    for (const char* host : {"127.0.0.1", "localhost"}) {
        to.host = host;
        const ConnectionId id = network().connect(client.handle, to).value();
        // What is written before it is connected waits.
        EXPECT_TRUE(network().write(id, "early").ok());
    }
    ASSERT_TRUE(client.wait(SocketEvent::data, 2));
    EXPECT_EQ(client.count(SocketEvent::connected), 2u);
    EXPECT_EQ(client.data(), "earlyearly");
    EXPECT_EQ(counters().open.load(), 4u);
    EXPECT_EQ(network().peer(client.events()[0].id).value().port, to.port);
}

TEST_F(NetworkTest, names_are_looked_up_off_the_workers) {
    Service& server = echo();
    ConnectOptions to;
    to.port = listen(server, options(FramingKind::raw));
    to.host = "ip6-localhost.perilune.invalid";
    Service& client = service();
    ASSERT_TRUE(network().connect(client.handle, to).ok());
    ASSERT_TRUE(client.wait(SocketEvent::failed));
    EXPECT_NE(client.last(SocketEvent::failed).data, "");
    EXPECT_EQ(counters().connect_failed.load(), 1u);
}

TEST_F(NetworkTest, refused_connection_fails_once) {
    Service& client = service();
    ConnectOptions to;
    to.host = "127.0.0.1";
    {
        Service& server = service();
        to.port = listen(server, options(FramingKind::raw));
        ASSERT_TRUE(network().close_listener(listener_).ok());
        ASSERT_TRUE(eventually([&] { return !Client(to.port).connected(); }));
    }
    ASSERT_TRUE(network().connect(client.handle, to).ok());
    ASSERT_TRUE(client.wait(SocketEvent::failed));
    const std::string text = client.last(SocketEvent::failed).data;
    EXPECT_NE(text.find("Connection refused"), std::string::npos) << text;
    EXPECT_NE(text.find("127.0.0.1:"), std::string::npos) << text;
    EXPECT_EQ(client.count(SocketEvent::closed), 0u);
}

TEST_F(NetworkTest, port_in_use_names_address_and_port) {
    Service& server = service();
    ListenOptions again = options(FramingKind::raw);
    again.port = listen(server, again);
    const Result<ListenerId> second = network().listen(server.handle, again);
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.status().code(), StatusCode::exists);
    EXPECT_EQ(std::string(second.status().message()),
              "127.0.0.1:" + std::to_string(again.port) + " is in use");
    again.host = "not an address";
    EXPECT_EQ(network().listen(server.handle, again).status().code(), StatusCode::invalid);
}

TEST_F(NetworkTest, limits_of_a_listener_are_kept_and_counted) {
    Service& server = echo();
    ListenOptions limited = options(FramingKind::line);
    limited.max_connections = 5;
    limited.max_per_address = 3;
    const std::uint16_t port = listen(server, limited);
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 5; ++i) {
        clients.push_back(std::make_unique<Client>(port));
        clients.back()->send("x\n");
    }
    for (int i = 0; i < 5; ++i) EXPECT_EQ(clients[i]->read(2), i < 3 ? "x\n" : "");
    EXPECT_EQ(counters().refused_address.load(), 2u);
    clients.clear();
    ASSERT_TRUE(all_closed());
    Client again(port);
    again.send("y\n");
    EXPECT_EQ(again.read(2), "y\n");
    limited.max_per_address = 0;
    limited.max_connections = 2;
    const std::uint16_t small = listen(server, limited);
    Client first(small), second(small), third(small);
    EXPECT_EQ(third.read(1), "");
    EXPECT_TRUE(third.ended());
    EXPECT_EQ(counters().refused_full.load(), 1u);
}

TEST_F(NetworkTest, stale_id_never_reaches_a_successor) {
    Service& server = echo();
    const std::uint16_t port = listen(server, options(FramingKind::line));
    std::vector<ConnectionId> stale;
    for (int i = 0; i < 200; ++i) {
        Client client(port);
        client.send("x\n");
        ASSERT_EQ(client.read(2), "x\n");
        const ConnectionId id = server.last(SocketEvent::opened).id;
        for (const ConnectionId old : stale) ASSERT_NE(old, id);
        client.close();
        ASSERT_TRUE(server.wait(SocketEvent::closed, static_cast<std::size_t>(i) + 1));
        if (stale.size() < 8) stale.push_back(id);
        for (const ConnectionId old : stale) {
            ASSERT_EQ(network().write(old, "leak").code(), StatusCode::dead);
            ASSERT_EQ(network().abort(old).code(), StatusCode::dead);
        }
    }
    EXPECT_EQ(server.count(SocketEvent::opened), 200u);
    EXPECT_EQ(server.count(SocketEvent::closed), 200u);
}

TEST(IdTable, slot_is_reused_only_after_many_others_and_retires) {
    SystemRandom random;
    IdTable<ConnectionId, int> table(random);
    int object = 0;
    const ConnectionId first = table.add();
    table.publish(first, &object);
    EXPECT_EQ(table.find(first), &object);
    table.remove(first);
    EXPECT_EQ(table.find(first), nullptr);
    std::size_t between = 0;
    for (;;) {
        const ConnectionId id = table.add();
        ASSERT_NE(id, first);
        table.publish(id, &object);
        table.remove(id);
        if (id.slot() == first.slot()) break;
        ASSERT_LT(++between, 100'000u);
    }
    EXPECT_GE(between, 65'536u);
    EXPECT_EQ(table.find(first), nullptr);
}

TEST_F(NetworkTest, handed_over_connection_keeps_order_and_loses_nothing) {
    Service& second = service();
    std::atomic<int> seen{0};
    Service& first = service([&](const Event& event) {
        if (event.event == SocketEvent::data && ++seen == 10) {
            EXPECT_TRUE(network().hand_over(event.id, second.handle).ok());
        }
    });
    Client client(listen(first, options(FramingKind::line)));
    std::string expected;
    for (int i = 0; i < 20000; ++i) {
        const std::string line = std::to_string(i);
        expected += line;
        client.send(line + "\n");
    }
    ASSERT_TRUE(second.wait(SocketEvent::data, 19990, 20s));
    EXPECT_EQ(first.data() + second.data(), expected);
    EXPECT_EQ(first.count(SocketEvent::data), 10u);
    EXPECT_EQ(second.events()[0].event, SocketEvent::opened);
    client.close();
    ASSERT_TRUE(second.wait(SocketEvent::closed));
    EXPECT_EQ(first.count(SocketEvent::closed), 0u);
    EXPECT_EQ(second.count(SocketEvent::closed), 1u);
}

TEST_F(NetworkTest, handed_over_twice_at_once_and_closed_meanwhile) {
    Service& third = service();
    Service& second = service();
    Service& first = service([&](const Event& event) {
        if (event.event != SocketEvent::data) return;
        EXPECT_TRUE(network().hand_over(event.id, second.handle).ok());
        EXPECT_TRUE(network().hand_over(event.id, third.handle).ok());
    });
    Client client(listen(first, options(FramingKind::line)));
    client.send("a\nb\nc\nd\n");
    client.close();
    // The third gets it when the second has: unless it has ended by then.
    ASSERT_TRUE(eventually(
        [&] { return second.count(SocketEvent::closed) + third.count(SocketEvent::closed) == 1; }));
    EXPECT_EQ(first.data() + second.data() + third.data(), "abcd");
    EXPECT_EQ(first.data(), "a");
    EXPECT_EQ(second.count(SocketEvent::opened), 1u);
    EXPECT_EQ(third.count(SocketEvent::opened), third.count(SocketEvent::closed));
}

TEST_F(NetworkTest, owner_that_dies_takes_its_sockets_along) {
    Service& server = service([this](const Event& event) {
        if (event.event == SocketEvent::data) (void)network().write(event.id, "bye");
    });
    const std::uint16_t port = listen(server, options(FramingKind::line));
    Client client(port);
    client.send("x\n");
    EXPECT_EQ(client.read(4), "bye\n");
    server.die();
    EXPECT_EQ(client.read_all(), "");
    EXPECT_TRUE(client.ended());
    client.close();
    EXPECT_TRUE(all_closed());
    EXPECT_EQ(counters().listeners.load(), 0u);
}

TEST_F(NetworkTest, reading_pauses_at_64_kb_undelivered) {
    Service& server = service();
    const std::uint16_t port = listen(server, options(FramingKind::packet));
    Client client(port);
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    server.hold();
    std::thread sender([&] {
        for (int i = 0; i < 4000; ++i) client.send(packet(std::string(1000, 'p')));
    });
    std::this_thread::sleep_for(300ms);
    EXPECT_LE(counters().bytes_in.load(), 3u * 64 * 1024);
    // Another connection is none of its concern.
    server.resume();
    ASSERT_TRUE(server.wait(SocketEvent::data, 4000, 20s));
    sender.join();
    EXPECT_EQ(server.data().size(), 4000u * 1000u);
    EXPECT_GT(counters().read_pauses.load(), 0u);
}

TEST_F(NetworkTest, reading_pauses_while_much_waits_for_the_owner) {
    Service& server = service();
    const std::uint16_t port = listen(server, options(FramingKind::packet));
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 60; ++i) clients.push_back(std::make_unique<Client>(port));
    ASSERT_TRUE(server.wait(SocketEvent::opened, 60));
    server.hold();
    std::string burst;
    for (int i = 0; i < 1000; ++i) burst += packet("tiny");
    for (auto& client : clients) client->send(burst);
    EXPECT_TRUE(eventually([&] { return counters().frames_in.load() >= kReadAhead - 1; }));
    std::this_thread::sleep_for(100ms);  // what would come if it didn't pause
    EXPECT_LE(counters().frames_in.load(), kReadAhead + 1000u) << "one read more";
    EXPECT_GT(counters().read_pauses.load(), 0u);
    server.resume();
    EXPECT_TRUE(server.wait(SocketEvent::data, 60'000, 20s));
    EXPECT_EQ(server.count(SocketEvent::data), 60'000u);
}

TEST_F(NetworkTest, sockets_are_read_while_others_send_much_to_their_owner) {
    Service& server = service();
    Client client(listen(server, options(FramingKind::packet)));
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    server.hold();
    for (std::uint64_t i = 0; i < 4 * kReadAhead; ++i) server.run([] {});
    client.send(packet("a") + packet("b"));
    EXPECT_TRUE(eventually([&] { return counters().frames_in.load() == 2; }));
    server.resume();
}

// What one read brings of a connection is posted as one message, and handled as many.
TEST_F(NetworkTest, a_connection_is_handed_over_in_the_middle_of_what_was_read_at_once) {
    Service& second = service();
    std::atomic<int> seen{0};
    Service& first = service([&](const Event& event) {
        if (event.event == SocketEvent::data && ++seen == 5) {
            EXPECT_TRUE(network().hand_over(event.id, second.handle).ok());
        }
    });
    Client client(listen(first, options(FramingKind::line)));
    client.send("a\nb\nc\nd\ne\nf\n\n" + std::string(500, 'g') + "\nh\ni\nj\n");
    ASSERT_TRUE(second.wait(SocketEvent::data, 6));
    EXPECT_EQ(first.data(), "abcde");
    EXPECT_EQ(second.data(), "f" + std::string(500, 'g') + "hij");
}

TEST_F(NetworkTest, an_end_comes_behind_all_that_was_read_with_it) {
    std::atomic<int> seen{0};
    Service& server = service([&](const Event& event) {
        if (event.event != SocketEvent::data) return;
        EXPECT_TRUE(network().write(event.id, event.data).ok());
        if (++seen == 10) {
            EXPECT_TRUE(network().close(event.id).ok());
        }
    });
    Client client(listen(server, options(FramingKind::line)));
    client.send("0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    EXPECT_EQ(client.read_all(), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    client.close();
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "closed");

    // The same with what can't be, which is the peer's end.
    Service& other = service();
    Client wrong(listen(other, options(FramingKind::packet)));
    wrong.send(packet("a") + packet("b") + packet("c") + std::string("\0\0", 2));
    ASSERT_TRUE(other.wait(SocketEvent::closed));
    EXPECT_EQ(other.data(), "abc");
    EXPECT_EQ(other.events().back().data, "malformed");
}

TEST_F(NetworkTest, an_owner_may_die_in_the_middle_of_what_was_read_at_once) {
    Service& server = service();
    Client client(listen(server, options(FramingKind::line)));
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    server.hold();
    std::string lines;
    for (int i = 0; i < 100; ++i) lines += "line\n";
    client.send(lines);
    ASSERT_TRUE(eventually([&] { return counters().frames_in.load() == 100; }));
    std::thread resume([&] {
        std::this_thread::sleep_for(10ms);
        server.resume();
    });
    server.die();
    resume.join();
    EXPECT_TRUE(all_closed());
}

TEST_F(NetworkTest, those_that_wait_for_room_in_a_mailbox_are_not_all_woken_for_a_little_of_it) {
    constexpr std::size_t kClients = 400, kFrames = 200;
    Service& server = service();
    const std::uint16_t port = listen(server, options(FramingKind::packet));
    std::vector<std::unique_ptr<Client>> clients;
    for (std::size_t i = 0; i < kClients; ++i) clients.push_back(std::make_unique<Client>(port));
    ASSERT_TRUE(server.wait(SocketEvent::opened, kClients));
    server.hold();
    std::string burst;
    for (std::size_t i = 0; i < kFrames; ++i) burst += packet("tiny");
    for (auto& client : clients) client->send(burst);
    EXPECT_TRUE(eventually([&] { return counters().frames_in.load() >= kReadAhead - 1; }));
    server.resume();
    EXPECT_TRUE(server.wait(SocketEvent::data, kClients * kFrames, 20s));
    // Each may have to wait once, and some more each time the room is used up, which is how often
    // the machine decides. Were all woken for a little room, it would be over 50,000.
    EXPECT_LE(counters().read_pauses.load(), 20 * kClients);
}

std::string packets(int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += packet("tiny");
    return all;
}

// Those that send much must not be read on from what they have sent before, again and again,
// while others wait for their first turn.
TEST_F(NetworkTest, who_sends_little_has_its_turn_before_those_who_send_much_have_their_next) {
    constexpr int kFlooders = 6, kFrames = 6000;
    Service& server = service();
    const std::uint16_t port = listen(server, options(FramingKind::packet));
    std::vector<std::unique_ptr<Client>> flooders;
    for (int i = 0; i < kFlooders; ++i) flooders.push_back(std::make_unique<Client>(port));
    Client quiet(port);
    ASSERT_TRUE(server.wait(SocketEvent::opened, kFlooders + 1));
    server.hold();
    const std::string flood = packets(kFrames);
    for (auto& flooder : flooders) flooder->send(flood);
    // Two are read as far as 64 KB may be undelivered of each; the other four wait.
    ASSERT_TRUE(eventually([&] { return counters().read_pauses.load() >= kFlooders; }));
    quiet.send(packet("quiet"));
    ASSERT_TRUE(eventually([&] { return counters().read_pauses.load() > kFlooders; }));
    server.resume();
    ASSERT_TRUE(eventually([&] {
        return counters().frames_in.load() == static_cast<std::uint64_t>(kFlooders) * kFrames + 1;
    }));
    ASSERT_TRUE(server.wait(SocketEvent::data, kFlooders * kFrames + 1));
    std::size_t place = 0;
    for (const Event& event : server.events()) {
        if (event.data == "quiet") break;
        place += event.event == SocketEvent::data ? 1 : 0;
    }
    constexpr std::int64_t kATurn =
        Network::kMaxUndelivered / (Network::kMessageCharge + 4);  // frames of "tiny"
    EXPECT_LE(place, static_cast<std::size_t>((kFlooders + 1) * (kATurn + 1)));
}

// An actor with two services, as the light ones of a VM, of which one has a limit of its own; it
// handles as many messages as it may.
class LightServices : public NetworkTest {
  protected:
    LightServices() {
        cell_ = kernel_->create_cell(std::make_unique<Receiver>(*this));
        large_ = kernel_->add_service(cell_, nullptr).value();
        small_ = kernel_->add_service(cell_, nullptr, 64).value();
        kernel_->launch(cell_);
    }
    ~LightServices() override { may_.release(1'000'000); }

    std::uint16_t listen_for(Handle owner, const ListenOptions& wanted) {
        const ListenerId id = network().listen(owner, wanted).value();
        return network().listener_address(id).value().port;
    }
    void post(Handle to, int count) {
        for (int i = 0; i < count; ++i) {
            MessagePtr message = make_message(MessageKind::send, to, {}, 0);
            ASSERT_EQ(kernel_->post(message), PostResult::ok);
        }
    }

    ActorCell* cell_ = nullptr;
    Handle large_, small_;
    std::counting_semaphore<> may_{0};
    std::atomic<std::size_t> data_{0}, connected_{0};

  private:
    class Receiver final : public Actor {
      public:
        explicit Receiver(LightServices& test) : test_(test) {}
        void receive(MessagePtr message) override {
            test_.may_.acquire();
            if (message->kind != MessageKind::socket) return;
            const auto event = static_cast<SocketEvent>(message->detail);
            if (!test_.network().admit(message)) return;
            test_.data_ += event == SocketEvent::data ? 1 : 0;
            test_.connected_ += event == SocketEvent::connected ? 1 : 0;
        }

      private:
        LightServices& test_;
    };
};

TEST_F(LightServices, at_their_own_limit_they_keep_the_poller_no_busier) {
    const std::uint16_t port = listen_for(small_, options(FramingKind::packet));
    Client other(listen_for(large_, options(FramingKind::packet)));
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 4; ++i) clients.push_back(std::make_unique<Client>(port));
    may_.release(5);
    ASSERT_TRUE(eventually([&] { return counters().accepted.load() == 5; }));
    post(large_, kMailboxMessages / 2);
    post(small_, 40);
    other.send(packets(100));
    for (auto& client : clients) client->send(packets(100));
    ASSERT_TRUE(eventually([&] { return counters().read_pauses.load() == 5; }));
    // The mailbox is below what ends the waiting, the small service's share of it is not.
    may_.release(kMailboxMessages / 4);
    ASSERT_TRUE(eventually([&] { return cell_->mailbox.has_drained(); }));
    std::this_thread::sleep_for(500ms);  // in which a poller that goes round and round counts far
    EXPECT_LE(counters().read_pauses.load(), 200u);
    may_.release(100'000);
    EXPECT_TRUE(eventually([&] { return data_.load() == 500; }));
}

TEST_F(LightServices, a_handshake_that_waits_for_a_limit_goes_on_below_it) {
    ListenOptions secure = options(FramingKind::packet);
    secure.secure = EncryptionContext::server({}).value();
    Client client(listen_for(small_, secure));
    ASSERT_TRUE(eventually([&] { return counters().handshakes.load() == 1; }));
    post(small_, 40);
    SystemRandom random;
    const auto stream = EncryptionContext::client({}).value()->open("", random);
    (void)stream->handshake();
    iovec hello[4];
    const int pieces = stream->out().gather(hello, 4);
    for (int i = 0; i < pieces; ++i) {
        client.send({static_cast<const char*>(hello[i].iov_base), hello[i].iov_len});
    }
    ASSERT_TRUE(eventually([&] { return counters().read_pauses.load() == 1; }));
    may_.release(100'000);
    EXPECT_EQ(client.read(1).size(), 1u) << "the server's hello";
    EXPECT_TRUE(eventually([&] { return counters().handshakes.load() == 0; }));
}

TEST_F(NetworkTest, an_owner_may_die_while_many_wait_for_it_and_its_place_is_taken_by_another) {
    for (int round = 0; round < 3; ++round) {
        Service& server = service();
        const std::uint16_t port = listen(server, options(FramingKind::packet));
        std::vector<std::unique_ptr<Client>> clients;
        for (int i = 0; i < 50; ++i) clients.push_back(std::make_unique<Client>(port));
        ASSERT_TRUE(server.wait(SocketEvent::opened, 50));
        server.hold();
        const std::uint64_t before = counters().read_pauses.load();
        for (auto& client : clients) client->send(packets(500));
        ASSERT_TRUE(eventually([&] { return counters().read_pauses.load() >= before + 40; }));
        std::thread resume([&] {
            std::this_thread::sleep_for(10ms);
            server.resume();
        });
        server.die();
        resume.join();
        clients.clear();
        EXPECT_TRUE(all_closed());
        // In the cell of the one before, as cells are taken again last first.
        Service& next = service();
        Client client(listen(next, options(FramingKind::packet)));
        client.send(packets(2000));
        EXPECT_TRUE(next.wait(SocketEvent::data, 2000));
        client.close();
        EXPECT_TRUE(all_closed());
        next.die();
    }
}

// What its owner does with a connection while it waits for room ends neither its waiting nor that
// of those behind it.
TEST_F(NetworkTest, those_that_wait_may_be_paused_handed_over_and_closed) {
    enum { kFlooder, kPaused, kPausedForLong, kHandedOver, kClosed, kAborted, kReset, kLast };
    Service& server = service();
    Service& second = service();
    const std::uint16_t port = listen(server, options(FramingKind::packet));
    std::vector<std::unique_ptr<Client>> clients;
    std::vector<ConnectionId> ids;
    for (std::size_t i = 0; i <= kLast; ++i) {
        clients.push_back(std::make_unique<Client>(port));
        ASSERT_TRUE(server.wait(SocketEvent::opened, i + 1));
        ids.push_back(server.last(SocketEvent::opened).id);
    }
    server.hold();
    for (std::uint64_t i = 0; i < kMailboxMessages / 2; ++i) server.run([] {});
    clients[kFlooder]->send(packets(3000));
    ASSERT_TRUE(eventually([&] { return counters().read_pauses.load() == 1; }));
    for (std::size_t i = 1; i <= kLast; ++i) clients[i]->send(packets(10));
    ASSERT_TRUE(eventually([&] { return counters().read_pauses.load() == kLast + 1; }));
    EXPECT_TRUE(network().pause(ids[kPaused]).ok());
    EXPECT_TRUE(network().resume(ids[kPaused]).ok());
    EXPECT_TRUE(network().pause(ids[kPausedForLong]).ok());
    EXPECT_TRUE(network().hand_over(ids[kHandedOver], second.handle).ok());
    EXPECT_TRUE(network().close(ids[kClosed]).ok());
    EXPECT_TRUE(network().abort(ids[kAborted]).ok());
    clients[kReset]->reset();
    server.resume();
    EXPECT_TRUE(second.wait(SocketEvent::data, 10));
    EXPECT_TRUE(server.wait(SocketEvent::data, 3000));
    EXPECT_TRUE(eventually([&] {
        return server.count(SocketEvent::data, ids[kPaused]) == 10 &&
               server.count(SocketEvent::data, ids[kLast]) == 10;
    }));
    EXPECT_EQ(server.count(SocketEvent::data, ids[kPausedForLong]), 0u);
    EXPECT_TRUE(network().resume(ids[kPausedForLong]).ok());
    EXPECT_TRUE(
        eventually([&] { return server.count(SocketEvent::data, ids[kPausedForLong]) == 10; }));
    for (auto& client : clients) client->close();
    EXPECT_TRUE(all_closed());
    EXPECT_EQ(server.count(SocketEvent::data, ids[kClosed]), 0u);
    EXPECT_EQ(server.count(SocketEvent::data, ids[kHandedOver]), 0u);
}

TEST_F(NetworkTest, paused_connection_is_not_read_until_resumed) {
    Service& server = service();
    ListenOptions paused = options(FramingKind::line);
    paused.stream.paused = true;
    Client client(listen(server, paused));
    client.send("x\n");
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    EXPECT_FALSE(server.wait(SocketEvent::data, 1, 100ms));
    EXPECT_TRUE(network().resume(server.last(SocketEvent::opened).id).ok());
    EXPECT_TRUE(server.wait(SocketEvent::data));
}

TEST_F(NetworkTest, group_gets_each_message_once_and_in_order_while_members_come_and_go) {
    Service& server = service();
    const std::uint16_t port = listen(server, options(FramingKind::line));
    const GroupId group = network().group_create(server.handle).value();
    std::vector<std::unique_ptr<Client>> stay, go;
    for (int i = 0; i < 20; ++i) {
        stay.push_back(std::make_unique<Client>(port));
        ASSERT_TRUE(server.wait(SocketEvent::opened, static_cast<std::size_t>(i) + 1));
        const ConnectionId id = server.last(SocketEvent::opened).id;
        ASSERT_TRUE(network().group_add(group, id).ok());
        ASSERT_TRUE(network().group_add(group, id).ok());
    }
    std::string expected;
    for (int i = 0; i < 300; ++i) {
        if (i % 10 == 0) {
            const std::size_t opened = server.count(SocketEvent::opened);
            go.push_back(std::make_unique<Client>(port));
            ASSERT_TRUE(server.wait(SocketEvent::opened, opened + 1));
            ASSERT_TRUE(network().group_add(group, server.last(SocketEvent::opened).id).ok());
        }
        if (i % 10 == 5) go.erase(go.begin());
        const std::string text = "message " + std::to_string(i);
        expected += text + "\n";
        const Result<std::size_t> sent = network().group_write(group, text);
        ASSERT_TRUE(sent.ok());
        ASSERT_GE(sent.value(), 20u);
    }
    for (auto& client : stay) EXPECT_EQ(client->read(expected.size()), expected);
    EXPECT_TRUE(eventually([&] {
        (void)network().group_write(group, "x");
        return network().group_size(group).value() == 20;
    }));
    ASSERT_TRUE(network().group_close(group).ok());
    EXPECT_EQ(network().group_write(group, "x").status().code(), StatusCode::not_found);
}

TEST_F(NetworkTest, large_broadcast_is_encoded_once_for_both_framings) {
    Service& server = service();
    const std::uint16_t lines = listen(server, options(FramingKind::line));
    const std::uint16_t packets = listen(server, options(FramingKind::packet));
    Client first(lines), second(packets);
    ASSERT_TRUE(server.wait(SocketEvent::opened, 2));
    std::vector<ConnectionId> ids;
    for (const Event& event : server.events()) ids.push_back(event.id);
    const std::string body(30000, 'b');
    EXPECT_EQ(network().write_many(ids, body), 2u);
    EXPECT_EQ(first.read(30001), body + "\n");
    EXPECT_EQ(second.read(30002), packet(body));
}

TEST_F(NetworkTest, drained_comes_when_all_is_sent) {
    Service& server = service();
    Client client(listen(server, options(FramingKind::raw)), 4096);
    ASSERT_TRUE(server.wait(SocketEvent::opened));
    const ConnectionId id = server.last(SocketEvent::opened).id;
    std::size_t total = 0;
    while (network().unsent(id) == 0) {
        ASSERT_TRUE(network().write(id, std::string(100000, 'd')).ok());
        total += 100000;
    }
    ASSERT_TRUE(network().notify_drained(id).ok());
    EXPECT_FALSE(server.wait(SocketEvent::drained, 1, 50ms));
    EXPECT_EQ(client.read(total).size(), total);
    EXPECT_TRUE(server.wait(SocketEvent::drained));
    ASSERT_TRUE(network().notify_drained(id).ok());
    EXPECT_TRUE(server.wait(SocketEvent::drained, 2));
}

// A client may send with the answer in its hands, and a thread that polls may then be about to
// look.
TEST_F(NetworkTest, answer_to_a_handshake_leaves_when_messages_can_be_read) {
    std::promise<void> polling_goes_on;
    const std::shared_future<void> going_on = polling_goes_on.get_future().share();
    Service& server = service([&](const Event& event) {
        if (event.event != SocketEvent::data) return;
        if (event.data != "handshake") return (void)network().write(event.id, event.data);
        asio::post(kernel_->poller().context(), [going_on] { going_on.wait(); });
        EXPECT_TRUE(network().upgrade(event.id, 1000).ok());
        EXPECT_TRUE(network().write_raw(event.id, "answer").ok());
    });
    Client client(listen(server, options(FramingKind::raw)));
    client.send("handshake");
    ASSERT_TRUE(server.wait(SocketEvent::data));
    EXPECT_FALSE(client.readable(200ms));
    polling_goes_on.set_value();
    EXPECT_EQ(client.read(6), "answer");
    const std::string masked("\x82\x85\0\0\0\0hello", 11);
    client.send(masked);
    EXPECT_EQ(client.read(7), "\x82\x05hello");
}

TEST_F(NetworkTest, every_kind_of_ending_gives_one_open_and_one_close) {
    Service& server = service([this](const Event& event) {
        if (event.event != SocketEvent::data) return;
        switch (event.data[0]) {
            case 'c': (void)network().close(event.id); break;
            case 'a': (void)network().abort(event.id); break;
            case 'e': (void)network().write(event.id, event.data); break;
            default: break;
        }
    });
    const std::uint16_t port = listen(server, options(FramingKind::packet));
    constexpr int kThreads = 4;
    // The promise says 100,000 in all: test/soak/endings_test.cpp.
    constexpr int kEach = 1000 / kThreads;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < kEach; ++i) {
                Client client(port);
                switch ((i + t) % 8) {
                    case 0:
                        client.send(packet("c"));
                        client.read_all();
                        break;
                    case 1:
                        client.send(packet("a"));
                        client.read_all();
                        break;
                    case 2:
                        client.send(packet("e"));
                        client.read(3);
                        break;
                    case 3:
                        client.send(packet("e"));
                        client.reset();
                        break;
                    case 4:
                        client.send(std::string("\1\0", 2));
                        client.read_all();
                        break;
                    case 5: client.send("\x09"); break;
                    case 6: client.reset(); break;
                    case 7:
                        client.send(packet("e"));
                        client.end_sending();
                        client.read_all();
                        break;
                }
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    // A reset before accept() is none that the service hears of.
    ASSERT_TRUE(eventually([&] {
        return counters().open.load() == 0 &&
               server.count(SocketEvent::closed) == counters().accepted.load();
    }));
    std::map<std::uint64_t, int> opened, closed;
    for (const Event& event : server.events()) {
        if (event.event == SocketEvent::opened) ++opened[event.id.value];
        if (event.event == SocketEvent::closed) ++closed[event.id.value];
        if (event.event == SocketEvent::data) {
            EXPECT_EQ(closed.count(event.id.value), 0u);
        }
    }
    EXPECT_EQ(opened, closed);
    for (const auto& [id, count] : opened) EXPECT_EQ(count, 1);
}

TEST_F(NetworkTest, stopping_delivers_and_closes_everything) {
    Service& server = echo();
    const std::uint16_t port = listen(server, options(FramingKind::line));
    Client client(port);
    client.send("x\n");
    EXPECT_EQ(client.read(2), "x\n");
    ASSERT_TRUE(network().write(server.last(SocketEvent::opened).id, "last words").ok());
    network().begin_stop();
    EXPECT_EQ(client.read_all(), "last words\n");
    client.close();
    EXPECT_TRUE(all_closed());
    ASSERT_TRUE(server.wait(SocketEvent::closed));
    EXPECT_EQ(server.last(SocketEvent::closed).data, "stopping");
    EXPECT_FALSE(network().listen(server.handle, options(FramingKind::line)).ok());
}

TEST_F(NetworkTest, accept_pauses_without_descriptors_and_goes_on_with_them) {
    Service& server = echo();
    const std::uint16_t port = listen(server, options(FramingKind::line));
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    // Sockets of clients first; then four descriptors for the server.
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 8; ++i) clients.push_back(std::make_unique<Client>(AF_INET));
    const int probe = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::close(probe);
    rlimit tight = before;
    tight.rlim_cur = static_cast<rlim_t>(probe) + 4;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
    for (auto& client : clients) client->connect(port);
    EXPECT_TRUE(eventually([&] { return counters().accept_pauses.load() > 0; }));
    // One that spins never has a quiet moment.
    double least = 1;
    for (int i = 0; i < 3 && least >= 0.1; ++i) {
        timespec cpu_before{}, cpu_after{};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_before);
        std::this_thread::sleep_for(500ms);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_after);
        least =
            std::min(least, static_cast<double>(cpu_after.tv_sec - cpu_before.tv_sec) +
                                static_cast<double>(cpu_after.tv_nsec - cpu_before.tv_nsec) * 1e-9);
    }
    EXPECT_LT(least, 0.1) << "accept spins";
    EXPECT_LT(counters().accept_pauses.load(), 40u);
    EXPECT_EQ(server.count(SocketEvent::opened), 4u);
    ::setrlimit(RLIMIT_NOFILE, &before);
    EXPECT_TRUE(server.wait(SocketEvent::opened, 8));
    for (auto& client : clients) {
        client->send("x\n");
        EXPECT_EQ(client->read(2), "x\n");
    }
}

#if !defined(PERILUNE_ASAN) && !defined(PERILUNE_TSAN)  // whose memory and threads count too

// Resident memory of this process, in bytes.
std::size_t resident() {
    std::ifstream file("/proc/self/statm");
    std::size_t pages = 0;
    file >> pages >> pages;
    return pages * 4096;
}

TEST_F(NetworkTest, peers_that_announce_much_and_send_none_cost_little) {
    Service& server = service();
    const std::uint16_t port = listen(server, options(FramingKind::packet));
    constexpr std::size_t kPeers = 400;
    std::vector<std::unique_ptr<Client>> clients;
    const std::size_t before = resident();
    for (std::size_t i = 0; i < kPeers; ++i) {
        clients.push_back(std::make_unique<Client>(port));
        ASSERT_TRUE(clients.back()->connected());
        clients.back()->send(
            "\xff\xff"
            "abc");
    }
    ASSERT_TRUE(eventually([&] { return counters().bytes_in.load() == 5 * kPeers; }));
    // 20 MB for 2,000 of them, and this side's own objects are in the sum too.
    EXPECT_LE(resident() - std::min(before, resident()), kPeers * 10 * 1024);
}

TEST_F(NetworkTest, idle_node_uses_no_processor) {
    Service& server = echo();
    Client client(listen(server, options(FramingKind::line)));
    client.send("x\n");
    EXPECT_EQ(client.read(2), "x\n");
    // The watchdog falls asleep at first; and a node that wakes up never has a quiet second.
    long least = 1000;
    for (int i = 0; i < 10 && least >= 10; ++i) {
        rusage before{}, after{};
        ::getrusage(RUSAGE_SELF, &before);
        std::this_thread::sleep_for(1s);
        ::getrusage(RUSAGE_SELF, &after);
        least = std::min(least, after.ru_nvcsw - before.ru_nvcsw);
    }
    EXPECT_LT(least, 10);
}

#endif

TEST(Address, parses_and_prints_both_families) {
    EXPECT_EQ(Address::parse("127.0.0.1", 80).value().text(), "127.0.0.1:80");
    EXPECT_EQ(Address::parse("[::1]", 80).value().text(), "[::1]:80");
    EXPECT_EQ(Address::parse("::ffff:10.0.0.1", 1).value().text(), "10.0.0.1:1");
    EXPECT_EQ(Address::parse("localhost", 1).value().host(), "127.0.0.1");
    EXPECT_EQ(Address::parse("*", 1).value().text(), "[::]:1");
    EXPECT_FALSE(Address::parse("example.org", 1).ok());
    EXPECT_FALSE(Address::parse("", 1).ok());
    EXPECT_EQ(Address::parse("2001:db8::1", 5).value().client_key(),
              Address::parse("2001:db8::2", 6).value().client_key());
}

}  // namespace
}  // namespace perilune
