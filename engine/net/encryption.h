// Encryption: a SecureStream of our own, for TCP clients for which TLS is too much.
//
// Purpose:   X25519 for keys of each connection, ChaCha20-Poly1305 for what they carry, by
//            OpenSSL. docs/protocol.md has the bytes, and what this protects against.
// Threads:   as those of net/secure_stream.h.
// Ownership: the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "net/framing.h"
#include "net/secure_stream.h"

struct evp_cipher_ctx_st;
struct evp_pkey_st;

namespace perilune {

struct SessionKeys;

using EncryptionKey = std::array<unsigned char, 32>;

// A pair of X25519 keys; null: none.
struct DeleteKeyPair {
    void operator()(evp_pkey_st* pair) const;
};
using KeyPair = std::unique_ptr<evp_pkey_st, DeleteKeyPair>;

// Both hellos and all records are frames of kind `packet`. Sizes without the two bytes in front.
inline constexpr std::size_t kClientHelloSize = 36;   // "PLE", version, ephemeral key
inline constexpr std::size_t kServerHelloSize = 100;  // the same, its own key, proof
inline constexpr std::size_t kMaxRecordText = 4096;   // of plain text, at least 1
inline constexpr std::size_t kRecordTag = 16;
inline constexpr std::size_t kRecordHeader = 2;

// Seals the records of one direction of a connection, or opens them, in their order. Each has a
// number, which is its nonce: none is used twice.
class RecordCipher {
  public:
    enum class Use { seal, open };
    // Records of a connection and direction, then it is at its end.
    static constexpr std::uint64_t kMaxRecords = std::uint64_t{1} << 48;

    // `number`: of the first record; tests alone begin later.
    RecordCipher(Use use, const EncryptionKey& key, std::uint64_t number = 0);
    ~RecordCipher();
    RecordCipher(const RecordCipher&) = delete;
    RecordCipher& operator=(const RecordCipher&) = delete;

    // Writes header, text and tag of a record to `record`. False: there may be no more records.
    bool seal(std::string_view text, char* record);
    // `sealed` is a record without its header. Writes its text, kRecordTag bytes less. False: it
    // isn't the next record that was sealed, or there may be no more; what `text` has is garbage.
    bool open(std::string_view sealed, char* text);

  private:
    bool begin(std::size_t sealed_size, char* header);

    evp_cipher_ctx_st* const context_;
    std::uint64_t next_;
};

// What config.lua and scripts say.
struct EncryptionOptions {
    std::string key_file;    // a server's own X25519 key in PEM form; empty: it has none
    std::string server_key;  // whom a client wants, 64 hexadecimal digits; empty: anybody
};

class EncryptionContext final : public SecureContext {
  public:
    // Errors: invalid (the file, the key), unavailable (OpenSSL doesn't have the algorithms).
    static Result<std::shared_ptr<const EncryptionContext>> server(
        const EncryptionOptions& options);
    static Result<std::shared_ptr<const EncryptionContext>> client(
        const EncryptionOptions& options);

    std::unique_ptr<SecureStream> open(const std::string& host, Random& random) const override;
    Result<std::shared_ptr<const SecureContext>> reload() const override;

    // A server's own public key as clients want it, or empty.
    std::string public_key() const;

  private:
    friend class EncryptedStream;
    EncryptionContext(const EncryptionOptions& options, bool is_server, KeyPair own,
                      const EncryptionKey& server_key)
        : options_(options), is_server_(is_server), own_(std::move(own)), server_key_(server_key) {}

    const EncryptionOptions options_;
    const bool is_server_;
    const KeyPair own_;               // a server's
    const EncryptionKey server_key_;  // of that, or the one that a client wants; zeros: none
};

class EncryptedStream final : public SecureStream {
  public:
    EncryptedStream(std::shared_ptr<const EncryptionContext> context, Random& random);

    Outcome handshake() override;
    Plain read(char* to, std::size_t size) override;
    bool write(std::string_view plain_text) override;
    void shut_down() override {}

  private:
    Outcome fail(const char* why);
    Outcome answer_client(std::string_view hello);
    Outcome check_server(std::string_view hello);
    void begin_records(const SessionKeys& keys);

    const std::shared_ptr<const EncryptionContext> context_;
    Random& random_;
    // A client's, until both sides have agreed.
    KeyPair ephemeral_;
    std::string client_hello_;  // with its header
    FrameDecoder decoder_{FramingKind::packet};
    std::unique_ptr<RecordCipher> sealing_, opening_;
};

}  // namespace perilune
