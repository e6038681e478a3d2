#include "peer.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <random>

namespace perilune::test {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kKept = 256 * 1024;
constexpr int kJson = 1;

SSL_CTX* client_context() {
    static SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
    return context;
}

bool wait_until_ready(int descriptor, short events, int limit_ms) {
    pollfd ready{descriptor, events, 0};
    return ::poll(&ready, 1, limit_ms) > 0;
}

}  // namespace

const char* transport_name(Transport transport) {
    switch (transport) {
        case Transport::tcp: return "tcp";
        case Transport::websocket: return "websocket";
        case Transport::tls: return "tls";
        case Transport::wss: return "wss";
    }
    return "unknown";
}

std::string little_endian(std::uint64_t number, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(number >> (8 * i) & 0xff);
    return text;
}

std::string big_endian(std::uint64_t number, int bytes) {
    std::string text = little_endian(number, bytes);
    std::reverse(text.begin(), text.end());
    return text;
}

std::string json_packet(std::int16_t stype, std::int16_t ctype, std::string_view value,
                        std::uint32_t utag) {
    const std::string body = "{\"0\":" + std::string(value) + "}";
    return little_endian(static_cast<std::uint16_t>(stype), 2) +
           little_endian(static_cast<std::uint16_t>(ctype), 2) + little_endian(utag, 4) +
           little_endian(kJson, 2) + little_endian(body.size(), 2) + body;
}

std::string upgrade_request() {
    return "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
}

std::string masked_frame(std::string_view body, std::uint64_t size) {
    if (size == UINT64_MAX) size = body.size();
    std::string frame = "\x82";  // binary, the whole message
    if (size < 126) {
        frame += static_cast<char>(0x80 | size);
    } else if (size < 65536) {
        frame += '\xfe' + big_endian(size, 2);
    } else {
        frame += '\xff' + big_endian(size, 8);
    }
    frame += std::string(4, '\0');  // a mask that changes nothing
    return frame.append(body);
}

std::string guest_key() {
    static std::mt19937_64 random{std::random_device()()};
    constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    std::string key;
    while (key.size() < 32) key += kLetters[random() % kLetters.size()];
    return key;
}

Peer::Peer(std::uint16_t port, const Options& options) {
    descriptor_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (options.receive_buffer != 0) {
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUF, &options.receive_buffer,
                     sizeof options.receive_buffer);
    }
    const int on = 1;
    ::setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // The port is chosen with the peer's: one of these may serve many peers.
    ::setsockopt(descriptor_, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, options.from.c_str(), &address.sin_addr);
    if (::bind(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
        error_ = errno;
        return;
    }
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 &&
        errno != EINPROGRESS) {
        error_ = errno;
    }
}

Peer::~Peer() { close(); }

bool Peer::open(Transport transport) {
    if (transport == Transport::tls || transport == Transport::wss) {
        if (!secure()) return false;
    }
    if (transport == Transport::websocket || transport == Transport::wss) {
        send(upgrade_request());
        if (!got("\r\n\r\n")) return false;
        in.clear();
        in_messages_ = true;
    } else if (!wait_until_ready(descriptor_, POLLOUT, kPatienceMs)) {
        return false;
    }
    return !over();
}

bool Peer::secure() {
    tls_.reset(SSL_new(client_context()));
    SSL_set_fd(tls_.get(), descriptor_);
    const auto end = Clock::now() + std::chrono::milliseconds(kPatienceMs);
    while (Clock::now() < end) {
        const int result = SSL_connect(tls_.get());
        if (result == 1) return true;
        const int reason = SSL_get_error(tls_.get(), result);
        if (reason != SSL_ERROR_WANT_READ && reason != SSL_ERROR_WANT_WRITE) break;
        wait_until_ready(descriptor_, reason == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, 100);
    }
    error_ = EPROTO;
    return false;
}

