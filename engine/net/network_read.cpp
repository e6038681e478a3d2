// Network: reading, all of it on the polling thread.

#include "net/network.h"

namespace perilune {

namespace {

constexpr std::size_t kPlainBuffer = Network::kReadBuffer + SecureStream::kReadAhead;
constexpr int kReadRounds = 8;     // full buffers of one connection before others get a turn
constexpr int kFramesACheck = 16;  // frames between two looks at the owner's mailbox
constexpr int kReadsADrain = 64;   // connections that waited for room before others get a turn

}  // namespace

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
            if (!owner_wants_more(c)) return;
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
        if (c.secure_then != SecureStream::Outcome::dry && !discards) {
            secure_ended(c);
            continue;
        }
        if (!c.readable) return;
        if (round >= kReadRounds) return later(ConnectionId{id}, &Network::read_again);
        if (!discards && !owner_wants_more(c)) return;
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
        if (c.secure != nullptr && !decrypt(c, input)) return;
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
        const Taken taken = c.websocket == nullptr ? take_frame(c, input) : take_message(c, input);
        if (taken == Taken::frame) {
            ++frames;
            continue;
        }
        if (taken == Taken::gone) outcome = Input::gone;
        if (taken == Taken::last) outcome = Input::stopped;
        break;
    }
    counters_.frames_in.fetch_add(frames, std::memory_order_relaxed);
    if (outcome != Input::gone && !post_joined(c)) outcome = Input::gone;
    joiner_.take();
    if (outcome == Input::stopped) counters_.read_pauses.fetch_add(1, std::memory_order_relaxed);
    return outcome;
}

// The next frame of `input` goes to the owner.
Network::Taken Network::take_frame(Connection& c, std::string_view& input) {
    Frame frame;
    switch (c.decoder.next(input, c.max_frame.load(), frame)) {
        case FrameDecoder::Outcome::more: return Taken::nothing;
        case FrameDecoder::Outcome::malformed:
            if (post_joined(c)) break_up(c, CloseReason::malformed);
            break;
        case FrameDecoder::Outcome::too_large:
            if (post_joined(c)) break_up(c, CloseReason::too_large);
            break;
        case FrameDecoder::Outcome::frame:
            if (!post_frame(c, SocketEvent::data, frame, input.size())) break;
            if (c.decoder.kind() != FramingKind::head) return Taken::frame;
            c.pause.fetch_or(Connection::kByHead);
            return Taken::last;
    }
    return Taken::gone;
}

// The same of a WebSocket; what is between its ends alone is answered here.
Network::Taken Network::take_message(Connection& c, std::string_view& input) {
    using Found = WebSocketDecoder::Outcome;
    Frame frame;
    const Found outcome = c.websocket->next(input, c.max_frame.load(), frame);
    switch (outcome) {
        case Found::more: return Taken::nothing;
        case Found::binary:
        case Found::text:
            return post_frame(c, outcome == Found::text ? SocketEvent::text : SocketEvent::data,
                              frame, input.size())
                       ? Taken::frame
                       : Taken::gone;
        case Found::pong: return Taken::frame;
        case Found::ping: answer_ping(c, frame.bytes); return Taken::frame;
        case Found::close:
            end_messages(c, SocketEvent::peer_closes, c.websocket->close_code(), frame.bytes);
            return Taken::nothing;
        default: break;
    }
    const char reason = static_cast<char>(outcome == Found::too_large ? CloseReason::too_large
                                                                      : CloseReason::malformed);
    const std::uint16_t code = outcome == Found::too_large   ? WebSocketCode::kTooLarge
                               : outcome == Found::malformed ? WebSocketCode::kProtocolError
                                                             : WebSocketCode::kInvalidText;
    end_messages(c, SocketEvent::refused, code, {&reason, 1});
    return Taken::nothing;
}

void Network::answer_ping(Connection& c, std::string_view body) {
    const Locked locked = find(ConnectionId{c.polled_id});
    if (!locked || locked->state != Connection::State::open || c.broken) return;
    append_message(c, WebSocketOpcode::pong, body);
    (void)queued(c);
}

