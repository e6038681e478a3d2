// Sqlite: SQLite databases of a node's services.
//
// Purpose:   opens them below the data folder, and closes them with their owners.
// Threads:   stop(), the node's; all else any.
// Ownership: owns the databases. Destroyed after the kernel has stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "data/sqlite_database.h"

namespace perilune {

class Sqlite {
  public:
    static constexpr std::size_t kMaxDatabases = 64;  // each is a thread

    Sqlite(Kernel& kernel, std::string data_folder);
    ~Sqlite();
    Sqlite(const Sqlite&) = delete;
    Sqlite& operator=(const Sqlite&) = delete;

    // Begins to open a database; returns its id. The owner is told sqlite_done. `path`: below the
    // data folder, or ":memory:"; options.path is set by it. Errors: invalid (the path),
    // overloaded, unavailable (no thread; it stops).
    Result<std::uint64_t> open(Handle owner, std::string_view path, SqliteOptions options,
                               std::uint64_t session);
    // The owner is told sqlite_rows and sqlite_done. Errors: dead, overloaded ("busy").
    Status submit(std::uint64_t id, Handle owner, SqliteRequest request);
    void close(std::uint64_t id, Handle owner);
    void release_owner(Handle owner);

    // All are closed and no thread runs any more. False when one still does at `deadline_ns`;
    // then it may be called again.
    bool stop(std::int64_t deadline_ns);

    const SqliteCounters& counters() const { return counters_; }

  private:
    using Databases = std::unordered_map<std::uint64_t, std::unique_ptr<SqliteDatabase>>;

    Result<std::string> resolve(std::string_view path) const;
    void begin_close(std::uint64_t id, std::unique_ptr<SqliteDatabase> database);
    void reap();

    Kernel& kernel_;
    const std::string data_folder_;
    SqliteCounters counters_;

    std::mutex mutex_;
    // Guarded by mutex_.
    Databases open_;
    Databases closing_;
    std::uint64_t next_id_ = 1;
    bool stopping_ = false;
};

}  // namespace perilune
