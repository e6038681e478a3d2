// Tests of EnetHost over a network in memory that loses and reorders, in virtual time.
#include "net/enet_host.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <set>

namespace perilune {
namespace {

Address address(const char* host, std::uint16_t port) { return Address::parse(host, port).value(); }

struct Event {
    std::string kind;
    std::uint64_t id;
    std::string text;
    std::uint32_t number = 0;
};

class Node;

// Where datagrams are on their way.
class World {
  public:
    VirtualClock clock;
    SeededRandom random{7};
    UdpCounters counters;
    double loss = 0;
    int least_ms = 1, most_ms = 1;
    bool cut = false;  // nothing arrives any more
    std::vector<Node*> nodes;

    void send(const Address& from, const Address& to, std::string bytes) {
        if (cut || (loss > 0 && dice_(generator_) < loss)) return;
        const int delay =
            least_ms +
            static_cast<int>(generator_() % static_cast<unsigned>(most_ms - least_ms + 1));
        flying_.emplace(clock.now_ns() + delay * kNsPerMs, Flying{from, to, std::move(bytes)});
    }
    // Lets time pass until `done`; false when it wasn't within the limit.
    template <typename Done>
    bool run(Done done, std::int64_t limit_ms = 60'000);
    void run_for(std::int64_t ms) {
        (void)run([] { return false; }, ms);
    }

  private:
    struct Flying {
        Address from, to;
        std::string bytes;
    };
    std::multimap<std::int64_t, Flying> flying_;
    std::mt19937 generator_{11};
    std::uniform_real_distribution<> dice_{0, 1};
};

class Node final : public EnetWire, public EnetSink {
  public:
    Node(World& world_, const Address& own_, EnetOptions options = {})
        : world(world_),
          own(own_),
          host(options, {world.clock, world.random, *this, *this, world.counters}) {
        world.nodes.push_back(this);
    }

    ssize_t send(const Address& to, const iovec* pieces, int count) override {
        std::string bytes;
        for (int i = 0; i < count; ++i) {
            bytes.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
        }
        sent_bytes += bytes.size();
        ++sent_datagrams;
        if (on_send) on_send(bytes);
        const ssize_t size = static_cast<ssize_t>(bytes.size());
        world.send(own, to, std::move(bytes));
        return size;
    }
    ssize_t receive(Address& from, char* data, std::size_t size) override {
        if (inbox.empty()) return -EAGAIN;
        const auto [sender, bytes] = std::move(inbox.front());
        inbox.pop_front();
        if (bytes.size() > size) return -EMSGSIZE;
        from = sender;
        std::memcpy(data, bytes.data(), bytes.size());
        return static_cast<ssize_t>(bytes.size());
    }
    bool has_room() override { return room; }
    std::uint64_t opened(std::size_t index, const Address& peer, std::uint32_t data) override {
        places[++last_id] = index;
        events.push_back({"opened", last_id, peer.text(), data});
        return last_id;
    }
    void connected(std::uint64_t id, const Address& peer) override {
        events.push_back({"connected", id, peer.text()});
    }
    void failed(std::uint64_t id, const std::string& text) override {
        events.push_back({"failed", id, text});
    }
    void data(std::uint64_t id, std::uint8_t channel, std::string_view packet) override {
        events.push_back({"data", id, std::string(packet), channel});
    }
    void closed(std::uint64_t id, EnetReason reason, std::uint32_t code) override {
        events.push_back({"closed", id, enet_reason_name(reason), code});
    }

