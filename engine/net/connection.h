// Connection: one stream of bytes between this node and a peer.
//
// Purpose:   what Network keeps for each: state, framing, what waits to be sent, and why its
//            reading pauses.
// Threads:   three groups of members, below. Whoever writes holds the mutex; the thread that
//            polls reads without it, so a long batch of frames delays no writer. Only the
//            polling thread closes the descriptor, and under the mutex.
// Ownership: connections come from a pool of the Network and are never freed while it lives: a
//            stale pointer meets another id under the mutex.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/ids.h"
#include "net/address.h"
#include "net/framing.h"
#include "net/secure_stream.h"
#include "net/send_queue.h"
#include "net/websocket.h"

namespace perilune {

using ListenerId = Id<struct ListenerTag>;

// What a message of MessageKind::socket says (its `detail`); Message::id is the connection.
enum class SocketEvent : std::uint8_t {
    opened,       // accepted, or handed over to this owner. Payload: the peer's address as text;
                  // `session`: the ListenerId, or 0
    connected,    // connect() succeeded. Payload: the peer's address
    data,         // payload: one frame; of a WebSocket, one binary message
    text,         // payload: one text message of a WebSocket
    closed,       // the last event of an opened or connected one. Payload: the reason
    failed,       // connect() failed; the last event. Payload: why
    ended,        // the peer sends no more; only with half_open, else it is closed then
    drained,      // all that was queued is with the system; after notify_drained()
    peer_closes,  // a WebSocket's close frame. Payload: u16 big-endian code, then its reason
    refused,      // inside the engine: what the peer sent last can't be. Payload: as peer_closes,
                  // with a CloseReason instead of the peer's
    moved,        // inside the engine: everything before a hand-over has been seen
};

const char* socket_event_name(SocketEvent event);

enum class CloseReason : std::uint8_t {
    closed,      // this side called close()
    aborted,     // this side called abort()
    ended,       // the peer closed
    reset,       // the peer or the network broke it
    slow,        // too much waited to be sent
    stalled,     // the peer took nothing for too long
    idle,        // nothing came for idle_ms
    malformed,   // a frame's length is impossible
    too_large,   // a frame is over the limit
    tls,         // TLS was not agreed on, or broken
    encryption,  // encryption was not agreed on, or broken
    handshake,   // either was not agreed on in time
    lost,        // its owner died with messages of it unseen
    stopping,    // the node stops
};

// The reason as Lua and logs spell it.
const char* close_reason_name(CloseReason reason);

// What both kinds of connections have. Times are in milliseconds, 0 turns a limit off.
struct StreamOptions {
    FramingKind framing = FramingKind::raw;
    std::uint32_t max_frame = 64 * 1024;  // the largest frame that is accepted, without header
    std::uint32_t send_bytes = 1 << 20;   // more unsent than this: closed as slow
    std::uint32_t send_packets = 4096;    // the same in packets
    std::int32_t stall_ms = 10'000;       // unsent data and no progress for so long: stalled
    std::int32_t idle_ms = 0;             // nothing received for so long: idle
    std::int32_t close_ms = 5'000;        // how long close() tries to deliver
    bool no_delay = true;                 // small packets leave at once
    bool half_open = false;               // may be written after the peer has ended
    bool paused = false;                  // reads nothing before resume() or hand_over()
    std::int32_t handshake_ms = 10'000;   // for the handshake of an accepted one
};

struct Listener;

struct Connection {
    enum class State : std::uint8_t {
        free,        // in the pool
        resolving,   // its host's name is being looked up
        connecting,  // the system connects
        securing,    // TLS or encryption is being agreed on
        open,        // data flows
        closing,     // what is queued is still sent, what arrives is dropped
        ending,      // everything is sent; the peer's end is awaited
        dead,        // the polling thread will close it
    };
    // Why reading pauses: bits of `pause`.
    static constexpr std::uint32_t kByOwner = 1;        // pause()
    static constexpr std::uint32_t kByUndelivered = 2;  // 64 KB of it wait in the mailbox
    static constexpr std::uint32_t kByMailbox = 4;      // enough waits in the owner's mailbox
    static constexpr std::uint32_t kByHandOver = 8;     // the former owner catches up
    static constexpr std::uint32_t kByHead = 16;        // its head is being answered: upgrade()
    static constexpr std::uint32_t kByLimit = 32;       // of what may wait for a light owner

    // Any thread.
    std::atomic<std::uint32_t> pause{0};
    std::atomic<std::uint32_t> max_frame{0};
    std::atomic<std::int64_t> undelivered{0};  // bytes, with a surcharge for each message
    std::atomic<std::int64_t> last_receive_ns{0};
    std::atomic<bool> discards{false};  // what arrives is dropped
    std::atomic<bool> sending{false};   // a send is under way, or waits for room

    // Guarded by mutex.
    std::mutex mutex;
    ConnectionId id;
    State state = State::free;
    CloseReason reason = CloseReason::closed;
    bool accepted = false;        // else it connected
    bool in_handshake = false;    // accepted, and counted as one by its listener
    bool announced = false;       // opened or connected was posted, so closed must follow
    const void* dirty = nullptr;  // the worker's list of what to flush that it is on
    bool blocked = false;         // the system takes no more: wait for writable
    bool broken = false;          // sending has failed; what came before is still read
    bool peer_ended = false;
    bool wants_drained = false;
    bool half_open = false;
    bool no_delay = true;
    bool handing_over = false;  // the former owner has not met the mark yet
    bool finish_waits = false;  // gone, but `closed` must wait for the hand-over
    Handle owner;
    Handle former_owner;  // while handing_over
    Handle next_owner;    // handed over again meanwhile
    int descriptor = -1;
    SendQueue out;  // what has been written and not been sent or encrypted
    FramingKind framing = FramingKind::raw;
    bool upgrading = false;         // nothing leaves before the polling thread reads messages
    bool close_frame_sent = false;  // of a WebSocket
    std::unique_ptr<SecureStream> secure;  // null: plain. Null or not is constant while it is open
    std::uint32_t send_bytes = 0;
    std::uint32_t send_packets = 0;
    std::int32_t stall_ms = 0;
    std::int32_t idle_ms = 0;
    std::int32_t close_ms = 0;
    std::int64_t began_ns = 0;     // when it was accepted, or was to connect
    std::int64_t progress_ns = 0;  // when something was sent last
    std::int64_t deadline_ns = 0;  // of connecting, the handshake or closing
    std::int64_t watched_ns = 0;   // the entry of the list of deadlines that counts; 0: none
    Address peer;
    ListenerId listener;                              // of an accepted one, for its events
    std::shared_ptr<Listener> listened_by;            // the same
    std::unique_ptr<std::vector<Address>> addresses;  // not tried yet, while connecting

    // The polling thread.
    std::uint64_t polled_id = 0;  // its id while it is read, else 0
    Handle reader;                // whom data is posted to
    bool readable = false;        // the system may have more
    bool ended = false;           // the system has said that the end comes
    FrameDecoder decoder;
    std::unique_ptr<WebSocketDecoder> websocket;  // instead of the decoder, after upgrade()
    SecureStream::Outcome secure_then = SecureStream::Outcome::dry;  // what follows `pending`
    BufferRef pending;  // arrived, not yet cut: the owner had no room
    std::size_t pending_from = 0;

    // Guarded by Network's owners_mutex_.
    ConnectionId owned_id;
    Connection* owner_next = nullptr;
    Connection* owner_previous = nullptr;
};

}  // namespace perilune
