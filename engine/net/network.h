// Network: all connections and listeners of a node.
//
// DESIGN
//   A worker that writes puts the bytes into the connection's queue under its mutex; at the
//   end of the turn everything that the turn wrote leaves, one system call a connection. Other
//   threads and the polling thread send at once. A full socket is left to the polling thread,
//   which hears when it has room. The polling thread alone reads, without the mutex, into one
//   buffer of the node, cuts frames and posts each to the owner. It alone closes descriptors,
//   so no call ever meets one that was reused. Reading pauses while 64 KB of the connection are
//   undelivered or enough waits in the owner's mailbox; cut or not, what has arrived is kept.
//
// Threads:   all functions, any thread, unless they say otherwise.
// Ownership: owns connections, listeners, groups and the transport. Made before the kernel
//            starts, destroyed after it has stopped and before it is destroyed.
// Locks:     their order is in ARCHITECTURE.md.
// Privacy:   TLS or encryption is between the queue of what was written and the socket; what is
//            read is decrypted at once, so that all else sees plain text.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <queue>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/kernel.h"
#include "net/connection.h"
#include "net/id_table.h"
#include "net/listener.h"
#include "net/transport.h"

namespace perilune {

struct TlsOptions;

using GroupId = Id<struct GroupTag>;

struct ConnectOptions {
    std::string host;  // an address or a name
    std::uint16_t port = 0;
    std::int32_t connect_ms = 10'000;  // for the name and all its addresses together
    StreamOptions stream;
    std::shared_ptr<const SecureContext> secure;  // null: plain
};

// What an operator sees. Each is counted once, where it happens.
struct NetworkCounters {
    using Count = std::atomic<std::uint64_t>;
    Count open{0};       // now: accepted and connected ones, until their descriptor is closed
    Count listeners{0};  // now
    Count accepted{0};
    Count connected{0};
    Count connect_failed{0};
    Count refused_full{0};        // over a listener's max_connections
    Count refused_address{0};     // over max_per_address
    Count refused_handshakes{0};  // over max_handshakes or max_handshakes_per_address
    Count handshakes{0};          // now
    Count accept_pauses{0};       // out of descriptors or memory
    Count accept_waits{0};        // the owner's mailbox was half full
    Count bytes_in{0}, bytes_out{0};
    Count frames_in{0}, packets_out{0};
    Count sends{0}, receives{0};  // system calls
    Count read_pauses{0};         // for want of room at the owner
    Count closed{0};              // all; of these, because ...
    Count closed_reset{0}, closed_slow{0}, closed_stalled{0}, closed_idle{0};
    Count closed_malformed{0}, closed_too_large{0}, closed_lost{0};
    Count closed_tls{0}, closed_encryption{0}, closed_handshake{0};
    Count unsent_bytes{0};               // dropped when a connection was broken or aborted
    Count groups{0}, groups_refused{0};  // now; over kMaxGroups