// Small frames are joined and posted together, at the latest when the cutting ends, by
// post_joined(); `rest` bytes may still be cut. False: the owner takes nothing more, and the
// connection is broken up.
bool Network::post_frame(Connection& c, SocketEvent event, Frame& frame, std::size_t rest) {
    c.undelivered.fetch_add(static_cast<std::int64_t>(frame.bytes.size()) + kMessageCharge);
    const bool small = frame.bytes.size() <= Message::kInlineSize;
    const Message* joined = joiner_.message();
    const bool fits = small && !joiner_.full() &&
                      (joined == nullptr || joined->detail == static_cast<std::uint8_t>(event));
    if (!fits && !post_joined(c)) return false;
    if (small) {
        if (joiner_.message() == nullptr) joiner_.begin(data_message(c, event));
        joiner_.add(frame.bytes, rest);
        return true;
    }
    MessagePtr message = data_message(c, event);
    if (frame.buffer) {
        message->set_payload(std::move(frame.buffer));
    } else {
        message->set_payload(frame.bytes);
    }
    return post_data(c, message);
}

MessagePtr Network::data_message(const Connection& c, SocketEvent event) {
    MessagePtr message = make_message(MessageKind::socket, c.reader, {}, c.listener.value);
    message->id = c.polled_id;
    message->detail = static_cast<std::uint8_t>(event);
    return message;
}

// The same of what has been joined.
bool Network::post_joined(Connection& c) {
    MessagePtr message = joiner_.take();
    return message == nullptr || post_data(c, message);
}

bool Network::post_data(Connection& c, MessagePtr& message) {
    if (kernel_.post(message) == PostResult::ok) return true;
    break_up(c, CloseReason::lost);
    return false;
}

// Nothing that the peer sends from now on is looked at. Its close frame, or this side's, is
// answered or sent behind all that came before, so that the answers to that can be written.
void Network::end_messages(Connection& c, SocketEvent event, std::uint16_t code,
                           std::string_view reason) {
    if (!post_joined(c)) return;
    c.discards.store(true);
    std::string payload{static_cast<char>(code >> 8), static_cast<char>(code & 0xff)};
    payload += reason;
    const Locked locked = find(ConnectionId{c.polled_id});
    if (!locked || locked->state != Connection::State::open) return;
    if (post_event(c, c.reader, event, payload) == PostResult::dead) kill(c, CloseReason::lost);
}

// `input` becomes plain text. False: the connection has gone, or nothing can be done now.
bool Network::decrypt(Connection& c, std::string_view& input) {
    if (plain_buffer_ == nullptr) plain_buffer_ = std::make_unique<char[]>(kPlainBuffer);
    Locked locked = find(ConnectionId{c.polled_id});
    if (!locked) return false;
    SecureStream& secure = *c.secure;
    secure.feed(std::exchange(input, {}));
    if (!secure.established()) {
        const SecureStream::Outcome outcome = secure.handshake();
        flush(c);
        if (outcome == SecureStream::Outcome::dry) return true;
        if (outcome != SecureStream::Outcome::ok) {
            secure_failed(std::move(locked));
            return false;
        }
        if (!announce(std::move(locked))) return false;
        locked = find(ConnectionId{c.polled_id});
        if (!locked) return false;
    }
    const SecureStream::Plain plain = secure.read(plain_buffer_.get(), kPlainBuffer);
    input = {plain_buffer_.get(), plain.count};
    c.secure_then = plain.then;
    flush(c);
    return true;
}

// Polling thread: no agreement, or a broken record.
void Network::secure_failed(Locked c) {
    const CloseReason reason =
        c->secure->kind() == SecureKind::tls ? CloseReason::tls : CloseReason::encryption;
    if (!c->accepted && c->state == Connection::State::securing) {
        return fail_connect(*c, close_reason_name(reason) + (": " + c->secure->error()));
    }
    c->reason = reason;
    finish(std::move(c));
}

// Polling thread: all that was decrypted has been taken, and no more will come.
void Network::secure_ended(Connection& c) {
    const SecureStream::Outcome outcome = std::exchange(c.secure_then, SecureStream::Outcome::dry);
    if (outcome == SecureStream::Outcome::ended) return peer_ended(c);
    if (Locked locked = find(ConnectionId{c.polled_id})) secure_failed(std::move(locked));
}

Status Network::upgrade(ConnectionId id, std::uint32_t max_message) {
    const Locked c = find_writable(id);
    if (!c || c->state != Connection::State::open) return dead_connection();
    if (c->framing != FramingKind::raw && c->framing != FramingKind::head) {
        return Status::error(StatusCode::invalid, "only a raw connection becomes a WebSocket");
    }
    c->framing = FramingKind::websocket;
    c->upgrading = true;
    c->max_frame.store(max_message);
    c->deadline_ns = 0;
    later(id, &Network::begin_websocket);
    return {};
}

