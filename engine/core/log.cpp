// DESIGN
//
// write() copies the text into the bounded queue of a spdlog thread pool; the pool's one
// thread makes the line (redacts, escapes, formats) and gives it to the sinks. Of spdlog this
// uses the queue, the thread and the asynchronous logger, none of its registry and no sink:
// the rotating file of 1.10 writes to a null FILE* after a rotation that failed, and its
// streams block for ever on a pipe that nobody reads.
//
// Both sinks collect lines until the queue is empty or kBatch records are there, then write
// them with one call. The stream is polled before each write of at most PIPE_BUF bytes, so
// the thread stays able to notice that the log is being closed. Only a write that blocks
// after poll() said that it would not (a file on a dead server, a stopped terminal) can keep
// the thread; then State stays alive with it.
#include "core/log.h"

#include <pthread.h>
#include <signal.h>
#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/sink.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

#include "core/log_sinks.h"

namespace perilune {

static constexpr std::size_t kBatch = 64;                  // records that wait for a write, at most
static constexpr std::size_t kMaxService = 128;            // bytes of a service's name
static constexpr std::size_t kMaxFields = 4096;            // bytes of all keys and values
static constexpr std::int64_t kDetachNs = 300 * kNsPerMs;  // for a stream to look up at the end

// Travels in source_loc::filename of a record whose newlines stay.
static constexpr char kLinesMark[] = "lines";

// --- levels ---

static constexpr const char* kLevelNames[] = {"trace", "debug", "info", "warn", "error", "off"};

const char* log_level_name(LogLevel level) { return kLevelNames[static_cast<std::size_t>(level)]; }

std::optional<LogLevel> parse_log_level(std::string_view name) {
    for (std::size_t i = 0; i < std::size(kLevelNames); ++i) {
        if (name == kLevelNames[i]) return static_cast<LogLevel>(i);
    }
    return std::nullopt;
}

std::string Log::clean(std::string_view text, LogText mode) {
    std::string result;
    append_text(result, redact(text), mode);
    return result;
}

struct Log::State {
    State(const LogOptions& options, bool colour)
        : json(options.format == LogFormat::json),
          coloured(colour),
          stream(options.descriptor, closing),
          file(options.file, options.file_bytes, options.files) {}

    // Constant once the thread runs.
    const bool json;
    const bool coloured;
    std::shared_ptr<spdlog::async_logger> logger;
    std::shared_ptr<spdlog::details::thread_pool> pool;
    std::shared_ptr<State> stuck_self;  // set when the thread could not be ended

    std::atomic<std::uint64_t> posted{0};
    std::atomic<std::uint64_t> done{0};  // written or failed
    std::atomic<std::uint64_t> written{0};
    std::atomic<std::uint64_t> failed{0};
    std::atomic<bool> closing{false};

    // The log's thread only.
    StreamSink stream;
    FileSink file;
    std::uint64_t pending = 0;         // records since the last flush of the sinks
    std::uint64_t pending_failed = 0;  // of them, known to be lost
    std::string line;
    std::string redacted;
    std::int64_t second = -1;  // of the last record,
    std::string second_text;   // and how it is shown

    void append_time(std::int64_t wall_ns);
    void append_fields(std::string_view fields);
    void make_line(const spdlog::details::log_msg& record, bool colour);
    void take(const spdlog::details::log_msg& record);
    void flush_sinks();
};

// spdlog's view of the sinks. It never throws.
class LineSink final : public spdlog::sinks::sink {
  public:
    // `take` gets each record.
    explicit LineSink(std::function<void(const spdlog::details::log_msg&)> take)
        : take_(std::move(take)) {}
    void log(const spdlog::details::log_msg& record) override { take_(record); }
    void flush() override {}
    void set_pattern(const std::string&) override {}
    void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

