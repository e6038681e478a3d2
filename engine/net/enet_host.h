// EnetHost: one ENet host, behind the exchange of cookies.
//
// DESIGN
//   Everything that ENet asks of a system (its unix.c) is at the end of enet_host.cpp and goes to
//   the host that is at work on the thread: time is the node's clock, since ENet's own reads the
//   wall clock, which may jump; random numbers are the node's, since ENet's own can be guessed;
//   datagrams pass an EnetWire, so that a test can lose and reorder them in virtual time.
//
//   A server's intercept callback sees each datagram before ENet does. It lets through what
//   belongs to a peer that exists, by number and address, and from proven addresses what asks for
//   a connection. Everything else is answered with a cookie or dropped, and counted.
//
//   Events are handed out while the sink has room. When it has none, ENet goes on but delivers
//   nothing: what a peer sends waits in ENet up to a limit, is not acknowledged beyond that, and
//   so waits at the sender.
//
// Threads:   one at a time; its owner has a mutex.
// Ownership: owns ENet's host and the packets in it. Refers to wire, sink, clock and random.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/random.h"
#include "net/address.h"
#include "net/cookie.h"
#include "net/udp_counters.h"

// ENet's own; only enet_host.cpp sees them.
struct _ENetHost;
struct _ENetPeer;
struct _ENetEvent;
struct _ENetPacket;

namespace perilune {

inline constexpr std::uint32_t kMaxEnetPeers = 4095;
inline constexpr std::uint32_t kMaxEnetChannels = 255;

struct EnetOptions {
    std::string host = "127.0.0.1";  // an IPv4 address, "*" for all, or "localhost"
    std::uint16_t port = 0;          // 0: the system chooses
    std::uint32_t max_peers = 1024;  // at a time, those that still connect included
    std::uint32_t max_per_address = 32;
    std::uint32_t channels = 2;
    std::uint32_t max_packet = 64 * 1024;  // bytes, either way
    std::uint32_t send_bytes = 1 << 20;    // unacknowledged or unsent: more closes it as slow
    std::uint32_t send_packets = 4096;     // the same in packets
    std::int32_t timeout_ms = 10'000;      // nothing acknowledged for so long: closed
    std::int32_t connect_ms = 10'000;
    std::int32_t close_ms = 5'000;  // how long close() tries to deliver
    ProvenTable::Options proven;
};

enum class EnetMode : std::uint8_t { reliable, unreliable, unsequenced };

enum class EnetReason : std::uint8_t {
    closed,    // this side called close()
    aborted,   // this side called abort()
    ended,     // the peer closed
    timeout,   // the peer acknowledged nothing for too long
    slow,      // too much waited to be acknowledged
    lost,      // its owner has died
    stopping,  // the node stops
};
// The reason as Lua and logs spell it.
const char* enet_reason_name(EnetReason reason);

class EnetWire {
  public:
    virtual ~EnetWire() = default;
    // One datagram; may be lost. The bytes sent, or -errno.
    virtual ssize_t send(const Address& to, const iovec* pieces, int count) = 0;
    // The next datagram's size, or -errno: -EAGAIN where none waits.
    virtual ssize_t receive(Address& from, char* data, std::size_t size) = 0;
};

// Who is told. Peers are named by the number that the sink gave them.
class EnetSink {
  public:
    virtual ~EnetSink() = default;
    // Whether events may be given now.
    virtual bool has_room() = 0;
    // A peer of a listener, at place `index`. 0: it isn't wanted.
    virtual std::uint64_t opened(std::size_t index, const Address& peer, std::uint32_t data) = 0;
    virtual void connected(std::uint64_t id, const Address& peer) = 0;
    virtual void failed(std::uint64_t id, const std::string& text) = 0;
    virtual void data(std::uint64_t id, std::uint8_t channel, std::string_view packet) = 0;
    // `code`: what the other end said with its close.
    virtual void closed(std::uint64_t id, EnetReason reason, std::uint32_t code) = 0;
};

class EnetHost {
  public:
    struct Environment {
        const Clock& clock;
        Random& random;
        EnetWire& wire;
        EnetSink& sink;
        UdpCounters& counters;
    };

    EnetHost(const EnetOptions& options, const Environment& environment);
    // Peers hear nothing: abort() them first.
    ~EnetHost();
    EnetHost(const EnetHost&) = delete;
    EnetHost& operator=(const EnetHost&) = delete;

    // One of them, once. Errors: unavailable (no memory, or not the system layer below).
    Status listen();
    // The peer is at place 0 from the beginning.
    Status connect(const Address& server, std::uint64_t id, std::uint32_t data);