    // Calls visit(name, value) for each.
    template <typename Visit>
    void each(Visit visit) const {
#define PERILUNE_COUNTER(name) visit(#name, name.load())
        PERILUNE_COUNTER(open);
        PERILUNE_COUNTER(listeners);
        PERILUNE_COUNTER(accepted);
        PERILUNE_COUNTER(connected);
        PERILUNE_COUNTER(connect_failed);
        PERILUNE_COUNTER(refused_full);
        PERILUNE_COUNTER(refused_address);
        PERILUNE_COUNTER(refused_handshakes);
        PERILUNE_COUNTER(handshakes);
        PERILUNE_COUNTER(accept_pauses);
        PERILUNE_COUNTER(accept_waits);
        PERILUNE_COUNTER(bytes_in);
        PERILUNE_COUNTER(bytes_out);
        PERILUNE_COUNTER(frames_in);
        PERILUNE_COUNTER(packets_out);
        PERILUNE_COUNTER(sends);
        PERILUNE_COUNTER(receives);
        PERILUNE_COUNTER(read_pauses);
        PERILUNE_COUNTER(closed);
        PERILUNE_COUNTER(closed_reset);
        PERILUNE_COUNTER(closed_slow);
        PERILUNE_COUNTER(closed_stalled);
        PERILUNE_COUNTER(closed_idle);
        PERILUNE_COUNTER(closed_malformed);
        PERILUNE_COUNTER(closed_too_large);
        PERILUNE_COUNTER(closed_lost);
        PERILUNE_COUNTER(closed_tls);
        PERILUNE_COUNTER(closed_encryption);
        PERILUNE_COUNTER(closed_handshake);
        PERILUNE_COUNTER(unsent_bytes);
        PERILUNE_COUNTER(groups);
        PERILUNE_COUNTER(groups_refused);
#undef PERILUNE_COUNTER
    }
};

class Network {
  public:
    // Bytes of one connection that may wait in its owner's mailbox; a message counts its
    // payload and 64.
    static constexpr std::int64_t kMaxUndelivered = 64 * 1024;
    static constexpr std::int64_t kMessageCharge = 64;
    static constexpr std::size_t kReadBuffer = 64 * 1024;  // of one system call
    static constexpr std::size_t kMaxGroups = 16'384;      // of one owner

    Network(Kernel& kernel, std::unique_ptr<Transport> transport);
    ~Network();
    Network(const Network&) = delete;
    Network& operator=(const Network&) = delete;

    // Before the kernel starts. Errors: unavailable.
    Status start();
    // No more connections: listeners close, connections deliver what waits and close with
    // reason stopping. Counters::open falls to 0 within close_ms.
    void begin_stop();

    // --- listeners and connections ---

    // Errors: invalid (host), exists (the port is in use), unavailable.
    Result<ListenerId> listen(Handle owner, const ListenOptions& options);
    Result<Address> listener_address(ListenerId id) const;
    // Where the node listens now, in the order in which it began.
    std::vector<Address> listening() const;
    // Its connections stay. Errors: dead.
    Status close_listener(ListenerId id);
    // Reads its certificate and key again, for connections that come from now on.
    // Errors: dead, invalid (a plain listener; a file can't be used: the old ones stay in use).
    Status reload_certificate(ListenerId id);
    // For connections: one context serves all that want the same, until a file of it changes.
    // Errors: invalid (a file).
    Result<std::shared_ptr<const SecureContext>> client_tls(const TlsOptions& options);

    // `connected` or `failed` follows, to `owner`. What is written meanwhile waits.
    // Errors: invalid (port), overloaded (no room to look the name up), unavailable.
    Result<ConnectionId> connect(Handle owner, const ConnectOptions& options);

    // Sends `body` as one frame, to a WebSocket as one binary message. Errors: dead (closed or
    // unknown), too_large (for the framing), overloaded (too much waits: the connection is
    // closed as slow).
    Status write(ConnectionId id, std::string_view body);
    // Sends one text message. Errors: dead, overloaded, invalid (no WebSocket, or not UTF-8).
    Status write_text(ConnectionId id, std::string_view text);
    // Sends bytes as they are. Errors: dead, overloaded.
    Status write_raw(ConnectionId id, std::string_view bytes);
    // The same frame to each; returns how many took it.
    std::size_t write_many(std::span<const ConnectionId> ids, std::string_view body);
    // Bytes that wait to be sent; 0 for a dead id.
    std::size_t unsent(ConnectionId id);
    // `drained` is posted once nothing waits any more. Errors: dead.
    Status notify_drained(ConnectionId id);

    // Delivers what is queued, at most close_ms long, then closes; `closed` follows.
    // Errors: dead (also when it is closing already).
    Status close(ConnectionId id, CloseReason reason = CloseReason::closed);
    // Closes at once; the peer sees a reset. `closed` follows. Errors: dead.
    Status abort(ConnectionId id);

