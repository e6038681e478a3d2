#include "data/sqlite_database.h"

#include <sqlite3.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <thread>
#include <utility>

namespace perilune {

namespace {

constexpr std::size_t kMaxKeptText = 8 * 1024;
constexpr std::size_t kRowsAtOnce = 64 * 1024;  // bytes of rows in one message
constexpr std::uint64_t kNumberBytes = 8;
constexpr int kMaxBytes = 64 << 20;       // of one value or row
constexpr int kStepsBetweenLooks = 1000;  // of SQLite's machine
constexpr int kBusySleepMs = 5;

BlockingPoolOptions thread_options() {
    BlockingPoolOptions options;
    options.threads = 1;
    options.queue = SqliteDatabase::kMaxWaiting + 2;  // and what opens and closes it
    return options;
}

// What a script may ask or say by PRAGMA: nothing that reaches other files or weakens the file.
bool is_allowed_pragma(std::string_view name) {
    static constexpr std::string_view kAllowed[] = {
        "application_id",    "auto_vacuum",      "data_version",   "encoding",
        "foreign_key_check", "foreign_key_list", "freelist_count", "incremental_vacuum",
        "index_info",        "index_list",       "index_xinfo",    "integrity_check",
        "optimize",          "page_count",       "page_size",      "quick_check",
        "table_info",        "table_list",       "table_xinfo",    "user_version",
        "wal_checkpoint",
    };
    return std::find(std::begin(kAllowed), std::end(kAllowed), name) != std::end(kAllowed);
}

SqlCode code_of(int code) {
    switch (code) {
        case SQLITE_CONSTRAINT_UNIQUE:
        case SQLITE_CONSTRAINT_PRIMARYKEY:
        case SQLITE_CONSTRAINT_ROWID: return SqlCode::exists;
        default: break;
    }
    switch (code & 0xff) {
        case SQLITE_CONSTRAINT: return SqlCode::constraint;
        case SQLITE_BUSY:
        case SQLITE_LOCKED: return SqlCode::conflict;
        case SQLITE_TOOBIG: return SqlCode::too_large;
        case SQLITE_AUTH: return SqlCode::denied;
        case SQLITE_ERROR:
        case SQLITE_MISMATCH:
        case SQLITE_RANGE: return SqlCode::invalid;
        case SQLITE_CANTOPEN:
        case SQLITE_NOTADB:
        case SQLITE_CORRUPT:
        case SQLITE_IOERR:
        case SQLITE_FULL:
        case SQLITE_READONLY:
        case SQLITE_PERM: return SqlCode::unavailable;
        default: return SqlCode::error;
    }
}

// Whether there is nothing but blanks and comments.
bool is_blank(std::string_view text) {
    while (!text.empty()) {
        if (std::strchr(" \t\r\n\f;", text[0]) != nullptr) {
            text.remove_prefix(1);
        } else if (text.starts_with("--")) {
            text.remove_prefix(std::min(text.find('\n'), text.size()));
        } else if (text.starts_with("/*")) {
            const std::size_t end = text.find("*/", 2);
            text.remove_prefix(end == std::string_view::npos ? text.size() : end + 2);
        } else {
            return false;
        }
    }
    return true;
}

int bind_value(sqlite3_stmt* statement, int index, const SqlValue& value) {
    const auto size = static_cast<sqlite3_uint64>(value.bytes.size());
    // What is bound stays where it is until the statement is done.
    switch (value.kind) {
        case SqlValue::Kind::null: return ::sqlite3_bind_null(statement, index);
        case SqlValue::Kind::integer: return ::sqlite3_bind_int64(statement, index, value.integer);
        case SqlValue::Kind::real: return ::sqlite3_bind_double(statement, index, value.real);
        case SqlValue::Kind::text:
            return ::sqlite3_bind_text64(statement, index, value.bytes.data(), size, SQLITE_STATIC,
                                         SQLITE_UTF8);
        case SqlValue::Kind::bytes:
            return ::sqlite3_bind_blob64(statement, index, value.bytes.data(), size, SQLITE_STATIC);
    }
    return SQLITE_MISUSE;
}

}  // namespace

SqliteDatabase::SqliteDatabase(Kernel& kernel, SqliteCounters& counters, std::uint64_t id,
                               Handle owner, SqliteOptions options)
    : kernel_(kernel),
      counters_(counters),
      id_(id),
      owner_(owner),
      options_(std::move(options)),
      thread_(thread_options()) {}

SqliteDatabase::~SqliteDatabase() {
    (void)stop(kNoDeadline);
    close_here();  // one that was never asked to close
}

// ---- any thread ----

bool SqliteDatabase::open(std::uint64_t session) {
    return pool().submit([this, session] { finish(session, open_here()); },
                         [this, session] { refuse(session); });
}

bool SqliteDatabase::submit(SqliteRequest request) {
    if (waiting_.fetch_add(1) >= kMaxWaiting) {
        waiting_.fetch_sub(1);
        return false;
    }
    // std::function wants to be copyable.
    const auto shared = std::make_shared<SqliteRequest>(std::move(request));
    const auto cancelled = [this, session = shared->session] { refuse(session); };
    const auto work = [this, shared] {
        waiting_.fetch_sub(1);
        finish(shared->session, run(*shared));
    };
    if (pool().submit(work, cancelled)) return true;
    waiting_.fetch_sub(1);
    return false;
}

void SqliteDatabase::close(std::function<void()> closed) {
    closing_.store(true);
    {
        const std::lock_guard lock(mutex_);
        if (handle_ != nullptr) ::sqlite3_interrupt(handle_);
    }
    const auto work = [this, closed] {
        close_here();
        done_.store(true);
        closed();
    };
    if (!pool().submit(work, work)) work();  // the pool of a seeded node, on whose thread this is
}

bool SqliteDatabase::stop(std::int64_t deadline_ns) { return thread_.stop(deadline_ns); }

// ---- the database's thread ----

SqlResult SqliteDatabase::open_here() {
    constexpr int kFlags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                           SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE;
    sqlite3* handle = nullptr;
    int code = ::sqlite3_open_v2(options_.path.c_str(), &handle, kFlags, nullptr);
    {
        const std::lock_guard lock(mutex_);
        handle_ = handle;
    }
    deadline_ns_ = INT64_MAX;
    if (code == SQLITE_OK && !configure()) code = ::sqlite3_extended_errcode(handle_);
    if (code == SQLITE_OK) return {};
    SqlResult result = failure(code, false);
    close_here();
    return result;
}

bool SqliteDatabase::configure() {
    const auto set = [this](int option, int value) {
        return ::sqlite3_db_config(handle_, option, value, nullptr) == SQLITE_OK;
    };
    const auto run = [this](const char* sql) {
        return ::sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) == SQLITE_OK;
    };
    ::sqlite3_busy_handler(handle_, on_busy, this);
    ::sqlite3_progress_handler(handle_, kStepsBetweenLooks, on_progress, this);
    ::sqlite3_limit(handle_, SQLITE_LIMIT_LENGTH, kMaxBytes);
    const bool good =
        set(SQLITE_DBCONFIG_ENABLE_FKEY, 1) && set(SQLITE_DBCONFIG_DEFENSIVE, 1) &&
        set(SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0) && set(SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0) &&
        set(SQLITE_DBCONFIG_DQS_DML, 0) && set(SQLITE_DBCONFIG_DQS_DDL, 0) &&
        run("PRAGMA journal_mode = WAL") && run("PRAGMA temp_store = MEMORY") &&
        run(options_.sync ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
    ::sqlite3_set_authorizer(handle_, on_action, this);
    return good;
}

SqlResult SqliteDatabase::run(SqliteRequest& request) {
    deadline_ns_ = request.deadline_ns;
    if (handle_ == nullptr || closing_.load()) {
        return SqlResult::failure(SqlCode::unavailable, "the database is closed");
    }
    if (kernel_.clock().now_ns() >= deadline_ns_) {
        return SqlResult::failure(SqlCode::timeout, "it had to wait too long for its turn");
    }
    sqlite3_stmt* statement = nullptr;
    SqlResult result = prepare(request.sql, &statement);
    if (result.ok()) {
        result = run_statement(request, statement);
        ::sqlite3_reset(statement);
        ::sqlite3_clear_bindings(statement);
        if (prepared_.find(request.sql) == prepared_.end()) ::sqlite3_finalize(statement);
    }
    result.in_transaction = ::sqlite3_get_autocommit(handle_) == 0;
    // What comes next is another's.
    if (result.in_transaction && !request.within) {
        ::sqlite3_exec(handle_, "ROLLBACK", nullptr, nullptr, nullptr);
    }
    return result;
}

SqlResult SqliteDatabase::prepare(const std::string& sql, sqlite3_stmt** statement) {
    const auto found = prepared_.find(sql);
    if (found != prepared_.end()) {
        recent_.splice(recent_.begin(), recent_, found->second.recent);
        *statement = found->second.handle;
        return {};
    }
    const bool keep = sql.size() <= kMaxKeptText && options_.statements > 0;
    const char* rest = nullptr;
    const int code = ::sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()),
                                          keep ? SQLITE_PREPARE_PERSISTENT : 0, statement, &rest);
    if (code != SQLITE_OK) return failure(code, false);
    if (*statement == nullptr) return SqlResult::failure(SqlCode::invalid, "an empty statement");
    const auto used = static_cast<std::size_t>(rest - sql.data());
    if (!is_blank(std::string_view(sql).substr(used))) {
        ::sqlite3_finalize(*statement);
        return SqlResult::failure(SqlCode::invalid, "one statement at a time");
    }
    if (!keep) return {};
    if (prepared_.size() >= options_.statements) {
        const auto oldest = prepared_.find(recent_.back());
        ::sqlite3_finalize(oldest->second.handle);
        prepared_.erase(oldest);
        recent_.pop_back();
    }
    recent_.push_front(sql);
    prepared_[sql] = {*statement, recent_.begin()};
    return {};
}

