// Peer: one connection of a client that does what clients shouldn't.
//
// Purpose:   sockets of every transport of the gateway, held by a test: they may come from any
//            address of the loopback network, read late or never, and end in any way.
// Threads:   each object, one thread. Nothing waits but what says so.
// Ownership: the socket goes with the object, closed in the usual way.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace perilune::test {

enum class Transport : std::uint8_t { tcp, websocket, tls, wss };

inline constexpr Transport kTransports[] = {Transport::tcp, Transport::websocket, Transport::tls,
                                            Transport::wss};

const char* transport_name(Transport transport);

// A packet of the client protocol with a JSON body.
std::string json_packet(std::int16_t stype, std::int16_t ctype, std::string_view value,
                        std::uint32_t utag = 0);
// The same number of bytes, little-endian or big-endian.
std::string little_endian(std::uint64_t number, int bytes);
std::string big_endian(std::uint64_t number, int bytes);
// What a client sends to become a WebSocket.
std::string upgrade_request();
// A frame of a client's WebSocket; `size` is what its header says, by default the truth.
std::string masked_frame(std::string_view body, std::uint64_t size = UINT64_MAX);
// A key of a guest, never the same.
std::string guest_key();

class Peer {
  public:
    static constexpr int kPatienceMs = 20'000;

    struct Options {
        std::string from = "127.0.0.1";  // the address that it has
        int receive_buffer = 0;          // of the system; 0: as usual
    };

    // Begins to connect.
    explicit Peer(std::uint16_t port) : Peer(port, Options()) {}
    Peer(std::uint16_t port, const Options& options);
    ~Peer();
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;

    // Waits until it is connected, and its transport agreed on.
    bool open(Transport transport);
    // Waits for the reply to a login as guest. 0: it was refused.
    std::uint32_t log_in(const std::string& key = guest_key());

    // Bytes as they are; what the system doesn't take now follows with the next pump().
    void send(std::string_view bytes);
    // One packet as the transport carries it.
    void send_packet(std::string_view packet);
    // Sends and receives what can be.
    void pump();
    // Pumps until it is so. False: not within `limit_ms`.
    bool wait(const std::function<bool()>& condition, int limit_ms = kPatienceMs);
    // The same until `text` is in what has come, or it has ended.
    bool got(std::string_view text, int limit_ms = kPatienceMs);

    // What has come since it was cleared; the last 256 KB of it.
    std::string in;

    bool over() const { return ended_ || error_ != 0; }
    bool was_reset() const;
    int descriptor() const { return descriptor_; }
    short awaited() const;  // events of poll() that it can do something with

    void reads(bool wanted) { reads_ = wanted; }
    // As if its cable were pulled: nothing reaches it any more, and nobody is told.
    void unplug() const;
    void end_sending() const;
    void reset();
    void close();

  private:
    bool secure();
    void flush();
    void receive();

    int descriptor_ = -1;
    int error_ = 0;
    bool ended_ = false;
    bool reads_ = true;
    bool in_messages_ = false;  // a WebSocket
    std::string out_;
    std::unique_ptr<SSL, decltype(&SSL_free)> tls_{nullptr, SSL_free};
};

using Peers = std::vector<std::unique_ptr<Peer>>;

// Pumps all that can be, once something can be or `limit_ms` has passed.
void pump(const Peers& peers, int limit_ms);

}  // namespace perilune::test
