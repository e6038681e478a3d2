#include "net/http.h"

#include <algorithm>
#include <array>
#include <utility>

namespace perilune {

namespace {

constexpr std::size_t kLineRoom = 64;       // a request line without its target
constexpr std::size_t kMaxChunkLine = 256;  // size, extensions, line end
constexpr std::size_t kMaxChunkDigits = 15;
constexpr std::size_t kKeptBlock = 4 * 1024;  // memory kept for the next head

struct ErrorRow {
    const char* name;
    int status;
};

// Indexed by HttpError.
constexpr std::array<ErrorRow, 9> kErrors = {{
    {"none", 200},
    {"malformed", 400},
    {"target_too_long", 414},
    {"headers_too_large", 431},
    {"too_many_headers", 431},
    {"body_too_large", 413},
    {"unknown_method", 501},
    {"unknown_coding", 501},
    {"unknown_version", 505},
}};

// What names of fields and methods are made of (RFC 9110, 5.6.2).
constexpr bool is_token(char c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
    return c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

constexpr std::array<bool, 256> kToken = [] {
    std::array<bool, 256> table{};
    for (int c = 0; c < 256; ++c)
        table[static_cast<std::size_t>(c)] = is_token(static_cast<char>(c));
    return table;
}();

bool is_token(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
        return kToken[static_cast<unsigned char>(c)];
    });
}

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool equals_ignoring_case(std::string_view a, std::string_view b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                              [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view trim(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
}

// Takes one line, which is there, off the front; without its CR LF.
std::string_view cut_line(std::string_view& block) {
    const std::size_t end = block.find("\r\n");
    const std::string_view line = block.substr(0, end);
    block.remove_prefix(end + 2);
    return line;
}

int hex_value(char c) {
    if (is_digit(c)) return c - '0';
    const char letter = lower(c);
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

}  // namespace

const char* http_error_name(HttpError error) {
    return kErrors[static_cast<std::size_t>(error)].name;
}

int http_error_status(HttpError error) { return kErrors[static_cast<std::size_t>(error)].status; }

const char* http_status_text(int status) {
    const char* text = ::http_status_str(static_cast<http_status>(status));
    return text[0] == '<' ? "" : text;
}

HttpParser::HttpParser(Kind kind, const HttpLimits& limits) : kind_(kind), limits_(limits) {}

HttpParser::Event HttpParser::next(std::string_view& input, std::string_view& body) {
    while (true) {
        switch (state_) {
            case State::start:
                if (input.empty()) return Event::more;
                begin_message();
                break;
            case State::head: return read_head(input);
            case State::body_begin:
                if (begin_body() == Event::failed) return Event::failed;
                break;
            case State::body_length:
            case State::body_to_end:
            case State::chunk_data:
                if (input.empty()) return Event::more;
                return take_body(input, body);
            case State::chunk_size:
                if (const Event event = read_chunk_size(input); event != Event::body) return event;
                break;
            case State::chunk_end:
                if (const Event event = read_chunk_end(input); event != Event::body) return event;
                break;
            case State::trailers:
                if (const Event event = read_trailers(input); event != Event::end) return event;
                break;
            case State::complete: state_ = State::start; return Event::end;
            case State::failed: return Event::failed;
        }
    }
}

HttpParser::Event HttpParser::finish() {
    if (state_ == State::body_begin) (void)begin_body();
    if (state_ == State::failed) return Event::failed;
    if (state_ == State::start) return Event::more;
    if (state_ == State::complete || state_ == State::body_to_end) {
        state_ = State::start;
        return Event::end;
    }
    return fail(HttpError::malformed, "the peer ended within a message");
}

std::size_t HttpParser::reserved() const {
    return block_.capacity() + trailer_block_.capacity() + message_.capacity() +
           (head_.headers.capacity() + trailers_.capacity()) * sizeof(HttpHeader);
}

HttpParser::Event HttpParser::fail(HttpError error, std::string message) {
    state_ = State::failed;
    error_ = error;
    message_ = std::move(message);
    return Event::failed;
}

void HttpParser::begin_message() {
    if (block_.capacity() > kKeptBlock) std::string().swap(block_);
    block_.clear();
    trailer_block_.clear();
    trailers_.clear();
    std::vector<HttpHeader> headers = std::move(head_.headers);
    headers.clear();
    head_ = HttpHead{};
    head_.headers = std::move(headers);
    line_begin_ = lines_ = 0;
    skipped_line_ = false;
    body_left_ = limits_.body_bytes;
    length_left_ = 0;
    state_ = State::head;
}

// ---- lines ----

// Whether `count` more bytes of the line that is coming fit. Fails if they don't.
bool HttpParser::has_room(const std::string& block, std::size_t count) {
    const std::size_t total = block.size() + count;
    if (state_ == State::chunk_size) {
        if (total <= kMaxChunkLine) return true;
        fail(HttpError::malformed, "the line of a chunk's size has more than 256 bytes");
        return false;
    }
    if (state_ == State::head && lines_ == 0 && kind_ == Kind::request &&
        total > limits_.target_bytes + kLineRoom) {
        fail(HttpError::target_too_long,
             "the target has more than " + std::to_string(limits_.target_bytes) + " bytes");
        return false;
    }
    if (total <= limits_.header_bytes) return true;
    fail(HttpError::headers_too_large,
         "the headers have more than " + std::to_string(limits_.header_bytes) + " bytes");
    return false;
}

// Moves input to `block` up to the end of a line. `line` is it, without CR LF.
HttpParser::Line HttpParser::take_line(std::string_view& input, std::string& block,
                                       std::string_view& line) {
    const std::size_t newline = input.find('\n');
    const std::size_t count = newline == std::string_view::npos ? input.size() : newline + 1;
    if (!has_room(block, count)) return Line::failed;
    block.append(input.substr(0, count));
    input.remove_prefix(count);
    if (newline == std::string_view::npos) return Line::more;
    line = std::string_view(block).substr(line_begin_);
    line.remove_suffix(1);
    // One that ends in LF alone, a NUL or a CR inside: others read such a line differently.
    if (!line.ends_with('\r') || line.find('\0') != std::string_view::npos ||
        line.find('\r') != line.size() - 1) {
        fail(HttpError::malformed, "a line that ends in LF alone, or has a CR or NUL inside");
        return Line::failed;
    }
    line.remove_suffix(1);
    line_begin_ = block.size();
    ++lines_;
    return Line::complete;
}

// ---- heads ----

HttpParser::Event HttpParser::read_head(std::string_view& input) {
    while (!input.empty()) {
        std::string_view line;
        const Line taken = take_line(input, block_, line);
        if (taken == Line::failed) return Event::failed;
        if (taken == Line::more) return Event::more;
        if (line.empty() && lines_ == 1) {
            if (skipped_line_ || kind_ == Kind::response) {
                return fail(HttpError::malformed, "an empty line instead of a message");
            }
            skipped_line_ = true;
            block_.clear();
            line_begin_ = lines_ = 0;
        } else if (line.empty()) {
            return end_head();
        } else if (lines_ > limits_.headers + std::size_t{1}) {
            return fail(HttpError::too_many_headers,
                        "more than " + std::to_string(limits_.headers) + " headers");
        }
    }
    return Event::more;
}

HttpParser::Event HttpParser::end_head() {
    if (!split_head() || !judge() || !find_framing() || !check_host()) return Event::failed;
    state_ = State::body_begin;
    return Event::head;
}

bool HttpParser::split_head() {
    std::string_view lines = block_;
    const std::string_view first = cut_line(lines);
    const bool read = kind_ == Kind::request ? read_request_line(first) : read_status_line(first);
    return read && read_fields(lines, head_.headers);
}

bool HttpParser::read_request_line(std::string_view line) {
    const std::size_t first = line.find(' ');
    const std::size_t last = line.rfind(' ');
    if (first == std::string_view::npos || first == last) {
        fail(HttpError::malformed, "a request line isn't method, target and version");
        return false;
    }
    head_.method = line.substr(0, first);
    head_.target = line.substr(first + 1, last - first - 1);
    if (head_.target.size() > limits_.target_bytes) {
        fail(HttpError::target_too_long,
             "the target has more than " + std::to_string(limits_.target_bytes) + " bytes");
        return false;
    }
    const bool visible = std::all_of(head_.target.begin(), head_.target.end(),
                                     [](char c) { return c > ' ' && c < 0x7f && c != '#'; });
    if (!is_token(head_.method) || head_.target.empty() || !visible) {
        fail(HttpError::malformed, "a request line with characters that can't be in it");
        return false;
    }
    return read_version(line.substr(last + 1));
}

bool HttpParser::read_status_line(std::string_view line) {
    const std::size_t space = std::min(line.find(' '), line.size());
    if (!read_version(line.substr(0, space))) return false;
    line.remove_prefix(std::min(space + 1, line.size()));
    const std::string_view digits = line.substr(0, 3);
    const bool ends = line.size() == 3 || (line.size() > 3 && line[3] == ' ');
    if (!ends || !std::all_of(digits.begin(), digits.end(), is_digit) || digits[0] == '0') {
        fail(HttpError::malformed, "a status line without a status of three digits");
        return false;
    }
    head_.status = (digits[0] - '0') * 100 + (digits[1] - '0') * 10 + (digits[2] - '0');
    head_.reason = line.substr(std::min<std::size_t>(4, line.size()));
    return true;
}

bool HttpParser::read_version(std::string_view version) {
    if (version.size() != 8 || !version.starts_with("HTTP/") || !is_digit(version[5]) ||
        version[6] != '.' || !is_digit(version[7])) {
        fail(HttpError::malformed, "no version such as HTTP/1.1 in the first line");
        return false;
    }
    if (version[5] != '1') {
        fail(HttpError::unknown_version,
             "only HTTP/1.0 and HTTP/1.1 are spoken here, not " + std::string(version));
        return false;
    }
    head_.minor = version[7] == '0' ? 0 : 1;
    return true;
}

// Lines up to an empty one. Names become lower case where they stand.
bool HttpParser::read_fields(std::string_view lines, std::vector<HttpHeader>& fields) {
    while (true) {
        const std::string_view line = cut_line(lines);
        if (line.empty()) return true;
        const std::size_t colon = line.find(':');
        if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) {
            fail(HttpError::malformed, "a header that isn't \"name: value\" on one line");
            return false;
        }
        const std::string_view name = line.substr(0, colon);
        // Of block_ or trailer_block_, which are ours.
        std::transform(name.begin(), name.end(), const_cast<char*>(name.data()), lower);
        fields.push_back({name, trim(line.substr(colon + 1))});
    }
}

// Has http_parser read the head. It stops behind the headers.
bool HttpParser::judge() {
    http_parser_settings settings;
    ::http_parser_settings_init(&settings);
    settings.on_headers_complete = [](http_parser* parser) {
        ::http_parser_pause(parser, 1);
        return 0;
    };
    http_parser parser;
    ::http_parser_init(&parser, kind_ == Kind::request ? HTTP_REQUEST : HTTP_RESPONSE);
    ::http_parser_execute(&parser, &settings, block_.data(), block_.size());
    const http_errno error = HTTP_PARSER_ERRNO(&parser);
    if (error == HPE_INVALID_METHOD) {
        fail(HttpError::unknown_method,
             "the method " + std::string(head_.method.substr(0, 40)) + " is unknown");
        return false;
    }
    if (error != HPE_PAUSED) {
        fail(HttpError::malformed, ::http_errno_description(error));
        return false;
    }
    if ((parser.flags & F_CONTENTLENGTH) != 0) head_.length = parser.content_length;
    if (expect_no_body_) parser.flags |= F_SKIPBODY;
    head_.keep_alive = ::http_should_keep_alive(&parser) != 0;
    head_.upgrade = parser.upgrade != 0;
    return true;
}

// How long the body is, said in exactly one way.
bool HttpParser::find_framing() {
    int lengths = 0;
    int codings = 0;
    std::string_view coding;
    for (const HttpHeader& header : head_.headers) {
        if (header.name == "content-length") ++lengths;
        if (header.name != "transfer-encoding") continue;
        ++codings;
        coding = header.value;
    }
    if (codings + lengths > 1 || (lengths == 1 && !head_.length) ||
        (codings == 1 && head_.minor == 0)) {
        fail(HttpError::malformed, "the length of the body is said twice, or not clearly");
        return false;
    }
    head_.chunked = codings == 1 && equals_ignoring_case(coding, "chunked");
    if (codings == 1 && !head_.chunked) {
        fail(HttpError::unknown_coding, "the transfer coding " + std::string(coding.substr(0, 40)) +
                                            " is unknown: chunked is");
        return false;
    }
    return true;
}

bool HttpParser::check_host() {
    if (kind_ == Kind::response) return true;
    int hosts = 0;
    bool valid = true;
    for (const HttpHeader& header : head_.headers) {
        if (header.name != "host") continue;
        ++hosts;
        valid = header.value.find_first_of(" \t,/@\\?#") == std::string_view::npos;
    }
    if (valid && hosts <= 1 && hosts + (head_.minor == 0 ? 1 : 0) >= 1) return true;
    fail(HttpError::malformed, "a request has exactly one Host, which is a name and a port");
    return false;
}

// ---- bodies ----

// `more`: there is one, or a message without one is complete.
HttpParser::Event HttpParser::begin_body() {
    bool none = false;
    if (kind_ == Kind::response) {
        const int status = head_.status;
        none = expect_no_body_ || status < 200 || status == 204 || status == 304;
        if (status >= 200 || status == 101) expect_no_body_ = false;
    }
    line_begin_ = lines_ = 0;
    if (none) {
        state_ = State::complete;
    } else if (head_.chunked) {
        state_ = State::chunk_size;
    } else if (head_.length) {
        length_left_ = *head_.length;
        state_ = length_left_ == 0 ? State::complete : State::body_length;
        if (length_left_ > body_left_) {
            return fail(HttpError::body_too_large, "a body of " + std::to_string(length_left_) +
                                                       " bytes: the limit is " +
                                                       std::to_string(body_left_));
        }
    } else {
        state_ = kind_ == Kind::request ? State::complete : State::body_to_end;
    }
    return Event::more;
}

HttpParser::Event HttpParser::take_body(std::string_view& input, std::string_view& body) {
    // A body with a length has been compared with the limit.
    const bool bounded = state_ != State::body_to_end;
    if (body_left_ == 0) {
        return fail(HttpError::body_too_large, "the body is larger than its limit");
    }
    const auto count = static_cast<std::size_t>(
        std::min<std::uint64_t>(input.size(), bounded ? length_left_ : body_left_));
    body = input.substr(0, count);
    input.remove_prefix(count);
    body_left_ -= count;
    if (!bounded) return Event::body;
    length_left_ -= count;
    if (length_left_ == 0) {
        state_ = state_ == State::chunk_data ? State::chunk_end : State::complete;
    }
    return Event::body;
}

// `body` means here, and below: go on.
HttpParser::Event HttpParser::read_chunk_size(std::string_view& input) {
    if (input.empty()) return Event::more;
    std::string_view line;
    const Line taken = take_line(input, trailer_block_, line);
    if (taken == Line::failed) return Event::failed;
    if (taken == Line::more) return Event::more;
    std::size_t digits = 0;
    std::uint64_t size = 0;
    for (; digits < line.size() && hex_value(line[digits]) >= 0; ++digits) {
        if (digits < kMaxChunkDigits)
            size = size << 4 | static_cast<unsigned>(hex_value(line[digits]));
    }
    const std::string_view rest = trim(line.substr(digits));
    if (digits == 0 || digits > kMaxChunkDigits || !(rest.empty() || rest.front() == ';')) {
        return fail(HttpError::malformed, "a chunk without a size in hexadecimal digits");
    }
    if (size > body_left_) {
        return fail(HttpError::body_too_large, "the body is larger than its limit");
    }
    trailer_block_.clear();
    line_begin_ = lines_ = 0;
    length_left_ = size;
    state_ = size == 0 ? State::trailers : State::chunk_data;
    return Event::body;
}

HttpParser::Event HttpParser::read_chunk_end(std::string_view& input) {
    constexpr std::string_view kEnd = "\r\n";
    while (!input.empty()) {
        if (input.front() != kEnd[lines_]) {
            return fail(HttpError::malformed, "a chunk is longer than it says");
        }
        input.remove_prefix(1);
        if (++lines_ < kEnd.size()) continue;
        lines_ = 0;
        state_ = State::chunk_size;
        return Event::body;
    }
    return Event::more;
}

HttpParser::Event HttpParser::read_trailers(std::string_view& input) {
    while (!input.empty()) {
        std::string_view line;
        const Line taken = take_line(input, trailer_block_, line);
        if (taken == Line::failed) return Event::failed;
        if (taken == Line::more) return Event::more;
        if (line.empty()) {
            if (!read_fields(trailer_block_, trailers_)) return Event::failed;
            state_ = State::complete;
            return Event::end;
        }
        if (lines_ > limits_.headers) {
            return fail(HttpError::too_many_headers,
                        "more than " + std::to_string(limits_.headers) + " trailers");
        }
    }
    return Event::more;
}

}  // namespace perilune