std::uint32_t Peer::log_in(const std::string& key) {
    constexpr std::string_view kUid = "\"uid\":";
    in.clear();
    send_packet(json_packet(2, 1, "\"" + key + "\""));
    if (!got(kUid)) return 0;
    const std::size_t at = in.find(kUid) + kUid.size();
    // The number may be cut.
    if (!wait([&] { return in.find_first_not_of("0123456789", at) != std::string::npos; }))
        return 0;
    return static_cast<std::uint32_t>(std::strtoul(in.c_str() + at, nullptr, 10));
}

void Peer::send(std::string_view bytes) {
    out_.append(bytes);
    flush();
}

void Peer::send_packet(std::string_view packet) {
    if (in_messages_) return send(masked_frame(packet));
    send(little_endian(packet.size() + 2, 2).append(packet));
}

void Peer::flush() {
    while (!out_.empty() && !over()) {
        ssize_t count = 0;
        if (tls_ != nullptr) {
            count = SSL_write(tls_.get(), out_.data(), static_cast<int>(out_.size()));
            if (count <= 0) return;
        } else {
            count = ::send(descriptor_, out_.data(), out_.size(), MSG_NOSIGNAL);
            if (count < 0 && errno != EAGAIN && errno != ENOTCONN) error_ = errno;
            if (count <= 0) return;
        }
        out_.erase(0, static_cast<std::size_t>(count));
    }
}

void Peer::receive() {
    char data[16 * 1024];
    while (reads_ && !over()) {
        ssize_t count = 0;
        if (tls_ != nullptr) {
            count = SSL_read(tls_.get(), data, sizeof data);
            const int reason = count > 0 ? 0 : SSL_get_error(tls_.get(), static_cast<int>(count));
            if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE) return;
            if (reason == SSL_ERROR_SYSCALL && errno != 0) error_ = errno;
        } else {
            count = ::recv(descriptor_, data, sizeof data, 0);
            if (count < 0 && (errno == EAGAIN || errno == ENOTCONN)) return;
            if (count < 0) error_ = errno;
        }
        if (count <= 0) {
            ended_ = true;
            return;
        }
        in.append(data, static_cast<std::size_t>(count));
        if (in.size() > 2 * kKept) in.erase(0, in.size() - kKept);
    }
}

void Peer::pump() {
    if (descriptor_ < 0) return;
    flush();
    receive();
}

bool Peer::wait(const std::function<bool()>& condition, int limit_ms) {
    const auto end = Clock::now() + std::chrono::milliseconds(limit_ms);
    for (;;) {
        pump();
        if (condition()) return true;
        if (over() || Clock::now() >= end) return false;
        wait_until_ready(descriptor_, awaited(), 20);
    }
}

bool Peer::got(std::string_view text, int limit_ms) {
    return wait([&] { return in.find(text) != std::string::npos; }, limit_ms);
}

short Peer::awaited() const {
    return static_cast<short>((reads_ ? POLLIN : 0) | (out_.empty() ? 0 : POLLOUT));
}

bool Peer::was_reset() const { return error_ == ECONNRESET || error_ == EPIPE; }

void Peer::unplug() const {
    sock_filter drop{BPF_RET | BPF_K, 0, 0, 0};
    const sock_fprog program{1, &drop};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

void Peer::end_sending() const { ::shutdown(descriptor_, SHUT_WR); }

void Peer::reset() {
    const linger now{1, 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
}

void Peer::close() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
    ended_ = true;
}

void pump(const Peers& peers, int limit_ms) {
    std::vector<pollfd> ready;
    std::vector<Peer*> asked;
    for (const auto& peer : peers) {
        if (peer == nullptr || peer->over()) continue;
        ready.push_back({peer->descriptor(), peer->awaited(), 0});
        asked.push_back(peer.get());
    }
    ::poll(ready.data(), ready.size(), limit_ms);
    for (std::size_t i = 0; i < asked.size(); ++i) {
        if (ready[i].revents != 0) asked[i]->pump();
    }
}

}  // namespace perilune::test
