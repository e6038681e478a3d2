// Log: what the node tells its operator.
//
// Purpose:   one line per record, to a stream and to rotating files, as text or as JSON,
//            written by a thread of its own over spdlog. The text may come from clients, so
//            control characters are escaped and secrets are replaced by ***.
// Threads:   all functions, any thread; none waits for a disk, a terminal or a pipe, except
//            flush() and the destructor, which have limits.
// Ownership: the node owns its Log; several in one process don't know of each other. Text is
//            copied before a call returns. Everybody must be done with it before it is
//            destroyed.
//
// What can go wrong is counted, see Counters: a full queue drops its oldest records, a full
// disk or a dead pipe loses the record, and the node goes on.
#pragma once

#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>

#include "core/clock.h"
#include "core/log_text.h"
#include "perilune/status.h"

namespace perilune {

enum class LogLevel : std::uint8_t { trace, debug, info, warn, error, off };

// "trace", "debug", "info", "warn", "error", "off".
const char* log_level_name(LogLevel level);
std::optional<LogLevel> parse_log_level(std::string_view name);

enum class LogFormat : std::uint8_t { text, json };
enum class LogColour : std::uint8_t { automatic, always, never };  // automatic: on a terminal

struct LogOptions {
    LogLevel level = LogLevel::info;
    std::map<std::string, LogLevel, std::less<>> levels = {};  // of single services, by name
    LogFormat format = LogFormat::text;
    int descriptor = 2;  // stream to write to: 1, 2 or any other, -1 for none; never closed
    LogColour colour = LogColour::automatic;
    std::string file = {};                          // path; empty for none
    std::size_t file_bytes = 64 * 1024 * 1024;      // a file larger than this is rotated
    std::size_t files = 5;                          // old files kept: name.1.log and so on
    std::size_t queue = 8192;                       // records that wait for the log's thread
    std::int64_t stop_limit_ns = 1 * kNsPerSecond;  // how long the destructor waits for sinks
};

// A name and a value that belong to a record: " uid=42" in text, a member of "fields" in JSON.
struct LogField {
    std::string_view key;
    std::string_view value;
};

// At most one in an interval; counts the others. One per place that may log in a loop.
class RateLimit {
  public:
    explicit RateLimit(std::int64_t interval_ns = kNsPerSecond) : interval_ns_(interval_ns) {}

    // Whether one may pass at `now_ns` (monotonic; coarse will do): how many were held back
    // since the last one that did, or nothing when this one is held back too.
    std::optional<std::uint64_t> pass(std::int64_t now_ns);

  private:
    const std::int64_t interval_ns_;
    std::atomic<std::int64_t> next_ns_{INT64_MIN};
    std::atomic<std::uint64_t> held_back_{0};
};

class Log {
  public:
    static constexpr std::size_t kMaxText = 4096;  // bytes of a message; the rest is cut

    struct Counters {
        std::uint64_t written;  // records that reached every sink
        std::uint64_t dropped;  // records that a full queue pushed out
        std::uint64_t failed;   // records that a sink refused: full disk, dead pipe
        std::size_t levels;     // services with a level of their own
    };

    // Opens the sinks and starts the thread. `clock` gives the time of each record (null: the
    // machine's) and must outlive the log. Fails when the file can't be opened.
    static Result<std::unique_ptr<Log>> open(const LogOptions& options,
                                             const Clock* clock = nullptr);

    // Waits for the sinks as long as stop_limit_ns says; a sink that blocks even then keeps its
    // thread, detached, and what was left is lost.
    ~Log();
    Log(const Log&) = delete;
    Log& operator=(const Log&) = delete;

    // Whether a record of `level` is wanted by anybody: one load, for the usual no.
    bool enabled(LogLevel level) const { return level >= lowest_level_.load(); }
    // Whether one of `service` is wanted.
    bool enabled(LogLevel level, std::string_view service) const;

    // Changes the level of all services that have none of their own, or of one service.
    void set_level(LogLevel level);
    void set_level(std::string_view service, LogLevel level);
    // Back to the level of all.
    void clear_level(std::string_view service);
    LogLevel level(std::string_view service) const;

    // Queues a record, if it is enabled. Never blocks, never fails; see counters().
    void write(LogLevel level, std::string_view service, std::string_view message,
               LogText text = LogText::line);
    void write(LogLevel level, std::string_view service, std::string_view message,
               const LogField* fields, std::size_t count, LogText text = LogText::line);
    void write(LogLevel level, std::string_view service, std::string_view message,
               std::initializer_list<LogField> fields) {
        write(level, service, message, fields.begin(), fields.size());
    }

    // The same with a message as printf makes it.
    void trace(const char* service, const char* format, ...) __attribute__((format(printf, 3, 4)));
    void debug(const char* service, const char* format, ...) __attribute__((format(printf, 3, 4)));
    void info(const char* service, const char* format, ...) __attribute__((format(printf, 3, 4)));
    void warn(const char* service, const char* format, ...) __attribute__((format(printf, 3, 4)));
    void error(const char* service, const char* format, ...) __attribute__((format(printf, 3, 4)));
    // At most as often as `limit` allows; says how many it held back.
    void limited(RateLimit& limit, LogLevel level, const char* service, const char* format, ...)
        __attribute__((format(printf, 5, 6)));
    // What the functions above do, for functions that have their arguments as these do.
    void print(LogLevel level, const char* service, const char* format, std::va_list arguments);

    // Waits until what was queued before the call is written, at most `limit_ns`. False when
    // the time was not enough. Not for workers.
    bool flush(std::int64_t limit_ns = kNsPerSecond);

    Counters counters() const;

    // `text` as a line of the log shows it: secrets replaced, control characters and what is
    // not UTF-8 escaped. For others who show text from clients to operators.
    static std::string clean(std::string_view text, LogText mode = LogText::line);

  private:
    struct State;  // what the log's thread uses; outlives the Log if a sink blocks

    Log(const LogOptions& options, const Clock* clock, std::shared_ptr<State> state);
    void compute_lowest_level();

    const Clock* const clock_;
    const std::shared_ptr<State> state_;
    const std::int64_t stop_limit_ns_;
    std::atomic<LogLevel> lowest_level_;

    mutable std::shared_mutex levels_mutex_;
    // Guarded by levels_mutex_.
    LogLevel level_;
    std::map<std::string, LogLevel, std::less<>> levels_;
};

}  // namespace perilune
