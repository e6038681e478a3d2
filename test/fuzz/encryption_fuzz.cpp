// Fuzzes both ends of an encrypted stream: whatever a peer sends, in any pieces, nothing is taken
// for text that wasn't sealed as such, text comes in its order and without gaps, and no more memory
// is held than has arrived calls for.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "driver.h"
#include "net/encryption.h"

namespace perilune::fuzz {

namespace {

using namespace perilune;

constexpr std::size_t kTexts[] = {1, 40, 300, 4096, 5000, 7};

std::string taken_from(SecureStream& stream) {
    std::string bytes;
    iovec piece;
    while (stream.out().gather(&piece, 1) == 1) {
        bytes.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
        stream.out().consume(piece.iov_len);
    }
    return bytes;
}

// What a stream takes for text, until it has enough.
std::string given_to(SecureStream& stream, std::string_view bytes, std::size_t piece) {
    static std::vector<char> room(128 * 1024);
    std::string text;
    for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
        // A copy, so that a sanitizer sees what outlives its piece.
        const std::string copy(bytes.substr(0, piece));
        stream.feed(copy);
        if (!stream.established()) {
            const SecureStream::Outcome outcome = stream.handshake();
            if (outcome == SecureStream::Outcome::failed) break;
            if (outcome != SecureStream::Outcome::ok) continue;
        }
        const SecureStream::Plain plain = stream.read(room.data(), room.size());
        check(plain.count <= copy.size() + kMaxRecordText);
        text.append(room.data(), plain.count);
        if (plain.then == SecureStream::Outcome::failed) {
            check(!stream.error().empty());
            break;
        }
    }
    return text;
}

struct Pair {
    Pair()
        : server(EncryptionContext::server({}).value()->open("", random)),
          client(EncryptionContext::client({}).value()->open("", random)) {}

    SeededRandom random{1};
    std::unique_ptr<SecureStream> server;
    std::unique_ptr<SecureStream> client;
};

// An honest sender's bytes, with changes: three bytes each, where and what.
void change_honest_bytes(std::string_view changes, bool to_server, std::size_t piece) {
    Pair pair;
    SecureStream& sender = to_server ? *pair.client : *pair.server;
    SecureStream& receiver = to_server ? *pair.server : *pair.client;
    const std::string hello = taken_from(*pair.client);
    check(given_to(*pair.server, hello, SIZE_MAX).empty());
    const std::string answer = taken_from(*pair.server);
    if (to_server) check(given_to(*pair.client, answer, SIZE_MAX).empty());
    std::string sealed = to_server ? "" : answer;
    std::string text;
    for (const std::size_t size : kTexts) {
        const std::string part(size, static_cast<char>('a' + size % 26));
        check(sender.write(part));
        text += part;
    }
    sealed += taken_from(sender);
    for (; changes.size() >= 3 && !sealed.empty(); changes.remove_prefix(3)) {
        const std::size_t at =
            (static_cast<std::uint8_t>(changes[0]) * 256u + static_cast<std::uint8_t>(changes[1])) %
            sealed.size();
        const auto what = static_cast<std::uint8_t>(changes[2]);
        if (what < 100) {
            sealed[at] = static_cast<char>(sealed[at] ^ (what + 1));
        } else if (what < 150) {
            sealed.erase(at, what - 99);
        } else if (what < 200) {
            sealed.insert(at, sealed.substr(at, what - 149));
        } else {
            sealed.resize(at);
        }
    }
    const std::string got = given_to(receiver, sealed, piece);
    check(text.compare(0, got.size(), got) == 0);
}

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return;
    const std::size_t piece = 1 + data[1] % 64 * (data[1] < 128 ? 1u : 100u);
    const std::string_view input(reinterpret_cast<const char*>(data + 2), size - 2);
    switch (data[0] % 4) {
        case 0: {
            Pair pair;
            check(given_to(*pair.server, input, piece).empty());
            check(given_to(*pair.client, input, piece).empty());
            break;
        }
        case 1: {  // behind an honest hello
            Pair pair;
            const std::string bytes = taken_from(*pair.client) + std::string(input);
            check(given_to(*pair.server, bytes, piece).empty());
            break;
        }
        default: change_honest_bytes(input, data[0] % 4 == 2, piece);
    }
}

std::string random_input(std::mt19937_64& random, unsigned long round) {
    std::string bytes(2 + random() % (round % 3 == 0 ? 200 : 8), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    bytes[0] = static_cast<char>(round);
    if (round % 4 == 0 && random() % 2 == 0) bytes.insert(2, std::string("\x26\0PLE\x01", 6));
    if (round % 4 == 0 && random() % 4 == 0) bytes.insert(2, std::string("\x66\0PLE\x01", 6));
    return bytes;
}

}  // namespace perilune::fuzz
