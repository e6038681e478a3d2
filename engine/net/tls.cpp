#include "net/tls.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace perilune {

namespace {

// The oldest error of OpenSSL on this thread, and forgets the rest.
std::string take_error() {
    const unsigned long code = ERR_get_error();
    ERR_clear_error();
    if (code == 0) return "broken off";
    const char* text = ERR_reason_error_string(code);
    return text == nullptr ? "error " + std::to_string(code) : text;
}

Status file_error(const char* what, const std::string& file) {
    return Status::error(StatusCode::invalid, "tls: %s \"%s\": %s", what, file.c_str(),
                         take_error().c_str());
}

bool is_address(const std::string& host) {
    unsigned char bytes[16];
    return inet_pton(AF_INET, host.c_str(), bytes) == 1 ||
           inet_pton(AF_INET6, host.c_str(), bytes) == 1;
}

// TLS 1.2 with forward secrecy, or 1.3; no renegotiation; memory is given back between records.
void set_rules(SSL_CTX* context) {
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20");
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_AUTO_RETRY |
                                  SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

Status use_certificate(SSL_CTX* context, const TlsOptions& options) {
    if (SSL_CTX_use_certificate_chain_file(context, options.certificate.c_str()) != 1) {
        return file_error("certificate", options.certificate);
    }
    if (SSL_CTX_use_PrivateKey_file(context, options.key.c_str(), SSL_FILETYPE_PEM) != 1) {
        return file_error("key", options.key);
    }
    if (SSL_CTX_check_private_key(context) != 1) {
        return file_error("key that is not the certificate's", options.key);
    }
    return {};
}

Status use_authorities(SSL_CTX* context, const TlsOptions& options) {
    if (options.ca.empty()) {
        SSL_CTX_set_default_verify_paths(context);
    } else if (SSL_CTX_load_verify_locations(context, options.ca.c_str(), nullptr) != 1) {
        return file_error("ca", options.ca);
    }
    return {};
}

}  // namespace

// A BIO that reads a stream's input and writes to its queue: no copies in between.
struct TlsBio {
    static TlsStream& stream(BIO* bio) { return *static_cast<TlsStream*>(BIO_get_data(bio)); }

    static int read(BIO* bio, char* to, int size) {
        BIO_clear_retry_flags(bio);
        std::string_view& input = stream(bio).input_;
        if (input.empty()) {
            BIO_set_retry_read(bio);
            return -1;
        }
        const std::size_t count = std::min(input.size(), static_cast<std::size_t>(size));
        std::memcpy(to, input.data(), count);
        input.remove_prefix(count);
        return static_cast<int>(count);
    }
    static int write(BIO* bio, const char* bytes, int size) {
        BIO_clear_retry_flags(bio);
        stream(bio).out_.append({bytes, static_cast<std::size_t>(size)});
        return size;
    }
    static long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH; }
    static int create(BIO* bio) {
        BIO_set_init(bio, 1);
        return 1;
    }

    static BIO* make(TlsStream* stream) {
        static BIO_METHOD* const method = [] {
            BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "perilune");
            if (made == nullptr) throw std::bad_alloc();
            BIO_meth_set_read(made, read);
            BIO_meth_set_write(made, write);
            BIO_meth_set_ctrl(made, control);
            BIO_meth_set_create(made, create);
            return made;
        }();
        BIO* bio = BIO_new(method);
        if (bio == nullptr) throw std::bad_alloc();
        BIO_set_data(bio, stream);
        return bio;
    }
};

// --- contexts ---

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

Result<std::shared_ptr<const SecureContext>> TlsContext::server(const TlsOptions& options) {
    if (options.certificate.empty() || options.key.empty()) {
        return Status::error(StatusCode::invalid,
                             "tls: a server needs \"certificate\" and \"key\"");
    }
    SSL_CTX* context = SSL_CTX_new(TLS_server_method());
    if (context == nullptr) throw std::bad_alloc();
    std::shared_ptr<TlsContext> made(new TlsContext(context, options, true));
    set_rules(context);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);  // tickets do, without memory
    if (const Status used = use_certificate(context, options); !used.ok()) return used;
    return std::shared_ptr<const SecureContext>(std::move(made));
}