SqlResult SqliteDatabase::run_statement(SqliteRequest& request, sqlite3_stmt* statement) {
    const auto wanted = static_cast<std::size_t>(::sqlite3_bind_parameter_count(statement));
    if (wanted != request.values.size()) {
        return SqlResult::failure(SqlCode::invalid,
                                  "the statement has " + std::to_string(wanted) + " ?, and " +
                                      std::to_string(request.values.size()) + " values were given");
    }
    for (std::size_t i = 0; i < wanted; ++i) {
        const int code = bind_value(statement, static_cast<int>(i + 1), request.values[i]);
        if (code != SQLITE_OK) return failure(code, false);
    }
    const bool writes = ::sqlite3_stmt_readonly(statement) == 0;
    const auto changes = ::sqlite3_total_changes64(handle_);
    ::sqlite3_set_last_insert_rowid(handle_, 0);
    RowMeter meter(request.limits);
    SqlResult result;
    int code = ::sqlite3_step(statement);
    // Only now: it is prepared again where tables have changed.
    result.has_rows = ::sqlite3_column_count(statement) > 0;
    if (result.has_rows) give_columns(statement);
    for (; code == SQLITE_ROW; code = ::sqlite3_step(statement)) {
        if (!give_row(statement, meter)) {
            SqlResult large =
                SqlResult::failure(SqlCode::too_large, "the answer has " + meter.over_text());
            large.unknown = writes;  // INSERT ... RETURNING
            return large;
        }
        if (rows_.size() >= kRowsAtOnce) {
            post(DatabaseEvent::sqlite_rows, request.session, rows_);
        }
    }
    if (code != SQLITE_DONE) return failure(code, writes);
    if (::sqlite3_total_changes64(handle_) != changes && !result.has_rows) {
        result.affected = static_cast<std::uint64_t>(::sqlite3_changes64(handle_));
    }
    result.insert_id = static_cast<std::uint64_t>(::sqlite3_last_insert_rowid(handle_));
    return result;
}

