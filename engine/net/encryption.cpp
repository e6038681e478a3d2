#include "net/encryption.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <optional>

namespace perilune {

namespace {

constexpr std::string_view kMagic{"PLE\x01", 4};
constexpr std::string_view kInfo = "perilune encryption 1";
constexpr std::size_t kKeySize = sizeof(EncryptionKey);
constexpr std::size_t kProofAt = kServerHelloSize - kKeySize;  // the end of a server's hello

// Fetched once: looking an algorithm up takes longer than a record.
EVP_CIPHER* record_cipher() {
    static EVP_CIPHER* const cipher = EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr);
    return cipher;
}

EVP_KDF* key_derivation() {
    static EVP_KDF* const derivation = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
    return derivation;
}

Status check_algorithms() {
    const KeyPair probe(
        EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, EncryptionKey{1}.data(), kKeySize));
    ERR_clear_error();
    if (probe != nullptr && record_cipher() != nullptr && key_derivation() != nullptr) return {};
    return Status::error(StatusCode::unavailable,
                         "encryption: OpenSSL lacks X25519, ChaCha20-Poly1305 or HKDF here");
}

unsigned char* bytes_of(char* data) { return reinterpret_cast<unsigned char*>(data); }
const unsigned char* bytes_of(const char* data) {
    return reinterpret_cast<const unsigned char*>(data);
}

std::string_view text_of(const EncryptionKey& key) {
    return {reinterpret_cast<const char*>(key.data()), key.size()};
}

EncryptionKey key_at(std::string_view bytes, std::size_t at) {
    EncryptionKey key;
    std::memcpy(key.data(), bytes.data() + at, kKeySize);
    return key;
}

bool is_none(const EncryptionKey& key) { return key == EncryptionKey{}; }

KeyPair make_key_pair(Random& random) {
    EncryptionKey secret;
    random.fill(secret.data(), secret.size());
    KeyPair pair(
        EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, secret.data(), secret.size()));
    OPENSSL_cleanse(secret.data(), secret.size());
    if (pair == nullptr) throw std::bad_alloc();
    return pair;
}

EncryptionKey public_key_of(const KeyPair& pair) {
    EncryptionKey key;
    std::size_t size = key.size();
    if (EVP_PKEY_get_raw_public_key(pair.get(), key.data(), &size) != 1) throw std::bad_alloc();
    return key;
}

std::string frame_of(std::string_view body) {
    char header[kMaxFrameHeader];
    std::string frame(header, write_frame_header(FramingKind::packet, body.size(), header));
    frame += body;
    return frame;
}

// --- keys ---

// What X25519 gave; wiped at the end.
class Secrets {
  public:
    Secrets() = default;
    ~Secrets() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }
    Secrets(const Secrets&) = delete;
    Secrets& operator=(const Secrets&) = delete;

    // False: the peer's key gives zeros with any key, or it can't be one.
    bool add(const KeyPair& own, const EncryptionKey& peer) {
        const KeyPair other(
            EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, peer.data(), peer.size()));
        EVP_PKEY_CTX* context = EVP_PKEY_CTX_new(own.get(), nullptr);
        std::size_t size = kKeySize;
        unsigned char* const to = bytes_.data() + size_;
        const bool derived = other != nullptr && EVP_PKEY_derive_init(context) == 1 &&
                             EVP_PKEY_derive_set_peer(context, other.get()) == 1 &&
                             EVP_PKEY_derive(context, to, &size) == 1;
        EVP_PKEY_CTX_free(context);
        ERR_clear_error();
        if (!derived || CRYPTO_memcmp(to, EncryptionKey{}.data(), kKeySize) == 0) return false;
        size_ += kKeySize;
        return true;
    }

    unsigned char* data() { return bytes_.data(); }
    std::size_t size() const { return size_; }

  private:
    std::array<unsigned char, 2 * kKeySize> bytes_{};
    std::size_t size_ = 0;
};

}  // namespace

