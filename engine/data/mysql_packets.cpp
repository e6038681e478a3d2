#include "data/mysql_packets.h"

#include <mariadb/mysql.h>

#include <algorithm>

namespace perilune {

namespace {

constexpr std::size_t kFullPart = 0xffffff;  // another part follows
constexpr std::uint8_t kError = 0xff;
constexpr std::uint8_t kEnd = 0xfe;
constexpr std::uint8_t kNull = 0xfb;
constexpr std::size_t kEndSize = 5;
constexpr std::size_t kEndLimit = 9;  // longer ones are rows with a value of 16 MB
constexpr std::uint64_t kProgress = 0xffff;

// Capabilities of MariaDB, in a field of their own.
constexpr std::uint64_t kTypeNames = MARIADB_CLIENT_EXTENDED_METADATA >> 32;
constexpr std::uint64_t kOmitsColumns = MARIADB_CLIENT_CACHE_METADATA >> 32;

// How a value is sent in a binary row: its size, or one of these.
constexpr int kLengthFirst = -1;
constexpr int kDate = -2;
constexpr int kTime = -3;
constexpr int kUnknown = -4;

int binary_size(std::uint8_t type) {
    switch (type) {
        case MYSQL_TYPE_NULL: return 0;
        case MYSQL_TYPE_TINY: return 1;
        case MYSQL_TYPE_SHORT:
        case MYSQL_TYPE_YEAR: return 2;
        case MYSQL_TYPE_INT24:
        case MYSQL_TYPE_LONG:
        case MYSQL_TYPE_FLOAT: return 4;
        case MYSQL_TYPE_LONGLONG:
        case MYSQL_TYPE_DOUBLE: return 8;
        case MYSQL_TYPE_TIME: return kTime;
        case MYSQL_TYPE_DATE:
        case MYSQL_TYPE_DATETIME:
        case MYSQL_TYPE_TIMESTAMP: return kDate;
        case MYSQL_TYPE_NEWDATE:
        case MYSQL_TYPE_DECIMAL:
        case MYSQL_TYPE_VARCHAR:
        case MYSQL_TYPE_BIT: return kLengthFirst;
        default: return type >= MYSQL_TYPE_JSON ? kLengthFirst : kUnknown;
    }
}

bool is_date_size(std::uint8_t size) { return size == 0 || size == 4 || size == 7 || size == 11; }
bool is_time_size(std::uint8_t size) { return size == 0 || size == 8 || size == 12; }

std::uint64_t little_endian(const std::uint8_t* bytes, std::size_t count) {
    std::uint64_t value = 0;
    for (std::size_t i = count; i > 0; --i) value = value << 8 | bytes[i - 1];
    return value;
}

// Of a length and the byte that says how long it is.
std::size_t size_of_length(std::uint8_t first) {
    switch (first) {
        case 0xfc: return 3;
        case 0xfd: return 4;
        case 0xfe: return 9;
        default: return 1;
    }
}

// Reads the fields of a packet; good() is false once one of them leads out of it.
class Fields {
  public:
    explicit Fields(std::string_view bytes) : rest_(bytes) {}

    bool good() const { return good_; }
    bool ends() const { return rest_.empty(); }
    std::string_view rest() const { return rest_; }

    std::string_view bytes(std::uint64_t count) {
        if (count > rest_.size()) good_ = false;
        if (!good_) return {};
        const std::string_view taken = rest_.substr(0, count);
        rest_.remove_prefix(count);
        return taken;
    }

    std::uint64_t fixed(std::size_t size) {
        const std::string_view taken = bytes(size);
        return little_endian(reinterpret_cast<const std::uint8_t*>(taken.data()), taken.size());
    }

    // A number that says how long it is. There has to be one.
    std::uint64_t number() {
        const auto first = static_cast<std::uint8_t>(fixed(1));
        if (first == kNull || first == kError) good_ = false;
        const std::size_t size = size_of_length(first);
        return size == 1 ? first : fixed(size - 1);
    }

    std::string_view text() { return bytes(number()); }

    std::string_view text_to_zero() {
        const std::size_t end = rest_.find('\0');
        if (end == std::string_view::npos) good_ = false;
        const std::string_view taken = bytes(end);
        bytes(1);
        return taken;
    }