    // Does what is due: receives, hands out events, sends.
    void service();
    // Sends what write() and close() have queued.
    void flush();
    // When service() has something to do besides receiving; INT64_MAX: nothing.
    std::int64_t next_due_ns();
    // Whether there is any peer, also one that is only coming or going, or a connect.
    bool busy() const;

    // `index` is that of a peer that was opened or connected and hasn't closed.
    // Errors: dead (closing), too_large, invalid (channel), overloaded: reliable, and too much
    // waits: closed as slow; not reliable: dropped.
    Status write(std::size_t index, std::string_view data, std::uint8_t channel, EnetMode mode);
    // Delivers what is queued, at most close_ms long. Errors: dead.
    Status close(std::size_t index, EnetReason reason, std::uint32_t code);
    // `closed` or `failed` is called before it returns. Errors: dead.
    Status abort(std::size_t index, EnetReason reason);
    void stop_accepting() { accepting_ = false; }

    std::size_t unsent(std::size_t index) const { return links_[index].bytes; }
    std::uint32_t round_trip_ms(std::size_t index) const;
    // Of a listener: the cookie that the peer's address gets, or got, in a period; nothing where
    // that is too long ago. Of connect(): the one that this side got last, whatever the period.
    std::optional<Cookie> cookie(std::size_t index, std::uint32_t period);
    std::vector<std::size_t> open_peers() const;

    // What ENet's system layer asks of the host at work on this thread.
    static EnetHost* current();
    std::uint32_t now_ms() const;
    std::uint32_t random_number() { return static_cast<std::uint32_t>(at_.random.next()); }
    void note_own_layer() { used_own_layer_ = true; }
    int send(std::uint32_t host, std::uint16_t port, const iovec* pieces, std::size_t count);
    int receive(std::uint32_t& host, std::uint16_t& port, char* data, std::size_t size);

  private:
    class Scope;
    // A peer as long as the sink knows it, or connect() is at it.
    struct Link {
        std::uint64_t id = 0;  // 0: none
        std::size_t bytes = 0, packets = 0;
        std::int64_t deadline_ns = INT64_MAX;  // of close()
        EnetReason reason = EnetReason::ended;
        bool closing = false;
        bool ended = false;  // the peer has said so
    };
    enum class Exchange : std::uint8_t {
        none,        // a listener, or done
        asking,      // a request is out
        connecting,  // ENet connects, each datagram behind a proof
    };

    Status create(std::size_t peers);
    static int intercept_datagram(_ENetHost* host, _ENetEvent* event);
    int intercept();
    bool belongs_to_peer(std::size_t index, const Address& from) const;
    bool admit_connect(const Address& from);
    void answer_cookie(std::string_view bytes, const Address& from);
    void take_proof(const Cookie& cookie, const Address& from);
    void take_cookie(const CookieDatagram& datagram);
    void send_cookie(const CookieDatagram& datagram, const Address& to);
    void send_request();
    void drive_exchange();
    void begin_connect();
    void fail(const std::string& text);

    void hand_out();
    void deliver(_ENetEvent& event);
    void deliver_connect(std::size_t index, const _ENetEvent& event);
    void finish(std::size_t index, EnetReason reason, std::uint32_t code);
    void note_sender();
    void check_deadlines();
    std::int64_t peer_due_ms(const _ENetPeer& peer) const;
    static void packet_gone(_ENetPacket* packet);

    const EnetOptions options_;
    const Environment at_;
    _ENetHost* host_ = nullptr;
    std::vector<Link> links_;  // by ENet's number of the peer
    std::int64_t now_ns_ = 0;  // of this service()
    bool accepting_ = false;
    bool paused_ = false;   // events wait for room
    bool refused_ = false;  // the system says that nobody receives there
    bool used_own_layer_ = false;
    int last_sender_ = -1;  // whose datagram ENet is handling

    // A listener's.
    CookieMaker cookies_;
    ProvenTable proven_;

    // What connect() has.
    bool is_client_ = false;
    Exchange exchange_ = Exchange::none;
    Address server_;
    std::uint32_t connect_data_ = 0;
    std::uint64_t nonce_ = 0;
    Cookie cookie_;
    std::int64_t cookie_ns_ = 0;
    std::int64_t next_request_ns_ = 0;
    std::int64_t request_gap_ns_ = 0;
    std::int64_t connect_deadline_ns_ = INT64_MAX;
};

}  // namespace perilune
