#include "net/network.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace perilune {

namespace {

constexpr std::size_t kReadBuffer = 64 * 1024;
constexpr int kReadRounds = 8;     // full buffers of one connection before others get a turn
constexpr int kAcceptBatch = 64;   // the same for a listener
constexpr int kFramesACheck = 16;  // frames between two looks at the owner's mailbox
constexpr int kPieces = 64;        // of one system call
constexpr std::size_t kEarlyFlush = 64 * 1024;  // unsent bytes that don't wait for the turn's end
constexpr std::size_t kCopyLimit = 512;         // shared frames up to this size are copied
constexpr std::int64_t kDrainRetryNs = 100 * kNsPerMs;
constexpr std::int64_t kAcceptRetryNs = 100 * kNsPerMs;
constexpr std::int64_t kHandOverCheckNs = kNsPerSecond;

// Tokens of the transport: an id, and whether it is a listener's.
constexpr std::uint64_t kListenerToken = std::uint64_t{1} << 62;

// Timers of the helper.
constexpr std::uint64_t kSweepTimer = 1;
constexpr std::uint64_t kAcceptTimer = 2;

// The network whose events this thread hands out: what they write leaves at once, since no
// turn ends after them.
thread_local const Network* polling_network = nullptr;

// What the running turn of this worker has written to and not sent. The worker may run turns
// of several nodes (in tests), so each entry names its network.
struct Unflushed {
    const Network* network;
    Connection* connection;
    ConnectionId id;
};
thread_local std::vector<Unflushed> unflushed;

std::string error_text(int error) { return ::strerror(error < 0 ? -error : error); }

bool out_of_descriptors(int error) {
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

// Loses data that the peer might still expect, so the peer is told by a reset.
bool needs_reset(CloseReason reason) {
    return reason == CloseReason::aborted || reason == CloseReason::slow ||
           reason == CloseReason::stalled || reason == CloseReason::lost ||
           reason == CloseReason::malformed || reason == CloseReason::too_large;
}

}  // namespace

const char* socket_event_name(SocketEvent event) {
    switch (event) {
        case SocketEvent::opened: return "opened";
        case SocketEvent::connected: return "connected";
        case SocketEvent::data: return "data";
        case SocketEvent::closed: return "closed";
        case SocketEvent::failed: return "failed";
        case SocketEvent::ended: return "ended";
        case SocketEvent::drained: return "drained";
        case SocketEvent::moved: return "moved";
    }
    return "unknown";
}

const char* close_reason_name(CloseReason reason) {
    switch (reason) {
        case CloseReason::closed: return "closed";
        case CloseReason::aborted: return "aborted";
        case CloseReason::ended: return "ended";
        case CloseReason::reset: return "reset";
        case CloseReason::slow: return "slow";
        case CloseReason::stalled: return "stalled";
        case CloseReason::idle: return "idle";
        case CloseReason::malformed: return "malformed";
        case CloseReason::too_large: return "too_large";
        case CloseReason::lost: return "lost";
        case CloseReason::stopping: return "stopping";
    }
    return "unknown";
}

// The network's own service: it is told when a timer is due or a name has been looked up.
class Network::Helper final : public Actor {
  public:
    explicit Helper(Network& network) : network_(network) {}
    void receive(MessagePtr message) override { network_.receive(*message); }

  private:
    Network& network_;
};

struct Network::Group {
    const Handle owner;
    std::mutex mutex;
    // Guarded by mutex: members, and where each stands among them.
    std::vector<ConnectionId> members;
    std::unordered_map<ConnectionId, std::size_t> places;

