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

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/sink.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

namespace perilune {

static constexpr std::size_t kBatch = 64;                  // records that wait for a write, at most
static constexpr std::size_t kMaxService = 128;            // bytes of a service's name
static constexpr std::size_t kMaxFields = 4096;            // bytes of all keys and values
static constexpr int kPollMs = 100;                        // how often a blocked stream looks up
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

// --- text ---

static bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '-';
}

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

static char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

// Whether `name` ends with `ending`, which is lower-case, in any case.
static bool ends_with(std::string_view name, std::string_view ending) {
    return name.size() >= ending.size() &&
           std::equal(ending.rbegin(), ending.rend(), name.rbegin(),
                      [](char left, char right) { return left == lower(right); });
}

// Whether a value of this name is a secret: also that of resume_token or DB_PASSWORD.
static bool is_secret(std::string_view name) {
    static constexpr std::string_view kSecrets[] = {
        "password", "passwd",  "passphrase", "token",       "secret",
        "api_key",  "api-key", "apikey",     "private_key", "authorization",
    };
    return std::any_of(std::begin(kSecrets), std::end(kSecrets),
                       [name](std::string_view secret) { return ends_with(name, secret); });
}

// The name that ends before text[end], where = or : stands, or nothing. Walks back a bounded
// way, so that hostile text costs no more than its length.
static std::string_view name_before(std::string_view text, std::size_t end) {
    static constexpr std::size_t kMaxBlanks = 4;
    static constexpr std::size_t kMaxName = 64;
    std::size_t blanks = 0;
    while (end > 0 && is_blank(text[end - 1]) && blanks++ < kMaxBlanks) --end;
    if (end > 0 && text[end - 1] == ']') --end;  // ["password"] = ...
    if (end > 0 && (text[end - 1] == '"' || text[end - 1] == '\'')) --end;
    if (end > 0 && text[end - 1] == '\\') --end;  // JSON within JSON
    std::size_t begin = end;
    while (begin > 0 && end - begin < kMaxName && is_word(text[begin - 1])) --begin;
    return text.substr(begin, end - begin);
}

struct Range {
    std::size_t begin;
    std::size_t end;
};

// The value that begins after text[at], which is = or :.
static Range value_after(std::string_view text, std::size_t at, bool to_end_of_line) {
    std::size_t begin = at + 1;
    while (begin < text.size() && is_blank(text[begin])) ++begin;
    const bool escaped = begin + 1 < text.size() && text[begin] == '\\' &&
                         (text[begin + 1] == '"' || text[begin + 1] == '\'');
    if (escaped) ++begin;
    if (begin < text.size() && (text[begin] == '"' || text[begin] == '\'')) {
        const char quote = text[begin++];
        std::size_t end = begin;
        while (end < text.size() && text[end] != quote) {
            if (text[end] == '\\') {
                if (escaped && end + 1 < text.size() && text[end + 1] == quote) break;
                ++end;
            }
            ++end;
        }
        return {begin, std::min(end, text.size())};
    }
    const std::string_view stops = to_end_of_line ? "\r\n\"'" : " \t\r\n,;&)}]\"'<>";
    return {begin, std::min(text.find_first_of(stops, begin), text.size())};
}

// The password in the URL whose "://" is at text[at]; empty if there is none.
static Range password_of_url(std::string_view text, std::size_t at) {
    static constexpr std::size_t kMaxUrl = 256;  // looked at; the text may be hostile
    const std::size_t begin = at + 3;
    const std::string_view rest = text.substr(begin, kMaxUrl);
    const std::string_view authority = rest.substr(0, rest.find_first_of("/?# \t\r\n\"'<>`"));
    std::size_t sign = authority.rfind('@');
    const std::size_t colon = authority.find(':');
    if (colon == std::string_view::npos) return {at, at};
    if (sign == std::string_view::npos) {
        // A password with an unescaped slash in it? Not when a port stands there.
        const std::string_view port = authority.substr(colon + 1);
        if (port.find_first_not_of("0123456789") == std::string_view::npos) return {at, at};
        sign = rest.substr(0, rest.find_first_of(" \t\r\n\"'<>`")).rfind('@');
    }
    if (sign == std::string_view::npos || sign < colon) return {at, at};
    return {begin + colon + 1, begin + sign};
}