struct SessionKeys {
    EncryptionKey client;  // of what the client sends
    EncryptionKey server;
    EncryptionKey proof;  // that the server has the secrets

    ~SessionKeys() { OPENSSL_cleanse(this, sizeof *this); }
};

namespace {

// `hellos`: all that was sent before the proof.
SessionKeys derive_keys(const std::string& hellos, Secrets& secrets) {
    static_assert(sizeof(SessionKeys) == 3 * kKeySize);
    std::string info(kInfo);
    std::string digest = "SHA256";
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secrets.data(), secrets.size()),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, const_cast<char*>(hellos.data()),
                                          hellos.size()),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
        OSSL_PARAM_construct_end()};
    EVP_KDF_CTX* context = EVP_KDF_CTX_new(key_derivation());
    SessionKeys keys;
    const int derived =
        EVP_KDF_derive(context, reinterpret_cast<unsigned char*>(&keys), sizeof keys, parameters);
    EVP_KDF_CTX_free(context);
    if (derived != 1) throw std::bad_alloc();
    return keys;
}

Result<KeyPair> read_key_file(const std::string& file) {
    if (file.empty()) return KeyPair();
    std::FILE* const stream = std::fopen(file.c_str(), "re");
    EVP_PKEY* read = nullptr;
    if (stream != nullptr) {
        read = PEM_read_PrivateKey(stream, nullptr, nullptr, const_cast<char*>(""));
        std::fclose(stream);
    }
    ERR_clear_error();
    KeyPair pair(read);
    if (pair == nullptr || EVP_PKEY_get_id(pair.get()) != EVP_PKEY_X25519) {
        return Status::error(StatusCode::invalid, "encryption: \"%s\" is no X25519 key in PEM form",
                             file.c_str());
    }
    return pair;
}

std::optional<EncryptionKey> parse_key(const std::string& text) {
    EncryptionKey key;
    std::size_t size = 0;
    if (text.size() != 2 * kKeySize ||
        OPENSSL_hexstr2buf_ex(key.data(), key.size(), &size, text.c_str(), '\0') != 1 ||
        size != kKeySize) {
        ERR_clear_error();
        return std::nullopt;
    }
    return key;
}

}  // namespace

void DeleteKeyPair::operator()(evp_pkey_st* pair) const { EVP_PKEY_free(pair); }

// --- records ---

RecordCipher::RecordCipher(Use use, const EncryptionKey& key, std::uint64_t number)
    : context_(EVP_CIPHER_CTX_new()), next_(number) {
    if (context_ == nullptr || EVP_CipherInit_ex2(context_, record_cipher(), key.data(), nullptr,
                                                  use == Use::seal ? 1 : 0, nullptr) != 1) {
        EVP_CIPHER_CTX_free(context_);
        throw std::bad_alloc();
    }
}

RecordCipher::~RecordCipher() { EVP_CIPHER_CTX_free(context_); }

// Sets the nonce of the next record, whose header is written and is authenticated too.
bool RecordCipher::begin(std::size_t sealed_size, char* header) {
    if (next_ >= kMaxRecords) return false;
    unsigned char nonce[12] = {};
    for (int i = 0; i < 8; ++i) nonce[4 + i] = static_cast<unsigned char>(next_ >> (8 * i));
    ++next_;
    write_frame_header(FramingKind::packet, sealed_size, header);
    int size = 0;
    return EVP_CipherInit_ex2(context_, nullptr, nullptr, nonce, -1, nullptr) == 1 &&
           EVP_CipherUpdate(context_, nullptr, &size, bytes_of(header), kRecordHeader) == 1;
}

bool RecordCipher::seal(std::string_view text, char* record) {
    unsigned char* const to = bytes_of(record + kRecordHeader);
    int size = 0;
    int rest = 0;
    return begin(text.size() + kRecordTag, record) &&
           EVP_CipherUpdate(context_, to, &size, bytes_of(text.data()),
                            static_cast<int>(text.size())) == 1 &&
           EVP_CipherFinal_ex(context_, to + size, &rest) == 1 &&
           EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_GET_TAG, kRecordTag, to + text.size()) == 1;
}