    explicit Group(Handle owner_) : owner(owner_) {}
    bool remove(ConnectionId member) {
        const auto found = places.find(member);
        if (found == places.end()) return false;
        const std::size_t place = found->second;
        places.erase(found);
        if (place + 1 != members.size()) {
            members[place] = members.back();
            places[members[place]] = place;
        }
        members.pop_back();
        return true;
    }
};

Network::Network(Kernel& kernel, std::unique_ptr<Transport> transport)
    : kernel_(kernel),
      transport_(std::move(transport)),
      connections_(kernel.random()),
      listeners_(kernel.random()),
      read_buffer_(std::make_unique<char[]>(kReadBuffer)),
      next_group_(1 + (kernel.random().next() >> 24)) {}

Network::~Network() {
    transport_->stop();
    for (const auto& connection : all_connections_) {
        if (connection->descriptor >= 0) transport_->close(connection->descriptor, true);
    }
    for (const auto& listener : all_listeners_) {
        if (listener->descriptor >= 0) transport_->close(listener->descriptor, false);
    }
    if (timers_ != nullptr) kernel_.timers().cancel_all(*timers_);
}

Status Network::start() {
    const Status started = transport_->start(
        [this](std::uint64_t token, std::uint32_t ready) { on_ready(token, ready); });
    if (!started.ok()) return started;
    kernel_.set_on_turn_end([this] { flush_turn(); });
    kernel_.set_on_drained([this](ActorCell* cell) { on_drained(cell); });
    ActorCell* cell = kernel_.create_cell(std::make_unique<Helper>(*this));
    const Result<Handle> handle = kernel_.add_service(cell, nullptr);
    if (!handle.ok()) return handle.status();
    helper_ = handle.value();
    timers_ = std::make_unique<OwnerTimers>(helper_);
    kernel_.launch(cell);
    return {};
}

void Network::begin_stop() {
    stopping_.store(true);
    for (const ListenerId id : listeners_.ids()) (void)close_listener(id);
    for (const ConnectionId id : connections_.ids()) (void)close(id, CloseReason::stopping);
}

// ---- looking up ----

Status Network::dead_connection() {
    return Status::error(StatusCode::dead, "the connection is closed");
}

Network::Locked Network::find(ConnectionId id) {
    Connection* connection = connections_.find(id);
    if (connection == nullptr) return {};
    Locked locked{connection, std::unique_lock(connection->mutex)};
    if (connection->id != id) return {};
    return locked;
}

// Open, or will be.
Network::Locked Network::find_writable_or_broken(ConnectionId id) {
    Locked locked = find(id);
    if (!locked || locked->state == Connection::State::free ||
        locked->state > Connection::State::open) {
        return {};
    }
    return locked;
}

Network::Locked Network::find_writable(ConnectionId id) {
    Locked locked = find_writable_or_broken(id);
    if (!locked || locked->broken) return {};
    return locked;
}

bool Network::in_turn() const {
    return polling_network == nullptr && kernel_.scheduler().on_worker();
}

void Network::later(ConnectionId id, void (Network::*task)(ConnectionId)) {
    transport_->post([this, id, task] {
        const Network* const before = std::exchange(polling_network, this);
        (this->*task)(id);
        polling_network = before;
    });
}

// ---- the pool ----

// Comes locked, so that nobody who finds it by its owner meets it half made.
Network::Locked Network::take_connection(const StreamOptions& options, Handle owner) {
    const ConnectionId id = connections_.add();
    if (!id) return {};
    Connection* connection = nullptr;
    {
        const std::lock_guard lock(pool_mutex_);
        if (free_connections_.empty()) {
            all_connections_.push_back(std::make_unique<Connection>());
            connection = all_connections_.back().get();
        } else {
            connection = free_connections_.back();
            free_connections_.pop_back();
        }
    }
    Locked taken{connection, std::unique_lock(connection->mutex)};
    Connection& c = *connection;
    c.pause.store(options.paused ? Connection::kByOwner : 0);
    c.max_frame.store(options.max_frame);
    c.undelivered.store(0);
    c.last_receive_ns.store(kernel_.clock().coarse_ns());
    c.discards.store(false);
    c.sending.store(false);
    c.id = id;
    c.reason = CloseReason::closed;
    c.accepted = c.announced = c.blocked = c.broken = false;
    c.dirty = nullptr;
    c.peer_ended = c.wants_drained = c.handing_over = c.finish_waits = false;
    c.half_open = options.half_open;
    c.no_delay = options.no_delay;
    c.owner = owner;
    c.former_owner = c.next_owner = {};
    c.send_bytes = options.send_bytes == 0 ? UINT32_MAX : options.send_bytes;
    c.send_packets = options.send_packets == 0 ? UINT32_MAX : options.send_packets;
    c.stall_ms = options.stall_ms;
    c.idle_ms = options.idle_ms;
    c.close_ms = options.close_ms;
    c.progress_ns = c.deadline_ns = c.watched_ns = 0;
    c.peer = {};
    c.listener = {};
    c.listened_by = nullptr;
    c.polled_id = 0;
    c.reader = owner;
    c.readable = c.ended = false;
    c.decoder = FrameDecoder(options.framing);
    c.pending_from = 0;
    connections_.publish(id, connection);
    own(c, owner);
    return taken;
}

// Polling thread, mutex held; the id is not in the table any more.
void Network::release(Connection& connection) {
    disown(connection);
    connection.id = {};
    connection.state = Connection::State::free;
    connection.addresses.reset();
    const std::lock_guard lock(pool_mutex_);
    free_connections_.push_back(&connection);
}

void Network::own(Connection& connection, Handle owner) {
    const std::lock_guard lock(owners_mutex_);
    Connection*& first = owned_[owner];
    connection.owned_id = connection.id;
    connection.owner_previous = nullptr;
    connection.owner_next = first;
    if (first != nullptr) first->owner_previous = &connection;
    first = &connection;
}

void Network::disown(Connection& connection) {
    const std::lock_guard lock(owners_mutex_);
    Connection* const next = connection.owner_next;
    Connection* const previous = connection.owner_previous;
    if (next != nullptr) next->owner_previous = previous;
    if (previous != nullptr) {
        previous->owner_next = next;
    } else if (next != nullptr) {
        owned_[connection.owner] = next;
    } else {
        owned_.erase(connection.owner);
    }
    connection.owner_next = connection.owner_previous = nullptr;
}

PostResult Network::post_event(const Connection& connection, Handle to, SocketEvent event,
                               std::string_view payload) {
    MessagePtr message = make_message(MessageKind::socket, to, {}, connection.listener.value);
    message->id = connection.id.value;
    message->detail = static_cast<std::uint8_t>(event);
    if (!payload.empty()) message->set_payload(payload);
    return kernel_.post(message);
}

// ---- listeners ----

Result<ListenerId> Network::listen(Handle owner, const ListenOptions& options) {
    if (stopping_.load()) return Status::error(StatusCode::unavailable, "the node is stopping");
    const Result<Address> wanted = Address::parse(options.host, options.port);
    if (!wanted.ok()) return wanted.status();
    Address address = wanted.value();
    const int descriptor = transport_->listen(address, options.backlog);
    if (descriptor == -EADDRINUSE) {
        return Status::error(StatusCode::exists, "%s is in use", address.text().c_str());
    }
    if (descriptor < 0) {
        return Status::error(
            descriptor == -EADDRNOTAVAIL ? StatusCode::invalid : StatusCode::unavailable,
            "can't listen at %s: %s", address.text().c_str(), error_text(descriptor).c_str());
    }
    // Accepted sockets inherit it, which saves a system call for each.
    transport_->set_no_delay(descriptor, options.stream.no_delay);
    auto made = std::make_unique<Listener>();
    Listener& listener = *made;
    listener.id = listeners_.add();
    listener.owner = owner;
    listener.options = options;
    listener.address = address;
    listener.descriptor = descriptor;
    {
        const std::lock_guard lock(pool_mutex_);
        all_listeners_.push_back(std::move(made));
    }
    const ListenerId id = listener.id;
    listeners_.publish(id, &listener);
    counters_.listeners.fetch_add(1);
    const int watched = transport_->watch_listener(descriptor, id.value | kListenerToken, true);
    if (watched < 0) {
        (void)close_listener(id);
        return Status::error(StatusCode::unavailable, "can't listen at %s: %s",
                             address.text().c_str(), error_text(watched).c_str());
    }
    return id;
}

Result<Address> Network::listener_address(ListenerId id) const {
    const Listener* listener = listeners_.find(id);
    if (listener == nullptr) return Status::error(StatusCode::dead, "the listener is closed");
    return listener->address;
}

std::vector<Address> Network::listening() {
    std::vector<Address> addresses;
    const std::lock_guard lock(pool_mutex_);
    for (const auto& listener : all_listeners_) {
        if (!listener->closed.load()) addresses.push_back(listener->address);
    }
    return addresses;
}

Status Network::close_listener(ListenerId id) {
    Listener* listener = listeners_.find(id);
    if (listener == nullptr || listener->closed.exchange(true)) {
        return Status::error(StatusCode::dead, "the listener is closed");
    }
    counters_.listeners.fetch_sub(1);
    listeners_.remove(id);
    transport_->post([this, listener] {
        transport_->close(listener->descriptor, false);
        listener->descriptor = -1;
    });
    return {};
}

void Network::on_accept(ListenerId id) {
    Listener* listener = listeners_.find(id);
    if (listener == nullptr || listener->paused) return;
    // Two messages a connection may come in faster than a slow owner takes them.
    Registry::Slot* slot = kernel_.registry().find(listener->owner);
    if (slot != nullptr && slot->cell.load()->mailbox.half_full()) {
        return pause_accept(*listener, counters_.accept_waits);
    }
    for (int i = 0; i < kAcceptBatch && !listener->closed.load(); ++i) {
        Address peer;
        const int descriptor = transport_->accept(listener->descriptor, peer);
        if (descriptor >= 0) {
            admit_peer(*listener, descriptor, peer);
        } else if (descriptor == -EAGAIN) {
            return;
        } else if (out_of_descriptors(descriptor)) {
            return pause_accept(*listener, counters_.accept_pauses);
        }  // else this one has gone again: the next
    }
}

void Network::pause_accept(Listener& listener, std::atomic<std::uint64_t>& counter) {
    counter.fetch_add(1);
    listener.paused = true;
    transport_->watch_listener(listener.descriptor, listener.id.value | kListenerToken, false);
    paused_listeners_.push_back(listener.id);
    kernel_.add_timer(*timers_, kAcceptTimer, now_ns() + kAcceptRetryNs);
}

void Network::resume_accepts() {
    for (const ListenerId id : std::exchange(paused_listeners_, {})) {
        Listener* listener = listeners_.find(id);
        if (listener == nullptr) continue;
        listener->paused = false;
        transport_->watch_listener(listener->descriptor, id.value | kListenerToken, true);
    }
}

void Network::admit_peer(Listener& listener, int descriptor, const Address& peer) {
    counters_.accepted.fetch_add(1);
    const ListenOptions& options = listener.options;
    if (listener.open >= options.max_connections) {
        counters_.refused_full.fetch_add(1);
        return transport_->close(descriptor, true);
    }
    std::uint32_t* from_address = nullptr;
    if (options.max_per_address != 0) {
        from_address = &listener.per_address[peer.client_key()];
        if (*from_address >= options.max_per_address) {
            counters_.refused_address.fetch_add(1);
            return transport_->close(descriptor, true);
        }
    }
    Locked c = take_connection(options.stream, listener.owner);
    if (!c) {
        counters_.refused_full.fetch_add(1);
        return transport_->close(descriptor, true);
    }
    ++listener.open;
    if (from_address != nullptr) ++*from_address;
    counters_.open.fetch_add(1);
    c->state = Connection::State::open;
    c->accepted = c->announced = true;
    c->descriptor = descriptor;
    c->peer = peer;
    c->listener = listener.id;
    c->listened_by = &listener;
    c->polled_id = c->id.value;
    const bool watched = transport_->watch(descriptor, c->id.value) == 0;
    if (c->idle_ms > 0) watch(*c, now_ns() + c->idle_ms * kNsPerMs);
    if (post_event(*c, c->owner, SocketEvent::opened, peer.text()) == PostResult::dead) {
        c->reason = CloseReason::lost;
        finish(std::move(c));
        (void)close_listener(listener.id);
    } else if (!watched) {
        c->reason = CloseReason::aborted;
        finish(std::move(c));
    }
}

// ---- connecting ----

Result<ConnectionId> Network::connect(Handle owner, const ConnectOptions& options) {
    if (stopping_.load()) return Status::error(StatusCode::unavailable, "the node is stopping");
    if (options.port == 0) return Status::error(StatusCode::invalid, "port 0 is none");
    const Result<Address> number = Address::parse(
        kernel_.seeded() && options.host != "*" ? "localhost" : options.host, options.port);
    const Locked taken = take_connection(options.stream, owner);
    if (!taken) return Status::error(StatusCode::unavailable, "all connection slots are in use");
    Connection& c = *taken;
    const ConnectionId id = c.id;
    c.state = Connection::State::resolving;
    c.addresses = std::make_unique<std::vector<Address>>();
    if (options.connect_ms > 0) {
        c.deadline_ns = now_ns() + options.connect_ms * kNsPerMs;
        watch(c, c.deadline_ns);
    }
    if (number.ok()) {
        c.addresses->push_back(number.value());
        begin_connect(c, "");
        return id;
    }
    MessagePtr done = make_message(MessageKind::work, helper_, {}, 0);
    done->id = id.value;
    const auto look_up = [host = options.host,
                          port = std::to_string(options.port)](Message& result) {
        addrinfo hints{};
        hints.ai_socktype = SOCK_STREAM;
        hints.ai_flags = AI_ADDRCONFIG;
        addrinfo* list = nullptr;
        const int error = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &list);
        if (error != 0) {
            result.detail = 1;
            return result.set_payload(std::string_view(::gai_strerror(error)));
        }
        PayloadWriter out = result.writer();
        for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
            sockaddr_storage system{};
            std::memcpy(&system, entry->ai_addr,
                        std::min<std::size_t>(entry->ai_addrlen, sizeof system));
            const Address address = Address::from(system);
            out.append(&address, sizeof address);
        }
        result.finish(out);
        ::freeaddrinfo(list);
    };
    if (!kernel_.run_blocking(look_up, std::move(done))) {
        c.announced = false;
        kill(c, CloseReason::aborted);
        return Status::error(StatusCode::overloaded, "too many names are being looked up");
    }
    return id;
}

