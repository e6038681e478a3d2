// Network: sending and ending.

#include <algorithm>
#include <cerrno>

#include "net/network.h"

namespace perilune {

namespace {

constexpr int kManyEnded = 100;  // connections whose memory is worth giving back
constexpr std::int64_t kReturnMemoryNs = 20 * kNsPerSecond;
constexpr int kPieces = 64;                       // of one system call
constexpr std::size_t kEarlyFlush = 64 * 1024;    // unsent bytes that don't wait for the turn's end
constexpr std::size_t kCopyLimit = 512;           // shared frames up to this size are copied
constexpr std::size_t kEncryptAhead = 64 * 1024;  // encrypted bytes that wait for the socket
constexpr std::size_t kMaxCloseReason = 123;      // RFC 6455: a close frame has 125 bytes

// What the running turn of this worker has written to and not sent. The worker may run turns
// of several nodes (in tests), so each entry names its network.
struct Unflushed {
    const Network* network;
    Connection* connection;
    ConnectionId id;
};
thread_local std::vector<Unflushed> unflushed;

// Loses data that the peer might still expect, so the peer is told by a reset.
bool needs_reset(CloseReason reason) {
    return reason == CloseReason::aborted || reason == CloseReason::slow ||
           reason == CloseReason::stalled || reason == CloseReason::lost ||
           reason == CloseReason::malformed || reason == CloseReason::too_large;
}

// What the close frame of a WebSocket says when this side ends it.
std::uint16_t websocket_code(CloseReason reason) {
    switch (reason) {
        case CloseReason::stopping:
        case CloseReason::idle: return WebSocketCode::kGoingAway;
        case CloseReason::malformed: return WebSocketCode::kProtocolError;
        case CloseReason::too_large: return WebSocketCode::kTooLarge;
        default: return WebSocketCode::kNormal;
    }
}

}  // namespace

Status Network::write(ConnectionId id, std::string_view body) {
    const Locked c = find_writable(id);
    if (!c) return dead_connection();
    const FramingKind framing = c->framing;
    if (framing == FramingKind::websocket) {
        append_message(*c, WebSocketOpcode::binary, body);
        return queued(*c);
    }
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

Status Network::write_text(ConnectionId id, std::string_view text) {
    const Locked c = find_writable(id);
    if (!c) return dead_connection();
    if (c->framing != FramingKind::websocket) {
        return Status::error(StatusCode::invalid, "only a WebSocket has texts");
    }
    if (!is_utf8(text)) return Status::error(StatusCode::invalid, "the text is not UTF-8");
    append_message(*c, WebSocketOpcode::text, text);
    return queued(*c);
}

// A client's frames are masked, each with numbers of its own.
void Network::append_message(Connection& c, WebSocketOpcode opcode, std::string_view body) {
    char header[kMaxWebSocketHeader];
    if (c.accepted) {
        const std::size_t size = write_websocket_header(opcode, body.size(), nullptr, header);
        c.out.append({header, size}, true);
        c.out.append(body);
        return;
    }
    char mask[4];
    kernel_.random().fill(mask, sizeof mask);
    const std::size_t size = write_websocket_header(opcode, body.size(), mask, header);
    std::string masked(body);
    mask_websocket(masked.data(), masked.size(), mask);
    c.out.append({header, size}, true);
    c.out.append(masked);
}

void Network::append_close_frame(Connection& c, std::uint16_t code, std::string_view reason) {
    std::string body;
    if (code != WebSocketCode::kNone) {
        body = {static_cast<char>(code >> 8), static_cast<char>(code & 0xff)};
        body += reason;
    }
    append_message(c, WebSocketOpcode::close, body);
    c.close_frame_sent = true;
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
    const bool is_websocket = c->framing == FramingKind::websocket;
    if (is_websocket && !c->accepted) {
        append_message(*c, WebSocketOpcode::binary, frame.body);
        return queued(*c);
    }
    BufferRef& encoded = frame.encoded[static_cast<std::size_t>(c->framing)];
    if (!encoded && is_websocket) {
        encoded = encode_websocket(WebSocketOpcode::binary, frame.body);
    } else if (!encoded) {
        if (const Status size = check_frame_size(c->framing, frame.body.size()); !size.ok()) {
            return size;
        }
        encoded = encode_frame(c->framing, frame.body);
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
    if (c.blocked || c.upgrading || c.state < Connection::State::securing ||
        c.state > Connection::State::closing) {
        return;
    }
    if (c.secure == nullptr && c.state == Connection::State::securing) return;
    SendQueue& out = c.secure == nullptr ? c.out : c.secure->out();
    for (;;) {
        if (c.secure != nullptr && !encrypt(c)) return send_failed(c);
        if (out.empty()) break;
        iovec pieces[kPieces];
        const int count = out.gather(pieces, kPieces);
        std::size_t offered = 0;
        for (int i = 0; i < count; ++i) offered += pieces[i].iov_len;
        c.sending.store(true);
        const ssize_t sent = transport_->send(c.descriptor, pieces, count);
        counters_.sends.fetch_add(1, std::memory_order_relaxed);
        if (sent < 0 && sent != -EAGAIN) return send_failed(c);
        if (sent > 0) {
            out.consume(static_cast<std::size_t>(sent));
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
    if (c.state == Connection::State::securing) return;
    if (std::exchange(c.wants_drained, false)) {
        (void)post_event(c, c.owner, SocketEvent::drained, {});
    }
    if (c.state == Connection::State::closing) all_sent(c);
}

// Encrypts what was written, as far as the socket may take it soon. False: it has failed.
bool Network::encrypt(Connection& c) {
    SecureStream& secure = *c.secure;
    if (!secure.established()) return true;
    while (!c.out.empty() && secure.out().bytes() < kEncryptAhead) {
        iovec pieces[kPieces];
        const int count = c.out.gather(pieces, 1);
        for (int i = 0; i < count; ++i) {
            if (!secure.write({static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len})) {
                return false;
            }
            c.out.consume(pieces[i].iov_len);
        }
    }
    if (c.out.empty() && c.state == Connection::State::closing) secure.shut_down();
    return true;
}

// The peer takes nothing any more. What it has sent before is still read.
void Network::send_failed(Connection& c) {
    drop_unsent(c);
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
    return c ? unsent_bytes(*c) : 0;
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

Status Network::close_websocket(ConnectionId id, std::uint16_t code, std::string_view reason) {
    const Locked c = find_writable_or_broken(id);
    if (!c || c->state != Connection::State::open) return dead_connection();
    if (c->framing != FramingKind::websocket) {
        return Status::error(StatusCode::invalid, "the connection is no WebSocket");
    }
    if (!WebSocketCode::may_be_sent(code)) {
        return Status::error(StatusCode::invalid,
                             "%d is no code of a close frame: 1000 to 1014 or 3000 to 4999", code);
    }
    if (reason.size() > kMaxCloseReason || !is_utf8(reason)) {
        return Status::error(StatusCode::invalid, "a reason is UTF-8 of at most %zu bytes",
                             kMaxCloseReason);
    }
    if (!c->close_frame_sent) append_close_frame(*c, code, reason);
    begin_close(*c, CloseReason::closed);
    return {};
}

void Network::begin_close(Connection& c, CloseReason reason) {
    c.reason = reason;
    if (c.broken) return kill(c, CloseReason::reset);
    if (c.framing == FramingKind::websocket && !c.close_frame_sent) {
        append_close_frame(c, websocket_code(reason), "");
    }
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
    drop_unsent(c);
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
    const bool truncated = unsent_bytes(*c) != 0;
    drop_unsent(*c);
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
    c->websocket.reset();
    c->secure.reset();
    if (c->accepted || c->announced) count_end(*c);
    if (c->handing_over) {
        c->finish_waits = true;
        return;
    }
    end(std::move(c));
}

std::size_t Network::unsent_bytes(Connection& c) {
    return c.out.bytes() + (c.secure == nullptr ? 0 : c.secure->out().bytes());
}

void Network::drop_unsent(Connection& c) {
    counters_.unsent_bytes.fetch_add(unsent_bytes(c));
    c.out.clear();
    if (c.secure != nullptr) c.secure->out().clear();
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
    if (++ended_ >= kManyEnded && !memory_timer_) {
        memory_timer_ = kernel_.add_timer(*timers_, kMemoryTimer, now_ns() + kReturnMemoryNs);
    }
    switch (c.reason) {
        case CloseReason::reset: counters_.closed_reset.fetch_add(1); break;
        case CloseReason::slow: counters_.closed_slow.fetch_add(1); break;
        case CloseReason::stalled: counters_.closed_stalled.fetch_add(1); break;
        case CloseReason::idle: counters_.closed_idle.fetch_add(1); break;
        case CloseReason::malformed: counters_.closed_malformed.fetch_add(1); break;
        case CloseReason::too_large: counters_.closed_too_large.fetch_add(1); break;
        case CloseReason::tls: counters_.closed_tls.fetch_add(1); break;
        case CloseReason::encryption: counters_.closed_encryption.fetch_add(1); break;
        case CloseReason::handshake: counters_.closed_handshake.fetch_add(1); break;
        case CloseReason::lost: counters_.closed_lost.fetch_add(1); break;
        default: break;
    }
    Listener* listener = c.listened_by.get();
    if (listener == nullptr) return;
    end_handshake(c);
    --listener->open;
    if (listener->options.max_per_address != 0) count_down(listener->per_address, c.peer);
}

}  // namespace perilune
