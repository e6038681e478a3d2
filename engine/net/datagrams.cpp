#include "net/datagrams.h"

#include <cerrno>
#include <cstring>

namespace perilune {

namespace {

constexpr int kRounds = 8;                   // batches of one socket before others get a turn
constexpr std::size_t kEarlyDatagrams = 64;  // unsent ones that don't wait for the turn's end
constexpr std::size_t kEarlyBytes = 64 * 1024;

Status dead_socket() { return Status::error(StatusCode::dead, "the socket is closed"); }

}  // namespace

struct Datagrams::Socket {
    struct Unsent {
        Address to;
        std::size_t size;
    };

    // Constant from publish() to give_back().
    Handle owner;
    std::uint32_t max_datagram = 0;
    bool connected = false;

    std::mutex mutex;
    // Guarded by mutex; the polling thread alone closes `system` and receives from it without.
    DatagramId id;
    UdpSocket system;
    const void* dirty = nullptr;  // the worker's list of what to flush that it is on
    std::string unsent_bytes;
    std::vector<Unsent> unsent;
};

// Of the running turn of this worker, which may run turns of several nodes (in tests).
thread_local std::vector<Datagrams::Unflushed> Datagrams::unflushed_;

Datagrams::Datagrams(Kernel& kernel, Transport& transport, UdpCounters& counters)
    : kernel_(kernel), transport_(transport), counters_(counters), sockets_(kernel.random()) {}

Datagrams::~Datagrams() = default;

Datagrams::Locked Datagrams::find(DatagramId id) {
    Socket* socket = sockets_.find(id);
    if (socket == nullptr) return {};
    Locked locked{socket, std::unique_lock(socket->mutex)};
    if (socket->id != id) return {};
    return locked;
}

Datagrams::Socket* Datagrams::take_socket() {
    const std::lock_guard lock(pool_mutex_);
    if (free_.empty()) {
        all_.push_back(std::make_unique<Socket>());
        return all_.back().get();
    }
    Socket* socket = free_.back();
    free_.pop_back();
    return socket;
}

void Datagrams::give_back(Socket* socket) {
    const std::lock_guard lock(pool_mutex_);
    free_.push_back(socket);
}

Result<DatagramId> Datagrams::open(Handle owner, const DatagramOptions& options) {
    const Result<Address> wanted = Address::parse(options.host, options.port);
    if (!wanted.ok()) return wanted.status();
    Socket* socket = take_socket();
    Address address = wanted.value();
    const int error = socket->system.open(address);
    if (error == 0) return publish(socket, owner, options);
    give_back(socket);
    if (error == -EADDRINUSE) {
        return Status::error(StatusCode::exists, "%s is in use", address.text().c_str());
    }
    return Status::error(error == -EADDRNOTAVAIL ? StatusCode::invalid : StatusCode::unavailable,
                         "can't receive at %s: %s", address.text().c_str(), ::strerror(-error));
}

Result<DatagramId> Datagrams::connect(Handle owner, const Address& peer,
                                      const DatagramOptions& options) {
    Socket* socket = take_socket();
    const int error = socket->system.connect(peer);
    if (error == 0) return publish(socket, owner, options);
    give_back(socket);
    return Status::error(StatusCode::unavailable, "can't send to %s: %s", peer.text().c_str(),
                         ::strerror(-error));
}

Result<DatagramId> Datagrams::publish(Socket* socket, Handle owner,
                                      const DatagramOptions& options) {
    const DatagramId id = sockets_.add();
    if (!id) {
        socket->system.close();
        give_back(socket);
        return Status::error(StatusCode::unavailable, "all socket slots are in use");
    }
    if (options.broadcast) socket->system.allow_broadcast();
    {
        const std::lock_guard lock(socket->mutex);
        socket->id = id;
        socket->owner = owner;
        socket->max_datagram = options.max_datagram;
        socket->connected = socket->system.connected();
        socket->dirty = nullptr;
    }
    owned_.add(owner, id.value);
    count(counters_.udp_sockets);
    sockets_.publish(id, socket);
    const int watched = transport_.watch_listener(socket->system.descriptor(), id.value, true);
    if (watched == 0) return id;
    (void)close(id);
    return Status::error(StatusCode::unavailable, "can't watch the socket: %s",
                         ::strerror(-watched));
}

Result<Address> Datagrams::local(DatagramId id) {
    const Locked socket = find(id);
    if (!socket) return dead_socket();
    return socket->system.local();
}

Status Datagrams::close(DatagramId id) {
    Locked socket = find(id);
    if (!socket) return dead_socket();
    flush(*socket.socket);
    socket->id = {};
    sockets_.remove(id);
    owned_.remove(socket->owner, id.value);
    counters_.udp_sockets.fetch_sub(1);
    // The polling thread may be receiving from it.
    transport_.post([this, closed = socket.socket] {
        closed->system.close();
        give_back(closed);
    });
    return {};
}

// ---- receiving: the polling thread ----

void Datagrams::on_ready(DatagramId id) {
    Socket* socket = sockets_.find(id);
    if (socket == nullptr) return;
    if (room_ == nullptr) room_ = std::make_unique<DatagramRoom>();
    for (int round = 0; round < kRounds; ++round) {
        std::span<const Datagram> batch;
        const int received = socket->system.receive_many(*room_, batch);
        // What a connected socket's peer has refused: the next call is about something else.
        if (received < 0 && received != -EAGAIN) continue;
        for (const Datagram& datagram : batch) deliver(id, *socket, datagram);
        if (received < DatagramRoom::kBatch) return;
    }
}

void Datagrams::deliver(DatagramId id, const Socket& socket, const Datagram& datagram) {
    count(counters_.udp_in);
    count(counters_.udp_bytes_in, datagram.data.size());
    if (datagram.truncated || datagram.data.size() > socket.max_datagram) {
        return count(counters_.udp_dropped_large);
    }
    if (owner_room(kernel_, socket.owner) != OwnerRoom::room) {
        return count(counters_.udp_dropped_full);
    }
    const PackedAddress from = PackedAddress::from(datagram.address);
    const std::string_view head(reinterpret_cast<const char*>(&from), sizeof from);
    const PostResult posted =
        post_udp_event(kernel_, socket.owner, UdpEvent::datagram, id.value, 0, head, datagram.data);
    if (posted != PostResult::ok) count(counters_.udp_dropped_full);
}

// ---- sending ----

Status Datagrams::send(DatagramId id, std::string_view data, const Address* to) {
    if (data.size() > kMaxDatagram) {
        return Status::error(StatusCode::too_large, "a datagram has at most %zu bytes",
                             kMaxDatagram);
    }
    const Locked locked = find(id);
    if (!locked) return dead_socket();
    Socket& socket = *locked.socket;
    if (socket.connected != (to == nullptr)) {
        return Status::error(StatusCode::invalid, socket.connected
                                                      ? "a connected socket sends to its peer"
                                                      : "an address to send to is missing");
    }
    if (to != nullptr && !socket.system.reaches(*to)) {
        return Status::error(StatusCode::invalid, "%s is IPv6, and the socket is IPv4",
                             to->text().c_str());
    }
    socket.unsent.push_back({to == nullptr ? Address() : *to, data.size()});
    socket.unsent_bytes.append(data);
    if (!kernel_.scheduler().on_worker() || socket.unsent.size() >= kEarlyDatagrams ||
        socket.unsent_bytes.size() >= kEarlyBytes) {
        flush(socket);
    } else if (socket.dirty != &unflushed_) {
        // Also when another worker has it on its list: that one's turn may be a long one.
        socket.dirty = &unflushed_;
        unflushed_.push_back({this, &socket, id});
    }
    return {};
}

void Datagrams::flush_turn() {
    if (unflushed_.empty()) return;
    std::size_t others = 0;
    for (std::size_t i = 0; i < unflushed_.size(); ++i) {
        const Unflushed entry = unflushed_[i];
        if (entry.datagrams != this) {
            unflushed_[others++] = entry;
            continue;
        }
        const std::lock_guard lock(entry.socket->mutex);
        if (entry.socket->id != entry.id) continue;
        entry.socket->dirty = nullptr;
        flush(*entry.socket);
    }
    unflushed_.resize(others);
}

// Under the mutex.
void Datagrams::flush(Socket& socket) {
    Datagram batch[kEarlyDatagrams];
    std::size_t total = 0, at = 0;
    for (const Socket::Unsent& unsent : socket.unsent) {
        batch[total++] = {unsent.to, std::string_view(socket.unsent_bytes).substr(at, unsent.size)};
        at += unsent.size;
    }
    for (std::size_t next = 0; next < total;) {
        const int sent = socket.system.send_many({batch + next, total - next});
        if (sent == -EAGAIN || sent == -ENOBUFS) {
            count(counters_.udp_dropped_blocked, total - next);
            break;
        }
        if (sent <= 0) {  // this one can't be sent, the next one perhaps can
            count(counters_.udp_send_failed);
            ++next;
            continue;
        }
        for (int i = 0; i < sent; ++i) count(counters_.udp_bytes_out, batch[next++].data.size());
        count(counters_.udp_out, static_cast<std::uint64_t>(sent));
    }
    socket.unsent.clear();
    if (socket.unsent_bytes.capacity() > kEarlyBytes) {
        socket.unsent_bytes = {};
    } else {
        socket.unsent_bytes.clear();
    }
}

// ---- ending ----

void Datagrams::release_owner(Handle owner) {
    for (const std::uint64_t id : owned_.of(owner)) (void)close(DatagramId{id});
}

void Datagrams::close_all() {
    for (const std::uint64_t id : owned_.all()) (void)close(DatagramId{id});
}

}  // namespace perilune
