// Tests of framing: tables of whole inputs, and random chunks against a simple model.
#include "net/framing.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "net/send_queue.h"

namespace perilune {
namespace {

using Outcome = FrameDecoder::Outcome;

struct Decoded {
    std::vector<std::string> frames;
    Outcome last = Outcome::more;
    std::size_t reserved = 0;  // the most that was kept in memory
    friend bool operator==(const Decoded& a, const Decoded& b) {
        return a.frames == b.frames && a.last == b.last;
    }
};

// Feeds `input` in pieces whose sizes `next_size` gives.
template <typename NextSize>
Decoded decode(FramingKind kind, std::string_view input, std::size_t max_frame,
               NextSize next_size) {
    FrameDecoder decoder(kind);
    Decoded result;
    while (!input.empty()) {
        // A copy of its own, so that a sanitizer sees a view that outlives its piece.
        const std::string piece(input.substr(0, std::max<std::size_t>(1, next_size())));
        input.remove_prefix(piece.size());
        std::string_view rest = piece;
        Frame frame;
        while ((result.last = decoder.next(rest, max_frame, frame)) == Outcome::frame) {
            result.frames.emplace_back(frame.bytes);
            if (frame.buffer) {
                EXPECT_EQ(frame.buffer.size(), frame.bytes.size());
            }
        }
        result.reserved = std::max(result.reserved, decoder.reserved());
        if (result.last != Outcome::more) return result;
    }
    return result;
}

std::string bytes(std::initializer_list<int> list) { return std::string(list.begin(), list.end()); }

struct Row {
    const char* what;
    FramingKind kind;
    std::string input;
    std::size_t max_frame;
    std::vector<std::string> frames;
    Outcome last;
};

const std::vector<Row>& rows() {
    static const std::vector<Row> table = {
        {"packet of one byte", FramingKind::packet, bytes({3, 0, 'a'}), 64, {"a"}, Outcome::more},
        {"empty packet", FramingKind::packet, bytes({2, 0}), 64, {""}, Outcome::more},
        {"packet length 0", FramingKind::packet, bytes({0, 0}), 64, {}, Outcome::malformed},
        {"packet length 1", FramingKind::packet, bytes({1, 0}), 64, {}, Outcome::malformed},
        {"packet at the limit",
         FramingKind::packet,
         bytes({6, 0}) + "abcd",
         4,
         {"abcd"},
         Outcome::more},
        {"packet over the limit", FramingKind::packet, bytes({7, 0}), 4, {}, Outcome::too_large},
        {"packet of 65535", FramingKind::packet, bytes({255, 255}), 65532, {}, Outcome::too_large},
        {"two packets",
         FramingKind::packet,
         bytes({3, 0, 'a', 4, 0, 'b', 'c'}),
         64,
         {"a", "bc"},
         Outcome::more},
        {"packet, then a bad one",
         FramingKind::packet,
         bytes({3, 0, 'a', 1, 0, 'b'}),
         64,
         {"a"},
         Outcome::malformed},
        {"half a packet", FramingKind::packet, bytes({9, 0, 'a'}), 64, {}, Outcome::more},
        {"u16be", FramingKind::u16be, bytes({0, 2, 'a', 'b', 0, 0}), 64, {"ab", ""}, Outcome::more},
        {"u16be over the limit", FramingKind::u16be, bytes({1, 0}), 255, {}, Outcome::too_large},
        {"u32be", FramingKind::u32be, bytes({0, 0, 0, 2, 'a', 'b'}), 64, {"ab"}, Outcome::more},
        {"u32be of 2^31", FramingKind::u32be, bytes({128, 0, 0, 0}), 65536, {}, Outcome::too_large},
        {"u32be of 2^32 - 1",
         FramingKind::u32be,
         bytes({255, 255, 255, 255}),
         65536,
         {},
         Outcome::too_large},
        {"lines", FramingKind::line, "one\ntwo\r\n\nrest", 64, {"one", "two", ""}, Outcome::more},
        {"line at the limit", FramingKind::line, "abcd\r\n", 4, {"abcd"}, Outcome::more},
        {"line over the limit", FramingKind::line, "abcde\n", 4, {}, Outcome::too_large},
        {"line without end", FramingKind::line, "abcdef", 4, {}, Outcome::too_large},
        {"carriage return inside", FramingKind::line, "a\rb\n", 4, {"a\rb"}, Outcome::more},
    };
    return table;
}

TEST(Framing, each_row_decodes_alike_whole_and_in_single_bytes) {
    for (const Row& row : rows()) {
        const Decoded whole =
            decode(row.kind, row.input, row.max_frame, [] { return std::size_t{1} << 20; });
        EXPECT_EQ(whole.frames, row.frames) << row.what;
        EXPECT_EQ(whole.last, row.last) << row.what;
        const Decoded single = decode(row.kind, row.input, row.max_frame, [] { return 1; });
        EXPECT_EQ(single.frames, row.frames) << row.what << " in single bytes";
        EXPECT_EQ(single.last, row.last) << row.what << " in single bytes";
    }
}

TEST(Framing, raw_gives_what_comes) {
    const Decoded result = decode(FramingKind::raw, "abcdef", 1, [] { return 4; });
    EXPECT_EQ(result.frames, (std::vector<std::string>{"abcd", "ef"}));
}

TEST(Framing, what_is_encoded_decodes_in_any_chunks) {
    std::mt19937 random(7);
    const auto up_to = [&](std::size_t n) { return random() % (n + 1); };
    for (const FramingKind kind :
         {FramingKind::packet, FramingKind::u16be, FramingKind::u32be, FramingKind::line}) {
        for (int round = 0; round < 300; ++round) {
            std::vector<std::string> sent;
            std::string stream;
            for (std::size_t n = up_to(20); n > 0; --n) {
                std::string body(up_to(round % 10 == 0 ? 65533 : 200), 0);
                for (char& c : body) {
                    c = static_cast<char>(random());
                    if (kind == FramingKind::line && (c == '\n' || c == '\r')) c = 'x';
                }
                const BufferRef frame = encode_frame(kind, body);
                stream.append(frame.data(), frame.size());
                sent.push_back(std::move(body));
            }
            const std::size_t largest = 1 + up_to(round % 3 == 0 ? 8 : 70000);
            const Decoded result = decode(kind, stream, 65536, [&] { return 1 + up_to(largest); });
            ASSERT_EQ(result.frames, sent) << framing_rule(kind).name;
            ASSERT_EQ(result.last, Outcome::more);
        }
    }
}

TEST(Framing, garbage_gives_the_same_in_any_chunks) {
    std::mt19937 random(11);
    for (int round = 0; round < 3000; ++round) {
        std::string input(random() % 400, 0);
        for (char& c : input) c = static_cast<char>(random() % (round % 2 ? 256 : 8));
        const auto kind = static_cast<FramingKind>(1 + random() % 4);
        const std::size_t limit = random() % 300;
        const Decoded whole = decode(kind, input, limit, [] { return std::size_t{1} << 20; });
        const Decoded chunks = decode(kind, input, limit, [&] { return 1 + random() % 7; });
        if (!input.empty()) {
            ASSERT_EQ(whole, chunks) << framing_rule(kind).name;
        }
    }
}

TEST(Framing, announcing_much_reserves_little) {
    // A length of 64 KB and ten bytes of it.
    const Decoded result =
        decode(FramingKind::u32be, bytes({0, 1, 0, 0}) + "0123456789", 65536, [] { return 3; });
    EXPECT_LE(result.reserved, 64u);
    // At most twice what has arrived.
    const Decoded half = decode(FramingKind::u32be, bytes({0, 1, 0, 0}) + std::string(20000, 'x'),
                                65536, [] { return 100; });
    EXPECT_LE(half.reserved, 40000u);
}

TEST(Framing, limit_may_change_between_frames) {
    FrameDecoder decoder(FramingKind::packet);
    const std::string input = bytes({12, 0}) + "0123456789" + bytes({12, 0});
    std::string_view rest = input;
    Frame frame;
    EXPECT_EQ(decoder.next(rest, 10, frame), Outcome::frame);
    EXPECT_EQ(decoder.next(rest, 9, frame), Outcome::too_large);
}

TEST(Framing, body_that_the_format_cannot_say_is_refused) {
    EXPECT_TRUE(check_frame_size(FramingKind::packet, 65533).ok());
    EXPECT_EQ(check_frame_size(FramingKind::packet, 65534).code(), StatusCode::too_large);
    EXPECT_TRUE(check_frame_size(FramingKind::u16be, 65535).ok());
    EXPECT_EQ(check_frame_size(FramingKind::u16be, 65536).code(), StatusCode::too_large);
}

TEST(Framing, golden_packet_of_the_client_protocol) {
    const BufferRef frame = encode_frame(FramingKind::packet, std::string(52, 'p'));
    EXPECT_EQ(std::string(frame.data(), 2), bytes({0x36, 0x00}));
    EXPECT_EQ(frame.size(), 54u);
}

TEST(SendQueue, gives_back_what_was_appended_however_it_is_consumed) {
    std::mt19937 random(3);
    for (int round = 0; round < 200; ++round) {
        SendQueue queue;
        std::string expected;
        std::string sent;
        std::size_t packets = 0;
        for (int step = 0; step < 100; ++step) {
            if (random() % 3 != 0) {
                const std::string data(random() % 3000, static_cast<char>('a' + random() % 26));
                expected += data;
                if (random() % 2) {
                    queue.append(data);
                } else {
                    queue.append(BufferRef::copy_of(data.data(), data.size()));
                }
                ++packets;
            } else {
                iovec pieces[4];
                const int count = queue.gather(pieces, 4);
                std::string there;
                for (int i = 0; i < count; ++i) {
                    there.append(static_cast<char*>(pieces[i].iov_base), pieces[i].iov_len);
                }
                const std::size_t taken = there.empty() ? 0 : random() % (there.size() + 1);
                sent += there.substr(0, taken);
                queue.consume(taken);
            }
            EXPECT_EQ(queue.bytes(), expected.size() - sent.size());
            EXPECT_LE(queue.packets(), packets);
        }
        while (!queue.empty()) {
            iovec piece;
            queue.gather(&piece, 1);
            sent.append(static_cast<char*>(piece.iov_base), piece.iov_len);
            queue.consume(piece.iov_len);
        }
        EXPECT_EQ(sent, expected);
        EXPECT_EQ(queue.packets(), 0u);
    }
}

}  // namespace
}  // namespace perilune