  private:
    const std::function<void(const spdlog::details::log_msg&)> take_;
};

// Text: local time; JSON: UTC.
void Log::State::append_time(std::int64_t wall_ns) {
    std::int64_t now = wall_ns / kNsPerSecond;
    std::int64_t rest_ns = wall_ns % kNsPerSecond;
    if (rest_ns < 0) {
        --now;
        rest_ns += kNsPerSecond;
    }
    if (now != second || second_text.empty()) {
        const time_t time = now;
        struct tm parts;
        const bool known = (json ? gmtime_r(&time, &parts) : localtime_r(&time, &parts)) != nullptr;
        char text[64] = "?";
        if (known) strftime(text, sizeof text, json ? "%Y-%m-%dT%H:%M:%S" : "%F %T", &parts);
        second = now;
        second_text = text;
    }
    line += second_text;
    char milliseconds[8];
    std::snprintf(milliseconds, sizeof milliseconds, ".%03d", static_cast<int>(rest_ns / kNsPerMs));
    line += milliseconds;
    if (json) line += 'Z';
}

// Fields travel behind the message as pairs of (size, bytes).
static void pack_field(std::string& out, std::string_view text) {
    const std::uint32_t size = static_cast<std::uint32_t>(text.size());
    out.append(reinterpret_cast<const char*>(&size), sizeof size);
    out += text;
}

static std::string_view unpack_field(std::string_view& rest) {
    std::uint32_t size;
    std::memcpy(&size, rest.data(), sizeof size);
    const std::string_view text = rest.substr(sizeof size, size);
    rest.remove_prefix(sizeof size + size);
    return text;
}

void Log::State::append_fields(std::string_view fields) {
    bool first = true;
    while (!fields.empty()) {
        const std::string_view key = unpack_field(fields);
        const std::string_view value = unpack_field(fields);
        redacted = is_secret(key) ? "***" : redact(value);
        if (json) {
            line += first ? ",\"fields\":{" : ",";
            append_json(line, key);
            line += ':';
            append_json(line, redacted);
            first = false;
            continue;
        }
        line += ' ';
        append_text(line, key, LogText::line);
        line += '=';
        if (redacted.empty() || redacted.find_first_of(" =\"") != std::string::npos) {
            std::string quoted;
            append_text(quoted, redacted, LogText::line);
            line += '"';
            for (const char c : quoted) {
                if (c == '"') line += '\\';
                line += c;
            }
            line += '"';
        } else {
            append_text(line, redacted, LogText::line);
        }
    }
    if (json && !first) line += '}';
}

void Log::State::make_line(const spdlog::details::log_msg& record, bool colour) {
    static constexpr const char* kColours[] = {"\x1b[90m", "\x1b[36m", "\x1b[32m", "\x1b[33m",
                                               "\x1b[31m"};
    const std::string_view service(record.logger_name.data(), record.logger_name.size());
    const std::string_view payload(record.payload.data(), record.payload.size());
    std::string_view message = payload.substr(0, static_cast<std::size_t>(record.source.line));
    const std::string_view fields = payload.substr(message.size());
    const LogText mode = record.source.filename == kLinesMark ? LogText::lines : LogText::line;
    const std::size_t level = std::min<std::size_t>(record.level, 4);
    while (mode == LogText::lines && message.ends_with('\n')) message.remove_suffix(1);
    line.clear();
    redacted = redact(message);
    if (json) {
        line += "{\"time\":\"";
        append_time(record.time.time_since_epoch().count());
        line += "\",\"level\":\"";
        line += kLevelNames[level];
        line += "\",\"service\":";
        append_json(line, service);
        line += ",\"message\":";
        append_json(line, redacted);
        append_fields(fields);
        line += "}\n";
        return;
    }
    append_time(record.time.time_since_epoch().count());
    line += ' ';
    if (colour) line += kColours[level];
    line += kLevelNames[level];
    line.append(5 - std::strlen(kLevelNames[level]), ' ');
    if (colour) line += "\x1b[0m";
    line += ' ';
    append_text(line, service, LogText::line);
    line += ": ";
    append_text(line, redacted, mode);
    append_fields(fields);
    line += '\n';
}

void Log::State::take(const spdlog::details::log_msg& record) {
    if (file.is_wanted()) {
        make_line(record, false);
        if (!file.append(line)) pending_failed = pending;
    }
    if (coloured || !file.is_wanted()) make_line(record, coloured);
    stream.append(line);
    if (++pending >= kBatch || pool->queue_size() == 0) flush_sinks();
}

void Log::State::flush_sinks() {
    const bool stream_ok = stream.flush();
    const bool file_ok = file.flush();
    const std::uint64_t lost = stream_ok && file_ok ? pending_failed : pending;
    written.fetch_add(pending - lost, std::memory_order_relaxed);
    failed.fetch_add(lost, std::memory_order_relaxed);
    done.fetch_add(pending);
    pending = 0;
    pending_failed = 0;
}

// --- Log ---

static bool wants_colour(const LogOptions& options) {
    if (options.format != LogFormat::text || options.descriptor < 0) return false;
    if (options.colour != LogColour::automatic) return options.colour == LogColour::always;
    return isatty(options.descriptor) == 1 && std::getenv("NO_COLOR") == nullptr;
}

Result<std::unique_ptr<Log>> Log::open(const LogOptions& options, const Clock* clock) {
    const auto state = std::make_shared<State>(options, wants_colour(options));
    if (state->file.is_wanted()) {
        if (!state->file.open()) {
            return Status::error(StatusCode::invalid, "can't write the log file %s: %s",
                                 options.file.c_str(), std::strerror(errno));
        }
    }
    // No signal is for the log's thread: not those of the program, and not SIGPIPE, which a
    // write to a dead pipe sends to the thread that writes.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::string problem;
    try {
        State* const raw = state.get();
        const auto sink = std::make_shared<LineSink>(
            [raw](const spdlog::details::log_msg& record) { raw->take(record); });
        state->pool = std::make_shared<spdlog::details::thread_pool>(
            std::max<std::size_t>(options.queue, 1), 1,
            [] { pthread_setname_np(pthread_self(), "perilune-log"); });
        state->logger = std::make_shared<spdlog::async_logger>(
            "perilune", sink, state->pool, spdlog::async_overflow_policy::overrun_oldest);
        state->logger->set_error_handler([](const std::string&) {});
    } catch (const std::exception& exception) {
        problem = exception.what();
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!problem.empty()) {
        return Status::error(StatusCode::unavailable, "no thread for the log: %s", problem.c_str());
    }
    return std::unique_ptr<Log>(new Log(options, clock, state));
}

Log::Log(const LogOptions& options, const Clock* clock, std::shared_ptr<State> state)
    : clock_(clock),
      state_(std::move(state)),
      stop_limit_ns_(options.stop_limit_ns),
      lowest_level_(options.level),
      level_(options.level),
      levels_(options.levels) {
    compute_lowest_level();
}

Log::~Log() {
    flush(stop_limit_ns_);
    state_->closing.store(true);
    if (flush(kDetachNs)) {
        state_->pool.reset();  // ends the thread, which waits for nothing now
        return;
    }
    state_->stuck_self = state_;
}

bool Log::enabled(LogLevel level, std::string_view service) const {
    if (!enabled(level) || level == LogLevel::off) return false;
    return level >= this->level(service);
}

LogLevel Log::level(std::string_view service) const {
    const std::shared_lock lock(levels_mutex_);
    const auto found = levels_.find(service);
    return found == levels_.end() ? level_ : found->second;
}

void Log::set_level(LogLevel level) {
    const std::unique_lock lock(levels_mutex_);
    level_ = level;
    compute_lowest_level();
}

void Log::set_level(std::string_view service, LogLevel level) {
    const std::unique_lock lock(levels_mutex_);
    levels_.insert_or_assign(std::string(service), level);
    compute_lowest_level();
}

void Log::clear_level(std::string_view service) {
    const std::unique_lock lock(levels_mutex_);
    const auto found = levels_.find(service);
    if (found != levels_.end()) levels_.erase(found);
    compute_lowest_level();
}

// Caller holds levels_mutex_, or is the constructor.
void Log::compute_lowest_level() {
    LogLevel lowest = level_;
    for (const auto& [service, level] : levels_) lowest = std::min(lowest, level);
    lowest_level_.store(lowest);
}

void Log::write(LogLevel level, std::string_view service, std::string_view message, LogText text) {
    write(level, service, message, nullptr, 0, text);
}

void Log::write(LogLevel level, std::string_view service, std::string_view message,
                const LogField* fields, std::size_t count, LogText text) {
    if (!enabled(level, service)) return;
    std::string longer;  // where the message alone isn't the payload
    std::string_view payload = cut(message, kMaxText);
    std::size_t message_size = payload.size();
    if (message_size < message.size() || count > 0) {
        longer = payload;
        if (message_size < message.size()) {
            longer += "... (cut)";
            message_size = longer.size();
        }
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t size = fields[i].key.size() + fields[i].value.size();
            if (longer.size() - message_size + size > kMaxFields) {
                pack_field(longer, "fields_cut");
                pack_field(longer, std::to_string(count - i));
                break;
            }
            pack_field(longer, fields[i].key);
            pack_field(longer, fields[i].value);
        }
        payload = longer;
    }
    service = cut(service, kMaxService);
    const std::int64_t wall_ns = clock_ == nullptr ? RealClock::wall() : clock_->wall_ns();
    const spdlog::source_loc mark(text == LogText::lines ? kLinesMark : nullptr,
                                  static_cast<int>(message_size), nullptr);
    static_assert(static_cast<int>(LogLevel::error) == SPDLOG_LEVEL_ERROR);
    const spdlog::details::log_msg record(
        spdlog::log_clock::time_point(std::chrono::nanoseconds(wall_ns)), mark,
        spdlog::string_view_t(service.data(), service.size()),
        static_cast<spdlog::level::level_enum>(level),
        spdlog::string_view_t(payload.data(), payload.size()));
    state_->posted.fetch_add(1);
    auto logger = state_->logger;
    state_->pool->post_log(std::move(logger), record,
                           spdlog::async_overflow_policy::overrun_oldest);
}

