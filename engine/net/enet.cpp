#include "net/enet.h"

#include <cerrno>
#include <cstring>

namespace perilune {

namespace {

Status dead_host() { return Status::error(StatusCode::dead, "the listener is closed"); }
Status dead_peer() { return Status::error(StatusCode::dead, "the peer is closed"); }

}  // namespace

struct Enet::Host final : EnetWire, EnetSink {
    explicit Host(Enet& enet_) : enet(enet_) {}

    ssize_t send(const Address& to, const iovec* pieces, int count) override {
        return socket.send(to, pieces, count);
    }
    ssize_t receive(Address& from, char* data, std::size_t size) override {
        return socket.receive(from, data, size);
    }

    // Whose owner is dead has room for everything: nobody reads it.
    bool has_room() override { return owner_room(enet.kernel_, owner) != OwnerRoom::full; }
    std::uint64_t opened(std::size_t index, const Address& peer, std::uint32_t data) override;
    void connected(std::uint64_t peer, const Address& address) override {
        post(UdpEvent::connected, peer, 0, address.text());
    }
    void failed(std::uint64_t peer, const std::string& text) override {
        post(UdpEvent::failed, peer, 0, text);
        enet.end_peer(EnetPeerId{peer});
    }
    void data(std::uint64_t peer, std::uint8_t channel, std::string_view packet) override {
        post(UdpEvent::data, peer, channel, packet);
    }
    void closed(std::uint64_t peer, EnetReason reason, std::uint32_t code) override {
        post(UdpEvent::closed, peer, code, enet_reason_name(reason));
        enet.end_peer(EnetPeerId{peer});
    }
    void post(UdpEvent event, std::uint64_t peer, std::uint64_t session, std::string_view payload) {
        (void)post_udp_event(enet.kernel_, owner, event, peer, session, payload);
    }

    Enet& enet;  // constant