// `text` with *** in place of secrets.
static std::string redact(std::string_view text) {
    std::string result;
    std::size_t copied = 0;
    const auto replace = [&](Range range) {
        if (range.begin >= range.end || range.begin < copied) return false;
        result.append(text, copied, range.begin - copied);
        result += "***";
        copied = range.end;
        return true;
    };
    for (std::size_t i = text.find_first_of("=:"); i < text.size();
         i = text.find_first_of("=:", i + 1)) {
        if (text.substr(i, 3) == "://") {
            const Range range = password_of_url(text, i);
            if (replace(range)) i = range.end - 1;
            continue;
        }
        if (i + 1 < text.size() && text[i + 1] == text[i]) {  // == and :: name nothing
            ++i;
            continue;
        }
        const std::string_view name = name_before(text, i);
        if (name.empty() || !is_secret(name)) continue;
        // "Authorization: Bearer ..." goes on to the end of its line.
        const Range range = value_after(text, i, ends_with(name, "authorization"));
        if (replace(range)) i = range.end - 1;
    }
    result.append(text, copied);
    return result;
}

struct Utf8 {
    std::uint32_t code = 0;
    std::size_t size = 0;  // 0: not UTF-8
};

// The character at the front of `text`, which is not empty, by RFC 3629.
static Utf8 decode_utf8(std::string_view text) {
    const auto byte = [text](std::size_t i) -> std::uint32_t {
        return static_cast<unsigned char>(text[i]);
    };
    const std::uint32_t first = byte(0);
    if (first < 0x80) return {first, 1};
    const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || text.size() < size) return {};
    std::uint32_t code = first & (0x7fu >> size);
    for (std::size_t i = 1; i < size; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return {};
        code = (code << 6) | (byte(i) & 0x3f);
    }
    static constexpr std::uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    if (code < kSmallest[size] || code > 0x10ffff || surrogate) return {};
    return {code, size};
}

