// Tests of the encryption for TCP clients. What it must send was computed by another implementation
// (Python's cryptography), from the text of docs/protocol.md.
#include "net/encryption.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace perilune {
namespace {

using Outcome = SecureStream::Outcome;

std::string unhex(std::string_view text) {
    std::string bytes;
    for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
        bytes += static_cast<char>(std::stoi(std::string(text.substr(i, 2)), nullptr, 16));
    }
    return bytes;
}

// The secret keys of the vectors are 32 numbers in a row each.
class Counting final : public Random {
  public:
    explicit Counting(unsigned char first) : next_(first) {}
    std::uint64_t next() override { return 0; }
    void fill(void* data, std::size_t size) override {
        auto* to = static_cast<unsigned char*>(data);
        for (std::size_t i = 0; i < size; ++i) to[i] = next_++;
    }

  private:
    unsigned char next_;
};

// The secret key 41 42 43 ... 60.
constexpr const char* kKeyFile =
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VuBCIEIEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl9g\n"
    "-----END PRIVATE KEY-----\n";
constexpr const char* kServerKey =
    "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466";

class Encryption : public testing::Test {
  protected:
    Encryption() : file_(testing::TempDir() + "perilune_key_" + std::to_string(getpid())) {
        std::ofstream(file_) << kKeyFile;
    }
    ~Encryption() override { unlink(file_.c_str()); }

    std::unique_ptr<SecureStream> server(bool with_key = false, unsigned char first = 0x21) {
        const auto made = EncryptionContext::server({with_key ? file_ : "", ""});
        EXPECT_TRUE(made.ok()) << made.status().message();
        randoms_.push_back(std::make_unique<Counting>(first));
        return made.value()->open("", *randoms_.back());
    }
    std::unique_ptr<SecureStream> client(const std::string& server_key = "") {
        const auto made = EncryptionContext::client({"", server_key});
        EXPECT_TRUE(made.ok()) << made.status().message();
        randoms_.push_back(std::make_unique<Counting>(0x01));
        return made.value()->open("", *randoms_.back());
    }

    const std::string file_;
    std::vector<std::unique_ptr<Random>> randoms_;
};

std::string take_out(SecureStream& stream) {
    std::string bytes;
    iovec pieces[16];
    while (!stream.out().empty()) {
        const int count = stream.out().gather(pieces, 16);
        std::size_t size = 0;
        for (int i = 0; i < count; ++i) {
            bytes.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
            size += pieces[i].iov_len;
        }
        stream.out().consume(size);
    }
    return bytes;
}

struct Received {
    std::string text;
    Outcome then = Outcome::dry;
};

// What a stream makes of `bytes` that come in pieces.
Received give(SecureStream& stream, std::string_view bytes, std::size_t piece = SIZE_MAX) {
    static std::vector<char> room(128 * 1024);
    Received received;
    while (!bytes.empty() && received.then != Outcome::failed) {
        stream.feed(bytes.substr(0, piece));
        bytes.remove_prefix(std::min(piece, bytes.size()));
        if (!stream.established()) {
            received.then = stream.handshake();
            if (received.then != Outcome::ok) continue;
        }
        const SecureStream::Plain plain = stream.read(room.data(), room.size());
        received.text.append(room.data(), plain.count);
        received.then = plain.then;
    }
    return received;
}

std::string sealed(SecureStream& stream, std::string_view text) {
    EXPECT_TRUE(stream.write(text));
    return take_out(stream);
}

void shake_hands(SecureStream& client, SecureStream& server) {
    ASSERT_EQ(give(server, take_out(client)).then, Outcome::dry);
    ASSERT_EQ(give(client, take_out(server)).then, Outcome::dry);
    ASSERT_TRUE(client.established() && server.established());
}

// --- the bytes of docs/protocol.md ---

struct Vector {
    bool with_key;
    const char* server_hello;
    const char* records_of_client[2];
    const char* record_of_server;
};

constexpr const char* kClientHello =
    "2600504c450107a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c";
constexpr const char* kLogin =
    "3600020001000000000001002800"
    "7b2230223a226d6350595150634e59363648574e424e7938475464636d4174504748644d4851227d";
constexpr const char* kEnter = "1100010001000000000002000100610100";
constexpr const char* kEntered = "0e00010001000000000002000100";