bool RecordCipher::open(std::string_view sealed, char* text) {
    if (sealed.size() <= kRecordTag) return false;
    const std::size_t text_size = sealed.size() - kRecordTag;
    char header[kRecordHeader];
    unsigned char tag[kRecordTag];
    std::memcpy(tag, sealed.data() + text_size, kRecordTag);
    int size = 0;
    int rest = 0;
    return begin(sealed.size(), header) &&
           EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_SET_TAG, kRecordTag, tag) == 1 &&
           EVP_CipherUpdate(context_, bytes_of(text), &size, bytes_of(sealed.data()),
                            static_cast<int>(text_size)) == 1 &&
           EVP_CipherFinal_ex(context_, bytes_of(text) + size, &rest) == 1;
}

// --- contexts ---

Result<std::shared_ptr<const EncryptionContext>> EncryptionContext::server(
    const EncryptionOptions& options) {
    if (const Status usable = check_algorithms(); !usable.ok()) return usable;
    Result<KeyPair> own = read_key_file(options.key_file);
    if (!own.ok()) return own.status();
    const EncryptionKey key = own.value() == nullptr ? EncryptionKey{} : public_key_of(own.value());
    return std::shared_ptr<const EncryptionContext>(
        new EncryptionContext(options, true, std::move(own.value()), key));
}

Result<std::shared_ptr<const EncryptionContext>> EncryptionContext::client(
    const EncryptionOptions& options) {
    if (const Status usable = check_algorithms(); !usable.ok()) return usable;
    EncryptionKey key{};
    if (!options.server_key.empty()) {
        const std::optional<EncryptionKey> parsed = parse_key(options.server_key);
        if (!parsed || is_none(*parsed)) {
            return Status::error(StatusCode::invalid,
                                 "encryption: \"%s\" is no key of a server: 64 hexadecimal digits",
                                 options.server_key.c_str());
        }
        key = *parsed;
    }
    return std::shared_ptr<const EncryptionContext>(
        new EncryptionContext(options, false, nullptr, key));
}

std::unique_ptr<SecureStream> EncryptionContext::open(const std::string&, Random& random) const {
    return std::make_unique<EncryptedStream>(
        std::static_pointer_cast<const EncryptionContext>(shared_from_this()), random);
}

Result<std::shared_ptr<const SecureContext>> EncryptionContext::reload() const {
    const auto made = is_server_ ? server(options_) : client(options_);
    if (!made.ok()) return made.status();
    return std::shared_ptr<const SecureContext>(made.value());
}

std::string EncryptionContext::public_key() const {
    if (is_none(server_key_)) return "";
    std::string text;
    for (const unsigned char byte : server_key_) {
        constexpr char kDigits[] = "0123456789abcdef";
        text += kDigits[byte >> 4];
        text += kDigits[byte & 15];
    }
    return text;
}

// --- streams ---

EncryptedStream::EncryptedStream(std::shared_ptr<const EncryptionContext> context, Random& random)
    : SecureStream(SecureKind::encryption), context_(std::move(context)), random_(random) {
    if (context_->is_server_) return;
    ephemeral_ = make_key_pair(random_);
    client_hello_ = frame_of(std::string(kMagic) += text_of(public_key_of(ephemeral_)));
    out_.append(client_hello_);
}

SecureStream::Outcome EncryptedStream::fail(const char* why) {
    error_ = why;
    return Outcome::failed;
}

