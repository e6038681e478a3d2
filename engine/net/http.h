// HttpParser: messages of HTTP/1.0 and 1.1 out of a stream of bytes.
//
// Purpose:   heads, bodies and trailers, strictly: whatever two programs could read in two ways is
//            an error, so that nobody smuggles a request past a proxy. The library http_parser
//            judges each head; lines and chunks are cut here, because Debian's build of it takes
//            any byte for a line's end inside chunks, and lines that are folded or end in LF.
// Threads:   one owner.
// Ownership: bytes of a head are kept until the next message begins, views point there. A piece of
//            a body points into the input.
#pragma once

#include <http_parser.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace perilune {

struct HttpLimits {
    std::uint32_t header_bytes = 16 * 1024;  // of a head, and again of the trailers; at most 64 KB
    std::uint32_t headers = 100;             // lines of it
    std::uint32_t target_bytes = 8 * 1024;
    std::uint64_t body_bytes = 1024 * 1024;
};

struct HttpHeader {
    std::string_view name;   // lower case
    std::string_view value;  // without spaces around
};

struct HttpHead {
    std::string_view method;  // of a request
    std::string_view target;
    int status = 0;  // of a response
    std::string_view reason;
    int minor = 1;  // HTTP/1.<minor>
    std::vector<HttpHeader> headers;
    bool keep_alive = false;              // the connection may carry further messages
    bool upgrade = false;                 // asks for another protocol, or has agreed to it
    bool chunked = false;                 // the body comes in chunks
    std::optional<std::uint64_t> length;  // of the body, when it is declared
};

enum class HttpError : std::uint8_t {
    none,
    malformed,
    target_too_long,
    headers_too_large,
    too_many_headers,
    body_too_large,
    unknown_method,
    unknown_coding,
    unknown_version,
};

// What an error is called in Lua ("malformed"), and the status that answers it (400).
const char* http_error_name(HttpError error);
int http_error_status(HttpError error);
// The words of a status: "Not Found", or "" when it has none.
const char* http_status_text(int status);

class HttpParser {
  public:
    enum class Kind : std::uint8_t { request, response };
    enum class Event : std::uint8_t {
        more,    // all of the input was taken
        head,    // head() is complete
        body,    // a piece of the body
        end,     // the message is complete, trailers() too; what follows is the next one
        failed,  // error() and message() say why; nothing more is taken
    };

    HttpParser(Kind kind, const HttpLimits& limits);

    // Takes bytes off the front of `input` up to the next event. `body` is a piece of the body
    // when that is the event.
    Event next(std::string_view& input, std::string_view& body);

    // The peer sends no more: `end` of a body that lasts until then, `more` between messages,
    // `failed` within one.
    Event finish();

    // After `head`: the largest body of this message; checked before any of it is taken.
    void limit_body(std::uint64_t bytes) { body_left_ = bytes; }
    // Before the response to a HEAD comes, which has no body whatever its head says.
    void expect_no_body() { expect_no_body_ = true; }

    const HttpHead& head() const { return head_; }
    const std::vector<HttpHeader>& trailers() const { return trailers_; }
    HttpError error() const { return error_; }
    const char* message() const { return message_.c_str(); }
    // No byte of the next message has come.
    bool is_between() const { return state_ == State::start; }
    // Bytes of memory that it holds beside itself.
    std::size_t reserved() const;

  private:
    enum class State : std::uint8_t {
        start,
        head,
        body_begin,
        body_length,
        body_to_end,
        chunk_size,
        chunk_data,
        chunk_end,
        trailers,
        complete,
        failed,
    };

    enum class Line : std::uint8_t { more, complete, failed };

    Event fail(HttpError error, std::string message);
    void begin_message();
    Line take_line(std::string_view& input, std::string& block, std::string_view& line);
    bool has_room(const std::string& block, std::size_t count);
    Event read_head(std::string_view& input);
    Event end_head();
    bool split_head();
    bool read_request_line(std::string_view line);
    bool read_status_line(std::string_view line);
    bool read_version(std::string_view version);
    bool read_fields(std::string_view lines, std::vector<HttpHeader>& fields);
    bool judge();
    bool find_framing();
    bool check_host();
    Event begin_body();
    Event take_body(std::string_view& input, std::string_view& body);
    Event read_chunk_size(std::string_view& input);
    Event read_chunk_end(std::string_view& input);
    Event read_trailers(std::string_view& input);

    const Kind kind_;
    const HttpLimits limits_;
    State state_ = State::start;
    HttpError error_ = HttpError::none;
    std::string message_;
    bool expect_no_body_ = false;
    bool skipped_line_ = false;   // the empty line that may stand before a request
    std::string block_;           // the bytes of the head
    std::string trailer_block_;   // of the trailers; of the line of a chunk's size while it comes
    std::size_t line_begin_ = 0;  // in the block that is being read
    std::size_t lines_ = 0;       // complete ones of it
    HttpHead head_;               // views into block_
    std::vector<HttpHeader> trailers_;
    std::uint64_t body_left_ = 0;    // how much of the limit is left
    std::uint64_t length_left_ = 0;  // of the body, or of a chunk
};

}  // namespace perilune