void SqliteDatabase::give_columns(sqlite3_stmt* statement) {
    std::vector<std::string_view> names;
    for (int i = 0; i < ::sqlite3_column_count(statement); ++i) {
        names.emplace_back(::sqlite3_column_name(statement, i));
    }
    rows_.columns(names);
}

// False when that is too much.
bool SqliteDatabase::give_row(sqlite3_stmt* statement, RowMeter& meter) {
    if (!meter.add_row()) return false;
    rows_.begin_row();
    for (int i = 0; i < ::sqlite3_data_count(statement); ++i) {
        std::uint64_t size = kNumberBytes;
        switch (::sqlite3_column_type(statement, i)) {
            case SQLITE_NULL: rows_.null(); break;
            case SQLITE_INTEGER: rows_.integer(::sqlite3_column_int64(statement, i)); break;
            case SQLITE_FLOAT: rows_.real(::sqlite3_column_double(statement, i)); break;
            default: {
                const auto* bytes = static_cast<const char*>(::sqlite3_column_blob(statement, i));
                size = static_cast<std::uint64_t>(::sqlite3_column_bytes(statement, i));
                rows_.text(std::string_view(bytes, size));
            }
        }
        if (!meter.add_bytes(size)) return false;
    }
    rows_.end_row();
    return true;
}

