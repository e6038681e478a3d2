#include "net/enet_host.h"

#include <arpa/inet.h>
#include <enet/enet.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace perilune {

namespace {

constexpr std::int64_t kFirstGapNs = 250 * kNsPerMs;  // between requests, doubling to a second
constexpr std::int64_t kLastGapNs = kNsPerSecond;
// A cookie is good for 10 s at least.
constexpr std::int64_t kCookieAgeNs = 8 * kNsPerSecond;
constexpr std::int64_t kPausedNs = 20 * kNsPerMs;  // between two looks at a full mailbox
constexpr std::int64_t kLeastNs = 5 * kNsPerMs;    // between two timers
constexpr std::uint32_t kSoonMs = 10;
constexpr int kEventsAService = 4096;
constexpr std::uint16_t kNoPeer = ENET_PROTOCOL_MAXIMUM_PEER_ID;
// Of each peer, and at most: what came out of order or in part, and what waits for the owner.
constexpr std::size_t kMaxWaiting = 256 * 1024;

thread_local EnetHost* current_host = nullptr;

ENetAddress to_enet(const Address& address) {
    ENetAddress enet;
    std::memcpy(&enet.host, address.bytes.data() + 12, 4);
    enet.port = address.port;
    return enet;
}

Address from_enet(std::uint32_t host, std::uint16_t port) {
    Address address;
    address.bytes[10] = address.bytes[11] = 0xff;
    std::memcpy(address.bytes.data() + 12, &host, 4);
    address.port = port;
    return address;
}

Address from_enet(const ENetAddress& enet) { return from_enet(enet.host, enet.port); }

bool is_empty(const ENetList& list) { return list.sentinel.next == &list.sentinel; }

Status dead_peer() { return Status::error(StatusCode::dead, "the peer is closed"); }

}  // namespace

const char* enet_reason_name(EnetReason reason) {
    switch (reason) {
        case EnetReason::closed: return "closed";
        case EnetReason::aborted: return "aborted";
        case EnetReason::ended: return "ended";
        case EnetReason::timeout: return "timeout";
        case EnetReason::slow: return "slow";
        case EnetReason::lost: return "lost";
        case EnetReason::stopping: return "stopping";
    }
    return "unknown";
}

