// Fuzzes the WebSocket decoder: any bytes in any pieces give the same messages as in one piece, no
// message is over the limit, and texts are UTF-8.
#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "driver.h"
#include "net/websocket.h"

namespace perilune::fuzz {

namespace {

using perilune::Frame;
using perilune::WebSocketDecoder;
using Outcome = WebSocketDecoder::Outcome;

bool goes_on(Outcome outcome) {
    return outcome == Outcome::binary || outcome == Outcome::text || outcome == Outcome::ping ||
           outcome == Outcome::pong;
}

struct Result {
    std::vector<std::pair<Outcome, std::string>> messages;
    Outcome last = Outcome::more;
    std::uint16_t code = 0;
    friend bool operator==(const Result&, const Result&) = default;
};

Result decode(perilune::WebSocketRole role, std::string_view input, std::size_t limit,
              std::size_t piece) {
    WebSocketDecoder decoder(role);
    Result result;
    while (!input.empty() && result.last == Outcome::more) {
        // A copy, so that a sanitizer sees a message that outlives its piece.
        const std::string copy(input.substr(0, piece));
        input.remove_prefix(copy.size());
        std::string_view rest = copy;
        Frame frame;
        while (goes_on(result.last = decoder.next(rest, limit, frame))) {
            const bool is_control = result.last == Outcome::ping || result.last == Outcome::pong;
            check(frame.bytes.size() <= (is_control ? 125 : limit));
            check(!frame.buffer || frame.buffer.size() == frame.bytes.size());
            check(result.last != Outcome::text || perilune::is_utf8(frame.bytes));
            result.messages.emplace_back(result.last, frame.bytes);
        }
        if (result.last == Outcome::close) {
            result.code = decoder.close_code();
            result.messages.emplace_back(result.last, frame.bytes);
        }
    }
    return result;
}

// Frames that make sense, and now and then a byte that doesn't.
std::string random_frames(std::mt19937_64& random, bool masked) {
    std::string bytes;
    for (std::uint64_t frames = 1 + random() % 6; frames > 0; --frames) {
        constexpr std::uint8_t kOpcodes[] = {0, 0, 1, 1, 2, 2, 8, 9, 10};
        const std::size_t length = random() % 8 == 0 ? random() % 200 : random() % 10;
        bytes += static_cast<char>((random() % 3 != 0 ? 0x80 : 0) | kOpcodes[random() % 9]);
        const std::uint8_t mask_bit = masked ? 0x80 : 0;
        if (length > 125) {
            bytes += static_cast<char>(mask_bit | 126);
            bytes += static_cast<char>(length >> 8);
        }
        bytes += static_cast<char>(length > 125 ? length : mask_bit | length);
        char mask[4] = {};
        for (char& byte : mask) byte = static_cast<char>(random());
        if (masked) bytes.append(mask, 4);
        std::string body;
        while (body.size() < length) body += static_cast<char>('a' + random() % 26);
        if (random() % 4 == 0 && length > 0) body[random() % length] = static_cast<char>(random());
        if (masked) perilune::mask_websocket(body.data(), body.size(), mask);
        bytes += body;
    }
    if (random() % 3 == 0) bytes[random() % bytes.size()] = static_cast<char>(random());
    return bytes;
}

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    if (size < 3) return;
    const auto role = static_cast<perilune::WebSocketRole>(data[0] % 2);
    const std::size_t limit = data[1] * 16u;
    const std::size_t piece = 1 + data[2] % 32;
    const std::string_view input(reinterpret_cast<const char*>(data + 3), size - 3);
    const Result whole = decode(role, input, limit, std::max<std::size_t>(1, input.size()));
    const Result pieces = decode(role, input, limit, piece);
    check(whole == pieces);
}

std::string random_input(std::mt19937_64& random, unsigned long) {
    std::string bytes(3, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    return bytes + random_frames(random, bytes[0] % 2 == 0);
}

}  // namespace perilune::fuzz