// The helper: a name has been looked up, or was not.
void Network::resolved(const Message& message) {
    Locked c = find(ConnectionId{message.id});
    if (!c || c->state != Connection::State::resolving) return;
    if (message.detail != 0) {
        return fail_connect(*c, message.size == 0 ? "cancelled" : std::string(message.payload()));
    }
    const std::size_t count = message.size / sizeof(Address);
    c->addresses->resize(count);
    std::memcpy(c->addresses->data(), message.data(), count * sizeof(Address));
    // The last is tried first.
    std::reverse(c->addresses->begin(), c->addresses->end());
    begin_connect(*c, "no address");
}

// Under the mutex. Tries the next address; `failure` says why the one before was not it.
void Network::begin_connect(Connection& c, std::string failure) {
    c.state = Connection::State::connecting;
    while (!c.addresses->empty()) {
        c.peer = c.addresses->back();
        c.addresses->pop_back();
        const int descriptor = transport_->connect(c.peer);
        if (descriptor >= 0) {
            c.descriptor = descriptor;
            const int watched = transport_->watch(descriptor, c.id.value);
            if (watched == 0) return;
            failure = error_text(watched);
            break;  // the polling thread closes it
        }
        failure = c.peer.text() + ": " + error_text(descriptor);
    }
    fail_connect(c, failure);
}

