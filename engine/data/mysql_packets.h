// MysqlPackets: looks at what a MySQL server sends before MariaDB Connector/C does.
//
// Purpose:   Connector/C believes a server: lengths that lead out of a packet, strings that are
//            missing or types that it doesn't know end the process. This follows the protocol on
//            its way and refuses what Connector/C can't take; then the read fails, and with it the
//            connection alone.
// Threads:   one at a time.
// Ownership: keeps what has come of a small packet (64 KB) and nothing of a row but where it is;
//            refers to the columns of a statement that it is given.
//
// It is as strict as Connector/C needs it: what that doesn't look at, such as the number of a
// packet, isn't looked at here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace perilune {

// The types of the columns of a result.
using MysqlColumns = std::vector<std::uint8_t>;

// One row in any pieces.
class MysqlRow {
  public:
    // `columns` have to stay until its end.
    void begin(const MysqlColumns& columns, bool binary);
    // False where it has more than its columns, or what no value can be.
    bool feed(std::string_view bytes);
    bool complete() const;

  private:
    bool read_start(std::string_view& bytes);
    bool read_text_head(std::string_view& bytes);
    bool read_binary_head(std::string_view& bytes);
    bool read_length(std::string_view& bytes, bool can_be_null);
    void pass_nulls();

    const MysqlColumns* columns_ = nullptr;
    bool binary_ = false;
    std::size_t column_ = 0;  // whose value is next
    std::uint64_t skip_ = 0;  // bytes of a value that are still to come
    std::array<std::uint8_t, 9> head_{};
    std::size_t head_size_ = 0;        // what has come of a length
    std::vector<std::uint8_t> start_;  // of a binary row: a zero, and which columns are null
};

class MysqlPackets {
  public:
    static constexpr std::size_t kMaxSmall = 64 * 1024;       // of a packet that is no row
    static constexpr std::size_t kMaxColumns = 4096;          // as servers have it
    static constexpr std::size_t kMaxDefinitions = 16 << 20;  // bytes of an answer's columns

    enum class Answer : std::uint8_t { query, prepare, execute };

    // `tls`: nothing may follow the greeting of a server that can do TLS.
    explicit MysqlPackets(bool tls) : tls_(tls) {}
    MysqlPackets(const MysqlPackets&) = delete;
    MysqlPackets& operator=(const MysqlPackets&) = delete;

    // A command is sent now; before that the answer to the one before has ended. `columns` are the
    // statement's that is prepared or executed: written by the first, and where a server sends
    // them again. They have to stay until the answer has ended.
    void expect(Answer answer, MysqlColumns* columns = nullptr);
    // What has come. False: none of it may be used, and problem() says why; it stays so.
    bool accept(std::string_view bytes);
    const char* problem() const { return problem_; }  // "": none
    bool idle() const { return state_ == State::idle; }

  private:
    enum class State : std::uint8_t {
        greeting,
        login,       // it is proven who we are
        idle,        // nothing is to come but an error, with which a server says goodbye
        ended,       // nothing at all
        result,      // OK, or how many columns
        prepared,    // OK with both counts
        parameters,  // what the values of a statement are
        parameters_end,
        definitions,  // columns
        definitions_end,
        rows,
    };

    bool begin_part();
    bool take(std::string_view piece);
    bool end_packet();
    bool read_packet(std::string_view packet);
    bool read_greeting(std::string_view packet);
    bool read_login(std::string_view packet);
    bool read_error(std::string_view packet);
    bool read_ok(std::string_view packet);
    bool read_changes(std::string_view changes);
    bool read_result(std::string_view packet);
    bool read_prepared(std::string_view packet);
    bool read_definition(std::string_view packet);
    bool read_end(std::string_view packet);
    void end_result(std::uint64_t status);
    void begin_definitions(State state, std::size_t count);
    bool refuse(const char* problem);

    const bool tls_;
    State state_ = State::greeting;
    const char* problem_ = "";

    // Of the server, as it says in its greeting.
    bool tracks_session_ = false;
    bool has_type_names_ = false;  // a seventh string in the definition of a column
    bool omits_columns_ = false;   // where they are those of the time before

    // Of the answer.
    Answer answer_ = Answer::query;
    MysqlColumns* columns_ = nullptr;
    MysqlColumns own_columns_;  // where there is no statement
    std::size_t definitions_left_ = 0;
    std::size_t definitions_bytes_ = 0;
    std::size_t columns_after_ = 0;  // definitions behind those of parameters

    // Of the packet: parts of 16 MB, but the last.
    std::array<std::uint8_t, 4> header_{};
    std::size_t header_size_ = 0;
    std::size_t part_size_ = 0;
    std::size_t left_ = 0;  // of the part
    bool within_ = false;   // its first byte has come
    bool is_row_ = false;
    std::string partial_;
    MysqlRow row_;
};

}  // namespace perilune