    // The handshake is done: from now on it carries messages of WebSocket, of at most
    // max_message bytes. It must be a raw connection whose peer sends nothing before it has the
    // answer (a server's), or one of framing head (a client's). What is written raw behind this
    // call, the answer, leaves when messages can be read: the peer's first may follow at once.
    // Errors: dead, invalid (of another framing).
    Status upgrade(ConnectionId id, std::uint32_t max_message);
    // As close(), with a code of RFC 6455 and a reason, UTF-8 of at most 123 bytes, for the
    // peer. Errors: dead, invalid (no WebSocket, the code, the reason).
    Status close_websocket(ConnectionId id, std::uint16_t code, std::string_view reason);

    // From now on `owner` gets the events: `opened` first, then what the former owner has
    // been sent but not seen, then the rest. Reading goes on if it was paused. While it is
    // being handed over a further owner gets it after that, if it is open then.
    // Errors: dead (connection or owner), unavailable (not open yet).
    Status hand_over(ConnectionId id, Handle owner);

    // Reading stops soon (what is being read still comes) and goes on. Errors: dead.
    Status pause(ConnectionId id);
    Status resume(ConnectionId id);
    // The largest frame from now on, in bytes without header. Errors: dead.
    Status set_max_frame(ConnectionId id, std::uint32_t max_frame);
    // 0: no limit. Errors: dead.
    Status set_idle_ms(ConnectionId id, std::int32_t idle_ms);

    // Since it was accepted, or was to connect: a handshake included. Errors: dead.
    Result<std::int64_t> age_ms(ConnectionId id);
    Result<Address> peer(ConnectionId id);
    Result<Address> local(ConnectionId id);
    Result<Handle> owner_of(ConnectionId id);
    Result<FramingKind> framing(ConnectionId id);

    // --- groups: sets of connections that are written to together ---

    // Lives until group_close() or the end of its owner.
    // Errors: too_large (it has kMaxGroups).
    Result<GroupId> group_create(Handle owner);
    Status group_close(GroupId id);
    // Errors: not_found (group), dead (connection). Adding a member again changes nothing.
    Status group_add(GroupId id, ConnectionId member);
    // Errors: not_found (group). False: it was no member.
    Result<bool> group_remove(GroupId id, ConnectionId member);
    Result<std::size_t> group_size(GroupId id);
    // Sends one frame to each member but `except`; it is encoded once. Members that have been
    // closed drop out. Returns how many took it. Errors: not_found, too_large.
    Result<std::size_t> group_write(GroupId id, std::string_view body, ConnectionId except = {});

    // --- what the host calls ---

    // With each message of MessageKind::socket, before the service sees it, on the worker that
    // runs the service. False: it is not for the service, and has been taken.
    bool admit(MessagePtr& message);
    // The service is dead: what it owns is closed, after what was written has been delivered.
    void release_owner(Handle owner);

    const NetworkCounters& counters() const { return counters_; }

  private:
    class Helper;
    struct Group;
    // While it lives this thread hands out the events of a network: what they write leaves at
    // once, since no turn ends after them.
    class PollingScope {
      public:
        explicit PollingScope(const Network* network)
            : before_(std::exchange(polling_network_, network)) {}
        ~PollingScope() { polling_network_ = before_; }
        PollingScope(const PollingScope&) = delete;
        PollingScope& operator=(const PollingScope&) = delete;

      private:
        const Network* const before_;
    };
    struct Deadline {
        std::int64_t due_ns;
        std::uint64_t id;
        bool operator>(const Deadline& other) const { return due_ns > other.due_ns; }
    };
    // A connection found by its id and locked; `connection` is null for a dead id.
    struct Locked {
        Connection* connection = nullptr;
        std::unique_lock<std::mutex> lock;
        explicit operator bool() const { return connection != nullptr; }
        Connection* operator->() const { return connection; }
        Connection& operator*() const { return *connection; }
    };
    enum class Input { dry, stopped, gone };
    enum class Taken { frame, nothing, last, gone };  // last: nothing is to be read after it

