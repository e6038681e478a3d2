// Fuzzes the parser of HTTP: any bytes in any pieces give the same messages as in one piece, no
// limit is passed, and no more memory is held than the limits allow.
#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "driver.h"
#include "net/http.h"

namespace perilune::fuzz {

namespace {

using perilune::HttpHeader;
using perilune::HttpParser;
using Event = HttpParser::Event;

constexpr perilune::HttpLimits kLimits{
    .header_bytes = 400, .headers = 8, .target_bytes = 100, .body_bytes = 64};

void tell_headers(std::string& told, const std::vector<HttpHeader>& headers) {
    check(headers.size() <= kLimits.headers);
    for (const HttpHeader& header : headers) {
        check(!header.name.empty() &&
              header.name.find_first_of("\r\n: ") == std::string_view::npos);
        check(header.value.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos);
        told.append(header.name).append("=").append(header.value).append(";");
    }
}

// All that a parser says of the input, as a text.
std::string parse(HttpParser::Kind kind, std::string_view input, std::size_t piece_size,
                  bool no_body) {
    HttpParser parser(kind, kLimits);
    if (no_body) parser.expect_no_body();
    std::string told;
    std::size_t body = 0;
    Event event = Event::more;
    while (!input.empty() && event != Event::failed) {
        // A copy, so that a sanitizer sees a view that outlives its piece.
        const std::string copy(input.substr(0, piece_size));
        input.remove_prefix(copy.size());
        std::string_view rest = copy;
        std::string_view part;
        while ((event = parser.next(rest, part)) != Event::more && event != Event::failed) {
            if (event == Event::head) {
                told.append("\nhead ").append(parser.head().method).append(parser.head().target);
                tell_headers(told, parser.head().headers);
                told += "\n";
                body = 0;
            } else if (event == Event::body) {
                told.append(part);
                body += part.size();
                check(!part.empty() && body <= kLimits.body_bytes);
            } else {
                told += "\nend ";
                tell_headers(told, parser.trailers());
            }
        }
        check(event == Event::failed || rest.empty());
        check(parser.reserved() <= 16 * 1024);
    }
    if (event != Event::failed) event = parser.finish();
    told += event == Event::end ? "ended" : event == Event::failed ? parser.message() : "";
    return told;
}

// The corpus, of which random runs put pieces together and change bytes.
constexpr std::array<std::string_view, 24> kPieces = {
    "GET / HTTP/1.1\r\n",
    "POST /a?b=c%20 HTTP/1.0\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 304 Not Modified\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 70\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: keep-alive, Upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Set-Cookie: a=b; c\r\n",
    "Expect: 100-continue\r\n",
    "X: y\n",
    " folded\r\n",
    "X : y\r\n",
    "\r\n",
    "\r\n",
    "hello",
    "5\r\nhello\r\n",
    "3;a=b\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\nX-Sum: 1\r\n\r\n",
    "40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n",
};

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return;
    const auto kind = data[0] % 2 == 0 ? HttpParser::Kind::request : HttpParser::Kind::response;
    const bool no_body = data[0] % 16 == 15;
    const std::size_t piece = 1 + data[1] % 32;
    const std::string_view input(reinterpret_cast<const char*>(data + 2), size - 2);
    const std::string whole = parse(kind, input, input.size() + 1, no_body);
    check(whole == parse(kind, input, piece, no_body));
}

std::string random_input(std::mt19937_64& random, unsigned long) {
    std::string bytes{static_cast<char>(random()), static_cast<char>(random())};
    for (std::uint64_t count = 1 + random() % 16; count > 0; --count) {
        bytes += kPieces[random() % kPieces.size()];
    }
    for (std::uint64_t count = random() % 4; count > 1; --count) {
        bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    return bytes;
}

}  // namespace perilune::fuzz