constexpr Vector kVectors[] = {
    {false,
     "6600504c45015869aff450549732cbaaed5e5df9b30a6da31cb0e5742bad5ad4a1a768f1a67b"
     "0000000000000000000000000000000000000000000000000000000000000000"
     "6b8f0c3397ee5e00e5eb9e8ac317423269a12e9d11606774eb94a88ca3f8044f",
     {"4800db973c0371f169b3bf980768175136ebf1ba4f8ff8dae321d60758551af32b4372b5eeb54d7beb82e466217e"
      "af23927c5ca1c8ee41fe5c08277da04b463c79c88d077752800b",
      "23005282421ba5eeb8cf7a1fc0ee9b29468c25f401f1bae10d0c282f8085059ba630b7"},
     "20007798eb68de38709ee6f8f3a2760f5d012eafa36623b858b80cd95c80be79"},
    {true,
     "6600504c45015869aff450549732cbaaed5e5df9b30a6da31cb0e5742bad5ad4a1a768f1a67b"
     "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466"
     "63d91ad414a1b7d2847a927f1f9727e9c0e1af45b4c30f89eb2afa8850cdd35b",
     {"4800fcb79d40c5ba54c6e9bc3f5058e1e341d1617145d46e1449cb2e1d17d620838839a8bc2edaf533314f4a0d4d"
      "0410a5cf6fa6c2ea6d9c78ac560112ab7297eea8eca42c357c44",
      "2300fd11d3df0342714e84c8c807b9db05e4a3f9fe876b14b98e29ae3aa6d2b22c185f"},
     "2000b3d336a5aee8240238d45dfb2dff48a3f99c86f34a7e8cfd35da1275666e"},
};

TEST_F(Encryption, a_client_and_a_server_send_the_bytes_of_another_implementation) {
    for (const Vector& vector : kVectors) {
        const auto ours = client(vector.with_key ? kServerKey : "");
        const auto theirs = server(vector.with_key);
        EXPECT_EQ(take_out(*ours), unhex(kClientHello));
        ASSERT_EQ(give(*theirs, unhex(kClientHello)).then, Outcome::dry);
        EXPECT_EQ(take_out(*theirs), unhex(vector.server_hello));
        ASSERT_EQ(give(*ours, unhex(vector.server_hello)).then, Outcome::dry);
        EXPECT_EQ(sealed(*ours, unhex(kLogin)), unhex(vector.records_of_client[0]));
        EXPECT_EQ(sealed(*ours, unhex(kEnter)), unhex(vector.records_of_client[1]));
        EXPECT_EQ(sealed(*theirs, unhex(kEntered)), unhex(vector.record_of_server));
        const std::string records =
            unhex(vector.records_of_client[0]) + unhex(vector.records_of_client[1]);
        EXPECT_EQ(give(*theirs, records).text, unhex(kLogin) + unhex(kEnter));
        EXPECT_EQ(give(*ours, unhex(vector.record_of_server)).text, unhex(kEntered));
    }
}

TEST_F(Encryption, the_vectors_are_in_the_documentation) {
    std::ifstream file("docs/protocol.md");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
    ASSERT_FALSE(text.empty());
    const auto has = [&](const char* hex) { return text.find(hex) != std::string::npos; };
    EXPECT_TRUE(has(kClientHello));
    const Vector& vector = kVectors[1];
    EXPECT_TRUE(has(vector.server_hello));
    for (const char* record : vector.records_of_client) EXPECT_TRUE(has(record));
    EXPECT_TRUE(has(vector.record_of_server));
}

// --- what comes through ---

TEST_F(Encryption, text_of_any_size_comes_through_in_any_pieces) {
    for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{5000}, SIZE_MAX}) {
        const auto ours = client();
        const auto theirs = server(true);
        ASSERT_EQ(give(*theirs, take_out(*ours), piece).then, Outcome::dry);
        ASSERT_EQ(give(*ours, take_out(*theirs), piece).then, Outcome::dry);
        for (const std::size_t size : {1, 2, 4095, 4096, 4097, 8192, 60'000}) {
            std::string text(size, '\0');
            for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 + size);
            EXPECT_EQ(give(*theirs, sealed(*ours, text), piece).text, text) << size;
            EXPECT_EQ(give(*ours, sealed(*theirs, text), piece).text, text) << size;
        }
        EXPECT_EQ(sealed(*ours, ""), "");
    }
}