void Network::fail_connect(Connection& c, const std::string& text) {
    if (c.state == Connection::State::dead) return;
    counters_.connect_failed.fetch_add(1);
    (void)post_event(c, c.owner, SocketEvent::failed, text);
    kill(c, CloseReason::aborted);
}

void Network::on_connecting(ConnectionId id, std::uint32_t ready) {
    Locked c = find(id);
    if (!c || c->state != Connection::State::connecting) return;
    const int result = transport_->connect_result(c->descriptor);
    if (result < 0) {
        const std::string failure = c->peer.text() + ": " + error_text(result);
        transport_->close(std::exchange(c->descriptor, -1), false);
        return begin_connect(*c, failure);
    }
    if ((ready & kWritable) == 0) return;
    counters_.connected.fetch_add(1);
    counters_.open.fetch_add(1);
    if (c->no_delay) transport_->set_no_delay(c->descriptor, true);
    c->state = Connection::State::open;
    c->announced = true;
    c->addresses.reset();
    c->polled_id = id.value;
    c->readable = true;
    // The peer may have sent and closed before this: no further event tells of it.
    if ((ready & (kEnded | kBroken)) != 0) c->ended = true;
    c->last_receive_ns.store(kernel_.clock().coarse_ns());
    if (c->idle_ms > 0) watch(*c, now_ns() + c->idle_ms * kNsPerMs);
    if (post_event(*c, c->owner, SocketEvent::connected, c->peer.text()) == PostResult::dead) {
        c->reason = CloseReason::lost;
        return finish(std::move(c));
    }
    flush(*c);
    Connection& connection = *c;
    c.lock.unlock();
    read(connection);
}

// ---- reading: the polling thread ----

void Network::on_ready(std::uint64_t token, std::uint32_t ready) {
    const Network* const before = std::exchange(polling_network, this);
    if ((token & kListenerToken) != 0) {
        on_accept(ListenerId{token & ~kListenerToken});
    } else {
        on_stream(ConnectionId{token}, ready);
    }
    polling_network = before;
}

void Network::on_stream(ConnectionId id, std::uint32_t ready) {
    Connection* connection = connections_.find(id);
    if (connection == nullptr) return;
    if (connection->polled_id != id.value) return on_connecting(id, ready);
    // `sending` was set before the send whose failure this event may belong to, so an event
    // that finds it clear is older than that.
    if ((ready & (kWritable | kBroken)) != 0 && connection->sending.load()) {
        Locked c = find(id);
        if (c && c->blocked) {
            c->blocked = false;
            flush(*c);
        }
    }
    if ((ready & (kReadable | kBroken)) == 0) return;
    connection->readable = true;
    if ((ready & (kEnded | kBroken)) != 0) connection->ended = true;
    read(*connection);
}

void Network::read(Connection& c) {
    const std::uint64_t id = c.polled_id;
    for (int round = 0; c.polled_id == id; ++round) {
        const bool discards = c.discards.load();
        if (discards) {
            c.pending = {};
        } else if (c.pause.load() != 0) {
            return;
        }
        if (c.pending) {
            const BufferRef held = std::exchange(c.pending, {});
            std::string_view input(held.data(), held.size());
            input.remove_prefix(c.pending_from);
            const Input outcome = cut(c, input);
            if (outcome == Input::gone) return;
            if (outcome == Input::stopped) {
                c.pending_from = held.size() - input.size();
                c.pending = held;
                return;
            }
            continue;
        }
        if (!c.readable) return;
        if (round >= kReadRounds) return later(ConnectionId{id}, &Network::read_again);
        const ssize_t count = transport_->receive(c.descriptor, read_buffer_.get(), kReadBuffer);
        counters_.receives.fetch_add(1, std::memory_order_relaxed);
        if (count == -EAGAIN) {
            c.readable = false;
            return;
        }
        if (count < 0) return break_up(c, CloseReason::reset);
        if (count == 0) {
            c.readable = false;
            return peer_ended(c);
        }
        c.last_receive_ns.store(kernel_.clock().coarse_ns(), std::memory_order_relaxed);
        counters_.bytes_in.fetch_add(static_cast<std::uint64_t>(count), std::memory_order_relaxed);
        // A short read has emptied the socket; only an end that was announced is worth a look.
        if (static_cast<std::size_t>(count) < kReadBuffer && !c.ended) c.readable = false;
        if (discards) continue;
        std::string_view input(read_buffer_.get(), static_cast<std::size_t>(count));
        const Input outcome = cut(c, input);
        if (outcome == Input::gone) return;
        if (outcome == Input::stopped) {
            c.pending = BufferRef::copy_of(input.data(), input.size());
            c.pending_from = 0;
            return;
        }
    }
}

// Posts the frames of `input`, which is moved behind what was taken.
Network::Input Network::cut(Connection& c, std::string_view& input) {
    std::uint64_t frames = 0;
    Input outcome = Input::dry;
    for (int unchecked = 0;; ++unchecked) {
        if (!input.empty() && c.undelivered.load() > kMaxUndelivered) {
            c.pause.fetch_or(Connection::kByUndelivered);
            // The owner may have caught up before it could see the bit.
            if (c.undelivered.load() > kMaxUndelivered / 2) {
                outcome = Input::stopped;
                break;
            }
            c.pause.fetch_and(~Connection::kByUndelivered);
        }
        if (!input.empty() && unchecked % kFramesACheck == 0 && !owner_has_room(c)) {
            outcome = c.polled_id == 0 ? Input::gone : Input::stopped;
            break;
        }
        Frame frame;
        const FrameDecoder::Outcome next = c.decoder.next(input, c.max_frame.load(), frame);
        if (next == FrameDecoder::Outcome::more) break;
        if (next != FrameDecoder::Outcome::frame) {
            break_up(c, next == FrameDecoder::Outcome::malformed ? CloseReason::malformed
                                                                 : CloseReason::too_large);
            outcome = Input::gone;
            break;
        }
        ++frames;
        MessagePtr message = make_message(MessageKind::socket, c.reader, {}, c.listener.value);
        message->id = c.polled_id;
        message->detail = static_cast<std::uint8_t>(SocketEvent::data);
        c.undelivered.fetch_add(static_cast<std::int64_t>(frame.bytes.size()) + kMessageCharge);
        if (frame.buffer && frame.bytes.size() > Message::kInlineSize) {
            message->set_payload(std::move(frame.buffer));
        } else {
            message->set_payload(frame.bytes);
        }
        if (kernel_.post(message) != PostResult::ok) {
            break_up(c, CloseReason::lost);
            outcome = Input::gone;
            break;
        }
    }
    counters_.frames_in.fetch_add(frames, std::memory_order_relaxed);
    if (outcome == Input::stopped) counters_.read_pauses.fetch_add(1, std::memory_order_relaxed);
    return outcome;
}