void SqliteDatabase::finish(std::uint64_t session, const SqlResult& result) {
    if (!result.ok()) {
        counters_.sqlite_failed.fetch_add(1, std::memory_order_relaxed);
        (void)rows_.take();  // nobody wants a part of the rows
    }
    rows_.result(result);
    post(DatabaseEvent::sqlite_done, session, rows_);
}

// On the thread that stops the pool.
void SqliteDatabase::refuse(std::uint64_t session) {
    RowWriter answer;
    answer.result(SqlResult::failure(SqlCode::unavailable, "the node is stopping"));
    post(DatabaseEvent::sqlite_done, session, answer);
}

void SqliteDatabase::post(DatabaseEvent event, std::uint64_t session, RowWriter& rows) {
    MessagePtr message = make_message(MessageKind::database, owner_, {}, session);
    message->detail = static_cast<std::uint8_t>(event);
    message->id = id_;
    message->set_payload(rows.take());
    (void)kernel_.post(message);  // an owner that has died needs no word
}

void SqliteDatabase::close_here() {
    for (const auto& [text, prepared] : prepared_) ::sqlite3_finalize(prepared.handle);
    prepared_.clear();
    recent_.clear();
    if (handle_ == nullptr) return;
    sqlite3* handle = nullptr;
    {
        const std::lock_guard lock(mutex_);
        handle = std::exchange(handle_, nullptr);
    }
    // An interrupt holds until the next statement, also for writing the journal back.
    ::sqlite3_progress_handler(handle, 0, nullptr, nullptr);
    ::sqlite3_exec(handle, "SELECT 1", nullptr, nullptr, nullptr);
    ::sqlite3_close(handle);  // rolls back what is open
}

SqlResult SqliteDatabase::failure(int code, bool writes) {
    SqlResult result;
    if ((code & 0xff) == SQLITE_INTERRUPT) {
        result = closing_.load()
                     ? SqlResult::failure(SqlCode::unavailable, "the database was closed")
                     : SqlResult::failure(SqlCode::timeout, "it was not done in time");
    } else {
        const char* text = handle_ != nullptr ? ::sqlite3_errmsg(handle_) : ::sqlite3_errstr(code);
        result = SqlResult::failure(code_of(code), text);
    }
    result.native = code;
    // Whether what was written reached the file is known to it alone.
    result.unknown = writes && (code & 0xff) == SQLITE_IOERR;
    return result;
}

bool SqliteDatabase::must_end() {
    return closing_.load() || kernel_.clock().now_ns() >= deadline_ns_;
}

int SqliteDatabase::on_busy(void* self, int times) {
    auto& database = *static_cast<SqliteDatabase*>(self);
    if (database.must_end() || times * kBusySleepMs >= database.options_.busy_ms) return 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(kBusySleepMs));
    return 1;
}

int SqliteDatabase::on_progress(void* self) {
    return static_cast<SqliteDatabase*>(self)->must_end() ? 1 : 0;
}

// What a script's SQL may do.
int SqliteDatabase::on_action(void*, int action, const char* first, const char* second, const char*,
                              const char*) {
    switch (action) {
        // VACUUM attaches a temporary file of no name; VACUUM INTO and ATTACH have one.
        case SQLITE_ATTACH: return first != nullptr && *first == '\0' ? SQLITE_OK : SQLITE_DENY;
        case SQLITE_PRAGMA:
            return first != nullptr && is_allowed_pragma(first) ? SQLITE_OK : SQLITE_DENY;
        case SQLITE_FUNCTION:
            return second != nullptr && std::strcmp(second, "load_extension") == 0 ? SQLITE_DENY
                                                                                   : SQLITE_OK;
        default: return SQLITE_OK;
    }
}

}  // namespace perilune