  private:
    std::string_view rest_;
    bool good_ = true;
};

}  // namespace

// ---- rows ----

void MysqlRow::begin(const MysqlColumns& columns, bool binary) {
    columns_ = &columns;
    binary_ = binary;
    column_ = 0;
    skip_ = 0;
    head_size_ = 0;
    start_.clear();
}

bool MysqlRow::feed(std::string_view bytes) {
    for (;;) {
        const auto skipped = std::min<std::uint64_t>(skip_, bytes.size());
        bytes.remove_prefix(skipped);
        skip_ -= skipped;
        if (bytes.empty()) return true;
        if (!(binary_ ? read_binary_head(bytes) : read_text_head(bytes))) return false;
    }
}

bool MysqlRow::complete() const { return column_ == columns_->size() && skip_ == 0; }

// Zero, and a bit for each column behind two that nobody uses.
bool MysqlRow::read_start(std::string_view& bytes) {
    const std::size_t size = 1 + (columns_->size() + 9) / 8;
    const std::size_t taken = std::min(size - start_.size(), bytes.size());
    start_.insert(start_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    bytes.remove_prefix(taken);
    if (start_[0] != 0) return false;
    if (start_.size() == size) pass_nulls();
    return true;
}

void MysqlRow::pass_nulls() {
    for (; column_ < columns_->size(); ++column_) {
        const bool is_null = (start_[1 + (column_ + 2) / 8] >> (column_ + 2) % 8 & 1) != 0;
        if (!is_null && (*columns_)[column_] != MYSQL_TYPE_NULL) return;
    }
}

bool MysqlRow::read_text_head(std::string_view& bytes) {
    if (column_ == columns_->size() || !read_length(bytes, true)) return false;
    if (head_size_ == 0) ++column_;
    return true;
}

bool MysqlRow::read_binary_head(std::string_view& bytes) {
    if (start_.size() < 1 + (columns_->size() + 9) / 8) return read_start(bytes);
    if (column_ == columns_->size()) return false;
    const int size = binary_size((*columns_)[column_]);
    const auto first = static_cast<std::uint8_t>(bytes[0]);
    switch (size) {
        case kUnknown: return false;
        case kLengthFirst:
            if (!read_length(bytes, false)) return false;
            if (head_size_ > 0) return true;
            break;
        case kDate:
        case kTime:
            if (!(size == kDate ? is_date_size(first) : is_time_size(first))) return false;
            skip_ = 1 + std::uint64_t{first};
            break;
        default: skip_ = static_cast<std::uint64_t>(size); break;
    }
    ++column_;
    pass_nulls();
    return true;
}

// What has come of a length goes to head_, which is empty again when all of it has.
bool MysqlRow::read_length(std::string_view& bytes, bool can_be_null) {
    if (head_size_ == 0) {
        const auto first = static_cast<std::uint8_t>(bytes[0]);
        if (first == kError || (first == kNull && !can_be_null)) return false;
        if (first <= kNull) {
            bytes.remove_prefix(1);
            skip_ = first == kNull ? 0 : first;
            return true;
        }
        head_[head_size_++] = first;
        bytes.remove_prefix(1);
    }
    const std::size_t size = size_of_length(head_[0]);
    const std::size_t taken = std::min(size - head_size_, bytes.size());
    std::copy_n(bytes.begin(), taken, head_.begin() + static_cast<std::ptrdiff_t>(head_size_));
    bytes.remove_prefix(taken);
    head_size_ += taken;
    if (head_size_ < size) return true;
    skip_ = little_endian(head_.data() + 1, size - 1);
    head_size_ = 0;
    return true;
}

// ---- packets ----

void MysqlPackets::expect(Answer answer, MysqlColumns* columns) {
    if (state_ != State::idle) return;
    answer_ = answer;
    columns_ = columns != nullptr ? columns : &own_columns_;
    definitions_bytes_ = 0;
    state_ = answer == Answer::prepare ? State::prepared : State::result;
}

bool MysqlPackets::refuse(const char* problem) {
    if (problem_[0] == '\0') problem_ = problem;
    state_ = State::ended;
    return false;
}

bool MysqlPackets::accept(std::string_view bytes) {
    if (problem_[0] != '\0') return false;
    while (!bytes.empty()) {
        if (state_ == State::ended) return refuse("bytes that nobody asked for");
        if (header_size_ < header_.size()) {
            header_[header_size_++] = static_cast<std::uint8_t>(bytes[0]);
            bytes.remove_prefix(1);
            if (header_size_ == header_.size() && !begin_part()) return false;
            continue;
        }
        const std::string_view piece = bytes.substr(0, left_);
        bytes.remove_prefix(piece.size());
        left_ -= piece.size();
        if (!take(piece)) return false;
        if (left_ == 0 && !end_packet()) return false;
    }
    return true;
}

bool MysqlPackets::begin_part() {
    part_size_ = left_ = little_endian(header_.data(), 3);
    if (part_size_ > 0) return true;
    return within_ ? end_packet() : refuse("an empty packet");
}

bool MysqlPackets::take(std::string_view piece) {
    if (!within_) {
        const auto first = static_cast<std::uint8_t>(piece[0]);
        const bool is_end = first == kEnd && part_size_ < kEndLimit;
        is_row_ = state_ == State::rows && first != kError && !is_end;
        if (is_row_) row_.begin(*columns_, answer_ == Answer::execute);
        if (!is_row_ && part_size_ > kMaxSmall) return refuse("a packet that is too large");
        within_ = true;
    }
    if (is_row_) return row_.feed(piece) || refuse("a row that isn't one of its columns");
    if (piece.size() == part_size_) return read_packet(piece);
    partial_ += piece;
    return true;
}

// Of a part, that is, which may not be the last.
bool MysqlPackets::end_packet() {
    header_size_ = 0;
    if (part_size_ == kFullPart) return true;
    within_ = false;
    if (is_row_) return row_.complete() || refuse("a row that breaks off");
    if (partial_.empty()) return true;
    const bool good = read_packet(partial_);
    partial_.clear();
    return good;
}

bool MysqlPackets::read_packet(std::string_view packet) {
    if (static_cast<std::uint8_t>(packet[0]) == kError) return read_error(packet);
    switch (state_) {
        case State::greeting: return read_greeting(packet);
        case State::login: return read_login(packet);
        case State::result: return read_result(packet);
        case State::prepared: return read_prepared(packet);
        case State::parameters:
        case State::definitions: return read_definition(packet);
        case State::parameters_end:
        case State::definitions_end:
        case State::rows: return read_end(packet);
        case State::idle:
        case State::ended: break;
    }
    return refuse("a packet that nobody asked for");
}

// ---- login ----

bool MysqlPackets::read_greeting(std::string_view packet) {
    constexpr std::size_t kProofs = 13;  // what a password is proven with, but its first 8 bytes
    Fields fields(packet);
    const std::uint64_t version = fields.fixed(1);
    const std::string_view name = fields.text_to_zero();
    fields.bytes(4 + 8 + 1);  // the connection's number, the first part of the proof, a zero
    std::uint64_t capabilities = fields.fixed(2);
    fields.bytes(1 + 2);  // character set, status
    capabilities |= fields.fixed(2) << 16;
    fields.bytes(1 + 6);
    const std::uint64_t of_mariadb = fields.fixed(4);
    fields.bytes(kProofs);
    if (!fields.good() || version != 10) return refuse("a greeting that is none");

    tracks_session_ = (capabilities & CLIENT_SESSION_TRACKING) != 0;
    const bool is_mariadb = name.find("MariaDB") != name.npos || name.find("-maria-") != name.npos;
    if (is_mariadb && (capabilities & CLIENT_MYSQL) == 0) {
        has_type_names_ = (of_mariadb & kTypeNames) != 0;
        omits_columns_ = (of_mariadb & kOmitsColumns) != 0;
    }
    state_ = tls_ && (capabilities & CLIENT_SSL) != 0 ? State::ended : State::login;
    return true;
}

// Whatever a way to prove a password needs, until OK.
bool MysqlPackets::read_login(std::string_view packet) {
    const auto first = static_cast<std::uint8_t>(packet[0]);
    if (first == 0) {
        if (!read_ok(packet)) return false;
        state_ = State::idle;
        return true;
    }
    // Another way: its name, and its data.
    if (first == kEnd && packet.size() > 1 && packet.find('\0', 1) == packet.npos) {
        return refuse("a name that doesn't end");
    }
    return true;
}

// ---- answers ----

bool MysqlPackets::read_error(std::string_view packet) {
    constexpr std::size_t kWithState = 9;
    constexpr std::size_t kOfProgress = 8;
    if (packet.size() < 4) return refuse("an error that breaks off");
    Fields fields(packet.substr(1));
    const bool is_progress = fields.fixed(2) == kProgress;
    const bool is_busy = state_ > State::ended;
    if (is_progress) {
        if (is_busy && packet.size() >= kOfProgress) return true;
        return refuse("a report of progress that is none");
    }
    if (packet[3] == '#' && packet.size() < kWithState) return refuse("an error that breaks off");
    state_ = is_busy ? State::idle : State::ended;
    return true;
}

bool MysqlPackets::read_ok(std::string_view packet) {
    Fields fields(packet.substr(1));
    fields.number();  // rows
    fields.number();  // id
    const std::uint64_t status = fields.fixed(2);
    fields.fixed(2);  // warnings
    if (fields.good() && !fields.ends()) fields.text();
    if (!fields.good()) return refuse("an OK that breaks off");
    if (tracks_session_ && (status & SERVER_SESSION_STATE_CHANGED) != 0 && !fields.ends()) {
        const std::string_view changes = fields.text();
        if (!fields.good() || !read_changes(changes)) {
            return refuse("changes of the session that aren't any");
        }
    }
    end_result(status);
    return true;
}

// What has changed in the session, read as Connector/C does.
bool MysqlPackets::read_changes(std::string_view changes) {
    Fields fields(changes);
    while (fields.good() && !fields.ends()) {
        const std::uint64_t kind = fields.number();
        const bool is_known = kind <= SESSION_TRACK_END;
        if (is_known && kind != SESSION_TRACK_STATE_CHANGE) fields.number();  // bytes in all
        if (kind == SESSION_TRACK_GTIDS) fields.number();                     // how they are told
        fields.text();
        if (kind == SESSION_TRACK_SYSTEM_VARIABLES) fields.text();
    }
    return fields.good();
}

void MysqlPackets::end_result(std::uint64_t status) {
    state_ = (status & SERVER_MORE_RESULTS_EXIST) != 0 ? State::result : State::idle;
}

bool MysqlPackets::read_result(std::string_view packet) {
    const auto first = static_cast<std::uint8_t>(packet[0]);
    if (first == 0) return read_ok(packet);
    if (first == kNull) return refuse("a request for a file of ours");
    Fields fields(packet);
    const std::uint64_t count = fields.number();
    std::uint64_t has_definitions = 1;
    if (omits_columns_ && !fields.ends()) has_definitions = fields.fixed(1);
    if (!fields.good() || !fields.ends() || count == 0 || count > kMaxColumns ||
        has_definitions > 1) {
        return refuse("a result that is none");
    }
    if (has_definitions == 1) {
        begin_definitions(State::definitions, count);
        return true;
    }
    if (answer_ != Answer::execute || count != columns_->size()) {
        return refuse("a result without its columns");
    }
    state_ = State::definitions_end;
    return true;
}

bool MysqlPackets::read_prepared(std::string_view packet) {
    constexpr std::size_t kSize = 12;
    Fields fields(packet);
    const std::uint64_t status = fields.fixed(1);
    fields.fixed(4);  // the statement's number
    const std::uint64_t columns = fields.fixed(2);
    const std::uint64_t parameters = fields.fixed(2);
    if (packet.size() < kSize || status != 0 || columns > kMaxColumns) {
        return refuse("a prepared statement that is none");
    }
    columns_->clear();
    columns_after_ = columns;
    if (parameters > 0) {
        begin_definitions(State::parameters, parameters);
    } else if (columns > 0) {
        begin_definitions(State::definitions, columns);
    } else {
        state_ = State::idle;
    }
    return true;
}

void MysqlPackets::begin_definitions(State state, std::size_t count) {
    state_ = state;
    definitions_left_ = count;
    if (state == State::definitions) columns_->clear();
}

bool MysqlPackets::read_definition(std::string_view packet) {
    constexpr std::size_t kNames = 6;
    constexpr std::uint64_t kFixed = 12;
    definitions_bytes_ += packet.size();
    if (definitions_bytes_ > kMaxDefinitions) return refuse("columns that are too large");
    Fields fields(packet);
    for (std::size_t i = has_type_names_ ? kNames + 1 : kNames; i > 0; --i) fields.text();
    const std::uint64_t size = fields.number();
    fields.bytes(2 + 4);  // character set, width
    const auto type = static_cast<std::uint8_t>(fields.fixed(1));
    fields.bytes(2 + 1 + 2);  // flags, decimals
    if (!fields.good() || !fields.ends() || size != kFixed) return refuse("a column that is none");
    const bool is_column = state_ == State::definitions;
    if (is_column) columns_->push_back(type);
    if (--definitions_left_ == 0) {
        state_ = is_column ? State::definitions_end : State::parameters_end;
    }
    return true;
}

// What is behind the last of columns, parameters or rows.
bool MysqlPackets::read_end(std::string_view packet) {
    Fields fields(packet);
    const bool is_end = fields.fixed(1) == kEnd && packet.size() == kEndSize;
    if (!is_end) return refuse("an end that is none");
    fields.fixed(2);  // warnings
    const std::uint64_t status = fields.fixed(2);
    if (state_ == State::rows) {
        end_result(status);
    } else if (answer_ != Answer::prepare) {
        state_ = State::rows;
    } else if (state_ == State::parameters_end && columns_after_ > 0) {
        begin_definitions(State::definitions, columns_after_);
    } else {
        state_ = State::idle;
    }
    return true;
}

}  // namespace perilune
