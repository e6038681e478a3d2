// Tests of HttpParser: tables of whole messages, each also byte by byte.
#include "net/http.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace perilune {
namespace {

using namespace std::string_view_literals;
using Event = HttpParser::Event;
using Kind = HttpParser::Kind;

// What a parser says of an input, as one text: "head GET / 1.1 a=b|body xyz|end|".
std::string parse(Kind kind, std::string_view input, std::size_t piece_size,
                  const HttpLimits& limits = {}, bool ends = false, bool no_body = false) {
    HttpParser parser(kind, limits);
    if (no_body) parser.expect_no_body();
    std::string told;
    std::string body;
    const auto tell = [&](Event event) {
        if (event != Event::body && !body.empty()) {
            told += "body " + body + "|";
            body.clear();
        }
        if (event == Event::head) {
            const HttpHead& head = parser.head();
            told += "head ";
            told += kind == Kind::request
                        ? std::string(head.method) + " " + std::string(head.target)
                        : std::to_string(head.status);
            told += head.minor == 0 ? " 1.0" : " 1.1";
            for (const HttpHeader& header : head.headers) {
                told.append(" ").append(header.name).append("=").append(header.value);
            }
            told += head.keep_alive ? " keep" : " close";
            told += head.upgrade ? " upgrade|" : "|";
        } else if (event == Event::end) {
            told += "end";
            for (const HttpHeader& header : parser.trailers()) {
                told.append(" ").append(header.name).append("=").append(header.value);
            }
            told += "|";
        } else if (event == Event::failed) {
            told += std::string("failed ") + http_error_name(parser.error());
        }
    };
    Event event = Event::more;
    while (!input.empty() && event != Event::failed) {
        // A copy, so that a sanitizer sees a view that outlives its piece.
        const std::string piece(input.substr(0, piece_size));
        input.remove_prefix(piece.size());
        std::string_view rest = piece;
        std::string_view part;
        while ((event = parser.next(rest, part)) != Event::more) {
            if (event == Event::body) body.append(part);
            tell(event);
            if (event == Event::failed) break;
        }
    }
    if (event == Event::failed) return told;
    if (ends) tell(parser.finish());
    if (!body.empty()) told += "body " + body + "|";
    return told;
}

void expect(Kind kind, std::string_view input, const std::string& wanted,
            const HttpLimits& limits = {}, bool ends = false, bool no_body = false) {
    for (const std::size_t piece : {input.size() + 1, std::size_t{1}, std::size_t{7}}) {
        EXPECT_EQ(parse(kind, input, piece, limits, ends, no_body), wanted)
            << "in pieces of " << piece << ":\n"
            << input;
    }
}

void request(std::string_view input, const std::string& wanted, const HttpLimits& limits = {}) {
    expect(Kind::request, input, wanted, limits);
}

TEST(HttpParser, RequestsWithAndWithoutBodies) {
    request("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "head GET / 1.1 host=a keep|end|");
    request("\r\nGET / HTTP/1.1\r\nHost:a\r\n\r\n", "head GET / 1.1 host=a keep|end|");
    request("GET /a?b=%20 HTTP/1.0\r\n\r\n", "head GET /a?b=%20 1.0 close|end|");
    request("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            "head GET / 1.0 connection=Keep-Alive keep|end|");
    request("POST / HTTP/1.1\r\nHOST: a:80\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
            "head POST / 1.1 host=a:80 content-length=5 connection=close close|body hello|end|");
    request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "head POST / 1.1 host=a content-length=0 keep|end|");
    request("OPTIONS * HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nX-Spaces: \t b c \t\r\n\r\n",
            "head OPTIONS * 1.1 host=a x-empty= x-spaces=b c keep|end|");
    request("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "head GET / 1.1 host=a connection=Upgrade upgrade=websocket keep upgrade|end|");
    request("M-SEARCH / HTTP/1.1\r\nHost: \r\n\r\n", "head M-SEARCH / 1.1 host= keep|end|");
}

TEST(HttpParser, PipelinedRequestsOneAfterTheOther) {
    request(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
        "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        "head GET /1 1.1 host=a keep|end|head POST /2 1.1 host=a content-length=3 keep|body "
        "abc|end|"
        "head GET /3 1.1 host=a keep|end|");
}

TEST(HttpParser, Chunks) {
    const std::string head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
    const std::string told = "head POST / 1.1 host=a transfer-encoding=Chunked keep|";
    request(head + "5\r\nhello\r\n00A\r\n, you all!\r\n0\r\n\r\n",
            told + "body hello, you all!|end|");
    request(head + "3;name=value\r\nabc\r\n0;last\r\nX-Sum: 7\r\nB: c\r\n\r\nGET",
            told + "body abc|end x-sum=7 b=c|");
    request(head + "0\r\n\r\n", told + "end|");
    for (const char* chunk :
         {"5\nhello", "\r\n", "5 hello\r\n", "g\r\n", "-5\r\nhello", "0x5\r\nhello", "5\r\nhelloXY",
          "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r0\r\n\r\n", "5;a\nb\r\nhello", "5\rX5\r\nhello",
          "1234567890123456\r\n", "0\r\n X: folded\r\n\r\n", "0\r\nX : y\r\n\r\n",
          "0\r\nX: y\n\r\n", "5\r\nhello5\r\nhello"}) {
        const std::string got = parse(Kind::request, head + chunk, 1);
        EXPECT_NE(got.find("failed malformed"), std::string::npos) << chunk << ": " << got;
    }
    request(head + "5;" + std::string(300, 'x') + "\r\nhello", told + "failed malformed");
}

TEST(HttpParser, WhatCouldBeReadInTwoWaysIsRefused) {
    const std::string start = "POST / HTTP/1.1\r\nHost: a\r\n";
    for (const char* lines : {
             "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
             "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
             "Content-Length: 5\r\nContent-Length: 6\r\n",
             "Content-Length: 5\r\nContent-Length: 5\r\n",
             "Content-Length: 5, 5\r\n",
             "Content-Length: +5\r\n",
             "Content-Length: -5\r\n",
             "Content-Length: 5a\r\n",
             "Content-Length: 0x5\r\n",
             "Content-Length:\r\n",
             "Content-Length: 99999999999999999999\r\n",
             "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
             "Content-Length : 5\r\n",
             "X: y\r\n folded\r\n",
             "X: y\r\n\tfolded\r\n",
             " X: y\r\n",
             "X y\r\n",
             ": y\r\n",
             "X\xc3\xa4: y\r\n",
             "X(y): z\r\n",
             "X: y\n",
             "X: a\rb\r\n",
             "X: a\x01"
             "b\r\n",
             "X: a\x7f\r\n",
             "Host: b\r\n",
         }) {
        request(start + lines + "\r\n", "failed malformed");
    }
    request("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"sv, "failed malformed");
    request("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"sv, "failed malformed");
    request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "failed malformed");
    for (const char* coding : {"gzip", "chunked, gzip", "gzip, chunked", "xchunked", "identity"}) {
        const std::string got =
            parse(Kind::request, start + "Transfer-Encoding: " + coding + "\r\n\r\n", 1000);
        EXPECT_TRUE(got == "failed unknown_coding" || got == "failed malformed") << coding;
    }
}

TEST(HttpParser, FirstLinesThatArentOnes) {
    for (const char* line :
         {"GET /", "GET", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", " GET / HTTP/1.1", "GET / HTTP/1",
          "GET / http/1.1", "GET / HTTP/1.x", "GET /a b HTTP/1.1", "GET /\t HTTP/1.1",
          "GET /\xc3\xa4 HTTP/1.1", "GET /#x HTTP/1.1", "GET x HTTP/1.1", "G\xc3\xa4T / HTTP/1.1",
          "GET / ICE/1.0", "\r\n\r\nGET / HTTP/1.1"}) {
        request(std::string(line) + "\r\nHost: a\r\n\r\n", "failed malformed");
    }
    request("FETCH / HTTP/1.1\r\nHost: a\r\n\r\n", "failed unknown_method");
    request("get / HTTP/1.1\r\nHost: a\r\n\r\n", "failed unknown_method");
    request("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "failed unknown_version");
    request("GET / HTTP/0.9\r\nHost: a\r\n\r\n", "failed unknown_version");
    request("GET / HTTP/1.1\n", "failed malformed");
    request("GET / HTTP/1.1\r\n\r\n", "failed malformed");  // no Host
    for (const char* host : {"a b", "a/b", "a,b", "u@a"}) {
        request(std::string("GET / HTTP/1.1\r\nHost: ") + host + "\r\n\r\n", "failed malformed");
    }
}

TEST(HttpParser, LimitsAreDistinctErrors) {
    const HttpLimits limits{.header_bytes = 300, .headers = 3, .target_bytes = 20, .body_bytes = 5};
    const std::string start = "POST / HTTP/1.1\r\nHost: a\r\n";
    request("GET /" + std::string(19, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n",
            "head GET /" + std::string(19, 'x') + " 1.1 host=a keep|end|", limits);
    request("GET /" + std::string(20, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n",
            "failed target_too_long", limits);
    request("GET /" + std::string(200, 'x'), "failed target_too_long", limits);
    request(start + "A: b\r\nC: d\r\n\r\n", "head POST / 1.1 host=a a=b c=d keep|end|", limits);
    request(start + "A: b\r\nC: d\r\nE: f\r\n\r\n", "failed too_many_headers", limits);
    request(start + "A: " + std::string(300, 'x'), "failed headers_too_large", limits);
    request(start + "Content-Length: 6\r\n\r\nabcdef",
            "head POST / 1.1 host=a content-length=6 keep|failed body_too_large", limits);
    request(start + "Content-Length: 5\r\n\r\nabcde",
            "head POST / 1.1 host=a content-length=5 keep|body abcde|end|", limits);
    const std::string chunked = start + "Transfer-Encoding: chunked\r\n\r\n";
    const std::string told = "head POST / 1.1 host=a transfer-encoding=chunked keep|";
    request(chunked + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", told + "body abcde|end|", limits);
    request(chunked + "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", told + "body abc|failed body_too_large",
            limits);
    request(chunked + "0\r\nA: b\r\nC: d\r\nE: f\r\nG: h\r\n\r\n", told + "failed too_many_headers",
            limits);
    request(chunked + "0\r\nA: " + std::string(300, 'x'), told + "failed headers_too_large",
            limits);
    EXPECT_EQ(http_error_status(HttpError::target_too_long), 414);
    EXPECT_EQ(http_error_status(HttpError::headers_too_large), 431);
    EXPECT_EQ(http_error_status(HttpError::too_many_headers), 431);
    EXPECT_EQ(http_error_status(HttpError::body_too_large), 413);
    EXPECT_EQ(http_error_status(HttpError::malformed), 400);
}

TEST(HttpParser, TheLimitOfABodyMayChangeAfterTheHead) {
    HttpParser parser(Kind::request, {.body_bytes = 5});
    std::string_view input = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123456789";
    std::string_view body;
    EXPECT_EQ(parser.next(input, body), Event::head);
    parser.limit_body(9);
    EXPECT_EQ(parser.next(input, body), Event::body);
    EXPECT_EQ(body, "123456789");
    EXPECT_EQ(parser.next(input, body), Event::end);
    EXPECT_TRUE(parser.is_between());
}

TEST(HttpParser, Responses) {
    const auto response = [](std::string_view input, const std::string& wanted, bool ends = false,
                             bool no_body = false) {
        expect(Kind::response, input, wanted, {}, ends, no_body);
    };
    response("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
             "head 200 1.1 content-length=2 keep|body hi|end|");
    response("HTTP/1.1 204\r\n\r\n", "head 204 1.1 keep|end|");
    response("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
             "head 304 1.1 content-length=9 keep|end|");
    response("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
             "head 100 1.1 keep|end|head 200 1.1 content-length=0 keep|end|");
    response("HTTP/1.0 200 OK\r\n\r\nto the end", "head 200 1.0 close|body to the end|end|", true);
    response("HTTP/1.1 200 OK\r\n\r\n", "head 200 1.1 close|end|", true);
    response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
             "head 200 1.1 transfer-encoding=chunked keep|body hi|end|");
    response("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
             "head 200 1.1 content-length=9 keep|end|head 200 1.1 close|", false, true);
    response("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
             "head 200 1.1 content-length=9 keep|body hi|failed malformed", true);
    response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
             "head 200 1.1 transfer-encoding=chunked keep|body hi|failed malformed", true);
    response("HTTP/1.1 200 OK\r\nContent-", "failed malformed", true);
    response("", "", true);
    response("HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
             "head 101 1.1 connection=Upgrade upgrade=websocket keep upgrade|end|");
    for (const char* line : {"HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 abc", "HTTP/1.1",
                             "HTTP/1.1  200 OK", "HTTP/1.1 099 X", "ICY 200 OK", "200 OK"}) {
        response(std::string(line) + "\r\n\r\n", "failed malformed");
    }
}

TEST(HttpParser, NothingIsTakenAfterAFailure) {
    HttpParser parser(Kind::request, {});
    std::string_view input = "bad\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    std::string_view body;
    EXPECT_EQ(parser.next(input, body), Event::failed);
    const std::size_t left = input.size();
    EXPECT_EQ(parser.next(input, body), Event::failed);
    EXPECT_EQ(input.size(), left);
    EXPECT_EQ(parser.finish(), Event::failed);
}

TEST(HttpParser, MemoryOfALargeHeadIsGivenBack) {
    HttpParser parser(Kind::request, {});
    const std::string large =
        "GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(15000, 'x') + "\r\n\r\n";
    for (const std::string& text : {large, std::string("GET / HTTP/1.1\r\nHost: a\r\n\r\n")}) {
        std::string_view input = text;
        std::string_view body;
        EXPECT_EQ(parser.next(input, body), Event::head);
        EXPECT_EQ(parser.next(input, body), Event::end);
    }
    EXPECT_LT(parser.reserved(), 8000u);
}

}  // namespace
}  // namespace perilune