// While it lives, ENet's system layer works for `host`.
class EnetHost::Scope {
  public:
    explicit Scope(EnetHost& host) : before_(std::exchange(current_host, &host)) {
        host.now_ns_ = host.at_.clock.now_ns();
    }
    ~Scope() { current_host = before_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

  private:
    EnetHost* const before_;
};

EnetHost* EnetHost::current() { return current_host; }

EnetHost::EnetHost(const EnetOptions& options, const Environment& environment)
    : options_(options), at_(environment), cookies_(environment.random), proven_(options.proven) {}

EnetHost::~EnetHost() {
    if (host_ == nullptr) return;
    const Scope scope(*this);
    enet_host_destroy(host_);
}

Status EnetHost::create(std::size_t peers) {
    const Scope scope(*this);
    host_ = enet_host_create(nullptr, peers, options_.channels, 0, 0);
    if (host_ == nullptr) return Status::error(StatusCode::unavailable, "no memory for ENet");
    if (!used_own_layer_) {
        // A program that loads this library as a plugin may bind ENet to its own functions.
        return Status::error(StatusCode::unavailable, "ENet is linked to its own system layer");
    }
    links_.resize(peers);
    // Where ENet takes its numbers of connections from.
    host_->randomSeed = random_number();
    host_->maximumPacketSize = options_.max_packet;
    host_->maximumWaitingData = std::max<std::size_t>(kMaxWaiting, 2 * options_.max_packet);
    host_->intercept = intercept_datagram;
    return {};
}

Status EnetHost::listen() {
    if (const Status created = create(options_.max_peers); !created.ok()) return created;
    if (options_.max_per_address != 0) host_->duplicatePeers = options_.max_per_address;
    accepting_ = true;
    return {};
}

Status EnetHost::connect(const Address& server, std::uint64_t id, std::uint32_t data) {
    if (const Status created = create(1); !created.ok()) return created;
    const Scope scope(*this);
    is_client_ = true;
    server_ = server;
    connect_data_ = data;
    links_[0].id = id;
    connect_deadline_ns_ = now_ns_ + options_.connect_ms * kNsPerMs;
    request_gap_ns_ = kFirstGapNs;
    exchange_ = Exchange::asking;
    send_request();
    return {};
}

// ---- before ENet: cookies ----

int EnetHost::intercept_datagram(ENetHost*, ENetEvent*) { return current_host->intercept(); }

// 1: ENet doesn't see it.
int EnetHost::intercept() {
    const std::string_view bytes(reinterpret_cast<const char*>(host_->receivedData),
                                 host_->receivedDataLength);
    const Address from = from_enet(host_->receivedAddress);
    if (is_cookie_datagram(bytes)) {
        answer_cookie(bytes, from);
        return 1;
    }
    if (bytes.size() < 2) {
        count(at_.counters.enet_dropped_malformed);
        return 1;
    }
    const std::uint16_t head = static_cast<std::uint16_t>(
        (static_cast<std::uint8_t>(bytes[0]) << 8) | static_cast<std::uint8_t>(bytes[1]));
    const std::uint16_t number = head & ENET_PROTOCOL_MAXIMUM_PEER_ID;
    if (number == kNoPeer) return admit_connect(from) ? 0 : 1;
    if (!belongs_to_peer(number, from)) {
        count(at_.counters.enet_dropped_stranger);
        return 1;
    }
    last_sender_ = number;
    return 0;
}

bool EnetHost::belongs_to_peer(std::size_t index, const Address& from) const {
    if (index >= links_.size()) return false;
    const ENetPeer& peer = host_->peers[index];
    return peer.state != ENET_PEER_STATE_DISCONNECTED && peer.state != ENET_PEER_STATE_ZOMBIE &&
           from_enet(peer.address) == from;
}

// Who asks for a connection. ENet would refuse in silence what is over a limit.
bool EnetHost::admit_connect(const Address& from) {
    if (!accepting_ || !proven_.contains(from, now_ns_)) {
        count(at_.counters.enet_dropped_unproven);
        return false;
    }
    std::size_t peers = 0, of_address = 0;
    const ENetAddress enet = to_enet(from);
    for (const ENetPeer* peer = host_->peers; peer < host_->peers + host_->peerCount; ++peer) {
        if (peer->state == ENET_PEER_STATE_DISCONNECTED) continue;
        ++peers;
        if (peer->address.host != enet.host) continue;
        if (peer->address.port == enet.port) return true;  // again: ENet knows what to do
        ++of_address;
    }
    if (peers >= options_.max_peers) {
        count(at_.counters.enet_refused_full);
        return false;
    }
    if (options_.max_per_address != 0 && of_address >= options_.max_per_address) {
        count(at_.counters.enet_refused_address);
        return false;
    }
    return true;
}

void EnetHost::answer_cookie(std::string_view bytes, const Address& from) {
    const std::optional<CookieDatagram> read = read_cookie_datagram(bytes);
    if (!read) return count(at_.counters.cookie_malformed);
    if (read->kind == CookieKind::cookie) return take_cookie(*read);
    if (!accepting_) return count(at_.counters.enet_dropped_unproven);
    if (read->kind == CookieKind::proof) return take_proof(read->cookie, from);
    count(at_.counters.cookie_requests);
    send_cookie({CookieKind::cookie, read->nonce, cookies_.make(from, now_ns_)}, from);
}

void EnetHost::take_proof(const Cookie& cookie, const Address& from) {
    switch (cookies_.check(cookie, from, now_ns_)) {
        case CookieVerdict::good: break;
        case CookieVerdict::old: return count(at_.counters.cookie_old);
        case CookieVerdict::forged: return count(at_.counters.cookie_forged);
    }
    count(at_.counters.cookie_proofs);
    const ProvenTable::Added added = proven_.add(from, now_ns_);
    if (added == ProvenTable::Added::evicted) count(at_.counters.cookie_evicted);
    if (added == ProvenTable::Added::refused) count(at_.counters.cookie_refused);
}

std::optional<Cookie> EnetHost::cookie(std::size_t index, std::uint32_t period) {
    if (is_client_) return cookie_;
    const Scope scope(*this);
    return cookies_.again(from_enet(host_->peers[index].address), period, now_ns_);
}

void EnetHost::send_cookie(const CookieDatagram& datagram, const Address& to) {
    char bytes[kCookieRequestSize];
    const iovec piece{bytes, write_cookie_datagram(datagram, bytes)};
    const ssize_t sent = at_.wire.send(to, &piece, 1);
    if (sent == -ECONNREFUSED) refused_ = true;
    if (sent < 0) return;
    count(at_.counters.enet_datagrams_out);
    count(at_.counters.enet_bytes_out, static_cast<std::uint64_t>(sent));
}

// ---- the client's side of it ----

void EnetHost::send_request() {
    // A new one each time: an answer that was on its way for long is no answer.
    nonce_ = at_.random.next();
    send_cookie({CookieKind::request, nonce_, {}}, server_);
    next_request_ns_ = now_ns_ + request_gap_ns_;
    request_gap_ns_ = std::min(2 * request_gap_ns_, kLastGapNs);
}

void EnetHost::take_cookie(const CookieDatagram& datagram) {
    if (exchange_ == Exchange::none || datagram.nonce != nonce_) {
        return count(at_.counters.cookie_forged);
    }
    cookie_ = datagram.cookie;
    cookie_ns_ = now_ns_;
    request_gap_ns_ = kFirstGapNs;
    if (exchange_ == Exchange::asking) begin_connect();
}

void EnetHost::begin_connect() {
    exchange_ = Exchange::connecting;
    const ENetAddress address = to_enet(server_);
    if (enet_host_connect(host_, &address, options_.channels, connect_data_) == nullptr) {
        fail("no memory for ENet");
    }
}

void EnetHost::drive_exchange() {
    if (exchange_ == Exchange::none) return;
    if (refused_) return fail("connection refused");
    if (now_ns_ >= connect_deadline_ns_) return fail("timeout");
    const bool wants = exchange_ == Exchange::asking || now_ns_ - cookie_ns_ >= kCookieAgeNs;
    if (wants && now_ns_ >= next_request_ns_) send_request();
}

void EnetHost::fail(const std::string& text) {
    exchange_ = Exchange::none;
    const std::uint64_t id = std::exchange(links_[0], Link{}).id;
    enet_peer_reset(&host_->peers[0]);
    count(at_.counters.enet_connect_failed);
    at_.sink.failed(id, text);
}

// ---- at work ----

void EnetHost::service() {
    if (host_ == nullptr) return;
    const Scope scope(*this);
    drive_exchange();
    check_deadlines();
    hand_out();
    note_sender();
    drive_exchange();  // what has come may have refused it
}

void EnetHost::hand_out() {
    paused_ = false;
    for (int i = 0; i < kEventsAService; ++i) {
        if (!at_.sink.has_room()) {
            paused_ = true;
            count(at_.counters.enet_receive_pauses);
            (void)enet_host_service(host_, nullptr, 0);
            return;
        }
        ENetEvent event;
        if (enet_host_service(host_, &event, 0) <= 0) return;
        deliver(event);
    }
    paused_ = true;  // there may be more; others get their turn first
}

void EnetHost::flush() {
    const Scope scope(*this);
    enet_host_flush(host_);
}

void EnetHost::deliver(ENetEvent& event) {
    const std::size_t index = event.peer->incomingPeerID;
    Link& link = links_[index];
    switch (event.type) {
        case ENET_EVENT_TYPE_CONNECT: return deliver_connect(index, event);
        case ENET_EVENT_TYPE_RECEIVE:
            if (link.id != 0 && !link.closing) {
                count(at_.counters.enet_packets_in);
                at_.sink.data(
                    link.id, event.channelID,
                    {reinterpret_cast<const char*>(event.packet->data), event.packet->dataLength});
            }
            return enet_packet_destroy(event.packet);
        case ENET_EVENT_TYPE_DISCONNECT:
            note_sender();
            if (exchange_ != Exchange::none) return fail("timeout");
            if (link.id == 0) return;
            return finish(
                index,
                link.closing ? link.reason : (link.ended ? EnetReason::ended : EnetReason::timeout),
                event.data);
        case ENET_EVENT_TYPE_NONE: return;
    }
}

void EnetHost::deliver_connect(std::size_t index, const ENetEvent& event) {
    const auto timeout = static_cast<std::uint32_t>(options_.timeout_ms);
    enet_peer_timeout(event.peer, ENET_PEER_TIMEOUT_LIMIT, timeout / 2, timeout);
    const Address address = from_enet(event.peer->address);
    if (exchange_ != Exchange::none) {
        exchange_ = Exchange::none;
        count(at_.counters.enet_connected);
        count(at_.counters.enet_peers);
        return at_.sink.connected(links_[index].id, address);
    }
    proven_.remove(address);
    Link link;
    link.id = accepting_ ? at_.sink.opened(index, address, event.data) : 0;
    if (link.id == 0) return enet_peer_disconnect_now(event.peer, 0);
    links_[index] = link;
    count(at_.counters.enet_accepted);
    count(at_.counters.enet_peers);
}

void EnetHost::finish(std::size_t index, EnetReason reason, std::uint32_t code) {
    const std::uint64_t id = std::exchange(links_[index], Link{}).id;
    at_.counters.enet_peers.fetch_sub(1);
    count(at_.counters.enet_closed);
    if (reason == EnetReason::timeout) count(at_.counters.enet_closed_timeout);
    if (reason == EnetReason::slow) count(at_.counters.enet_closed_slow);
    at_.sink.closed(id, reason, code);
}

// ENet reports a peer that has closed and one that has vanished alike. The first can be told by
// the state that its datagram has left it in.
void EnetHost::note_sender() {
    if (last_sender_ < 0) return;
    const std::size_t index = static_cast<std::size_t>(std::exchange(last_sender_, -1));
    const ENetPeerState state = host_->peers[index].state;
    if (state == ENET_PEER_STATE_ACKNOWLEDGING_DISCONNECT || state == ENET_PEER_STATE_ZOMBIE) {
        links_[index].ended = true;
    }
}

void EnetHost::check_deadlines() {
    for (std::size_t i = 0; i < links_.size(); ++i) {
        Link& link = links_[i];
        if (link.id == 0 || link.deadline_ns > now_ns_) continue;
        count(at_.counters.enet_closed_late);
        const EnetReason reason = link.reason;
        enet_peer_disconnect_now(&host_->peers[i], 0);
        finish(i, reason, 0);
    }
}

// ---- writing and closing ----

void EnetHost::packet_gone(ENetPacket* packet) {
    Link& link = *static_cast<Link*>(packet->userData);
    link.bytes -= packet->dataLength;
    --link.packets;
}

Status EnetHost::write(std::size_t index, std::string_view data, std::uint8_t channel,
                       EnetMode mode) {
    Link& link = links_[index];
    if (link.id == 0 || link.closing || exchange_ != Exchange::none) return dead_peer();
    const Scope scope(*this);
    ENetPeer* peer = &host_->peers[index];
    if (data.size() > options_.max_packet) {
        return Status::error(StatusCode::too_large, "a packet has at most %u bytes here",
                             options_.max_packet);
    }
    if (channel >= peer->channelCount) {
        return Status::error(StatusCode::invalid, "the peer has %zu channels, from 0",
                             peer->channelCount);
    }
    const auto is_full = [&] {
        return link.bytes + data.size() > options_.send_bytes ||
               link.packets >= options_.send_packets;
    };
    // A turn that writes much must not look like a peer that takes little.
    if (is_full()) enet_host_flush(host_);
    if (is_full() && mode == EnetMode::reliable) {
        (void)abort(index, EnetReason::slow);
        return Status::error(StatusCode::overloaded,
                             "the peer is too slow: over %u bytes or %u packets waited",
                             options_.send_bytes, options_.send_packets);
    }
    if (is_full()) {
        count(at_.counters.enet_dropped_unreliable);
        return Status::error(StatusCode::overloaded, "too much waits for the peer");
    }
    std::uint32_t flags = ENET_PACKET_FLAG_RELIABLE;
    if (mode != EnetMode::reliable) flags = ENET_PACKET_FLAG_UNRELIABLE_FRAGMENT;
    if (mode == EnetMode::unsequenced) flags |= ENET_PACKET_FLAG_UNSEQUENCED;
    ENetPacket* packet = enet_packet_create(data.data(), data.size(), flags);
    if (packet == nullptr) return Status::error(StatusCode::unavailable, "no memory for a packet");
    packet->userData = &link;
    packet->freeCallback = packet_gone;
    link.bytes += data.size();
    ++link.packets;
    if (enet_peer_send(peer, channel, packet) < 0) {
        enet_packet_destroy(packet);
        // ENet takes nothing for a peer that has said it goes.
        return dead_peer();
    }
    count(at_.counters.enet_packets_out);
    return {};
}

Status EnetHost::close(std::size_t index, EnetReason reason, std::uint32_t code) {
    Link& link = links_[index];
    if (link.id == 0 || link.closing) return dead_peer();
    if (exchange_ != Exchange::none) return abort(index, reason);
    const Scope scope(*this);
    link.closing = true;
    link.reason = reason;
    link.deadline_ns = now_ns_ + options_.close_ms * kNsPerMs;
    enet_peer_disconnect_later(&host_->peers[index], code);
    return {};
}

Status EnetHost::abort(std::size_t index, EnetReason reason) {
    if (links_[index].id == 0) return dead_peer();
    const Scope scope(*this);
    enet_peer_disconnect_now(&host_->peers[index], 0);
    if (exchange_ != Exchange::none) {
        fail(enet_reason_name(reason));
    } else {
        finish(index, reason, 0);
    }
    return {};
}

std::uint32_t EnetHost::round_trip_ms(std::size_t index) const {
    return host_->peers[index].roundTripTime;
}

std::vector<std::size_t> EnetHost::open_peers() const {
    std::vector<std::size_t> list;
    for (std::size_t i = 0; i < links_.size(); ++i) {
        if (links_[i].id != 0) list.push_back(i);
    }
    return list;
}

// ---- when to look again ----

bool EnetHost::busy() const {
    if (exchange_ != Exchange::none) return true;
    for (std::size_t i = 0; i < links_.size(); ++i) {
        if (links_[i].id != 0 || host_->peers[i].state != ENET_PEER_STATE_DISCONNECTED) return true;
    }
    return false;
}

// In ENet's time, from now; INT64_MAX: never.
std::int64_t EnetHost::peer_due_ms(const ENetPeer& peer) const {
    const std::uint32_t now = now_ms();
    const auto until = [now](std::uint32_t due) {
        return std::int64_t{static_cast<std::int32_t>(due - now)};
    };
    if (peer.state == ENET_PEER_STATE_DISCONNECTED) return INT64_MAX;
    if (!is_empty(peer.acknowledgements) || peer.state == ENET_PEER_STATE_ZOMBIE) return 0;
    std::int64_t due = INT64_MAX;
    if (!is_empty(peer.sentReliableCommands)) due = until(peer.nextTimeout);
    if (!is_empty(peer.outgoingCommands)) due = std::min<std::int64_t>(due, kSoonMs);
    if (due == INT64_MAX) due = until(peer.lastReceiveTime + peer.pingInterval);
    return due;
}

std::int64_t EnetHost::next_due_ns() {
    const Scope scope(*this);
    std::int64_t due = INT64_MAX;
    if (exchange_ == Exchange::asking) due = std::min(next_request_ns_, connect_deadline_ns_);
    if (exchange_ == Exchange::connecting) {
        due = std::min(connect_deadline_ns_, std::max(next_request_ns_, cookie_ns_ + kCookieAgeNs));
    }
    for (std::size_t i = 0; i < links_.size(); ++i) {
        if (links_[i].id != 0) due = std::min(due, links_[i].deadline_ns);
        const std::int64_t ms = peer_due_ms(host_->peers[i]);
        if (ms != INT64_MAX) due = std::min(due, now_ns_ + ms * kNsPerMs);
    }
    if (paused_ && busy()) due = std::min(due, now_ns_ + kPausedNs);
    return due == INT64_MAX ? due : std::max(due, now_ns_ + kLeastNs);
}

// ---- ENet's system layer ----

// Never 0, which ENet takes for "never".
std::uint32_t EnetHost::now_ms() const {
    return static_cast<std::uint32_t>(at_.clock.now_ns() / kNsPerMs + 1);
}

int EnetHost::send(std::uint32_t host, std::uint16_t port, const iovec* pieces,
                   std::size_t count_) {
    const Address to = from_enet(host, port);
    // Before each try: one of the two may be lost.
    if (exchange_ == Exchange::connecting) send_cookie({CookieKind::proof, 0, cookie_}, to);
    const ssize_t sent = at_.wire.send(to, pieces, static_cast<int>(count_));
    if (sent == -ECONNREFUSED) refused_ = true;
    // As good as lost; a failure would end the service of all other peers.
    if (sent < 0) return 0;
    count(at_.counters.enet_datagrams_out);
    count(at_.counters.enet_bytes_out, static_cast<std::uint64_t>(sent));
    return static_cast<int>(sent);
}

int EnetHost::receive(std::uint32_t& host, std::uint16_t& port, char* data, std::size_t size) {
    note_sender();
    for (;;) {
        Address from;
        const ssize_t received = at_.wire.receive(from, data, size);
        if (received == -EAGAIN) return 0;
        if (received > 0 && from.is_v4()) {
            count(at_.counters.enet_datagrams_in);
            count(at_.counters.enet_bytes_in, static_cast<std::uint64_t>(received));
            const ENetAddress enet = to_enet(from);
            host = enet.host;
            port = enet.port;
            return static_cast<int>(received);
        }
        // Empty, too long or refused: ENet would take it for the end or for a failure of all.
        if (received == -ECONNREFUSED) {
            refused_ = true;
        } else if (received < 0 && received != -EMSGSIZE) {
            return 0;
        } else {
            count(at_.counters.enet_dropped_malformed);
        }
    }
}

}  // namespace perilune