void Log::print(LogLevel level, const char* service, const char* format, std::va_list arguments) {
    if (!enabled(level, service)) return;
    char text[kMaxText + 64];
    const int size = std::vsnprintf(text, sizeof text, format, arguments);
    if (size < 0) return;
    write(level, service,
          std::string_view(text, std::min(static_cast<std::size_t>(size), sizeof text - 1)));
}

// All printf-like members are the same but for the level.
#define PERILUNE_PRINT(level)                 \
    if (!enabled(level)) return;              \
    std::va_list arguments;                   \
    va_start(arguments, format);              \
    print(level, service, format, arguments); \
    va_end(arguments)

void Log::trace(const char* service, const char* format, ...) { PERILUNE_PRINT(LogLevel::trace); }
void Log::debug(const char* service, const char* format, ...) { PERILUNE_PRINT(LogLevel::debug); }
void Log::info(const char* service, const char* format, ...) { PERILUNE_PRINT(LogLevel::info); }
void Log::warn(const char* service, const char* format, ...) { PERILUNE_PRINT(LogLevel::warn); }
void Log::error(const char* service, const char* format, ...) { PERILUNE_PRINT(LogLevel::error); }
#undef PERILUNE_PRINT

void Log::limited(RateLimit& limit, LogLevel level, const char* service, const char* format, ...) {
    if (!enabled(level, service)) return;
    const auto held_back =
        limit.pass(clock_ == nullptr ? RealClock::monotonic_coarse() : clock_->coarse_ns());
    if (!held_back) return;
    char text[kMaxText + 64];
    std::va_list arguments;
    va_start(arguments, format);
    const int size = std::vsnprintf(text, kMaxText - 64, format, arguments);
    va_end(arguments);
    if (size < 0) return;
    std::size_t used = std::min<std::size_t>(static_cast<std::size_t>(size), kMaxText - 65);
    if (*held_back > 0) {
        used +=
            static_cast<std::size_t>(std::snprintf(text + used, 64, " (and %llu more held back)",
                                                   static_cast<unsigned long long>(*held_back)));
    }
    write(level, service, std::string_view(text, used));
}

bool Log::flush(std::int64_t limit_ns) {
    const std::uint64_t target = state_->posted.load();
    const std::int64_t end_ns = RealClock::monotonic() + limit_ns;
    while (state_->done.load() + state_->pool->overrun_counter() < target) {
        if (RealClock::monotonic() >= end_ns) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

Log::Counters Log::counters() const {
    const std::shared_lock lock(levels_mutex_);
    return {state_->written.load(std::memory_order_relaxed), state_->pool->overrun_counter(),
            state_->failed.load(std::memory_order_relaxed), levels_.size()};
}

std::optional<std::uint64_t> RateLimit::pass(std::int64_t now_ns) {
    std::int64_t next_ns = next_ns_.load();
    if (now_ns < next_ns || !next_ns_.compare_exchange_strong(next_ns, now_ns + interval_ns_)) {
        held_back_.fetch_add(1);
        return std::nullopt;
    }
    return held_back_.exchange(0);
}

}  // namespace perilune
