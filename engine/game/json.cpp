#include "game/json.h"

#include <bit>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace perilune {

namespace {

constexpr std::string_view kMaxExact = "9007199254740992";  // 2^53

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Four hexadecimal digits; -1 when they are none.
int hex4(const char* at, const char* end) {
    int code = 0;
    if (end - at < 4) return -1;
    const auto [stop, error] = std::from_chars(at, at + 4, code, 16);
    return error == std::errc() && stop == at + 4 && *at != '-' ? code : -1;
}

bool is_high(int code) { return code >= 0xd800 && code < 0xdc00; }
bool is_low(int code) { return code >= 0xdc00 && code < 0xe000; }

void append_utf8(std::string& out, std::uint32_t code) {
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xc0 | code >> 6);
        out += static_cast<char>(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        out += static_cast<char>(0xe0 | code >> 12);
        out += static_cast<char>(0x80 | (code >> 6 & 0x3f));
        out += static_cast<char>(0x80 | (code & 0x3f));
    } else {
        out += static_cast<char>(0xf0 | code >> 18);
        out += static_cast<char>(0x80 | (code >> 12 & 0x3f));
        out += static_cast<char>(0x80 | (code >> 6 & 0x3f));
        out += static_cast<char>(0x80 | (code & 0x3f));
    }
}

constexpr std::string_view kEscapes = "\"\\/bfnrt";
constexpr std::string_view kEscaped = "\"\\/\b\f\n\r\t";

bool is_plain(char c) {
    return c != '"' && c != '\\' && static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
}

// Of a word, the high bit of each byte that is below `limit` (at most 0x80), or of a lower byte
// where another is. Right for the lowest one.
std::uint64_t bytes_below(std::uint64_t word, std::uint64_t limit) {
    return (word - limit * 0x0101010101010101) & ~word & 0x8080808080808080;
}
std::uint64_t bytes_equal(std::uint64_t word, std::uint64_t byte) {
    return bytes_below(word ^ byte * 0x0101010101010101, 1);
}

}  // namespace

const char* json_plain_end(const char* at, const char* end) {
    // Eight at a time.
    while (end - at >= 8) {
        std::uint64_t word;
        std::memcpy(&word, at, 8);
        const std::uint64_t found = bytes_below(word, 0x20) | bytes_equal(word, '"') |
                                    bytes_equal(word, '\\') | bytes_equal(word, 0x7f);
        if (found != 0) return at + std::countr_zero(found) / 8;
        at += 8;
    }
    while (at != end && is_plain(*at)) ++at;
    return at;
}

// --- looking whether it is JSON ---

bool JsonCursor::check() {
    const char* const begin = at_;
    if (!check_value(0)) return false;
    skip_space();
    if (at_ != end_) return fail("has something behind its value");
    at_ = begin;
    return true;
}

bool JsonCursor::check_value(int depth) {
    skip_space();
    if (at_ == end_) return fail("is cut off");
    if (depth > kMaxJsonDepth) return fail("is nested too deep");
    switch (*at_) {
        case '{': return check_entries('}', depth + 1);
        case '[': return check_entries(']', depth + 1);
        case '"': return check_string();
        case 't': return check_word("true");
        case 'f': return check_word("false");
        case 'n': return check_word("null");
        default: return check_number();
    }
}

bool JsonCursor::check_entries(char closing, int depth) {
    ++at_;
    skip_space();
    if (at_ != end_ && *at_ == closing) {
        ++at_;
        return true;
    }
    for (;;) {
        if (closing == '}') {
            skip_space();
            if (at_ == end_ || *at_ != '"') return fail("has a key that is no string");
            if (!check_string()) return false;
            skip_space();
            if (at_ == end_ || *at_ != ':') return fail("has a key without a colon");
            ++at_;
        }
        if (!check_value(depth)) return false;
        skip_space();
        if (at_ == end_) return fail("is cut off");
        const char c = *at_++;
        if (c == closing) return true;
        if (c != ',') return fail("has a value without a comma or an end");
    }
}

bool JsonCursor::check_string() {
    for (++at_; (at_ = json_plain_end(at_, end_)) != end_; ++at_) {
        if (*at_ == '"') {
            ++at_;
            return true;
        }
        if (*at_ == '\0') return fail("has a string with a NUL");
        if (*at_ == '\\' && !check_escape()) return fail("has a string with a wrong escape");
    }
    return fail("has a string that doesn't end");
}