// What ends lines, moves the cursor or reorders what is shown, apart from ASCII: C1 controls,
// line and paragraph separators, bidirectional overrides.
static bool is_unsafe(std::uint32_t code) {
    return (code >= 0x80 && code <= 0x9f) || code == 0x2028 || code == 0x2029 ||
           (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

static void append_code(std::string& out, const char* format, std::uint32_t code) {
    char text[16];
    out.append(text, static_cast<std::size_t>(std::snprintf(text, sizeof text, format, code)));
}

// Appends `text` for a terminal: what could harm it as \n, \x1b or \u2028.
static void append_text(std::string& out, std::string_view text, LogText mode) {
    while (!text.empty()) {
        const Utf8 character = decode_utf8(text);
        const std::uint32_t code = character.code;
        if (character.size == 0) {
            append_code(out, "\\x%02x", static_cast<unsigned char>(text[0]));
        } else if (code == '\n') {
            out += mode == LogText::lines ? "\n    " : "\\n";
        } else if (code == '\r') {
            out += "\\r";
        } else if ((code < 0x20 && code != '\t') || code == 0x7f) {
            append_code(out, "\\x%02x", code);
        } else if (is_unsafe(code)) {
            append_code(out, "\\u%04x", code);
        } else {
            out.append(text, 0, character.size);
        }
        text.remove_prefix(std::max<std::size_t>(character.size, 1));
    }
}

// Appends `text` as a JSON string; what is not UTF-8 becomes U+FFFD.
static void append_json(std::string& out, std::string_view text) {
    out += '"';
    while (!text.empty()) {
        const Utf8 character = decode_utf8(text);
        const std::uint32_t code = character.code;
        if (character.size == 0) {
            out += "\\ufffd";
        } else if (code == '"' || code == '\\') {
            out += '\\';
            out += static_cast<char>(code);
        } else if (code == '\n') {
            out += "\\n";
        } else if (code < 0x20 || code == 0x7f || is_unsafe(code)) {
            append_code(out, "\\u%04x", code);
        } else {
            out.append(text, 0, character.size);
        }
        text.remove_prefix(std::max<std::size_t>(character.size, 1));
    }
    out += '"';
}

std::string Log::clean(std::string_view text, LogText mode) {
    std::string result;
    append_text(result, redact(text), mode);
    return result;
}

// The longest part of `text` of at most `limit` bytes that cuts no character.
static std::string_view cut(std::string_view text, std::size_t limit) {
    if (text.size() <= limit) return text;
    std::size_t size = limit;
    while (size > 0 && limit - size < 4 && (text[size] & 0xc0) == 0x80) --size;
    return text.substr(0, size);
}

// --- sinks; all of it on the log's thread ---

// Blocks until all of `data` is written to `fd` or it can't be. `closing` ends waiting.
static bool write_stream(int fd, bool is_socket, std::string_view data,
                         const std::atomic<bool>& closing) {
    while (!data.empty()) {
        pollfd ready{fd, POLLOUT, 0};
        const int count = poll(&ready, 1, kPollMs);
        if (count < 0 && errno != EINTR) return false;
        if (count <= 0) {
            if (closing.load()) return false;
            continue;
        }
        const std::size_t size = std::min<std::size_t>(data.size(), PIPE_BUF);
        const ssize_t written = is_socket ? send(fd, data.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL)
                                          : ::write(fd, data.data(), size);
        if (written < 0) {
            if (errno != EINTR && errno != EAGAIN) return false;
            if (closing.load()) return false;
            continue;
        }
        data.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

class StreamSink {
  public:
    StreamSink(int fd, const std::atomic<bool>& closing) : fd_(fd), closing_(closing) {
        struct stat status;
        is_socket_ = fd >= 0 && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
    }

    void append(std::string_view line) {
        if (fd_ >= 0) lines_ += line;
    }

    // False when it could not be written; it is lost then.
    bool flush() {
        if (lines_.empty()) return true;
        if (torn_) lines_.insert(0, "\n");
        torn_ = !write_stream(fd_, is_socket_, lines_, closing_);
        lines_.clear();
        return !torn_;
    }

  private:
    const int fd_;
    const std::atomic<bool>& closing_;
    bool is_socket_ = false;
    bool torn_ = false;  // the last write may have ended within a line
    std::string lines_;
};

// name.log, and the older name.1.log, name.2.log, ...
class FileSink {
  public:
    FileSink(std::string path, std::size_t max_bytes, std::size_t files)
        : path_(std::move(path)), max_bytes_(std::max<std::size_t>(max_bytes, 1)), files_(files) {}
    ~FileSink() {
        if (fd_ >= 0) close(fd_);
    }

    bool is_wanted() const { return !path_.empty(); }

    bool open() {
        // Without O_NONBLOCK a named pipe would hold us up here; files don't mind it.
        fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0640);
        if (fd_ < 0) return false;
        struct stat status;
        size_ = fstat(fd_, &status) == 0 ? static_cast<std::size_t>(status.st_size) : 0;
        return true;
    }

    // False when lines before this one were lost.
    bool append(std::string_view line) {
        if (!is_wanted()) return true;
        bool ok = true;
        if (size_ + lines_.size() + line.size() > max_bytes_ && size_ + lines_.size() > 0) {
            ok = flush();
            rotate();
        }
        lines_ += line;
        return ok;
    }

    bool flush() {
        if (lines_.empty()) return true;
        if (fd_ < 0) open();
        if (torn_) lines_.insert(0, "\n");
        std::string_view rest = lines_;
        while (!rest.empty()) {
            const ssize_t written = ::write(fd_, rest.data(), rest.size());
            if (written < 0 && errno == EINTR) continue;
            if (written <= 0) break;
            size_ += static_cast<std::size_t>(written);
            rest.remove_prefix(static_cast<std::size_t>(written));
        }
        torn_ = !rest.empty();
        lines_.clear();
        return !torn_;
    }

  private:
    std::string old_path(std::size_t number) const {
        if (number == 0) return path_;
        const std::filesystem::path path(path_);
        const std::string name =
            path.stem().string() + "." + std::to_string(number) + path.extension().string();
        return (path.parent_path() / name).string();
    }

    // A file that can't be renamed is written on, and this is tried again max_bytes later.
    void rotate() {
        struct stat status;
        if (fd_ >= 0 && fstat(fd_, &status) == 0 && !S_ISREG(status.st_mode)) {
            size_ = 0;
            return;
        }
        for (std::size_t number = files_; number > 0; --number) {
            ::rename(old_path(number - 1).c_str(), old_path(number).c_str());
        }
        if (files_ == 0) unlink(path_.c_str());
        if (fd_ >= 0) close(fd_);
        open();
        if (size_ > 0) size_ = 0;
        torn_ = false;
    }

    const std::string path_;
    const std::size_t max_bytes_;
    const std::size_t files_;
    int fd_ = -1;
    std::size_t size_ = 0;
    bool torn_ = false;
    std::string lines_;
};

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
    append_code(line, ".%03u", static_cast<std::uint32_t>(rest_ns / kNsPerMs));
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