SecureStream::Outcome EncryptedStream::handshake() {
    const std::size_t expected = context_->is_server_ ? kClientHelloSize : kServerHelloSize;
    Frame frame;
    switch (decoder_.next(input_, expected, frame)) {
        case FrameDecoder::Outcome::more: return Outcome::dry;
        case FrameDecoder::Outcome::frame: break;
        default: return fail("what came is no hello");
    }
    if (frame.bytes.size() != expected || !frame.bytes.starts_with(kMagic)) {
        return fail("what came is no hello");
    }
    return context_->is_server_ ? answer_client(frame.bytes) : check_server(frame.bytes);
}

SecureStream::Outcome EncryptedStream::answer_client(std::string_view hello) {
    const EncryptionKey client_key = key_at(hello, kMagic.size());
    const KeyPair ephemeral = make_key_pair(random_);
    Secrets secrets;
    if (!secrets.add(ephemeral, client_key) ||
        (context_->own_ != nullptr && !secrets.add(context_->own_, client_key))) {
        return fail("the client's key is a weak one");
    }
    std::string answer(kMagic);
    answer += text_of(public_key_of(ephemeral));
    answer += text_of(context_->server_key_);
    answer.resize(kServerHelloSize);
    answer = frame_of(answer);
    answer.resize(answer.size() - kKeySize);
    const SessionKeys keys = derive_keys(frame_of(hello) + answer, secrets);
    answer += text_of(keys.proof);
    out_.append(answer);
    begin_records(keys);
    return Outcome::ok;
}

SecureStream::Outcome EncryptedStream::check_server(std::string_view hello) {
    const EncryptionKey server_key = key_at(hello, kMagic.size() + kKeySize);
    if (!is_none(context_->server_key_) && server_key != context_->server_key_) {
        return fail(is_none(server_key) ? "the server has no key of its own"
                                        : "the server has another key");
    }
    Secrets secrets;
    if (!secrets.add(ephemeral_, key_at(hello, kMagic.size())) ||
        (!is_none(server_key) && !secrets.add(ephemeral_, server_key))) {
        return fail("the server's key is a weak one");
    }
    const std::string answer = frame_of(hello);
    const SessionKeys keys =
        derive_keys(client_hello_ + answer.substr(0, answer.size() - kKeySize), secrets);
    if (CRYPTO_memcmp(keys.proof.data(), hello.data() + kProofAt, kKeySize) != 0) {
        return fail("the server doesn't have the key that it names, or the hellos were changed");
    }
    begin_records(keys);
    return Outcome::ok;
}

void EncryptedStream::begin_records(const SessionKeys& keys) {
    const bool is_server = context_->is_server_;
    sealing_ = std::make_unique<RecordCipher>(RecordCipher::Use::seal,
                                              is_server ? keys.server : keys.client);
    opening_ = std::make_unique<RecordCipher>(RecordCipher::Use::open,
                                              is_server ? keys.client : keys.server);
    ephemeral_.reset();
    client_hello_ = {};
    established_ = true;
}

SecureStream::Plain EncryptedStream::read(char* to, std::size_t size) {
    std::size_t count = 0;
    while (size - count >= kMaxRecordText) {
        Frame frame;
        switch (decoder_.next(input_, kMaxRecordText + kRecordTag, frame)) {
            case FrameDecoder::Outcome::more: return {count, Outcome::dry};
            case FrameDecoder::Outcome::frame: break;
            default: return {count, fail("what came is no record")};
        }
        if (!opening_->open(frame.bytes, to + count)) {
            return {count, fail("a record was changed, left out, repeated or moved")};
        }
        count += frame.bytes.size() - kRecordTag;
    }
    return {count, Outcome::ok};
}

bool EncryptedStream::write(std::string_view plain_text) {
    char record[kRecordHeader + kMaxRecordText + kRecordTag];
    while (!plain_text.empty()) {
        const std::string_view text = plain_text.substr(0, kMaxRecordText);
        if (!sealing_->seal(text, record)) {
            error_ = "no more records may be sent";
            return false;
        }
        out_.append({record, kRecordHeader + text.size() + kRecordTag});
        plain_text.remove_prefix(text.size());
    }
    return true;
}

}  // namespace perilune
