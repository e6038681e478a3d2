// Fuzzes the frame decoder: any bytes in any pieces give the same frames as in one piece, no
// frame is over the limit, and no more memory is held than has arrived calls for.
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "driver.h"
#include "net/framing.h"

namespace perilune::fuzz {

namespace {

using perilune::Frame;
using perilune::FrameDecoder;

struct Result {
    std::vector<std::string> frames;
    FrameDecoder::Outcome last = FrameDecoder::Outcome::more;
};

Result decode(perilune::FramingKind kind, std::string_view input, std::size_t limit,
              std::size_t piece) {
    FrameDecoder decoder(kind);
    Result result;
    std::size_t arrived = 0;
    while (!input.empty() && result.last == FrameDecoder::Outcome::more) {
        // A copy, so that a sanitizer sees a frame that outlives its piece.
        const std::string copy(input.substr(0, piece));
        input.remove_prefix(copy.size());
        arrived += copy.size();
        std::string_view rest = copy;
        Frame frame;
        while ((result.last = decoder.next(rest, limit, frame)) == FrameDecoder::Outcome::frame) {
            check(kind == perilune::FramingKind::raw || frame.bytes.size() <= limit);
            check(!frame.buffer || frame.buffer.size() == frame.bytes.size());
            result.frames.emplace_back(frame.bytes);
        }
        check(decoder.reserved() <= std::max<std::size_t>(64, 2 * arrived));
    }
    return result;
}

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    if (size < 3) return;
    // Not raw: its frames are the pieces.
    const auto kind = static_cast<perilune::FramingKind>(1 + data[0] % 5);
    const std::size_t limit = data[1] * 16u;
    const std::size_t piece = 1 + data[2] % 32;
    const std::string_view input(reinterpret_cast<const char*>(data + 3), size - 3);
    const Result whole = decode(kind, input, limit, std::max<std::size_t>(1, input.size()));
    const Result pieces = decode(kind, input, limit, piece);
    check(whole.last == pieces.last && whole.frames == pieces.frames);
}

std::string random_input(std::mt19937_64& random, unsigned long round) {
    std::string bytes(random() % 300, '\0');
    // Small numbers are lengths that fit.
    const unsigned most = round % 3 == 0 ? 256 : 1 + random() % 20;
    for (char& byte : bytes) byte = static_cast<char>(random() % most);
    return bytes;
}

}  // namespace perilune::fuzz