// Whether the owner's mailbox takes more. If not, the reading has been paused, or the
// connection broken up because its owner is dead.
bool Network::owner_has_room(Connection& c) {
    Registry::Slot* slot = kernel_.registry().find(c.reader);
    if (slot == nullptr) {
        break_up(c, CloseReason::lost);
        return false;
    }
    ActorCell* cell = slot->cell.load();
    const auto full = [&] {
        const std::uint32_t own_limit = slot->max_messages.load(std::memory_order_relaxed);
        return cell->mailbox.half_full() || (own_limit != 0 && slot->load.count() * 2 >= own_limit);
    };
    if (!full()) return true;
    const ConnectionId id{c.polled_id};
    c.pause.fetch_or(Connection::kByMailbox);
    {
        const std::lock_guard lock(drains_mutex_);
        drains_[cell].push_back(id);
    }
    cell->wants_drain.store(true);
    // It may have been emptied before it could see that somebody waits.
    if (!full()) {
        c.pause.fetch_and(~Connection::kByMailbox);
        return true;
    }
    // A light service has a limit of its own, which tells nobody.
    if (Locked locked = find(id)) watch(*locked, now_ns() + kDrainRetryNs);
    return false;
}

void Network::on_drained(ActorCell* cell) {
    std::vector<ConnectionId> waiting;
    {
        const std::lock_guard lock(drains_mutex_);
        const auto found = drains_.find(cell);
        if (found == drains_.end()) return;
        waiting = std::move(found->second);
        drains_.erase(found);
    }
    for (const ConnectionId id : waiting) {
        if (Locked c = find(id)) unpause(*c, Connection::kByMailbox);
    }
}

// Under the mutex.
void Network::unpause(Connection& c, std::uint32_t bits) {
    const std::uint32_t before = c.pause.fetch_and(~bits);
    if ((before & bits) != 0 && (before & ~bits) == 0) later(c.id, &Network::read_again);
}

void Network::read_again(ConnectionId id) {
    Connection* connection = connections_.find(id);
    if (connection != nullptr && connection->polled_id == id.value) read(*connection);
}

void Network::peer_ended(Connection& connection) {
    Locked c = find(ConnectionId{connection.polled_id});
    if (!c) return;
    const bool again = std::exchange(c->peer_ended, true);
    if (c->broken) {
        c->reason = CloseReason::reset;
        return finish(std::move(c));
    }
    if (c->state == Connection::State::ending || c->state == Connection::State::dead) {
        return finish(std::move(c));
    }
    if (c->state != Connection::State::open || again) return;
    // Behind all its data, so that the answers to that can be written before it is closed.
    if (post_event(*c, c->reader, SocketEvent::ended, {}) == PostResult::dead) {
        c->reason = CloseReason::lost;
        finish(std::move(c));
    }
}

// ---- sending ----

Status Network::write(ConnectionId id, std::string_view body) {
    const Locked c = find_writable(id);
    if (!c) return dead_connection();
    const FramingKind framing = c->framing();
    const FramingRule& rule = framing_rule(framing);
    if (body.size() > rule.max_body) return check_frame_size(framing, body.size());
    if (rule.header != 0) {
        char header[kMaxFrameHeader];
        c->out.append({header, write_frame_header(framing, body.size(), header)}, true);
    }
    c->out.append(body, !rule.trailer.empty());
    if (!rule.trailer.empty()) c->out.append(rule.trailer);
    return queued(*c);
}

Status Network::write_raw(ConnectionId id, std::string_view bytes) {
    const Locked c = find_writable(id);
    if (!c) return dead_connection();
    c->out.append(bytes);
    return queued(*c);
}

Status Network::write_shared(ConnectionId id, SharedFrame& frame) {
    const Locked c = find_writable(id);
    if (!c) return dead_connection();
    BufferRef& encoded = frame.encoded[static_cast<std::size_t>(c->framing())];
    if (!encoded) {
        if (const Status size = check_frame_size(c->framing(), frame.body.size()); !size.ok()) {
            return size;
        }
        encoded = encode_frame(c->framing(), frame.body);
    }
    // Small ones are put together with what waits already.
    if (encoded.size() <= kCopyLimit && !c->out.empty()) {
        c->out.append({encoded.data(), encoded.size()});
    } else {
        c->out.append(encoded);
    }
    return queued(*c);
}

std::size_t Network::write_many(std::span<const ConnectionId> ids, std::string_view body) {
    SharedFrame frame{body, {}};
    std::size_t count = 0;
    for (const ConnectionId id : ids) count += write_shared(id, frame).ok() ? 1 : 0;
    return count;
}

// Something was put into the queue.
Status Network::queued(Connection& c) {
    counters_.packets_out.fetch_add(1, std::memory_order_relaxed);
    // A turn that writes much must not look like a peer that reads little.
    if (c.out.bytes() >= kEarlyFlush || c.out.packets() * 2 >= c.send_packets) flush(c);
    if (c.out.bytes() > c.send_bytes || c.out.packets() > c.send_packets) {
        kill(c, CloseReason::slow);
        return Status::error(StatusCode::overloaded,
                             "the peer is too slow: over %u bytes or %u packets were unsent",
                             c.send_bytes, c.send_packets);
    }
    if (c.broken) return dead_connection();
    if (!in_turn()) {
        flush(c);
    } else if (c.dirty != &unflushed && !c.blocked && !c.out.empty()) {
        // Also when another worker has it on its list: that one's turn may be a long one.
        c.dirty = &unflushed;
        unflushed.push_back({this, &c, c.id});
    }
    return {};
}

