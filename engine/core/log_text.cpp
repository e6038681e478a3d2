#include "core/log_text.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>

namespace perilune {

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

bool is_secret(std::string_view name) {
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

std::string redact(std::string_view text) {
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

void append_text(std::string& out, std::string_view text, LogText mode) {
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

void append_json(std::string& out, std::string_view text) {
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

std::string_view cut(std::string_view text, std::size_t limit) {
    if (text.size() <= limit) return text;
    std::size_t size = limit;
    while (size > 0 && limit - size < 4 && (text[size] & 0xc0) == 0x80) --size;
    return text.substr(0, size);
}

}  // namespace perilune