    void connect(const Node& server, std::uint32_t data = 0) {
        ASSERT_TRUE(host.connect(server.own, 1, data).ok());
    }
    std::size_t count(const std::string& kind) const {
        return static_cast<std::size_t>(std::count_if(
            events.begin(), events.end(), [&](const Event& event) { return event.kind == kind; }));
    }
    Event last(const std::string& kind) const {
        for (auto event = events.rbegin(); event != events.rend(); ++event) {
            if (event->kind == kind) return *event;
        }
        return {"none", 0, ""};
    }
    std::vector<std::string> packets() const {
        std::vector<std::string> list;
        for (const Event& event : events) {
            if (event.kind == "data") list.push_back(event.text);
        }
        return list;
    }
    // A datagram as from `from`, which is handled at once; the bytes that are sent in return.
    std::size_t poke(const Address& from, const std::string& bytes) {
        inbox.emplace_back(from, bytes);
        const std::size_t before = sent_bytes;
        host.service();
        return sent_bytes - before;
    }

    World& world;
    const Address own;
    std::deque<std::pair<Address, std::string>> inbox;
    std::vector<Event> events;
    std::map<std::uint64_t, std::size_t> places;
    std::uint64_t last_id = 100;
    std::size_t sent_bytes = 0, sent_datagrams = 0;
    std::function<void(const std::string&)> on_send;
    bool room = true;
    EnetHost host;
};

template <typename Done>
bool World::run(Done done, std::int64_t limit_ms) {
    const std::int64_t end = clock.now_ns() + limit_ms * kNsPerMs;
    while (!done()) {
        std::int64_t next = flying_.empty() ? INT64_MAX : flying_.begin()->first;
        for (Node* node : nodes) next = std::min(next, node->host.next_due_ns());
        if (next > end) {
            clock.advance_to(end);
            return done();
        }
        clock.advance_to(next);
        while (!flying_.empty() && flying_.begin()->first <= clock.now_ns()) {
            const Flying datagram = std::move(flying_.begin()->second);
            flying_.erase(flying_.begin());
            for (Node* node : nodes) {
                if (node->own == datagram.to) {
                    node->inbox.emplace_back(datagram.from, datagram.bytes);
                }
            }
        }
        for (Node* node : nodes) node->host.service();
    }
    return true;
}

class EnetHostTest : public testing::Test {
  protected:
    static EnetOptions quick() {
        EnetOptions options;
        options.timeout_ms = 4000;
        options.close_ms = 2000;
        return options;
    }
    Node& server(EnetOptions options = quick()) {
        auto node = std::make_unique<Node>(world, address("10.0.0.1", 7000), options);
        EXPECT_TRUE(node->host.listen().ok());
        return keep(std::move(node));
    }
    Node& client(std::uint16_t port = 40000, EnetOptions options = quick(),
                 const char* host = "10.0.0.2") {
        return keep(std::make_unique<Node>(world, address(host, port), options));
    }
    Node& keep(std::unique_ptr<Node> node) {
        nodes_.push_back(std::move(node));
        return *nodes_.back();
    }
    void connect(Node& to, Node& from, std::uint32_t data = 0) {
        const std::size_t before = to.count("opened");
        from.connect(to, data);
        ASSERT_TRUE(world.run(
            [&] { return from.count("connected") == 1 && to.count("opened") == before + 1; }));
    }
    static std::size_t place(const Node& node) { return node.places.rbegin()->second; }
    std::uint64_t value(const UdpCounters::Count& counter) { return counter.load(); }
    UdpCounters& counters() { return world.counters; }

    World world;