// Leaves the cursor on the escape's last character.
bool JsonCursor::check_escape() {
    if (++at_ == end_) return false;
    if (*at_ != 'u') return kEscapes.find(*at_) != std::string_view::npos;
    const int code = hex4(at_ + 1, end_);
    if (code < 0 || is_low(code)) return false;
    at_ += 4;
    if (!is_high(code)) return true;
    if (end_ - at_ < 7 || at_[1] != '\\' || at_[2] != 'u' || !is_low(hex4(at_ + 3, end_))) {
        return false;
    }
    at_ += 6;
    return true;
}

bool JsonCursor::digits() {
    const char* const begin = at_;
    while (at_ != end_ && is_digit(*at_)) ++at_;
    return at_ != begin;
}

bool JsonCursor::check_number() {
    if (*at_ == '-') ++at_;
    const char* const begin = at_;
    if (!digits()) return fail("has what is no value");
    const std::string_view whole(begin, static_cast<std::size_t>(at_ - begin));
    if (whole.size() > 1 && whole.front() == '0') return fail("has a number that begins with 0");
    const bool has_fraction = at_ != end_ && *at_ == '.';
    if (has_fraction) {
        ++at_;
        if (!digits()) return fail("has a number without a digit behind its point");
    }
    const bool has_exponent = at_ != end_ && (*at_ == 'e' || *at_ == 'E');
    if (has_exponent) {
        ++at_;
        if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
        if (!digits()) return fail("has a number without a digit in its exponent");
    }
    const bool is_large =
        whole.size() > kMaxExact.size() || (whole.size() == kMaxExact.size() && whole > kMaxExact);
    if (is_large && !has_fraction && !has_exponent) return fail("has an integer beyond 2^53");
    return true;
}

bool JsonCursor::check_word(std::string_view word) {
    if (std::string_view(at_, static_cast<std::size_t>(end_ - at_)).substr(0, word.size()) !=
        word) {
        return fail("has what is no value");
    }
    at_ += word.size();
    return true;
}

// --- walking ---

bool JsonCursor::next(char closing, bool first) {
    skip_space();
    if (*at_ == closing) {
        ++at_;
        return false;
    }
    if (!first) ++at_;  // the comma
    skip_space();
    return true;
}

std::string_view JsonCursor::string(std::string& unescaped) {
    const char* const begin = ++at_;
    at_ = json_plain_end(at_, end_);
    while (*at_ != '"' && *at_ != '\\') ++at_;
    if (*at_ == '"') return {begin, static_cast<std::size_t>(at_++ - begin)};
    unescaped.assign(begin, at_);
    while (*at_ != '"') {
        if (*at_ != '\\') {
            unescaped += *at_++;
            continue;
        }
        const char c = at_[1];
        at_ += 2;
        if (c != 'u') {
            unescaped += kEscaped[kEscapes.find(c)];
            continue;
        }
        auto code = static_cast<std::uint32_t>(hex4(at_, end_));
        at_ += 4;
        if (is_high(static_cast<int>(code))) {
            const auto low = static_cast<std::uint32_t>(hex4(at_ + 2, end_));
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            at_ += 6;
        }
        append_utf8(unescaped, code);
    }
    ++at_;
    return unescaped;
}

double JsonCursor::number() {
    const char* const begin = at_;
    if (*at_ == '-') ++at_;
    std::int64_t whole = 0;
    const char* const first = at_;
    while (at_ != end_ && is_digit(*at_) && at_ - first < 18) whole = whole * 10 + (*at_++ - '0');
    const bool more = at_ != end_ && (is_digit(*at_) || *at_ == '.' || *at_ == 'e' || *at_ == 'E');
    if (!more) {
        const auto value = static_cast<double>(whole);
        return *begin == '-' ? -value : value;
    }
    double value = 0;
    const auto [stop, error] = std::from_chars(begin, end_, value);
    at_ = stop;
    // It says neither which way it is out of range nor the value.
    if (error != std::errc()) value = std::strtod(std::string(begin, stop).c_str(), nullptr);
    return value;
}

void JsonCursor::skip() {
    // It is JSON: brackets match.
    int depth = 0;
    do {
        const char c = peek();
        if (c == '"') {
            for (++at_; *(at_ = json_plain_end(at_, end_)) != '"'; ++at_) {
                if (*at_ == '\\') ++at_;
            }
            ++at_;
        } else if (c == '{' || c == '[') {
            ++depth;
            ++at_;
        } else if (c == '}' || c == ']') {
            --depth;
            ++at_;
        } else if (c == ',' || c == ':') {
            ++at_;
        } else {
            while (at_ != end_ && std::strchr(",:]} \t\r\n", *at_) == nullptr) ++at_;
        }
    } while (depth > 0);
}

}  // namespace perilune
