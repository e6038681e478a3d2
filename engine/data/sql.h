// SQL: what all databases have in common: values, rows, results.
//
// Purpose:   one form for parameters and answers, whoever gives them.
// Threads:   values; a sink is called by one thread at a time.
// Ownership: a SqlValue and what a sink is told refer to bytes of the caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace perilune {

// A parameter of a statement.
struct SqlValue {
    enum class Kind : std::uint8_t { null, integer, real, text, bytes };

    Kind kind = Kind::null;
    std::int64_t integer = 0;
    double real = 0;
    std::string_view bytes;  // of text, which is UTF-8, and of bytes
};

// Values with bytes of their own.
class SqlValues {
  public:
    SqlValues() = default;
    explicit SqlValues(std::span<const SqlValue> values);
    SqlValues(SqlValues&&) = default;
    SqlValues& operator=(SqlValues&&) = default;

    std::size_t size() const { return values_.size(); }
    SqlValue& operator[](std::size_t index) { return values_[index]; }

  private:
    std::vector<SqlValue> values_;
    std::vector<char> bytes_;  // not a string, whose bytes would move with it
};

// Who gets the rows of an answer.
class RowSink {
  public:
    virtual ~RowSink() = default;

    // Before the first row, also where there is none. Names stay valid during the call.
    virtual void columns(std::span<const std::string_view> names) = 0;
    virtual void begin_row() = 0;
    // The values of a row, in the order of its columns.
    virtual void null() = 0;
    virtual void integer(std::int64_t value) = 0;
    virtual void natural(std::uint64_t value) = 0;
    virtual void real(double value) = 0;
    virtual void text(std::string_view bytes) = 0;
    virtual void end_row() = 0;
};

// Gets the rows of an answer that nobody wants.
class NoRows : public RowSink {
  public:
    void columns(std::span<const std::string_view>) override {}
    void begin_row() override {}
    void null() override {}
    void integer(std::int64_t) override {}
    void natural(std::uint64_t) override {}
    void real(double) override {}
    void text(std::string_view) override {}
    void end_row() override {}
};

// How large an answer may be: rows, and the bytes of their values (8 for a number).
struct RowLimits {
    std::uint64_t rows = 0;
    std::uint64_t bytes = 0;
};

class RowMeter {
  public:
    explicit RowMeter(const RowLimits& limits = {}) : limits_(limits) {}

    // Counts one more; false when there are too many.
    bool add_row() { return ++rows_ <= limits_.rows; }
    bool add_bytes(std::uint64_t count) {
        bytes_ += count;
        return bytes_ <= limits_.bytes;
    }
    std::uint64_t rows() const { return rows_; }
    std::uint64_t bytes() const { return bytes_; }
    // "more than 100 rows"
    std::string over_text() const;

  private:
    RowLimits limits_;
    std::uint64_t rows_ = 0;
    std::uint64_t bytes_ = 0;
};

// What went wrong, in words that don't depend on the database.
enum class SqlCode : std::uint8_t {
    ok,
    timeout,      // not done in time
    unavailable,  // there is no connection, or it was lost
    overloaded,   // too many requests wait
    exists,       // a unique key is taken
    constraint,   // another constraint forbids it
    conflict,     // others hold the rows: the whole transaction may be tried again
    denied,       // a wrong password, or no privilege
    invalid,      // the statement or a value can't be
    too_large,    // over a limit in rows or bytes
    error,        // something else that the database says
};

// As Lua spells it.
const char* sql_code_name(SqlCode code);

// How a statement ended.
struct SqlResult {
    SqlCode code = SqlCode::ok;
    std::uint64_t affected = 0;   // rows that the statement was about, changed or not
    std::uint64_t insert_id = 0;  // of the last row that was given a key; 0: none
    bool in_transaction = false;  // one is open now
    bool has_rows = false;        // it had columns

    // Of a failure.
    std::string message;    // the database's own words, where it has said something
    int native = 0;         // its own number for it; 0: it has said nothing
    char sqlstate[6] = {};  // "" where there is none
    bool unknown = false;   // it may have taken effect, or not
    bool lost = false;      // the connection can't be used any more

    bool ok() const { return code == SqlCode::ok; }
    static SqlResult failure(SqlCode code, std::string message);
};

}  // namespace perilune
