#include "net/network.h"

#include <malloc.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace perilune {

namespace {

constexpr std::int64_t kHandOverCheckNs = kNsPerSecond;

std::string error_text(int error) { return ::strerror(error < 0 ? -error : error); }

}  // namespace

const char* socket_event_name(SocketEvent event) {
    switch (event) {
        case SocketEvent::opened: return "opened";
        case SocketEvent::connected: return "connected";
        case SocketEvent::data: return "data";
        case SocketEvent::text: return "text";
        case SocketEvent::closed: return "closed";
        case SocketEvent::failed: return "failed";
        case SocketEvent::ended: return "ended";
        case SocketEvent::drained: return "drained";
        case SocketEvent::peer_closes: return "peer_closes";
        case SocketEvent::refused: return "refused";
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
        case CloseReason::tls: return "tls";
        case CloseReason::encryption: return "encryption";
        case CloseReason::handshake: return "handshake";
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

Network::Network(Kernel& kernel, std::unique_ptr<Transport> transport)
    : kernel_(kernel),
      transport_(std::move(transport)),
      connections_(kernel.random()),
      listener_ids_(kernel.random()),
      read_buffer_(std::make_unique<char[]>(kReadBuffer)),
      next_group_(1 + (kernel.random().next() >> 24)) {}

Network::~Network() {
    transport_->stop();
    for (const auto& connection : all_connections_) {
        if (connection->descriptor >= 0) transport_->close(connection->descriptor, true);
    }
    for (const auto& listener : listeners_) transport_->close(listener->descriptor, false);
    if (timers_ != nullptr) kernel_.timers().cancel_all(*timers_);
}

Status Network::start() {
    const Status started = transport_->start(
        [this](std::uint64_t token, std::uint32_t ready) { on_ready(token, ready); });
    if (!started.ok()) return started;
    kernel_.add_on_turn_end([this] { flush_turn(); });
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
    for (const auto& listener : listeners()) (void)close_listener(listener->id);
    for (const ConnectionId id : connections_.ids()) (void)close(id, CloseReason::stopping);
}

void Network::on_ready(std::uint64_t token, std::uint32_t ready) {
    const PollingScope polling(this);
    if ((token & kListenerToken) != 0) {
        on_accept(ListenerId{token & ~kListenerToken});
    } else {
        on_stream(ConnectionId{token}, ready);
    }
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
    return polling_network_ == nullptr && kernel_.scheduler().on_worker();
}

void Network::later(ConnectionId id, void (Network::*task)(ConnectionId)) {
    transport_->post([this, id, task] {
        const PollingScope polling(this);
        (this->*task)(id);
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
    c.accepted = c.in_handshake = c.announced = c.blocked = c.broken = false;
    c.dirty = nullptr;
    c.peer_ended = c.wants_drained = c.handing_over = c.finish_waits = false;
    c.upgrading = false;
    c.half_open = options.half_open;
    c.no_delay = options.no_delay;
    c.owner = owner;
    c.former_owner = c.next_owner = {};
    c.send_bytes = options.send_bytes == 0 ? UINT32_MAX : options.send_bytes;
    c.send_packets = options.send_packets == 0 ? UINT32_MAX : options.send_packets;
    c.stall_ms = options.stall_ms;
    c.idle_ms = options.idle_ms;
    c.close_ms = options.close_ms;
    c.began_ns = now_ns();
    c.progress_ns = c.deadline_ns = c.watched_ns = 0;
    c.peer = {};
    c.listener = {};
    c.listened_by.reset();
    c.polled_id = 0;
    c.reader = owner;
    c.readable = c.ended = false;
    c.decoder = FrameDecoder(options.framing);
    c.framing = options.framing;
    c.websocket.reset();
    c.close_frame_sent = false;
    c.secure.reset();
    c.secure_then = SecureStream::Outcome::dry;
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

// ---- connecting ----

// It can be used from now on, and its owner is told. False: the owner is dead, and it is closed.
bool Network::announce(Locked c) {
    c->state = Connection::State::open;
    c->announced = true;
    if (!c->accepted || !c->listened_by->options.until_upgrade) {
        c->deadline_ns = 0;
        end_handshake(*c);
    }
    if (!c->accepted) {
        counters_.connected.fetch_add(1);
        counters_.open.fetch_add(1);
    }
    if (c->idle_ms > 0) watch(*c, now_ns() + c->idle_ms * kNsPerMs);
    const SocketEvent event = c->accepted ? SocketEvent::opened : SocketEvent::connected;
    if (post_event(*c, c->owner, event, c->peer.text()) != PostResult::dead) return true;
    c->reason = CloseReason::lost;
    finish(std::move(c));
    return false;
}

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
    if (options.secure != nullptr) {
        c.secure = options.secure->open(options.host, kernel_.random());
    }
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
    if (c.accepted) return kill(c, CloseReason::handshake);
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
    if (c->no_delay) transport_->set_no_delay(c->descriptor, true);
    c->addresses.reset();
    c->polled_id = id.value;
    c->readable = true;
    // The peer may have sent and closed before this: no further event tells of it.
    if ((ready & (kEnded | kBroken)) != 0) c->ended = true;
    c->last_receive_ns.store(kernel_.clock().coarse_ns());
    Connection& connection = *c;
    if (connection.secure != nullptr) {
        connection.state = Connection::State::securing;
        (void)connection.secure->handshake();  // its first words
        flush(connection);
        c.lock.unlock();
    } else if (!announce(std::move(c))) {
        return;
    } else if (const Locked again = find(id)) {
        flush(*again);
    }
    if (connection.polled_id == id.value) read(connection);
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
    const PostResult told = post_event(c, owner, SocketEvent::opened, c.peer.text());
    // Its end may have come between the call and own(), and then it has released nothing.
    if (told == PostResult::dead) kill(c, CloseReason::lost);
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
    // The former owner's mailbox is none of its concern any more.
    c->pause.fetch_and(~(Connection::kByHandOver | Connection::kByMailbox | Connection::kByLimit));
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
    // Gone meanwhile: `closed` follows, and says all that an end could say.
    if (!c && event == SocketEvent::ended) message.reset();
    if (!c) return message != nullptr;
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
    if (event == SocketEvent::data || event == SocketEvent::text) {
        const std::int64_t charge = static_cast<std::int64_t>(message->size) + kMessageCharge;
        const std::int64_t left = c->undelivered.fetch_sub(charge) - charge;
        if (left <= kMaxUndelivered / 2 && (c->pause.load() & Connection::kByUndelivered) != 0) {
            unpause(*c, Connection::kByUndelivered);
        }
    } else if (event == SocketEvent::peer_closes) {
        end_websocket(*c, *message, CloseReason::ended);
    } else if (event == SocketEvent::refused) {
        end_websocket(*c, *message, static_cast<CloseReason>(message->data()[2]));
        message.reset();
        return false;
    } else if (event == SocketEvent::ended && !c->half_open) {
        if (c->state == Connection::State::open) begin_close(*c, CloseReason::ended);
        message.reset();
        return false;
    }
    return true;
}

// All that the peer has sent before has come to the owner: the peer gets a close frame with the
// code that the message says, and the end.
void Network::end_websocket(Connection& c, const Message& message, CloseReason reason) {
    if (c.state != Connection::State::open) return;
    const auto* bytes = reinterpret_cast<const unsigned char*>(message.data());
    const auto code = static_cast<std::uint16_t>(bytes[0] << 8 | bytes[1]);
    if (!c.close_frame_sent) append_close_frame(c, code, "");
    begin_close(c, reason);
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
        for (const auto& listener : listeners()) {
            if (listener->owner == owner) (void)close_listener(listener->id);
        }
    }
    close_groups(owner);
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

Result<std::int64_t> Network::age_ms(ConnectionId id) {
    const Locked c = find(id);
    if (!c) return dead_connection();
    return (now_ns() - c->began_ns) / kNsPerMs;
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

Result<FramingKind> Network::framing(ConnectionId id) {
    const Locked c = find(id);
    if (!c) return dead_connection();
    return c->framing;
}

// ---- deadlines ----

// Under the mutex: check_deadlines() at `due_ns`, or earlier.
void Network::watch(Connection& c, std::int64_t due_ns) {
    if (c.watched_ns != 0 && c.watched_ns <= due_ns) return;
    c.watched_ns = due_ns;
    const std::lock_guard lock(deadlines_mutex_);
    deadlines_.push({due_ns, c.id.value});
    if (due_ns >= armed_ns_) return;
    arm_sweep(due_ns);
}

// Under deadlines_mutex_. Without a timer the next deadline that is watched asks again.
void Network::arm_sweep(std::int64_t due_ns) {
    armed_ns_ = kernel_.add_timer(*timers_, kSweepTimer, due_ns) ? due_ns : INT64_MAX;
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
        armed_ns_ = INT64_MAX;
        if (!deadlines_.empty()) arm_sweep(deadlines_.top().due_ns);
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
    if (c.deadline_ns != 0 && is_due(c.deadline_ns)) {
        if (c.state < Connection::State::open) {
            fail_connect(c, "timeout");
        } else if (c.state == Connection::State::open) {
            kill(c, CloseReason::handshake);
        } else {
            // What could not be delivered is cut off, and the peer can tell.
            kill(c, unsent_bytes(c) == 0 ? c.reason : CloseReason::stalled);
        }
        return INT64_MAX;
    }
    if (c.blocked && c.stall_ms > 0 && is_due(c.progress_ns + c.stall_ms * kNsPerMs)) {
        kill(c, CloseReason::stalled);
        return INT64_MAX;
    }
    const std::uint32_t pause = c.pause.load();
    if ((pause & Connection::kByLimit) != 0) {
        Registry::Slot* slot = kernel_.registry().find(c.owner);
        if (slot == nullptr || is_below_limit(*slot)) {
            unpause(c, Connection::kByLimit);
        } else {
            next = std::min(next, now + kDrainRetryNs);
        }
    }
    if (c.state != Connection::State::open) return next;
    if (c.idle_ms > 0 && pause == 0 && is_due(c.last_receive_ns.load() + c.idle_ms * kNsPerMs)) {
        begin_close(c, CloseReason::idle);
        return next;
    }
    if (c.idle_ms > 0 && pause != 0) next = std::min(next, now + c.idle_ms * kNsPerMs);
    return next;
}

void Network::receive(const Message& message) {
    if (message.kind == MessageKind::work) {
        resolved(message);
    } else if (message.kind == MessageKind::timer && message.session == kSweepTimer) {
        sweep();
    } else if (message.kind == MessageKind::timer && message.session == kAcceptTimer) {
        transport_->post([this] { resume_accepts(); });
    } else if (message.kind == MessageKind::timer && message.session == kMemoryTimer) {
        return_memory();
    }
}

// What many connections had, of TLS above all, lies scattered in the heap when they have gone, and
// the C library keeps it. Finding it takes milliseconds.
void Network::return_memory() {
    transport_->post([this] {
        ended_ = 0;
        memory_timer_ = {};
    });
    const auto trim = [](Message&) { (void)::malloc_trim(0); };
    // A pool that is busy: with the next ones that end.
    (void)kernel_.run_blocking(trim, make_message(MessageKind::work, helper_, {}, 0));
}

}  // namespace perilune
