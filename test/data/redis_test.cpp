// Tests of RedisReader and RedisCommand: tables of replies, each also in pieces of every size.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "data/redis_command.h"
#include "data/redis_reply.h"

namespace perilune {
namespace {

using Outcome = RedisReader::Outcome;

// A value as a text: "[text:a int:5 [null]]".
std::size_t tell(const RedisReader& reader, std::size_t at, std::string& told) {
    const RedisNode node = reader.nodes()[at++];
    const auto add = [&](const char* kind) { told.append(kind).append(reader.text(node)); };
    switch (node.type) {
        case RedisType::text: add("text:"); break;
        case RedisType::status: add("status:"); break;
        case RedisType::error: add("error:"); break;
        case RedisType::integer: told += "int:" + std::to_string(node.value); break;
        case RedisType::null: told += "null"; break;
        case RedisType::array:
            told += "[";
            for (std::uint32_t i = 0; i < node.size; ++i) {
                if (i > 0) told += " ";
                at = tell(reader, at, told);
            }
            told += "]";
    }
    return at;
}

// All that a reader says of the input, given in pieces of that size.
std::string read(std::string_view input, std::size_t piece_size, const RedisLimits& limits = {}) {
    RedisReader reader(limits);
    std::string told;
    while (!input.empty()) {
        // A copy, so that a sanitizer sees a view that outlives its piece.
        const std::string piece(input.substr(0, piece_size));
        input.remove_prefix(piece.size());
        std::string_view rest = piece;
        Outcome outcome;
        while ((outcome = reader.next(rest)) == Outcome::reply) {
            EXPECT_EQ(tell(reader, 0, told), reader.nodes().size());
            told += "|";
        }
        if (outcome == Outcome::failed) {
            EXPECT_STRNE(reader.message(), "");
            return told + redis_error_name(reader.error());
        }
        EXPECT_TRUE(rest.empty());
    }
    return told;
}

// The same whatever the pieces.
void expect_reply(const std::string& input, const std::string& told,
                  const RedisLimits& limits = {}) {
    for (std::size_t size = 1; size <= input.size(); ++size) {
        ASSERT_EQ(read(input, size, limits), told) << "in pieces of " << size << ": " << input;
    }
}

TEST(RedisReader, ReadsEveryKindOfReplyInPiecesOfEverySize) {
    expect_reply("+OK\r\n", "status:OK|");
    expect_reply("-WRONGTYPE no\r\n", "error:WRONGTYPE no|");
    expect_reply(":0\r\n:-1\r\n:9223372036854775807\r\n:-9223372036854775808\r\n",
                 "int:0|int:-1|int:9223372036854775807|int:-9223372036854775808|");
    expect_reply("$5\r\nhello\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n", "text:hello|text:|null|null|[]|");
    expect_reply(std::string("$4\r\n\0\r\n\xff\r\n", 10), std::string("text:\0\r\n\xff|", 10));
    expect_reply("*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n-ERR x\r\n+after\r\n",
                 "[text:a [int:1 null] error:ERR x]|status:after|");
}

TEST(RedisReader, ReadsALargeReplyAmongSmallOnes) {
    const std::string body(300'000, 'x');
    const std::string input = "+a\r\n$300000\r\n" + body + "\r\n+b\r\n";
    for (const std::size_t size : {1000UL, 4096UL, 65536UL, input.size()}) {
        EXPECT_EQ(read(input, size), "status:a|text:" + body + "|status:b|");
    }
}

TEST(RedisReader, RefusesWhatIsNoReply) {
    expect_reply("hello\r\n", "malformed");
    expect_reply("HTTP/1.1 200 OK\r\n", "malformed");
    expect_reply("+OK\r\n?", "status:OK|malformed");
    expect_reply(":12a\r\n", "malformed");
    expect_reply(":\r\n", "malformed");
    expect_reply(":9223372036854775808\r\n", "malformed");
    expect_reply("$x\r\n", "malformed");
    expect_reply("$-2\r\n", "malformed");
    expect_reply("*-2\r\n", "malformed");
    expect_reply("*x\r\n", "malformed");
    expect_reply("%1\r\n+a\r\n+b\r\n", "malformed");  // a map of version 3
    expect_reply("$3\r\nabcde\r\n", "malformed");     // longer than it says
    expect_reply("$5\r\nabc\r\n+OK\r\n", "malformed");
}

TEST(RedisReader, RefusesANumberThatDoesNotEnd) {
    for (const char* kind : {":", "$", "*"}) {
        RedisReader reader;
        const std::string input = kind + std::string(100, '1');
        std::string_view rest = input;
        EXPECT_EQ(reader.next(rest), Outcome::failed);
        EXPECT_EQ(reader.error(), RedisReader::Error::malformed);
    }
}

TEST(RedisReader, RefusesTooLargeATextFromItsHeader) {
    expect_reply("$100\r\n", "", {.bytes = 100});
    expect_reply("$101\r\n", "too_large", {.bytes = 100});
    expect_reply("$9223372036854775807\r\n", "too_large");
    expect_reply("*2\r\n$60\r\n" + std::string(60, 'x') + "\r\n$41\r\n", "too_large",
                 {.bytes = 100});
    expect_reply("+" + std::string(101, 'x') + "\r\n", "too_large", {.bytes = 100});
}

TEST(RedisReader, RefusesALineThatDoesNotEnd) {
    for (const char* kind : {"+", "-"}) {
        EXPECT_EQ(read(kind + std::string(RedisReader::kMaxLine, 'x'), 1000), "");
        EXPECT_EQ(read(kind + std::string(RedisReader::kMaxLine + 2, 'x'), 1000), "too_large");
        EXPECT_EQ(read(kind + std::string(RedisReader::kMaxLine + 1, 'x') + "\r\n", 1000),
                  "too_large");
    }
}

TEST(RedisReader, RefusesTooManyValuesFromTheirHeader) {
    const RedisLimits limits{.elements = 4};
    expect_reply("*3\r\n:1\r\n:2\r\n:3\r\n", "[int:1 int:2 int:3]|", limits);
    expect_reply("*4\r\n", "too_many", limits);
    expect_reply("*2\r\n*3\r\n", "too_many", limits);
    expect_reply("*1048576\r\n", "too_many");
    expect_reply("*2147483647\r\n", "too_many");
    expect_reply("*2147483648\r\n", "malformed");
}

TEST(RedisReader, RefusesTooDeepArrays) {
    std::string nested;
    for (int depth = 0; depth < RedisReader::kMaxDepth; ++depth) nested += "*1\r\n";
    expect_reply(nested + ":1\r\n", "[[[[[[[[int:1]]]]]]]]|");
    expect_reply(nested + "*1\r\n:1\r\n", "too_deep");
    expect_reply(nested + "x", "malformed");
}

TEST(RedisReader, StaysFailed) {
    RedisReader reader;
    std::string_view input = "?";
    EXPECT_EQ(reader.next(input), Outcome::failed);
    input = "+OK\r\n";
    EXPECT_EQ(reader.next(input), Outcome::failed);
    EXPECT_EQ(reader.error(), RedisReader::Error::malformed);
}

TEST(RedisReader, KeepsNoMemoryForWhatIsOnlyAnnounced) {
    RedisReader reader;
    std::string_view input = "*1000000\r\n$60000000\r\nabc";
    EXPECT_EQ(reader.next(input), Outcome::more);
    EXPECT_LT(reader.reserved(), 1024U);
}

TEST(RedisReader, GivesTheMemoryOfALargeReplyBack) {
    RedisReader reader;
    const std::string large = "$1000000\r\n" + std::string(1'000'000, 'x') + "\r\n";
    std::string_view input = large;
    ASSERT_EQ(reader.next(input), Outcome::reply);
    EXPECT_GT(reader.reserved(), 1'000'000U);
    input = "+OK\r\n";
    ASSERT_EQ(reader.next(input), Outcome::reply);
    EXPECT_LT(reader.reserved(), 64U * 1024);
}

TEST(RedisErrorCode, IsTheFirstWordIfItIsOne) {
    EXPECT_EQ(redis_error_code("WRONGTYPE Operation against a key"), "WRONGTYPE");
    EXPECT_EQ(redis_error_code("MOVED 3999 127.0.0.1:6381"), "MOVED");
    EXPECT_EQ(redis_error_code("NOAUTH"), "NOAUTH");
    EXPECT_EQ(redis_error_code("my own error"), "ERR");
    EXPECT_EQ(redis_error_code("Error of a script"), "ERR");
    EXPECT_EQ(redis_error_code(""), "ERR");
}

std::string command(std::vector<const char*> parts, std::vector<std::size_t> sizes) {
    const Result<RedisCommand> made = RedisCommand::make(parts, sizes);
    return made.ok() ? std::string(made.value().bytes()) : status_code_name(made.status().code());
}

TEST(RedisCommand, IsWrittenAsCountedBytes) {
    EXPECT_EQ(command({"SET", "k", "a\r\n\0"}, {3, 1, 4}),
              std::string("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\n\0\r\n", 30));
    EXPECT_EQ(command({"PING"}, {4}), "*1\r\n$4\r\nPING\r\n");
    EXPECT_EQ(command({}, {}), "invalid");
}

TEST(RedisCommand, HasLimits) {
    const std::string large(RedisCommand::kMaxBytes, 'x');
    EXPECT_EQ(command({large.data(), "y"}, {large.size(), 1}), "too_large");
    EXPECT_EQ(command({"x", large.data()}, {1, SIZE_MAX}), "too_large");
    EXPECT_EQ(command(std::vector<const char*>(RedisCommand::kMaxParts + 1, "x"),
                      std::vector<std::size_t>(RedisCommand::kMaxParts + 1, 1)),
              "too_large");
}

// Of the specification of clusters and of CLUSTER KEYSLOT.
TEST(RedisSlot, IsThatOfTheServer) {
    EXPECT_EQ(redis_slot("123456789"), 0x31c3U % 16384);
    EXPECT_EQ(redis_slot(""), 0U);
    EXPECT_EQ(redis_slot("foo"), 12182U);
    EXPECT_EQ(redis_slot("hello"), 866U);
}

TEST(RedisSlot, GoesByTheTag) {
    EXPECT_EQ(redis_slot("{user1000}.following"), redis_slot("user1000"));
    EXPECT_EQ(redis_slot("foo{{bar}}zap"), redis_slot("{bar"));
    EXPECT_EQ(redis_slot("foo{bar}{zap}"), redis_slot("bar"));
    EXPECT_NE(redis_slot("foo{}{bar}"), redis_slot("bar"));
    EXPECT_NE(redis_slot("{foo"), redis_slot("foo"));
}

}  // namespace
}  // namespace perilune