  private:
    std::vector<std::unique_ptr<Node>> nodes_;
};

TEST_F(EnetHostTest, connects_behind_a_cookie_and_echoes) {
    Node& a = server();
    Node& b = client();
    connect(a, b, 0xfeedbeef);
    EXPECT_EQ(a.last("opened").number, 0xfeedbeef);
    EXPECT_EQ(a.last("opened").text, "10.0.0.2:40000");
    EXPECT_EQ(value(counters().cookie_requests), 1u);
    EXPECT_GE(value(counters().cookie_proofs), 1u);
    ASSERT_TRUE(b.host.write(0, "hello", 1, EnetMode::reliable).ok());
    b.host.flush();
    ASSERT_TRUE(world.run([&] { return a.count("data") == 1; }));
    EXPECT_EQ(a.last("data").text, "hello");
    EXPECT_EQ(a.last("data").number, 1u);
    ASSERT_TRUE(a.host.write(place(a), "", 0, EnetMode::reliable).ok());
    a.host.flush();
    ASSERT_TRUE(world.run([&] { return b.count("data") == 1; }));
    EXPECT_EQ(value(counters().enet_peers), 2u);
    ASSERT_TRUE(b.host.close(0, EnetReason::closed, 42).ok());
    b.host.flush();
    ASSERT_TRUE(world.run([&] { return !a.host.busy() && !b.host.busy(); }));
    EXPECT_EQ(a.last("closed").text, "ended");
    EXPECT_EQ(a.last("closed").number, 42u);
    EXPECT_EQ(b.last("closed").text, "closed");
    EXPECT_EQ(value(counters().enet_peers), 0u);
    EXPECT_EQ(a.host.next_due_ns(), INT64_MAX);  // no timer without peers
}

TEST_F(EnetHostTest, reliable_packets_arrive_once_and_in_order_despite_loss_and_reordering) {
    world.loss = 0.2;
    world.least_ms = 5;
    world.most_ms = 60;
    EnetOptions patient = quick();
    patient.timeout_ms = 30'000;
    Node& a = server(patient);
    Node& b = client(40000, patient);
    connect(a, b);
    std::mt19937 sizes(3);
    std::vector<std::string> wanted;
    for (int i = 0; i < 300; ++i) {
        wanted.push_back(std::to_string(i) +
                         std::string(sizes() % (i % 10 == 0 ? 20'000 : 200), 'x'));
        ASSERT_TRUE(b.host.write(0, wanted.back(), 0, EnetMode::reliable).ok());
    }
    b.host.flush();
    ASSERT_TRUE(world.run([&] { return a.count("data") == wanted.size(); }, 300'000));
    EXPECT_EQ(a.packets(), wanted);
    ASSERT_TRUE(world.run([&] { return b.host.unsent(0) == 0; }));
}

TEST_F(EnetHostTest, unreliable_packets_may_be_lost_but_never_doubled_or_late) {
    Node& a = server();
    Node& b = client();
    connect(a, b);
    world.loss = 0.3;
    world.most_ms = 30;
    for (int i = 1000; i < 1500; ++i) {
        ASSERT_TRUE(b.host.write(0, std::to_string(i), 0, EnetMode::unreliable).ok());
        b.host.flush();
        world.run_for(5);
    }
    world.run_for(200);
    const std::vector<std::string> got = a.packets();
    EXPECT_GT(got.size(), 20u);
    EXPECT_LT(got.size(), 450u);
    EXPECT_TRUE(std::is_sorted(got.begin(), got.end()));
    EXPECT_EQ(std::set<std::string>(got.begin(), got.end()).size(), got.size());
}

TEST_F(EnetHostTest, unsequenced_packets_come_as_they_come) {
    Node& a = server();
    Node& b = client();
    connect(a, b);
    world.most_ms = 40;
    for (int i = 1000; i < 1200; ++i) {
        ASSERT_TRUE(b.host.write(0, std::to_string(i), 0, EnetMode::unsequenced).ok());
        b.host.flush();
        world.run_for(5);
    }
    world.run_for(200);
    std::vector<std::string> got = a.packets();
    EXPECT_FALSE(std::is_sorted(got.begin(), got.end()));
    EXPECT_EQ(std::set<std::string>(got.begin(), got.end()).size(), got.size());
    EXPECT_GT(got.size(), 100u);
}

TEST_F(EnetHostTest, a_peer_that_vanishes_times_out) {
    Node& a = server();
    Node& b = client();
    connect(a, b);
    world.run_for(3000);
    EXPECT_EQ(a.count("closed"), 0u);  // pings keep it
    world.cut = true;
    const std::int64_t from = world.clock.now_ns();
    ASSERT_TRUE(world.run([&] { return a.count("closed") == 1 && b.count("closed") == 1; }));
    EXPECT_LE(world.clock.now_ns() - from, 8 * kNsPerSecond);
    EXPECT_EQ(a.last("closed").text, "timeout");
    EXPECT_EQ(b.last("closed").text, "timeout");
    EXPECT_EQ(value(counters().enet_closed_timeout), 2u);
    EXPECT_FALSE(a.host.busy());
}

TEST_F(EnetHostTest, close_delivers_and_abort_does_not) {
    Node& a = server();
    Node& b = client();
    connect(a, b);
    const std::string large(60'000, 'l');
    for (int i = 0; i < 10; ++i) (void)b.host.write(0, large, 0, EnetMode::reliable);
    ASSERT_TRUE(b.host.close(0, EnetReason::closed, 0).ok());
    EXPECT_EQ(b.host.write(0, "x", 0, EnetMode::reliable).code(), StatusCode::dead);
    EXPECT_EQ(b.host.close(0, EnetReason::closed, 0).code(), StatusCode::dead);
    ASSERT_TRUE(world.run([&] { return a.count("closed") == 1 && b.count("closed") == 1; }));
    EXPECT_EQ(a.count("data"), 10u);
    EXPECT_EQ(a.last("closed").text, "ended");
    Node& c = client(40001);
    connect(a, c);
    (void)c.host.write(0, large, 0, EnetMode::reliable);
    ASSERT_TRUE(c.host.abort(0, EnetReason::aborted).ok());
    EXPECT_EQ(c.last("closed").text, "aborted");
    ASSERT_TRUE(world.run([&] { return a.count("closed") == 2; }));
    EXPECT_EQ(a.count("data"), 10u);
    EXPECT_EQ(a.last("closed").text, "ended");
}

TEST_F(EnetHostTest, close_to_nobody_ends_in_time) {
    Node& a = server();
    Node& b = client();
    connect(a, b);
    world.cut = true;
    (void)b.host.write(0, "never", 0, EnetMode::reliable);
    const std::int64_t from = world.clock.now_ns();
    ASSERT_TRUE(b.host.close(0, EnetReason::stopping, 0).ok());
    ASSERT_TRUE(world.run([&] { return b.count("closed") == 1; }));
    EXPECT_LE(world.clock.now_ns() - from, 2100 * kNsPerMs);
    EXPECT_EQ(b.last("closed").text, "stopping");
    EXPECT_EQ(value(counters().enet_closed_late), 1u);
}

TEST_F(EnetHostTest, a_peer_that_acknowledges_nothing_is_closed_as_slow) {
    EnetOptions options = quick();
    options.send_bytes = 100'000;
    options.send_packets = 50;
    Node& a = server(options);
    Node& b = client(40000);
    connect(a, b);
    world.cut = true;
    const std::string packet(10'000, 'p');
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(a.host.write(place(a), packet, 0, EnetMode::reliable).ok());
    }
    // What may be lost is dropped, which closes nothing.
    EXPECT_EQ(a.host.write(place(a), packet, 0, EnetMode::unreliable).code(),
              StatusCode::overloaded);
    EXPECT_EQ(value(counters().enet_dropped_unreliable), 1u);
    EXPECT_EQ(a.count("closed"), 0u);
    EXPECT_EQ(a.host.write(place(a), packet, 0, EnetMode::reliable).code(), StatusCode::overloaded);
    EXPECT_EQ(a.last("closed").text, "slow");
    EXPECT_EQ(value(counters().enet_closed_slow), 1u);
    EXPECT_EQ(a.host.write(place(a), packet, 0, EnetMode::reliable).code(), StatusCode::dead);
    EXPECT_FALSE(a.host.busy());
}

TEST_F(EnetHostTest, sizes_and_channels_are_checked) {
    EnetOptions options = quick();
    options.max_packet = 1000;
    Node& a = server(options);
    Node& b = client();
    connect(a, b);
    EXPECT_EQ(a.host.write(place(a), std::string(1001, 'x'), 0, EnetMode::reliable).code(),
              StatusCode::too_large);
    EXPECT_EQ(a.host.write(place(a), "x", 2, EnetMode::reliable).code(), StatusCode::invalid);
    EXPECT_TRUE(a.host.write(place(a), std::string(1000, 'x'), 1, EnetMode::reliable).ok());
    // Over the receiver's limit: never acknowledged, so the sender is the one who suffers.
    ASSERT_TRUE(b.host.write(0, std::string(1001, 'x'), 0, EnetMode::reliable).ok());
    b.host.flush();
    ASSERT_TRUE(world.run([&] { return b.count("closed") == 1; }));
    EXPECT_EQ(a.count("data"), 0u);
}

TEST_F(EnetHostTest, what_the_owner_has_no_room_for_waits_at_the_sender) {
    EnetOptions patient = quick();
    patient.timeout_ms = 30'000;
    Node& a = server(patient);
    Node& b = client(40000, patient);
    connect(a, b);
    a.room = false;
    std::size_t wanted = 0;
    for (; b.host.unsent(0) < 900'000; ++wanted) {
        ASSERT_TRUE(b.host.write(0, std::string(10'000, 'x'), 0, EnetMode::reliable).ok());
    }
    b.host.flush();
    world.run_for(2000);
    EXPECT_EQ(a.count("data"), 0u);
    EXPECT_GT(b.host.unsent(0), 500'000u);
    EXPECT_GT(value(counters().enet_receive_pauses), 0u);
    a.room = true;
    ASSERT_TRUE(world.run([&] { return a.count("data") == wanted; }));
    EXPECT_EQ(b.count("closed"), 0u);
}

TEST_F(EnetHostTest, peers_are_limited_in_all_and_by_address) {
    EnetOptions options = quick();
    options.max_peers = 4;
    options.max_per_address = 2;
    Node& a = server(options);
    EnetOptions hasty = quick();
    hasty.connect_ms = 1500;
    for (std::uint16_t i = 0; i < 3; ++i) client(40000 + i, hasty).connect(a);
    world.run_for(2000);
    EXPECT_EQ(a.count("opened"), 2u);
    EXPECT_GT(value(counters().enet_refused_address), 0u);
    EXPECT_EQ(value(counters().enet_refused_full), 0u);
    EXPECT_EQ(value(counters().enet_connect_failed), 1u);
    for (std::uint16_t i = 0; i < 3; ++i) {
        const std::string host = "10.0.1." + std::to_string(i);
        client(40000, hasty, host.c_str()).connect(a);
    }
    world.run_for(2000);
    EXPECT_EQ(a.count("opened"), 4u);
    EXPECT_GT(value(counters().enet_refused_full), 0u);
    EXPECT_EQ(value(counters().enet_connect_failed), 2u);
}

TEST_F(EnetHostTest, a_connect_to_nobody_fails_in_time) {
    Node& b = client(40000);
    Node& nobody = client(1);
    b.connect(nobody);
    const std::int64_t from = world.clock.now_ns();
    ASSERT_TRUE(world.run([&] { return b.count("failed") == 1; }));
    EXPECT_EQ(b.last("failed").text, "timeout");
    EXPECT_LE(world.clock.now_ns() - from, 10'100 * kNsPerMs);
    EXPECT_LT(b.sent_datagrams, 20u);
    EXPECT_FALSE(b.host.busy());
}

TEST_F(EnetHostTest, nothing_is_accepted_once_it_has_stopped_accepting) {
    Node& a = server();
    Node& b = client(40000);
    connect(a, b);
    a.host.stop_accepting();
    Node& c = client(40001);
    c.connect(a);
    ASSERT_TRUE(world.run([&] { return c.count("failed") == 1; }));
    EXPECT_EQ(a.count("opened"), 1u);
    ASSERT_TRUE(b.host.write(0, "still here", 0, EnetMode::reliable).ok());
    b.host.flush();
    ASSERT_TRUE(world.run([&] { return a.count("data") == 1; }));
}

// ---- promise 20: nothing kept and no more bytes out than in before an address is proven ----

// What a client that speaks the protocol would send first.
std::string enet_connect() {
    std::string bytes(52, '\0');
    bytes[0] = '\x8f';
    bytes[1] = '\xff';
    bytes[4] = '\x82';  // CONNECT, to be acknowledged
    bytes[5] = '\xff';
    bytes[23] = 2;  // channels
    return bytes;
}

TEST_F(EnetHostTest, random_datagrams_of_strangers_get_no_more_bytes_than_they_bring) {
    Node& a = server();
    std::mt19937_64 random(20);
    std::size_t in = 0, out = 0;
    char request[kCookieRequestSize];
    for (int i = 0; i < 10'000; ++i) {
        const Address from = address(("10.1." + std::to_string(random() % 256) + ".9").c_str(),
                                     static_cast<std::uint16_t>(1 + random() % 65535));
        std::string bytes(random() % 200, '\0');
        for (char& byte : bytes) byte = static_cast<char>(random());
        switch (i % 5) {
            case 0: break;
            case 1:  // begins like a cookie datagram
                bytes = "PLU\x01" + bytes;
                if (bytes.size() > 4) bytes[4] = static_cast<char>(random() % 5);
                break;
            case 2:  // is one, but for a byte
                bytes.assign(request,
                             write_cookie_datagram({static_cast<CookieKind>(1 + random() % 3),
                                                    random(),
                                                    {static_cast<std::uint32_t>(random()), {}}},
                                                   request));
                if (random() % 2 != 0) bytes[random() % bytes.size()] = static_cast<char>(random());
                break;
            case 3:  // asks for a connection
                bytes = enet_connect() + bytes;
                break;
            case 4:  // as of a peer
                bytes = std::string("\x80\x00", 2) + bytes;
                break;
        }
        const std::size_t sent = a.poke(from, bytes);
        EXPECT_LE(sent, bytes.size());
        in += bytes.size();
        out += sent;
    }
    EXPECT_LE(out, in);
    EXPECT_GT(value(counters().cookie_requests), 100u);
    EXPECT_GT(value(counters().cookie_malformed), 1000u);
    EXPECT_GT(value(counters().cookie_old), 100u);
    EXPECT_GT(value(counters().enet_dropped_unproven), 1000u);
    EXPECT_GT(value(counters().enet_dropped_stranger), 1000u);
    EXPECT_EQ(value(counters().cookie_proofs), 0u);
    EXPECT_FALSE(a.host.busy());  // no peer, no timer, nothing kept
    EXPECT_EQ(a.host.next_due_ns(), INT64_MAX);
    EXPECT_TRUE(a.events.empty());
}

// The cookie that `a` gives `from`.
CookieDatagram ask(Node& a, const Address& from) {
    char bytes[kCookieRequestSize];
    const std::string request(bytes, write_cookie_datagram({CookieKind::request, 99, {}}, bytes));
    CookieDatagram answer;
    a.on_send = [&](const std::string& sent) {
        answer = read_cookie_datagram(sent).value_or(CookieDatagram{});
    };
    EXPECT_EQ(a.poke(from, request), kCookieReplySize);
    a.on_send = {};
    EXPECT_EQ(answer.kind, CookieKind::cookie);
    EXPECT_EQ(answer.nonce, 99u);
    return answer;
}

std::string proof_of(const Cookie& cookie) {
    char bytes[kCookieRequestSize];
    return std::string(bytes, write_cookie_datagram({CookieKind::proof, 0, cookie}, bytes));
}

TEST_F(EnetHostTest, spoofed_and_replayed_proofs_let_nothing_through) {
    Node& a = server();
    const Address mine = address("10.0.0.2", 5000), other = address("10.0.0.3", 5000);
    const Cookie cookie = ask(a, mine).cookie;
    EXPECT_EQ(a.poke(other, proof_of(cookie)), 0u);  // a cookie that somebody else got
    EXPECT_EQ(value(counters().cookie_forged), 1u);
    Cookie guessed = cookie;
    guessed.mac[3] ^= 4;
    EXPECT_EQ(a.poke(mine, proof_of(guessed)), 0u);
    EXPECT_EQ(value(counters().cookie_forged), 2u);
    for (const Address& from : {mine, other}) EXPECT_EQ(a.poke(from, enet_connect()), 0u);
    EXPECT_EQ(value(counters().enet_dropped_unproven), 2u);
    world.clock.advance_by(21 * kNsPerSecond);
    EXPECT_EQ(a.poke(mine, proof_of(cookie)), 0u);
    EXPECT_EQ(value(counters().cookie_old), 1u);
    EXPECT_EQ(a.poke(mine, enet_connect()), 0u);
    EXPECT_FALSE(a.host.busy());
    // The same, done right: now ENet answers.
    EXPECT_EQ(a.poke(mine, proof_of(ask(a, mine).cookie)), 0u);
    EXPECT_GT(a.poke(mine, enet_connect()), 0u);
    EXPECT_TRUE(a.host.busy());
    EXPECT_EQ(a.count("opened"), 0u);  // it hasn't answered in turn
}

TEST_F(EnetHostTest, a_proof_is_forgotten_after_a_while) {
    Node& a = server();
    const Address mine = address("10.0.0.2", 5000);
    EXPECT_EQ(a.poke(mine, proof_of(ask(a, mine).cookie)), 0u);
    world.clock.advance_by(31 * kNsPerSecond);
    EXPECT_EQ(a.poke(mine, enet_connect()), 0u);
    EXPECT_EQ(value(counters().enet_dropped_unproven), 1u);
}

TEST_F(EnetHostTest, proofs_fill_no_more_than_the_table) {
    EnetOptions options = quick();
    options.proven.most = 50;
    options.proven.most_per_address = 20;
    Node& a = server(options);
    for (std::uint16_t port = 1; port <= 40; ++port) {
        const Address from = address("10.0.0.2", port);
        (void)a.poke(from, proof_of(ask(a, from).cookie));
    }
    EXPECT_EQ(value(counters().cookie_refused), 20u);
    for (std::uint16_t i = 0; i < 100; ++i) {
        const Address from = address(("10.0.1." + std::to_string(i)).c_str(), 9);
        (void)a.poke(from, proof_of(ask(a, from).cookie));
    }
    EXPECT_EQ(value(counters().cookie_evicted), 70u);
    EXPECT_EQ(value(counters().cookie_proofs), 140u);
}

TEST_F(EnetHostTest, strangers_cannot_speak_for_a_peer) {
    Node& a = server();
    Node& b = client();
    connect(a, b);
    std::vector<std::string> sent;
    b.on_send = [&](const std::string& bytes) { sent.push_back(bytes); };
    ASSERT_TRUE(b.host.close(0, EnetReason::closed, 0).ok());
    b.host.flush();
    ASSERT_FALSE(sent.empty());
    const std::uint64_t before = value(counters().enet_dropped_stranger);
    EXPECT_EQ(a.poke(address("10.0.0.2", 40001), sent.back()), 0u);  // another port
    EXPECT_EQ(a.poke(address("10.0.0.9", 40000), sent.back()), 0u);
    EXPECT_EQ(value(counters().enet_dropped_stranger), before + 2);
    EXPECT_EQ(a.count("closed"), 0u);
}

TEST_F(EnetHostTest, a_client_takes_only_the_cookie_that_it_has_asked_for) {
    Node& a = server();
    Node& b = client();
    b.connect(a);
    char bytes[kCookieRequestSize];
    const std::string forged(bytes,
                             write_cookie_datagram({CookieKind::cookie, 123, {1, {}}}, bytes));
    EXPECT_EQ(b.poke(a.own, forged), 0u);
    EXPECT_EQ(value(counters().cookie_forged), 1u);
    ASSERT_TRUE(world.run([&] { return b.count("connected") == 1; }));
}

}  // namespace
}  // namespace perilune
