// Fuzzes the reader of Redis's replies: any bytes in any pieces give the same replies as in one
// piece, no limit is passed, and no more memory is held than what has come and the limits allow.
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

#include "data/redis_reply.h"
#include "driver.h"

namespace perilune::fuzz {

namespace {

using perilune::RedisNode;
using perilune::RedisReader;
using perilune::RedisType;
using Outcome = RedisReader::Outcome;

constexpr perilune::RedisLimits kLimits{.bytes = 200, .elements = 12};

// Adds the value that begins with node `at` to `told`; returns which node follows it.
std::size_t tell(const RedisReader& reader, std::size_t at, int depth, std::string& told) {
    check(at < reader.nodes().size() && depth <= RedisReader::kMaxDepth);
    const RedisNode node = reader.nodes()[at++];
    told += std::to_string(static_cast<int>(node.type)) + ":";
    if (node.type == RedisType::array) {
        for (std::uint32_t i = 0; i < node.size; ++i) at = tell(reader, at, depth + 1, told);
    } else if (node.type == RedisType::integer) {
        told += std::to_string(node.value);
    } else if (node.type != RedisType::null) {
        told += reader.text(node);
    }
    told += ";";
    return at;
}

// All that a reader says of the input, as a text.
std::string read(std::string_view input, std::size_t piece_size) {
    RedisReader reader(kLimits);
    std::string told;
    while (!input.empty()) {
        // A copy, so that a sanitizer sees a view that outlives its piece.
        const std::string piece(input.substr(0, piece_size));
        input.remove_prefix(piece.size());
        std::string_view rest = piece;
        Outcome outcome;
        while ((outcome = reader.next(rest)) == Outcome::reply) {
            check(reader.nodes().size() <= kLimits.elements);
            check(tell(reader, 0, 0, told) == reader.nodes().size());
            (void)perilune::redis_error_code(told);
            told += "\n";
        }
        if (outcome == Outcome::failed) {
            check(reader.next(rest) == Outcome::failed);
            return told + perilune::redis_error_name(reader.error());
        }
        check(rest.empty() && reader.reserved() <= 512 * 1024);
    }
    return told;
}

// The corpus, of which random runs put pieces together and change bytes.
constexpr std::array<std::string_view, 24> kPieces = {
    "+OK\r\n",
    "-WRONGTYPE a\r\n",
    "-MOVED 1 127.0.0.1:1\r\n",
    ":1\r\n",
    ":-9223372036854775808\r\n",
    ":9223372036854775808\r\n",
    "$-1\r\n",
    "$0\r\n\r\n",
    "$5\r\nhello\r\n",
    "$5\r\nhel\r\n",
    "$190\r\n",
    "$201\r\n",
    "$9223372036854775807\r\n",
    "*-1\r\n",
    "*0\r\n",
    "*1\r\n",
    "*2\r\n",
    "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
    "*11\r\n",
    "*12\r\n",
    "*2147483647\r\n",
    "*1\r\n*1\r\n*1\r\n*1\r\n",
    "%1\r\n",
    "\r\n",
};

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    if (size < 1) return;
    const std::size_t piece = 1 + data[0] % 32;
    const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
    check(read(input, input.size() + 1) == read(input, piece));
}

std::string random_input(std::mt19937_64& random, unsigned long round) {
    std::string bytes{static_cast<char>(random())};
    for (std::uint64_t count = 1 + random() % 16; count > 0; --count) {
        bytes += kPieces[random() % kPieces.size()];
    }
    // Every other input stays as it is: a changed byte mostly ends it.
    for (std::uint64_t count = round % 2 * (random() % 4); count > 1; --count) {
        bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    return bytes;
}

}  // namespace perilune::fuzz
