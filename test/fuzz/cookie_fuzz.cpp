// Fuzzes what strangers can send to an ENet host: the decoder of cookie datagrams reads only what
// it would write itself; an unproven address gets no more bytes than it sends and nothing is
// kept for it; whatever a proven one sends, the host goes on.
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>

#include "driver.h"
#include "net/enet_host.h"

namespace perilune::fuzz {

namespace {

using namespace perilune;

// A host that one stranger sends to.
class Target final : public EnetWire, public EnetSink {
  public:
    Target() : host_({}, {clock_, random_, *this, *this, counters_}) {
        check(host_.listen().ok());
        stranger_.bytes[10] = stranger_.bytes[11] = 0xff;
        stranger_.port = 9;
    }

    // The bytes that come back.
    std::size_t poke(std::string_view datagram) {
        waiting_ = datagram;
        has_datagram_ = true;
        sent_.clear();
        host_.service();
        return sent_.size();
    }
    bool busy() const { return host_.busy(); }
    void prove() {
        char bytes[kCookieRequestSize];
        (void)poke({bytes, write_cookie_datagram({CookieKind::request, 1, {}}, bytes)});
        const auto answer = read_cookie_datagram(sent_);
        check(answer && answer->kind == CookieKind::cookie);
        (void)poke({bytes, write_cookie_datagram({CookieKind::proof, 0, answer->cookie}, bytes)});
    }
    void pass_time(int ms) {
        clock_.advance_by(ms * kNsPerMs);
        host_.service();
    }

    ssize_t send(const Address&, const iovec* pieces, int count) override {
        for (int i = 0; i < count; ++i) {
            sent_.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
        }
        return 1;
    }
    ssize_t receive(Address& from, char* data, std::size_t size) override {
        if (!has_datagram_) return -EAGAIN;
        has_datagram_ = false;
        if (waiting_.size() > size) return -EMSGSIZE;
        from = stranger_;
        if (!waiting_.empty()) std::memcpy(data, waiting_.data(), waiting_.size());
        return static_cast<ssize_t>(waiting_.size());
    }
    bool has_room() override { return true; }
    std::uint64_t opened(std::size_t, const Address&, std::uint32_t) override { return ++last_; }
    void connected(std::uint64_t, const Address&) override { std::abort(); }
    void failed(std::uint64_t, const std::string&) override { std::abort(); }
    void data(std::uint64_t id, std::uint8_t, std::string_view packet) override {
        check(id == last_ && packet.size() <= 64 * 1024);
    }
    void closed(std::uint64_t, EnetReason, std::uint32_t) override {}

  private:
    VirtualClock clock_;
    SeededRandom random_{1};
    UdpCounters counters_;
    Address stranger_;
    std::string_view waiting_;
    bool has_datagram_ = false;
    std::string sent_;
    std::uint64_t last_ = 0;
    EnetHost host_;
};

void check_decoder(std::string_view bytes) {
    const auto read = read_cookie_datagram(bytes);
    if (!read) return;
    char again[kCookieRequestSize];
    check(std::string_view(again, write_cookie_datagram(*read, again)) == bytes);
}

// Pieces of a length each; the first byte says whether the address proves itself first.

// ENet's connect, so that random bytes get further.
std::string connect_datagram(std::mt19937_64& random) {
    std::string bytes(52, '\0');
    bytes[0] = '\x8f';
    bytes[1] = '\xff';
    bytes[4] = '\x82';
    bytes[5] = '\xff';
    bytes[23] = static_cast<char>(1 + random() % 4);
    return bytes;
}

std::string random_datagram(std::mt19937_64& random) {
    std::string bytes(random() % 120, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    switch (random() % 6) {
        case 0: return connect_datagram(random);
        case 1: return std::string("PLU\x01", 4) + bytes;
        case 2: {
            char datagram[kCookieRequestSize];
            const auto kind = static_cast<CookieKind>(1 + random() % 3);
            return std::string(
                datagram,
                write_cookie_datagram({kind, random(), {static_cast<std::uint32_t>(random()), {}}},
                                      datagram));
        }
        case 3:  // a command of the first peer
        case 4: {
            const char head[] = {static_cast<char>(random() % 2 != 0 ? '\x80' : '\x90'), 0, 0, 0};
            if (!bytes.empty()) {
                bytes[0] = static_cast<char>((random() % 14) | (random() % 2 != 0 ? 0x80 : 0));
            }
            return std::string(head, sizeof head) + bytes;
        }
        default: return bytes;
    }
}

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return;
    std::string_view input(reinterpret_cast<const char*>(data), size);
    check_decoder(input);
    Target target;
    const bool proven = (data[0] & 1) != 0;
    if (proven) target.prove();
    input.remove_prefix(1);
    while (!input.empty()) {
        const std::size_t length =
            std::min<std::size_t>(static_cast<std::uint8_t>(input[0]), input.size() - 1);
        const std::string datagram(input.substr(1, length));
        input.remove_prefix(1 + length);
        check_decoder(datagram);
        const std::size_t sent = target.poke(datagram);
        if (!proven) check(sent <= datagram.size() && !target.busy());
        if (proven) target.pass_time(30);
    }
    if (proven) target.pass_time(60'000);
}

std::string random_input(std::mt19937_64& random, unsigned long round) {
    std::string bytes(1, static_cast<char>(round));
    for (std::uint64_t pieces = 1 + random() % 8; pieces > 0; --pieces) {
        const std::string datagram = random_datagram(random);
        bytes += static_cast<char>(datagram.size());
        bytes += datagram;
    }
    return bytes;
}

}  // namespace perilune::fuzz