TEST_F(Encryption, no_two_records_and_no_two_connections_look_alike) {
    const auto one_client = client();
    const auto one_server = server();
    shake_hands(*one_client, *one_server);
    const std::string first = sealed(*one_client, "the same text");
    EXPECT_NE(sealed(*one_client, "the same text"), first);
    EXPECT_NE(sealed(*one_server, "the same text"), first);
    const auto other_client = client();
    const auto other_server = server(false, 0x90);
    shake_hands(*other_client, *other_server);
    EXPECT_NE(sealed(*other_client, "the same text"), first);
}

// --- what is refused ---

TEST_F(Encryption, a_record_that_was_changed_anywhere_ends_the_stream) {
    const auto probe_client = client();
    const auto probe_server = server();
    shake_hands(*probe_client, *probe_server);
    const std::size_t size = sealed(*probe_client, "hello, server").size();
    for (std::size_t at = 0; at < size; ++at) {
        const auto ours = client();
        const auto theirs = server();
        shake_hands(*ours, *theirs);
        std::string record = sealed(*ours, "hello, server");
        record[at] = static_cast<char>(record[at] ^ 1);
        // Enough for a length that has become larger.
        const Received received = give(*theirs, record + sealed(*ours, std::string(600, 'x')));
        EXPECT_EQ(received.text, "") << at;
        EXPECT_EQ(received.then, Outcome::failed) << at;
        EXPECT_FALSE(theirs->error().empty());
    }
}

TEST_F(Encryption, records_repeated_left_out_swapped_or_sent_back_end_the_stream) {
    const auto attempt = [&](const std::vector<int>& order, bool back) {
        const auto ours = client();
        const auto theirs = server();
        shake_hands(*ours, *theirs);
        std::vector<std::string> records;
        for (const char* text : {"a", "b", "c"}) records.push_back(sealed(*ours, text));
        std::string bytes;
        for (const int index : order) bytes += records[static_cast<std::size_t>(index)];
        return give(back ? *ours : *theirs, bytes);
    };
    EXPECT_EQ(attempt({0, 1, 2}, false).text, "abc");
    const struct {
        std::vector<int> order;
        const char* before;
        bool back;
    } attacks[] = {
        {{0, 0}, "a", false}, {{0, 1, 0}, "ab", false}, {{1}, "", false},
        {{0, 2}, "a", false}, {{1, 0}, "", false},      {{0}, "", true},
    };
    for (const auto& attack : attacks) {
        const Received received = attempt(attack.order, attack.back);
        EXPECT_EQ(received.text, attack.before);
        EXPECT_EQ(received.then, Outcome::failed);
    }
}

TEST_F(Encryption, what_cant_be_a_record_is_refused_from_its_header) {
    for (const char* header : {"0000", "0100", "1310", "ffff"}) {  // 0, 1, 4115, 65535
        const auto ours = client();
        const auto theirs = server();
        shake_hands(*ours, *theirs);
        EXPECT_EQ(give(*theirs, unhex(header)).then, Outcome::failed) << header;
    }
    for (const std::size_t size : {0u, 15u, 16u}) {  // no text at all
        const auto ours = client();
        const auto theirs = server();
        shake_hands(*ours, *theirs);
        std::string record(2 + size, '\0');
        record[0] = static_cast<char>(record.size());
        EXPECT_EQ(give(*theirs, record).then, Outcome::failed) << size;
    }
}

TEST_F(Encryption, what_is_no_hello_is_refused) {
    const std::string hello = unhex(kClientHello);
    std::string other_magic = hello;
    other_magic[4] = 'X';
    std::string other_version = hello;
    other_version[5] = 2;
    const std::string others[] = {other_magic,          other_version,
                                  unhex(kLogin),        "GET / HTTP/1.1\r\n\r\n",
                                  std::string(2, '\0'), std::string(100, '\xff')};
    for (const std::string& bytes : others) {
        EXPECT_EQ(give(*server(), bytes).then, Outcome::failed);
        EXPECT_EQ(give(*client(), bytes).then, Outcome::failed);
    }
    EXPECT_EQ(give(*server(), hello.substr(0, 37)).then, Outcome::dry);
    EXPECT_EQ(give(*client(), hello).then, Outcome::failed) << "a hello that comes back";
}

// Points of small order, from which every secret key makes zeros.
TEST_F(Encryption, keys_that_give_zeros_are_refused) {
    const char* points[] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    };
    for (const char* point : points) {
        for (const bool with_key : {false, true}) {
            const auto theirs = server(with_key);
            EXPECT_EQ(give(*theirs, unhex("2600504c4501") + unhex(point)).then, Outcome::failed);
            EXPECT_TRUE(take_out(*theirs).empty());
        }
        std::string hello = unhex(kVectors[0].server_hello);
        hello.replace(6, 32, unhex(point));
        EXPECT_EQ(give(*client(), hello).then, Outcome::failed) << "ephemeral " << point;
        hello = unhex(kVectors[1].server_hello);
        hello.replace(38, 32, unhex(point));
        EXPECT_EQ(give(*client(), hello).then, Outcome::failed) << "own " << point;
    }
}

