// WebSocket: frames of RFC 6455, after the handshake.
//
// Purpose:   cuts messages out of what arrives, in pieces of any size, and puts headers before
//            what is sent. The handshake is HTTP and lualib/perilune/websocket.lua's.
// Threads:   a decoder belongs to the thread that polls; the functions are pure.
// Ownership: a decoder keeps what has arrived of a message, and nothing ahead of it.
//
// Why not wslay, which the reading side was meant to use: its frame reader takes up to 4 KB
// ahead of the frame into itself, so that what follows couldn't be left with the connection
// when its owner has no room; that is 4 KB a connection; and a length is known to its caller
// only when a byte of the body has come, so it couldn't be refused from the header alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/buffer.h"
#include "core/utf8.h"
#include "net/framing.h"

namespace perilune {

enum class WebSocketRole : std::uint8_t { server, client };

enum class WebSocketOpcode : std::uint8_t {
    continuation = 0,
    text = 1,
    binary = 2,
    close = 8,
    ping = 9,
    pong = 10,
};

// Why a connection ends; RFC 6455, section 7.4.1.
struct WebSocketCode {
    static constexpr std::uint16_t kNormal = 1000;
    static constexpr std::uint16_t kGoingAway = 1001;
    static constexpr std::uint16_t kProtocolError = 1002;
    static constexpr std::uint16_t kUnsupported = 1003;
    static constexpr std::uint16_t kNone = 1005;  // never sent: the close frame had none
    static constexpr std::uint16_t kInvalidText = 1007;
    static constexpr std::uint16_t kTooLarge = 1009;
    // Whether a close frame may carry it.
    static bool may_be_sent(std::uint16_t code);
};

class WebSocketDecoder {
  public:
    enum class Outcome : std::uint8_t {
        binary,        // a whole message; `frame` is set
        text,          // the same, and UTF-8
        ping,          // `frame` is what the pong must carry
        pong,          // `frame` is what the ping carried
        close,         // the peer's last frame: close_code(), and `frame` is the reason
        more,          // `input` is used up
        malformed,     // against the protocol: 1002
        invalid_text,  // not UTF-8: 1007
        too_large,     // over the limit, refused from the header alone: 1009
    };

    explicit WebSocketDecoder(WebSocketRole role) : role_(role) {}
    WebSocketRole role() const { return role_; }

    // Takes the next message or control frame from the front of `input` and moves `input`
    // behind it. `max_message` limits a message, all its fragments together, and may change
    // between calls. frame.bytes is valid until the next call of any decoder on this thread.
    // After an error or a close the stream is of no use.
    Outcome next(std::string_view& input, std::size_t max_message, Frame& frame);

    std::uint16_t close_code() const { return close_code_; }

  private:
    static constexpr std::size_t kMaxHeader = 14;
    static constexpr std::size_t kMaxControl = 125;
    static constexpr std::size_t kSmall = 1024;  // unmasked on the stack of the thread

    bool take_header(std::string_view& input);
    std::size_t header_size() const;
    Outcome check_header(std::size_t max_message);
    bool take_whole(std::string_view& input, Frame& frame);
    void take_body(std::string_view& input);
    Outcome finish_frame(Frame& frame);
    Outcome finish_control(Frame& frame);
    bool check_text(std::string_view bytes, bool last);
    void unmask(char* bytes, std::size_t size) const;
    void append(std::string_view bytes);

    const WebSocketRole role_;
    bool in_body_ = false;
    bool final_ = false;
    bool valid_ = true;  // the text so far
    WebSocketOpcode opcode_ = WebSocketOpcode::continuation;
    WebSocketOpcode message_opcode_ = WebSocketOpcode::continuation;  // no message under way
    std::uint8_t header_bytes_ = 0;
    std::uint8_t control_bytes_ = 0;
    std::uint16_t close_code_ = WebSocketCode::kNone;
    std::array<char, kMaxHeader> header_{};
    std::array<char, 4> mask_{};
    std::array<char, kMaxControl> control_{};
    std::uint64_t length_ = 0;  // of the body of this frame
    std::uint64_t taken_ = 0;   // of it
    std::uint64_t limit_ = 0;   // of the message
    BufferRef message_;         // what has come of it
    Utf8Check utf8_;
};

inline constexpr std::size_t kMaxWebSocketHeader = 14;

// Writes the header of an unfragmented frame and returns its length. A client's carries `mask`,
// by which its body must be masked; a server's carries none (null).
std::size_t write_websocket_header(WebSocketOpcode opcode, std::size_t size, const char* mask,
                                   char* header);

// `bytes` xor the mask of 4 bytes, which begins anew at `offset` 0.
void mask_websocket(char* bytes, std::size_t size, const char* mask, std::size_t offset = 0);

// A server's whole frame, for one or for many receivers.
BufferRef encode_websocket(WebSocketOpcode opcode, std::string_view body);

}  // namespace perilune
