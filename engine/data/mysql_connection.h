// MysqlConnection: one connection to a MySQL or MariaDB server.
//
// Purpose:   MariaDB Connector/C's non-blocking calls in the order that a statement needs them,
// with
//            a cache of prepared statements; rows go to a sink as they come.
// Threads:   connect() and run() on a thread that may block; all else on one thread at a time. What
// it
//            waits for is somebody else's to watch (data/mysql.h).
// Ownership: owns the library's handle, its socket and its statements.
//
// One operation at a time. A failure of the network or of the protocol makes it `lost`: then only
// its destructor may be called.
#pragma once

#include <mariadb/mysql.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/mysql_options.h"
#include "data/mysql_packets.h"
#include "data/sql.h"

namespace perilune {

// A connection that is being made, for those who can't wait for it any longer.
class MysqlAttempt {
  public:
    explicit MysqlAttempt(int limit_ms);
    ~MysqlAttempt();
    MysqlAttempt(const MysqlAttempt&) = delete;
    MysqlAttempt& operator=(const MysqlAttempt&) = delete;

    // connect() fails soon, but for the look-up of a name. Any thread.
    void abort();
    // Waits for the library's socket on the thread that connects: as poll() returns.
    int wait(int descriptor, bool is_read);
    // The thread is done with it.
    void finish();

  private:
    const std::int64_t deadline_ns_;
    std::mutex mutex_;
    int descriptor_ = -1;   // of the same socket; guarded by mutex_
    bool aborted_ = false;  // guarded by mutex_
};

// What a server calls a connection, and how it can be told from one of another client.
struct MysqlSession {
    unsigned long id = 0;
    std::uint16_t port = 0;  // of our end
};

class MysqlConnection {
  public:
    // What an operation waits for: bits.
    static constexpr std::uint32_t kRead = MYSQL_WAIT_READ;
    static constexpr std::uint32_t kWrite = MYSQL_WAIT_WRITE;
    // It has worked long enough for once: proceed() without waiting for anything.
    static constexpr std::uint32_t kAgain = 1u << 16;

    explicit MysqlConnection(const MysqlOptions& options);
    ~MysqlConnection();  // an idle one says goodbye; never blocks
    MysqlConnection(const MysqlConnection&) = delete;
    MysqlConnection& operator=(const MysqlConnection&) = delete;

    // Blocks, `attempt` permitting. Once, before anything else.
    SqlResult connect(const MysqlOptions& options, MysqlAttempt& attempt);
    int descriptor() const { return descriptor_; }
    const MysqlSession& session() const { return session_; }
    // Blocks, too: a statement of the engine's own. Where it fails, use the connection no more.
    SqlResult run(std::string_view sql, RowSink& sink, MysqlAttempt& attempt);

    // Begins; go on with proceed(kAgain). Copies what it is given. Only when it isn't busy.
    void begin(const MysqlStatement& statement);
    // Goes as far as it can. 0: it is done, see result(); else what it waits for. `ready`: what
    // of that has come. Rows go to `sink`.
    std::uint32_t proceed(std::uint32_t ready, RowSink& sink);
    // What `sink` was told can't be kept: the operation is to end. proceed() once more.
    void refuse_rows(SqlCode code, std::string message);

    bool busy() const { return step_ != Step::none; }
    bool lost() const { return lost_; }
    // The server has sent what no server sends; then it is lost, too.
    bool malformed() const { return packets_.problem()[0] != '\0'; }
    const SqlResult& result() const { return result_; }

  private:
    enum class Step : std::uint8_t {
        none,
        query,       // text: sent, answer awaited
        text_rows,   // ... its rows
        next_text,   // ... the next of several results
        prepare,     // text sent, the statement's number awaited
        execute,     // values sent, answer awaited
        rows,        // ... its rows
        next_result  // ... the next of several results
    };
    struct Prepared {
        MYSQL_STMT* handle = nullptr;
        std::list<std::string>::iterator recent;  // in recent_
        MysqlColumns columns;
    };

    // Begins or goes on with a call of the library; false when that has to wait.
    template <typename Start, typename Continue>
    bool call(Start start, Continue go_on);

    SqlResult set_options(const MysqlOptions& options);
    void shut();
    SqlResult ask_packet_limit(MysqlAttempt& attempt);
    bool run_query();
    bool run_text_rows(RowSink& sink);
    bool run_next_text();
    bool run_prepare();
    bool run_execute(RowSink& sink);
    bool run_rows(RowSink& sink);
    bool run_next_result();

    void take_prepared();
    void keep_prepared(MYSQL_STMT* handle);
    void drop_prepared();
    bool bind();
    void begin_rows(const MYSQL_FIELD* fields, unsigned count, RowSink& sink);
    bool count_row();
    bool has_budget();
    bool give_text(const MYSQL_FIELD& field, std::string_view text, RowSink& sink);
    bool give_value(unsigned column, const MYSQL_FIELD& field, RowSink& sink);
    bool give_bytes(unsigned column, RowSink& sink, const MYSQL_FIELD& field);
    template <typename T>
    bool fetch(unsigned column, enum_field_types type, bool is_unsigned, T& value);

    void succeed();
    void fail(SqlResult result);
    void fail_with(unsigned native, const char* state, const char* message, bool sent);
    void fail_handle(bool sent);
    void fail_statement(bool sent);
    void fail_too_large();
    void note_outcome(std::uint64_t affected, std::uint64_t insert_id);
    void end_operation();

    const std::size_t max_statements_;
    const MysqlTls tls_;
    MYSQL mysql_;
    int descriptor_ = -1;
    MysqlSession session_;
    std::uint64_t max_packet_;  // what the server takes
    bool connected_ = false;
    bool lost_ = false;
    MysqlPackets packets_;

    // Of the operation.
    Step step_ = Step::none;
    bool in_call_ = false;         // the library has to be gone on with
    std::uint32_t waits_for_ = 0;  // what it wants
    std::uint32_t ready_ = 0;      // what of that has come
    std::string sql_;
    SqlValues values_;
    std::vector<MYSQL_BIND> binds_;
    bool prepared_again_ = false;
    bool drop_rows_ = false;  // of a second result
    RowMeter meter_;
    std::uint64_t budget_rows_ = 0;  // until has_budget() looks at the clock
    std::int64_t budget_until_ns_ = 0;
    MYSQL_RES* rows_ = nullptr;
    MYSQL_STMT* statement_ = nullptr;
    bool statement_kept_ = false;
    MysqlColumns* statement_columns_ = nullptr;
    MysqlColumns new_columns_;  // of a statement that isn't kept
    SqlResult result_;
    std::vector<char> scratch_;

    // Results of the library's calls, written while in_call_.
    int int_result_ = 0;
    MYSQL_ROW row_ = nullptr;

    std::unordered_map<std::string, Prepared> prepared_;
    std::list<std::string> recent_;  // their texts, the most recent first
};

}  // namespace perilune