TEST_F(Encryption, a_client_that_wants_a_key_finds_out_who_hasnt_it) {
    const auto refused = [&](const std::string& wanted, SecureStream& theirs) {
        const auto ours = client(wanted);
        EXPECT_EQ(give(theirs, take_out(*ours)).then, Outcome::dry);
        EXPECT_EQ(give(*ours, take_out(theirs)).then, Outcome::failed);
        return ours->error();
    };
    EXPECT_EQ(refused(kServerKey, *server(false)), "the server has no key of its own");
    EXPECT_EQ(refused(std::string(62, '0') + "01", *server(true)), "the server has another key");
    const auto ours = client(kServerKey);
    shake_hands(*ours, *server(true));

    // One in between that names the key it has seen, and has agreed on secrets of its own.
    const auto victim = client(kServerKey);
    const auto between = server(false, 0x77);
    EXPECT_EQ(give(*between, take_out(*victim)).then, Outcome::dry);
    std::string hello = take_out(*between);
    hello.replace(38, 32, unhex(kServerKey));
    EXPECT_EQ(give(*victim, hello).then, Outcome::failed);
    EXPECT_NE(victim->error().find("doesn't have the key"), std::string::npos);
}

TEST_F(Encryption, a_hello_that_was_changed_on_its_way_is_found_out) {
    for (const Vector& vector : kVectors) {
        const std::string hello = unhex(vector.server_hello);
        for (std::size_t at = 0; at < hello.size(); ++at) {
            const auto ours = client();
            (void)take_out(*ours);
            std::string changed = hello;
            changed[at] = static_cast<char>(changed[at] ^ 1);
            const Outcome outcome = give(*ours, changed).then;
            EXPECT_FALSE(ours->established()) << at;
            EXPECT_EQ(outcome, Outcome::failed) << at;
        }
    }
    // The client's: what the server answers doesn't fit what the client has sent.
    std::string changed = unhex(kClientHello);
    changed[10] = static_cast<char>(changed[10] ^ 1);
    const auto theirs = server();
    ASSERT_EQ(give(*theirs, changed).then, Outcome::dry);
    const auto ours = client();
    EXPECT_EQ(give(*ours, take_out(*theirs)).then, Outcome::failed);
}

TEST_F(Encryption, numbers_of_records_end_before_they_come_again) {
    const EncryptionKey key{1, 2, 3};
    const std::uint64_t last = RecordCipher::kMaxRecords - 1;
    RecordCipher sealing(RecordCipher::Use::seal, key, last);
    RecordCipher opening(RecordCipher::Use::open, key, last);
    char record[kRecordHeader + 5 + kRecordTag];
    char text[5];
    ASSERT_TRUE(sealing.seal("hello", record));
    const std::string_view body(record + kRecordHeader, 5 + kRecordTag);
    EXPECT_TRUE(opening.open(body, text));
    EXPECT_EQ(std::string_view(text, 5), "hello");
    EXPECT_FALSE(sealing.seal("hello", record));
    EXPECT_FALSE(opening.open(body, text));
}

TEST_F(Encryption, keys_that_cant_be_used_are_refused_with_what_is_wrong) {
    const auto server_of = [](const std::string& file) {
        return EncryptionContext::server({file, ""}).status();
    };
    EXPECT_NE(std::string(server_of("/nowhere").message()).find("\"/nowhere\""), std::string::npos);
    EXPECT_EQ(server_of("docs/protocol.md").code(), StatusCode::invalid);
    EXPECT_EQ(server_of("test/lua/tls/key.pem").code(), StatusCode::invalid) << "of another kind";
    for (const char* key :
         {"x", "00", "0000000000000000000000000000000000000000000000000000000000000000",
          "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d4846g"}) {
        EXPECT_EQ(EncryptionContext::client({"", key}).status().code(), StatusCode::invalid) << key;
    }
    EXPECT_EQ(EncryptionContext::server({file_, ""}).value()->public_key(), kServerKey);
    EXPECT_EQ(EncryptionContext::server({"", ""}).value()->public_key(), "");
}

}  // namespace
}  // namespace perilune