Result<std::shared_ptr<const SecureContext>> TlsContext::client(const TlsOptions& options) {
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    if (context == nullptr) throw std::bad_alloc();
    std::shared_ptr<TlsContext> made(new TlsContext(context, options, false));
    set_rules(context);
    SSL_CTX_set_verify(context, options.verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
    if (options.verify) {
        if (const Status used = use_authorities(context, options); !used.ok()) return used;
    }
    if (!options.certificate.empty()) {
        if (const Status used = use_certificate(context, options); !used.ok()) return used;
    }
    return std::shared_ptr<const SecureContext>(std::move(made));
}

std::unique_ptr<SecureStream> TlsContext::open(const std::string& host, Random&) const {
    return std::make_unique<TlsStream>(
        std::static_pointer_cast<const TlsContext>(shared_from_this()), host);
}

Result<std::shared_ptr<const SecureContext>> TlsContext::reload() const {
    return is_server_ ? server(options_) : client(options_);
}

// --- streams ---

TlsStream::TlsStream(std::shared_ptr<const TlsContext> context, const std::string& host)
    : SecureStream(SecureKind::tls),
      context_(std::move(context)),
      ssl_(SSL_new(context_->context_)) {
    if (ssl_ == nullptr) throw std::bad_alloc();
    BIO* bio = TlsBio::make(this);
    SSL_set_bio(ssl_, bio, bio);
    if (context_->is_server_) {
        SSL_set_accept_state(ssl_);
        return;
    }
    SSL_set_connect_state(ssl_);
    const std::string& wanted = context_->options_.server_name;
    const std::string& name = wanted.empty() ? host : wanted;
    if (is_address(name)) {
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl_), name.c_str());
    } else if (!name.empty()) {
        SSL_set_tlsext_host_name(ssl_, name.c_str());
        SSL_set1_host(ssl_, name.c_str());
    }
}

TlsStream::~TlsStream() { SSL_free(ssl_); }

TlsStream::Outcome TlsStream::outcome_of(int result) {
    switch (SSL_get_error(ssl_, result)) {
        case SSL_ERROR_WANT_READ: return Outcome::dry;
        case SSL_ERROR_ZERO_RETURN: return Outcome::ended;
        default: break;
    }
    const long verified = SSL_get_verify_result(ssl_);
    error_ = take_error();
    if (verified != X509_V_OK && context_->options_.verify && !context_->is_server_) {
        error_ = X509_verify_cert_error_string(verified);
    }
    return Outcome::failed;
}

TlsStream::Outcome TlsStream::handshake() {
    ERR_clear_error();
    const int result = SSL_do_handshake(ssl_);
    if (result != 1) return outcome_of(result);
    established_ = true;
    return Outcome::ok;
}

TlsStream::Plain TlsStream::read(char* to, std::size_t size) {
    std::size_t count = 0;
    while (count < size) {
        ERR_clear_error();
        std::size_t part = 0;
        const int result = SSL_read_ex(ssl_, to + count, size - count, &part);
        count += part;
        if (result != 1) return {count, outcome_of(result)};
    }
    return {count, Outcome::ok};
}

bool TlsStream::write(std::string_view plain_text) {
    while (!plain_text.empty()) {
        ERR_clear_error();
        std::size_t part = 0;
        const int result = SSL_write_ex(ssl_, plain_text.data(), plain_text.size(), &part);
        if (result != 1) {
            (void)outcome_of(result);
            return false;
        }
        plain_text.remove_prefix(part);
    }
    return true;
}

void TlsStream::shut_down() {
    if (shut_down_) return;
    shut_down_ = true;
    ERR_clear_error();
    if (established_) (void)SSL_shutdown(ssl_);
    ERR_clear_error();
}

}  // namespace perilune