void Network::begin_websocket(ConnectionId id) {
    Connection* c = connections_.find(id);
    if (c == nullptr || c->polled_id != id.value) return;
    c->websocket = std::make_unique<WebSocketDecoder>(c->accepted ? WebSocketRole::server
                                                                  : WebSocketRole::client);
    c->decoder = FrameDecoder(FramingKind::websocket);
    if (const Locked locked = find(id)) end_handshake(*locked);
    c->pause.fetch_and(~Connection::kByHead);
    if (const Locked locked = find(id)) {
        c->upgrading = false;
        flush(*c);
    }
    read(*c);
}

// Whether less than half of what a service may have waiting is used. A light one has a limit of
// its own besides its VM's.
bool Network::is_below_limit(Registry::Slot& slot) {
    const std::uint32_t own_limit = slot.max_messages.load(std::memory_order_relaxed);
    return own_limit == 0 || slot.load.count() * 2 < own_limit;
}

bool Network::has_room(Registry::Slot& slot) {
    return !slot.cell.load()->mailbox.half_full() && is_below_limit(slot);
}

// Whether something more may come to the owner now. If not, the connection waits for its turn,
// or has been broken up because its owner is dead.
bool Network::owner_wants_more(Connection& c) {
    Registry::Slot* slot = kernel_.registry().find(c.reader);
    if (slot == nullptr) {
        break_up(c, CloseReason::lost);
        return false;
    }
    ActorCell* cell = slot->cell.load();
    const bool is_its_turn = cell == served_ || !waiting_.contains(cell);
    if (is_its_turn && !cell->mailbox.has_enough() && has_room(*slot)) return true;
    counters_.read_pauses.fetch_add(1, std::memory_order_relaxed);
    wait_for_room(c, *slot);
    return false;
}

// The same in the middle of what has been read.
bool Network::owner_has_room(Connection& c) {
    Registry::Slot* slot = kernel_.registry().find(c.reader);
    if (slot == nullptr) {
        break_up(c, CloseReason::lost);
        return false;
    }
    if (has_room(*slot)) return true;
    wait_for_room(c, *slot);
    return false;
}

void Network::wait_for_room(Connection& c, Registry::Slot& slot) {
    if (!is_below_limit(slot)) {
        // Of a light service's own limit nobody tells.
        c.pause.fetch_or(Connection::kByLimit);
        if (Locked locked = find(ConnectionId{c.polled_id})) {
            watch(*locked, now_ns() + kDrainRetryNs);
        }
        return;
    }
    ActorCell* cell = slot.cell.load();
    c.pause.fetch_or(Connection::kByMailbox);
    std::deque<ConnectionId>& those = waiting_[cell];
    those.push_back(ConnectionId{c.polled_id});
    if (those.size() == 1 && cell != served_) tell_when_drained(cell);
}

// For a mailbox that connections wait for: on_drained() is called once there is room, which may
// be so already. Until it has led to read_waiting() nobody needs to ask again.
void Network::tell_when_drained(ActorCell* cell) {
    cell->wants_drain.store(true);
    if (cell->mailbox.has_drained() && cell->wants_drain.exchange(false)) on_drained(cell);
}

void Network::on_drained(ActorCell* cell) {
    transport_->post([this, cell] {
        const PollingScope polling(this);
        read_waiting(cell);
    });
}

// Those that wait for room in a mailbox are read one after the other, for as long as there is
// some: what all of them have may be many times what fits.
void Network::read_waiting(ActorCell* cell) {
    for (int count = 0; count < kReadsADrain; ++count) {
        const auto found = waiting_.find(cell);
        if (found == waiting_.end()) return;
        if (cell->mailbox.has_enough()) return tell_when_drained(cell);
        const ConnectionId id = found->second.front();
        found->second.pop_front();
        if (found->second.empty()) waiting_.erase(found);
        Connection* c = connections_.find(id);
        if (c == nullptr || c->polled_id != id.value) continue;
        const std::uint32_t before = c->pause.fetch_and(~Connection::kByMailbox);
        if (before != Connection::kByMailbox) continue;
        served_ = cell;
        read(*c);
        served_ = nullptr;
    }
    if (waiting_.contains(cell)) on_drained(cell);
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
    if (c->state == Connection::State::securing) {
        if (!c->accepted) return fail_connect(*c, "closed during the handshake");
        c->reason = CloseReason::ended;
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

}  // namespace perilune
