// TLS: what a connection needs to be private, by OpenSSL 3.
//
// Purpose:   TlsContext holds certificates and rules, TlsStream one connection's state. Bytes
//            go in and out by memory: sockets are the transport's.
// Threads:   contexts are constant once made, and shared; a stream is guarded by its
//            connection's mutex.
// Ownership: a stream keeps its context alive, so that certificates can be replaced while
//            connections go on with the old ones.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "net/send_queue.h"
#include "perilune/status.h"

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

class TlsContext {
  public:
    // Errors: invalid (a file can't be read or used; the message names it).
    static Result<std::shared_ptr<TlsContext>> server(const TlsOptions& options);
    static Result<std::shared_ptr<TlsContext>> client(const TlsOptions& options);
    ~TlsContext();
    TlsContext(const TlsContext&) = delete;
    TlsContext& operator=(const TlsContext&) = delete;

    const TlsOptions& options() const { return options_; }
    bool is_server() const { return is_server_; }

  private:
    friend class TlsStream;
    TlsContext(ssl_ctx_st* context, const TlsOptions& options, bool is_server)
        : context_(context), options_(options), is_server_(is_server) {}

    ssl_ctx_st* const context_;
    const TlsOptions options_;
    const bool is_server_;
};

class TlsStream {
  public:
    enum class Outcome {
        ok,      // bytes were taken or given
        dry,     // more has to come from the peer
        ended,   // the peer has said that nothing more comes
        failed,  // error() says why; nothing works any more
    };
    // The plain text of one read of `size` bytes may be so much larger, as the rest of a record
    // that began earlier.
    static constexpr std::size_t kReadAhead = 17 * 1024;

    // `host` is whom a client has connected to.
    TlsStream(std::shared_ptr<const TlsContext> context, const std::string& host);
    ~TlsStream();
    TlsStream(const TlsStream&) = delete;
    TlsStream& operator=(const TlsStream&) = delete;

    // What has come from the peer; valid until all of it has been taken, by handshake() or read().
    void feed(std::string_view cipher_text) { input_ = cipher_text; }
    // ok: both sides have agreed. Puts into out() what the peer must get.
    Outcome handshake();
    bool established() const { return established_; }

    struct Plain {
        std::size_t count;  // bytes
        Outcome then;       // why there are no more: dry, ended or failed; ok: `size` was reached
    };
    // Decrypts what was fed into `to`.
    Plain read(char* to, std::size_t size);
    // Encrypts into out(). False: it has failed.
    bool write(std::string_view plain_text);
    // Tells the peer that nothing more comes. Once.
    void shut_down();
    bool is_shut_down() const { return shut_down_; }

    // What has to be sent to the peer, encrypted.
    SendQueue& out() { return out_; }
    const std::string& error() const { return error_; }

  private:
    friend struct TlsBio;
    Outcome outcome_of(int result);

    const std::shared_ptr<const TlsContext> context_;
    ssl_st* ssl_ = nullptr;
    bool established_ = false;
    bool shut_down_ = false;
    std::string_view input_;
    SendQueue out_;
    std::string error_;
};

}  // namespace perilune