void Network::flush_turn() {
    if (unflushed.empty()) return;
    std::size_t others = 0;
    for (std::size_t i = 0; i < unflushed.size(); ++i) {
        const Unflushed entry = unflushed[i];
        if (entry.network != this) {
            unflushed[others++] = entry;
            continue;
        }
        const std::lock_guard lock(entry.connection->mutex);
        if (entry.connection->id != entry.id) continue;
        entry.connection->dirty = nullptr;
        flush(*entry.connection);
    }
    unflushed.resize(others);
}

void Network::flush(Connection& c) {
    if (c.blocked ||
        (c.state != Connection::State::open && c.state != Connection::State::closing)) {
        return;
    }
    while (!c.out.empty()) {
        iovec pieces[kPieces];
        const int count = c.out.gather(pieces, kPieces);
        std::size_t offered = 0;
        for (int i = 0; i < count; ++i) offered += pieces[i].iov_len;
        c.sending.store(true);
        const ssize_t sent = transport_->send(c.descriptor, pieces, count);
        counters_.sends.fetch_add(1, std::memory_order_relaxed);
        if (sent < 0 && sent != -EAGAIN) return send_failed(c);
        if (sent > 0) {
            c.out.consume(static_cast<std::size_t>(sent));
            counters_.bytes_out.fetch_add(static_cast<std::uint64_t>(sent),
                                          std::memory_order_relaxed);
        }
        if (sent < static_cast<ssize_t>(offered)) {
            c.blocked = true;
            if (sent > 0 || c.progress_ns == 0) c.progress_ns = now_ns();
            if (c.stall_ms > 0) watch(c, c.progress_ns + c.stall_ms * kNsPerMs);
            return;
        }
    }
    c.sending.store(false);
    c.progress_ns = 0;
    if (std::exchange(c.wants_drained, false)) {
        (void)post_event(c, c.owner, SocketEvent::drained, {});
    }
    if (c.state == Connection::State::closing) all_sent(c);
}

// The peer takes nothing any more. What it has sent before is still read.
void Network::send_failed(Connection& c) {
    counters_.unsent_bytes.fetch_add(c.out.bytes());
    c.out.clear();
    c.sending.store(false);
    if (c.state == Connection::State::closing) return kill(c, CloseReason::reset);
    c.broken = true;
    later(c.id, &Network::read_broken);
}

void Network::read_broken(ConnectionId id) {
    Connection* connection = connections_.find(id);
    if (connection == nullptr || connection->polled_id != id.value) return;
    connection->readable = connection->ended = true;
    read(*connection);
}

std::size_t Network::unsent(ConnectionId id) {
    const Locked c = find(id);
    return c ? c->out.bytes() : 0;
}

Status Network::notify_drained(ConnectionId id) {
    const Locked c = find_writable(id);
    if (!c) return dead_connection();
    c->wants_drained = true;
    if (c->out.empty() && c->state == Connection::State::open) flush(*c);
    return {};
}

// ---- ending ----

Status Network::close(ConnectionId id, CloseReason reason) {
    const Locked c = find_writable_or_broken(id);
    if (!c) return dead_connection();
    if (c->state != Connection::State::open) {
        fail_connect(*c, close_reason_name(reason));
    } else {
        begin_close(*c, reason);
    }
    return {};
}

Status Network::abort(ConnectionId id) {
    const Locked c = find(id);
    if (!c || c->state == Connection::State::dead) return dead_connection();
    if (c->state < Connection::State::open) {
        fail_connect(*c, "aborted");
    } else {
        kill(*c, CloseReason::aborted);
    }
    return {};
}

void Network::begin_close(Connection& c, CloseReason reason) {
    c.reason = reason;
    if (c.broken) return kill(c, CloseReason::reset);
    c.state = Connection::State::closing;
    c.discards.store(true);
    c.deadline_ns = now_ns() + std::max(c.close_ms, 1) * kNsPerMs;
    watch(c, c.deadline_ns);
    const bool leaves_with_the_turn = c.dirty == &unflushed && in_turn();
    if (!leaves_with_the_turn) flush(c);
}

// Everything is sent, and the end now too. The descriptor stays until the peer has ended: to
// close it while something of the peer's is unread would reset what the peer hasn't read yet.
void Network::all_sent(Connection& c) {
    transport_->end_sending(c.descriptor);
    c.state = Connection::State::ending;
    if (c.peer_ended) {
        c.state = Connection::State::dead;
        return later(c.id, &Network::finish_dead);
    }
    later(c.id, &Network::read_again);
}

void Network::kill(Connection& c, CloseReason reason) {
    if (c.state == Connection::State::dead) return;
    c.reason = reason;
    c.state = Connection::State::dead;
    c.discards.store(true);
    counters_.unsent_bytes.fetch_add(c.out.bytes());
    c.out.clear();
    later(c.id, &Network::finish_dead);
}

void Network::finish_dead(ConnectionId id) {
    Locked c = find(id);
    if (c && c->state == Connection::State::dead) finish(std::move(c));
}

// Polling thread, mutex not held.
void Network::break_up(Connection& connection, CloseReason reason) {
    Locked c = find(ConnectionId{connection.polled_id});
    if (!c) return;
    if (c->state <= Connection::State::open) c->reason = reason;
    finish(std::move(c));
}

// Polling thread.
void Network::finish(Locked c) {
    if (c->finish_waits) return;
    const bool truncated = !c->out.empty();
    counters_.unsent_bytes.fetch_add(c->out.bytes());
    c->out.clear();
    if (c->descriptor >= 0) {
        transport_->close(std::exchange(c->descriptor, -1), truncated || needs_reset(c->reason));
        // Listeners that wait for a descriptor: not from here, under this mutex.
        if (!paused_listeners_.empty()) transport_->post([this] { resume_accepts(); });
    }
    c->state = Connection::State::dead;
    c->discards.store(true);
    c->polled_id = 0;
    c->pending = {};
    c->decoder = FrameDecoder(c->decoder.kind());
    if (c->announced) count_end(*c);
    if (c->handing_over) {
        c->finish_waits = true;
        return;
    }
    end(std::move(c));
}

// The last event, and the id is dead.
void Network::end(Locked c) {
    connections_.remove(c->id);
    if (c->announced && kernel_.registry().alive(c->owner)) {
        (void)post_event(*c, c->owner, SocketEvent::closed, close_reason_name(c->reason));
    }
    release(*c);
}