    std::mutex mutex;
    // Guarded by mutex.
    EnetHostId id;
    Handle owner;
    bool listening = false;
    const void* dirty = nullptr;  // the worker's list of what to flush that it is on
    UdpSocket socket;
    std::unique_ptr<EnetHost> engine;
    TimerId timer;
    std::int64_t timer_ns = INT64_MAX;  // when it is due
};

std::uint64_t Enet::Host::opened(std::size_t index, const Address& peer, std::uint32_t data) {
    const Peer* taken = enet.take_peer(*this, index, peer);
    if (taken == nullptr) return 0;
    const std::uint64_t peer_id = taken->id.load();
    const std::string_view head(reinterpret_cast<const char*>(&data), sizeof data);
    (void)post_udp_event(enet.kernel_, owner, UdpEvent::opened, peer_id, id.value, head,
                         peer.text());
    return peer_id;
}

// Of the running turn of this worker, which may run turns of several nodes (in tests).
thread_local std::vector<Enet::Unflushed> Enet::unflushed_;

Enet::Enet(Kernel& kernel, Transport& transport, UdpCounters& counters)
    : kernel_(kernel),
      transport_(transport),
      counters_(counters),
      hosts_(kernel.random()),
      peers_(kernel.random()) {}

Enet::~Enet() = default;

// ---- looking up ----

Enet::LockedHost Enet::find(EnetHostId id) {
    Host* host = hosts_.find(id);
    if (host == nullptr) return {};
    LockedHost locked{host, std::unique_lock(host->mutex)};
    if (host->id != id) return {};
    return locked;
}

// A peer changes its host only under the mutex of the one that it leaves.
Enet::LockedPeer Enet::find(EnetPeerId id) {
    Peer* peer = peers_.find(id);
    Host* host = peer == nullptr ? nullptr : peer->host.load();
    if (host == nullptr) return {};
    LockedPeer locked{peer, {host, std::unique_lock(host->mutex)}};
    if (peer->id.load() != id.value || peer->host.load() != host) return {};
    return locked;
}

// ---- the pools ----

Enet::LockedHost Enet::take_host(Handle owner, const EnetOptions& options) {
    const EnetHostId id = hosts_.add();
    if (!id) return {};
    Host* host = nullptr;
    {
        const std::lock_guard lock(pool_mutex_);
        if (free_hosts_.empty()) {
            all_hosts_.push_back(std::make_unique<Host>(*this));
            host = all_hosts_.back().get();
        } else {
            host = free_hosts_.back();
            free_hosts_.pop_back();
        }
    }
    LockedHost taken{host, std::unique_lock(host->mutex)};
    host->id = id;
    host->owner = owner;
    host->listening = false;
    host->dirty = nullptr;
    host->engine = std::make_unique<EnetHost>(
        options, EnetHost::Environment{kernel_.clock(), kernel_.random(), *host, *host, counters_});
    hosts_.publish(id, host);
    owned_.add(owner, id.value);
    count(counters_.enet_hosts);
    return taken;
}

// Under the mutex; nothing of ENet or of a peer is left in it.
void Enet::retire(LockedHost locked) {
    Host& host = *locked;
    if (host.timer) kernel_.cancel_timer(*timers_, host.timer);
    host.timer = {};
    host.timer_ns = INT64_MAX;
    host.engine.reset();
    host.socket.close();
    hosts_.remove(host.id);
    owned_.remove(host.owner, host.id.value);
    host.id = {};
    counters_.enet_hosts.fetch_sub(1);
    const std::lock_guard lock(pool_mutex_);
    free_hosts_.push_back(&host);
}

// Under the host's mutex.
Enet::Peer* Enet::take_peer(Host& host, std::size_t index, const Address& address) {
    const EnetPeerId id = peers_.add();
    if (!id) return nullptr;
    Peer* peer = nullptr;
    {
        const std::lock_guard lock(pool_mutex_);
        if (free_peers_.empty()) {
            all_peers_.push_back(std::make_unique<Peer>());
            peer = all_peers_.back().get();
        } else {
            peer = free_peers_.back();
            free_peers_.pop_back();
        }
    }
    peer->host.store(&host);
    peer->id.store(id.value);
    peer->index = index;
    peer->address = address;
    peers_.publish(id, peer);
    return peer;
}

// Under the host's mutex.
void Enet::end_peer(EnetPeerId id) {
    Peer* peer = peers_.find(id);
    if (peer == nullptr) return;
    peers_.remove(id);
    peer->id.store(0);
    peer->host.store(nullptr);
    const std::lock_guard lock(pool_mutex_);
    free_peers_.push_back(peer);
}

// ---- listening and connecting ----

Status Enet::start(Host& host) {
    const int watched =
        transport_.watch_listener(host.socket.descriptor(), host.id.value | kEnetToken, true);
    if (watched == 0) return {};
    return Status::error(StatusCode::unavailable, "can't watch the socket: %s",
                         ::strerror(-watched));
}

Result<EnetHostId> Enet::listen(Handle owner, const EnetOptions& options) {
    // ENet has no IPv6: "*" is all addresses of IPv4.
    const Result<Address> wanted =
        Address::parse(options.host == "*" ? "0.0.0.0" : options.host, options.port);
    if (!wanted.ok()) return wanted.status();
    if (!wanted.value().is_v4()) return Status::error(StatusCode::invalid, "ENet has no IPv6");
    LockedHost host = take_host(owner, options);
    if (!host) return Status::error(StatusCode::unavailable, "all slots of hosts are in use");
    Address address = wanted.value();
    const int error = host->socket.open(address);
    Status status;
    if (error == -EADDRINUSE) {
        status = Status::error(StatusCode::exists, "%s is in use", address.text().c_str());
    } else if (error < 0) {
        status =
            Status::error(error == -EADDRNOTAVAIL ? StatusCode::invalid : StatusCode::unavailable,
                          "can't receive at %s: %s", address.text().c_str(), ::strerror(-error));
    }
    if (status.ok()) status = host->engine->listen();
    if (status.ok()) status = start(*host);
    if (!status.ok()) {
        retire(std::move(host));
        return status;
    }
    host->listening = true;
    return host->id;
}

Result<Address> Enet::listener_address(EnetHostId id) {
    const LockedHost host = find(id);
    if (!host || !host->listening) return dead_host();
    return host->socket.local();
}

Status Enet::close_listener(EnetHostId id) {
    LockedHost host = find(id);
    if (!host || !host->listening) return dead_host();
    host->listening = false;
    host->engine->stop_accepting();
    settle(std::move(host));
    return {};
}

Result<EnetPeerId> Enet::connect(Handle owner, const Address& server, const EnetOptions& options,
                                 std::uint32_t data) {
    if (!server.is_v4()) return Status::error(StatusCode::invalid, "ENet has no IPv6");
    LockedHost host = take_host(owner, options);
    if (!host) return Status::error(StatusCode::unavailable, "all slots of hosts are in use");
    Status status;
    if (const int error = host->socket.connect(server); error < 0) {
        status = Status::error(StatusCode::unavailable, "can't send to %s: %s",
                               server.text().c_str(), ::strerror(-error));
    }
    if (status.ok()) status = start(*host);
    const Peer* peer = status.ok() ? take_peer(*host, 0, server) : nullptr;
    if (status.ok() && peer == nullptr) {
        status = Status::error(StatusCode::unavailable, "all slots of peers are in use");
    }
    const EnetPeerId id{peer == nullptr ? 0 : peer->id.load()};
    if (status.ok()) status = host->engine->connect(server, id.value, data);
    if (!status.ok()) {
        end_peer(id);
        retire(std::move(host));
        return status;
    }
    settle(std::move(host));
    return id;
}

// ---- peers ----

Status Enet::write(EnetPeerId id, std::string_view data, std::uint8_t channel, EnetMode mode) {
    LockedPeer found = find(id);
    if (!found) return dead_peer();
    Host& host = *found.host;
    const Status status = host.engine->write(found.peer->index, data, channel, mode);
    if (status.ok()) {
        written(host);
    } else {
        settle(std::move(found.host));  // it may have been closed as slow
    }
    return status;
}

// Under the mutex: what has been queued leaves with the turn.
void Enet::written(Host& host) {
    if (!kernel_.scheduler().on_worker()) {
        host.engine->flush();
        arm(host);
        return;
    }
    // Also when another worker has it on its list: that one's turn may be a long one.
    if (host.dirty == &unflushed_) return;
    host.dirty = &unflushed_;
    unflushed_.push_back({this, host.id});
}

void Enet::flush_turn() {
    if (unflushed_.empty()) return;
    std::size_t others = 0;
    for (std::size_t i = 0; i < unflushed_.size(); ++i) {
        const Unflushed entry = unflushed_[i];
        if (entry.enet != this) {
            unflushed_[others++] = entry;
            continue;
        }
        LockedHost host = find(entry.id);
        if (!host) continue;
        host->dirty = nullptr;
        host->engine->flush();
        settle(std::move(host));
    }
    unflushed_.resize(others);
}

Status Enet::close(EnetPeerId id, std::uint32_t code) {
    LockedPeer found = find(id);
    if (!found) return dead_peer();
    const Status status = found.host->engine->close(found.peer->index, EnetReason::closed, code);
    if (status.ok()) written(*found.host);
    settle(std::move(found.host));
    return status;
}

Status Enet::abort(EnetPeerId id) {
    LockedPeer found = find(id);
    if (!found) return dead_peer();
    const Status status = found.host->engine->abort(found.peer->index, EnetReason::aborted);
    settle(std::move(found.host));
    return status;
}

Result<Address> Enet::address(EnetPeerId id) {
    const LockedPeer found = find(id);
    if (!found) return dead_peer();
    return found.peer->address;
}

Result<std::uint32_t> Enet::round_trip_ms(EnetPeerId id) {
    const LockedPeer found = find(id);
    if (!found) return dead_peer();
    return found.host.host->engine->round_trip_ms(found.peer->index);
}

Result<Cookie> Enet::cookie(EnetPeerId id, std::uint32_t period) {
    const LockedPeer found = find(id);
    if (!found) return dead_peer();
    const std::optional<Cookie> cookie = found.host.host->engine->cookie(found.peer->index, period);
    if (cookie) return *cookie;
    return Status::error(StatusCode::not_found, "there is no cookie of that period");
}

std::size_t Enet::unsent(EnetPeerId id) {
    const LockedPeer found = find(id);
    return found ? found.host.host->engine->unsent(found.peer->index) : 0;
}

// ---- at work ----

void Enet::on_ready(EnetHostId id) {
    LockedHost host = find(id);
    if (!host) return;
    host->engine->service();
    settle(std::move(host));
}

void Enet::on_timer(EnetHostId id) {
    LockedHost host = find(id);
    if (!host || kernel_.clock().now_ns() < host->timer_ns) return;
    host->timer = {};
    host->timer_ns = INT64_MAX;
    host->engine->service();
    settle(std::move(host));
}

// After anything that may have ended peers or made something due.
void Enet::settle(LockedHost host) {
    if (!host->listening && !host->engine->busy()) return retire(std::move(host));
    arm(*host);
}

// Under the mutex. A timer that comes earlier than needed is left.
void Enet::arm(Host& host) {
    const std::int64_t due = host.engine->next_due_ns();
    if (due >= host.timer_ns) return;
    if (host.timer) kernel_.cancel_timer(*timers_, host.timer);
    host.timer = kernel_.add_timer(*timers_, host.id.value, due);
    host.timer_ns = host.timer ? due : INT64_MAX;  // without one the next call asks again
}

// ---- ending ----

void Enet::close_peers(Host& host, EnetReason reason) {
    host.listening = false;
    host.engine->stop_accepting();
    for (const std::size_t index : host.engine->open_peers()) {
        (void)host.engine->close(index, reason, 0);
    }
    host.engine->flush();
}

void Enet::release_owner(Handle owner) {
    for (const std::uint64_t id : owned_.of(owner)) {
        LockedHost host = find(EnetHostId{id});
        if (!host) continue;
        close_peers(*host, EnetReason::lost);
        settle(std::move(host));
    }
}

void Enet::begin_stop() {
    for (const std::uint64_t id : owned_.all()) {
        LockedHost host = find(EnetHostId{id});
        if (!host) continue;
        close_peers(*host, EnetReason::stopping);
        settle(std::move(host));
    }
}

}  // namespace perilune
