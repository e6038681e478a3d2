// TLS: a SecureStream by OpenSSL 3.
//
// Purpose:   certificates and rules, and one connection's state.
// Threads:   as those of net/secure_stream.h.
// Ownership: the same.
#pragma once

#include <memory>
#include <string>

#include "net/secure_stream.h"

struct ssl_st;
struct ssl_ctx_st;

namespace perilune {

// What config.lua and scripts say. Paths are files in PEM form.
struct TlsOptions {
    std::string certificate;  // a chain, the server's own first; a client needs none
    std::string key;          // of the certificate
    std::string ca;           // whom to trust; empty: whom the system trusts
    bool verify = true;       // a client refuses a server that it can't verify
    std::string server_name;  // whom the certificate must name; empty: the host connected to
};

class TlsContext final : public SecureContext {
  public:
    // Errors: invalid (a file can't be read or used; the message names it).
    static Result<std::shared_ptr<const SecureContext>> server(const TlsOptions& options);
    static Result<std::shared_ptr<const SecureContext>> client(const TlsOptions& options);
    ~TlsContext() override;

    std::unique_ptr<SecureStream> open(const std::string& host, Random& random) const override;
    Result<std::shared_ptr<const SecureContext>> reload() const override;

  private:
    friend class TlsStream;
    TlsContext(ssl_ctx_st* context, const TlsOptions& options, bool is_server)
        : context_(context), options_(options), is_server_(is_server) {}

    ssl_ctx_st* const context_;
    const TlsOptions options_;
    const bool is_server_;
};

class TlsStream final : public SecureStream {
  public:
    TlsStream(std::shared_ptr<const TlsContext> context, const std::string& host);
    ~TlsStream() override;

    Outcome handshake() override;
    Plain read(char* to, std::size_t size) override;
    bool write(std::string_view plain_text) override;
    void shut_down() override;

  private:
    friend struct TlsBio;
    Outcome outcome_of(int result);

    const std::shared_ptr<const TlsContext> context_;
    ssl_st* ssl_ = nullptr;
    bool shut_down_ = false;
};

}  // namespace perilune