void Network::count_end(Connection& c) {
    counters_.open.fetch_sub(1);
    counters_.closed.fetch_add(1);
    switch (c.reason) {
        case CloseReason::reset: counters_.closed_reset.fetch_add(1); break;
        case CloseReason::slow: counters_.closed_slow.fetch_add(1); break;
        case CloseReason::stalled: counters_.closed_stalled.fetch_add(1); break;
        case CloseReason::idle: counters_.closed_idle.fetch_add(1); break;
        case CloseReason::malformed: counters_.closed_malformed.fetch_add(1); break;
        case CloseReason::too_large: counters_.closed_too_large.fetch_add(1); break;
        case CloseReason::lost: counters_.closed_lost.fetch_add(1); break;
        default: break;
    }
    Listener* listener = c.accepted ? c.listened_by : nullptr;
    if (listener == nullptr) return;
    --listener->open;
    if (listener->options.max_per_address == 0) return;
    const auto found = listener->per_address.find(c.peer.client_key());
    if (found != listener->per_address.end() && --found->second == 0) {
        listener->per_address.erase(found);
    }
}

// ---- owners ----

Status Network::hand_over(ConnectionId id, Handle owner) {
    if (!kernel_.registry().alive(owner)) {
        return Status::error(StatusCode::dead, "the new owner is dead");
    }
    const Locked c = find_writable_or_broken(id);
    if (!c) return dead_connection();
    if (c->state != Connection::State::open) {
        return Status::error(StatusCode::unavailable, "the connection is not open yet");
    }
    if (c->handing_over) {
        c->next_owner = owner;
    } else {
        start_hand_over(*c, owner);
    }
    return {};
}

// The former owner may have messages that it hasn't seen. A mark is put behind them; until it
// comes out nothing new is read, and what comes out before it is sent on by admit().
void Network::start_hand_over(Connection& c, Handle owner) {
    c.handing_over = true;
    c.former_owner = c.owner;
    c.pause.fetch_or(Connection::kByHandOver);
    c.pause.fetch_and(~Connection::kByOwner);
    disown(c);
    c.owner = owner;
    own(c, owner);
    (void)post_event(c, owner, SocketEvent::opened, c.peer.text());
    later(c.id, &Network::mark_hand_over);
}

void Network::mark_hand_over(ConnectionId id) {
    bool caught_up = false;
    if (Locked c = find(id)) {
        caught_up = post_event(*c, c->former_owner, SocketEvent::moved, {}) == PostResult::dead;
        watch(*c, now_ns() + kHandOverCheckNs);
    }
    if (caught_up) end_hand_over(id);
}

void Network::end_hand_over(ConnectionId id) {
    Locked c = find(id);
    if (!c || !c->handing_over) return;
    c->handing_over = false;
    c->former_owner = {};
    c->reader = c->owner;
    if (c->finish_waits) {
        c->finish_waits = false;
        return end(std::move(c));
    }
    if (c->next_owner) {
        const Handle next = std::exchange(c->next_owner, {});
        if (c->state == Connection::State::open) return start_hand_over(*c, next);
    }
    c->pause.fetch_and(~Connection::kByHandOver);
    Connection& connection = *c;
    c.lock.unlock();
    if (connection.polled_id == id.value) read(connection);
}

bool Network::admit(MessagePtr& message) {
    const SocketEvent event = static_cast<SocketEvent>(message->detail);
    Locked c = find(ConnectionId{message->id});
    if (event == SocketEvent::moved) {
        if (c) later(c->id, &Network::end_hand_over);
        message.reset();
        return false;
    }
    if (!c) return true;
    if (c->owner != message->to) {
        if (event == SocketEvent::opened || event == SocketEvent::connected) {
            message.reset();  // who owns it now has an event of its own
            return false;
        }
        message->to = c->owner;
        // Under the mutex: nothing of the new owner's may come in between.
        if (kernel_.post(message) != PostResult::ok) message.reset();
        return false;
    }
    if (event == SocketEvent::data) {
        const std::int64_t charge = static_cast<std::int64_t>(message->size) + kMessageCharge;
        const std::int64_t left = c->undelivered.fetch_sub(charge) - charge;
        if (left <= kMaxUndelivered / 2 && (c->pause.load() & Connection::kByUndelivered) != 0) {
            unpause(*c, Connection::kByUndelivered);
        }
    } else if (event == SocketEvent::ended && !c->half_open) {
        if (c->state == Connection::State::open) begin_close(*c, CloseReason::ended);
        message.reset();
        return false;
    }
    return true;
}

void Network::release_owner(Handle owner) {
    std::vector<ConnectionId> ids;
    {
        const std::lock_guard lock(owners_mutex_);
        const auto found = owned_.find(owner);
        if (found != owned_.end()) {
            for (Connection* c = found->second; c != nullptr; c = c->owner_next) {
                ids.push_back(c->owned_id);
            }
        }
    }
    for (const ConnectionId id : ids) (void)close(id);
    if (counters_.listeners.load() != 0) {
        for (const ListenerId id : listeners_.ids()) {
            const Listener* listener = listeners_.find(id);
            if (listener != nullptr && listener->owner == owner) (void)close_listener(id);
        }
    }
    const std::unique_lock lock(groups_mutex_);
    std::erase_if(groups_, [&](const auto& entry) { return entry.second->owner == owner; });
}

// ---- what an owner may change and ask ----

Status Network::pause(ConnectionId id) {
    const Locked c = find_writable_or_broken(id);
    if (!c) return dead_connection();
    c->pause.fetch_or(Connection::kByOwner);
    return {};
}

Status Network::resume(ConnectionId id) {
    const Locked c = find_writable_or_broken(id);
    if (!c) return dead_connection();
    unpause(*c, Connection::kByOwner);
    return {};
}

Status Network::set_max_frame(ConnectionId id, std::uint32_t max_frame) {
    const Locked c = find(id);
    if (!c) return dead_connection();
    c->max_frame.store(max_frame);
    return {};
}

Status Network::set_idle_ms(ConnectionId id, std::int32_t idle_ms) {
    const Locked c = find(id);
    if (!c) return dead_connection();
    c->idle_ms = idle_ms;
    if (idle_ms > 0) watch(*c, now_ns() + idle_ms * kNsPerMs);
    return {};
}

Result<Address> Network::peer(ConnectionId id) {
    const Locked c = find(id);
    if (!c) return dead_connection();
    return c->peer;
}

