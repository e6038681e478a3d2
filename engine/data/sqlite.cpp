#include "data/sqlite.h"

#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "core/data_path.h"

namespace perilune {

namespace {

void count(std::atomic<std::uint64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

Status stopping() { return Status::error(StatusCode::unavailable, "the node is stopping"); }

}  // namespace

Sqlite::Sqlite(Kernel& kernel, std::string data_folder)
    : kernel_(kernel), data_folder_(std::move(data_folder)) {}

Sqlite::~Sqlite() { (void)stop(kNoDeadline); }

// The full path, without symbolic links above the data folder: SQLite is told to follow none.
Result<std::string> Sqlite::resolve(std::string_view path) const {
    if (path == ":memory:") return std::string(path);
    if (const Status status = check_data_path(path); !status.ok()) return status;
    char* folder = ::realpath(data_folder_.c_str(), nullptr);
    if (folder == nullptr) {
        return Status::error(StatusCode::unavailable, "the data folder can't be opened");
    }
    std::string full = std::string(folder) + "/" + std::string(path);
    std::free(folder);
    return full;
}

Result<std::uint64_t> Sqlite::open(Handle owner, std::string_view path, SqliteOptions options,
                                   std::uint64_t session) {
    const Result<std::string> full = resolve(path);
    if (!full.ok()) return full.status();
    options.path = full.value();
    reap();
    const std::lock_guard lock(mutex_);
    if (stopping_) return stopping();
    if (open_.size() + closing_.size() >= kMaxDatabases) {
        count(counters_.sqlite_refused);
        return Status::error(StatusCode::overloaded,
                             "the node has %zu SQLite databases open, which is the limit",
                             kMaxDatabases);
    }
    const std::uint64_t id = next_id_++;
    auto database =
        std::make_unique<SqliteDatabase>(kernel_, counters_, id, owner, std::move(options));
    if (!database->open(session)) {
        return Status::error(StatusCode::unavailable, "there is no thread for a database");
    }
    count(counters_.sqlite_databases);
    open_.emplace(id, std::move(database));
    return id;
}

Status Sqlite::submit(std::uint64_t id, Handle owner, SqliteRequest request) {
    const std::lock_guard lock(mutex_);
    const auto found = open_.find(id);
    if (found == open_.end() || found->second->owner() != owner) {
        return Status::error(StatusCode::dead, "the database is closed");
    }
    if (!found->second->submit(std::move(request))) {
        count(counters_.sqlite_refused);
        return Status::error(StatusCode::overloaded,
                             "the database is busy: %zu requests wait for it",
                             SqliteDatabase::kMaxWaiting);
    }
    count(counters_.sqlite_requests);
    return {};
}

// ---- ends ----

void Sqlite::close(std::uint64_t id, Handle owner) {
    SqliteDatabase* database = nullptr;
    {
        const std::lock_guard lock(mutex_);
        const auto found = open_.find(id);
        if (found == open_.end() || found->second->owner() != owner) return;
        database = found->second.get();
        closing_.emplace(id, std::move(found->second));
        open_.erase(found);
    }
    // It goes only when it has closed, which its thread does; who frees it waits for that thread.
    database->close([this] {
        if (!kernel_.blocking().submit([this] { reap(); })) return;  // the next open() does it
    });
}

void Sqlite::release_owner(Handle owner) {
    std::vector<std::uint64_t> ids;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& [id, database] : open_) {
            if (database->owner() == owner) ids.push_back(id);
        }
    }
    for (const std::uint64_t id : ids) close(id, owner);
}

// Frees those that are done; their threads have nothing left to do.
void Sqlite::reap() {
    std::vector<std::unique_ptr<SqliteDatabase>> done;
    {
        const std::lock_guard lock(mutex_);
        for (auto at = closing_.begin(); at != closing_.end();) {
            if (at->second->done()) {
                done.push_back(std::move(at->second));
                at = closing_.erase(at);
            } else {
                ++at;
            }
        }
    }
    counters_.sqlite_databases.fetch_sub(done.size(), std::memory_order_relaxed);
}

bool Sqlite::stop(std::int64_t deadline_ns) {
    std::vector<std::pair<std::uint64_t, Handle>> open;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        for (const auto& [id, database] : open_) open.emplace_back(id, database->owner());
    }
    for (const auto& [id, owner] : open) close(id, owner);
    for (;;) {
        reap();
        {
            const std::lock_guard lock(mutex_);
            if (closing_.empty()) return true;
        }
        if (deadline_ns != kNoDeadline && RealClock::monotonic() >= deadline_ns) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

}  // namespace perilune