    // A frame for many, encoded when the first of each framing wants it.
    struct SharedFrame {
        std::string_view body;
        BufferRef encoded[kFramingKinds];
    };

    static Status dead_connection();
    static Status no_group();
    Locked find(ConnectionId id);
    Locked find_writable(ConnectionId id);            // what write() may be called for
    Locked find_writable_or_broken(ConnectionId id);  // the same, also when the peer has gone
    std::shared_ptr<Group> find_group(GroupId id);
    std::shared_ptr<Listener> find_listener(ListenerId id) const;
    std::vector<std::shared_ptr<Listener>> listeners() const;
    void close_groups(Handle owner);
    void sweep_group(Group& group);
    Status write_shared(ConnectionId id, SharedFrame& frame);

    // Polling thread, no mutex held, except that finish() and end() are given one.
    void on_ready(std::uint64_t token, std::uint32_t ready);
    void on_stream(ConnectionId id, std::uint32_t ready);
    void on_connecting(ConnectionId id, std::uint32_t ready);
    void on_accept(ListenerId id);
    void admit_peer(const std::shared_ptr<Listener>& listener, int descriptor, const Address& peer);
    std::atomic<std::uint64_t>* refusal(Listener& listener, const Address& peer);
    void begin_handshake(Connection& connection);
    void end_handshake(Connection& connection);
    static void count_down(std::unordered_map<Address, std::uint32_t, AddressHash>& per_address,
                           const Address& peer);
    void pause_accept(Listener& listener, std::atomic<std::uint64_t>& counter);
    void resume_accepts();
    void read(Connection& connection);
    Input cut(Connection& connection, std::string_view& input);
    static bool is_below_limit(Registry::Slot& slot);
    static bool has_room(Registry::Slot& slot);
    bool owner_wants_more(Connection& connection);
    bool owner_has_room(Connection& connection);
    void wait_for_room(Connection& connection, Registry::Slot& slot);
    void tell_when_drained(ActorCell* cell);
    void read_waiting(ActorCell* cell);
    Taken take_frame(Connection& connection, std::string_view& input);
    Taken take_message(Connection& connection, std::string_view& input);
    bool post_frame(Connection& connection, SocketEvent event, Frame& frame, std::size_t rest);
    bool post_joined(Connection& connection);
    bool post_data(Connection& connection, MessagePtr& message);
    static MessagePtr data_message(const Connection& connection, SocketEvent event);
    void answer_ping(Connection& connection, std::string_view body);
    void end_messages(Connection& connection, SocketEvent event, std::uint16_t code,
                      std::string_view reason);
    bool announce(Locked connection);
    bool decrypt(Connection& connection, std::string_view& input);
    void secure_failed(Locked connection);
    void secure_ended(Connection& connection);
    void peer_ended(Connection& connection);
    void break_up(Connection& connection, CloseReason reason);
    void finish(Locked connection);
    void end(Locked connection);

    // Tasks for later(): on the polling thread, no mutex held.
    void later(ConnectionId id, void (Network::*task)(ConnectionId));
    void read_again(ConnectionId id);
    void read_broken(ConnectionId id);
    void finish_dead(ConnectionId id);
    void mark_hand_over(ConnectionId id);
    void end_hand_over(ConnectionId id);
    void begin_websocket(ConnectionId id);

    // Under the connection's mutex, any thread.
    Status queued(Connection& connection);
    void flush(Connection& connection);
    bool encrypt(Connection& connection);
    void append_message(Connection& connection, WebSocketOpcode opcode, std::string_view body);
    void end_websocket(Connection& connection, const Message& message, CloseReason reason);
    std::size_t unsent_bytes(Connection& connection);
    void drop_unsent(Connection& connection);
    void append_close_frame(Connection& connection, std::uint16_t code, std::string_view reason);
    void send_failed(Connection& connection);
    void all_sent(Connection& connection);
    void begin_close(Connection& connection, CloseReason reason);
    void kill(Connection& connection, CloseReason reason);
    void begin_connect(Connection& connection, std::string failure);
    void fail_connect(Connection& connection, const std::string& text);
    void start_hand_over(Connection& connection, Handle owner);
    void count_end(Connection& connection);
    void release(Connection& connection);
    void watch(Connection& connection, std::int64_t due_ns);
    void arm_sweep(std::int64_t due_ns);
    std::int64_t check_deadlines(Connection& connection, std::int64_t now_ns);
    void unpause(Connection& connection, std::uint32_t bits);
    PostResult post_event(const Connection& connection, Handle to, SocketEvent event,
                          std::string_view payload);
    void own(Connection& connection, Handle owner);
    void disown(Connection& connection);

