// SqliteDatabase: one open SQLite database, with a thread of its own.
//
// Purpose:   runs statements in the order of coming, and sends their owner rows and results.
// Threads:   open(), submit() and close(), any; the database itself is used by its thread alone, or
//            by the kernel's blocking pool in a seeded node. done() any.
// Ownership: owns its thread and the library's handle. Destroyed only when it is done().
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/blocking_pool.h"
#include "core/kernel.h"
#include "data/database_event.h"
#include "data/row_batch.h"
#include "data/sql.h"

struct sqlite3;
struct sqlite3_stmt;

namespace perilune {

struct SqliteOptions {
    std::string path;             // a full one, or ":memory:"
    int busy_ms = 5000;           // how long a statement waits for others that hold the file
    bool sync = false;            // a commit waits for the disk
    std::size_t statements = 64;  // prepared ones that are kept
};

struct SqliteRequest {
    std::string sql;
    SqlValues values;
    RowLimits limits;
    bool within = false;  // a transaction, which only then stays open
    std::int64_t deadline_ns = 0;
    std::uint64_t session = 0;  // of who waits
};

struct SqliteCounters {
    std::atomic<std::uint64_t> sqlite_databases{0};  // open now, those being closed among them
    std::atomic<std::uint64_t> sqlite_requests{0};   // statements taken
    std::atomic<std::uint64_t> sqlite_failed{0};     // ... that failed
    std::atomic<std::uint64_t> sqlite_refused{0};    // more databases or requests than may be

    template <typename Visit>
    void each(Visit visit) const {
        visit("sqlite_databases", sqlite_databases.load());
        visit("sqlite_requests", sqlite_requests.load());
        visit("sqlite_failed", sqlite_failed.load());
        visit("sqlite_refused", sqlite_refused.load());
    }
};

class SqliteDatabase {
  public:
    static constexpr std::size_t kMaxWaiting = 256;  // requests; then it is busy

    SqliteDatabase(Kernel& kernel, SqliteCounters& counters, std::uint64_t id, Handle owner,
                   SqliteOptions options);
    ~SqliteDatabase();
    SqliteDatabase(const SqliteDatabase&) = delete;
    SqliteDatabase& operator=(const SqliteDatabase&) = delete;

    // Begins to open it; `session` gets the result. False: there is no thread for it.
    bool open(std::uint64_t session);
    // False when too many requests wait.
    bool submit(SqliteRequest request);
    // Ends what runs, refuses what waits, rolls back, closes; `closed` is called in the end, on
    // the database's thread.
    void close(std::function<void()> closed);
    // Closed, and its thread has ended or does nothing more.
    bool done() const { return done_.load(); }
    // Its thread ends. False when it hasn't at `deadline_ns`.
    bool stop(std::int64_t deadline_ns);

    Handle owner() const { return owner_; }

  private:
    struct Prepared {
        sqlite3_stmt* handle = nullptr;
        std::list<std::string>::iterator recent;  // in recent_
    };

    BlockingPool& pool() { return kernel_.seeded() ? kernel_.blocking() : thread_; }
    SqlResult open_here();
    bool configure();
    SqlResult run(SqliteRequest& request);
    SqlResult run_statement(SqliteRequest& request, sqlite3_stmt* statement);
    SqlResult prepare(const std::string& sql, sqlite3_stmt** statement);
    void give_columns(sqlite3_stmt* statement);
    bool give_row(sqlite3_stmt* statement, RowMeter& meter);
    void finish(std::uint64_t session, const SqlResult& result);
    void refuse(std::uint64_t session);
    void post(DatabaseEvent event, std::uint64_t session, RowWriter& rows);
    void close_here();
    SqlResult failure(int code, bool writes);
    bool must_end();

    static int on_busy(void* self, int times);
    static int on_progress(void* self);
    static int on_action(void* self, int action, const char* first, const char* second,
                         const char* database, const char* trigger);

    Kernel& kernel_;
    SqliteCounters& counters_;
    const std::uint64_t id_;
    const Handle owner_;
    const SqliteOptions options_;
    std::atomic<std::size_t> waiting_{0};
    std::atomic<bool> closing_{false};
    std::atomic<bool> done_{false};

    std::mutex mutex_;
    // Written by its thread under mutex_; others only interrupt it, under mutex_.
    sqlite3* handle_ = nullptr;

    // Its thread alone.
    RowWriter rows_;
    std::int64_t deadline_ns_ = 0;
    std::unordered_map<std::string, Prepared> prepared_;
    std::list<std::string> recent_;  // their texts, the most recent first

    BlockingPool thread_;  // last: it runs what uses all of the above
};

}  // namespace perilune
