// Mysql: connections of a node's services to MySQL and MariaDB servers.
//
// Purpose:   makes them, and tells their owners when what they wait for has come.
// Threads:   start() and stop(), the node's. connect(), close() and release_owner(): the worker
// that
//            runs the owner, as what is done with a connection. counters(): any.
// Ownership: owns the connections. Destroyed after the kernel has stopped.
//
// DESIGN
//   Making a connection blocks in the library: it looks a name up and does the TLS handshake on a
//   blocking socket. So that is done on a few threads of our own, which nothing else waits for.
//   From then on a connection is used by its owner's worker alone: an operation goes as far as it
//   can there, rows go from the socket into the owner's memory. Where it has to wait the polling
//   thread, which watches the socket but never reads it, posts a message to the owner.
//   A server goes on with a statement whose client has gone, and keeps the locks of its
//   transaction. So one that is closed in the middle of a statement is ended there, too: by KILL on
//   a connection that another thread makes for it. Between us and the server may be others, for
//   whom the number of the connection is another one: it is ended only if its other end has the
//   port of ours.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/blocking_pool.h"
#include "core/kernel.h"
#include "core/poller_set.h"
#include "data/database_event.h"
#include "data/mysql_options.h"

namespace perilune {

class MysqlAttempt;
class MysqlConnection;
struct MysqlSession;

struct MysqlCounters {
    std::atomic<std::uint64_t> mysql_connections{0};     // now, those being made among them
    std::atomic<std::uint64_t> mysql_connected{0};       // since the start
    std::atomic<std::uint64_t> mysql_connect_failed{0};  // attempts
    std::atomic<std::uint64_t> mysql_refused{0};         // over kMaxConnections, or the queue's
    std::atomic<std::uint64_t> mysql_operations{0};      // statements begun
    std::atomic<std::uint64_t> mysql_failed{0};          // ... that failed
    std::atomic<std::uint64_t> mysql_lost{0};            // connections that faults have ended
    std::atomic<std::uint64_t> mysql_malformed{0};       // ... or what no server sends
    std::atomic<std::uint64_t> mysql_closed_busy{0};     // closed in the middle of a statement
    std::atomic<std::uint64_t> mysql_stopped{0};         // ... that the server was made to end
    std::atomic<std::uint64_t> mysql_stop_failed{0};     // ... that it could not be asked to

    template <typename Visit>
    void each(Visit visit) const {
        visit("mysql_connections", mysql_connections.load());
        visit("mysql_connected", mysql_connected.load());
        visit("mysql_connect_failed", mysql_connect_failed.load());
        visit("mysql_refused", mysql_refused.load());
        visit("mysql_operations", mysql_operations.load());
        visit("mysql_failed", mysql_failed.load());
        visit("mysql_lost", mysql_lost.load());
        visit("mysql_malformed", mysql_malformed.load());
        visit("mysql_closed_busy", mysql_closed_busy.load());
        visit("mysql_stopped", mysql_stopped.load());
        visit("mysql_stop_failed", mysql_stop_failed.load());
    }
};

class Mysql {
  public:
    static constexpr std::size_t kMaxConnections = 1000;
    static constexpr std::size_t kConnectThreads = 4;
    // Statements that are to be ended on their servers: how many wait, for how long, and how long
    // one may take.
    static constexpr std::size_t kMaxStops = 256;
    static constexpr std::int64_t kStopWaitNs = 10 * kNsPerSecond;
    static constexpr int kStopMs = 5000;

    explicit Mysql(Kernel& kernel);
    ~Mysql();
    Mysql(const Mysql&) = delete;
    Mysql& operator=(const Mysql&) = delete;

    // Before the kernel starts. Errors: unavailable.
    Status start();
    // No thread of its own runs any more. False when one still does at `deadline_ns`; then it
    // may be called again.
    bool stop(std::int64_t deadline_ns);

    // An id for a connection, never used again.
    std::uint64_t reserve();
    // Begins to connect under an id that was reserved. The owner is told mysql_connected or
    // mysql_failed. Errors: unsupported (a seeded node), unavailable (it stops), overloaded.
    Status connect(std::uint64_t id, Handle owner, const MysqlOptions& options,
                   std::uint64_t session);

    enum class State : std::uint8_t {
        none,  // the owner has no such connection, or it is being made, or it was lost
        idle,
        busy,  // with a statement
    };
    State state(std::uint64_t id, Handle owner);
    // Whether the server has closed it while it was idle.
    bool ended(std::uint64_t id);

    // Begins a statement on a connection that is idle.
    void begin(std::uint64_t id, const MysqlStatement& statement);
    // Goes on with it. True when it is done; else the owner is told mysql_ready when there is
    // more to do.
    bool proceed(std::uint64_t id, RowSink& sink);
    // What its sink was told can't be kept: ends the statement, and the connection.
    void refuse_rows(std::uint64_t id, std::string why);
    // How the last statement ended.
    const SqlResult& result(std::uint64_t id);
    // Who waits for the operation of a connection; 0: nobody.
    void set_session(std::uint64_t id, std::uint64_t session);
    std::uint64_t session_of(std::uint64_t id);

    // Also one that is being made. Nothing happens when it isn't the owner's.
    void close(std::uint64_t id, Handle owner);
    void release_owner(Handle owner);

    const MysqlCounters& counters() const { return counters_; }

  private:
    struct Entry {
        Handle owner;
        std::uint64_t session = 0;
        std::shared_ptr<MysqlAttempt> attempt;  // while it is being made
        std::unique_ptr<MysqlConnection> connection;
        std::shared_ptr<const MysqlOptions> options;
        bool busy = false;         // it has an operation
        std::uint32_t wanted = 0;  // what that waits for
        std::uint32_t ready = 0;   // what has come and nobody has waited for yet
        bool ended = false;
    };

    using Options = std::shared_ptr<const MysqlOptions>;

    void make(std::uint64_t id, const Options& options, MysqlAttempt& attempt);
    void give_up(std::uint64_t id, const SqlResult& why);
    void on_ready(std::uint64_t id, std::uint32_t events);
    std::uint32_t wait_for(std::uint64_t id, std::uint32_t wanted);
    MysqlConnection& connection(std::uint64_t id);
    void end_operation(std::uint64_t id);
    void stop_statement(const MysqlSession& session, Options options);
    void tell(DatabaseEvent event, std::uint64_t id, Handle owner, std::uint64_t session,
              const SqlResult* result = nullptr);

    Kernel& kernel_;
    MysqlCounters counters_;
    BlockingPool connecting_;
    BlockingPool stops_;
    PollerSet set_;

    std::mutex mutex_;
    // Guarded by mutex_. A connection itself is its owner's.
    std::unordered_map<std::uint64_t, Entry> entries_;
    std::uint64_t next_id_ = 1;
    std::shared_ptr<MysqlAttempt> stop_attempt_;  // of the thread that ends statements
    bool stopping_ = false;
};

}  // namespace perilune
