#include "data/mysql_connection.h"

#include <fcntl.h>
#include <mariadb/errmsg.h>
#include <mariadb/mysqld_error.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/clock.h"
#include "data/mysql_error.h"
#include "data/mysql_filter.h"

namespace perilune {

namespace {

// Of the library's own coroutine: a malloc that takes memory only where it is touched.
constexpr std::size_t kStackBytes = 256 * 1024;
constexpr unsigned long kMaxPacket = 64ul << 20;
// Texts of statements that are worth keeping.
constexpr std::size_t kMaxKeptText = 8 * 1024;
constexpr std::size_t kScratchBytes = 4 * 1024;
constexpr std::size_t kKeptScratch = 64 * 1024;
constexpr std::uint64_t kNumberBytes = 8;
// Rows of an answer that are handled before others are let in.
constexpr std::int64_t kBudgetNs = 2 * kNsPerMs;
constexpr std::uint64_t kBudgetRows = 64;
// How a password may be proven. Not in the clear: any server could ask for that.
constexpr const char* kAllowedAuth =
    "mysql_native_password,caching_sha2_password,client_ed25519,sha256_password";

// The attempt of the thread that connects; null everywhere else, where nothing may block.
thread_local MysqlAttempt* current_attempt = nullptr;

int wait_for_socket(my_socket descriptor, my_bool is_read, int) {
    if (current_attempt != nullptr) return current_attempt->wait(descriptor, is_read != 0);
    errno = ETIMEDOUT;
    return 0;
}

// Of a connected socket; 0: it has none.
std::uint16_t local_port(int descriptor) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    if (::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
    if (address.ss_family == AF_INET6) {
        return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
    }
    return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// "2024-02-29 12:34:56.123", with as many digits as the column has.
std::string_view date_text(const MYSQL_TIME& time, const MYSQL_FIELD& field, char (&text)[64]) {
    int size = 0;
    if (field.type == MYSQL_TYPE_TIME) {
        size = std::snprintf(text, sizeof text, "%s%02u:%02u:%02u", time.neg ? "-" : "",
                             time.day * 24 + time.hour, time.minute, time.second);
    } else {
        size = std::snprintf(text, sizeof text, "%04u-%02u-%02u", time.year, time.month, time.day);
        if (field.type == MYSQL_TYPE_DATE || field.type == MYSQL_TYPE_NEWDATE) {
            return {text, static_cast<std::size_t>(size)};
        }
        size += std::snprintf(text + size, sizeof text - static_cast<std::size_t>(size),
                              " %02u:%02u:%02u", time.hour, time.minute, time.second);
    }
    const unsigned digits = field.decimals <= 6 ? field.decimals : time.second_part != 0 ? 6 : 0;
    if (digits > 0) {
        std::snprintf(text + size, sizeof text - static_cast<std::size_t>(size), ".%06lu",
                      time.second_part);
        size += 1 + static_cast<int>(digits);
    }
    return {text, static_cast<std::size_t>(size)};
}

// The single number of an answer.
class OneNumber final : public NoRows {
  public:
    void integer(std::int64_t number) override { natural(static_cast<std::uint64_t>(number)); }
    void natural(std::uint64_t number) override { value = number; }
    std::uint64_t value = 0;
};

// What a statement takes on its way, a little more than less.
std::size_t size_of(const MysqlStatement& statement) {
    constexpr std::size_t kHead = 64;
    constexpr std::size_t kOfValue = 20;  // its type, its length or the number itself
    std::size_t values = 0;
    for (const SqlValue& value : statement.values) values += kOfValue + value.bytes.size();
    return kHead + std::max(statement.sql.size(), values);  // one is sent after the other
}

// The number that people mean who write 0.1 into a FLOAT.
double shortest(float value) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value);
    double result = value;
    std::from_chars(text, end.ptr, result);
    return result;
}

std::uint64_t bits_of(std::string_view bytes) {
    std::uint64_t value = 0;
    for (const char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
    return value;
}

void give_integer(const MYSQL_FIELD& field, std::uint64_t value, RowSink& sink) {
    if ((field.flags & UNSIGNED_FLAG) != 0) {
        sink.natural(value);
    } else {
        sink.integer(static_cast<std::int64_t>(value));
    }
}

}  // namespace

// ---- attempts ----

MysqlAttempt::MysqlAttempt(int limit_ms)
    : deadline_ns_(RealClock::monotonic() + limit_ms * kNsPerMs) {}

MysqlAttempt::~MysqlAttempt() { finish(); }

void MysqlAttempt::finish() {
    const std::lock_guard lock(mutex_);
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

void MysqlAttempt::abort() {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    if (descriptor_ >= 0) ::shutdown(descriptor_, SHUT_RDWR);
}

int MysqlAttempt::wait(int descriptor, bool is_read) {
    {
        const std::lock_guard lock(mutex_);
        // A descriptor of our own: the library may close its at any time.
        if (descriptor_ < 0) descriptor_ = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
        if (aborted_) return -1;
    }
    pollfd waited{descriptor, static_cast<short>(is_read ? POLLIN : POLLOUT), 0};
    int result = 0;
    do {
        const std::int64_t left = (deadline_ns_ - RealClock::monotonic()) / kNsPerMs;
        result = ::poll(&waited, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
    } while (result < 0 && errno == EINTR);
    if (result == 0) errno = ETIMEDOUT;
    return result;
}

// ---- connecting ----

MysqlConnection::MysqlConnection(const MysqlOptions& options)
    : max_statements_(options.statements),
      tls_(options.tls),
      max_packet_(kMaxPacket),
      packets_(options.tls != MysqlTls::off) {
    ::mysql_init(&mysql_);
}

MysqlConnection::~MysqlConnection() {
    if (connected_ && (busy() || lost_)) {
        // What the library has begun ends by itself now, and frees what it holds.
        shut();
        NoRows nobody;
        while (busy()) (void)proceed(kRead | kWrite, nobody);
    }
    ::mysql_close(&mysql_);
    // Without a connection, so that nothing is sent for each.
    if (statement_ != nullptr && !statement_kept_) ::mysql_stmt_close(statement_);
    for (const auto& [text, prepared] : prepared_) ::mysql_stmt_close(prepared.handle);
}

// The library closes its socket where it is lost, and another thread gets the number.
void MysqlConnection::shut() {
    const my_socket descriptor = ::mysql_get_socket(&mysql_);
    if (descriptor != MARIADB_INVALID_SOCKET) ::shutdown(descriptor, SHUT_RDWR);
}

SqlResult MysqlConnection::set_options(const MysqlOptions& options) {
    const my_bool on = 1;
    const my_bool off = 0;
    const unsigned none = 0;
    const unsigned protocol = MYSQL_PROTOCOL_TCP;
    // The attempt ends it at the millisecond; these make the library ask it wherever it waits.
    const auto seconds = static_cast<unsigned>(options.connect_ms / 1000 + 1);
    const unsigned long packet = kMaxPacket;
    const auto set = [this](mysql_option option, const void* value) {
        return ::mysql_options(&mysql_, option, value) == 0;
    };
    bool good = set(MYSQL_OPT_NONBLOCK, &kStackBytes) && set(MYSQL_OPT_PROTOCOL, &protocol) &&
                set(MYSQL_SET_CHARSET_NAME, "utf8mb4") && set(MYSQL_OPT_RECONNECT, &off) &&
                set(MYSQL_OPT_LOCAL_INFILE, &none) && set(MYSQL_OPT_CONNECT_TIMEOUT, &seconds) &&
                set(MYSQL_OPT_READ_TIMEOUT, &seconds) && set(MYSQL_OPT_WRITE_TIMEOUT, &seconds) &&
                set(MYSQL_OPT_MAX_ALLOWED_PACKET, &packet) &&
                ::mysql_optionsv(&mysql_, MARIADB_OPT_RESTRICTED_AUTH, kAllowedAuth) == 0 &&
                ::mysql_optionsv(&mysql_, MARIADB_OPT_IO_WAIT,
                                 reinterpret_cast<void*>(wait_for_socket)) == 0;
    if (tls_ != MysqlTls::off) good = good && set(MYSQL_OPT_SSL_ENFORCE, &on);
    if (tls_ == MysqlTls::on) {
        good = good && set(MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &on);
        if (!options.ca.empty()) good = good && set(MYSQL_OPT_SSL_CA, options.ca.c_str());
    }
    if (!options.certificate.empty()) {
        good = good && set(MYSQL_OPT_SSL_CERT, options.certificate.c_str());
    }
    if (!options.key.empty()) good = good && set(MYSQL_OPT_SSL_KEY, options.key.c_str());
    good = good && install_mysql_filter(&mysql_);
    if (good) return {};
    return SqlResult::failure(SqlCode::error, "the library for MySQL refuses an option");
}

SqlResult MysqlConnection::connect(const MysqlOptions& options, MysqlAttempt& attempt) {
    if (SqlResult set = set_options(options); !set.ok()) return set;
    // Rows that an UPDATE is about count also where they don't change, as in other databases.
    const unsigned long flags = CLIENT_FOUND_ROWS | CLIENT_MULTI_RESULTS;
    ::ERR_clear_error();
    const MysqlFilterScope scope(packets_);
    current_attempt = &attempt;
    const char* database = options.database.empty() ? nullptr : options.database.c_str();
    const MYSQL* made =
        ::mysql_real_connect(&mysql_, options.host.c_str(), options.user.c_str(),
                             options.password.c_str(), database, options.port, nullptr, flags);
    current_attempt = nullptr;
    if (made == nullptr) {
        attempt.finish();
        fail_handle(false);
        return result_;
    }
    connected_ = true;
    descriptor_ = ::mysql_get_socket(&mysql_);
    session_ = {::mysql_thread_id(&mysql_), local_port(descriptor_)};
    // The library would speak plainly to a server that can't do TLS.
    if (tls_ != MysqlTls::off && ::mysql_get_ssl_cipher(&mysql_) == nullptr) {
        return SqlResult::failure(SqlCode::unavailable, "the server does not offer TLS");
    }
    // The library reads TLS by read(), and takes the socket for a blocking one now.
    ::fcntl(descriptor_, F_SETFL, ::fcntl(descriptor_, F_GETFL) | O_NONBLOCK);
    ::fcntl(descriptor_, F_SETFD, FD_CLOEXEC);
    const SqlResult asked = ask_packet_limit(attempt);
    attempt.finish();
    return asked;
}

// What is larger a server answers by an error, and closes the connection before that is read.
SqlResult MysqlConnection::ask_packet_limit(MysqlAttempt& attempt) {
    OneNumber answer;
    const SqlResult asked = run("SELECT @@max_allowed_packet", answer, attempt);
    if (busy() || lost_) return asked;
    if (answer.value > 0) max_packet_ = std::min<std::uint64_t>(kMaxPacket, answer.value);
    return {};
}

SqlResult MysqlConnection::run(std::string_view sql, RowSink& sink, MysqlAttempt& attempt) {
    MysqlStatement statement;
    statement.sql = sql;
    statement.limits = {1000, 1 << 20};
    begin(statement);
    std::uint32_t ready = kRead | kWrite;
    while (const std::uint32_t wanted = proceed(ready, sink)) {
        ready = wanted;
        if (wanted != kAgain && attempt.wait(descriptor_, (wanted & kRead) != 0) <= 0) {
            return SqlResult::failure(SqlCode::timeout, "not done in time");
        }
    }
    return result_;
}

// ---- an operation ----

void MysqlConnection::begin(const MysqlStatement& statement) {
    result_ = SqlResult();
    sql_ = statement.sql;
    meter_ = RowMeter(statement.limits);
    values_ = SqlValues(statement.values);
    drop_rows_ = false;
    prepared_again_ = false;
    if (const std::size_t size = size_of(statement); size > max_packet_) {
        fail(SqlResult::failure(SqlCode::too_large, "the statement has " + std::to_string(size) +
                                                        " bytes, and the server takes " +
                                                        std::to_string(max_packet_) +
                                                        " (max_allowed_packet)"));
        return;
    }
    if (statement.prepared || values_.size() > 0) {
        take_prepared();
    } else {
        step_ = Step::query;
    }
}

std::uint32_t MysqlConnection::proceed(std::uint32_t ready, RowSink& sink) {
    const MysqlFilterScope scope(packets_);
    ready_ = ready & (kRead | kWrite);
    if (in_call_ && ready_ == 0) return waits_for_;
    budget_rows_ = kBudgetRows;
    budget_until_ns_ = 0;
    bool goes_on = true;
    while (goes_on) {
        switch (step_) {
            case Step::none: return 0;
            case Step::query: goes_on = run_query(); break;
            case Step::text_rows: goes_on = run_text_rows(sink); break;
            case Step::next_text: goes_on = run_next_text(); break;
            case Step::prepare: goes_on = run_prepare(); break;
            case Step::execute: goes_on = run_execute(sink); break;
            case Step::rows: goes_on = run_rows(sink); break;
            case Step::next_result: goes_on = run_next_result(); break;
        }
    }
    return waits_for_;
}

template <typename Start, typename Continue>
bool MysqlConnection::call(Start start, Continue go_on) {
    // What another connection has left there would be taken for this one's.
    if (tls_ != MysqlTls::off) ::ERR_clear_error();
    const int waits = in_call_ ? go_on(static_cast<int>(ready_)) : start();
    in_call_ = waits != 0;
    waits_for_ = static_cast<std::uint32_t>(waits) & (kRead | kWrite);
    return !in_call_;
}

// Whether another row may be handled now.
bool MysqlConnection::has_budget() {
    if (in_call_ || --budget_rows_ > 0) return true;
    budget_rows_ = kBudgetRows;
    const std::int64_t now = RealClock::monotonic();
    if (budget_until_ns_ == 0) budget_until_ns_ = now + kBudgetNs;
    if (now < budget_until_ns_) return true;
    waits_for_ = kAgain;
    return false;
}

// ---- statements as text ----

bool MysqlConnection::run_query() {
    if (!in_call_) packets_.expect(MysqlPackets::Answer::query);
    const auto size = static_cast<unsigned long>(sql_.size());
    if (!call([&] { return ::mysql_real_query_start(&int_result_, &mysql_, sql_.data(), size); },
              [&](int ready) { return ::mysql_real_query_cont(&int_result_, &mysql_, ready); })) {
        return false;
    }
    if (int_result_ != 0) {
        fail_handle(true);
        return true;
    }
    note_outcome(::mysql_affected_rows(&mysql_), ::mysql_insert_id(&mysql_));
    step_ = Step::text_rows;
    return true;
}

bool MysqlConnection::run_text_rows(RowSink& sink) {
    if (rows_ == nullptr) {
        if (::mysql_field_count(&mysql_) == 0) {
            step_ = Step::next_text;
            return true;
        }
        rows_ = ::mysql_use_result(&mysql_);
        if (rows_ == nullptr) {
            fail_handle(true);
            return true;
        }
        begin_rows(::mysql_fetch_fields(rows_), ::mysql_num_fields(rows_), sink);
    }
    if (!has_budget()) return false;
    if (!call([&] { return ::mysql_fetch_row_start(&row_, rows_); },
              [&](int ready) { return ::mysql_fetch_row_cont(&row_, rows_, ready); })) {
        return false;
    }
    if (row_ == nullptr) {
        if (::mysql_errno(&mysql_) != 0) {
            fail_handle(true);
            return true;
        }
        ::mysql_free_result(std::exchange(rows_, nullptr));
        step_ = Step::next_text;
        return true;
    }
    if (drop_rows_) return true;
    if (!count_row()) return true;
    const unsigned long* lengths = ::mysql_fetch_lengths(rows_);
    const MYSQL_FIELD* fields = ::mysql_fetch_fields(rows_);
    sink.begin_row();
    for (unsigned i = 0; i < ::mysql_num_fields(rows_); ++i) {
        if (row_[i] == nullptr) {
            sink.null();
        } else if (!give_text(fields[i], {row_[i], lengths[i]}, sink)) {
            return true;
        }
    }
    sink.end_row();
    return true;
}

bool MysqlConnection::run_next_text() {
    if (!in_call_ && ::mysql_more_results(&mysql_) == 0) {
        succeed();
        return true;
    }
    if (!call([&] { return ::mysql_next_result_start(&int_result_, &mysql_); },
              [&](int ready) { return ::mysql_next_result_cont(&int_result_, &mysql_, ready); })) {
        return false;
    }
    if (int_result_ > 0) {
        fail_handle(true);
    } else if (int_result_ < 0) {
        succeed();
    } else {
        drop_rows_ = result_.has_rows;
        step_ = Step::text_rows;
    }
    return true;
}

// ---- prepared statements ----

void MysqlConnection::take_prepared() {
    const auto found = prepared_.find(sql_);
    if (found != prepared_.end()) {
        recent_.splice(recent_.begin(), recent_, found->second.recent);
        statement_ = found->second.handle;
        statement_kept_ = true;
        statement_columns_ = &found->second.columns;
        step_ = Step::execute;
        return;
    }
    statement_ = ::mysql_stmt_init(&mysql_);
    statement_kept_ = false;
    statement_columns_ = &new_columns_;
    step_ = Step::prepare;
    if (statement_ == nullptr) fail_handle(false);
}

bool MysqlConnection::run_prepare() {
    if (!in_call_) packets_.expect(MysqlPackets::Answer::prepare, statement_columns_);
    const auto size = static_cast<unsigned long>(sql_.size());
    if (!call(
            [&] { return ::mysql_stmt_prepare_start(&int_result_, statement_, sql_.data(), size); },
            [&](int ready) {
                return ::mysql_stmt_prepare_cont(&int_result_, statement_, ready);
            })) {
        return false;
    }
    if (int_result_ != 0) {
        fail_statement(false);
        return true;
    }
    keep_prepared(statement_);
    step_ = Step::execute;
    return true;
}

void MysqlConnection::keep_prepared(MYSQL_STMT* handle) {
    if (max_statements_ == 0 || sql_.size() > kMaxKeptText) return;
    if (prepared_.size() >= max_statements_) {
        const auto oldest = prepared_.find(recent_.back());
        ::mysql_stmt_close(oldest->second.handle);  // sends a few bytes that nobody answers
        prepared_.erase(oldest);
        recent_.pop_back();
    }
    recent_.push_front(sql_);
    Prepared& kept = prepared_[sql_];
    kept = {handle, recent_.begin(), std::move(new_columns_)};
    statement_columns_ = &kept.columns;
    statement_kept_ = true;
}

// The server knows the statement no more.
void MysqlConnection::drop_prepared() {
    const auto found = prepared_.find(sql_);
    if (statement_kept_ && found != prepared_.end()) {
        recent_.erase(found->second.recent);
        prepared_.erase(found);
    }
    ::mysql_stmt_close(std::exchange(statement_, nullptr));
    statement_kept_ = false;
}

// Hands the values to the library; fails the operation when there are too many or too few.
bool MysqlConnection::bind() {
    const std::size_t wanted = ::mysql_stmt_param_count(statement_);
    if (wanted != values_.size()) {
        fail(SqlResult::failure(SqlCode::invalid, "the statement has " + std::to_string(wanted) +
                                                      " ?, and " + std::to_string(values_.size()) +
                                                      " values were given"));
        return false;
    }
    binds_.assign(values_.size(), MYSQL_BIND{});
    for (std::size_t i = 0; i < values_.size(); ++i) {
        SqlValue& value = values_[i];
        MYSQL_BIND& target = binds_[i];
        switch (value.kind) {
            case SqlValue::Kind::null: target.buffer_type = MYSQL_TYPE_NULL; break;
            case SqlValue::Kind::integer:
                target.buffer_type = MYSQL_TYPE_LONGLONG;
                target.buffer = &value.integer;
                break;
            case SqlValue::Kind::real:
                target.buffer_type = MYSQL_TYPE_DOUBLE;
                target.buffer = &value.real;
                break;
            case SqlValue::Kind::text:
            case SqlValue::Kind::bytes:
                target.buffer_type =
                    value.kind == SqlValue::Kind::text ? MYSQL_TYPE_STRING : MYSQL_TYPE_BLOB;
                target.buffer = const_cast<char*>(value.bytes.data());
                target.length_value = static_cast<unsigned long>(value.bytes.size());
                target.length = &target.length_value;
                break;
        }
    }
    if (::mysql_stmt_bind_param(statement_, binds_.data()) == 0) return true;
    fail_statement(false);
    return false;
}

bool MysqlConnection::run_execute(RowSink& sink) {
    if (!in_call_) {
        if (!bind()) return true;
        // Else the library keeps the names and the number of columns that were when it was
        // prepared, and tables change.
        statement_->field_count = 0;
        packets_.expect(MysqlPackets::Answer::execute, statement_columns_);
    }
    if (!call([&] { return ::mysql_stmt_execute_start(&int_result_, statement_); },
              [&](int ready) {
                  return ::mysql_stmt_execute_cont(&int_result_, statement_, ready);
              })) {
        return false;
    }
    if (int_result_ != 0) {
        const unsigned native = ::mysql_stmt_errno(statement_);
        const bool stale = native == ER_NEED_REPREPARE || native == ER_UNKNOWN_STMT_HANDLER;
        if (stale && !std::exchange(prepared_again_, true)) {
            drop_prepared();
            take_prepared();
            return true;
        }
        fail_statement(true);
        return true;
    }
    note_outcome(::mysql_stmt_affected_rows(statement_), ::mysql_stmt_insert_id(statement_));
    if (statement_->field_count == 0) {
        step_ = Step::next_result;
        return true;
    }
    begin_rows(statement_->fields, statement_->field_count, sink);
    step_ = Step::rows;
    return true;
}

bool MysqlConnection::run_rows(RowSink& sink) {
    if (!has_budget()) return false;
    if (!call(
            [&] { return ::mysql_stmt_fetch_start(&int_result_, statement_); },
            [&](int ready) { return ::mysql_stmt_fetch_cont(&int_result_, statement_, ready); })) {
        return false;
    }
    if (int_result_ == MYSQL_NO_DATA) {
        // What the packet behind the last row says of the connection, which the library reads
        // only where it keeps all rows: 0xfe, warnings and status with two bytes each.
        const unsigned char* packet = mysql_.net.read_pos;
        if (packet[0] == 0xfe) {
            mysql_.server_status = packet[3] | static_cast<unsigned>(packet[4]) << 8;
        }
        step_ = Step::next_result;
        return true;
    }
    if (int_result_ != 0 && int_result_ != MYSQL_DATA_TRUNCATED) {
        fail_statement(true);
        return true;
    }
    if (drop_rows_) return true;
    if (!count_row()) return true;
    sink.begin_row();
    for (unsigned i = 0; i < statement_->field_count; ++i) {
        if (!give_value(i, statement_->fields[i], sink)) return true;
    }
    sink.end_row();
    return true;
}

bool MysqlConnection::run_next_result() {
    if (!in_call_ && ::mysql_stmt_more_results(statement_) == 0) {
        succeed();
        return true;
    }
    if (!call([&] { return ::mysql_stmt_next_result_start(&int_result_, statement_); },
              [&](int ready) {
                  return ::mysql_stmt_next_result_cont(&int_result_, statement_, ready);
              })) {
        return false;
    }
    if (int_result_ > 0) {
        fail_statement(true);
    } else if (int_result_ < 0) {
        succeed();
    } else if (statement_->field_count > 0) {
        drop_rows_ = true;
        step_ = Step::rows;
    }
    return true;
}

// ---- rows ----

void MysqlConnection::begin_rows(const MYSQL_FIELD* fields, unsigned count, RowSink& sink) {
    if (drop_rows_) return;
    result_.has_rows = true;
    std::vector<std::string_view> names;
    names.reserve(count);
    // The library keeps a name up to a zero, and the length of all of it.
    for (unsigned i = 0; i < count; ++i) names.emplace_back(fields[i].name);
    sink.columns(names);
}

bool MysqlConnection::count_row() {
    if (meter_.add_row()) return true;
    fail_too_large();
    return false;
}

// A value of a statement that was sent as text.
bool MysqlConnection::give_text(const MYSQL_FIELD& field, std::string_view text, RowSink& sink) {
    const char* end = text.data() + text.size();
    switch (field.type) {
        case MYSQL_TYPE_TINY:
        case MYSQL_TYPE_SHORT:
        case MYSQL_TYPE_INT24:
        case MYSQL_TYPE_LONG:
        case MYSQL_TYPE_LONGLONG:
        case MYSQL_TYPE_YEAR: {
            std::int64_t value = 0;
            std::uint64_t natural = 0;
            const bool is_unsigned = (field.flags & UNSIGNED_FLAG) != 0;
            const auto read = is_unsigned ? std::from_chars(text.data(), end, natural)
                                          : std::from_chars(text.data(), end, value);
            if (read.ptr != end) break;
            give_integer(field, is_unsigned ? natural : static_cast<std::uint64_t>(value), sink);
            return meter_.add_bytes(kNumberBytes) || (fail_too_large(), false);
        }
        case MYSQL_TYPE_FLOAT:
        case MYSQL_TYPE_DOUBLE: {
            double value = 0;
            if (std::from_chars(text.data(), end, value).ptr != end) break;
            sink.real(value);
            return meter_.add_bytes(kNumberBytes) || (fail_too_large(), false);
        }
        case MYSQL_TYPE_BIT:
            sink.natural(bits_of(text));
            return meter_.add_bytes(kNumberBytes) || (fail_too_large(), false);
        default: break;
    }
    if (!meter_.add_bytes(text.size())) {
        fail_too_large();
        return false;
    }
    sink.text(text);
    return true;
}

// A column of the current row as the library converts it. False for NULL.
template <typename T>
bool MysqlConnection::fetch(unsigned column, enum_field_types type, bool is_unsigned, T& value) {
    MYSQL_BIND target{};
    my_bool is_null = 0;
    target.buffer_type = type;
    target.buffer = &value;
    target.buffer_length = sizeof value;
    target.is_unsigned = is_unsigned;
    target.is_null = &is_null;
    return ::mysql_stmt_fetch_column(statement_, &target, column, 0) == 0 && is_null == 0;
}

bool MysqlConnection::give_value(unsigned column, const MYSQL_FIELD& field, RowSink& sink) {
    switch (field.type) {
        case MYSQL_TYPE_TINY:
        case MYSQL_TYPE_SHORT:
        case MYSQL_TYPE_INT24:
        case MYSQL_TYPE_LONG:
        case MYSQL_TYPE_LONGLONG:
        case MYSQL_TYPE_YEAR: {
            std::uint64_t value = 0;
            const bool is_unsigned = (field.flags & UNSIGNED_FLAG) != 0;
            if (fetch(column, MYSQL_TYPE_LONGLONG, is_unsigned, value)) {
                give_integer(field, value, sink);
            } else {
                sink.null();
            }
            break;
        }
        case MYSQL_TYPE_FLOAT: {
            float value = 0;
            fetch(column, MYSQL_TYPE_FLOAT, false, value) ? sink.real(shortest(value))
                                                          : sink.null();
            break;
        }
        case MYSQL_TYPE_DOUBLE: {
            double value = 0;
            fetch(column, MYSQL_TYPE_DOUBLE, false, value) ? sink.real(value) : sink.null();
            break;
        }
        case MYSQL_TYPE_DATE:
        case MYSQL_TYPE_NEWDATE:
        case MYSQL_TYPE_DATETIME:
        case MYSQL_TYPE_TIMESTAMP:
        case MYSQL_TYPE_TIME: {
            MYSQL_TIME time{};
            char text[64];
            if (fetch(column, field.type, false, time)) {
                sink.text(date_text(time, field, text));
            } else {
                sink.null();
            }
            break;
        }
        default: return give_bytes(column, sink, field);
    }
    return meter_.add_bytes(kNumberBytes) || (fail_too_large(), false);
}

bool MysqlConnection::give_bytes(unsigned column, RowSink& sink, const MYSQL_FIELD& field) {
    if (scratch_.empty()) scratch_.resize(kScratchBytes);
    for (;;) {
        MYSQL_BIND target{};
        my_bool is_null = 0;
        unsigned long size = 0;
        target.buffer_type = MYSQL_TYPE_BLOB;
        target.buffer = scratch_.data();
        target.buffer_length = static_cast<unsigned long>(scratch_.size());
        target.length = &size;
        target.is_null = &is_null;
        if (::mysql_stmt_fetch_column(statement_, &target, column, 0) != 0 || is_null != 0) {
            sink.null();
            return true;
        }
        if (size <= scratch_.size()) {
            if (!meter_.add_bytes(size)) break;
            const std::string_view bytes(scratch_.data(), size);
            if (field.type == MYSQL_TYPE_BIT) {
                sink.natural(bits_of(bytes));
            } else {
                sink.text(bytes);
            }
            return true;
        }
        if (size > kMaxPacket) break;
        scratch_.resize(size);
    }
    fail_too_large();
    return false;
}

// ---- ends ----

void MysqlConnection::note_outcome(std::uint64_t affected, std::uint64_t insert_id) {
    result_.affected = affected == MYSQL_COUNT_ERROR ? 0 : affected;
    result_.insert_id = insert_id;
}

void MysqlConnection::succeed() {
    result_.in_transaction = (mysql_.server_status & SERVER_STATUS_IN_TRANS) != 0;
    if (result_.has_rows) result_.affected = 0;
    end_operation();
}

void MysqlConnection::fail(SqlResult result) {
    result.in_transaction = (mysql_.server_status & SERVER_STATUS_IN_TRANS) != 0 &&
                            std::strncmp(result.sqlstate, "40", 2) != 0;
    result_ = std::move(result);
    lost_ = lost_ || result_.lost;
    end_operation();
}

void MysqlConnection::fail_with(unsigned native, const char* state, const char* message,
                                bool sent) {
    SqlResult result = SqlResult::failure(mysql_code(native, state), message);
    result.native = static_cast<int>(native);
    std::snprintf(result.sqlstate, sizeof result.sqlstate, "%s", state);
    result.lost = native == 0 || mysql_ends_connection(native);
    result.unknown = sent && (native == 0 || mysql_leaves_unknown(native));
    if (result.message.empty()) result.message = "the server's answer can't be read";
    if (malformed()) {
        result.message = "what the server sent is malformed: " + std::string(packets_.problem());
    }
    fail(std::move(result));
}

void MysqlConnection::fail_handle(bool sent) {
    fail_with(::mysql_errno(&mysql_), ::mysql_sqlstate(&mysql_), ::mysql_error(&mysql_), sent);
}

void MysqlConnection::fail_statement(bool sent) {
    // What went wrong while rows were read is told by the handle alone.
    if (::mysql_stmt_errno(statement_) == 0) return fail_handle(sent);
    fail_with(::mysql_stmt_errno(statement_), ::mysql_stmt_sqlstate(statement_),
              ::mysql_stmt_error(statement_), sent);
}

// The rest of the rows is not waited for.
void MysqlConnection::fail_too_large() {
    refuse_rows(SqlCode::too_large, "the answer has " + meter_.over_text());
}

void MysqlConnection::refuse_rows(SqlCode code, std::string message) {
    SqlResult result = SqlResult::failure(code, std::move(message));
    result.lost = true;
    result.unknown = true;
    fail(std::move(result));
}

void MysqlConnection::end_operation() {
    step_ = Step::none;
    in_call_ = false;
    waits_for_ = 0;
    // Nothing is read for what is freed here.
    if (lost_ && connected_) shut();
    if (rows_ != nullptr) ::mysql_free_result(std::exchange(rows_, nullptr));
    if (statement_ != nullptr && !lost_) {
        if (!statement_kept_) ::mysql_stmt_close(statement_);
        statement_ = nullptr;
    }
    if (scratch_.size() > kKeptScratch) std::vector<char>().swap(scratch_);
    values_ = SqlValues();
}

}  // namespace perilune