Result<Address> Network::local(ConnectionId id) {
    const Locked c = find(id);
    if (!c || c->descriptor < 0) return dead_connection();
    return transport_->local_address(c->descriptor);
}

Result<Handle> Network::owner_of(ConnectionId id) {
    const Locked c = find(id);
    if (!c) return dead_connection();
    return c->owner;
}

Result<FramingKind> Network::framing(ConnectionId id) {
    const Locked c = find(id);
    if (!c) return dead_connection();
    return c->framing();
}

// ---- groups ----

GroupId Network::group_create(Handle owner) {
    const std::unique_lock lock(groups_mutex_);
    const GroupId id{next_group_++};
    groups_.emplace(id.value, std::make_shared<Group>(owner));
    return id;
}

Status Network::no_group() { return Status::error(StatusCode::not_found, "no such group"); }

std::shared_ptr<Network::Group> Network::find_group(GroupId id) {
    const std::shared_lock lock(groups_mutex_);
    const auto found = groups_.find(id.value);
    return found == groups_.end() ? nullptr : found->second;
}

Status Network::group_close(GroupId id) {
    const std::unique_lock lock(groups_mutex_);
    return groups_.erase(id.value) != 0 ? Status() : no_group();
}

Status Network::group_add(GroupId id, ConnectionId member) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    if (!find_writable(member)) return dead_connection();
    if (group->places.try_emplace(member, group->members.size()).second) {
        group->members.push_back(member);
    }
    return {};
}

Result<bool> Network::group_remove(GroupId id, ConnectionId member) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    return group->remove(member);
}

Result<std::size_t> Network::group_size(GroupId id) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    return group->members.size();
}

Result<std::size_t> Network::group_write(GroupId id, std::string_view body, ConnectionId except) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    SharedFrame frame{body, {}};
    std::size_t count = 0;
    // Under the lock, so that two writers reach all members in one order.
    const std::lock_guard lock(group->mutex);
    for (std::size_t i = 0; i < group->members.size();) {
        const ConnectionId member = group->members[i];
        if (member != except) {
            const Status written = write_shared(member, frame);
            if (written.code() == StatusCode::too_large) return written;
            if (!written.ok()) {  // the last one takes its place, and is looked at next
                group->remove(member);
                continue;
            }
            ++count;
        }
        ++i;
    }
    return count;
}

// ---- deadlines ----

// Under the mutex: check_deadlines() at `due_ns`, or earlier.
void Network::watch(Connection& c, std::int64_t due_ns) {
    if (c.watched_ns != 0 && c.watched_ns <= due_ns) return;
    c.watched_ns = due_ns;
    const std::lock_guard lock(deadlines_mutex_);
    deadlines_.push({due_ns, c.id.value});
    if (due_ns >= armed_ns_) return;
    armed_ns_ = due_ns;
    kernel_.add_timer(*timers_, kSweepTimer, due_ns);
}

void Network::sweep() {
    const std::int64_t now = now_ns();
    std::vector<Deadline> due;
    {
        const std::lock_guard lock(deadlines_mutex_);
        if (armed_ns_ > now) return;  // the timer of a time that an earlier one has replaced
        while (!deadlines_.empty() && deadlines_.top().due_ns <= now) {
            due.push_back(deadlines_.top());
            deadlines_.pop();
        }
        armed_ns_ = deadlines_.empty() ? INT64_MAX : deadlines_.top().due_ns;
        if (!deadlines_.empty()) kernel_.add_timer(*timers_, kSweepTimer, armed_ns_);
    }
    for (const Deadline& entry : due) {
        Locked c = find(ConnectionId{entry.id});
        if (!c || c->watched_ns != entry.due_ns) continue;
        c->watched_ns = 0;
        const std::int64_t next = check_deadlines(*c, now);
        if (next != INT64_MAX) watch(*c, std::max(next, now + kNsPerMs));
    }
}

// Does what has come due; returns when to look again.
std::int64_t Network::check_deadlines(Connection& c, std::int64_t now) {
    std::int64_t next = INT64_MAX;
    const auto is_due = [&](std::int64_t due) {
        if (due <= now) return true;
        next = std::min(next, due);
        return false;
    };
    if (c.handing_over && !kernel_.registry().alive(c.former_owner)) {
        // Nobody will see the mark; what the former owner had not seen is gone.
        if (c.undelivered.load() > 0) kill(c, CloseReason::lost);
        later(c.id, &Network::end_hand_over);
    } else if (c.handing_over) {
        next = now + kHandOverCheckNs;
    }
    if (c.state == Connection::State::dead) return next;
    if (c.state != Connection::State::open && c.deadline_ns != 0 && is_due(c.deadline_ns)) {
        if (c.state < Connection::State::open) {
            fail_connect(c, "timeout");
        } else {
            // What could not be delivered is cut off, and the peer can tell.
            kill(c, c.out.empty() ? c.reason : CloseReason::stalled);
        }
        return INT64_MAX;
    }
    if (c.blocked && c.stall_ms > 0 && is_due(c.progress_ns + c.stall_ms * kNsPerMs)) {
        kill(c, CloseReason::stalled);
        return INT64_MAX;
    }
    if (c.state != Connection::State::open) return next;
    if (c.idle_ms > 0 && c.pause.load() == 0 &&
        is_due(c.last_receive_ns.load() + c.idle_ms * kNsPerMs)) {
        begin_close(c, CloseReason::idle);
        return next;
    }
    if (c.idle_ms > 0 && c.pause.load() != 0) next = std::min(next, now + c.idle_ms * kNsPerMs);
    if ((c.pause.load() & Connection::kByMailbox) != 0) {
        Registry::Slot* slot = kernel_.registry().find(c.owner);
        const std::uint32_t own_limit = slot == nullptr ? 0 : slot->max_messages.load();
        if (slot == nullptr || (!slot->cell.load()->mailbox.half_full() &&
                                (own_limit == 0 || slot->load.count() * 2 < own_limit))) {
            unpause(c, Connection::kByMailbox);
        } else {
            next = std::min(next, now + kDrainRetryNs);
        }
    }
    return next;
}

void Network::receive(const Message& message) {
    if (message.kind == MessageKind::work) {
        resolved(message);
    } else if (message.kind == MessageKind::timer && message.session == kSweepTimer) {
        sweep();
    } else if (message.kind == MessageKind::timer && message.session == kAcceptTimer) {
        transport_->post([this] { resume_accepts(); });
    }
}

}  // namespace perilune