    Locked take_connection(const StreamOptions& options, Handle owner);
    void flush_turn();
    bool in_turn() const;
    void on_drained(ActorCell* cell);
    void receive(const Message& message);
    void return_memory();
    void resolved(const Message& message);
    void sweep();
    std::int64_t now_ns() const { return kernel_.clock().now_ns(); }

    // Tokens of the transport: an id, and whether it is a listener's.
    static constexpr std::uint64_t kListenerToken = std::uint64_t{1} << 62;
    // Timers of the helper.
    static constexpr std::uint64_t kSweepTimer = 1;
    static constexpr std::uint64_t kAcceptTimer = 2;
    static constexpr std::uint64_t kMemoryTimer = 3;
    static constexpr std::int64_t kDrainRetryNs = 100 * kNsPerMs;
    static inline thread_local const Network* polling_network_ = nullptr;

    Kernel& kernel_;
    const std::unique_ptr<Transport> transport_;
    NetworkCounters counters_;
    Handle helper_;                        // constant after start
    std::unique_ptr<OwnerTimers> timers_;  // the helper's; constant after start
    std::atomic<bool> stopping_{false};

    IdTable<ConnectionId, Connection> connections_;
    IdTable<ListenerId, Listener> listener_ids_;

    mutable std::mutex listeners_mutex_;
    // In the order in which they began; guarded by listeners_mutex_.
    std::vector<std::shared_ptr<Listener>> listeners_;

    // The polling thread.
    std::unique_ptr<char[]> read_buffer_;
    std::unique_ptr<char[]> plain_buffer_;  // what was read, decrypted; made when it is needed
    MessageJoiner joiner_;                  // frames of the connection that is being cut
    std::vector<ListenerId> paused_listeners_;
    int ended_ = 0;         // connections, since memory was given back to the system
    TimerId memory_timer_;  // for that; none runs: 0
    // Until the owner's mailbox has room again, the one that waits for longest first; never empty.
    // For each either its cell wants_drain, or read_waiting() is about to be called.
    std::unordered_map<ActorCell*, std::deque<ConnectionId>> waiting_;
    ActorCell* served_ = nullptr;  // those that wait for it have their turn

    std::mutex pool_mutex_;
    std::vector<std::unique_ptr<Connection>> all_connections_;  // guarded by pool_mutex_
    std::vector<Connection*> free_connections_;                 // guarded by pool_mutex_

    std::mutex client_tls_mutex_;
    // By all their options and what is in their files; guarded by client_tls_mutex_.
    std::unordered_map<std::string, std::shared_ptr<const SecureContext>> client_tls_;

    std::mutex owners_mutex_;
    std::unordered_map<Handle, Connection*> owned_;  // first of a list; guarded by owners_mutex_

    std::mutex deadlines_mutex_;
    // Guarded by deadlines_mutex_.
    std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;
    std::int64_t armed_ns_ = INT64_MAX;

    std::shared_mutex groups_mutex_;
    std::unordered_map<std::uint64_t, std::shared_ptr<Group>> groups_;  // guarded by groups_mutex_
    std::unordered_map<Handle, std::vector<GroupId>> group_owners_;     // guarded by groups_mutex_
    std::uint64_t next_group_ = 0;                                      // guarded by groups_mutex_
};

}  // namespace perilune
