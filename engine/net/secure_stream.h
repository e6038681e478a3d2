// SecureStream: what makes a connection private, between its queue and its socket.
//
// Purpose:   one interface for TLS (net/tls.h) and the encryption of our own (net/encryption.h).
//            A SecureContext holds keys and rules, a SecureStream one connection's state. Bytes
//            go in and out by memory: sockets are the transport's.
// Threads:   contexts are constant once made, and shared; a stream is guarded by its
//            connection's mutex.
// Ownership: a stream keeps its context alive, so that keys can be replaced while connections go
//            on with the old ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/random.h"
#include "net/send_queue.h"
#include "perilune/status.h"

namespace perilune {

enum class SecureKind : std::uint8_t { tls, encryption };

class SecureStream {
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

    virtual ~SecureStream() = default;
    SecureStream(const SecureStream&) = delete;
    SecureStream& operator=(const SecureStream&) = delete;

    SecureKind kind() const { return kind_; }
    // What has come from the peer; valid until all of it has been taken, by handshake() or read().
    void feed(std::string_view cipher_text) { input_ = cipher_text; }
    // ok: both sides have agreed. Puts into out() what the peer must get.
    virtual Outcome handshake() = 0;
    bool established() const { return established_; }

    struct Plain {
        std::size_t count;  // bytes
        Outcome then;       // why there are no more: dry, ended or failed; ok: `size` was reached
    };
    // Decrypts what was fed into `to`.
    virtual Plain read(char* to, std::size_t size) = 0;
    // Encrypts into out(). False: it has failed.
    virtual bool write(std::string_view plain_text) = 0;
    // Tells the peer that nothing more comes, if there is a way to.
    virtual void shut_down() = 0;

    // What has to be sent to the peer, encrypted.
    SendQueue& out() { return out_; }
    const std::string& error() const { return error_; }

  protected:
    explicit SecureStream(SecureKind kind) : kind_(kind) {}

    const SecureKind kind_;
    bool established_ = false;
    std::string_view input_;
    SendQueue out_;
    std::string error_;
};

class SecureContext : public std::enable_shared_from_this<SecureContext> {
  public:
    virtual ~SecureContext() = default;
    SecureContext(const SecureContext&) = delete;
    SecureContext& operator=(const SecureContext&) = delete;

    // For a new connection; `host` is whom a client has connected to.
    virtual std::unique_ptr<SecureStream> open(const std::string& host, Random& random) const = 0;
    // The same with its files read again. Errors: invalid (a file can't be used).
    virtual Result<std::shared_ptr<const SecureContext>> reload() const = 0;

  protected:
    SecureContext() = default;
};

}  // namespace perilune