// These take the place of ENet's own (unix.c), in its shared library too: the program's come
// first. They are reached only from within a Scope.
using perilune::EnetHost;

enet_uint32 enet_time_get(void) { return EnetHost::current()->now_ms(); }

enet_uint32 enet_host_random_seed(void) { return EnetHost::current()->random_number(); }

// ENet never sees a descriptor: whatever it asks for, its host has one.
ENetSocket enet_socket_create(ENetSocketType) {
    EnetHost::current()->note_own_layer();
    return 0;
}
int enet_socket_bind(ENetSocket, const ENetAddress*) { return 0; }
int enet_socket_get_address(ENetSocket, ENetAddress*) { return 0; }
int enet_socket_set_option(ENetSocket, ENetSocketOption, int) { return 0; }
void enet_socket_destroy(ENetSocket) {}
int enet_socket_wait(ENetSocket, enet_uint32* condition, enet_uint32) {
    *condition = ENET_SOCKET_WAIT_NONE;
    return 0;
}

int enet_socket_send(ENetSocket, const ENetAddress* address, const ENetBuffer* buffers,
                     size_t count) {
    static_assert(sizeof(ENetBuffer) == sizeof(iovec));
    return EnetHost::current()->send(address->host, address->port,
                                     reinterpret_cast<const iovec*>(buffers), count);
}

int enet_socket_receive(ENetSocket, ENetAddress* address, ENetBuffer* buffers, size_t) {
    return EnetHost::current()->receive(address->host, address->port,
                                        static_cast<char*>(buffers->data), buffers->dataLength);
}
